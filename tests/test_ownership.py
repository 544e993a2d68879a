"""What records own: copies that no training moves, and graphs only where they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bilens import matching, pairs, sae
from bilens.dictionary import Dictionary
from bilens.kernel import Kernel
from bilens.models import Bilinear, Gated, ImageClassifier
from bilens.pairs import PairCodes, PairResponses, SampledStream
from bilens.space import Space
from bilens.tensor import BilinearTensor
from oracle import array, dense, near, pinv

X, Y, H, Z = Space("x", 4), Space("y", 3), Space("hidden", 5), Space("z", 2)
CODES = Space("codes", 5)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(seed: int = 0) -> BilinearTensor:
    return BilinearTensor(normal(5, 4, seed=seed), normal(5, 4, seed=seed + 1), normal(3, 5, seed=seed + 2), X, Y)


W, V, D, B, C, E, MATRIX, SQUARE, ATOMS, OFFSET = (
    (5, 4), (5, 4), (3, 5), (5,), (5,), (3,), (3, 4), (4, 4), (5, 4), (4,),
)  # fmt: skip

MAKERS: dict[str, tuple[tuple[tuple[int, ...], ...], Callable[..., Any]]] = {
    "BilinearTensor": ((W, V, D), lambda w, v, d: BilinearTensor(w, v, d, X, Y)),
    "from_layer": ((W, V), lambda w, v: BilinearTensor.from_layer(w, v, input=X, output=H)),
    "from_layer with a read-out": ((W, V, D), lambda w, v, d: BilinearTensor.from_layer(w, v, d, input=X, output=Y)),
    "from_layer with biases": (
        (W, V, D, B, C, E),
        lambda w, v, d, b, c, e: BilinearTensor.from_layer(
            w, v, d, left_bias=b, right_bias=c, down_bias=e, input=X, output=Y
        ),
    ),
    "from_linear": ((MATRIX,), lambda m: BilinearTensor.from_linear(m, input=X, output=Y)),
    "then": (((2, 3),), lambda m: plain().then(m, Z)),
    "shift": ((E,), plain().shift),
    "kernel": ((E,), plain().kernel),
    "Kernel": ((W, V, B), lambda w, v, b: Kernel(w, v, b, X)),
    "from_matrix": ((SQUARE,), lambda m: Kernel.from_matrix(m, X)),
    "Dictionary": ((ATOMS, ATOMS, OFFSET), lambda a, b, o: Dictionary(a, b, X, CODES, 4, o)),
    "from_atoms": ((ATOMS, OFFSET), lambda a, o: Dictionary.from_atoms(a, X, offset=o)),
    "PairResponses": (((4, 5), (4, 5), D), lambda a, b, d: PairResponses(a, b, d, X)),
    "PairCodes": (
        ((3,),),
        lambda v: PairCodes(torch.tensor([0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]), torch.tensor([0, 1, 1]), v, 2, X),
    ),
    "SampledStream": (
        ((10,),),
        lambda ends: SampledStream(PairResponses.of(plain()), "polarized", 4, 0, ends),
    ),
    "second_moments": (((6, 4),), pairs.second_moments),
    "moment_weights": ((SQUARE,), pairs.moment_weights),
    "sampled": (((10,),), lambda w: pairs.sampled(plain(), w)),
}


def numbers(record: Any) -> list[Tensor]:
    """All tensors of a record."""
    if isinstance(record, Tensor):
        return [record]
    values = [getattr(record, name) for name in record.__dataclass_fields__]
    nested = [numbers(value) for value in values if isinstance(value, PairResponses)]
    return [value for value in values if isinstance(value, Tensor)] + [one for many in nested for one in many]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", ["parameters", "detached views of parameters", "NumPy's memory"])
def test_training_on_moves_no_record_and_no_record_has_a_graph(name: str, kind: str) -> None:
    shapes, make = MAKERS[name]
    parameters = [nn.Parameter(normal(*shape, seed=seed).abs()) for seed, shape in enumerate(shapes)]
    given: list[Tensor] = list(parameters)
    if kind == "detached views of parameters":
        given = [parameter.detach() for parameter in parameters]
    elif kind == "NumPy's memory":
        arrays = [parameter.detach().numpy() for parameter in parameters]
        given = [torch.from_numpy(value) for value in arrays]
    record = make(*given)
    before = [value.clone() for value in numbers(record)]
    assert before
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1)
    for value, old in zip(numbers(record), before, strict=True):
        assert torch.equal(value, old)
        assert not value.requires_grad


def test_the_tensor_of_a_layer_in_training_stays_what_it_was() -> None:
    left, right = (nn.Linear(4, 5, bias=False).double() for _ in range(2))
    x = normal(7, 4)
    tensor = BilinearTensor.from_layer(left.weight, right.weight, input=X, output=H)
    kernel, stream = tensor.kernel(0), pairs.stream(tensor)
    before = [tensor(x), kernel.dense(), stream.batch(0)]
    optimizer = torch.optim.SGD([left.weight, right.weight], lr=0.5)
    (left(x) * right(x)).square().sum().backward()
    optimizer.step()
    for old, new in zip(before, (tensor(x), kernel.dense(), stream.batch(0)), strict=True):
        assert torch.equal(old, new)
        assert new.numpy() is not None  # which a graph forbids


def test_a_coders_dictionary_stays_what_it_was() -> None:
    coder = sae.StandardSAE(5, 8).double()
    for active in (None, [0, 3, 5]):
        dictionary = coder.dictionary(H, active)
        before = dictionary.atoms.clone()
        with torch.no_grad():
            coder.W_dec.add_(1)
        assert torch.equal(dictionary.atoms, before)
        assert not dictionary.duals.requires_grad


def test_models_keep_a_graph_only_where_it_is_asked_for() -> None:
    for model in (
        Bilinear(4, 5, bias=True),
        Gated(4, 5, "swiglu", beta=0),
        ImageClassifier(X, Y, hidden=5, bias=True),
        ImageClassifier(X, Y, hidden=5, embedding=5, residual=True),
    ):
        assert not any(value.requires_grad for value in numbers(model.tensor()))
        model.tensor(detach=False).norm().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_is_computed_from_trained_numbers_is_plain() -> None:
    """Measures, codes, streams and matchings answer with numbers that `.numpy()` takes."""
    rows, tensor = nn.Parameter(normal(6, 4)), plain()
    coder = sae.TopKSAE(3, 8, 2).double()
    codes = PairCodes.of(pairs.stream(tensor, shuffle=False), coder.encode)
    moment = nn.Parameter(normal(4, 4) @ normal(4, 4).T)
    for found in (
        pairs.contract(tensor, rows, coder),
        codes.values,
        codes.kernel(0).dense(),
        codes.expectation(moment),
        matching.subspace_cosines(rows, rows),
        matching.assign(rows @ rows.T).similarity,
        matching.random_directions(moment, 3),
        sae.l0(rows),
        sae.dead_fraction(rows),
        sae.nmse(rows, rows * 2),
        sae.explained_variance(rows, rows * 2),
        sae.evaluate(sae.StandardSAE(4, 6).double(), rows).frequency,
        sae.TensorStream(rows, 2).batch(0),
        sae.as_stream([rows * 2]).batch(0),
        Dictionary.from_atoms(rows, X).encode_among(rows, torch.ones(6, 6, dtype=torch.bool)),
    ):
        assert not found.requires_grad
        assert np.isfinite(found.numpy()).all()


def test_coders_train_on_vectors_that_have_a_graph() -> None:
    weight = nn.Parameter(normal(6, 4))
    vectors = normal(30, 6) @ weight
    coders = [sae.StandardSAE(4, 8).double() for _ in range(3)]
    settings: dict[str, Any] = {"steps": 4, "progress": False, "device": "cpu"}
    sae.train(coders[0], sae.TensorStream(vectors, 10, shuffle=False), **settings)
    sae.train(coders[1], list(vectors.split(10)), **settings)
    sae.train(coders[2], list(vectors.detach().split(10)), **settings)
    for coder in coders[:2]:
        assert torch.equal(coder.W_dec, coders[2].W_dec)
    assert weight.grad is None


# Gradients, where they are asked for


def layer(w: Tensor, v: Tensor, d: Tensor, b: Tensor) -> BilinearTensor:
    return BilinearTensor.from_layer(w, v, d, left_bias=b, down_bias=b[:3], input=X, output=Y, detach=False)


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [normal(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]


OUTPUTS = Dictionary.from_atoms(normal(4, 3, seed=8), Y, offset=normal(3, seed=9))
INPUTS = Dictionary.from_atoms(normal(6, 4, seed=8), X, offset=normal(4, seed=9))
OTHER = BilinearTensor.from_layer(normal(5, 4, seed=6), normal(5, 4, seed=7), normal(3, 5, seed=8),
                                  left_bias=normal(5), input=X, output=Y)  # fmt: skip
VECTORS, FOLDED = normal(2, 4, seed=9), normal(2, 5, seed=9)
FIRST, OTHERS = torch.triu_indices(5, 5)

FOLLOWED: dict[str, Callable[[BilinearTensor], Tensor]] = {
    "call": lambda t: t(VECTORS),
    "polarised call": lambda t: t(VECTORS, VECTORS.flip(0)),
    "norm": lambda t: t.norm(),
    "inner": lambda t: t.inner(OTHER),
    "cosine": lambda t: t.cosine(OTHER),
    "gram": lambda t: t.gram(),
    "to_dense": lambda t: t.to_dense(),
    "centered": lambda t: t.centered().norm(),
    "sum": lambda t: (t + OTHER).norm(),
    "then": lambda t: t.then(normal(2, 3), Z).norm(),
    "read": lambda t: t.read(OUTPUTS)(VECTORS),
    "pullback": lambda t: t.pullback(INPUTS).kernel(0).dense(),
    "coordinates": lambda t: t.coordinates(INPUTS).norm(),
    "kernel": lambda t: t.kernel(1)(VECTORS),
    "kernel of a direction": lambda t: t.kernel(normal(3)).norm(),
    "matvec": lambda t: t.kernel(1).matvec(FOLDED),
    "dense": lambda t: t.kernel(1).dense(),
    "parts": lambda t: torch.cat([t.kernel(1).parts().quadratic.flatten(), t.kernel(1).parts().linear]),
    "inner of kernels": lambda t: t.kernel(1).inner(OTHER.kernel(2)),
    "pair vectors": lambda t: pairs.polarized(t, FIRST, OTHERS),
    "two-hot vectors": lambda t: pairs.two_hot(t, FIRST, OTHERS, INPUTS),
    "a pair stream": lambda t: pairs.stream(t, kind="symmetric", shuffle=False).batch(0),
    "contract": lambda t: pairs.contract(t, FOLDED, detach=False),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    parts = leaves(W, V, D, B)
    with torch.no_grad():
        parts[2][0, 1] = 0  # a weight of 0 has a gradient, and so has a row of zeros
        parts[0][2] = 0
    assert torch.autograd.gradcheck(lambda *factors: FOLLOWED[name](layer(*factors)), parts, fast_mode=True)


def test_gradients_reach_an_identity_read_out() -> None:
    eye = torch.eye(5, dtype=torch.float64).requires_grad_()
    w, v = normal(*W), normal(*V)

    def tensor(d: Tensor) -> BilinearTensor:
        return BilinearTensor.from_layer(w, v, d, input=X, output=H, detach=False)

    for call in (lambda d: tensor(d).gram(), lambda d: pairs.polarized(tensor(d), FIRST[:4], OTHERS[:4] % 4)):
        assert torch.autograd.gradcheck(call, (eye,))


def test_gradients_of_what_is_given() -> None:
    """Dictionaries, directions, maps, shifts and matrices keep their graph when they are told to."""
    tensor, y = plain(), normal(2, 3)
    matrix, square, e = leaves((2, 3), SQUARE, E)
    for call, leaf in (
        (lambda m: tensor.then(m, Z, detach=False).norm(), matrix),
        (lambda m: BilinearTensor.from_linear(m, input=Space("w", 3), output=Z, detach=False).norm(), matrix),
        (lambda m: Kernel.from_matrix(m, X, detach=False).norm(), square),
        (lambda e: tensor.shift(e, detach=False).norm(), e),
        (lambda e: tensor.kernel(e, detach=False).dense(), e),
    ):
        assert torch.autograd.gradcheck(call, (leaf,))
    # At equal singular values the SVD has no gradient, and the pseudoinverse has one.
    for atoms in (normal(5, 3), torch.eye(3, dtype=torch.float64), normal(2, 3)):
        atoms.requires_grad_()
        offset = normal(3, seed=5).requires_grad_()

        def made(a: Tensor, o: Tensor) -> Dictionary:
            return Dictionary.from_atoms(a, Y, offset=o, detach=False)

        for use in (
            lambda d: d.encode(y), lambda d: d.project(y), lambda d: tensor.read(d).norm(),
            lambda d: d.fold().duals, lambda d: d.restrict([1, 0]).duals,
        ):  # fmt: skip
            assert torch.autograd.gradcheck(lambda a, o, use=use: use(made(a, o)), (atoms, offset))


def test_a_zero_tensor_has_a_norm_of_zero_and_no_gradient_that_is_not_a_number() -> None:
    zero = torch.zeros(5, 4, dtype=torch.float64, requires_grad=True)
    tensor = BilinearTensor.from_layer(zero, zero, input=X, output=H, detach=False)
    (tensor.norm() + tensor.cosine(tensor) + tensor.kernel(0).norm()).backward()
    assert zero.grad is not None
    assert bool((zero.grad == 0).all())


def test_half_precision_is_held_in_single_precision() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        w, v, d, b = (normal(*shape, seed=n).to(dtype) for n, shape in enumerate((W, V, D, B)))
        tensor = BilinearTensor.from_layer(w, v, d, left_bias=b, input=X, output=Y)
        exact = dense(torch.cat([w, b[:, None]], 1), torch.cat([v, b[:, None] * 0], 1), d)
        records = [tensor, tensor.kernel(0), Kernel.from_matrix(normal(4, 4).to(dtype), X), PairResponses.of(tensor)]
        for value in [one for record in records for one in numbers(record)]:
            assert value.dtype == torch.float32
        near(tensor.kernel(1).dense(), exact[1], abs(exact).max(), rtol=1e-6)
        near(tensor.norm(), np.linalg.norm(exact), np.linalg.norm(exact), rtol=1e-6)
        near(tensor.inner(tensor), np.linalg.norm(exact) ** 2, np.linalg.norm(exact) ** 2, rtol=1e-6)
        atoms = normal(300, 4).to(dtype)  # as many as the type's own epsilon would call dependent
        dictionary = Dictionary.from_atoms(atoms, X)
        assert (dictionary.rank, dictionary.duals.dtype) == (4, torch.float32)
        near(dictionary.duals, pinv(atoms).T, rtol=1e-6)
        embedded = ImageClassifier(X, Y, hidden=5, embedding=5).to(dtype)
        left = array(embedded.layer.left.weight) @ array(embedded.embedding.weight)
        near(embedded.tensor().left, left, abs(left).max(), rtol=1e-6)
        coder = sae.StandardSAE(4, 6).to(dtype)
        assert coder.dictionary(X).atoms.dtype == torch.float32
        codes = PairCodes.of(pairs.stream(tensor, shuffle=False), lambda r, dtype=dtype: r.to(dtype))
        assert codes.values.dtype == pairs.second_moments(normal(3, 4).to(dtype)).dtype == torch.float32
