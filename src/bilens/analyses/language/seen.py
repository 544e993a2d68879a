"""What features are on held-out text: values and terms, how well pairs predict them, and where they are largest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import store
from bilens._internal.shown import line
from bilens.analyses.language.layer import Layer
from bilens.analyses.language.sets import Outputs
from bilens.analyses.language.subject import PREFIX, Subject
from bilens.errors import BilensError

KS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of pairs that predictions are measured at, those that there are."""

KINDS = ("largest", "smallest", "failed")
"""Why a context is kept; "failed": where two pairs predict worst."""

TWO = 2
"""Pairs that a feature is said to be failed by."""

EACH = 8
"""Contexts of each kind."""

APART = 4
"""Tokens between two contexts of one kind in one row, at least."""

AT_ONCE = 32
"""Features whose terms are in memory at a time."""

SENTENCES, SPAN = 12, 28
"""Stretches of held-out text that are kept with every term, and their tokens."""


@dataclass(frozen=True, eq=False, repr=False)
class Eigenpairs:
    """Of n features.

    Args:
        values: λ, (n, k); vectors: (n, k, i).
    """

    values: Float[Tensor, "n k"]
    vectors: Float[Tensor, "n k i"]

    __repr__ = line


@store.register
@dataclass(frozen=True, eq=False, repr=False)
class Seen:
    """Of n features on held-out text; s are the tokens of the kept stretches.

    Args:
        terms: λ_j (v_j·x')² of each pair at each of those tokens, (n, k, s); whole: the full quadratic form, (n, s).
        true: u·y of the original layer, (n, s).
        mean: of the quadratic form over the fitted tokens, (n,); pairs: of each pair's term there, (n, k).
        correlations: of u·y with the first k pairs, (n, c), at the numbers `KS` that there are; full: with all pairs.
        places: row and position of each context, (n, 3, e, 2), the kinds in order; values: u·y there, (n, 3, e);
            predicted: what all k pairs say, two: what the first two say, both with the mean of what is left out.
        deviation: of u·y, (n,).
    """

    terms: Float[Tensor, "n k s"]
    whole: Float[Tensor, "n s"]
    true: Float[Tensor, "n s"]
    mean: Float[Tensor, " n"]
    pairs: Float[Tensor, "n k"]
    correlations: Float[Tensor, "n c"]
    full: Float[Tensor, " n"]
    places: Int[Tensor, "n 3 e 2"]
    values: Float[Tensor, "n 3 e"]
    predicted: Float[Tensor, "n 3 e"]
    two: Float[Tensor, "n 3 e"]
    deviation: Float[Tensor, " n"]

    __repr__ = line

    def __len__(self) -> int:
        return len(self.mean)


def stretches(tokens: Int[Tensor, "r t"], pieces: tuple[str, ...]) -> Int[Tensor, "m 2"]:
    """Row and first position of the stretches of text that are kept: one per row, from where a sentence begins."""
    found, (count, length) = [], tokens.shape
    span = min(SPAN, length - PREFIX)
    for row in range(min(SENTENCES, count)):
        last = length - span
        start = PREFIX + (37 * row) % max(1, last - PREFIX + 1)
        after = [p for p in range(max(start, PREFIX + 1), last + 1) if _ends(pieces[int(tokens[row, p - 1])])]
        found.append([row, after[0] if after else start])
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)


def kept(places: Int[Tensor, "m 2"], length: int) -> Int[Tensor, " s"]:
    """The numbers of the stretches' tokens among those after the prefix, row after row."""
    span = min(SPAN, length - PREFIX)
    starts = places[:, 0] * (length - PREFIX) + places[:, 1] - PREFIX
    return (starts[:, None] + torch.arange(span)).flatten()


@torch.no_grad()
def look(subject: Subject, layer: Layer, found: Outputs, pairs: Eigenpairs) -> Seen:
    """What the features of a set are on held-out text.

    Args:
        subject: with text; layer: opened with it; found: the set; pairs: its eigenpairs.

    Raises:
        BilensError: no text.
    """
    if layer.held_out is None or layer.fit is None or subject.split is None:
        raise BilensError(f"layer {layer.number} without text", "a layer that was opened with text")
    tokens = subject.split.held_out
    where = stretches(tokens, subject.pieces)
    directions = found.of(layer)
    x, kept_tokens = layer.folded(layer.held_out), kept(where, tokens.shape[1])
    fit = layer.folded(layer.fit)
    y, quadratic = layer.mlp(layer.held_out), layer.tensor(layer.normalised(layer.held_out))
    middle = layer.tensor(layer.normalised(layer.fit)).double().mean(dim=0)
    parts: dict[str, list[Tensor]] = {name: [] for name in Seen.__dataclass_fields__}
    for start in range(0, len(found), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        u = directions[some].to(y)
        scale, v = pairs.values[some].to(y), pairs.vectors[some].to(y)
        n, k, _ = v.shape
        true, whole = y @ u.T, quadratic @ u.T  # (N, n)
        terms = (x @ v.flatten(0, 1).T).square().view(len(x), n, k) * scale
        average = (fit @ v.flatten(0, 1).T).square().mean(dim=0).view(n, k) * scale
        sums = terms.cumsum(dim=2)
        rest = (middle @ u.double().T).to(y)[:, None] - average.cumsum(dim=1)  # (n, k): mean of what is left out
        two = sums[:, :, min(TWO, k) - 1] + rest[:, min(TWO, k) - 1]
        best = sums[:, :, -1] + rest[:, -1]
        ks = [one for one in KS if one <= k]
        parts["correlations"].append(torch.stack([correlation(true, sums[:, :, one - 1]) for one in ks], dim=1))
        parts["full"].append(correlation(true, whole))
        parts["terms"].append(terms[kept_tokens].permute(1, 2, 0).contiguous())
        parts["whole"].append(whole[kept_tokens].T.contiguous())
        parts["true"].append(true[kept_tokens].T.contiguous())
        parts["mean"].append((middle @ u.double().T).to(y))
        parts["pairs"].append(average)
        parts["deviation"].append(true.std(dim=0))
        chosen = torch.stack([
            torch.stack([picked(order[:, one], tokens.shape[1] - PREFIX) for one in range(n)])
            for order in (true, -true, (true - two).abs())
        ], dim=1)  # fmt: skip
        parts["places"].append(torch.stack([chosen // (tokens.shape[1] - PREFIX),
                                            chosen % (tokens.shape[1] - PREFIX) + PREFIX], dim=-1))  # fmt: skip
        column = torch.arange(n)[:, None, None]
        for name, source in (("values", true), ("predicted", best), ("two", two)):
            parts[name].append(source[chosen, column])
    return Seen(**{name: torch.cat(several) for name, several in parts.items()})


def picked(scores: Float[Tensor, " n"], length: int, count: int = EACH) -> Int[Tensor, " e"]:
    """The places of the largest scores, those close to a larger one in the same row left out where there are enough."""
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    chosen = list[int]()
    for place in order:
        if len(chosen) == count:
            break
        if all(place // length != other // length or abs(place - other) >= APART for other in chosen):
            chosen.append(place)
    for place in order:
        if len(chosen) == min(count, len(order)):
            break
        if place not in chosen:
            chosen.append(place)
    return torch.tensor(chosen, dtype=torch.int64)


def correlation(a: Float[Tensor, "m n"], b: Float[Tensor, "m n"]) -> Float[Tensor, " n"]:
    """Of the columns of two matrices; 0 where one of them does not vary."""
    a, b = a.double() - a.double().mean(dim=0), b.double() - b.double().mean(dim=0)
    size = a.norm(dim=0) * b.norm(dim=0)
    return torch.where(size > 0, (a * b).sum(dim=0) / torch.where(size > 0, size, 1.0), 0.0).float()


def _ends(piece: str) -> bool:
    """Whether a sentence can begin after this token."""
    return piece.rstrip(" ").endswith((".", "!", "?", "\n", ":"))


__all__ = ["APART", "EACH", "KINDS", "KS", "TWO", "Seen", "correlation", "kept", "look", "picked", "stretches"]
