"""Streams of spectra and of interactions, written into the tables of a run batch by batch; what is there is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bilens._internal import checks, files
from bilens._internal.checks import flag, instance, whole
from bilens.decompose import SpectraStream, StrongestStream, coactivation, squared_norms
from bilens.progress import bar
from bilens.tables._write import Writer


def save_spectra(
    writer: Writer,
    stream: SpectraStream,
    *,
    layer: int,
    set: str,
    control: bool = False,
    rank: int = 0,
    size: int = 1,
    progress: bool = True,
) -> None:
    """Compute the eigenpairs of a stream and write them into the tables `features` and `eigenpairs`.

    A run that was stopped or killed continues with what is missing. Several processes share the batches.

    Args:
        writer: of the run; stream: from `decompose.spectra_stream`.
        layer, set: what the rows say; control: whether the set is a null, such as random directions.
        rank: which of `size` processes this is: it takes the batches n with n mod size = rank.
        progress: whether to show a bar.

    Raises:
        StoreError: the folder holds batches of other weights or settings, or cannot be written.
    """
    instance("writer", writer, Writer)
    instance("stream", stream, SpectraStream)
    source = files.checksum(stream.settings)
    missing = _missing(writer, "features", len(stream), layer=layer, set=set, source=source, rank=rank, size=size)
    if not missing:
        return
    energies = squared_norms(stream.tensor, metric=stream.metric)
    total = len(range(rank, len(stream), size))
    with _progress(f"eigenvectors of layer {layer}", missing, total=total, show=progress) as batches:
        for n in batches:
            first = n * stream.batch_size
            found = stream.batch(n)
            writer.spectra(
                found,
                layer=layer,
                set=set,
                batch=n,
                first=first,
                energies=energies[first : first + len(found)],
                control=control,
                source=source,
            )


def save_interactions(
    writer: Writer,
    stream: StrongestStream,
    *,
    layer: int,
    set: str,
    inputs: str,
    codes: Tensor | None = None,
    rank: int = 0,
    size: int = 1,
    progress: bool = True,
) -> None:
    """Compute the strongest interactions of a stream and write them into the table `interactions`.

    Args:
        stream: from `decompose.strongest_stream`; inputs: the name of its set of input features.
        codes: of data, one sample per row, for co-activation and mean products; None for weights alone.
        writer, layer, set, rank, size, progress: as `save_spectra`.

    Raises:
        As `save_spectra`. ShapeError: codes of another size.
    """
    instance("writer", writer, Writer)
    instance("stream", stream, StrongestStream)
    instance("inputs", inputs, str, "a text")
    if codes is not None:
        checks.weights("codes", codes)
    data = "" if codes is None else f"{tuple(codes.shape)} {float(codes.double().sum())!r}"
    source = files.checksum({**stream.settings, "inputs": inputs, "codes": data})
    missing = _missing(writer, "interactions", len(stream), layer=layer, set=set, source=source, rank=rank, size=size)
    total = len(range(rank, len(stream), size))
    with _progress(f"interactions of layer {layer}", missing, total=total, show=progress) as batches:
        for n in batches:
            found = stream.batch(n)
            writer.interactions(
                found,
                layer=layer,
                set=set,
                inputs=inputs,
                batch=n,
                first=n * stream.batch_size,
                seen=None if codes is None else coactivation(found, codes),
                source=source,
            )


def _missing(
    writer: Writer, table: str, count: int, *, layer: int, set: str, source: str, rank: int, size: int
) -> list[int]:
    size = whole("size", size, 1)
    rank = whole("rank", rank, 0, size - 1)
    return [
        n for n in range(rank, count, size) if not writer.finished(table, layer=layer, set=set, batch=n, source=source)
    ]


@contextmanager
def _progress(title: str, missing: list[int], *, total: int, show: bool) -> Iterator[Iterator[int]]:
    """The batches that are missing, with a bar that moves when the next one is asked for."""
    with bar(title, total, done=total - len(missing), show=flag("progress", show)) as step, torch.no_grad():

        def batches() -> Iterator[int]:
            for n in missing:
                yield n
                step(1)

        yield batches()
