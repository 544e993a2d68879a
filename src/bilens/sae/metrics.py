"""How sparse codes are and how well they rebuild the vectors, each with its formula; no gradients but where stated."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from bilens._internal import checks
from bilens._internal.checks import instance, number
from bilens._internal.shown import line
from bilens.errors import BilensError, ShapeError
from bilens.sae.base import SAE
from bilens.sae.site import SiteWarning
from bilens.sae.streams import Stream, TensorStream, as_stream


@torch.no_grad()
def l0(acts: Float[Tensor, "*n d_sae"]) -> Float[Tensor, ""]:
    """Mean number of features that are not 0 on a vector."""
    _check_codes(acts)
    return (acts != 0).sum(dim=-1).double().mean()


@torch.no_grad()
def dead_fraction(acts: Float[Tensor, "*n d_sae"]) -> Float[Tensor, ""]:
    """Fraction of the features that are 0 on every vector given."""
    _check_codes(acts)
    return (acts[None] == 0).flatten(0, -2).all(dim=0).double().mean()


@torch.no_grad()
def nmse(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Σ‖x − x̂‖² / Σ‖x‖², in float64: predicting 0 gives 1, perfection 0. NaN when every x is 0 and rebuilt as such."""
    _check_pair(x, x_hat)
    x = x.double()
    return (x - x_hat.double()).square().sum() / x.square().sum()


@torch.no_grad()
def explained_variance(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """1 − Σ‖x − x̂‖² / Σ‖x − x̄‖², in float64, x̄ the mean vector: predicting x̄ gives 0, perfection 1.

    It is taken about the mean: against Σ‖x‖² an SAE that only knows the mean looks good when that is large.
    NaN or −∞ when the vectors are all equal: there is no variance to explain.
    """
    _check_pair(x, x_hat)
    x, x_hat = x.double().flatten(0, -2), x_hat.double().flatten(0, -2)
    return 1 - (x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum()


def decoder_similarity(W_dec: Float[Tensor, "d_sae d_in"], p: float = 10.0) -> Float[Tensor, ""]:
    """(Σ_{i≠j} |cos_ij|^p)^{1/p} over the rows of the decoder: 0 when they are orthogonal.

    Rows that are 0 have no direction and count for nothing; a single row gives 0. Gradients flow through and are finite
    everywhere: the cosines are divided by the largest before the power, and the value 0 has gradient 0.

    Cost: two products of (d_sae, d_sae) and (d_sae, d_in) with the gradient, and some d_sae² numbers of memory.

    Raises:
        BilensError: p below 1, or rows that are not a dense floating-point tensor. ShapeError: not a matrix.

    Source: founding draft, "MNIST SAE features": "penalty on decoder |cos| as an L_p norm, p = 10".
    """
    checks.floating("W_dec", W_dec)
    if W_dec.ndim != 2:
        raise ShapeError(f"W_dec of shape {tuple(W_dec.shape)}", "(d_sae, d_in)")
    p = number("p", p, 1)
    value: Tensor = _CosineNorm.apply(functional.normalize(W_dec, dim=1), p)  # type: ignore[no-untyped-call]
    return value


class _CosineNorm(torch.autograd.Function):
    """(Σ_{i≠j} |C_ij|^p)^{1/p} with C = U Uᵀ, and its gradient 2 t^{1/p − 1} (|c|^{p−1} sign c) U, made on the way.

    c = C / max |C| and t = Σ |c|^p, so that no power leaves the range of numbers.
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor, p: float) -> Tensor:
        cosines = (unit @ unit.T).fill_diagonal_(0)
        low, high = cosines.aminmax()
        largest = torch.maximum(-low, high)
        cosines.div_(largest.clamp_min(torch.finfo(unit.dtype).tiny))
        slopes = _signed_power(cosines, p - 1)
        total = slopes.flatten().dot(cosines.flatten())
        # The largest alone gives a total of 2; a total of 0 is a largest of 0, whose gradient is 0.
        total = torch.where(total > 0, total, 1)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((slopes @ unit).mul_(2 * total.pow(1 / p - 1)))
        return largest * total.pow(1 / p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None


def _signed_power(x: Tensor, exponent: float) -> Tensor:
    """|x|^exponent sign x; odd whole exponents by repeated squaring, which is several times faster than `pow`."""
    if exponent % 2 != 1:
        return x.abs().pow_(exponent).mul_(x.sign())
    power, square, left = x.clone(), x * x, int(exponent) // 2
    while left:
        if left % 2:
            power.mul_(square)
        square.square_()
        left //= 2
    return power


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """An SAE measured over a set of vectors; for a transcoder, x below is what it predicts.

    Args:
        l0: mean number of features that are not 0 on a vector.
        explained_variance: 1 − FVU, with FVU = Σ‖x − x̂‖² / Σ‖x − x̄‖², x̄ the mean over the whole set.
        nmse: Σ‖x − x̂‖² / Σ‖x‖².
        dead_fraction: fraction of the features that are 0 on every vector.
        frequency: (d_sae,), fraction of the vectors on which each feature is not 0.
        mean_activation: (d_sae,), mean code of each feature over all vectors, its zeros included.
        rows: how many vectors.

    Raises:
        ShapeError: frequency and mean_activation do not fit together.
    """

    l0: float
    explained_variance: float
    nmse: float
    dead_fraction: float
    frequency: Float[Tensor, " d_sae"]
    mean_activation: Float[Tensor, " d_sae"]
    rows: int

    __repr__ = line

    def __post_init__(self) -> None:
        checks.shapes(self)

    @property
    def active(self) -> Tensor:
        """(d_sae,), the mask of the features that are not dead, as `SAE.dictionary` takes it."""
        return self.frequency > 0


@torch.no_grad()
def evaluate(
    sae: SAE,
    vectors: Stream | Iterable[Tensor] | Float[Tensor, "n d_in"],
    targets: Stream | Iterable[Tensor] | Float[Tensor, "n d_out"] | None = None,
) -> Evaluation:
    """Measure an SAE over one epoch of a stream, or over all rows of a tensor, holding one batch at a time.

    Examples:
        >>> from bilens import sae
        >>> vectors = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
        >>> found = sae.evaluate(sae.TopKSAE(8, 32, k=4), vectors)
        >>> found.rows, found.l0 <= 4, bool(found.active.any())
        (1000, True, True)

    Means and squared distances to the mean are merged batch by batch in float64, so that nothing cancels.

    A coder that was read from somebody else's folder, and explains less of the vectors than their mean does (FVU above
    1), was probably made for others: a `SiteWarning` says for which, as far as the folder tells.

    Args:
        sae: the SAE or transcoder; batches are moved to its device.
        vectors: a stream, anything that `train` takes, or a tensor with one vector per row.
        targets: of a transcoder, what it is to predict: vector for vector, in batches of the same sizes.

    Raises:
        ShapeError: vectors of another width, or targets of other batches. BilensError: no vectors at all, a transcoder
            without targets, or an autoencoder with some.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    """
    instance("SAE", sae, SAE, "an SAE", "pass a StandardSAE or another of bilens.sae")
    if sae.transcodes != (targets is not None):
        kind = "a transcoder without targets" if sae.transcodes else "an autoencoder with targets"
        wanted = "vectors and what it is to predict from them" if sae.transcodes else "the vectors alone"
        raise BilensError(kind, wanted, "pass them as targets" if sae.transcodes else "")
    stream, others = _stream(vectors), None if targets is None else _stream(targets)
    device = sae.W_dec.device
    fired, summed = torch.zeros(2, sae.d_sae, dtype=torch.float64, device=device)
    mean = torch.zeros(sae.d_out, dtype=torch.float64, device=device)
    error, power, spread = torch.zeros(3, dtype=torch.float64, device=device)
    rows = 0
    for n in range(len(stream)):
        x = stream.batch(n).to(device)
        y = x if others is None else _paired(others, n, len(stream), x, sae.d_out)
        if not len(x):
            continue
        codes = sae.sparse(x)
        y, values = y.double(), codes.values.double()
        error += (y - codes.x_hat.double()).square().sum()
        features = codes.features.expand_as(values).flatten()
        fired.index_add_(0, features, (values != 0).double().flatten())
        summed.index_add_(0, features, values.flatten())
        power += y.square().sum()
        centre = y.mean(dim=0)
        spread += (y - centre).square().sum() + (centre - mean).square().sum() * (rows * len(y) / (rows + len(y)))
        mean += (centre - mean) * (len(y) / (rows + len(y)))
        rows += len(y)
    if not rows:
        raise BilensError("a stream without vectors", "at least one")
    if sae.site is not None and float(error) > float(spread) > 0:
        warnings.warn(
            f"the coder explains less of these {rows:,} vectors than their mean does: FVU {float(error / spread):.3g}, "
            f"where the mean has 1. It was made for {sae.site}: check that the vectors come from there",
            SiteWarning,
            stacklevel=3,  # past `no_grad`
        )
    return Evaluation(
        l0=float(fired.sum() / rows),
        explained_variance=float(1 - error / spread),
        nmse=float(error / power),
        dead_fraction=float((fired == 0).double().mean()),
        frequency=fired / rows,
        mean_activation=summed / rows,
        rows=rows,
    )


def _stream(vectors: Stream | Iterable[Tensor] | Tensor) -> Stream:
    return TensorStream(vectors, batch_size=4096, shuffle=False) if isinstance(vectors, Tensor) else as_stream(vectors)


def _paired(targets: Stream, n: int, batches: int, x: Tensor, width: int) -> Tensor:
    """The batch of targets that belongs to a batch of vectors."""
    if len(targets) != batches:
        raise ShapeError(f"targets in {len(targets)} batches", f"{batches}, as the vectors")
    y = targets.batch(n).to(x.device)
    if tuple(y.shape) != (len(x), width):
        raise ShapeError(f"targets of shape {tuple(y.shape)}", f"{(len(x), width)}: one for each vector, of size d_out")
    return y


def _check_codes(acts: Tensor) -> None:
    checks.floating("codes", acts)
    if acts.ndim == 0:
        raise ShapeError("codes of shape ()", "(vectors, d_sae)", "pass one vector per row")


def _check_pair(x: Tensor, x_hat: Tensor) -> None:
    checks.floating("x", x)
    checks.floating("x_hat", x_hat)
    checks.on_device("x_hat", x_hat, x)
    if x.shape != x_hat.shape or x.ndim < 2:
        raise ShapeError(
            f"x of shape {tuple(x.shape)} and x_hat of {tuple(x_hat.shape)}", "two (n, d)", "pass one vector per row"
        )
