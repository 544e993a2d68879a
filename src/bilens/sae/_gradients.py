"""Losses and gradients of a batch, written by hand: dense products and sums of named rows, and little beside them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal.sums import FEW, starts, sum_rows, top_k
from bilens.sae.architectures import StandardSAE, TopKSAE

CHUNK = 1024
"""Vectors at a time on a CPU: their codes stay near the processor between two products, which are as fast as larger."""

_SOME = 0.75
"""Share of features active in a chunk below which products with those alone pay for gathering them, on a CPU."""

_MULTIPLE = 8
"""Products are fastest where the sizes that they sum over are multiples of this."""


class Gradients(NamedTuple):
    """Sums over a batch, and the gradients of weight · Σ (‖x − x̂‖² + l1 Σ_k |a_k| ‖w_k‖), w_k the decoder's rows.

    Args:
        error: Σ ‖x − x̂‖². penalty: Σ Σ_k |a_k| ‖w_k‖.
        uses: (d_sae,), on how many of the vectors each code is not 0, in float32.
        W_enc, b_enc, W_dec, b_dec: the gradient in each, in the memory layout of a new SAE's parameter.
    """

    error: Float[Tensor, ""]
    penalty: Float[Tensor, ""]
    uses: Float[Tensor, " d_sae"]
    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]


@torch.no_grad()
def gradients(
    sae: StandardSAE | TopKSAE,
    x: Float[Tensor, "b d_in"],
    *,
    l1: float,
    weight: float,
    products: torch.dtype | None = None,
) -> Gradients:
    """Loss and gradients of a batch of any number of vectors, none included. Nothing is written to the SAE.

    Args:
        sae: whose loss it is.
        x: on the SAE's device, in the type of its weights.
        l1: weight of the penalty; weight: of the whole, 1 over the size of the batch that these vectors are part of.
        products: the type that the factors of dense products are rounded to; that of the weights when None. Sums of
            named rows, sums over chunks, biases and the penalty are not rounded so.

    Cost: with all codes active, five products of 2 b d_in d_sae operations and some passes over the codes. With few
    active (on a CPU), or k of them few, one such product, and sums of 4 b L0 rows. Memory beside the gradients: the
    codes of a chunk, on a CPU; elsewhere those of the batch, twice.
    """
    sums = _BatchGradients(sae, l1, weight, products or x.dtype)
    size = CHUNK if x.device.type == "cpu" else max(len(x), 1)
    chunks = [slice(start, start + size) for start in range(0, len(x), size)]
    if isinstance(sae, StandardSAE):
        for chunk in chunks:
            sums.relu(x[chunk])
    elif sae.k <= FEW * sae.d_sae:
        values = x.new_empty(len(x), sae.k)
        features = torch.empty(len(x), sae.k, dtype=torch.int64, device=x.device)
        for chunk in chunks:
            values[chunk], features[chunk] = top_k(sums.before(sums.inputs(x[chunk])), sae.k)
        sums.top_k(x, values, features)
    else:
        for chunk in chunks:
            sums.wide_top_k(x[chunk], sae.k)
    return sums.total()


class _BatchGradients:
    """Gradients of a batch, summed chunk by chunk. Each matrix has one more column, for what is constant:

            d_in columns       one more
        Z   z = x − b_dec      1               (b, ·), the encoder's inputs
        E   W_encᵀ             b_enc           (m, ·), so that the codes are a = ReLU(Z Eᵀ)
        R   2 weight (x̂ − x)   1               (b, ·), the gradient in x̂
        D   W_dec              weight l1 ‖w‖   (m, ·), so that G = R Dᵀ where a > 0 is the whole gradient in Z Eᵀ

    So biases and penalty cost no pass of their own: aᵀ R = [gradient of W_dec, Σ a], Gᵀ Z = [gradient of W_encᵀ, of
    b_enc]. The gradient in z is not formed: only b_dec is behind it, whose share is −W_enc Σ G.
    """

    def __init__(self, sae: StandardSAE | TopKSAE, l1: float, weight: float, products: torch.dtype) -> None:
        self.sae, self.l1, self.weight, self.products = sae, l1, weight, products
        rows, self.d = sae.W_dec, sae.d_in
        # Where products round to few bits, a second column holds what the first leaves of a constant.
        self.constants = 1 if products == rows.dtype else 2
        self.columns = -(-(self.d + self.constants) // _MULTIPLE) * _MULTIPLE
        self.norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
        self.encoder = self._rows(sae.W_enc.T, sae.b_enc)
        self.decoder = self._rows(rows, self.norms * (l1 * weight))
        self.d_encoder, self.d_decoder = rows.new_zeros(2, sae.d_sae, self.columns)
        self.d_bias = rows.new_zeros(self.d)
        self.summed = rows.new_zeros(sae.d_sae)  # Σ |a|, but for what the constant column holds
        self.uses = torch.zeros_like(self.summed, dtype=torch.float32)
        self.error = rows.new_zeros(())

    def inputs(self, x: Tensor) -> Tensor:
        """Z, in the type of the products."""
        return self._with(self.centred(x), 1.0)

    def before(self, z: Tensor) -> Tensor:
        """Z Eᵀ, what the codes are made of."""
        return z @ self.encoder.T

    def centred(self, x: Tensor) -> Tensor:
        return x - self.sae.b_dec if self.sae.apply_b_dec_to_input else x

    def relu(self, x: Tensor) -> None:
        """Add vectors whose codes are ReLU(Z Eᵀ): by name when few are active, else by products with those that are."""
        z = self.inputs(x)
        acts = self.before(z).relu_()
        active = acts.sign()
        uses = active.sum(dim=0, dtype=torch.float32)
        chosen = None
        if x.device.type == "cpu":  # where looking at a number waits for nothing
            if float(uses.sum()) < FEW * acts.numel():
                row, feature = acts.nonzero(as_tuple=True)
                values = acts[row, feature].to(x.dtype)
                self._named(x, values, row, feature, starts(row, len(x)), None)
                return
            some = uses.nonzero()[:, 0]
            if len(some) < _SOME * len(uses):
                chosen, acts, active = some, acts[:, some], active[:, some]
        self.uses += uses
        decoder = self.decoder if chosen is None else self.decoder[chosen]
        r = self._with(self._residual(x, (acts @ decoder)[:, : self.d].to(x.dtype)), 1.0)
        _add_product(self.d_decoder, chosen, acts.T, r)
        del acts  # before as many numbers more
        grad = (r @ decoder.T).mul_(active)
        _add_product(self.d_encoder, chosen, grad.T, z)

    def top_k(self, x: Tensor, values: Tensor, features: Tensor) -> None:
        """Add vectors with these k largest entries of Z Eᵀ, k few."""
        kept, slope = self._kept(values)
        b, k = kept.shape
        row = torch.arange(b, device=x.device).repeat_interleave(k)
        first = torch.arange(0, b * k, k, device=x.device)
        self._named(x, kept.flatten(), row, features.flatten(), first, slope.flatten())

    def wide_top_k(self, x: Tensor, k: int) -> None:
        """Add vectors whose codes are the k largest entries of Z Eᵀ, k many: dense products with zeros between."""
        z = self.inputs(x)
        acts = self.before(z)
        values, features = top_k(acts, k)
        kept, slope = self._kept(values.to(x.dtype))
        self._count(kept.flatten(), features.flatten())
        acts.zero_().scatter_(1, features, kept.to(acts.dtype))
        # The penalty's slope has the code's sign: it is added to the k codes alone.
        r = self._with(self._residual(x, (acts @ self.decoder)[:, : self.d].to(x.dtype)), 0.0)
        _add_product(self.d_decoder, None, acts.T, r)
        acts = r @ self.decoder.T
        grad = (acts.gather(1, features).to(x.dtype) + self._penalty_slope(kept, features)) * slope
        acts.zero_().scatter_(1, features, grad.to(acts.dtype))
        _add_product(self.d_encoder, None, acts.T, z)

    def total(self) -> Gradients:
        """The sums, in the layout of the parameters."""
        sae, d = self.sae, self.d
        summed = self.summed + self.d_decoder[:, d]
        d_rows, d_b_enc = self.d_decoder[:, :d].contiguous(), self.d_encoder[:, d].contiguous()
        if self.l1 > 0:
            slope = summed * (self.l1 * self.weight) / torch.where(self.norms > 0, self.norms, 1)
            d_rows.addcmul_(sae.W_dec, slope[:, None])
        if sae.apply_b_dec_to_input:
            self.d_bias.sub_(sae.W_enc @ d_b_enc)
        d_encoder = self.d_encoder[:, :d].contiguous().T
        penalty = summed.dot(self.norms)
        return Gradients(self.error, penalty, self.uses, d_encoder, d_b_enc, d_rows, self.d_bias)

    def _rows(self, rows: Tensor, constant: Tensor) -> Tensor:
        """[rows, constant] in the type of the products, the constant over as many columns as it needs."""
        made = rows.new_zeros(len(rows), self.columns, dtype=self.products)
        made[:, : self.d] = rows
        for column in range(self.d, self.d + self.constants):
            made[:, column] = constant
            constant = constant - made[:, column]
        return made

    def _with(self, vectors: Tensor, constant: float) -> Tensor:
        """[vectors, constant] in the type of the products."""
        made = vectors.new_zeros(len(vectors), self.columns, dtype=self.products)
        made[:, : self.d] = vectors
        made[:, self.d : self.d + self.constants] = constant
        return made

    def _residual(self, x: Tensor, sums: Tensor) -> Tensor:
        """The gradient in x̂, from the bare reconstructions; the error and the gradient of b_dec are added up too."""
        r = sums.add_(self.sae.b_dec).sub_(x)
        self.error += r.square().sum()
        r.mul_(2 * self.weight)
        self.d_bias += r.sum(dim=0)
        return r

    def _kept(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Codes from the k largest entries, and their slopes in them."""
        if isinstance(self.sae, TopKSAE) and self.sae.rectify:
            kept = values.relu()
            return kept, kept.sign()
        return values, torch.ones_like(values)

    def _count(self, values: Tensor, feature: Tensor) -> None:
        self.uses.index_add_(0, feature, (values != 0).to(torch.float32))
        self.summed.index_add_(0, feature, values.abs())

    def _penalty_slope(self, values: Tensor, feature: Tensor) -> Tensor:
        return self.norms[feature] * values.sign() * (self.l1 * self.weight)

    def _named(  # noqa: PLR0917 (six tensors of one list)
        self, x: Tensor, values: Tensor, row: Tensor, feature: Tensor, first: Tensor, slope: Tensor | None
    ) -> None:
        """Add vectors by lists of their codes, vector after vector, each list from `first` on."""
        self._count(values, feature)
        rows, d = self.sae.W_dec, self.d
        r = self._residual(x, sum_rows(rows, feature, values, first))
        grad = _of_weights(rows, feature, values, first, r)
        if self.l1 > 0:
            grad = grad + self._penalty_slope(values, feature)
        if slope is not None:
            grad = grad * slope
        ordered, order = feature.sort(stable=True)
        begin = starts(ordered, len(rows))
        by_feature = row[order]
        self.d_decoder[:, :d] += sum_rows(r, by_feature, values[order], begin)
        self.d_encoder[:, :d] += sum_rows(self.centred(x), by_feature, grad[order], begin)
        self.d_encoder[:, d].index_add_(0, feature, grad)


def _add_product(total: Tensor, rows: Tensor | None, left: Tensor, right: Tensor) -> None:
    """total += left @ right, in the type of the total; into some of its rows when they are named."""
    found = (left @ right).to(total.dtype)
    if rows is None:
        total += found
    else:
        total.index_add_(0, rows, found)


def _of_weights(rows: Tensor, feature: Tensor, values: Tensor, first: Tensor, r: Tensor) -> Tensor:
    """The gradient of `sum_rows` in its values: each code's row times the gradient of its vector's sum."""
    with torch.enable_grad():
        through = values.detach().requires_grad_()
        found: tuple[Tensor, ...] = torch.autograd.grad(sum_rows(rows.detach(), feature, through, first), through, r)
    return found[0]
