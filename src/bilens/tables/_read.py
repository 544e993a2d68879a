"""Asking the tables of a run: in SQL, which can read them and nothing else, and by a few questions in Python."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from bilens._internal import checks, files
from bilens._internal.checks import instance, number, whole
from bilens.errors import BilensError, StoreError
from bilens.tables._schema import TABLES, arrow, duck, schema

LOCKED = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "lock_configuration": True,
}
"""Settings of the connection, in this order: SQL reads no file, no network and no variable of Python."""


MEMORY = 2**26
"""Bytes of a table's files up to which it is read into memory: many small files take ten times as long to look into."""


class Run:
    """The tables of a run, read only; made by `tables.open`. The next call sees batches that are written meanwhile.

    Every answer is a `pyarrow.Table`: `.to_pandas()`, `.to_pylist()`, or `polars.from_arrow(…)`.

    Args:
        path: the run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listed: dict[str, list[tuple[str, int, int]]] = {}
        self._connection: Any = None
        self._rows_of: dict[str, Any] = {}
        self._held: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        """For example "Run('runs/smol': features 12 files, eigenpairs 12 files)"."""
        counted = ", ".join(f"{name} {len(found)} files" for name, found in self._files().items() if found)
        return f"Run({str(self.path)!r}: {counted or 'empty'})"

    def query(self, sql: str, parameters: list[Any] | None = None) -> Any:
        """The answer to one SELECT over the tables features, eigenpairs, interactions, examples and audit.

        Args:
            sql: the question; parameters: values for its question marks.

        Raises:
            BilensError: not one SELECT, or SQL that duckdb refuses. StoreError: a damaged file.
        """
        instance("sql", sql, str, "a text")
        if parameters is not None:
            instance("parameters", parameters, list, "a list of values")
        duckdb = duck()
        try:
            connection = self._connected(sql)
            statements = connection.extract_statements(sql)
            kinds = [statement.type.name for statement in statements]
            if kinds != ["SELECT"]:
                got = "no statement" if not kinds else " and ".join(kinds[:3])
                raise BilensError(f"{got} in SQL", "one SELECT, since a run is only read")
            return connection.sql(sql, params=parameters or []).to_arrow_table()
        except (duckdb.Error, RuntimeError, OSError, arrow().ArrowException) as error:
            self._refuse_damaged()
            told = " ".join(str(error).split("\n\n")[0].split("\nLINE")[0].split())
            raise BilensError(f"SQL that is refused ({told:.300})", f"one SELECT over {', '.join(TABLES)}") from error

    def features(
        self,
        *,
        layer: int | None = None,
        set: str | None = None,
        label: str | None = None,
        control: bool | None = None,
        limit: int | None = None,
    ) -> Any:
        """Rows of the table `features`, by layer, set and number.

        Args:
            layer, set, control: those of these alone; label: those whose label has this text in it.
            limit: how many at most.
        """
        conditions = {"layer = ?": layer, '"set" = ?': set, "control = ?": control, "contains(label, ?)": label}
        return self._rows("features", conditions, 'layer, "set", feature', limit)

    def eigenpairs(self, *, layer: int, set: str, feature: int) -> Any:
        """Rows of the table `eigenpairs` of one feature, in order."""
        return self._rows("eigenpairs", {"layer = ?": layer, '"set" = ?': set, "feature = ?": feature}, "pair", None)

    def interactions(
        self,
        *,
        output: str | int | None = None,
        layer: int | None = None,
        set: str | None = None,
        inputs: str | None = None,
        min_share: float = 0.0,
        limit: int | None = None,
    ) -> Any:
        """Rows of the table `interactions`, the largest share first.

        Args:
            output: the label of an output feature, or its number; min_share: those that hold at least this much.
            layer, set, inputs: those of these alone; limit: how many at most.

        Raises:
            BilensError: a share outside 0 … 1.
        """
        least = number("min_share", min_share, 0, 1)
        by = "feature = ?" if output is not None and not isinstance(output, str) else "label = ?"
        conditions: dict[str, Any] = {"layer = ?": layer, '"set" = ?': set, "inputs = ?": inputs, by: output}
        conditions["share >= ?"] = least or None
        return self._rows("interactions", conditions, 'share DESC, layer, "set", feature, rank', limit)

    def examples(self, *, layer: int, set: str, feature: int, kind: str | None = None) -> Any:
        """Rows of the table `examples` of one feature."""
        conditions = {"layer = ?": layer, '"set" = ?': set, "feature = ?": feature, "kind = ?": kind}
        return self._rows("examples", conditions, "kind, rank", None)

    def vectors(self, *, layer: int, set: str, feature: int) -> Tensor:
        """The vectors of one feature's eigenpairs, (k, i).

        Raises:
            BilensError: no such feature. StoreError: its file is missing or damaged.
        """
        conditions = {"layer = ?": layer, '"set" = ?': set, "feature = ?": feature}
        rows = self._rows("features", conditions, "feature", None).to_pylist()
        if not rows:
            raise BilensError(f"feature {feature} of set {set!r} in layer {layer}", "one of the table features")
        path = (self.path / rows[0]["file"]).resolve()
        if not path.is_relative_to(self.path.resolve()):
            raise StoreError(f"vectors in {rows[0]['file']!r:.80}", "a file in the run's folder")
        tensors, _ = files.read_tensors(path)
        if "vectors" not in tensors or not 0 <= rows[0]["row"] < len(tensors["vectors"]):
            raise StoreError(f"{path} without row {rows[0]['row']} of its vectors", "the file as it was written")
        return tensors["vectors"][rows[0]["row"]]

    def _rows(self, table: str, conditions: dict[str, Any], order: str, limit: int | None) -> Any:
        asked = {text: value for text, value in conditions.items() if value is not None}
        where = f" WHERE {' AND '.join(asked)}" if asked else ""
        some = "" if limit is None else f" LIMIT {whole('limit', limit, 0)}"
        return self.query(f"SELECT * FROM {table}{where} ORDER BY {order}{some}", list(asked.values()))

    def _files(self) -> dict[str, list[tuple[str, int, int]]]:
        """Of each table the files that are there now, with their times and sizes; links are left out."""
        found: dict[str, list[tuple[str, int, int]]] = {}
        for table in TABLES:
            folder = self.path / "tables" / table
            entries = os.scandir(folder) if folder.is_dir() else ()
            found[table] = sorted(
                (entry.path, entry.stat().st_mtime_ns, entry.stat().st_size)
                for entry in entries
                if entry.name.endswith(".parquet")
                and not entry.name.startswith(".")
                and entry.is_file(follow_symlinks=False)
            )
        return found

    def _connected(self, sql: str) -> Any:
        """A connection to the files that are there now; tables that the text names are in memory, where they fit."""
        found = self._files()
        if self._connection is None or found != self._listed:
            connection = duck().connect(":memory:")
            self._rows_of = {
                table: self._dataset(table, [path for path, _, _ in paths]) for table, paths in found.items()
            }
            for table, rows in self._rows_of.items():
                connection.register(table, rows)
            for setting, value in LOCKED.items():
                connection.execute(f"SET {setting} = {str(value).lower()}")
            self._connection, self._listed, self._held = connection, found, frozenset()
        for table, paths in found.items():
            size = sum(each[2] for each in paths)
            if table in sql.lower() and table not in self._held and 0 < size <= MEMORY:
                self._connection.register(table, self._rows_of[table].to_table())
                self._held |= {table}
        return self._connection

    def _dataset(self, table: str, paths: list[str]) -> Any:
        pa = arrow()
        if not paths:
            return schema(table).empty_table()
        return pa.dataset.dataset(paths, schema=schema(table), format="parquet")

    def _refuse_damaged(self) -> None:
        """Name a file that is damaged, if one is."""
        pa = arrow()
        for paths in self._files().values():
            for path, _, _ in paths:
                try:
                    pa.parquet.ParquetFile(path, page_checksum_verification=True).read()
                except (pa.ArrowException, OSError) as error:
                    raise StoreError(
                        f"{path}, which is damaged", "a whole file", "run the same command again"
                    ) from error


def open(path: str | Path) -> Run:
    """The tables of a run's folder, to be asked.

    Raises:
        StoreError: no such folder, or one without tables. BilensError: duckdb or pyarrow is not installed.
    """
    folder = checks.path("path", path)
    duck()
    arrow()
    if not (folder / "tables").is_dir():
        what = f"{folder}, which has no tables" if folder.is_dir() else f"{folder}, which is no folder"
        raise StoreError(what, "the folder of a run that wrote tables")
    return Run(folder)
