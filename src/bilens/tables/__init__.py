"""What was read of many layers as Parquet tables in a run's folder, written batch by batch, and asked in SQL.

Needs the extra `bilens[tables]`: pyarrow writes the tables, duckdb asks them. `docs/tables.md` has their columns.
"""

from bilens.tables._read import Run, open  # `tables.open(path)` reads well, and a module's name is not the builtin
from bilens.tables._save import save_interactions, save_spectra
from bilens.tables._schema import FORMAT, TABLES, Column, needed
from bilens.tables._sizes import Sizes, estimate
from bilens.tables._write import Writer

__all__ = [
    "FORMAT",
    "TABLES",
    "Column",
    "Run",
    "Sizes",
    "Writer",
    "estimate",
    "needed",
    "open",
    "save_interactions",
    "save_spectra",
]
