"""The headline: how much of the model is left when it is replaced by each way of reading its features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure

from bilens.faithfulness import Curve
from bilens.statistics import Interval, interval
from reproduction.measurement import Measurement
from reproduction.recipes import (
    atoms,
    front,
    front_coders,
    front_read,
    nulls_measure,
    output_sae,
    pair_sae,
    rivals,
    rivals_measure,
)
from reproduction.recipes.front_figure import Point, points

CAPTION = f"{front.CAPTION} Single marks: the trained SAEs; those on outputs need the layer besides."

OPEN, CLOSE = "<!-- headline: written by python -m reproduction -->", "<!-- end of headline -->"
"""Lines of the README between which the headline stands."""


@dataclass(frozen=True)
class Entry:
    """One line of the headline, one number per seed.

    Args:
        name: what the model was replaced by; stored: numbers that this stores; lost: accuracy, 0 … 1;
            recovered: cross-entropy, 1 for the model.
        kind: "null" or "rival" where it is there for comparison with the lines above.
    """

    name: str
    stored: tuple[float, ...]
    lost: tuple[float, ...]
    recovered: tuple[float, ...]
    kind: Literal["view", "null", "rival"] = "view"


def entries(measured: Mapping[str, Sequence[Measurement]]) -> list[Entry]:
    """Every line of the headline whose recipe was measured, in order."""
    seeds, others, nulls = (measured.get(name, ()) for name in ("front", "rivals", "nulls"))
    found = [
        *_points(seeds, "view", ((f"{k} eigenvectors for each digit", front_read.EIGENVECTORS, k) for k in (10, 20))),
        *_points(seeds, "null", [("20 of the next digit's instead, refitted", front_read.NEXT_DIGIT, 20)]),
        *_points(seeds, "view", ((f"{k} directions shared by all digits", front_read.SHARED, k) for k in (30, 50))),
        *_points(seeds, "null", [("50 random directions", front_read.SHARED_NULL, 50)]),
        *_points(
            nulls,
            "rival",
            [("the same layer between 50 principal components of the images", rivals_measure.PRINCIPAL, 50)],
        ),
        *_beside_shared(others, seeds),
        *_points(seeds, "view", ((f"{k} SVD components", front_read.COMPONENTS, k) for k in (20, 30, 50))),
        *_points(seeds, "null", [("50 random output directions", front_read.COMPONENTS_NULL, 50)]),
        *_points(nulls, "rival", [("50 principal components of the outputs", nulls_measure.AXES, 50)]),
        *_outputs(measured.get("outputs", ()), seeds),
        *_spans(nulls),
    ]
    for row in front_read.PAIR_ROWS if seeds else ():
        found.append(
            Entry(
                row,
                tuple(seed[f"numbers stored, {row}"] for seed in seeds),
                tuple(seed[f"accuracy lost, {row}"] for seed in seeds),
                tuple(seed[f"recovered, {row}"] for seed in seeds),
                "view" if row in (front_read.OWN, front_read.REFIT) else "null",
            )
        )
        if row == front_read.REFIT:
            found += longer(measured.get("pairs", ()), seeds)
        if row == front_read.NULL_PAIRS:
            found += _frozen(measured.get("atoms", ()))
    return found


def _points(
    seeds: Sequence[Measurement], kind: Literal["view", "null", "rival"], rows: Iterable[tuple[str, str, int]]
) -> list[Entry]:
    """Lines of one kind: each name with a curve and how much of it is kept, where the seeds have it."""
    return [
        _at(name, seeds, curve, k, kind)
        for name, curve, k in rows
        if seeds and k in seeds[0].curve(curve).kept.tolist()
    ]


def _at(name: str, seeds: Sequence[Measurement], curve: str, k: int, kind: Literal["view", "null", "rival"]) -> Entry:
    scores = [(seed.curve(curve), seed["accuracy"]) for seed in seeds]
    return Entry(
        name,
        tuple(float(_number(one, k)) for one, _ in scores),
        tuple(own - one.at(k).accuracy for one, own in scores),
        tuple(one.at(k).recovered or 0.0 for one, _ in scores),
        kind,
    )


def _beside_shared(seeds: Sequence[Measurement], models: Sequence[Measurement]) -> list[Entry]:
    """What a sceptic would train instead of 50 shared directions, with no more numbers, beside the same models."""
    k = 50
    if not seeds or len(seeds) != len(models) or k not in seeds[0].curve(rivals_measure.FITTED).kept.tolist():
        return []
    layers = seeds[0].curve(rivals_measure.SCRATCH).kept.tolist()
    h = max((h for h in layers if seeds[0][f"directions beside {h}"] == k), default=0)
    found = []
    for name, curve, kept in (
        (f"a layer of {h} hidden units, trained from scratch", rivals_measure.SCRATCH, h),
        (f"a layer trained on {k} principal components", rivals_measure.FITTED, k),
    ):
        point = rivals.against(seeds, curve, models)[kept]
        lost = [
            model["accuracy"] - seed.curve(curve).at(kept).accuracy for seed, model in zip(seeds, models, strict=True)
        ]
        found.append(Entry(name, (point.numbers,) * len(seeds), tuple(lost), point.recovered, "rival"))
    return found


@dataclass(frozen=True)
class Beside:
    """Shared directions beside what was trained anew with no more numbers.

    Args:
        k: directions; shared: what they store and recover; anew: what the rival does.
    """

    k: int
    shared: Point
    anew: Point

    @property
    def more(self) -> Interval:
        """Cross-entropy that the directions recover more than the rival, over seeds."""
        return interval(_gaps(self))


def besides(measured: Mapping[str, Sequence[Measurement]], curve: str) -> dict[int, Beside]:
    """What was trained anew beside the front's shared directions, by how much of it is kept; empty without both."""
    models, seeds = measured.get("front", ()), measured.get("rivals", ())
    if not models or len(models) != len(seeds):
        return {}
    shared = front_read.SHARED
    ways = dict(zip(models[0].curve(shared).kept.tolist(), points(models, shared), strict=True))
    places = {
        kept: kept if curve == rivals_measure.FITTED else int(seeds[0][f"directions beside {kept}"])
        for kept in seeds[0].curve(curve).kept.tolist()
    }
    found = rivals.against(seeds, curve, models)
    return {kept: Beside(k, ways[k], found[kept]) for kept, k in places.items() if k in ways}


def contest(measured: Mapping[str, Sequence[Measurement]]) -> list[str]:
    """Shared directions beside layers from scratch that store no more, as a Markdown table; empty without both."""
    lines = [
        "| directions | they store | they recover, % | hidden units from scratch | they store | they recover, % "
        "| more by the directions |",
        "|---|---|---|---|---|---|---|",
    ]
    found = besides(measured, rivals_measure.SCRATCH)
    for h, beside in found.items():
        cells = [interval(point.recovered).text(".2f", 100) for point in (beside.shared, beside.anew)]
        lines.append(
            f"| {beside.k} | {beside.shared.numbers:,.0f} | {cells[0]} "
            f"| {h} | {beside.anew.numbers:,.0f} | {cells[1]} | {beside.more.text('.2f', 100)} |"
        )
    return lines if found else []


def said(measured: Mapping[str, Sequence[Measurement]]) -> dict[str, str]:
    """Numbers of the rivals for the prose, by slots such as beside.scratch_32."""
    found = {}
    for name, curve in (("scratch", rivals_measure.SCRATCH), ("fitted", rivals_measure.FITTED)):
        for kept, beside in besides(measured, curve).items():
            found[f"beside.{name}_{kept}"] = interval(beside.anew.recovered).text(".2f", 100)
            found[f"beside.{name}_{kept}_numbers"] = f"{beside.anew.numbers:,.0f}"
            found[f"beside.{name}_{kept}_less"] = interval([-value for value in _gaps(beside)]).text(".2f", 100)
            found[f"beside.{name}_{kept}_more"] = beside.more.text(".2f", 100)
    return found | _apart(measured)


def _apart(measured: Mapping[str, Sequence[Measurement]]) -> dict[str, str]:
    """What atoms and encoder of the pair SAE add to each other, seed by seed, by slots such as beside.atoms_gain."""
    found = {}
    for name, (form, scale, values) in apart(measured).items():
        found[f"beside.{name}"] = interval(values).text(form, scale)
    return found


def apart(measured: Mapping[str, Sequence[Measurement]]) -> dict[str, tuple[str, float, list[float]]]:
    """Format, scale and samples of the differences between the pair SAE, its atoms, drawn ones, and their encoders.

    Both recipes train the model of a seed in the same way; seeds that only one of them has are left out.
    """
    both = list(zip(measured.get("front", ()), measured.get("atoms", ()), strict=False))
    if not both:
        return {}
    own, drawn, frozen = front_read.OWN, front_read.NULL_PAIRS, atoms.FROZEN
    error, kept = "NMSE on outputs", "recovered"
    return {
        "frozen": (".2f", 100, [more[f"{kept}, {frozen}"] for _, more in both]),
        "encoder_less": (".2f", 100, [one[f"{kept}, {drawn}"] - more[f"{kept}, {frozen}"] for one, more in both]),
        "atoms_gain": (".2f", 100, [one[f"{kept}, {own}"] - more[f"{kept}, {frozen}"] for one, more in both]),
        "atoms_error": (".0f", 1, [more[f"{error}, {frozen}"] / one[f"{error}, {own}"] for one, more in both]),
    }


def _gaps(beside: Beside) -> list[float]:
    return [ours - theirs for ours, theirs in zip(beside.shared.recovered, beside.anew.recovered, strict=True)]


def longer(longer: Sequence[Measurement], seeds: Sequence[Measurement]) -> list[Entry]:
    """The pair SAE with four times the updates, which the recipe of the pair SAE trains."""
    main, plan = pair_sae.MAIN, front_coders.MAIN
    own = front_read.config(front_read.OUTPUTS, front_read.TRAINED, plan.atoms, plan.k)
    if len(longer) != len(seeds) or own not in [curve.name for curve in seeds[0].curves]:
        return []  # in a quick run the sizes are others
    effects = (plan.atoms + 1) * front_read.CLASSES
    row = front_read.OWN
    return [
        Entry(
            f"SAE on input pairs, {pair_sae.VARIANTS[main].steps / plan.steps:.0f} times the updates",
            tuple(
                effects + (seed[f"numbers stored, {row}"] - effects) * more[f"L0, {main}"] / seed[f"L0, {row}"]
                for seed, more in zip(seeds, longer, strict=True)
            ),
            tuple(more[f"accuracy lost, {main}"] for more in longer),
            tuple(more[f"recovered, {main}"] for more in longer),
        )
    ]


def _frozen(seeds: Sequence[Measurement]) -> list[Entry]:
    """Atoms that are never trained with an encoder that is."""
    return _numbered(seeds, {atoms.FROZEN: "null"}) if seeds and seeds[0]["atoms"] == front_coders.MAIN.atoms else []


def _spans(seeds: Sequence[Measurement]) -> list[Entry]:
    """What the outputs are projected on instead of the SAE's active atoms, as many of each."""
    if any(f"recovered, {nulls_measure.SPAN_SAE}" not in seed.names for seed in seeds):
        return []  # in a quick run no atom may be active
    return _numbered(seeds, {nulls_measure.SPAN_DRAWN: "null", nulls_measure.SPAN_AXES: "rival"})


def _numbered(seeds: Sequence[Measurement], rows: Mapping[str, Literal["view", "null", "rival"]]) -> list[Entry]:
    """Lines of which a recipe has every number by its name."""
    return [
        Entry(
            row,
            tuple(seed[f"numbers stored, {row}"] for seed in seeds),
            tuple(seed[f"accuracy lost, {row}"] for seed in seeds),
            tuple(seed[f"recovered, {row}"] for seed in seeds),
            kind,
        )
        for row, kind in rows.items()
        if seeds
    ]


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
    most = max(len(entry.lost) for entry in found)
    for entry in found:
        name = entry.name if len(entry.lost) == most else f"{entry.name} ({len(entry.lost)} seeds)"
        name = name if entry.kind == "view" else f"*{entry.kind}: {name}*"
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
    others = measured.get("rivals", ())
    beside = {}
    if len(others) == len(seeds):
        for curve, name in rivals.ANEW.items():
            beside[f"rival: {name}"] = list(rivals.against(others, curve, seeds).values())
    if nulls := measured.get("nulls", ()):
        beside[f"rival: {rivals_measure.PRINCIPAL}"] = points(nulls, rivals_measure.PRINCIPAL)
    return front.figure(seeds, marks, beside)
