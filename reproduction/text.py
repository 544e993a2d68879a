"""The prose of the page of results: Markdown that a person writes, with slots that only measured numbers fill.

A template is a head and a body with a line of three dashes between them. The head names numbers and states what the
prose takes for granted:

    lost = drop at 20, batch 100, step -> .2f×100
    shown drop at 20, batch 512, step > drop at 20, batch 100, step, 2 epochs
    open drop at 20, batch 512, cosine > drop at 20, batch 512, step

`{{lost}}` in the body becomes the mean over seeds with its 95 % interval, times 100. What stands before the arrow is a
number of the recipe, or a difference (` − `) or ratio (` ÷ `) of two, taken seed by seed; `mean` or `max` after the
arrow leaves the interval out. A point of a curve is `recovered of CURVE at 50`, or its accuracy, error, bound or
numbers stored. A slot may also hold the whole line, without a name. `{{svd.lost}}` is a number that the
template of another recipe names.

`shown` holds where the interval of the difference lies above 0, `open` where it contains 0. When one of them no longer
holds, the page is not written and the sentence must be: numbers can be filled in, conclusions cannot.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bilens.errors import BilensError
from bilens.faithfulness import Curve
from bilens.statistics import Interval, interval
from reproduction.measurement import Measurement

FOLDER = Path(__file__).parent / "text"
"""Where the templates are, one per recipe, `head` for the top of the page and `readme` for the README."""

_SLOT = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_POINT = re.compile(r"(?P<column>accuracy|recovered|error|bound|numbers) of (?P<curve>.+) at (?P<at>[\d,]+)")
_OPERATORS: Mapping[str, Callable[[float, float], float]] = {
    " − ": lambda left, right: left - right,
    " ÷ ": lambda left, right: left / right,
}


@dataclass(frozen=True)
class Slot:
    """A number of a recipe as it is written.

    Args:
        number: a measured number, or two with an operator between them.
        form: a format such as ".2f"; scale: what it is multiplied by; how: "interval", "mean" or "max" over seeds.

    Raises:
        BilensError: another way to write it, or a format that is none.
    """

    number: str
    form: str
    scale: float = 1.0
    how: str = "interval"

    def __post_init__(self) -> None:
        if self.how not in ("interval", "mean", "max"):
            raise BilensError(f"how = {self.how!r}", "interval, mean or max")
        try:
            format(1.0, self.form)
        except ValueError as error:
            raise BilensError(f"the format {self.form!r} of {self.number!r}", "one such as .2f") from error

    @classmethod
    def read(cls, line: str) -> Slot:
        """The slot that a line such as "drop at 20, batch 100, step -> .2f×100" describes.

        Raises:
            BilensError: it has no arrow, or a format that is none.
        """
        number, arrow, written = line.partition(" -> ")
        *how, form = written.split()[-2:] or [""]
        form, _, scale = form.partition("×")
        if not arrow or not form or (scale and not scale.isdecimal()):
            raise BilensError(f"slot {line!r}", "NUMBER -> FORM, such as: accuracy -> .2f×100")
        return cls(number.strip(), form, float(scale or 1), *how)

    def text(self, seeds: Sequence[Measurement]) -> str:
        """What stands in the prose.

        Raises:
            BilensError: the recipe measured no such number.
        """
        values = evaluate(self.number, seeds)
        if self.how == "max":
            return format(max(values) * self.scale, self.form)
        found = interval(values)
        return (
            found.text(self.form, self.scale) if self.how == "interval" else format(found.mean * self.scale, self.form)
        )


@dataclass(frozen=True)
class Statement:
    """What the prose takes for granted: that one number is above another over the seeds, or that this is not known.

    Args:
        above, below: numbers of the recipe, as in a slot, or a plain number.
        shown: whether the interval of the difference lies above 0; else it contains 0.
    """

    above: str
    below: str
    shown: bool

    def holds(self, seeds: Sequence[Measurement]) -> bool:
        """Whether the seeds bear it out.

        Raises:
            BilensError: the recipe measured no such number.
        """
        pairs = zip(evaluate(self.above, seeds), evaluate(self.below, seeds), strict=True)
        gap: Interval = interval([above - below for above, below in pairs])
        return gap.mean > gap.half if self.shown else abs(gap.mean) <= gap.half

    def __str__(self) -> str:
        return f"{'shown' if self.shown else 'open'} {self.above} > {self.below}"


@dataclass(frozen=True)
class Template:
    """Prose with slots.

    Args:
        name: of the file; body: Markdown; slots: named numbers; statements: what the prose takes for granted.

    Raises:
        BilensError: a name of a slot that is no name.
    """

    name: str
    body: str
    slots: Mapping[str, Slot]
    statements: tuple[Statement, ...] = ()

    def __post_init__(self) -> None:
        for name in self.slots:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise BilensError(f"{self.name}.md with a slot named {name!r}", "lower-case letters, digits and _")

    @classmethod
    def read(cls, name: str, content: str) -> Template:
        """The template that a file holds.

        Raises:
            BilensError: a file without its line of dashes, or a line of its head that is neither of a slot nor of a
                statement.
        """
        head, dashes, body = content.partition("\n---\n")
        if not dashes:
            raise BilensError(f"{name}.md without a line ---", "a head, that line and a body")
        slots: dict[str, Slot] = {}
        statements = []
        for line in head.splitlines():
            word, _, rest = line.partition(" ")
            if not line.strip() or word == "#":
                continue
            if word in ("shown", "open"):
                above, sign, below = rest.partition(" > ")
                if not sign:
                    raise BilensError(f"{name}.md with {line!r}", f"{word} NUMBER > NUMBER")
                statements.append(Statement(above.strip(), below.strip(), word == "shown"))
                continue
            if not rest.startswith("= "):
                raise BilensError(f"{name}.md with {line!r}", "NAME = NUMBER -> FORM, or shown or open NUMBER > NUMBER")
            if word in slots:
                raise BilensError(f"{name}.md with two slots named {word!r}", "one of each name")
            slots[word] = Slot.read(rest[2:])
        return cls(name, body.strip("\n"), slots, tuple(statements))


def evaluate(number: str, seeds: Sequence[Measurement]) -> list[float]:
    """A number of each seed: measured, the difference or ratio of two, or the same plain number for all.

    Raises:
        BilensError: no such number was measured.
    """
    for operator, apply in _OPERATORS.items():
        left, found, right = number.partition(operator)
        if found:
            return [apply(a, b) for a, b in zip(evaluate(left, seeds), evaluate(right, seeds), strict=True)]
    if re.fullmatch(r"\d+(\.\d+)?", number):
        return [float(number)] * len(seeds)
    if (point := _POINT.fullmatch(number)) and number not in seeds[0].names:
        return [_at(seed.curve(point["curve"]), point["column"], int(point["at"].replace(",", ""))) for seed in seeds]
    return [seed[number] for seed in seeds]


def _at(curve: Curve, column: str, kept: int) -> float:
    """One value of a curve.

    Raises:
        BilensError: the curve has no such column, or was not scored there.
    """
    values = getattr(curve, column)
    places = [place for place, value in enumerate(curve.kept.tolist()) if value == kept]
    if values is None or not places:
        raise BilensError(f"{column} of {curve.name} at {kept:,}", f"a column it has, at one of {curve.kept.tolist()}")
    return float(values[places[0]])


def templates(folder: Path = FOLDER) -> dict[str, Template]:
    """Every template of a folder, by the name of its file."""
    return {path.stem: Template.read(path.stem, path.read_text("utf-8")) for path in sorted(folder.glob("*.md"))}


def check(template: Template, seeds: Sequence[Measurement]) -> None:
    """Refuse prose whose conclusions the measurements do not bear out.

    Raises:
        BilensError: a statement of the template does not hold, or names a number that was not measured.
    """
    for statement in template.statements:
        if not statement.holds(seeds):
            raise BilensError(
                f"measurements that do not bear out '{statement}'",
                f"what {template.name}.md says",
                "write its sentence anew",
            )


def fill(
    template: Template,
    measured: Mapping[str, Sequence[Measurement]],
    blocks: Mapping[str, str],
    known: Mapping[str, Template],
    elsewhere: Mapping[str, str],
) -> str:
    """The body of a template with every slot filled.

    Args:
        template: the prose; measured: the seeds of every recipe, by its name.
        blocks: what is generated whole, such as a table or a figure, by the slot that it fills.
        known: all templates, for slots such as {{svd.lost}}; elsewhere: blocks that are there to be used, or not.

    Raises:
        BilensError: a slot that nothing fills, or a block that no slot asks for.
    """
    used: set[str] = set()

    def text(match: re.Match[str]) -> str:
        slot = match[1]
        used.add(slot)
        if slot in blocks or slot in elsewhere:
            return blocks[slot] if slot in blocks else elsewhere[slot]
        if " -> " in slot:
            owner, colon, line = slot.partition(": ")
            inside = bool(colon) and owner in measured
            return Slot.read(line if inside else slot).text(_seeds(owner if inside else template.name, measured))
        owner, dot, name = slot.rpartition(".")
        home = known.get(owner) if dot else template
        if home is None or name not in home.slots:
            names = [*blocks, *template.slots, *(f"{other}.{name}" for other in known for name in known[other].slots)]
            near = difflib.get_close_matches(slot, names, 1)
            raise BilensError(
                f"slot {{{{{slot}}}}} in {template.name}.md",
                "one that the head of a template names",
                f"did you mean {near[0]}?" if near else f"name it in the head of {template.name}.md",
            )
        return home.slots[name].text(_seeds(home.name, measured))

    filled = _SLOT.sub(text, template.body)
    unused = [block for block in blocks if block not in used]
    if unused:
        raise BilensError(f"{template.name}.md without {{{{{unused[0]}}}}}", "a place for all that is generated")
    return filled


def _seeds(recipe: str, measured: Mapping[str, Sequence[Measurement]]) -> Sequence[Measurement]:
    if recipe not in measured:
        raise BilensError(f"a number of {recipe!r}", f"one of {', '.join(measured)}", "name a recipe before a colon")
    return measured[recipe]


__all__ = ["FOLDER", "Slot", "Statement", "Template", "check", "evaluate", "fill", "templates"]
