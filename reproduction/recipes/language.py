"""Bilinear language models beside gated ones of as many parameters, at equal steps and at equal time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from bilens.models import language
from bilens.text import Split, english, trained
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement

GATES = {"bilinear": "bilinear", "swiglu": "SwiGLU", "reglu": "ReGLU"}
"""Kinds of MLP and how they are written."""

PAIRS = (("bilinear", "swiglu"), ("bilinear", "reglu"))
"""Differences that are taken, the first less the second."""

TIMED = 15
"""Steps of each kind, in turns, whose median is the time of one."""


def _sizes(lab: Lab) -> dict[str, int]:
    return {"layers": 2, "width": lab.size(128, 32), "units": lab.size(384, 48), "length": lab.size(128, 32)}


def _steps(lab: Lab) -> int:
    return lab.size(600, 3)


def _batch(lab: Lab) -> int:
    return lab.size(24, 4)


def _read(lab: Lab, seed: int) -> tuple[Split, int]:
    """Rows of text in the order of a seed, and how many tokens there are. Which documents are held out is fixed."""
    corpus = english(seed=0, characters=lab.size(20_000_000, 60_000))
    tokenizer = trained(corpus.fit, lab.size(1024, 300))
    return replace(corpus, seed=seed).tokens(tokenizer, length=_sizes(lab)["length"]), len(tokenizer)


def _seconds(lab: Lab, split: Split, vocabulary: int) -> dict[str, float]:
    """Seconds of processor time of a step of each kind: the median of steps that are taken in turns."""
    taken: dict[str, list[float]] = {gate: [] for gate in GATES}
    models = {gate: language.small(vocabulary, gate=gate, **_sizes(lab)) for gate in GATES}
    for turn in range(lab.size(TIMED, 2) + 1):
        for gate, model in models.items():
            started = time.process_time()
            language.train(
                model, replace(split, held_out=split.held_out[:0]), steps=1, batch=_batch(lab), progress=False
            )
            if turn:  # the first one makes buffers
                taken[gate].append(time.process_time() - started)
    return {gate: statistics.median(each) for gate, each in taken.items()}


def measure(lab: Lab, seed: int) -> Measurement:
    """Held-out cross-entropy of each kind after as many steps, and after as much time as SwiGLU takes for them."""
    split, vocabulary = _read(lab, seed)
    seconds = _seconds(lab, split, vocabulary)
    steps = {gate: round(_steps(lab) * seconds["swiglu"] / seconds[gate]) for gate in GATES}
    numbers = {"token frequencies": float(language.unigram(split, vocabulary).mean())}
    for gate in GATES:
        numbers[f"milliseconds, {gate}"] = 1000 * seconds[gate]
        numbers[f"steps in equal time, {gate}"] = steps[gate]
        found: dict[int, float] = {}
        for name, count in (("steps", _steps(lab)), ("time", max(1, steps[gate]))):
            if count not in found:
                model = language.small(vocabulary, gate=gate, seed=seed, **_sizes(lab))
                language.train(model, split, steps=count, batch=_batch(lab), progress=False)
                found[count] = float(language.cross_entropy(model, split.held_out).mean())
            numbers[f"{name}, {gate}"] = found[count]
        numbers[f"parameters, {gate}"] = sum(weight.numel() for weight in model.parameters())
    for name in ("steps", "time"):
        for one, other in PAIRS:
            numbers[f"{name}, {one} less {other}"] = numbers[f"{name}, {one}"] - numbers[f"{name}, {other}"]
    return Measurement.of(numbers)


def claims(measured: Measurement) -> Sequence[Claim]:
    """Cross-entropies, differences at equal steps and at equal time, and the time of a step."""
    table = []
    for name in ("steps", "time"):
        for one, other in PAIRS:
            draft = {"steps": "0.016", "time": "the same"}[name] if other == "swiglu" else "–"
            text = f"{GATES[one]} less {GATES[other]} at equal {name}, nats per token"
            table.append(Claim(text, f"{name}, {one} less {other}", draft, ".4f"))
    for gate, written in GATES.items():
        count = measured[f"parameters, {gate}"]
        table.append(
            Claim(f"held-out nats per token, {written}, {count:,.0f} parameters", f"steps, {gate}", form=".3f")
        )
    table.append(Claim("the same of token frequencies alone", "token frequencies", form=".3f"))
    for gate, written in GATES.items():
        table.append(Claim(f"processor time of a step, {written}", f"milliseconds, {gate}", form=".1f", unit=" ms"))
        table.append(Claim(f"steps in the time of SwiGLU's, {written}", f"steps in equal time, {gate}", form=".0f"))
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """The differences, each seed and their mean."""
    shown = {
        f"at equal {name}": {
            f"{GATES[one]} less {GATES[other]}": [seed[f"{name}, {one} less {other}"] for seed in seeds]
            for one, other in PAIRS
        }
        for name in ("steps", "time")
    }
    return {
        "language-difference": (
            charts.dots(shown, "held-out cross-entropy more, nats per token", line=0),
            "Cross-entropy of a bilinear language model less that of a gated one of as many parameters, trained on the "
            "same text in the same order: each seed, mean and 95 % interval. Above 0 the bilinear one is worse.",
        )
    }


def settings(lab: Lab) -> str:
    """What is trained, and on which text."""
    sizes = _sizes(lab)
    named = english(seed=0, characters=lab.size(20_000_000, 60_000)).described
    return (
        f"Llamas of {sizes['layers']} layers, d = {sizes['width']}, h = {sizes['units']}, BPE of "
        f"{lab.size(1024, 300):,} tokens; {_steps(lab)} steps of {_batch(lab)} rows of {sizes['length']} tokens, "
        f"AdamW, lr 2e-3; text: {named}, whole documents held out."
    )


RECIPE = Recipe(
    "language",
    "Bilinear, SwiGLU and ReGLU language models at equal parameter counts",
    settings,
    measure,
    claims,
    figures,
)
