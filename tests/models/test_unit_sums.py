"""Least squares from sums: numpy's on the rows themselves, and the sums add up."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from bilens.models._unit_sums import fitted, unit_sums


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_least_squares_from_sums_is_numpys_on_the_rows() -> None:
    z, v, w = drawn(60, 3, seed=1) * 2 + 1, drawn(60, 3, seed=2) - 5, drawn(60, seed=3).abs()
    y = functional.silu(z) * v
    found = torch.stack(fitted(unit_sums(z, v, y, w)))
    root = np.sqrt(w.numpy())
    for unit in range(3):
        p, q = z[:, unit].numpy(), v[:, unit].numpy()
        terms = np.stack([p * q, p * p, p, q, np.ones_like(p)], axis=1)
        expected = np.linalg.lstsq(terms * root[:, None], y[:, unit].numpy() * root, rcond=None)[0]
        np.testing.assert_allclose(found[:, unit].numpy(), expected, rtol=1e-8, atol=1e-9)


def test_sums_of_parts_add_up_to_those_of_the_whole() -> None:
    z, v, w = drawn(50, 4, seed=4), drawn(50, 4, seed=5), drawn(50, seed=6).abs()
    y = functional.gelu(z) * v
    parts = unit_sums(z[:20], v[:20], y[:20], w[:20]) + unit_sums(z[20:], v[20:], y[20:], w[20:])
    assert_close(parts, unit_sums(z, v, y, w), rtol=1e-13, atol=1e-13)


def test_a_unit_whose_gate_never_varies_gets_the_solution_of_least_norm() -> None:
    z, v = torch.full((40, 1), 0.5, dtype=torch.float64), drawn(40, 1, seed=7)
    y = functional.silu(z) * v
    a, b, c, e, f = fitted(unit_sums(z, v, y, torch.ones(40)))
    assert_close(a * z * v + b * z * z + c * z + e * v + f, y, rtol=1e-9, atol=1e-9)
    assert all(bool(part.abs().max() < 1) for part in (a, b, c, e, f))
