"""Gradients by hand: those of plain autograd on the formula of the loss, whichever way they are found."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from bilens import sae
from bilens.sae import _gradients as by_hand

KINDS = ("standard", "topk", "topk without ReLU")
NAMES = ("error", "penalty", "uses", "W_enc", "b_enc", "W_dec", "b_dec")


def build(kind: str, d_in: int, d_sae: int, k: int, *, subtract: bool, seed: int) -> sae.StandardSAE | sae.TopKSAE:
    """An SAE in float64 with random weights and rows of any norm."""
    coder: sae.StandardSAE | sae.TopKSAE
    if kind == "standard":
        coder = sae.StandardSAE(d_in, d_sae, apply_b_dec_to_input=subtract)
    else:
        coder = sae.TopKSAE(d_in, d_sae, k, rectify=kind == "topk", apply_b_dec_to_input=subtract)
    coder.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return coder


def formula(coder: sae.SAE, x: Tensor, l1: float, weight: float) -> dict[str, Tensor]:
    """Everything by autograd, from dense codes whose places are found by sorting."""
    w = {name: value.detach().clone().requires_grad_() for name, value in coder.named_parameters()}
    pre = (x - w["b_dec"] if coder.apply_b_dec_to_input else x) @ w["W_enc"] + w["b_enc"]
    if isinstance(coder, sae.TopKSAE):
        mask = torch.zeros_like(pre)
        for row, values in zip(mask, pre.tolist(), strict=True):
            row[sorted(range(coder.d_sae), key=lambda f, v=values: -v[f])[: coder.k]] = 1  # type: ignore[misc]
        acts = pre * mask if not coder.rectify else torch.relu(pre) * mask
    else:
        acts = torch.relu(pre)
    error = (x - acts @ w["W_dec"] - w["b_dec"]).square().sum()
    penalty = (acts.abs() * w["W_dec"].norm(dim=1)).sum()
    found = torch.autograd.grad(weight * (error + l1 * penalty), list(w.values()))
    uses = (acts != 0).sum(dim=0).float()
    return {"error": error, "penalty": penalty, "uses": uses} | dict(zip(w, found, strict=True))


def compare(ours: by_hand.Gradients, coder: sae.SAE, x: Tensor, l1: float, weight: float, tolerance: float) -> None:
    theirs = formula(coder, x, l1, weight)
    assert ours._fields == NAMES
    for name in NAMES:
        a, b = getattr(ours, name), theirs[name].detach()
        assert_close(
            a, b, rtol=tolerance, atol=tolerance * (1 + float(b.abs().max())), msg=lambda m, n=name: f"{n}: {m}"
        )


@given(
    st.sampled_from(KINDS),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 9),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, -1.5, -1000.0]),
    st.booleans(),
    st.sampled_from([0.0, 0.05, 0.5, 1.1]),
    st.sampled_from([0.0, 0.75, 1.1]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**20),
)
def test_gradients_are_those_of_autograd_on_the_formula(
    kind: str,
    d_in: int,
    d_sae: int,
    k: int,
    rows: int,
    l1: float,
    shift: float,
    subtract: bool,
    few: float,
    some: float,
    dtype: torch.dtype,
    seed: int,
) -> None:
    """Any share of lit codes, down to none; every way of summing, whatever it would choose; several chunks."""
    coder = build(kind, d_in, d_sae, min(k, d_sae), subtract=subtract, seed=seed)
    with torch.no_grad():
        coder.b_enc[d_sae // 3 :] += shift
        coder.W_dec[0] *= seed % 2  # a row without a direction
    x = torch.randn(rows, d_in, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    x[: rows // 4] = 0
    coder.to(dtype)
    with (
        mock.patch.object(by_hand, "FEW", few),
        mock.patch.object(by_hand, "_SOME", some),
        mock.patch.object(by_hand, "CHUNK", 4),
    ):
        ours = by_hand.gradients(coder, x.to(dtype), l1=l1, weight=0.25)
    if dtype == torch.float64:
        compare(ours, coder, x, l1, 0.25, 1e-10)
    else:
        wide = {name: value.double() for name, value in ours._asdict().items()} | {"uses": ours.uses}
        compare(by_hand.Gradients(**wide), coder.double(), x.to(dtype).double(), l1, 0.25, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_codes_up_to_all(kind: str) -> None:
    for k in (1, 6):
        coder = build(kind, 3, 6, k, subtract=True, seed=k)
        x = torch.randn(5, 3, dtype=torch.float64)
        compare(by_hand.gradients(coder, x, l1=0.2, weight=0.5), coder, x, 0.2, 0.5, 1e-10)


def test_gradients_have_the_layout_of_the_parameters_and_leave_them_alone() -> None:
    for kind in KINDS:
        coder = build(kind, 3, 50, 2, subtract=True, seed=0)
        before = {name: value.detach().clone() for name, value in coder.named_parameters()}
        ours = by_hand.gradients(coder, torch.randn(5, 3, dtype=torch.float64), l1=0.2, weight=0.5)
        for name, value in coder.named_parameters():
            assert getattr(ours, name).stride() == value.stride()
            assert torch.equal(value, before[name])
            assert value.grad is None


@pytest.mark.parametrize("kind", ["standard", "topk", "wide"])
def test_bfloat16_products_are_as_good_as_their_factors(kind: str) -> None:
    """8 bits in the factors: 1 % of the gradients, and no more; sums, counts and types are those of the weights."""
    k = 4 if kind == "topk" else 40
    coder = build("standard" if kind == "standard" else "topk", 24, 100, k, subtract=True, seed=3).float()
    x = torch.randn(3000, 24, generator=torch.Generator().manual_seed(4))
    ours = by_hand.gradients(coder, x, l1=0.3, weight=1 / 3000, products=torch.bfloat16)
    exact = by_hand.gradients(coder, x, l1=0.3, weight=1 / 3000)
    for name in NAMES:
        a, b = getattr(ours, name), getattr(exact, name)
        assert a.dtype == torch.float32
        apart = float((a - b).norm() / b.norm())
        assert 0 < apart < (0.05 if name == "b_enc" else 0.02), (name, apart)


def test_bfloat16_keeps_constants_to_twice_its_bits() -> None:
    """A bias of 1 + 2⁻¹² would be 1 in bfloat16, and the codes 0 with it."""
    coder = sae.StandardSAE(1, 8)
    with torch.no_grad():
        coder.W_enc.fill_(-1)
        coder.b_enc.fill_(1 + 2**-12)
    ours = by_hand.gradients(coder, torch.ones(20, 1), l1=0.0, weight=1.0, products=torch.bfloat16)
    assert ours.uses.tolist() == [20.0] * 8


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [3, 90])
def test_a_gpu_finds_what_a_cpu_does(kind: str, k: int) -> None:
    coder = build(kind, 5, 100, k, subtract=True, seed=0)
    x = torch.randn(50, 5, dtype=torch.float64)
    here = by_hand.gradients(coder, x, l1=0.2, weight=0.5)
    there = by_hand.gradients(coder.cuda(), x.cuda(), l1=0.2, weight=0.5)
    for name in NAMES:
        assert_close(getattr(there, name).cpu(), getattr(here, name))
