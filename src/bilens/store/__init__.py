"""Saves and loads records: a safetensors file for the tensors, a JSON file for the rest, nothing pickled."""

from bilens.store._batches import Batches, DamagedBatchWarning, load_batches, save_batches
from bilens.store._folder import SETTINGS, Folder, read_record, read_records, read_summary, verify
from bilens.store._records import FORMAT, RECORDS, exists, load, register, save

__all__ = [
    "FORMAT",
    "RECORDS",
    "SETTINGS",
    "Batches",
    "DamagedBatchWarning",
    "Folder",
    "exists",
    "load",
    "load_batches",
    "read_record",
    "read_records",
    "read_summary",
    "register",
    "save",
    "save_batches",
    "verify",
]
