"""What stands beside a way of reading, on the same axis: the same with random directions, or principal components."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import matching, pairs
from bilens.analyses.subject import Subject, kept
from bilens.dictionary import Dictionary
from bilens.faithfulness import Curve, Kind, Row
from bilens.kernel import Kernel

RANDOM_VECTORS = "random directions for each output, refitted"
COMPONENTS_OF_INPUTS = "principal components of the inputs, shared by all outputs"
RANDOM_OUTPUTS = "random output directions"
COMPONENTS_OF_OUTPUTS = "principal components of the outputs"
DRAWN = "outputs drawn at random, never trained"


def random_vectors(subject: Subject, kernels: list[Kernel], counts: list[int], beside: Curve) -> Curve:
    """The null of eigenvectors: as many random orthonormal directions for each output, with weights by least squares.

    Of orthonormal rows v the squares (v·x')² are orthonormal in Frobenius norm, so that each weight is vᵀQv.
    """
    inputs = subject.outputs.input.fold(subject.given)
    terms = []
    for place, kernel in enumerate(kernels):
        rows = _orthonormal(kernel.input.dim, counts[-1], subject.seed + place).to(inputs)
        weights = (kernel.matvec(rows) * rows).sum(dim=1)
        terms.append(((inputs @ rows.T).square() * weights).cumsum(dim=1))
    scores = [subject.score(torch.stack([sums[:, k - 1] for sums in terms], dim=1)) for k in counts]
    numbers = None if beside.numbers is None else beside.numbers.tolist()
    return Curve.of(RANDOM_VECTORS, counts, scores, numbers=numbers, beside=beside.name)


def input_components(subject: Subject, beside: Curve) -> Curve:
    """The rival of eigenvectors: the model between the first principal components of its inputs, for all outputs."""
    tensor, inputs = subject.outputs, subject.given
    counts = kept(tensor.input.size)
    rows = subject.input_components.to(inputs)
    codes = inputs @ rows.T
    # On the span of the rows the model is itself, so that projected inputs are all that is needed.
    scores = [subject.score(tensor(codes[:, :k] @ rows[:k])) for k in counts]
    constant = int(tensor.input.constant)
    numbers = [k * tensor.input.size + tensor.output.size * pairs.count(k + constant) for k in counts]
    return Curve.of(COMPONENTS_OF_INPUTS, counts, scores, numbers=numbers, beside=beside.name)


def random_outputs(subject: Subject, counts: list[int], beside: Curve) -> Curve:
    """The null of SVD components: output directions drawn as large as the layer's own, made orthonormal."""
    outputs = subject.test_outputs
    drawn = matching.random_directions(subject.hidden.gram(), counts[-1], subject.seed)
    rows = torch.linalg.qr(drawn.T)[0].T.to(outputs)
    codes = outputs @ rows.T
    scores = [subject.score(subject.read(codes[:, :k] @ rows[:k])) for k in counts]
    numbers = None if beside.numbers is None else beside.numbers.tolist()
    return Curve.of(RANDOM_OUTPUTS, counts, scores, numbers=numbers, beside=beside.name)


def output_components(subject: Subject, counts: list[int], numbers: Callable[[int], int], beside: Curve) -> Curve:
    """The rival of what is read in the outputs: their principal components over the training inputs, and their mean.

    Args:
        subject: what is read; counts: how many are kept; numbers: what k directions of outputs and an offset store.
        beside: the curve that it is compared with.
    """
    mean, rows = subject.output_components
    codes = (subject.test_outputs - mean) @ rows.T
    scores = [subject.score(subject.read(codes[:, :k] @ rows[:k] + mean)) for k in counts]
    stored = [numbers(k) for k in counts]
    return Curve.of(COMPONENTS_OF_OUTPUTS, counts, scores, numbers=stored, beside=beside.name)


def drawn_outputs(subject: Subject, counts: list[int], numbers: Callable[[int], int], beside: Curve) -> Curve:
    """The null of an SAE on outputs, read by pseudoinverse codes: its atoms are outputs of random training inputs.

    Args: as `output_components`.
    """
    mean, _ = subject.output_components
    outputs = subject.train_outputs
    chosen = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(subject.seed))[: counts[-1]]
    atoms = outputs[chosen] - mean
    counts = [k for k in counts if k < len(atoms)] + [len(atoms)]
    scores = []
    for k in counts:
        dictionary = Dictionary.from_atoms(atoms[:k], subject.hidden.output, offset=mean)
        scores.append(subject.score(subject.read(dictionary.project(subject.test_outputs))))
    return Curve.of(DRAWN, counts, scores, numbers=[numbers(k) for k in counts], beside=beside.name)


def largest_codes(subject: Subject, k: int, numbers: int, beside: Row) -> tuple[Row, Row]:
    """Null and rival of sparse codes: of each sample, the k largest codes in all random, or principal, directions."""
    mean, principal = subject.output_components
    random = _orthonormal(principal.shape[1], len(principal), subject.seed).to(principal)
    kinds: tuple[tuple[str, Tensor, Kind], ...] = (
        ("random directions", random, "null"),
        ("principal components", principal, "rival"),
    )
    found = []
    for name, rows, kind in kinds:
        codes = (subject.test_outputs - mean) @ rows.T
        few = codes.abs().topk(min(k, codes.shape[1]), dim=1).indices
        sparse = torch.zeros_like(codes).scatter(1, few, codes.gather(1, few))
        title = f"the {k:,} largest codes of each output in {name}" if k > 1 else f"the largest code in {name}"
        found.append(Row(title, subject.score(subject.read(sparse @ rows + mean)), numbers, kind, beside.name))
    return found[0], found[1]


def row(curve: Curve, k: int, kind: Kind, beside: Row) -> Row:
    """The row of a null or a rival at k components."""
    return replace(replace(curve, beside=None).row(k), kind=kind, beside=beside.name)


def affordable(curve: Curve, numbers: int) -> int | None:
    """The most components of a curve that store no more than this; None where even the first point stores more."""
    points = zip(curve.kept.tolist(), [] if curve.numbers is None else curve.numbers.tolist(), strict=True)
    return max((k for k, stored in points if stored <= numbers), default=None)


def _orthonormal(size: int, count: int, seed: int) -> Float[Tensor, "n d"]:
    """Random orthonormal rows, in float64."""
    noise = torch.randn(size, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows: Tensor = torch.linalg.qr(noise)[0].T
    return rows
