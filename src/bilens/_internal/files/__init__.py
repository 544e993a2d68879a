"""Reading and writing files: safetensors and JSON, replaced in one step; one clear line for a file that is wrong."""

from bilens._internal.files._folder import list_ours, require_listed
from bilens._internal.files._pair import read_pair, require_ours, write_pair
from bilens._internal.files._read import (
    checksum,
    file_checksum,
    read_bytes,
    read_json,
    read_sealed,
    read_tensors,
    unsealed,
)
from bilens._internal.files._replace import dangling, make_folder, refuse_below_file, replacing, replacing_all, settled
from bilens._internal.files._write import (
    create_json,
    sealed,
    write_bytes,
    write_json,
    write_sealed,
    write_tensors,
    write_text,
    write_together,
)

__all__ = [
    "checksum",
    "create_json",
    "dangling",
    "file_checksum",
    "list_ours",
    "make_folder",
    "read_bytes",
    "read_json",
    "read_pair",
    "read_sealed",
    "read_tensors",
    "refuse_below_file",
    "replacing",
    "replacing_all",
    "require_listed",
    "require_ours",
    "sealed",
    "settled",
    "unsealed",
    "write_bytes",
    "write_json",
    "write_pair",
    "write_sealed",
    "write_tensors",
    "write_text",
    "write_together",
]
