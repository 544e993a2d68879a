"""One rule for weights and vectors: floating-point types are converted, all others are refused in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bilens import matching, pairs, sae
from bilens._internal import checks
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from bilens.pairs import PairCodes, PairResponses
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import array, near

X, Y = Space("x", 4), Space("y", 3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


B = BilinearTensor.from_layer(normal(5, 4), normal(5, 4, seed=1), normal(3, 5), left_bias=normal(5), input=X, output=Y)
ATOMS = Dictionary.from_atoms(normal(6, 4), X, offset=normal(4))
CODES = PairCodes.of(pairs.stream(B, shuffle=False), torch.relu)
STANDARD, TOPK, GATED, JUMP = sae.StandardSAE(4, 8), sae.TopKSAE(4, 8, 2), sae.GatedSAE(4, 8), sae.JumpReLUSAE(4, 8)

TAKES: dict[str, tuple[int, Callable[[Tensor], Any]]] = {
    "tensor": (4, B),
    "tensor, the second": (4, lambda x: B(normal(2, 4), x)),
    "kernel": (4, B.kernel(0)),
    "kernel, the second": (4, lambda x: B.kernel(0)(normal(2, 4), x)),
    "matvec": (5, B.kernel(0).matvec),
    "dictionary.encode": (4, ATOMS.encode),
    "dictionary.encode_among": (4, lambda x: ATOMS.encode_among(x, torch.ones(2, 6, dtype=torch.bool))),
    "dictionary.decode": (6, ATOMS.decode),
    "dictionary.project": (4, ATOMS.project),
    "encode, ReLU": (4, STANDARD.encode),
    "encode, top-k": (4, TOPK.encode),
    "encode, gated": (4, GATED.encode),
    "encode, JumpReLU": (4, JUMP.encode),
    "decode": (8, TOPK.decode),
    "coder": (4, TOPK),
    "sparse": (4, lambda x: STANDARD.sparse(x).x_hat),
    "contract": (5, lambda a: pairs.contract(B, a)),
    "contract codes": (5, lambda a: CODES.contract(a, normal(3, 2))),
    "rebuild": (5, lambda a: CODES.rebuild(a, normal(3, 2), bias=normal(2))),
    "rebuild two-hot": (5, lambda a: CODES.rebuild_two_hot(a, normal(3, 2), bias=normal(2))),
    "rebuild, bias": (2, lambda b: CODES.rebuild(normal(2, 5), normal(3, 2), bias=b[0])),
}


@pytest.mark.parametrize("name", TAKES)
def test_vectors_of_another_floating_type_are_converted(name: str) -> None:
    size, call = TAKES[name]
    x = normal(2, size, seed=7).bfloat16().float()  # which all types hold
    with torch.no_grad():
        expected = call(x)
        for dtype in (torch.float64, torch.bfloat16):
            found = call(x.to(dtype))
            assert found.dtype == torch.float32
            assert torch.equal(found, expected)
        half = call(x.half())
        near(half, expected, 1 + float(expected.abs().max()), rtol=1e-2)


STRANGE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "whole": (lambda x: x.long(), "of type torch.int64"),
    "bool": (lambda x: x > 0, "of type torch.bool"),
    "complex": (lambda x: x + 0j, "of type torch.complex64"),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), "of type torch.float8_e4m3fn"),
    "sparse": (lambda x: x.to_sparse(), "with layout torch.sparse_coo"),
    "sparse rows": (lambda x: x.to_sparse_csr(), "with layout torch.sparse_csr"),
    "quantised": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "of type torch.qint8"),
    "meta": (lambda x: x.to("meta"), "on "),
}


def strange(kind: str, x: Tensor) -> tuple[Tensor, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return STRANGE[kind][0](x), STRANGE[kind][1]


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", TAKES)
def test_other_vectors_are_refused_in_one_line(name: str, kind: str) -> None:
    size, call = TAKES[name]
    x, said = strange(kind, normal(2, size))
    if "bias" in name and kind == "sparse rows":
        return  # one vector has no rows
    with refuses(BilensError, said):
        call(x)


KEEPS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Any]]] = {
    "left": ((5, 4), lambda w: BilinearTensor.from_layer(w, w, input=X, output=Space("hidden", 5))),
    "left, biased": (
        (5, 4),
        lambda w: BilinearTensor.from_layer(w, w, left_bias=normal(5), input=X, output=Space("hidden", 5)),
    ),
    "down": (
        (3, 5),
        lambda d: BilinearTensor.from_layer(normal(5, 4), normal(5, 4), d, input=X, output=Y),
    ),
    "factors": ((5, 4), lambda w: BilinearTensor(w, w, normal(3, 5), X, Y)),
    "linear": ((3, 4), lambda m: BilinearTensor.from_linear(m, input=X, output=Y)),
    "then": ((2, 3), lambda m: B.then(m, Space("z", 2))),
    "kernel": ((5, 4), lambda w: Kernel(w, w, normal(5), X)),
    "matrix": ((4, 4), lambda m: Kernel.from_matrix(m, X)),
    "atoms": ((6, 4), lambda a: Dictionary.from_atoms(a, X)),
    "dictionary": ((6, 4), lambda a: Dictionary(a, a, X, Space("codes", 6), 4)),
    "features": ((4, 5), lambda a: PairResponses(a, a, None, X)),
    "a stream's vectors": ((6, 4), sae.TensorStream),
    "a batch": ((6, 4), lambda x: sae.as_stream([x]).batch(0)),
    "training": ((6, 4), lambda x: sae.train(sae.TopKSAE(4, 8, 2), [x], steps=1, progress=False, device="cpu")),
    "evaluating": ((6, 4), lambda x: sae.evaluate(TOPK, x)),
    "similarities": ((3, 4), matching.assign),
    "spans": ((3, 4), lambda x: matching.subspace_cosines(x, x)),
    "moment": ((4, 4), lambda m: matching.random_directions(m, 2)),
    "moments of pairs": ((4, 4), pairs.moment_weights),
    "samples": ((6, 4), pairs.second_moments),
    "decoder": ((6, 4), lambda w: sae.decoder_similarity(w) if not w.is_meta else checks.weights("W_dec", w)),
    "atoms of codes": ((3, 2), lambda a: CODES.decode(0, 3, a)),
}


SHAPES_ONLY = ("left", "left, biased", "linear", "matrix", "dictionary", "features")
"""What can be made on the meta device, of shapes without numbers."""


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", KEEPS)
def test_other_weights_are_refused_in_one_line(name: str, kind: str) -> None:
    shape, make = KEEPS[name]
    value, said = strange(kind, normal(*shape))
    if kind == "meta" and name in SHAPES_ONLY:
        assert all(part.is_meta for part in vars(make(value)).values() if isinstance(part, Tensor))
        return
    with refuses(BilensError, said):
        make(value)


@pytest.mark.bad_input
def test_the_hint_says_what_to_do() -> None:
    for kind, hint in (
        ("whole", "Convert with .float()."),
        ("sparse", "Call .to_dense()."),
        ("quantised", "Call .dequantize()."),
        ("meta", "Load the weights first."),
    ):
        with refuses(BilensError, hint):
            Dictionary.from_atoms(strange(kind, normal(2, 4))[0], X)
    with refuses(BilensError, "vectors on meta; expected vectors on cpu. Call .to('cpu')."):
        B(normal(2, 4).to("meta"))
    with refuses(BilensError, "left as a nested tensor", "a dense tensor"):
        checks.floating("left", torch.nested.nested_tensor([normal(2), normal(3)], layout=torch.jagged))
    with refuses(BilensError, "W_dec on the meta device"):
        with torch.device("meta"):
            coder = sae.StandardSAE(4, 8)
        sae.train(coder, [normal(3, 4)], steps=1, progress=False, device="cpu")
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        for record in (B, B.kernel(0)):
            with refuses(BilensError, f"target = {dtype}", "torch.float32, torch.float64 or a device"):
                record.to(dtype)


def test_biases_and_offsets_are_converted_to_the_type_of_the_weights() -> None:
    w, v, d = normal(5, 4), normal(5, 4, seed=1), normal(3, 5)
    for dtype in (torch.float64, torch.float16):
        b, c, e = (normal(n, seed=n).half().to(dtype) for n in (5, 5, 3))
        tensor = BilinearTensor.from_layer(w, v, d, left_bias=b, right_bias=c, down_bias=e, input=X, output=Y)
        x = normal(6, 4)
        expected = ((array(x) @ array(w).T + array(b)) * (array(x) @ array(v).T + array(c))) @ array(d).T + array(e)
        assert tensor(x).dtype == torch.float32
        near(tensor(x), expected, abs(expected).max(), rtol=1e-6)
        assert Dictionary.from_atoms(w, X, offset=b[:4]).offset.dtype == torch.float32
    for name in ("left_bias", "right_bias", "down_bias"):
        bias = torch.ones(3 if name == "down_bias" else 5, dtype=torch.int64)
        with refuses(BilensError, f"{name} of type torch.int64"):
            BilinearTensor.from_layer(w, v, d, **{name: bias}, input=X, output=Y)
        with refuses(BilensError, f"{name} with numbers beyond float32"):
            BilinearTensor.from_layer(w, v, d, **{name: bias.double() * 1e300}, input=X, output=Y)


@pytest.mark.bad_input
def test_unlike_numbers_of_vectors_are_refused() -> None:
    for call in (B, B.kernel(0)):
        with refuses(ShapeError, "x and y with (2,) and (3,) vectors"):
            call(normal(2, 4), normal(3, 4))
        assert call(normal(4), normal(3, 4)).shape[0] == 3


def test_large_numbers_are_told_from_infinite_ones() -> None:
    large = torch.full((3, 4), 3e38)  # whose sum is infinite
    checks.weights("left", large)
    assert bool(torch.isfinite(BilinearTensor(large, large * 0, torch.ones(2, 3), X, Space("z", 2)).left).all())
    for bad in (torch.inf, -torch.inf, torch.nan):
        large[2, 3] = bad
        with refuses(BilensError, "left with NaN or infinity"):
            checks.weights("left", large)


def test_names_and_places() -> None:
    assert repr(B) == "BilinearTensor('x' (4+1) → 'y' (3), 5 hidden units, float32)"
    assert repr(B.kernel("2")) == "Kernel('2' over 'x' (4+1), 5 hidden units, float32)"
    assert repr(Kernel(normal(1, 4), normal(1, 4), normal(1), X)) == "Kernel(over 'x' (4), 1 hidden unit, float32)"
    assert repr(ATOMS) == "Dictionary('features of x' (6) over 'x' (4), rank 4, with an offset, float32)"
    kept = BilinearTensor.from_layer(normal(3, 4).requires_grad_(), normal(3, 4), input=X, output=Y, detach=False)
    assert repr(kept) == "BilinearTensor('x' (4) → 'y' (3), 3 hidden units, float32, with a graph)"
