"""The page of a layer from what a run's folder holds of it: tables and records in, plain data and one HTML file out."""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import store, tables
from bilens._internal.encoding import Array, finite, number, shorts
from bilens.analyses.language import _alike as alike
from bilens.analyses.language import output_coder
from bilens.analyses.language._about import facts, notes
from bilens.analyses.language._alike import METRIC, Shown, shown, shown_of
from bilens.analyses.language._made import Made
from bilens.analyses.language._spreads import spread, three
from bilens.analyses.language._typed import LARGEST, size, typed
from bilens.analyses.language.layer import Costs, Layer, cost_name, difference
from bilens.analyses.language.seen import KINDS, KS, SPAN, Seen, stretches
from bilens.analyses.language.sets import EMBEDDINGS, Inputs, Outputs
from bilens.analyses.language.subject import PREFIX, Subject, rows
from bilens.explorer.lm_layout import (
    FORMAT,
    ONE_BY_ONE,
    Alike,
    Cost,
    Example,
    Feature,
    Features,
    InputSet,
    Interactions,
    Named,
    Part,
    Reading,
    Spread,
    Tokens,
    Typed,
)
from bilens.store import Folder

FEATURES, CONTROLS = 256, 16
"""Features of all sets on the page at most, and random directions."""

INTERACTIONS = 24
"""Interactions of a feature on the page."""

DESCRIBED = 3
"""Tokens that an input feature of a coder is described by."""


@dataclass(frozen=True, eq=False)
class Read:
    """A layer that was read.

    Args:
        layer: the layer; sets: of directions; inputs: its input features.
    """

    layer: Layer
    sets: tuple[Outputs, ...]
    inputs: Inputs


class Rows(NamedTuple):
    """What the tables have of one feature: its row, and those of its pairs, interactions and contexts."""

    own: dict[str, Any]
    pairs: list[dict[str, Any]]
    links: list[dict[str, Any]]
    contexts: list[dict[str, Any]]


class Page:
    """Puts one page together; texts of tokens and input features are written once, and named by number elsewhere.

    Args:
        subject: the model; read: the layer, as it was read; run: the folder; others: all layers that have a page there.
        count: features of all sets; runs: whether the page may carry a small model.
    """

    def __init__(
        self,
        subject: Subject,
        read: Read,
        run: Folder,
        others: Sequence[int],
        *,
        count: int = FEATURES,
        runs: bool = True,
    ) -> None:
        self.subject, self.run, self.others, self.count, self.runs = subject, run.path, others, count, runs
        self.layer, self.sets, self.made_of = read.layer, read.sets, read.inputs
        self.asked = tables.open(run.path)
        self.chosen: list[list[int]] = []
        self._tokens: dict[str, int] = {}
        self._inputs: dict[int, int] = {}

    def token(self, token: int) -> int:
        """The place of a token among those of the page."""
        pieces = self.subject.pieces
        return self.text(pieces[token] if token < len(pieces) else f"[{token}]")

    def text(self, text: str) -> int:
        """The place of a token's text."""
        return self._tokens.setdefault(text, len(self._tokens))

    def input(self, place: int) -> int:
        """The place of an input feature among those of the page."""
        return self._inputs.setdefault(place, len(self._inputs))

    def tokens(self, numbers: Tensor, values: Tensor) -> Tokens:
        """Some tokens with a number each."""
        return {"tokens": [self.token(token) for token in numbers.tolist()], "values": three(values)}

    def named(self, places: Tensor, values: Tensor) -> Named:
        """Some input features with a number each."""
        return {"inputs": [self.input(place) for place in places.tolist()], "values": three(values)}

    def reading(self) -> Reading:
        """The whole document."""
        subject, layer, split, sets = self.subject, self.layer, self.subject.split, self.sets
        method: Literal["exact", "least_squares", "weights_only", "gaussian"] = "exact"
        if layer.surrogate is not None:
            method = layer.surrogate.method  # type: ignore[assignment]
        each = max(1, self.count // max(1, sum(not found.control for found in sets)))
        shown = [self.features(found, min(each, CONTROLS) if found.control else each) for found in sets]
        found = store.read_record(self.run, cost_name(layer.number), Costs)
        where = None if split is None else stretches(split.held_out, subject.pieces)
        first = store.read_record(self.run, f"layer-{layer.number:03d}/{sets[0].name}/made", Made)
        at = [k for k in KS if shown and shown[0]["features"] and k <= len(shown[0]["features"][0]["values"])]
        coder = output_coder.audits(self.run, layer.number)
        stretch = [] if where is None or split is None else [
            [self.token(token) for token in split.held_out[row, start : start + _span(split.held_out)].tolist()]
            for row, start in where.tolist()
        ]  # fmt: skip
        return {
            "format": FORMAT,
            "title": f"Layer {layer.number} of {subject.title}",
            "run": self.run.resolve().name,
            "layer": layer.number,
            "layers": len(subject.checkpoint),
            "others": [one for one in self.others if one != layer.number],
            "method": method,
            "order": "plain" if layer.metric is None else "data",
            "named": subject.named_tokens,
            "apart": None if layer.held_out is None else number(difference(layer, layer.held_out[:512]), 2),
            "facts": facts(subject, layer),
            "costs": [] if found is None else _costs(found),
            "text": None if split is None or layer.fit is None or layer.held_out is None else {
                "described": split.named,
                "fit": len(layer.fit),
                "held_out": len(layer.held_out),
                "measured": 0 if found is None else found.measured[0].tokens,
                "stretches": stretch,
            },
            "at": at,
            "inputs": self.inputs(),
            "readings": 0 if first is None else first.tokens,
            "shares": [self.shares(one) for one in sets],
            "correlations": [
                *(spread for one in sets if (spread := self.correlations(one)) is not None),
                *output_coder.spreads(coder, at),
            ],
            "sets": shown,
            "alike": self.alike(),
            "beside": None,
            "typed": self.typed(),
            "limit": None,
            "notes": [*notes(layer, sets, subject), *([output_coder.said(coder)] if coder else [])],
            "tokens": list(self._tokens),  # last: everything before names some
        }  # fmt: skip

    def inputs(self) -> InputSet:
        """The input features that the page names."""
        made_of, places = self.made_of, list(self._inputs)
        space = made_of.dictionary.features
        labels = ["constant" if place >= space.size else space.label(place) for place in places]
        described: list[list[int]] = [[] for _ in places]
        split, codes = self.subject.split, made_of.codes
        if codes is not None and split is not None:
            there, which, counts = rows(split.held_out).unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
            kept = [place for place in places if place < codes.shape[1]]
            sums = torch.zeros(len(there), len(kept)).index_add_(0, which, codes[:, kept])
            top = (sums / (counts[:, None] + 2)).topk(min(DESCRIBED, len(there)), dim=0).indices.T
            by_place = dict(zip(kept, top.tolist(), strict=True))
            described = [[self.token(int(there[row])) for row in by_place.get(place, [])] for place in places]
        return {
            "title": made_of.title,
            "about": made_of.about,
            "kind": "tokens" if made_of.name == EMBEDDINGS else "coder",
            "labels": labels,
            "tokens": described,
        }

    def features(self, found: Outputs, count: int) -> Features:
        """A set, with at most so many features shown of it."""
        layer, name = self.layer.number, found.name
        made = store.read_record(self.run, f"layer-{layer:03d}/{name}/made", Made)
        seen = store.read_record(self.run, f"layer-{layer:03d}/{name}/seen", Seen)
        if made is None:
            self.chosen.append([])
            return _features(found, 0, [], (None, None, None))
        chosen = shown_of(found, seen, count)
        self.chosen.append(chosen)
        own = {row["feature"]: row for row in self.asked.features(layer=layer, set=name).to_pylist()}
        pairs = self._grouped("SELECT * FROM eigenpairs", "pair", name)
        links = self._grouped("SELECT * FROM interactions", "rank", name)
        contexts = self._grouped("SELECT * FROM examples", "rank", name)
        features = [
            self.feature(found, place, Rows(own[place], pairs[place], links[place], contexts[place]), made, seen)
            for place in chosen
        ]
        arrays = (
            (None, None, None) if seen is None
            else (shorts("terms", summed(seen.terms[chosen]).flatten(0, 1)), shorts("values", seen.whole[chosen]),
                  shorts("values", seen.true[chosen]))
        )  # fmt: skip
        return _features(found, len(found), features, arrays)

    @functools.cached_property
    def shown(self) -> Shown:
        """The features that the page has, once `reading` has chosen them."""
        return shown(self.layer, self.sets, self.chosen)

    def alike(self) -> Alike:
        """How alike the kernels of the features are that the page has."""
        return alike.within(self.shown, "weights alone" if self.layer.metric is None else METRIC)

    def typed(self) -> Typed | None:
        """What the page needs to compute with sentences that are typed; None where it cannot."""
        number = self.layer.number
        if not self.runs or size(self.subject.checkpoint.source.config, number) > LARGEST:
            return None  # before any vector is read
        vectors = [
            self.asked.vectors(layer=number, set=found.name, feature=feature)[:ONE_BY_ONE]
            for found, some in zip(self.sets, self.chosen, strict=True)
            for feature in some
        ]
        return typed(self.subject, self.layer, self.shown, torch.stack(vectors)) if vectors else None

    def _grouped(self, sql: str, order: str, name: str) -> dict[int, list[dict[str, Any]]]:
        asked = f'{sql} WHERE layer = ? AND "set" = ? ORDER BY feature, {order}'
        found = defaultdict(list)
        for row in self.asked.query(asked, [self.layer.number, name]).to_pylist():
            found[row["feature"]].append(row)
        return found

    def feature(self, found: Outputs, place: int, rows: Rows, made: Made, seen: Seen | None) -> Feature:
        """One feature."""
        row, pairs, links, contexts = rows
        kinds = {kind: [self.example(each, seen, place) for each in contexts if each["kind"] == kind] for kind in KINDS}
        largest = max((abs(pair["value"]) for pair in pairs), default=0.0)
        return {
            "number": place,
            "label": row["label"],
            "token": None if found.tokens is None else self.token(found.tokens[place]),
            "energy": finite("energy", row["energy"] or 0.0),
            "held": number(row["held"] or 0.0, 4),
            "values": [number(pair["value"], 5) for pair in pairs],
            "shares": [number(pair["share"] or 0.0, 4) for pair in pairs],
            "residual": number(max((pair["residual"] for pair in pairs), default=0.0) / largest, 2) if largest else 0.0,
            "exact": row["exact"],
            "mean": None if seen is None else number(float(seen.mean[place]), 5),
            "deviation": None if seen is None else number(float(seen.deviation[place]), 4),
            "rest": None if seen is None else _rest(seen, place),
            "correlations": None if seen is None else three(seen.correlations[place]),
            "full": None if seen is None else number(float(seen.full[place]), 3),
            "reads": [self.tokens(made.reads[place, side], made.read_values[place, side]) for side in range(2)],
            "writes": [self.tokens(made.writes[place, side], made.write_values[place, side]) for side in range(2)],
            "parts": [self.part(made, place, e) for e in range(min(made.eigen_tokens.shape[1], len(pairs)))],
            "largest": kinds["largest"],
            "smallest": kinds["smallest"],
            "failed": kinds["failed"],
            "interactions": self.interactions(links[:INTERACTIONS]),
            "left": number(links[0]["left"], 4) if links else 0.0,
            "square": {
                "inputs": [self.input(one) for one in made.square[place].tolist()],
                "values": [three(values) for values in made.square_values[place]],
            },
        }

    def part(self, made: Made, place: int, e: int) -> Part:
        """One eigenvector."""
        sides = [self.tokens(made.eigen_tokens[place, e, side], made.eigen_values[place, e, side]) for side in range(2)]
        by_inputs: list[Named | None] = [None, None]
        if made.eigen_inputs.shape[-1]:
            by_inputs = [
                self.named(made.eigen_inputs[place, e, side], made.eigen_input_values[place, e, side])
                for side in range(2)
            ]
        return {
            "constant": number(float(made.constant[place, e]), 3),
            "one": sides[0],
            "other": sides[1],
            "inputs_one": by_inputs[0],
            "inputs_other": by_inputs[1],
        }

    def example(self, row: dict[str, Any], seen: Seen | None, place: int) -> Example:
        """One context."""
        two = row["predicted"] if seen is None else float(seen.two[place, KINDS.index(row["kind"]), row["rank"]])
        return {
            "focus": row["focus"],
            "tokens": [self.text(text) for text in row["tokens"]],
            "values": [number(value, 3) for value in row["values"]],
            "value": number(row["value"], 4),
            "predicted": number(row["predicted"], 4),
            "two": number(two, 4),
        }

    def interactions(self, rows: list[dict[str, Any]]) -> Interactions:
        """Some interactions; without text nothing is known of how often they meet."""
        known = [None if row["samples"] is None else row for row in rows]
        return {
            "first": [self.input(row["first"]) for row in rows],
            "second": [self.input(row["second"]) for row in rows],
            "coefficient": [number(row["coefficient"], 4) for row in rows],
            "share": [number(row["share"], 3) for row in rows],
            "together": [row["together"] for row in rows],
            "expected": [None if row is None else number(row["expected"], 3) for row in known],
            "change": [None if row is None else number(-row["coefficient"] * row["product"], 3) for row in known],
        }

    def shares(self, found: Outputs) -> Spread:
        """What the first k pairs hold of ‖Q‖², over the features of a set."""
        rows = self.asked.query(
            'SELECT share FROM eigenpairs WHERE layer = ? AND "set" = ? ORDER BY feature, pair',
            [self.layer.number, found.name],
        )
        values = torch.tensor([value or 0.0 for value in rows.column("share").to_pylist()]).view(len(found), -1)
        at = list(range(1, values.shape[1] + 1))
        return spread(found.title, at, values.cumsum(dim=1), control=found.control)

    def correlations(self, found: Outputs) -> Spread | None:
        """How well the first k pairs predict the true values, over the features of a set."""
        seen = store.read_record(self.run, f"layer-{self.layer.number:03d}/{found.name}/seen", Seen)
        if seen is None:
            return None
        at = list(KS[: seen.correlations.shape[1]])
        return spread(found.title, at, seen.correlations, float(seen.full.median()), control=found.control)


def summed(terms: Float[Tensor, "n k s"]) -> Float[Tensor, "n r s"]:
    """Terms as the page needs them: the first one by one, and of the others sums, between the numbers of `KS`."""
    ends = [ONE_BY_ONE, *(k for k in KS if ONE_BY_ONE < k <= terms.shape[1])]
    sums = [terms[:, start:end].sum(dim=1) for start, end in itertools.pairwise(ends)]
    return torch.cat([terms[:, :ONE_BY_ONE], *(each[:, None] for each in sums)], dim=1)


def _features(
    found: Outputs, total: int, features: list[Feature], arrays: tuple[Array | None, Array | None, Array | None]
) -> Features:
    terms, whole, true = arrays
    return {
        "name": found.name,
        "title": found.title,
        "feature": found.feature,
        "about": found.about,
        "control": found.control,
        "total": total,
        "features": features,
        "terms": terms,
        "whole": whole,
        "true": true,
    }


def _rest(seen: Seen, place: int) -> list[float]:
    """The mean of what the first k pairs leave out, for each k."""
    rest = float(seen.mean[place]) - seen.pairs[place].double().cumsum(dim=0)
    return [number(value, 5) for value in rest.tolist()]


def _costs(found: Costs) -> list[Cost]:
    return [
        {
            "name": each.by.replace("_", " "),
            "kind": "null" if place else "surrogate",
            "fvu": number(each.fvu, 4),
            "delta_ce": number(each.delta_ce, 4),
            "error": number(each.error, 3),
        }
        for place, each in enumerate(found.measured)
    ]


def _span(tokens: Tensor) -> int:
    return min(SPAN, tokens.shape[1] - PREFIX)


__all__ = ["CONTROLS", "FEATURES", "INTERACTIONS", "Page", "Read", "summed"]
