"""The headline: how much of the model is left when it is replaced by each way of reading its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from bilens.faithfulness import Curve
from bilens.statistics import interval
from reproduction.measurement import Measurement
from reproduction.recipes import front, front_read, output_sae
from reproduction.recipes.front_figure import Point

CAPTION = f"{front.CAPTION} Single marks: the trained SAEs; those on outputs need the layer besides."

OPEN, CLOSE = "<!-- headline: written by python -m reproduction -->", "<!-- end of headline -->"
"""Lines of the README between which the headline stands."""


@dataclass(frozen=True)
class Entry:
    """One line of the headline, one number per seed.

    Args:
        name: what the model was replaced by; stored: numbers that this stores; lost: accuracy, 0 … 1;
            recovered: cross-entropy, 1 for the model.
        null: whether it is there for comparison with the line above.
    """

    name: str
    stored: tuple[float, ...]
    lost: tuple[float, ...]
    recovered: tuple[float, ...]
    null: bool = False


def entries(measured: Mapping[str, Sequence[Measurement]]) -> list[Entry]:
    """Every line of the headline whose recipe was measured, in order."""
    seeds = measured.get("front", ())
    found: list[Entry] = []
    for name, curve, k, null in (
        ("10 eigenvectors for each digit", front_read.EIGENVECTORS, 10, False),
        ("20 eigenvectors for each digit", front_read.EIGENVECTORS, 20, False),
        ("20 of the next digit's instead, refitted", front_read.NEXT_DIGIT, 20, True),
        ("30 directions shared by all digits", front_read.SHARED, 30, False),
        ("50 directions shared by all digits", front_read.SHARED, 50, False),
        ("50 random directions", front_read.SHARED_NULL, 50, True),
        ("20 SVD components", front_read.COMPONENTS, 20, False),
        ("30 SVD components", front_read.COMPONENTS, 30, False),
        ("50 SVD components", front_read.COMPONENTS, 50, False),
        ("50 random output directions", front_read.COMPONENTS_NULL, 50, True),
    ):
        if seeds and k in seeds[0].curve(curve).kept:
            found.append(_at(name, seeds, curve, k, null))
    found += _outputs(measured.get("outputs", ()), seeds)
    if seeds:
        found += [
            Entry(
                row,
                tuple(seed[f"numbers stored, {row}"] for seed in seeds),
                tuple(seed[f"accuracy lost, {row}"] for seed in seeds),
                tuple(seed[f"recovered, {row}"] for seed in seeds),
                row not in (front_read.OWN, front_read.REFIT),
            )
            for row in front_read.PAIR_ROWS
        ]
    return found


def _at(name: str, seeds: Sequence[Measurement], curve: str, k: int, null: bool) -> Entry:
    scores = [(seed.curve(curve), seed["accuracy"]) for seed in seeds]
    return Entry(
        name,
        tuple(float(_number(one, k)) for one, _ in scores),
        tuple(own - one.at(k).accuracy for one, own in scores),
        tuple(one.at(k).recovered or 0.0 for one, _ in scores),
        null,
    )


def _number(curve: Curve, k: int) -> int:
    return 0 if curve.numbers is None else int(curve.numbers[curve.kept.tolist().index(k)])


def _outputs(outputs: Sequence[Measurement], seeds: Sequence[Measurement]) -> list[Entry]:
    """The SAE on outputs, whose codes are read off the layer: that stays, with an encoder and effects per feature."""
    main = output_sae.MAIN
    if not outputs or not seeds or any(f"pseudoinverse accuracy, {main}" not in seed.names for seed in outputs):
        return []
    classes, hidden = front_read.CLASSES, seeds[0]["hidden units"]
    layer = seeds[0]["numbers of the layer"] - classes * hidden
    found = []
    for code, text, active in (("ReLU", "ReLU codes", "ever active"), ("pseudoinverse", "pseudoinverse", "active")):
        each = hidden + classes + (code == "ReLU")  # the ReLU encoder has a bias for each feature
        found.append(
            Entry(
                f"SAE on outputs, {text}",
                tuple(layer + seed[f"{active}, {main}"] * each + classes for seed in outputs),
                tuple(seed["accuracy of the model"] - seed[f"{code} accuracy, {main}"] for seed in outputs),
                tuple(seed[f"{code} recovered from ln 10, {main}"] for seed in outputs),
            )
        )
    return found


def table(measured: Mapping[str, Sequence[Measurement]]) -> list[str]:
    """The headline as a Markdown table, one string per line; empty where nothing of it was measured."""
    found = entries(measured)
    if not found:
        return []
    lines = [
        "| the model replaced by | numbers stored | accuracy lost, points | cross-entropy recovered |",
        "|---|---|---|---|",
    ]
    for entry in found:
        name = f"*null: {entry.name}*" if entry.null else entry.name
        stored = f"{interval(entry.stored).mean:,.0f}"
        said = interval(entry.lost).text(".2f", 100), interval(entry.recovered).text(".2f", 100)
        lines.append(f"| {name} | {stored} | {said[0]} | {said[1]} % |")
    return lines


def between(page: str, lines: Sequence[str]) -> str:
    """A page with other lines between `OPEN` and `CLOSE`; the page as it is where it lacks them."""
    if OPEN not in page or CLOSE not in page:
        return page
    head, rest = page.split(OPEN, 1)
    return f"{head}{OPEN}\n" + "\n".join(lines) + f"\n{CLOSE}{rest.split(CLOSE, 1)[1]}"


def figure(measured: Mapping[str, Sequence[Measurement]]) -> Figure | None:
    """The front of every way; None where it was not measured."""
    seeds = measured.get("front", ())
    if not seeds:
        return None
    own = [entry for entry in entries(measured) if entry.name == front_read.OWN]
    marks = {
        entry.name: Point(interval(entry.stored).mean, entry.recovered)
        for entry in (*own, *_outputs(measured.get("outputs", ()), seeds))
    }
    return front.figure(seeds, marks)
