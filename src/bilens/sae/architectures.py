"""Sparse autoencoders: four final classes under SAELens' names, of which the first two are trained here."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bilens._internal.checks import flag, instance, whole
from bilens._internal.sums import FEW, starts, sum_rows, top_k
from bilens.sae.base import SAE, Sparse


@final
class StandardSAE(SAE):
    """The founding draft's: a = ReLU((x − b_dec) W_enc + b_enc).

    Args and Raises: as `SAE`.

    Source: founding draft, "MNIST SAE features"; SAELens' "standard".
    """

    architecture = "standard"

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0, apply_b_dec_to_input: bool = True) -> None:
        super().__init__(d_in, d_sae, seed=seed, apply_b_dec_to_input=apply_b_dec_to_input)
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """a = ReLU((x − b_dec) W_enc + b_enc)."""
        return functional.relu(self._centred(x) @ self.W_enc + self.b_enc)

    def sparse(self, x: Float[Tensor, "b d_in"]) -> Sparse:
        """Codes and reconstructions of a batch; on a CPU only of the active codes, or of the features active in it."""
        instance("vectors", x, Tensor)
        if x.device.type != "cpu":
            return super().sparse(x)
        acts = self.encode(x)
        row, feature = acts.nonzero(as_tuple=True)
        if len(row) < FEW * acts.numel():
            values = acts[row, feature]
            return Sparse(sum_rows(self.W_dec, feature, values, starts(row, len(x))) + self.b_dec, values, feature)
        active = torch.bincount(feature, minlength=self.d_sae).nonzero()[:, 0]
        acts = acts[:, active]
        return Sparse(acts @ self.W_dec[active] + self.b_dec, acts, active)

    def _biases(self) -> tuple[nn.Parameter, ...]:
        return (self.b_enc,)


@final
class TopKSAE(SAE):
    """The k largest of (x − b_dec) W_enc + b_enc, the others 0; ReLU on top unless `rectify` is false.

    Examples:
        >>> autoencoder = TopKSAE(d_in=8, d_sae=32, k=4)
        >>> codes = autoencoder.encode(torch.ones(2, 8))
        >>> codes.shape, bool(((codes != 0).sum(dim=1) <= 4).all())
        (torch.Size([2, 32]), True)

    Args:
        k: codes kept per vector, 1 … d_sae; with ReLU those of them that are negative are 0 too.
        rectify: False is the ICLR 2025 authors' top-k, which keeps negative codes.
        d_in, d_sae, seed, apply_b_dec_to_input: as `SAE`.

    Raises:
        BilensError: a size below 1, or k outside 1 … d_sae.

    Source: arXiv 2406.04093; arXiv 2410.08417 without ReLU; SAELens' "topk".
    """

    architecture = "topk"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        *,
        rectify: bool = True,
        seed: int = 0,
        apply_b_dec_to_input: bool = True,
    ) -> None:
        super().__init__(d_in, d_sae, seed=seed, apply_b_dec_to_input=apply_b_dec_to_input)
        self.k = whole("k", k, 1, self.d_sae)
        self.rectify = flag("rectify", rectify)
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """The k largest of (x − b_dec) W_enc + b_enc, rectified; the others 0."""
        values, features = self._codes(self._centred(x).reshape(-1, self.d_in))
        return values.new_zeros(len(values), self.d_sae).scatter(1, features, values).view(*x.shape[:-1], self.d_sae)

    def forward(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """x̂ = decode(encode(x)), decoded from the k codes alone."""
        centred = self._centred(x)
        values, features = self._codes(centred.reshape(-1, self.d_in))
        return sum_rows(self.W_dec, features, values).view(centred.shape) + self.b_dec

    def sparse(self, x: Float[Tensor, "b d_in"]) -> Sparse:
        """Codes and reconstructions of a batch, decoded from the k codes alone."""
        values, features = self._codes(self._centred(x))
        return Sparse(sum_rows(self.W_dec, features, values) + self.b_dec, values, features)

    def _codes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        # In one product with its bias, as `nn.Linear`: half precision rounds once, and the order of features is kept.
        values, features = top_k(torch.addmm(self.b_enc, z, self.W_enc), self.k)
        return functional.relu(values) if self.rectify else values, features

    @property
    def settings(self) -> dict[str, Any]:
        """What the SAE was made with, the sizes aside, by name."""
        return {**super().settings, "k": self.k, "rectify": self.rectify}

    def _biases(self) -> tuple[nn.Parameter, ...]:
        return (self.b_enc,)


@final
class JumpReLUSAE(SAE):
    """a = p where p > threshold and p > 0, else 0, with p = (x − b_dec) W_enc + b_enc. Not trained here.

    Args and Raises: as `SAE`.

    Source: arXiv 2407.14435; SAELens' "jumprelu".
    """

    architecture = "jumprelu"

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0, apply_b_dec_to_input: bool = True) -> None:
        super().__init__(d_in, d_sae, seed=seed, apply_b_dec_to_input=apply_b_dec_to_input)
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.threshold = nn.Parameter(torch.zeros(self.d_sae))

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """a = ReLU(p) · [p > threshold]."""
        pre = self._centred(x) @ self.W_enc + self.b_enc
        return functional.relu(pre) * (pre > self.threshold)

    def _biases(self) -> tuple[nn.Parameter, ...]:
        return (self.b_enc, self.threshold)


@final
class GatedSAE(SAE):
    """a = ReLU(z ⊙ e^r_mag + b_mag) where z + b_gate > 0, else 0, with z = (x − b_dec) W_enc. Not trained here.

    Args and Raises: as `SAE`.

    Source: arXiv 2404.16014; SAELens' "gated".
    """

    architecture = "gated"

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0, apply_b_dec_to_input: bool = True) -> None:
        super().__init__(d_in, d_sae, seed=seed, apply_b_dec_to_input=apply_b_dec_to_input)
        self.b_gate = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.r_mag = nn.Parameter(torch.zeros(self.d_sae))

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """a = ReLU(z ⊙ e^r_mag + b_mag) · [z + b_gate > 0]."""
        z = self._centred(x) @ self.W_enc
        return functional.relu(z * self.r_mag.exp() + self.b_mag) * (z + self.b_gate > 0)

    def _biases(self) -> tuple[nn.Parameter, ...]:
        return (self.b_gate, self.b_mag)
