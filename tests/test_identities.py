"""The thirteen exact identities, each against the dense oracle in float64 at 1e-9 of the natural scale.

Natural scale: the quantity's own formula with every term replaced by its absolute value (see `oracle.near`).
"""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import decompose, pairs
from bilens.dictionary import Dictionary
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor
from oracle import array, near, with_one
from strategies import SEEDS, dictionaries, kernels, layers, matrices, samples, vectors

EYE = torch.eye(3, dtype=torch.float64)
X = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)


def absolute(tensor: BilinearTensor) -> oracle.Array:
    """Natural scale of the dense tensor, entry by entry."""
    return oracle.dense(tensor.left.abs(), tensor.right.abs(), tensor.down.abs())


def absolute_kernel(kernel: Kernel) -> oracle.Array:
    """Natural scale of the dense kernel, entry by entry."""
    return oracle.dense(kernel.left.abs(), kernel.right.abs(), kernel.weights.abs()[None])[0]


def absolute_of(tensor: BilinearTensor, u: torch.Tensor) -> oracle.Array:
    """Natural scale of the kernel of u, entry by entry; in `absolute_kernel` the terms may have cancelled already."""
    return np.einsum("o,oij->ij", abs(array(u)), absolute(tensor))


def folded(tensor: BilinearTensor, x: torch.Tensor) -> oracle.Array:
    """x, or [x; 1] when the tensor's input carries the constant coordinate."""
    return with_one(x) if tensor.input.constant else array(x)


# 1. Bias folding


@given(st.data(), layers())
def test_identity_01_folded_biases_give_the_layer(data, layer):
    tensor = layer.tensor()
    x = data.draw(samples(layer.input.size))
    assert tensor.input.constant == layer.biased
    near(tensor(x), oracle.forward(layer, x), oracle.size(layer, x))


@given(layers(bias=True))
def test_identity_01_output_bias_is_one_more_hidden_unit(layer):
    tensor, hidden = layer.tensor(), len(layer.w)
    assert tensor.hidden == hidden + (layer.e is not None)
    near(tensor.left[:hidden, -1], np.zeros(hidden) if layer.b is None else layer.b)
    near(tensor.right[:hidden, -1], np.zeros(hidden) if layer.c is None else layer.c)
    if layer.e is not None:
        constant = torch.eye(tensor.input.dim, dtype=torch.float64)[-1]
        near(tensor.left[hidden], constant)
        near(tensor.right[hidden], constant)
        near(tensor.down[:, hidden], layer.e)


@given(st.data(), layers())
def test_identity_01_split_takes_a_folded_kernel_apart(data, layer):
    tensor = layer.tensor()
    d = layer.input.size
    u, x = data.draw(vectors(layer.output.size)), data.draw(samples(d))
    quadratic, linear, constant = (array(part) for part in tensor.kernel(u).parts())
    full = oracle.kernel(oracle.tensor(layer, constant=layer.biased), u)
    scale = absolute_of(tensor, u)
    near(quadratic, full[:d, :d], scale)
    near(linear, 2 * full[:d, d] if layer.biased else np.zeros(d), scale)
    near(constant, full[d, d] if layer.biased else 0.0, scale)
    parts = np.einsum("ni,ij,nj->n", array(x), quadratic, array(x)) + array(x) @ linear + constant
    near(parts, oracle.forward(layer, x) @ array(u), oracle.size(layer, x) @ abs(array(u)))


# 2. The tensor


@given(layers())
def test_identity_02_tensor_is_the_symmetric_form_of_the_layer(layer):
    tensor = layer.tensor()
    dense = array(tensor.to_dense())
    near(dense, oracle.tensor(layer, constant=layer.biased), absolute(tensor))
    near(dense, oracle.dense(tensor.left, tensor.right, tensor.down), absolute(tensor))
    near(dense, dense.transpose(0, 2, 1), 0.0)


@given(st.data(), layers())
def test_identity_02_polarised_form(data, layer):
    tensor = layer.tensor()
    x = data.draw(samples(layer.input.size))
    y = data.draw(samples(layer.input.size, len(x)))
    dense, lx, ly = oracle.tensor(layer, constant=layer.biased), folded(tensor, x), folded(tensor, y)
    scale = oracle.evaluate(absolute(tensor), abs(lx) + abs(ly))
    near(tensor(x, y), oracle.evaluate(dense, lx, ly), scale)
    near(tensor(y, x), tensor(x, y), scale)
    near(tensor(x, x), tensor(x), scale)


@given(layers())
def test_identity_02_factors_hold_2hd_plus_oh_numbers(layer):
    tensor = layer.tensor()
    h, i, o = tensor.hidden, tensor.input.dim, tensor.output.dim
    assert tensor.numel == 2 * h * i + o * h
    assert tensor.dense_numel == o * i**2


# 3. The kernel


@given(st.data(), layers())
def test_identity_03_kernel_is_the_contraction_with_u(data, layer):
    tensor = layer.tensor()
    u, x = data.draw(vectors(layer.output.size)), data.draw(samples(layer.input.size))
    kernel = tensor.kernel(u)
    expected = oracle.kernel(oracle.tensor(layer, constant=layer.biased), u)
    near(kernel.dense(), expected, absolute_of(tensor, u))
    near(kernel.dense(), kernel.dense().T, 0.0)
    scale = oracle.size(layer, x) @ abs(array(u))
    near(kernel(x), oracle.forward(layer, x) @ array(u), scale)
    lifted = folded(tensor, x)
    near(kernel.matvec(torch.tensor(lifted)), lifted @ expected, abs(lifted) @ absolute_of(tensor, u))


@given(st.data(), layers())
def test_identity_03_kernel_is_the_sum_of_its_eigenpairs(data, layer):
    tensor = layer.tensor()
    u, x = data.draw(vectors(layer.output.size)), data.draw(samples(layer.input.size))
    spectrum = decompose.eigh(tensor.kernel(u))
    lifted = folded(tensor, x)
    scale = np.linalg.norm(absolute_of(tensor, u)) * (lifted**2).sum()
    near(spectrum.reconstruct(x), oracle.forward(layer, x) @ array(u), scale)
    near((array(spectrum.values) * (lifted @ array(spectrum.vectors).T) ** 2).sum(1), spectrum.reconstruct(x), scale)


@given(st.data(), layers())
def test_identity_03_rank_is_at_most_twice_the_weights_that_are_not_zero(data, layer):
    u = data.draw(vectors(layer.output.size))
    tensor = layer.tensor()
    kernel = tensor.kernel(u)
    down = array(tensor.down)
    bound = min(tensor.input.dim, 2 * int(np.count_nonzero(down.T @ array(u))))
    assert oracle.rank(kernel.dense()) <= kernel.rank_bound <= tensor.input.dim
    assert kernel.rank_bound <= bound + 2 * int(np.count_nonzero(abs(down.T @ array(u)) < 1e-9))


# 4. The truncation certificate


@given(st.data(), kernels())
def test_identity_04_truncation_certificate(data, kernel):
    x = data.draw(samples(kernel.input.size))
    lifted = with_one(x) if kernel.input.constant else array(x)
    dense = array(kernel.dense())
    exact = np.einsum("ni,ij,nj->n", lifted, dense, lifted)
    size = np.sort(abs(np.linalg.eigvalsh(dense)))[::-1]
    floor = np.linalg.norm(absolute_kernel(kernel))
    for k in range(1, kernel.input.dim + 1):
        spectrum = decompose.eigh(kernel, k)
        discarded = size[k] if k < len(size) else 0.0
        near(spectrum.discarded, discarded, floor)
        certificate = array(spectrum.bound(torch.tensor(lifted).norm(dim=-1)))
        near(certificate, discarded * (lifted**2).sum(1), floor * (lifted**2).sum())
        error = abs(exact - array(spectrum.reconstruct(x)))
        assert (error <= certificate + 1e-9 * floor * (lifted**2).sum(1)).all()


@given(st.data(), kernels())
def test_identity_04_weighted_certificate_and_optimality(data, kernel):
    n = data.draw(st.integers(1, 9))
    x = data.draw(samples(kernel.input.size, n))
    lifted = with_one(x) if kernel.input.constant else array(x)
    moment = lifted.T @ lifted / n
    near(decompose.second_moment(x, kernel.input), moment, abs(moment))
    values, axes = np.linalg.eigh(moment)
    root = axes * np.sqrt(np.where(values > 1e-12 * values.max(), values, 0.0)) @ axes.T
    dense = array(kernel.dense())
    exact = np.einsum("ni,ij,nj->n", lifted, dense, lifted)
    weighted = np.linalg.eigvalsh(root @ dense @ root)
    size = np.sort(abs(weighted))[::-1]
    scale = np.linalg.norm(absolute_kernel(kernel)) * np.trace(moment)
    for k in range(1, kernel.input.dim + 1):
        found = decompose.eigh_weighted(kernel, torch.tensor(moment), k)
        near(abs(array(found.values)), size[:k], scale)
        near(found.discarded, size[k:].sum(), scale, rtol=1e-6)  # rounded up, and where Σ is singular by its root's
        assert abs(exact - array(found.reconstruct(x))).mean() <= size[k:].sum() + 1e-7 * scale
        # in the data's metric the error is the least possible (Eckart and Young): no more than plain truncation's
        readers, plain = array(found.readers), decompose.eigh(kernel, k)
        ours = dense - (readers.T * array(found.values)) @ readers
        theirs = dense - (array(plain.vectors).T * array(plain.values)) @ array(plain.vectors)
        ours, theirs = (np.linalg.norm(root @ rest @ root) for rest in (ours, theirs))
        near(ours, np.sqrt((size[k:] ** 2).sum()), scale, rtol=1e-7)
        assert ours <= theirs + 1e-7 * scale


# 5. The singular value decomposition


@given(layers())
def test_identity_05_hidden_gram_gives_the_gram_of_outputs(layer):
    tensor = layer.tensor()
    near(tensor.gram(), oracle.gram(oracle.tensor(layer, constant=layer.biased)), oracle.gram(absolute(tensor)))


@given(layers())
def test_identity_05_svd_without_building_the_tensor(layer):
    tensor = layer.tensor()
    dense, found = oracle.tensor(layer, constant=layer.biased), decompose.svd(tensor)
    left, sigma, _ = oracle.svd(dense)
    sigma = np.concatenate([sigma, np.zeros(tensor.output.dim - len(sigma))])
    scale = np.linalg.norm(absolute(tensor)) ** 2
    near(array(found.values) ** 2, sigma**2, scale)
    near(found.energy, (sigma**2).sum(), scale)
    r = array(found.outputs)
    near(r @ r.T, np.eye(len(r)))
    near((r.T * array(found.values) ** 2) @ r, (left * sigma[: left.shape[1]] ** 2) @ left.T, scale)


@given(layers())
def test_identity_05_right_singular_vectors_are_kernels(layer):
    tensor = layer.tensor()
    dense, found = oracle.tensor(layer, constant=layer.biased), decompose.svd(tensor)
    scale = np.linalg.norm(absolute(tensor)) ** 2
    clear = [s for s, value in enumerate(found.values) if float(value) > 1e-3 * float(np.sqrt(scale))]
    right = [array(found.kernel(s).dense()) for s in clear]
    for s, kernel in zip(clear, right, strict=True):
        sigma = float(found.values[s])
        near(kernel, oracle.kernel(dense, found.outputs[s]) / sigma, np.sqrt(scale) / sigma)
        for t, other in zip(clear, right, strict=True):
            near((kernel * other).sum(), float(s == t), scale / (sigma * float(found.values[t])))


@given(layers())
def test_identity_05_accurate_svd_and_its_truncations(layer):
    tensor = layer.tensor()
    dense, found = oracle.tensor(layer, constant=layer.biased), decompose.svd_accurate(tensor, block=5)
    sigma = oracle.svd(dense)[1]
    sigma = np.concatenate([sigma, np.zeros(tensor.output.dim - len(sigma))])
    scale = np.linalg.norm(absolute(tensor))
    near(found.values, sigma, scale)
    for k in range(len(found) + 1):
        rest = dense - oracle.dense(*(getattr(found.truncate(k), name) for name in ("left", "right", "down")))
        near(np.linalg.norm(rest), np.sqrt((sigma[k:] ** 2).sum()), scale)


@given(SEEDS, st.integers(3, 6))
def test_identity_05_gram_has_a_floor_and_the_accurate_path_has_not(seed, d):
    # orthonormal kernels e_s e_sᵀ, read out through a rotation with singular values 1, 1e-4 and 3e-11
    sigma = torch.tensor([1.0, 1e-4, 3e-11], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    units = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0][:3]
    tensor = BilinearTensor(units, units, rotation * sigma, Space("x", d), Space("y", 3))
    near(decompose.svd_accurate(tensor).values, sigma, rtol=1e-14)
    near(decompose.svd(tensor).values, sigma, rtol=1e-7)
    assert float(decompose.svd(tensor).floor) > 3e-11
    assert float(decompose.svd_accurate(tensor).floor) < 3e-11


# 6. The inner product


@given(st.data(), layers())
def test_identity_06_inner_product_norm_and_cosine(data, layer):
    other = data.draw(layers(d=layer.input.size, o=layer.output.size, bias=layer.biased))
    a, b = layer.tensor(), other.tensor()
    x, y = (oracle.tensor(one, constant=layer.biased) for one in (layer, other))
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    natural = np.linalg.norm(absolute(a)) * np.linalg.norm(absolute(b))
    near(a.inner(b), oracle.inner(x, y), natural)
    near(b.inner(a), a.inner(b), natural)
    near(a.norm() ** 2, oracle.inner(x, x), oracle.inner(absolute(a), absolute(a)))
    if norms > 1e-3 * natural:
        near(a.cosine(b), oracle.inner(x, y) / norms, (natural / norms) ** 2)


@given(st.data(), layers(max_d=3, bias=False))
def test_identity_06_gaussian_functional_inner_product_is_another_metric(data, layer):
    other = data.draw(layers(d=layer.input.size, o=layer.output.size, bias=False))
    a, b = layer.tensor(), other.tensor()
    # Gauss and Hermite's three nodes integrate the products, of degree four, exactly
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    grid = np.stack(np.meshgrid(*[nodes] * layer.input.size), axis=-1).reshape(-1, layer.input.size)
    mass = np.prod(np.stack(np.meshgrid(*[weights] * layer.input.size), axis=-1), axis=-1).reshape(-1)
    mean = (mass / mass.sum()) @ (oracle.forward(layer, grid) * oracle.forward(other, grid)).sum(1)
    traces = [np.einsum("oii->o", oracle.tensor(one, constant=False)) for one in (layer, other)]
    scale = 3 * layer.input.size**2 * np.linalg.norm(absolute(a)) * np.linalg.norm(absolute(b))
    near(mean, 2 * float(a.inner(b)) + traces[0] @ traces[1], scale)


@given(kernels(), SEEDS)
def test_identity_06_inner_product_of_kernels(kernel, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(kernel.input.dim, kernel.input.dim, generator=generator, dtype=torch.float64)
    other = Kernel.from_matrix(matrix, kernel.input)
    dense = oracle.dense(kernel.left, kernel.right, kernel.weights[None])[0]
    natural = np.linalg.norm(absolute_kernel(kernel))
    near(kernel.inner(other), (dense * (array(matrix) + array(matrix).T) / 2).sum(), natural * float(matrix.norm()))
    near(kernel.norm() ** 2, (dense**2).sum(), natural**2)


# 7. The pseudoinverse trick


@given(st.data(), layers())
def test_identity_07_pseudoinverse_trick_is_a_new_read_out(data, layer):
    tensor = layer.tensor()
    dictionary = data.draw(dictionaries(layer.output))
    x = data.draw(samples(layer.input.size))
    offset = np.zeros(layer.output.size) if dictionary.offset is None else array(dictionary.offset)
    y, inverse = oracle.forward(layer, x), oracle.pinv(dictionary.atoms.T)
    scale = (oracle.size(layer, x) + abs(offset)).max() * (1 + np.linalg.norm(inverse)) ** 2
    scale *= 1 + np.linalg.norm(array(dictionary.atoms))
    codes = tensor.read(dictionary)
    near(codes(x), (y - offset) @ inverse.T, scale)
    near(dictionary.decode(codes(x)), (y - offset) @ oracle.projector(dictionary.atoms) + offset, 3 * scale)
    if dictionary.offset is None:
        near(codes.down, inverse @ array(tensor.down), np.linalg.norm(inverse) ** 2 * abs(array(tensor.down)).sum())


@given(st.data(), layers())
def test_identity_07_it_is_exact_when_the_atoms_span(data, layer):
    dictionary = data.draw(dictionaries(layer.output, spans=True))
    x = data.draw(samples(layer.input.size))
    assert dictionary.rank == layer.output.size
    offset = 0.0 if dictionary.offset is None else abs(array(dictionary.offset)).max()
    scale = (oracle.size(layer, x).max() + offset) * np.linalg.norm(array(dictionary.atoms)) ** 2
    near(dictionary.decode(layer.tensor().read(dictionary)(x)), oracle.forward(layer, x), scale)


def test_identity_07_too_few_atoms_give_a_projection_and_say_their_rank():
    atoms = torch.tensor([[1.0, 0, 0], [1, 1, 0], [2, 1, 0]], dtype=torch.float64)
    square = BilinearTensor.from_layer(EYE, EYE, input=Space("x", 3), output=Space("y", 3))
    dictionary = Dictionary.from_atoms(atoms, square.output)
    assert dictionary.rank == 2
    near(dictionary.decode(square.read(dictionary)(X)), [[1.0, 4.0, 0.0]])
    near(square.read(dictionary)(X), [[1.0, 4.0, 9.0]] @ np.linalg.pinv(array(atoms)))


# 8. Affine decoders


@given(st.data(), st.integers(1, 5))
def test_identity_08_affine_decoder_is_one_more_atom(data, size):
    dictionary = data.draw(dictionaries(Space("x", size), offset=True))
    codes = data.draw(samples(dictionary.features.size))
    folded_dictionary = dictionary.fold()
    expected = array(codes) @ array(dictionary.atoms) + array(dictionary.offset)
    scale = abs(array(codes)) @ abs(array(dictionary.atoms)) + abs(array(dictionary.offset))
    near(dictionary.decode(codes), expected, scale)
    assert folded_dictionary.offset is None
    near(folded_dictionary.atoms[-1], with_one(dictionary.offset))
    near(folded_dictionary.atoms[:-1], np.pad(array(dictionary.atoms), ((0, 0), (0, 1))))
    lifted = folded_dictionary.features.fold(codes)
    near(lifted, with_one(codes), lifted)
    near(folded_dictionary.decode(lifted), with_one(expected), scale.max() + 1)


@given(st.data(), layers())
def test_identity_08_layer_of_affine_codes(data, layer):
    dictionary = data.draw(dictionaries(layer.input, offset=True))
    codes = data.draw(samples(dictionary.features.size))
    x = array(codes) @ array(dictionary.atoms) + array(dictionary.offset)
    big = abs(array(codes)) @ abs(array(dictionary.atoms)) + abs(array(dictionary.offset))
    near(layer.tensor().pullback(dictionary)(codes), oracle.forward(layer, x), oracle.size(layer, big))


# 9. Input features


@given(st.data(), layers())
def test_identity_09_pullback_is_the_layer_as_a_function_of_codes(data, layer):
    dictionary = data.draw(dictionaries(layer.input, offset=False))
    codes, u = data.draw(samples(dictionary.features.size)), data.draw(vectors(layer.output.size))
    tensor, atoms = layer.tensor(), array(dictionary.atoms)
    pulled = tensor.pullback(dictionary)
    x, big = array(codes) @ atoms, abs(array(codes)) @ abs(atoms)
    near(pulled(codes), oracle.forward(layer, x), oracle.size(layer, big))
    f = np.block([[atoms, np.zeros((len(atoms), 1))], [np.zeros((1, atoms.shape[1])), np.ones((1, 1))]])
    f = f if layer.biased else atoms
    expected = f @ oracle.kernel(oracle.tensor(layer, constant=layer.biased), u) @ f.T
    near(pulled.kernel(u).dense(), expected, abs(f) @ absolute_kernel(tensor.kernel(u)) @ abs(f).T)


@given(st.data(), layers(), st.booleans())
def test_identity_09_coordinates_are_the_least_norm_sum_of_feature_pairs(data, layer, affine):
    dictionary = data.draw(dictionaries(layer.input, offset=affine, max_atoms=5))
    tensor, u = layer.tensor(), data.draw(vectors(layer.output.size))
    written = tensor.coordinates(dictionary)
    constant = layer.biased or affine
    atoms = array(dictionary.fold().atoms if constant else dictionary.atoms)
    full = oracle.kernel(oracle.tensor(layer, constant=constant), u)
    c = array(written.kernel(u).dense())
    # the least-norm least-squares C of Σ_ab C_ab f_a f_bᵀ = Q, solved as one system in the entries of C
    system = np.einsum("ai,bj->ijab", atoms, atoms).reshape(full.size, -1)
    expected = (oracle.pinv(system) @ full.reshape(-1)).reshape(c.shape)
    inverse = np.linalg.norm(oracle.pinv(atoms))
    scale = (
        (np.linalg.norm(absolute_kernel(tensor.kernel(u))) + 1e-6) * (1 + inverse) ** 4 * (1 + abs(atoms).max()) ** 2
    )
    near(c, expected, scale)
    if oracle.rank(atoms) == atoms.shape[1]:
        near(atoms.T @ c @ atoms, full, scale * np.linalg.norm(atoms) ** 2)
    if not constant:  # exact up to the projection on the atoms otherwise
        onto = oracle.projector(atoms)
        near(atoms.T @ c @ atoms, onto @ full @ onto, scale * (1 + np.linalg.norm(atoms) ** 2))


def test_identity_09_pullback_and_coordinates_are_different_objects():
    square = BilinearTensor.from_layer(EYE, EYE, input=Space("x", 3), output=Space("y", 3))
    dictionary = Dictionary.from_atoms(2 * EYE, square.input)
    near(square.pullback(dictionary).kernel(0).dense(), np.diag([4.0, 0, 0]))
    near(square.coordinates(dictionary).kernel(0).dense(), np.diag([0.25, 0, 0]))


@given(st.data(), kernels())
def test_identity_09_spectrum_of_the_pullback_without_an_m_by_m_matrix(data, kernel):
    features = data.draw(dictionaries(Space("input", kernel.input.dim), max_atoms=12, offset=False))
    f, dense = array(features.atoms), array(kernel.dense())
    large = np.linalg.eigvalsh(f @ dense @ f.T)  # m × m
    small = decompose.eigh_weighted(kernel, torch.tensor(f.T @ f)).values  # K^½ Q K^½, d × d, with K = FᵀF
    sizes = [sorted(array(values), key=abs, reverse=True) for values in (large, small)]
    shared = min(map(len, sizes))
    scale = np.linalg.norm(absolute_kernel(kernel)) * np.linalg.norm(f) ** 2
    near(np.abs(sizes[0][:shared]), np.abs(sizes[1][:shared]), scale)
    near(np.concatenate([part[shared:] for part in sizes]), np.zeros(abs(len(large) - len(small))), scale)
    near(sum(sizes[0]), sum(sizes[1]), scale * len(large))
    near(sum(np.power(sizes[0], 3)), sum(np.power(sizes[1], 3)), scale**3 * len(large))


# 10. Pair vectors


def every_pair(m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All ordered pairs of m features, i changing slowest."""
    i, j = torch.meshgrid(torch.arange(m), torch.arange(m), indexing="ij")
    return i.reshape(-1), j.reshape(-1)


@given(st.data(), layers(max_d=4))
def test_identity_10_polarised_pairs_rebuild_the_layer(data, layer):
    dictionary = data.draw(dictionaries(layer.input, max_atoms=5))
    tensor = layer.tensor()
    codes = data.draw(samples(dictionary.features.size))
    constant = layer.biased or dictionary.offset is not None
    atoms = array(dictionary.fold().atoms if constant else dictionary.atoms)
    a = with_one(codes) if constant else array(codes)
    i, j = every_pair(len(atoms))
    rows = array(pairs.polarized(tensor, i, j, dictionary)).reshape(len(atoms), len(atoms), -1)
    natural = oracle.pair_vectors(absolute(tensor.fold() if constant else tensor), abs(atoms))
    near(rows, oracle.pair_vectors(oracle.tensor(layer, constant=constant), atoms), natural)
    x = array(codes) @ array(dictionary.atoms) + (0 if dictionary.offset is None else array(dictionary.offset))
    scale = np.einsum("na,nb,abo->no", abs(a), abs(a), natural)
    near(np.einsum("na,nb,abo->no", a, a, rows), oracle.forward(layer, x), scale)
    near(pairs.contract(tensor, torch.tensor(a), dictionary=dictionary), oracle.forward(layer, x), scale)


@given(st.data(), layers(max_d=4))
def test_identity_10_polarisation_of_the_unfolded_layer(data, layer):
    # r_ij = ½[g(v_i + v_j) − g(v_i) − g(v_j) + g(0)], the g(0) because the biases are not folded
    tensor, d = layer.tensor(), layer.input.size
    i, j = every_pair(d)
    v = np.eye(d)
    g, zero = (lambda x: oracle.forward(layer, x)), oracle.forward(layer, np.zeros((1, d)))
    vi, vj = v[i.numpy()], v[j.numpy()]
    expected = (g(vi + vj) - g(vi) - g(vj) + zero) / 2
    near(pairs.polarized(tensor, i, j), expected, oracle.size(layer, 2 * np.ones((1, d))))


@given(st.data(), layers(max_d=4))
def test_identity_10_two_hot_pairs_are_another_object(data, layer):
    tensor = layer.tensor()
    m = tensor.input.dim
    codes = data.draw(samples(m))
    i, j = every_pair(m)
    dense, natural, v, a = oracle.tensor(layer, constant=layer.biased), absolute(tensor), np.eye(m), array(codes)
    u = array(pairs.two_hot(tensor, i, j))
    g = lambda x: oracle.evaluate(dense, x)  # noqa: E731
    near(u, g(v[i.numpy()] + v[j.numpy()]), 4 * natural)
    r = array(pairs.polarized(tensor, i, j)).reshape(m, m, -1)
    diagonal = np.einsum("iio->io", r)
    u = u.reshape(m, m, -1)
    near(u, diagonal[:, None] + diagonal[None] + 2 * r, 4 * natural)
    rebuilt = np.einsum("na,nb,abo->no", a, a, u)
    scale = 8 * oracle.evaluate(natural, abs(a)) + 8 * abs(a).sum() * np.einsum("na,oaa->no", abs(a), natural)
    near(rebuilt, 2 * g(a) + 2 * a.sum(1, keepdims=True) * (a @ g(v)), scale)


@given(st.data(), layers(max_d=4))
def test_identity_10_weights_two_and_root_two(data, layer):
    tensor = layer.tensor()
    m = tensor.input.dim
    x = data.draw(samples(layer.input.size))
    i, j = pairs.unrank(torch.arange(pairs.count(m)), m)
    r, weight, a = array(pairs.polarized(tensor, i, j)), array(pairs.multiplicity(i, j)), folded(tensor, x)
    near(
        (a[:, i.numpy()] * a[:, j.numpy()] * weight) @ r,
        oracle.forward(layer, x),
        oracle.evaluate(absolute(tensor), abs(a)),
    )
    sigma = oracle.svd(oracle.tensor(layer, constant=layer.biased))[1]
    found = np.linalg.svd(r * np.sqrt(weight)[:, None], compute_uv=False)
    shared = min(len(sigma), len(found))
    near(found[:shared], sigma[:shared], np.linalg.norm(absolute(tensor)))
    near(sigma[shared:], np.zeros(len(sigma) - shared), np.linalg.norm(absolute(tensor)))


# 11. A sparse autoencoder over pair vectors


@given(st.data(), layers(max_d=4), st.integers(1, 6), SEEDS)
def test_identity_11_each_feature_of_a_pair_sae_is_a_kernel(data, layer, width, seed):
    tensor = layer.tensor()
    o, m = tensor.output.dim, tensor.input.dim
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (torch.randn(width, o, generator=generator, dtype=torch.float64) for _ in range(2))
    b_enc, b_dec = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (width, o))
    codes = data.draw(samples(m))
    # by hand: f_ij for every pair, then Φ_k[i, j] = f_k(r_ij) as an explicit kernel on the codes
    r = oracle.pair_vectors(oracle.tensor(layer, constant=layer.biased), np.eye(m))
    phi = np.maximum(r @ array(encoder).T + array(b_enc), 0)
    natural = absolute(tensor).transpose(1, 2, 0) @ abs(array(encoder)).T + abs(array(b_enc))
    a = array(codes)
    active = np.einsum("na,nb,abk->nk", a, a, phi)
    scale = np.einsum("na,nb,abk->nk", abs(a), abs(a), natural)

    def encode(rows: torch.Tensor) -> torch.Tensor:
        return torch.relu(rows @ encoder.T + b_enc)

    near(pairs.contract(tensor, codes, encode), active, scale)
    expected = active @ array(decoder) + a.sum(1, keepdims=True) ** 2 * array(b_dec)
    found = pairs.contract(tensor, codes, lambda rows: encode(rows) @ decoder + b_dec)
    near(found, expected, scale @ abs(array(decoder)) + abs(a).sum() ** 2 * abs(array(b_dec)))


# 12. RMSNorm


@given(st.data(), layers(), st.booleans())
def test_identity_12_gain_folds_and_the_scale_stays_outside(data, layer, biased):
    gain, x = data.draw(vectors(layer.input.size)), data.draw(samples(layer.input.size))
    rms = np.sqrt((array(x) ** 2).mean(1, keepdims=True) + 1e-6)
    normed = array(x) / rms * array(gain)
    scale = oracle.size(layer, normed)
    folded_layer = type(layer)(
        layer.w * gain, layer.v * gain, layer.d, layer.b, layer.c, layer.e, layer.input, layer.output
    )
    near(folded_layer.tensor()(x / torch.tensor(rms)), oracle.forward(layer, normed), scale)
    if not layer.biased:  # homogeneous of degree two, so the scale of each token comes out squared
        near(array(folded_layer.tensor()(x)) / rms**2, oracle.forward(layer, normed), scale)


# 13. The softmax gauge


@given(st.data(), layers())
def test_identity_13_centred_read_out_has_the_same_softmax(data, layer):
    tensor, x = layer.tensor(), data.draw(samples(layer.input.size))
    logits, size = oracle.forward(layer, x), oracle.size(layer, x)
    centred = tensor.centered()(x)
    near(centred, logits - logits.mean(1, keepdims=True), size)
    if size.max() < 1e4:  # a softmax takes its error from the size of the logits
        near(oracle.softmax(centred), oracle.softmax(logits), size.max() + 1)


@given(st.data(), layers())
def test_identity_13_centred_kernels_do_not_see_a_common_shift(data, layer):
    tensor = layer.tensor()
    shift = data.draw(matrices(1, tensor.hidden))
    moved = BilinearTensor(tensor.left, tensor.right, tensor.down + shift, tensor.input, tensor.output)
    scale = absolute(tensor).max() + absolute(moved).max()
    for o in range(tensor.output.dim):
        near(moved.centered().kernel(o).dense(), tensor.centered().kernel(o).dense(), scale)
    total = sum(array(tensor.centered().kernel(o).dense()) for o in range(tensor.output.dim))
    near(total, np.zeros_like(total), scale * tensor.output.dim)
