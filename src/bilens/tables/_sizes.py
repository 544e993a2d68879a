"""How large the tables of a job will be, before it starts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from bilens._internal import checks
from bilens._internal.checks import whole
from bilens.errors import StoreError

ROW = {"features": 60, "eigenpairs": 30, "interactions": 20, "examples": 60}
"""Bytes of a row in compressed Parquet, measured on random weights; those of examples without their tokens."""

TOKEN, SEEN = 12, 12
"""Bytes of one token of an example with its value; and of an interaction's numbers from codes of data."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of each table and of the vectors; printed, one line.

    Args:
        features, eigenpairs, interactions, examples: of the tables; vectors: of the safetensors files.
    """

    features: int
    eigenpairs: int
    interactions: int
    examples: int
    vectors: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.features + self.eigenpairs + self.interactions + self.examples + self.vectors

    def __str__(self) -> str:
        parts = ("features", "eigenpairs", "interactions", "examples", "vectors")
        listed = ", ".join(f"{name} {_written(size)}" for name in parts if (size := getattr(self, name)))
        return f"about {_written(self.total)} on disk: {listed}"

    def require(self, path: str | Path) -> None:
        """Refuse to begin where the disk has less room.

        Args:
            path: the run's folder, which need not exist yet.

        Raises:
            StoreError: less is free.
        """
        folder = checks.path("path", path).absolute()
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < self.total:
            raise StoreError(
                f"{_written(free)} free at {folder}", f"{_written(self.total)}", "free space or name another folder"
            )


def estimate(
    *,
    layers: int = 1,
    features: int,
    pairs: int = 0,
    dim: int = 0,
    interactions: int = 0,
    codes: bool = False,
    examples: int = 0,
    tokens: int = 32,
    itemsize: int = 4,
) -> Sizes:
    """About how many bytes a job will write, to be shown before it starts.

    Examples:
        >>> print(estimate(layers=30, features=512, pairs=8, dim=577, interactions=100))
        about 318.9 MB on disk: features 921.6 kB, eigenpairs 3.7 MB, interactions 30.7 MB, vectors 283.6 MB

    Args:
        layers: how many; features: output features per layer; pairs: eigenpairs per feature, with vectors of `dim`
            numbers of `itemsize` bytes; interactions, examples: per feature; tokens: per example.
        codes: whether interactions also have what codes of data say.

    Raises:
        BilensError: a number below 0 or no whole number.
    """
    given = {"layers": layers, "features": features, "pairs": pairs, "dim": dim, "interactions": interactions}
    given |= {"examples": examples, "tokens": tokens, "itemsize": itemsize}
    n = {name: whole(name, value, 0) for name, value in given.items()}
    each = n["layers"] * n["features"]
    return Sizes(
        each * ROW["features"],
        each * n["pairs"] * ROW["eigenpairs"],
        each * n["interactions"] * (ROW["interactions"] + SEEN * checks.flag("codes", codes)),
        each * n["examples"] * (ROW["examples"] + n["tokens"] * TOKEN),
        each * n["pairs"] * n["dim"] * n["itemsize"],
    )


def _written(size: int) -> str:
    number = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
