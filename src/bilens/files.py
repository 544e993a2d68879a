"""Files beside a run: JSON, safetensors and text, replaced in one step; one clear line for a file that is wrong."""

from bilens._internal.files import read_json, read_tensors, replacing, write_json, write_tensors, write_text

__all__ = ["read_json", "read_tensors", "replacing", "write_json", "write_tensors", "write_text"]
