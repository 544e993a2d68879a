"""Eigenvalues of symmetric matrices, where LAPACK's answer is good and where it is not, against NumPy's in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bilens.decompose import linalg
from bilens.errors import BilensError
from messages import refuses
from oracle import array, near

SOLVERS = {"eigh": lambda matrix: linalg.eigh(matrix)[0], "eigvalsh": linalg.eigvalsh}


def graded(dtype: torch.dtype) -> torch.Tensor:
    """Two matrices whose entries lie between 1e-33 and 100."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.rand(2, 12, 12, generator=generator, dtype=torch.float64) * -35 + 2
    matrices = 10**ranks * torch.randn(2, 12, 12, generator=generator, dtype=torch.float64)
    return (matrices + matrices.mT).to(dtype)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_vectors_of_graded_matrices(dtype, name):
    matrices = graded(dtype)
    expected = np.linalg.eigvalsh(array(matrices.double()))
    scale, rtol = abs(expected).max(), 1e-5 if dtype == torch.float32 else 1e-13
    near(SOLVERS[name](matrices), expected, scale, rtol=rtol)
    values, vectors = linalg.eigh(matrices)
    near(matrices @ vectors, values[:, None] * vectors, scale, rtol=rtol)
    assert values.dtype == vectors.dtype == dtype


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("failure", ["raises", "NaN"])
@pytest.mark.parametrize("clears", [True, False], ids=["zeros help", "float64 helps"])
def test_a_solver_that_fails_is_asked_again(clears, failure, name, monkeypatch):
    """Made to fail on the tiny entries, or on float32 altogether, it still answers, and right."""
    ask = getattr(torch.linalg, name)
    types = []

    def fails(matrices):
        types.append(matrices.dtype)
        tiny = bool(((matrices != 0) & (matrices.abs() < 1e-20)).any())
        if tiny if clears else matrices.dtype == torch.float32:
            if failure == "raises":
                raise torch.linalg.LinAlgError("no convergence")
            found = ask(matrices.double().nan_to_num())
            return tuple(part.float() * torch.nan for part in found) if name == "eigh" else found.float() * torch.nan
        return ask(matrices)

    monkeypatch.setattr(torch.linalg, name, fails)
    matrices = graded(torch.float32)
    expected = np.linalg.eigvalsh(array(matrices.double()))
    near(SOLVERS[name](matrices), expected, abs(expected).max(), rtol=1e-5)
    assert types == [torch.float32] * 2 + ([] if clears else [torch.float64])


@pytest.mark.parametrize("name", SOLVERS)
def test_what_has_no_eigenvalues_is_told(name, monkeypatch):
    with refuses(BilensError, "NaN or infinity"):
        SOLVERS[name](torch.full((3, 3), torch.nan))

    def fails(_):
        raise torch.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(torch.linalg, name, fails)
    with refuses(BilensError, "LAPACK does not find"):
        SOLVERS[name](torch.eye(3))


def test_gradients_go_through():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)).requires_grad_()
    linalg.eigh(matrix)[0][2].backward()
    near(matrix.grad, np.diag([0.0, 0.0, 1.0]))
