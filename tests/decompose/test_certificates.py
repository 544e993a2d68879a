"""Certificates hold for what is returned, rounding included: against exact arithmetic on fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens import decompose
from bilens.dictionary import Dictionary
from bilens.errors import BilensError
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from strategies import FILLS, SEEDS, filled

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SCALES = {torch.float64: (0, -40, 60), torch.float32: (0, -20, 25), torch.bfloat16: (0, -20, 25), torch.float16: (0, 4)}
"""Powers of two that each of a kernel's three factors is multiplied with."""


def fractions(values: Any) -> list[Any]:
    """The numbers themselves, in nested lists."""
    return (
        [fractions(value) if isinstance(value, list) else Fraction(value) for value in values.double().tolist()]
        if (isinstance(values, torch.Tensor))
        else [fractions(value) if isinstance(value, list) else Fraction(value) for value in values]
    )


def dot(a: list[Fraction], b: list[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def lifted(x: torch.Tensor, space: Space) -> list[list[Fraction]]:
    return [[*row, Fraction(1)] if space.constant else row for row in fractions(x)]


def exact(tensor: BilinearTensor, x: torch.Tensor) -> list[list[Fraction]]:
    """y of each row of x, exactly."""
    left, right, down = fractions(tensor.left), fractions(tensor.right), fractions(tensor.down)
    found = []
    for row in lifted(x, tensor.input):
        hidden = [dot(a, row) * dot(b, row) for a, b in zip(left, right, strict=True)]
        found.append([dot(weights, hidden) for weights in down])
    return found


def apart(y: list[Fraction], other: torch.Tensor) -> list[Fraction]:
    return [abs(a - Fraction(b)) for a, b in zip(y, other.double().tolist(), strict=True)]


@st.composite
def rounded_kernels(draw: st.DrawFn) -> Kernel:
    """A kernel in any of the types, at several scales, biased or not."""
    dtype = draw(st.sampled_from(TYPES))
    size, hidden, constant = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.booleans())
    power = draw(st.sampled_from(SCALES[dtype]))
    space = Space("x", size, constant=constant)
    fill = st.sampled_from([fill for fill in FILLS if fill != "large"])
    left, right = (filled(draw(fill), hidden, space.dim, draw(SEEDS)) for _ in range(2))
    weights = filled(draw(fill), 1, hidden, draw(SEEDS))[0]
    left, right, weights = (torch.ldexp(factor, torch.tensor(power)).to(dtype) for factor in (left, right, weights))
    return Kernel(left, right, weights, space)


def as_tensor(kernel: Kernel) -> BilinearTensor:
    return BilinearTensor(kernel.left, kernel.right, kernel.weights[None], kernel.input, Space("y", 1))


def inputs(data: st.DataObject, size: int) -> torch.Tensor:
    x = filled(data.draw(st.sampled_from(("normal", "whole", "zero"))), 3, size, data.draw(SEEDS))
    return x.to(data.draw(st.sampled_from(TYPES)))


@given(st.data(), rounded_kernels())
def test_no_error_of_a_spectrum_is_above_its_bound(data, kernel):
    space, x = kernel.input, inputs(data, kernel.input.size)
    k = data.draw(st.none() | st.integers(1, space.dim))
    computed = decompose.eigh(kernel, k)
    y = [row[0] for row in exact(as_tensor(kernel), x)]
    norms = space.fold(x.double()).norm(dim=1)
    in_own_type = space.fold(x).norm(dim=1)
    for less in {0, len(computed) // 2, len(computed)}:
        kept = computed.keep(less)
        assert kept.values.dtype == torch.promote_types(kernel.left.dtype, torch.float32)
        errors = apart(y, kept.reconstruct(x))
        for size in (norms, in_own_type):
            for error, bound in zip(errors, kept.bound(size).double().tolist(), strict=True):
                assert error <= bound
    # along the eigenvectors, where the bound is closest
    if not space.constant:
        errors = apart(
            [row[0] for row in exact(as_tensor(kernel), computed.vectors)], computed.reconstruct(computed.vectors)
        )
        bounds = computed.bound(computed.vectors.double().norm(dim=1)).double().tolist()
        assert all(error <= bound for error, bound in zip(errors, bounds, strict=True))


@given(rounded_kernels())
def test_the_bound_of_all_pairs_is_the_rounding_of_their_type(kernel):
    found = decompose.eigh(kernel)
    unit = torch.finfo(found.values.dtype).eps
    size = float(
        (kernel.weights.double().abs() * kernel.left.double().norm(dim=1) * kernel.right.double().norm(dim=1)).sum()
    )
    assert float(found.bound(1.0)) <= 4 * unit * float(found.energy.sqrt()) + 1e-13 * size


@given(rounded_kernels())
def test_residuals_are_those_of_the_pairs_returned(kernel):
    found = decompose.eigh(kernel)
    left, right, weights = fractions(kernel.left), fractions(kernel.right), fractions(kernel.weights)
    for value, vector, residual in zip(
        fractions(found.values), fractions(found.vectors), fractions(found.residuals), strict=True
    ):
        image = [-value * entry for entry in vector]
        for a, b, w in zip(left, right, weights, strict=True):
            by_left, by_right = w * dot(a, vector) / 2, w * dot(b, vector) / 2
            image = [total + by_left * q + by_right * p for total, p, q in zip(image, a, b, strict=True)]
        assert dot(image, image) <= residual**2


@given(st.data(), rounded_kernels())
def test_no_mean_error_of_a_weighted_spectrum_is_above_what_it_states(data, kernel):
    """Data of whole numbers, four of them, have a second moment without rounding."""
    space = kernel.input
    x = filled("whole", 4, space.size, data.draw(SEEDS)) * data.draw(st.sampled_from((1.0, 2.0**-9)))
    moment = decompose.second_moment(x, space)
    k = data.draw(st.none() | st.integers(1, space.dim))
    found = decompose.eigh_weighted(kernel, moment, k)
    y = [row[0] for row in exact(as_tensor(kernel), x)]
    mean = sum(apart(y, found.reconstruct(x)), Fraction(0)) / 4
    assert mean <= Fraction(float(found.discarded))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_answered_in_single(dtype):
    tensor = BilinearTensor(
        *(filled("normal", *shape).to(dtype) for shape in ((40, 64, 0), (40, 64, 1), (3, 40, 2))),
        Space("x", 64),
        Space("y", 3),
    )
    kernel, wide = tensor.kernel(0), tensor.to(torch.float64)
    atoms = Dictionary.from_atoms(filled("normal", 70, 64, 3).to(dtype), tensor.input)
    plain = decompose.eigh(kernel)
    assert torch.allclose(plain.values.double(), decompose.eigh(wide.kernel(0)).values, rtol=1e-6)
    records = (
        plain,
        decompose.eigh_weighted(kernel, torch.eye(64)),
        decompose.eigh_pullback(kernel, atoms, 3),
        decompose.eigh_coordinates(kernel, atoms, 3),
        decompose.input_basis(tensor, 3),
        decompose.svd(tensor, 2),
        decompose.interactions(tensor),
        decompose.eigh_many(tensor, k=2),
    )
    for record in records:
        for name, value in vars(record).items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                assert value.dtype in (torch.float32, torch.float64), f"{type(record).__name__}.{name}"
    assert decompose.eigvalsh_pullback(kernel, atoms).dtype == torch.float32
    x = filled("normal", 20, 64, 4)
    error = (wide(x)[:, 0] - plain.reconstruct(x).double()).abs()
    assert (
        0 < float(error.max()) < float(plain.bound(x.norm(dim=1)).min()) < 1e-5 * float(plain.values.abs().max() * 64)
    )


# Any scale


def test_a_square_may_leave_the_range_of_single_precision():
    matrix = torch.diag(torch.tensor([3.0, -4.0]))
    for power in (-60, 60):
        found = decompose.eigh(Kernel.from_matrix(torch.ldexp(matrix, torch.tensor(power)), Space("x", 2)))
        assert float(found.energy) == pytest.approx(25 * 4.0**power, rel=1e-12)
        assert found.participation_ratio() == pytest.approx(49 / 25)


@pytest.mark.parametrize(("dtype", "power"), [(torch.float32, 120), (torch.float64, 1000)])
def test_factors_of_any_size_as_long_as_the_answer_fits(dtype, power):
    left, right = filled("normal", 3, 4, 0).to(dtype), filled("normal", 3, 4, 1).to(dtype)
    weights = filled("normal", 1, 3, 2)[0].to(dtype)
    plain = decompose.eigh(Kernel(left, right, weights, Space("x", 4)))
    up, down = 2.0**power, 2.0**-power
    for a, b in ((up, down), (down, up)):
        for factors in ((left * a, right * b, weights), (left * a, right, weights * b), (left, right * a, weights * b)):
            assert torch.equal(decompose.eigh(Kernel(*factors, Space("x", 4))).values, plain.values)
    rows = torch.tensor([[up], [down], [1.0]], dtype=dtype)  # each unit at a size of its own
    assert torch.equal(decompose.eigh(Kernel(left * rows, right / rows, weights, Space("x", 4))).values, plain.values)


@pytest.mark.parametrize("call", [
    decompose.eigh,
    lambda kernel: decompose.eigh_weighted(kernel, torch.eye(4)),
    lambda kernel: decompose.eigh_pullback(kernel, Dictionary.from_atoms(torch.eye(4), kernel.input)),
    lambda kernel: decompose.eigvalsh_pullback(kernel, Dictionary.from_atoms(torch.eye(4), kernel.input)),
    lambda kernel: decompose.input_basis(as_tensor(kernel)),
    lambda kernel: decompose.interactions(as_tensor(kernel)),
])  # fmt: skip
@pytest.mark.parametrize(("scale", "words"), [(1e-30, "not 0 but below"), (1e30, "beyond")])
def test_what_leaves_the_range_of_the_type_is_refused(call, scale, words):
    left, right = (filled("normal", 3, 4, seed).float() for seed in (0, 1))
    weights = filled("normal", 1, 3, 2)[0].float()
    with refuses(BilensError, words, "in float32", "numbers that fit"):
        call(Kernel(left * scale, right * scale, weights * scale, Space("x", 4)))


def test_squares_that_leave_the_range_of_double_are_refused():
    matrix = torch.diag(torch.tensor([3.0, -4.0], dtype=torch.float64))
    for power, words in ((-600, "not 0 but below"), (600, "beyond")):
        with refuses(BilensError, "squares of eigenvalues", words, "Scale the layer"):
            decompose.eigh(Kernel.from_matrix(torch.ldexp(matrix, torch.tensor(power)), Space("x", 2)))


def test_a_spectrum_that_is_not_orthonormal_has_no_certificate():
    zero = torch.zeros(())
    found = decompose.Spectrum(torch.ones(2), torch.ones(2, 3), torch.zeros(2), zero, zero, Space("x", 3))
    with refuses(BilensError, "not orthonormal"):
        found.bound(1.0)


# In features, of the input's modes, of outputs and of interactions


@given(st.data(), rounded_kernels(), st.booleans())
def test_no_error_of_a_spectrum_in_features_is_above_its_bound(data, kernel, duals):
    kernel = Kernel(kernel.left, kernel.right, kernel.weights, Space("x", kernel.input.dim))
    m, dim = data.draw(st.integers(1, 9)), kernel.input.dim
    rows = filled(data.draw(st.sampled_from(("normal", "whole", "repeated"))), m, dim, data.draw(SEEDS))
    rows = rows.to(data.draw(st.sampled_from((torch.float32, torch.float64))))
    d = Dictionary(rows, rows, kernel.input, Space("f", m), min(m, dim))
    k = data.draw(st.none() | st.integers(1, min(m, dim)))
    found = (decompose.eigh_coordinates if duals else decompose.eigh_pullback)(kernel, d, k)
    codes = torch.cat([filled("normal", 2, m, data.draw(SEEDS)), found.vectors.double()])
    inputs = [[dot(row, list(column)) for column in zip(*fractions(rows), strict=True)] for row in fractions(codes)]
    left, right, weights = fractions(kernel.left), fractions(kernel.right), fractions(kernel.weights)
    y = [
        sum((w * dot(a, x) * dot(b, x) for a, b, w in zip(left, right, weights, strict=True)), Fraction(0))
        for x in inputs
    ]
    bounds = found.bound(codes.norm(dim=1)).double().tolist()
    assert all(error <= bound for error, bound in zip(apart(y, found.reconstruct(codes)), bounds, strict=True))


@st.composite
def rounded_tensors(draw: st.DrawFn) -> BilinearTensor:
    kernel = draw(rounded_kernels())
    outputs = draw(st.integers(1, 3))
    down = filled("normal", outputs, len(kernel.left), draw(SEEDS)).to(kernel.weights)
    return BilinearTensor(kernel.left, kernel.right, down, kernel.input, Space("y", outputs))


def length(values: list[Fraction]) -> Fraction:
    return dot(values, values)


@given(st.data(), rounded_tensors())
def test_no_error_of_components_or_directions_is_above_its_bound(data, tensor):
    x = inputs(data, tensor.input.size)
    norms = tensor.input.fold(x.double()).norm(dim=1)
    y = exact(tensor, x)
    found = decompose.svd(tensor, data.draw(st.none() | st.integers(1, tensor.output.size)))
    for k in range(len(found) + 1):
        kept = exact(found.truncate(k), x)
        for a, b, bound in zip(y, kept, found.bound(k, norms).double().tolist(), strict=True):
            assert length([p - q for p, q in zip(a, b, strict=True)]) <= Fraction(bound) ** 2
    basis = decompose.input_basis(tensor, data.draw(st.none() | st.integers(1, tensor.input.dim)))
    flat = BilinearTensor(tensor.left, tensor.right, tensor.down, Space("x'", tensor.input.dim), tensor.output)
    for k in {0, len(basis) // 2, len(basis)}:
        vectors = fractions(basis.vectors[:k])
        for row, a, bound in zip(lifted(x, tensor.input), y, basis.bound(k, norms).double().tolist(), strict=True):
            codes = [dot(v, row) for v in vectors]
            seen = [sum((c * v[i] for c, v in zip(codes, vectors, strict=True)), Fraction(0)) for i in range(len(row))]
            left, right, down = fractions(flat.left), fractions(flat.right), fractions(flat.down)
            hidden = [dot(p, seen) * dot(q, seen) for p, q in zip(left, right, strict=True)]
            assert length([p - dot(w, hidden) for p, w in zip(a, down, strict=True)]) <= Fraction(bound) ** 2


@given(st.data(), rounded_tensors())
def test_the_residual_mass_bounds_what_the_coefficients_give(data, tensor):
    found = decompose.interactions(tensor)
    assert found.coefficients.dtype == torch.promote_types(tensor.left.dtype, torch.float32)
    least = found.without(found.keep(1, found.coefficients.abs()))
    z = inputs(data, tensor.input.size)
    norms = tensor.input.fold(z.double()).norm(dim=1)
    dim = tensor.input.dim
    places = [(i, j) for i in range(dim) for j in range(i, dim)]
    for row, bounds in zip(lifted(z, tensor.input), least.bound(norms).double().tolist(), strict=True):
        products = [row[i] * row[j] for i, j in places]
        for column, bound in zip(fractions(least.coefficients.T), bounds, strict=True):
            assert abs(dot(column, products)) <= bound
