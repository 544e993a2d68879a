"""The TopK transcoder: its formula, its gradient, and whether it learns a sparse map that is there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from bilens import sae
from bilens.errors import BilensError, ShapeError
from messages import refuses
from oracle import array, near
from reproduction.methods import transcoder
from reproduction.methods.transcoder import Transcoder


def filled(d_in: int, d_out: int, m: int, k: int, seed: int = 0) -> Transcoder:
    """A transcoder with random weights in float64."""
    made = Transcoder(d_in, d_out, m, k).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return made


@pytest.mark.parametrize(("m", "k"), [(7, 3), (7, 6), (7, 7), (40, 2), (1, 1)])
def test_it_is_its_formula(m: int, k: int) -> None:
    made, x = filled(5, 4, m, k), torch.randn(9, 5, generator=torch.Generator().manual_seed(1)).double()
    before = array(x) @ array(made.W_enc) + array(made.b_enc)
    codes = np.zeros_like(before)
    for row, values in zip(codes, before, strict=True):
        for place in np.argsort(-values)[:k]:
            row[place] = max(values[place], 0)
    near(made.encode(x), codes, 10)
    near(made(x), codes @ array(made.W_dec) + array(made.b_dec), 100)
    assert made.numel == m * (5 + 4 + 1) + 4


@pytest.mark.parametrize("k", [2, 6])
def test_its_gradient_is_that_of_finite_differences(k: int) -> None:
    made, generator = filled(4, 3, 6, k), torch.Generator().manual_seed(2)
    x, y = torch.randn(5, 4, generator=generator).double(), torch.randn(5, 3, generator=generator).double()

    def loss() -> torch.Tensor:
        return (made(x) - y).square().sum()

    loss().backward()
    for parameter in made.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for place in range(len(flat)):
            value, step, ends = float(flat[place]), 1e-6, []
            for sign in (1, -1):
                flat[place] = value + sign * step
                ends.append(loss().item())
            flat[place] = value
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(gradient[place]), rel=1e-5, abs=1e-5)


def test_it_learns_a_planted_sparse_map() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0][:12]
    decoder = torch.randn(12, 5, generator=generator)
    chosen, size = torch.randint(12, (2000,), generator=generator), 0.5 + torch.rand(2000, 1, generator=generator)
    x, y = size * features[chosen] + 0.05 * torch.randn(2000, 16, generator=generator), size * decoder[chosen]
    made = Transcoder(16, 5, 24, 1, seed=1)
    transcoder.transcode(made, x, y, steps=400, batch_size=100, lr=3e-2, progress=False)
    affine = np.concatenate([array(x), np.ones((2000, 1))], axis=1)
    linear = affine @ np.linalg.lstsq(affine, array(y), rcond=None)[0]
    with torch.no_grad():
        assert sae.nmse(y, made(x)) < 0.005 < 0.02 < sae.nmse(y, torch.tensor(linear))
        assert float(sae.l0(made.encode(x))) <= 1
        reader = made.encode(features).argmax(dim=1)
        assert len(reader.unique()) == 12
        assert functional.cosine_similarity(decoder, made.W_dec[reader]).min() > 0.99


def test_training_is_told_by_its_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=generator), torch.randn(50, 3, generator=generator)
    ends = []
    for seed in (0, 0, 1):
        made = Transcoder(4, 3, 6, 2)
        history = transcoder.transcode(made, x, y, steps=7, batch_size=20, seed=seed, progress=False)
        ends.append(made(x).detach())
        assert history.steps.tolist() == list(range(1, 8))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_before_training_it_gives_the_mean_output() -> None:
    x, y = torch.randn(30, 4), torch.randn(30, 3)
    made = Transcoder(4, 3, 6, 2)
    history = transcoder.transcode(made, x, y, steps=1, batch_size=30, progress=False)
    assert float(history["loss"][0]) == pytest.approx(1, abs=1e-5)


@pytest.mark.bad_input
def test_what_does_not_fit_is_refused() -> None:
    for sizes in ((0, 3, 6, 2), (4, 0, 6, 2), (4, 3, 0, 1)):
        with refuses(BilensError, "= 0", "at least 1"):
            Transcoder(*sizes)
    for k in (0, 7):
        with refuses(BilensError, f"k = {k}", "1 ≤ k ≤ 6"):
            Transcoder(4, 3, 6, k)
    made = Transcoder(4, 3, 6, 2)
    with refuses(ShapeError, "vectors of shape (5, 3)", "(n, 4)"):
        made(torch.ones(5, 3))
    x, y = torch.randn(5, 4), torch.randn(5, 3)
    for inputs, outputs in ((x, y[:4]), (x[:, :3], y), (x, y[:, :2])):
        with refuses(ShapeError, "(rows, 4) and (rows, 3)"):
            transcoder.transcode(made, inputs, outputs, steps=1, progress=False)
    for wrong in ({"steps": 0}, {"lr": 0.0}, {"warmup": 2.0}, {"decay": -1.0}):
        with refuses(BilensError, next(iter(wrong))):
            transcoder.transcode(made, x, y, **({"steps": 1, "progress": False} | wrong))
    with refuses(BilensError, "variance of 0"):
        transcoder.transcode(made, x, torch.ones(5, 3), steps=1, progress=False)
    with refuses(BilensError, "finite loss"):
        transcoder.transcode(made, x * 1e30, y, steps=9, lr=1e15, progress=False)
