"""The columns of every table, with what each means; the pages and the files follow from this list."""

from __future__ import annotations

from typing import Any, NamedTuple

from bilens._internal.checks import choice
from bilens.errors import BilensError

FORMAT = 1
"""Version of the columns, in the metadata of every file."""


class Column(NamedTuple):
    """One column: its name, the type of its values as SQL names it, what it means, and whether it may be null."""

    name: str
    kind: str
    meaning: str
    optional: bool = False


_KEY = (
    Column("layer", "INTEGER", "number of the layer"),
    Column("set", "VARCHAR", 'which set of output directions, such as "sae", "unembedding" or "random"'),
    Column("feature", "INTEGER", "number of the feature in its set"),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "features": (
        *_KEY,
        Column("label", "VARCHAR", "its name: a token, or its number"),
        Column("control", "BOOLEAN", "whether the set is a null to compare with, such as random directions"),
        Column("metric", "VARCHAR", "checksum of the data's second moment that orders the pairs; empty for by |λ|"),
        Column("pairs", "INTEGER", "how many eigenpairs are stored"),
        Column("energy", "DOUBLE", "‖Q‖² = Σ λ² over all pairs of the kernel, in the metric", optional=True),
        Column("held", "DOUBLE", "share of the energy that the stored pairs hold", optional=True),
        Column("low", "DOUBLE", "no eigenvalue that is left out is below this"),
        Column("high", "DOUBLE", "no eigenvalue that is left out is above this"),
        Column("exact", "BOOLEAN", "whether all residuals met the tolerance and no pair was seen to be missing"),
        Column("file", "VARCHAR", "safetensors file in the run's folder, whose tensor `vectors` is (n, k, i)"),
        Column("row", "INTEGER", "row of that tensor"),
    ),
    "eigenpairs": (
        *_KEY,
        Column("pair", "INTEGER", "place of the pair, from 0; its vector is vectors[row, pair]"),
        Column("value", "DOUBLE", "λ"),
        Column("share", "DOUBLE", "λ² / energy", optional=True),
        Column("residual", "DOUBLE", "‖Qv − λv‖"),
    ),
    "interactions": (
        *_KEY,
        Column("label", "VARCHAR", "the output feature's name"),
        Column("inputs", "VARCHAR", "which set of input features"),
        Column("rank", "INTEGER", "place among the output's interactions, strongest first, from 0"),
        Column("first", "INTEGER", "number of one input feature"),
        Column("second", "INTEGER", "number of the other, not below the first"),
        Column("first_label", "VARCHAR", "its name; constant for the constant coordinate"),
        Column("second_label", "VARCHAR", "its name"),
        Column("coefficient", "DOUBLE", "c: the output gains c · z_first · z_second"),
        Column("share", "DOUBLE", "what the pair holds of ‖C‖²"),
        Column("energy", "DOUBLE", "‖C‖² of the output"),
        Column("left", "DOUBLE", "what all stored pairs of the output leave: |error| ≤ left · ‖z‖²"),
        Column("samples", "BIGINT", "samples of codes that the next four were counted on", optional=True),
        Column("together", "BIGINT", "in how many both features are active", optional=True),
        Column("expected", "DOUBLE", "in how many they would be if they were independent", optional=True),
        Column("product", "DOUBLE", "mean of z_first · z_second", optional=True),
        Column("square", "DOUBLE", "mean of its square", optional=True),
    ),
    "examples": (
        *_KEY,
        Column("kind", "VARCHAR", 'why it is here: "largest", "smallest" or "failed"'),
        Column("rank", "INTEGER", "place among those of its kind, from 0"),
        Column("document", "INTEGER", "number of the text"),
        Column("position", "INTEGER", "of the token in the text, from 0"),
        Column("value", "DOUBLE", "what the feature is there"),
        Column("predicted", "DOUBLE", "what the stored pairs say that it is", optional=True),
        Column("focus", "INTEGER", "which of the tokens it is"),
        Column("tokens", "VARCHAR[]", "the tokens around it, in order"),
        Column("values", "DOUBLE[]", "the feature at each of them"),
    ),
    "audit": (
        *_KEY,
        Column("pairs", "INTEGER", "how many of the first eigenpairs predict; 0 for the whole quadratic form"),
        Column("correlation", "DOUBLE", "of the true value with that prediction, over all tokens", optional=True),
        Column("correlation_active", "DOUBLE", "the same over the tokens where it is active", optional=True),
        Column("tokens", "BIGINT", "how many tokens"),
        Column("active", "BIGINT", "in how many it is active", optional=True),
    ),
}  # fmt: skip
"""The tables by name. A column that is optional may be null or left out when a batch is written."""


def columns(table: str) -> tuple[Column, ...]:
    """Of a table.

    Raises:
        BilensError: no such table.
    """
    choice("table", table, tuple(TABLES))
    return TABLES[table]


def arrow() -> Any:
    """The module pyarrow, with the parts that write and read Parquet.

    Raises:
        BilensError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.dataset
        import pyarrow.parquet
    except ImportError as error:
        raise BilensError("no pyarrow", "pyarrow, for tables", "install it by pip install 'bilens[tables]'") from error
    return pyarrow


def duck() -> Any:
    """The module duckdb.

    Raises:
        BilensError: it is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise BilensError("no duckdb", "duckdb, for SQL", "install it by pip install 'bilens[tables]'") from error
    return duckdb


def needed() -> None:
    """Refuse to begin what ends in tables that are asked.

    Raises:
        BilensError: pyarrow or duckdb is not installed.
    """
    arrow()
    duck()


def schema(table: str) -> Any:
    """The pyarrow schema of a table."""
    pa = arrow()
    kinds = {
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "VARCHAR": pa.string(),
        "VARCHAR[]": pa.list_(pa.string()),
        "DOUBLE[]": pa.list_(pa.float64()),
    }
    return pa.schema([pa.field(each.name, kinds[each.kind], nullable=each.optional) for each in columns(table)])
