"""Questions to the tables of a run of 30 layers × 2,000 features, each beside pandas on the same Parquet files.

The first peer is the few lines that one would write: the columns that the question needs are read from the same files
with pandas, and asked. The second has the whole table in memory already. Asked: a median below 50 ms.

Run: python benchmarks/query.py [--small]; needs the extra `tables`, and pandas for the peers.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import machine, options

from bilens import tables
from bilens.tables import Run, Writer

ASKED = 0.05
PAIRS, BATCH = 8, 256


def written(folder: Path, layers: int, features: int) -> Run:
    """The tables `features` and `eigenpairs` of a run, of random numbers, as many files as `bilens read` writes."""
    writer, chance = Writer(folder, {"model": "random"}), torch.Generator().manual_seed(0)
    words = [f" {a}{b}{c}" for a in "abcdefgh" for b in "aeiou" for c in "klmnprst"]
    for layer in range(layers):
        for batch, first in enumerate(range(0, features, BATCH)):
            numbers = list(range(first, min(first + BATCH, features)))
            n = len(numbers)
            held, energy = (torch.rand(n, generator=chance).tolist() for _ in range(2))
            rows: dict[str, Any] = {
                "feature": numbers,
                "label": [f"{words[number % len(words)]} {number}" for number in numbers],
                "control": [False] * n,
                "metric": ["0" * 64] * n,
                "pairs": [PAIRS] * n,
                "energy": energy,
                "held": held,
                "low": [-0.1] * n,
                "high": [0.1] * n,
                "exact": [True] * n,
                "file": [f"vectors/{layer:03d}-sae-{batch:06d}.safetensors"] * n,
                "row": list(range(n)),
            }
            pairs = {
                "feature": [number for number in numbers for _ in range(PAIRS)],
                "pair": list(range(PAIRS)) * n,
                "value": torch.randn(n * PAIRS, generator=chance).tolist(),
                "share": torch.rand(n * PAIRS, generator=chance).tolist(),
                "residual": [1e-6] * (n * PAIRS),
            }
            writer.write("eigenpairs", pairs, layer=layer, set="sae", batch=batch)
            writer.write("features", rows, layer=layer, set="sae", batch=batch)
    return tables.open(folder)


def questions(run: Run, folder: Path) -> dict[str, tuple[Callable[[], Any], Callable[[], Any], Callable[[], Any]]]:
    """What is asked: by this project, by pandas from the files, and by pandas from memory."""
    import pandas as pd

    def read(table: str, columns: list[str]) -> Any:
        files = sorted((folder / "tables" / table).glob("*.parquet"))
        return pd.concat([pd.read_parquet(file, columns=columns) for file in files], ignore_index=True)

    features, pairs = (
        read(name, [column.name for column in tables.TABLES[name]]) for name in ("features", "eigenpairs")
    )

    def largest(frame: Any) -> Any:
        return frame[~frame["control"]].nlargest(20, "held")

    def named(frame: Any) -> Any:
        return frame[frame["label"].str.contains("abak", regex=False)]

    def by_layer(frame: Any) -> Any:
        return frame.groupby("layer")["held"].median()

    def of_one(frame: Any) -> Any:
        return frame[(frame["layer"] == 12) & (frame["feature"] == 77)].sort_values("pair")

    return {
        "the 20 features whose pairs hold most": (
            lambda: run.query("SELECT layer, label, held FROM features WHERE NOT control ORDER BY held DESC LIMIT 20"),
            lambda: largest(read("features", ["layer", "label", "held", "control"])),
            lambda: largest(features),
        ),
        "features by a piece of their name": (
            lambda: run.query("SELECT layer, label, held FROM features WHERE contains(label, 'abak')"),
            lambda: named(read("features", ["layer", "label", "held"])),
            lambda: named(features),
        ),
        "a median for each layer": (
            lambda: run.query("SELECT layer, median(held) FROM features GROUP BY layer ORDER BY layer"),
            lambda: by_layer(read("features", ["layer", "held"])),
            lambda: by_layer(features),
        ),
        "the eigenpairs of one feature": (
            lambda: run.eigenpairs(layer=12, set="sae", feature=77),
            lambda: of_one(read("eigenpairs", ["layer", "feature", "pair", "value", "share"])),
            lambda: of_one(pairs),
        ),
    }


def seconds(work: Callable[[], Any], runs: int) -> list[float]:
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    asked = options(__doc__ or "")
    layers, features, runs = (13, 200, 5) if asked.small else (30, 2000, 21)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "run")
        run = written(folder, layers, features)
        files = len(list((folder / "tables").rglob("*.parquet")))
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
        print(
            f"{layers * features:,} features, {layers * features * PAIRS:,} pairs, {files} files, {size / 1e6:.1f} MB"
        )
        print(f"{machine()['processor']}; medians of {runs}, all in turn")
        everything = []
        for words, sides in questions(run, folder).items():
            first = [seconds(side, 1)[0] for side in sides]
            times = list(zip(*([seconds(side, 1)[0] for side in sides] for _ in range(runs)), strict=True))
            ours, disk, memory = (statistics.median(column) for column in times)
            everything += times[0]
            print(f"{words}: {1e3 * ours:.1f} ms (the first one {1e3 * first[0]:.0f} ms)")
            print(f"  {disk / ours:.2g}× against pandas from the same files: {1e3 * disk:.1f} ms")
            print(f"  {memory / ours:.2g}× against pandas with the table in memory: {1e3 * memory:.1f} ms")
        print(f"median of all: {1e3 * statistics.median(everything):.1f} ms (asked: {1e3 * ASKED:.0f})")


if __name__ == "__main__":
    main()
