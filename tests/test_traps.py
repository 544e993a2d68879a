"""Mistakes seen in existing code: for each, the naive way is wrong on an example and bilens is right on it."""

from __future__ import annotations

import numpy as np
import torch

import oracle
from bilens import decompose, pairs
from bilens.dictionary import Dictionary
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor
from oracle import array, near

GENERATOR_SEED = 7


def draws(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def far(naive: object, truth: object, share: float = 0.05) -> None:
    """The naive answer is wrong by more than a share of the truth: the example has teeth."""
    naive, truth = array(naive), array(truth)
    assert np.abs(naive - truth).max() > share * np.abs(truth).max()


# An unsymmetrised Q, of which an eigensolver reads one triangle


def test_an_unsymmetrised_kernel_has_another_spectrum():
    left, right, weights = draws((4, 5), (4, 5), (4,))
    one_sided = array(left).T @ np.diag(array(weights)) @ array(right)
    symmetric = (one_sided + one_sided.T) / 2
    truth = sorted(np.linalg.eigvalsh(symmetric), key=abs, reverse=True)
    naive = sorted(np.linalg.eigvalsh(one_sided), key=abs, reverse=True)  # reads the lower triangle only
    far(naive, truth)
    far(sorted(np.linalg.eigvalsh(one_sided, UPLO="U"), key=abs, reverse=True), naive)  # and each triangle differs

    space = Space("x", 5)
    near(decompose.eigh(Kernel(left, right, weights, space)).values, truth, 10)
    near(decompose.eigh(Kernel.from_matrix(torch.tensor(one_sided), space)).values, truth, 10)
    tensor = BilinearTensor(left, right, weights[None], space, Space("y", 1))
    near(tensor.to_dense()[0], symmetric, 10)
    near(tensor.to_dense()[0], tensor.to_dense()[0].T, 0)


# Eigenvectors taken in embedding space and then mapped to pixels


def embedded() -> tuple[BilinearTensor, BilinearTensor, torch.Tensor]:
    """A layer over an embedding of size 3 of 6 pixels, the same layer over pixels, and the embedding E (3, 6)."""
    left, right, down, e = draws((5, 3), (5, 3), (2, 5), (3, 6))
    e = e * torch.tensor([[4.0], [1.0], [0.25]])
    pixels, output = Space("pixels", 6, image=(2, 3)), Space("y", 2)
    inner = BilinearTensor(left, right, down, Space("embedding", 3), output)
    outer = inner.pullback(Dictionary.from_atoms(e.T, inner.input))
    return inner, BilinearTensor(outer.left, outer.right, outer.down, pixels, output), e


def test_change_the_basis_first_and_decompose_then():
    inner, outer, e = embedded()
    q, embedding = array(inner.kernel(0).dense()), array(e)
    truth = embedding.T @ q @ embedding
    near(outer.kernel(0).dense(), truth, 100)

    values, vectors = np.linalg.eigh(q)
    mapped = vectors.T @ embedding  # the naive pixels, one eigenvector a row
    far(mapped @ mapped.T, np.eye(3))  # no longer orthonormal
    naive_order = np.argsort(-abs(values))
    kept = naive_order[:1]
    naive_error = np.linalg.norm(truth - (mapped[kept].T * values[kept]) @ mapped[kept])

    spectrum = decompose.eigh(outer.kernel(0))
    rows = array(spectrum.vectors)
    near(rows @ rows.T, np.eye(6))
    far(values[naive_order], spectrum.values[:3])  # other eigenvalues, not only other vectors
    best = np.linalg.norm(truth - (rows[:1].T * array(spectrum.values[:1])) @ rows[:1])
    near(best, np.sqrt((array(spectrum.values)[1:] ** 2).sum()), 100)
    assert naive_error > 1.2 * best
    # and the naive certificate, its largest |λ| left out, does not hold
    worst = np.abs(np.linalg.eigvalsh(truth - (mapped[kept].T * values[kept]) @ mapped[kept])).max()
    assert worst > abs(values[naive_order[1]])
    near(spectrum.keep(1).bound(1.0), np.sort(abs(np.linalg.eigvalsh(truth)))[-2], 100)


def test_the_pseudoinverse_of_a_mask_belongs_in_pixel_space():
    inner, outer, e = embedded()
    # a mask in pixels that moves one reader by one and leaves the others
    readers = torch.cat([decompose.eigh(outer.kernel(o), 1).vectors for o in range(2)])
    masks = Dictionary.from_atoms(readers, outer.input).duals
    near(readers @ masks.T, np.eye(2))

    embedded_readers = torch.cat([decompose.eigh(inner.kernel(o), 1).vectors for o in range(2)])
    naive = Dictionary.from_atoms(embedded_readers, inner.input).duals @ e
    naive = naive / (naive * readers).sum(dim=1, keepdim=True)  # even when each moves its own reader by one
    far(readers @ naive.T, np.eye(2))


# Eigenvalues that are nearly equal


def test_near_equal_eigenvalues_are_a_subspace_and_have_no_rank():
    """Two seeds learned the same two kernels of nearly equal weight, in the other order."""
    basis = np.linalg.qr(array(draws((4, 4))[0]))[0]
    spectra = []
    for values in ([3.0, 2.0001, 2.0, 0.1], [3.0, 2.0, 2.0001, 0.1]):
        matrix = torch.tensor((basis * values) @ basis.T)
        spectra.append(array(decompose.eigh(Kernel.from_matrix(matrix, Space("x", 4)), 3).vectors))
    by_rank = abs((spectra[0] * spectra[1]).sum(1))
    assert by_rank[1] < 0.01  # the naive comparison finds nothing in common
    angles = np.linalg.svd(spectra[0][1:] @ spectra[1][1:].T, compute_uv=False)
    near(angles, [1.0, 1.0], rtol=1e-6)
    near(oracle.projector(spectra[0]), oracle.projector(spectra[1]), rtol=1e-6)


# Pairs i ≤ j taken once


def test_pairs_taken_once_have_not_the_singular_values_of_the_tensor():
    left, right, down = draws((5, 4), (5, 4), (3, 5))
    tensor = BilinearTensor(left, right, down, Space("x", 4), Space("y", 3))
    truth = oracle.svd(oracle.dense(left, right, down))[1]
    i, j = pairs.unrank(torch.arange(pairs.count(4)), 4)
    r, often = array(pairs.polarized(tensor, i, j)), array(pairs.multiplicity(i, j))
    far(np.linalg.svd(r, compute_uv=False), truth)  # once, no weight
    far(np.linalg.svd(r * often[:, None], compute_uv=False), truth)  # the weight that rebuilds g
    near(np.linalg.svd(r * np.sqrt(often)[:, None], compute_uv=False), truth, 10)
    near(decompose.svd(tensor).values, truth, 10)
    near(decompose.svd_accurate(tensor).values, truth, 10)


# Biases dropped


def test_biases_are_part_of_every_answer():
    w, v, d, b, c, e, x = draws((5, 3), (5, 3), (2, 5), (5,), (5,), (2,), (4, 3))
    space, output = Space("x", 3), Space("y", 2)
    tensor = BilinearTensor.from_layer(w, v, d, left_bias=b, right_bias=c, down_bias=e, input=space, output=output)
    bare = BilinearTensor.from_layer(w, v, d, input=space, output=output)
    rows = array(x)
    truth = ((rows @ array(w).T + array(b)) * (rows @ array(v).T + array(c))) @ array(d).T + array(e)
    far(bare(x), truth)
    near(tensor(x), truth, 100)

    for o in range(2):
        far(decompose.eigh(bare.kernel(o)).reconstruct(x), truth[:, o])
        near(decompose.eigh(tensor.kernel(o)).reconstruct(x), truth[:, o], 100)
    far(decompose.svd(bare).values, decompose.svd(tensor).values)
    near(decompose.svd(tensor).truncate(2)(x), truth, 100)
    far(bare.norm(), tensor.norm())

    folded = space.with_constant().fold(x)
    far(pairs.contract(bare, x), truth)
    near(pairs.contract(tensor, folded), truth, 100)


def test_the_offset_of_an_affine_decoder_is_not_dropped():
    w, v, b, atoms, codes = draws((5, 3), (5, 3), (3,), (3, 3), (4, 3))
    tensor = BilinearTensor.from_layer(w, v, input=Space("x", 3), output=Space("hidden", 5))
    x = array(codes) @ array(atoms) + array(b)
    truth = (x @ array(w).T) * (x @ array(v).T)
    affine, linear = (Dictionary.from_atoms(atoms, tensor.input, offset=offset) for offset in (b, None))
    far(tensor.pullback(linear)(codes), truth)
    near(tensor.pullback(affine)(codes), truth, 100)

    atoms, offset = torch.linalg.qr(draws((5, 5))[0])[0], draws((5,))[0]
    y = tensor(codes)
    affine, linear = (Dictionary.from_atoms(atoms, tensor.output, offset=one) for one in (offset, None))
    truth = (array(y) - array(offset)) @ array(atoms).T
    far(tensor.read(linear)(codes), truth)
    near(tensor.read(affine)(codes), truth, 100)


# Reading codes out


def test_atoms_are_no_duals():
    atoms, w, v, x = draws((3, 3), (3, 4), (3, 4), (5, 4))
    tensor = BilinearTensor.from_layer(w, v, input=Space("x", 4), output=Space("y", 3))
    dictionary = Dictionary.from_atoms(atoms, tensor.output)
    y = tensor(x)
    naive = array(y) @ array(atoms).T  # reads with the atoms themselves
    far(naive @ array(atoms), y)
    wrong_side = array(y) @ np.linalg.inv(array(atoms)).T  # A⁺ in place of (Aᵀ)⁺
    far(wrong_side @ array(atoms), y)
    near(dictionary.decode(tensor.read(dictionary)(x)), y, 100)


# The softmax gauge


def test_kernels_of_classes_mean_something_only_once_they_are_centred():
    left, right, down, common = draws((6, 4), (6, 4), (3, 6), (1, 6))
    space, output = Space("x", 4), Space("classes", 3)
    first = BilinearTensor(left, right, down, space, output)
    second = BilinearTensor(left, right, down + 5 * common, space, output)  # the same classifier
    (x,) = draws((5, 4))
    near(oracle.softmax(first(x)), oracle.softmax(second(x)), 1, rtol=1e-8)
    far(decompose.eigh(first.kernel(0)).values, decompose.eigh(second.kernel(0)).values)
    assert float(first.cosine(second)) < 0.9
    near(first.centered().cosine(second.centered()), 1.0)
    near(decompose.eigh(first.centered().kernel(0)).values, decompose.eigh(second.centered().kernel(0)).values, 100)
