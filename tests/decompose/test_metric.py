"""Many kernels in the metric of data: against dense float64, against one kernel at a time, and where data is flat."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bilens import decompose, store
from bilens._internal import files
from bilens.decompose import Metric, Spectra
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError, SpaceError, StoreError
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses
from oracle import array, near
from strategies import SEEDS, filled, layers

METHODS = (None, "full", "factors")


def data(input: Space, n: int, seed: int, kind: str) -> torch.Tensor:
    """Samples that fill the space, lie in a part of it, or leave coordinates at 0."""
    x = filled("normal", n, input.size, seed) + 0.5
    if kind == "flat" and input.size > 1:
        x = (
            x
            @ filled("normal", input.size, max(1, input.size // 2), seed + 1)
            @ filled("normal", max(1, input.size // 2), input.size, seed + 2)
        )
    if kind == "gaps":
        x[:, ::2] = 0
    return x


def dense(tensor: BilinearTensor, moment: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Σ^½ by numpy, and Σ^½ Q Σ^½ of every output."""
    variances, axes = np.linalg.eigh(array(moment))
    root = (axes * np.sqrt(variances.clip(min=0))) @ axes.T
    return root, np.stack([root @ q @ root for q in oracle.dense(tensor.left, tensor.right, tensor.down)])


@given(st.data(), layers(bias=True), st.sampled_from(["full", "flat", "gaps"]), st.sampled_from(METHODS), SEEDS)
def test_pairs_are_those_of_the_dense_product_and_readers_have_its_meaning(draw, layer, kind, method, seed):
    tensor = layer.tensor()
    x = data(tensor.input, 40, seed, kind)
    moment = decompose.second_moment(x, tensor.input)
    # From Σ alone, whether the data fill a direction is known to the root of rounding only; from samples, to rounding.
    folded = tensor.input.fold(x) / len(x) ** 0.5
    metric = Metric.from_factor(folded, tensor.input) if kind == "flat" else Metric.from_moment(moment, tensor.input)
    k = draw.draw(st.integers(1, metric.rank))
    found = decompose.eigh_many(tensor, None, k, metric=metric, method=method, seed=seed)
    _, matrices = dense(tensor, moment)
    lifted, sizes = oracle.with_one(x), np.abs(oracle.dense(tensor.left.abs(), tensor.right.abs(), tensor.down.abs()))
    for n, matrix in enumerate(matrices):
        scale = float(np.linalg.norm(sizes[n]) * np.trace(array(moment)))
        values, readers = array(found.values[n]), array(found.vectors[n])
        expected = np.linalg.eigvalsh(matrix)
        near(abs(values), np.sort(abs(expected))[::-1][:k], scale, rtol=1e-7)
        # P Σ Pᵀ = 1 and, for every sample, what all pairs of the range make is u·y.
        near((readers @ array(metric.root)) @ (readers @ array(metric.root)).T, np.eye(k), rtol=1e-6)
        if k == metric.rank:
            y = np.einsum("ni,ij,nj->n", lifted, oracle.dense(tensor.left, tensor.right, tensor.down)[n], lifted)
            largest = float((lifted**2).sum(1).max() * np.linalg.norm(sizes[n]))
            near(found.reconstruct(x)[:, n], y, max(largest, 1e-300), rtol=1e-5)
    assert found.metric == metric.checksum
    assert bool(found.exact.all())


def random_tensor(d: int, h: int, o: int, dtype: torch.dtype = torch.float64) -> BilinearTensor:
    left, right, down = (filled("normal", *s, n) for n, s in enumerate(((h, d + 1), (h, d + 1), (o, h))))
    return BilinearTensor(left, right, down, Space("x", d, constant=True), Space("y", o)).to(dtype)


def sloped(d: int, n: int = 400, seed: int = 7) -> torch.Tensor:
    """Data with a mean, and variances over four orders of magnitude."""
    return filled("normal", n, d, seed) * torch.logspace(0, -2, d, dtype=torch.float64) + 0.3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", ["full", "factors"])
def test_many_kernels_have_the_pairs_of_each_alone(dtype, method):
    tensor = random_tensor(60, 80, 4, dtype)
    moment = decompose.second_moment(sloped(60), tensor.input)
    found = decompose.eigh_many(tensor, None, 5, metric=moment, method=method)
    tight = dtype == torch.float64
    assert bool(found.exact.all())
    energies = decompose.squared_norms(tensor, metric=moment)
    _, matrices = dense(tensor, moment)
    near(energies, (matrices**2).sum((1, 2)), float((matrices**2).sum((1, 2)).max()), rtol=1e-9 if tight else 1e-6)
    for n in range(4):
        alone = decompose.eigh_weighted(tensor.to(torch.float64).kernel(n), moment, 5)
        scale = float(alone.values.abs().max())
        near(found.values[n], alone.values, scale, rtol=1e-9 if tight else 1e-5)
        cosines = (found.vectors[n].double() @ moment * alone.readers).sum(1)
        near(cosines.abs(), np.ones(5), rtol=1e-7 if tight else 1e-3)
        near(found.weighted(n, energies[n]).values, found.values[n], scale)
        assert float(found.weighted(n, energies[n]).discarded) >= 0.999 * float(alone.discarded)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_residuals_are_those_of_the_readers_as_they_are_returned(dtype):
    """In float32, where small variances magnify the rounding of readers, the residual says so."""
    tensor = random_tensor(40, 50, 3, dtype)
    x = sloped(40) * torch.logspace(0, -3, 40, dtype=torch.float64) + 0.3
    moment = decompose.second_moment(x, tensor.input)
    found = decompose.eigh_many(tensor, None, 30, metric=moment)
    root, matrices = dense(tensor, moment)
    for n, matrix in enumerate(matrices):
        w, values = array(found.vectors[n]) @ root, array(found.values[n])
        true = np.linalg.norm(w @ matrix - values[:, None] * w, axis=1)
        scale = abs(values).max()
        assert (true <= array(found.residuals[n]) + 1e-9 * scale).all()
        assert (array(found.residuals[n]) <= 50 * true + 1e-3 * scale).all()


def test_bounds_hold_for_inputs_and_for_the_mean_of_the_data():
    tensor = random_tensor(30, 40, 5)
    x = sloped(30)
    metric = Metric.from_moment(decompose.second_moment(x, tensor.input), tensor.input)
    found = decompose.eigh_many(tensor, None, 4, metric=metric, method="factors")
    lifted = oracle.with_one(x)
    y = oracle.evaluate(oracle.dense(tensor.left, tensor.right, tensor.down), lifted)
    lost = abs(y - array(found.reconstruct(x)))
    assert (lost <= array(found.bound(metric.norm(x))) * (1 + 1e-9)).all()
    near((metric.norm(x) ** 2).mean(), metric.rank, metric.rank)
    for certain in (found, found.certified(decompose.squared_norms(tensor, metric=metric))):
        assert (lost <= array(certain.bound(metric.norm(x))) * (1 + 1e-9)).all()
    mean = array(found.mean_error(decompose.squared_norms(tensor, metric=metric)))
    assert (lost.mean(axis=0) <= mean).all()
    assert (mean <= 6 * np.abs(y).mean(axis=0).max()).all()  # and it is not idle


def test_the_order_is_that_of_the_data_and_not_of_the_weights():
    """A large weight on what never varies comes first by |λ| and last in the metric."""
    tensor = BilinearTensor(torch.eye(3), torch.eye(3), torch.tensor([[100.0, 1.0, 2.0]]), Space("x", 3), Space("y", 1))
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 1.0])
    plain = decompose.eigh_many(tensor, k=1)
    found = decompose.eigh_many(tensor, k=3, metric=decompose.second_moment(x, tensor.input))
    assert int(plain.vectors[0, 0].abs().argmax()) == 0
    assert int(found.vectors[0, 0].abs().argmax()) == 2
    assert int(found.vectors[0, 2].abs().argmax()) == 0


def test_in_a_singular_metric_all_happens_in_the_range_of_the_data():
    tensor = random_tensor(12, 20, 2)
    x = torch.zeros(100, 12, dtype=torch.float64)
    x[:, :3] = filled("normal", 100, 3, 5)
    metric = Metric.from_moment(decompose.second_moment(x, tensor.input), tensor.input)
    assert metric.rank == 4  # three coordinates and the constant
    found = decompose.eigh_many(tensor, None, 4, metric=metric)
    assert not bool(found.vectors[:, :, 3:12].any())
    y = oracle.evaluate(oracle.dense(tensor.left, tensor.right, tensor.down), oracle.with_one(x))
    near(found.reconstruct(x), y, abs(y).max())
    outside = x[:1].clone()
    outside[0, 7] = 3.0
    near(metric.outside(outside), [3.0])
    near(found.reconstruct(outside), found.reconstruct(x[:1]), abs(y).max())
    near(metric.outside(x), np.zeros(100), 10)
    with refuses(BilensError, "k = 5", "4"):
        decompose.eigh_many(tensor, None, 5, metric=metric)
    with refuses(BilensError, "k = 3", "2"):
        decompose.eigh_many(tensor, None, 3, "both", metric=metric)
    with refuses(BilensError, "a second moment that is 0"):
        decompose.eigh_many(tensor, None, 1, metric=torch.zeros(13, 13))


@given(SEEDS, st.integers(1, 30), st.integers(1, 6))
def test_a_factor_gives_the_metric_of_its_product(seed, n, d):
    space = Space("x", d)
    x = filled("normal", n, d, seed)
    factor = Metric.from_factor(x / n**0.5, space)
    moment = Metric.from_moment(x.T @ x / n, space)
    near(factor.root @ factor.root.T, moment.root @ moment.root.T, float((x.T @ x).abs().max()))
    near(factor.inverse @ factor.root, np.eye(factor.rank), 1e3)
    assert factor.rank == np.linalg.matrix_rank(array(x), tol=1e-10)


def test_scales_of_data_and_weights_are_taken_out():
    tensor = random_tensor(10, 12, 2)
    x = sloped(10)
    plain = decompose.eigh_many(tensor, None, 3, metric=Metric.from_factor(tensor.input.fold(x), tensor.input))
    size = 2.0**100
    scaled = decompose.eigh_many(tensor, None, 3, metric=Metric.from_factor(tensor.input.fold(x) * size, tensor.input))
    near(scaled.values / size**2, plain.values, float(plain.values.abs().max()))
    near(scaled.vectors * size, plain.vectors, float(plain.vectors.abs().max()), rtol=1e-6)
    moment = decompose.second_moment(x, tensor.input)
    assert Metric.from_moment(moment * size, tensor.input).rank == Metric.from_moment(moment, tensor.input).rank


@pytest.mark.bad_input
def test_what_does_not_fit_is_refused():
    tensor = random_tensor(4, 5, 2)
    with refuses(ShapeError, "a second moment of shape (4, 4)", "(5, 5)"):
        decompose.eigh_many(tensor, None, 1, metric=torch.eye(4))
    with refuses(BilensError, "eigenvalue -1"):
        decompose.eigh_many(tensor, None, 1, metric=-torch.eye(5))
    with refuses(BilensError, "NaN"):
        Metric.from_factor(torch.full((2, 5), torch.nan), tensor.input)
    with refuses(ShapeError, "a factor of shape (2, 4)", "(m, 5)"):
        Metric.from_factor(torch.ones(2, 4), tensor.input)
    with refuses(SpaceError, "a metric over space"):
        decompose.eigh_many(tensor, None, 1, metric=Metric.from_moment(torch.eye(5), Space("z", 4, constant=True)))
    with refuses(BilensError, "metric"):
        decompose.eigh_many(tensor, None, 1, metric="data")
    found = decompose.eigh_many(tensor, None, 1, metric=torch.eye(5))
    plain = decompose.eigh_many(tensor, None, 1)
    with refuses(BilensError, "pairs in the metric of data", "weighted(feature, energy)"):
        found.spectrum(0, 1.0)
    with refuses(BilensError, "pairs without a metric"):
        plain.mean_error(decompose.squared_norms(tensor))
    with refuses(BilensError, "parts of 2 kinds"):
        Spectra.join([found, plain], Space("y", 4))


def test_in_single_precision_a_reader_that_does_not_fit_is_refused():
    tensor = random_tensor(2, 3, 1, torch.float32)
    with refuses(BilensError, "readers beyond"):
        decompose.eigh_many(tensor, None, 1, metric=Metric.from_factor(torch.eye(3).double() * 1e-45, tensor.input))


def test_a_dictionary_with_an_offset_takes_the_metric_of_folded_inputs():
    tensor = BilinearTensor(
        filled("normal", 6, 4, 0), filled("normal", 6, 4, 1), filled("normal", 3, 6, 2), Space("x", 4), Space("y", 3)
    )
    d = Dictionary.from_atoms(filled("normal", 3, 3, 3), tensor.output, offset=torch.ones(3).double())
    moment = decompose.second_moment(sloped(4), tensor.input.with_constant())
    found = decompose.eigh_many(tensor, d, 2, metric=moment)
    near(found.values[1].abs(), decompose.eigh_weighted(tensor.read(d).kernel(1), moment, 2).values.abs(), 50)


def test_streams_in_a_metric_are_written_and_resumed(tmp_path):
    tensor = random_tensor(10, 15, 7)
    metric = Metric.from_moment(decompose.second_moment(sloped(10), tensor.input), tensor.input)
    stream = decompose.spectra_stream(tensor, None, 3, metric=metric, batch_size=2)
    store.save_batches(stream, tmp_path, progress=False)
    for name in ("batch-000001.json", "batch-000001.safetensors"):
        (tmp_path / "records" / name).unlink()
    store.save_batches(stream, tmp_path, progress=False)
    joined = Spectra.join(list(store.load_batches(tmp_path, Spectra)), tensor.output)
    straight = Spectra.join(list(stream), tensor.output)
    assert torch.equal(joined.vectors, straight.vectors)
    assert joined.metric == metric.checksum
    other = dataclasses.replace(stream, metric=Metric.from_moment(torch.eye(11), tensor.input))
    with refuses(StoreError, "other settings", "metric"):
        store.save_batches(other, tmp_path, progress=False)
    with refuses(StoreError, "other settings", "metric"):
        store.save_batches(dataclasses.replace(stream, metric=None), tmp_path, progress=False)


def test_processes_share_the_batches_of_one_folder(tmp_path):
    tensor = random_tensor(6, 8, 7)
    stream = decompose.spectra_stream(tensor, None, 2, batch_size=2)
    store.save_batches(stream, tmp_path, rank=1, size=2, progress=False)
    written = sorted(path.stem for path in (tmp_path / "records").glob("*.json"))
    assert written == ["batch-000001", "batch-000003"]
    store.save_batches(stream, tmp_path, rank=0, size=2, progress=False)
    joined = Spectra.join(list(store.load_batches(tmp_path, Spectra)), tensor.output)
    assert torch.equal(joined.values, Spectra.join(list(stream), tensor.output).values)
    for rank, size in ((2, 2), (-1, 2), (0, 0)):
        with refuses(BilensError, "rank" if size else "size"):
            store.save_batches(stream, tmp_path, rank=rank, size=size, progress=False)


def test_spectra_of_earlier_versions_are_read_and_settings_without_a_metric_are_theirs(tmp_path):
    tensor = random_tensor(6, 8, 2)
    store.save(decompose.eigh_many(tensor, None, 2), tmp_path / "one")
    header = json.loads((tmp_path / "one.json").read_text())
    assert header["record"]["fields"].pop("metric") == ""
    files.write_sealed(tmp_path / "one.json", {name: value for name, value in header.items() if name != "sha256"})
    assert store.load(tmp_path / "one", Spectra).metric == ""
    del header["record"]["fields"]["tol"]
    files.write_sealed(tmp_path / "one.json", {name: value for name, value in header.items() if name != "sha256"})
    with refuses(StoreError, "lacks or adds"):
        store.load(tmp_path / "one", Spectra)
    assert "metric" not in decompose.spectra_stream(tensor, k=2).settings


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "x",
    [
        torch.tensor([[1.0, float("nan")]]),
        torch.tensor([[1.0, float("inf")]]),
        torch.ones(1, 5, 2),
        torch.tensor(1.0),
        torch.ones(3, 2).to_sparse(),
        torch.ones(3, 2, device="meta"),
        torch.ones(3, 2, dtype=torch.int64),
    ],
    ids=["nan", "infinity", "three axes", "a number", "sparse", "meta", "whole"],
)
def test_samples_that_have_no_second_moment_are_refused(x) -> None:
    with pytest.raises(BilensError, match=r"^got x"):
        decompose.second_moment(x, Space("x", 2))
