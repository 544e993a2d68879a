"""Writing the tables of a run: one Parquet file for each batch, in one step, by as many processes as there are."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilens import store
from bilens._internal import checks, files
from bilens._internal.checks import instance, whole
from bilens.decompose import Coactivation, Spectra, StrongestInteractions
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.tables._schema import FORMAT, arrow, columns, schema

HEADER = b"bilens"
"""The entry of a Parquet file's metadata that says which batch it is, as JSON."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


class Writer:
    """Writes tables into a run's folder: `tables/NAME/LAYER-SET-BATCH.parquet`, and `vectors/…safetensors`.

    A batch is one file that appears whole or not at all, so that several processes can write at once, others can read
    meanwhile, and a kill or a full disk loses no batch that was finished. Writing a batch again replaces it.

    Args:
        path: the run's folder, new or of a run with the same settings; settings: what the run was asked for.

    Raises:
        BilensError: pyarrow is not installed. StoreError: the folder belongs to other settings or cannot be written.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        arrow()
        instance("settings", settings, Mapping, "a mapping of texts to JSON values")
        self.path = store.Folder(path, dict(settings)).path

    def write(
        self,
        table: str,
        content: Mapping[str, Sequence[Any]],
        *,
        layer: int,
        set: str,
        batch: int = 0,
        source: str = "",
    ) -> Path:
        """Write the rows of one batch.

        Args:
            table: its name; content: a list for each column, "layer" and "set" left out.
            layer, set, batch: which batch; source: what it was computed from, for `finished`.

        Raises:
            BilensError: an unknown table or column, a value of another type, or a null where none may be.
            ShapeError: columns of unequal length. StoreError: it cannot be written; the batch of before is still there.
        """
        instance("source", source, str, "a text")
        instance("content", content, Mapping, "a list for each column")
        pa, known = arrow(), columns(table)
        path = self._file(table, layer, set, batch)
        given: dict[str, Any] = {
            name: checks.several(str(name), values, "a list", "pass [value]") for name, values in content.items()
        }
        strange = given.keys() - {each.name for each in known} | given.keys() & {"layer", "set"}
        missing = {each.name for each in known if not each.optional} - given.keys() - {"layer", "set"}
        if strange or missing:
            which = f"{'an extra' if strange else 'no'} column {min(strange or missing)!r}"
            raise BilensError(f"{which} in {table}", f"{', '.join(each.name for each in known[2:])}")
        count = {len(values) for values in given.values()}
        if len(count) != 1:
            raise ShapeError(f"columns of {', '.join(map(str, sorted(count)))} rows in {table}", "as many rows in each")
        (rows,) = count
        given |= {"layer": [layer] * rows, "set": [set] * rows}
        arrays = []
        for each, field in zip(known, schema(table), strict=True):
            try:
                column = pa.array(given.get(each.name, [None] * rows), field.type)
            except (pa.ArrowException, OverflowError, UnicodeError) as error:
                raise BilensError(f"column {each.name} of {table} with {error!s:.80}", f"{each.kind}") from error
            if column.null_count and not each.optional:
                raise BilensError(f"column {each.name} of {table} with a null", f"{each.kind}")
            arrays.append(column)
        header = {"format": FORMAT, "table": table, "layer": layer, "set": set, "batch": batch, "source": source}
        metadata = {HEADER: json.dumps(header, ensure_ascii=False).encode()}
        made = pa.Table.from_arrays(arrays, schema=schema(table).with_metadata(metadata))
        with files.replacing(path) as temporary:
            pa.parquet.write_table(made, temporary, compression="zstd", write_page_checksum=True)
        return path

    def finished(self, table: str, *, layer: int, set: str, batch: int = 0, source: str = "") -> bool:
        """Whether a batch is there and whole: every page has its checksum. One that is damaged is to be written again.

        Raises:
            StoreError: the batch is there and of another source: other weights, or other settings of the stream.
        """
        instance("source", source, str, "a text")
        path = self._file(table, layer, set, batch)
        if not path.exists():
            return False
        pa = arrow()
        try:
            header = json.loads((pa.parquet.read_schema(path).metadata or {})[HEADER])
            pa.parquet.ParquetFile(path, page_checksum_verification=True).read()
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            text = " ".join(str(error).split())
            warnings.warn(f"{path}: damaged, and written again ({text:.120})", store.DamagedBatchWarning, stacklevel=2)
            return False
        if header.get("source") != source:
            raise StoreError(
                f"{path} of other weights or settings", "a batch of these", "name another folder, or delete the file"
            )
        return True

    def spectra(
        self,
        spectra: Spectra,
        *,
        layer: int,
        set: str,
        batch: int = 0,
        first: int = 0,
        energies: Tensor | None = None,
        control: bool = False,
        source: str = "",
    ) -> None:
        """The eigenpairs of some features: their vectors, then the rows of `eigenpairs`, then those of `features`.

        Args:
            spectra: the pairs; energies: ‖Q‖² of each kernel, from `decompose.squared_norms` in the same metric.
            layer, set, batch, source: as `write`; first: number of the first feature; control: whether it is a null.

        Raises:
            As `write`. ShapeError: energies of another number of kernels.
        """
        instance("spectra", spectra, Spectra)
        instance("source", source, str, "a text")
        first = whole("first", first, 0)
        n, k = spectra.values.shape
        values = spectra.values.double()
        shares = None if energies is None else _shares(values, energies)
        name = f"vectors/{self._file('features', layer, set, batch).stem}.safetensors"
        files.write_tensors(self.path / name, {"vectors": spectra.vectors}, {"format": "pt"})
        where: dict[str, Any] = {"layer": layer, "set": set, "batch": batch, "source": source}
        numbers = range(first, first + n)
        pairs: dict[str, Sequence[Any]] = {
            "feature": [number for number in numbers for _ in range(k)],
            "pair": list(range(k)) * n,
            "value": values.flatten().tolist(),
            "residual": spectra.residuals.double().flatten().tolist(),
        }
        rows: dict[str, Sequence[Any]] = {
            "feature": numbers,
            "label": [spectra.features.label(row) for row in range(n)],
            "control": [checks.flag("control", control)] * n,
            "metric": [spectra.metric] * n,
            "pairs": [k] * n,
            "low": spectra.bounds[:, 0].double().tolist(),
            "high": spectra.bounds[:, 1].double().tolist(),
            "exact": spectra.exact.tolist(),
            "file": [name] * n,
            "row": range(n),
        }
        if shares is not None and energies is not None:
            pairs["share"] = shares.flatten().tolist()
            rows |= {"energy": energies.double().tolist(), "held": shares.sum(dim=1).clamp(max=1).tolist()}
        self.write("eigenpairs", pairs, **where)
        self.write("features", rows, **where)  # last: a reader who sees the features finds the rest

    def interactions(
        self,
        found: StrongestInteractions,
        *,
        layer: int,
        set: str,
        inputs: str,
        batch: int = 0,
        first: int = 0,
        seen: Coactivation | None = None,
        source: str = "",
    ) -> None:
        """The strongest interactions of some output features; those that are 0 are left out.

        Args:
            found: the interactions; seen: of the same pairs, what codes of data say.
            inputs: the name of the set of input features; layer, set, batch, first, source: as `spectra`.

        Raises:
            As `write`. ShapeError: co-activation of other pairs.
        """
        instance("interactions", found, StrongestInteractions)
        instance("source", source, str, "a text")
        first = whole("first", first, 0)
        n, k = found.first.shape
        kept = (found.coefficients != 0).flatten()
        ranks = torch.arange(k).expand(n, k)

        def column(values: Tensor) -> list[Any]:
            listed: list[Any] = values.expand(n, k).reshape(-1)[kept.to(values.device)].tolist()
            return listed

        places = column(torch.arange(n)[:, None])
        firsts, seconds = column(found.first), column(found.second)
        content: dict[str, Sequence[Any]] = {
            "feature": [first + place for place in places],
            "label": [found.output.label(place) for place in places],
            "inputs": [inputs] * len(places),
            "rank": column(ranks),
            "first": firsts,
            "second": seconds,
            "first_label": [found.name(place) for place in firsts],
            "second_label": [found.name(place) for place in seconds],
            "coefficient": column(found.coefficients.double()),
            "share": column(found.shares.double()),
            "energy": column(found.energies.double()[:, None]),
            "left": column(found.left.double()[:, None]),
        }
        if seen is not None:
            instance("co-activation", seen, Coactivation)
            if seen.together.shape != found.first.shape:
                raise ShapeError(f"co-activation of shape {tuple(seen.together.shape)}", f"{(n, k)}")
            content |= {
                "samples": [seen.samples] * len(places),
                "together": column(seen.together),
                "expected": column(seen.expected.double()),
                "product": column(seen.product.double()),
                "square": column(seen.square.double()),
            }
        self.write("interactions", content, layer=layer, set=set, batch=batch, source=source)

    def _file(self, table: str, layer: int, set: str, batch: int) -> Path:
        columns(table)
        layer, batch = whole("layer", layer, 0), whole("batch", batch, 0)
        instance("set", set, str, "a text")
        if not _NAME.fullmatch(set):
            raise BilensError(f"set {set!r:.60}", "a name of letters, digits, dots, dashes and underscores")
        return self.path / "tables" / table / f"{layer:03d}-{set}-{batch:06d}.parquet"


def _shares(values: Tensor, energies: Tensor) -> Tensor:
    """λ² / ‖Q‖², (n, k); 0 for a kernel that is 0."""
    checks.weights("energies", energies)
    if energies.shape != values.shape[:1]:
        raise ShapeError(f"energies of shape {tuple(energies.shape)}", f"({len(values)},)")
    energies = energies.double()[:, None]
    return torch.where(energies > 0, values.square() / torch.where(energies > 0, energies, 1), 0)
