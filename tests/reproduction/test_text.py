"""Prose with slots: what fills them, and what is refused."""

from __future__ import annotations

import pytest

from bilens.errors import BilensError
from bilens.faithfulness import Curve, Score
from bilens.statistics import interval
from messages import refuses
from reproduction import text
from reproduction.measurement import Measurement
from reproduction.text import Slot, Statement, Template


def seed(accuracy: float, loss: float) -> Measurement:
    scores = [Score(accuracy, 1.0, accuracy / 2), Score(accuracy, 1.0, accuracy)]
    return Measurement.of({"accuracy": accuracy, "loss, h = 5": loss}, [Curve.of("first, whole", [1, 2000], scores)])


SEEDS = [seed(0.5, 0.25), seed(0.75, 0.25), seed(0.625, 0.5)]


def template(body: str, head: str = "") -> Template:
    return Template.read("toy", f"{head}\n---\n{body}\n")


def filled(body: str, head: str = "", blocks: dict[str, str] | None = None) -> str:
    made = template(body, head)
    other = Template.read("other", "gain = accuracy -> mean .1f\n---\n")
    known = {"toy": made, "other": other}
    return text.fill(made, {"toy": SEEDS, "other": SEEDS[:1]}, blocks or {}, known, {"other.best": "the best"})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("accuracy -> .2f", interval([0.5, 0.75, 0.625]).text(".2f")),
        ("accuracy -> .1f×100", interval([0.5, 0.75, 0.625]).text(".1f", 100)),
        ("accuracy -> mean .3f", "0.625"),
        ("loss, h = 5 -> max .2f", "0.50"),
        ("accuracy − loss, h = 5 -> .2f", interval([0.25, 0.5, 0.125]).text(".2f")),
        ("accuracy ÷ loss, h = 5 -> mean .2f", format((2 + 3 + 1.25) / 3, ".2f")),
        ("recovered of first, whole at 2,000 -> mean .3f", "0.625"),
        ("0.5 − accuracy -> mean .3f", "-0.125"),
    ],
)
def test_a_number_is_written_as_its_slot_says(line: str, expected: str) -> None:
    assert Slot.read(line).text(SEEDS) == expected
    assert filled(f"It is {{{{{line}}}}}.") == f"It is {expected}."
    assert filled("It is {{it}}.", f"# What it is.\n\nit = {line}") == f"It is {expected}."


def test_slots_of_other_recipes_and_generated_blocks() -> None:
    assert filled("{{other.gain}}, {{other: accuracy -> mean .2f}}, {{other.best}}") == "0.5, 0.50, the best"
    assert filled("a\n\n{{table}}\n\nb", blocks={"table": "| x |"}) == "a\n\n| x |\n\nb"


@pytest.mark.parametrize(
    ("body", "head", "said"),
    [
        ("{{gian}}", "gain = accuracy -> .2f", "did you mean gain?"),
        ("{{other.gian}}", "", "did you mean other.gain?"),
        ("{{nothing}}", "", "name it in the head of toy.md"),
        ("{{acuracy -> .2f}}", "", "'accuracy'"),
        ("{{accuracy -> q}}", "", "the format 'q'"),
        ("{{accuracy -> best .2f}}", "", "interval, mean or max"),
        ("{{accuracy -> .2f×many}}", "", "NUMBER -> FORM"),
        ("{{recovered of first, whole at 7 -> .2f}}", "", "at one of"),
        ("{{bound of first, whole at 1 -> .2f}}", "", "a column it has"),
        ("{{recovered of second at 1 -> .2f}}", "", "curve 'second'"),
    ],
)
def test_what_nothing_fills_is_refused(body: str, head: str, said: str) -> None:
    with pytest.raises(BilensError) as error:
        filled(body, head)
    assert said.lower() in str(error.value).lower()


def test_what_is_generated_has_a_place() -> None:
    with refuses(BilensError, "without {{table}}"):
        filled("no table", blocks={"table": "| x |"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no dashes", "without a line ---"),
        ("gain accuracy\n---\n", "NAME = NUMBER -> FORM"),
        ("shown accuracy\n---\n", "shown NUMBER > NUMBER"),
        ("a = accuracy -> .2f\na = accuracy -> .3f\n---\n", "two slots named 'a'"),
        ("Big-Gain = accuracy -> .2f\n---\n", "'Big-Gain'"),
        ("a = accuracy\n---\n", "NUMBER -> FORM"),
    ],
)
def test_a_head_that_cannot_be_read_is_refused(content: str, said: str) -> None:
    with refuses(BilensError, said):
        Template.read("toy", content)


def test_prose_that_the_numbers_do_not_bear_out_is_refused() -> None:
    sure, unsure = Statement("accuracy", "0.1", True), Statement("accuracy", "loss, h = 5", False)
    assert sure.holds(SEEDS)
    assert not Statement("accuracy", "0.1", False).holds(SEEDS)
    assert not Statement("0.1", "accuracy", True).holds(SEEDS)
    assert unsure.holds(SEEDS)
    head = "shown accuracy > 0.1\nopen accuracy > loss, h = 5"
    assert template("", head).statements == (sure, unsure)
    text.check(template("", head), SEEDS)
    with refuses(BilensError, "shown accuracy > loss, h = 5", "toy.md", "Write its sentence anew"):
        text.check(template("", "shown accuracy > loss, h = 5"), SEEDS)
