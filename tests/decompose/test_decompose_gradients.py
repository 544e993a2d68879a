"""No result of a decomposition carries a graph, and none raises torch's own error, for factors that require gradients.

What is evaluated at inputs (`terms`, `reconstruct`, an `Interactions` called) can be differentiated with respect to
these, and to nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bilens import decompose
from bilens.convolution import ConvTensor
from bilens.deep import DeepTensor
from bilens.dictionary import Dictionary
from bilens.errors import BilensError
from bilens.kernel import Kernel
from bilens.score import ScoreTensor
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from strategies import filled

X, Y = Space("x", 4), Space("y", 3)


def asking(rows: int, columns: int, seed: int) -> Tensor:
    return filled("normal", rows, columns, seed).requires_grad_()


B = BilinearTensor(asking(6, 4, 0), asking(6, 4, 1), asking(3, 6, 2), X, Y)
Q = Kernel(asking(6, 4, 3), asking(6, 4, 4), asking(1, 6, 5)[0], X)
A = ScoreTensor(asking(2, 4, 11), asking(2, 4, 12), asking(2, 4, 13), asking(2, 4, 14), X, X)
V = ConvTensor.from_filters(asking(2, 4, 15).reshape(2, 1, 2, 2), asking(2, 4, 16).reshape(2, 1, 2, 2), image=(3, 3))
ROWS, SCORES = asking(5, 4, 6), asking(10, 3, 7)
F = Dictionary(ROWS, asking(5, 4, 8), X, Space("f", 5), 4)
IN, OUT = Dictionary.from_atoms(asking(4, 4, 20), X), Dictionary.from_atoms(asking(3, 3, 21), Y)
LABELS = torch.tensor([0, 0, 1, 1])
N = DeepTensor.chain(B, BilinearTensor(asking(4, 3, 17), asking(4, 3, 18), asking(2, 4, 19), Y, Space("z", 2)))
M = decompose.Metric.from_moment((ROWS.T @ ROWS).detach(), X)
C = decompose.Interactions(SCORES, X, Y)
S = decompose.Spectrum(
    ROWS[0], torch.eye(4).double() + 0 * asking(4, 4, 9), ROWS[1].abs(), SCORES[0, 0].abs(), SCORES[0, 1], X
)

CALLS = {
    "audit": lambda: decompose.audit(B, torch.eye(3), ROWS, SCORES[:5], ks=(1, 2), least=2),
    "coactivation": lambda: decompose.coactivation(decompose.strongest(B, top=2), ROWS),
    "cp": lambda: decompose.cp(B, 2, steps=3, progress=False),
    "cp_symmetric": lambda: decompose.cp_symmetric(B, 2, steps=3, progress=False),
    "participation_ratio": lambda: decompose.participation_ratio(SCORES),
    "decompile": lambda: decompose.decompile(B, IN, OUT, keep=2),
    "eigh": lambda: [decompose.eigh(Q), decompose.eigh(Q, 2)],
    "eigh_conv": lambda: [decompose.eigh_conv(V.kernel(0)), decompose.eigh_conv(V.kernel(0), 2)],
    "eigh_coordinates": lambda: decompose.eigh_coordinates(Q, F, 2),
    "eigh_many": lambda: [decompose.eigh_many(B, k=2), decompose.eigh_many(B, asking(2, 3, 0), k=2)],
    "eigh_pullback": lambda: decompose.eigh_pullback(Q, F, 2),
    "eigh_weighted": lambda: decompose.eigh_weighted(Q, ROWS.T @ ROWS, 2),
    "eigvalsh_pullback": lambda: decompose.eigvalsh_pullback(Q, F),
    "squared_norms": lambda: decompose.squared_norms(B),
    "input_basis": lambda: decompose.input_basis(B, 2),
    "interactions": lambda: decompose.interactions(B),
    "kernel_tree": lambda: decompose.kernel_tree(N, 0, roots=2, leaves=2),
    "odt": lambda: decompose.odt(N),
    "strongest": lambda: decompose.strongest(B, top=2),
    "strongest_stream": lambda: decompose.strongest_stream(B, top=2, batch_size=2).batch(0),
    "second_moment": lambda: decompose.second_moment(ROWS, X),
    "spectra_stream": lambda: [
        decompose.spectra_stream(B, k=2).batch(0),
        str(decompose.spectra_stream(B, k=2).settings),
    ],
    "score_svd": lambda: decompose.score_svd(A),
    "svd": lambda: decompose.svd(B),
    "svd_accurate": lambda: decompose.svd_accurate(B),
    "svd_conv": lambda: decompose.svd_conv(V),
}
METHODS = {
    "Audit": lambda: [decompose.audit(B, torch.eye(3), ROWS, SCORES[:5], ks=(1, 2), least=2).at(2)],
    "Decompiled": lambda: [(found := decompose.decompile(B, IN, OUT, keep=4)).keep(2), found.read],
    "Spectrum": lambda: [S.keep(2), S.select([1]), S.bound(ROWS[0, 0]), S.participation_ratio()],
    "Interactions": lambda: [
        C.keep(3, SCORES), *C.top(2, SCORES), C.then(ROWS[:2, :3], Space("z", 2)), C.magnitude(ROWS[0, :3]),
        C.importance(ROWS[0, :3], ROWS), C.without(C), C.bound(ROWS[0, 0]), C.dense(), C.used(),
        C.active(ROWS), *C.truncations([0, 2], SCORES),
    ],
    "InputBasis": lambda: [decompose.input_basis(B).bound(2, ROWS[0, 0]), decompose.input_basis(B).dictionary()],
    "TensorSVD": lambda: [
        decompose.svd(B).bound(1, ROWS[0, 0]), decompose.svd(B).truncate(2), decompose.svd(B).kernel(0),
    ],
    "Spectra": lambda: [
        decompose.eigh_many(B, k=2).bound(ROWS[0, 0]), decompose.eigh_many(B, k=2).spectrum(0, SCORES[0, 0]),
    ],
    "ScoreSVD": lambda: [
        decompose.score_svd(A).keep(2), decompose.score_svd(A).bound(1.0, ROWS[0, 0].detach()),
        decompose.score_svd(A).query(0), decompose.score_svd(A).key(0),
    ],
    "Coactivation": lambda: [
        *decompose.coactivation(found := decompose.strongest(B, top=2), ROWS).ablated(found), found.shares,
    ],
    "KernelTree": lambda: [
        (found := decompose.kernel_tree(N, 0, roots=2, leaves=2)).error, found.bound(ROWS[0, 0]), found.network,
    ],
    "Metric": lambda: [M.norm(ROWS.detach()), M.outside(ROWS.detach())],
    "ODT": lambda: [
        (found := decompose.odt(N)).error([3, 2, 1]), found.bound([3, 2, 1]), found.floor, found.truncate([3, 2, 1]),
    ],
    "StrongestInteractions": lambda: [
        (found := decompose.strongest(B, top=2)).shares, found.held, found.bound(ROWS[0, 0]), *found.top(0),
    ],
    "CP": lambda: [
        (found := decompose.cp(B, 2, steps=3, progress=False)).tensor(), found.bound(ROWS[0, 0]), found.cancellation()
    ],
}  # fmt: skip
RECORDS = {"WeightedSpectrum", "Interaction", "TopInteractions", "SpectraStream", "StrongestStream"}
"""Records with no method that computes beside those evaluated at inputs."""


def tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif dataclasses.is_dataclass(found):
        for field in dataclasses.fields(found):
            yield from tensors(getattr(found, field.name))
    elif isinstance(found, list | tuple):
        for part in found:
            yield from tensors(part)


def test_every_public_name_is_held_to_it() -> None:
    assert {*CALLS, *METHODS, *RECORDS} == set(decompose.__all__)


@pytest.mark.parametrize("name", [*CALLS, *METHODS])
def test_no_result_carries_a_graph(name: str) -> None:
    for value in tensors({**CALLS, **METHODS}[name]()):
        assert not value.requires_grad
        value.numpy()


@pytest.mark.parametrize(
    "call",
    [
        decompose.eigh(Q).terms,
        decompose.eigh(Q, 2).reconstruct,
        decompose.eigh_weighted(Q, torch.eye(4), 2).terms,
        decompose.eigh_weighted(Q, torch.eye(4)).reconstruct,
        decompose.eigh_many(B, k=2).reconstruct,
        decompose.interactions(B),
    ],
)
def test_what_is_evaluated_at_inputs_has_their_gradient(call: Any) -> None:
    assert torch.autograd.gradcheck(call, filled("normal", 2, 4, 10).requires_grad_())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "call",
    [
        decompose.eigh(Q).terms,
        decompose.eigh_weighted(Q, torch.eye(4)).reconstruct,
        decompose.eigh_many(B, k=2).reconstruct,
        decompose.interactions(B),
        lambda x: decompose.interactions(B).importance(torch.ones(3), x),
        lambda x: decompose.second_moment(x, X),
    ],
)
def test_inputs_of_another_floating_type_are_converted_and_whole_numbers_refused(call: Any) -> None:
    x = filled("whole", 3, 4, 0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(call(x.to(dtype)), call(x))
    with refuses(BilensError, "torch.int64", "floating-point numbers", ".float()"):
        call(x.long())
