"""Sparse autoencoders: one abstract base and four final classes under SAELens' names.

x̂ = a W_dec + b_dec with codes a = f((x − b_dec) W_enc + …), one vector per row; they differ in f. An SAE made with
`apply_b_dec_to_input = False` reads x itself and not x − b_dec.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from bilens._internal import checks
from bilens._internal.checks import flag, instance, whole
from bilens.dictionary import Dictionary
from bilens.errors import ShapeError, StoreError
from bilens.sae import folder as folders
from bilens.sae.sums import FEW, starts, sum_rows, top_k
from bilens.space import Space

C = TypeVar("C", bound="SAE")


class Sparse(NamedTuple):
    """Codes and what they decode to, without the zeros where the SAE knows them.

    Args:
        x_hat: (b, d_in), the reconstructions.
        values: (b, p), codes; every code that is not named here is 0. Or (nnz,), those of all vectors in one list.
        features: of the shape of values, each one's feature; or (p,) when they are the same for every vector.
    """

    x_hat: Float[Tensor, "b d_in"]
    values: Float[Tensor, "b p"] | Float[Tensor, " nnz"]
    features: Int[Tensor, "b p"] | Int[Tensor, " p"] | Int[Tensor, " nnz"]

    def uses(self) -> tuple[Tensor, Tensor]:
        """Feature numbers and how many vectors activate each; numbers may repeat."""
        active = (self.values != 0).to(self.values.dtype)
        if self.values.ndim == 2 and self.features.ndim == 1:
            active = active.sum(dim=0)
        return self.features.flatten(), active.flatten()


class SAE(nn.Module, ABC):
    """A sparse autoencoder: what the four architectures share.

    It is an `nn.Module`: its codes and reconstructions have a graph, as those of any module, unless they are computed
    under `torch.no_grad()`. Vectors and codes of another floating-point type are converted to the type of the weights.

    Args:
        d_in: size of the vectors. d_sae: number of features.
        seed: of the decoder's random unit rows; W_enc begins as W_decᵀ and every bias as 0.
        apply_b_dec_to_input: whether b_dec is subtracted from the input first, as the founding draft does.

    Raises:
        BilensError: a size below 1, or an invalid seed.
    """

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    architecture: str
    """SAELens' name of the architecture."""

    def __init__(self, d_in: int, d_sae: int, *, seed: int = 0, apply_b_dec_to_input: bool = True) -> None:
        super().__init__()
        d_in, d_sae = (whole(name, size, 1) for name, size in (("d_in", d_in), ("d_sae", d_sae)))
        self.seed = checks.seed(seed)
        rows = torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(self.seed))
        self.W_dec = nn.Parameter(functional.normalize(rows, dim=1))
        # Feature by feature in memory: the products and the sparse gradients read whole features.
        self.W_enc = nn.Parameter(self.W_dec.detach().clone().T)
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.apply_b_dec_to_input = flag("apply_b_dec_to_input", apply_b_dec_to_input)

    @property
    def d_in(self) -> int:
        """Size of the vectors."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_dec.shape[0]

    @property
    def settings(self) -> dict[str, Any]:
        """What the SAE was made with, the sizes aside, by name."""
        return {"apply_b_dec_to_input": self.apply_b_dec_to_input}

    @abstractmethod
    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """Codes a, one vector per row, in the type of the weights.

        Raises:
            ShapeError: the last axis of x is not d_in. BilensError: whole, complex or 8-bit numbers, sparse vectors, or
                vectors on another device.
        """

    def decode(self, acts: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_in"]:
        """Reconstructions x̂ = a W_dec + b_dec, in the type of the weights.

        Raises:
            ShapeError: the last axis of the codes is not d_sae. BilensError: as `encode`.
        """
        acts = checks.vectors("codes", acts, self.W_dec, self.d_sae, expected=f"{self.d_sae} features on the last axis")
        return acts @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """x̂ = decode(encode(x))."""
        return self.decode(self.encode(x))

    def sparse(self, x: Float[Tensor, "b d_in"]) -> Sparse:
        """Codes and reconstructions of a batch together; gradients flow through both."""
        acts = self.encode(x)
        return Sparse(self.decode(acts), acts, torch.arange(self.d_sae, device=acts.device))

    def dictionary(self, space: Space, active: Sequence[int] | Sequence[bool] | Tensor | None = None) -> Dictionary:
        """The decoder as a dictionary: atoms = rows of W_dec, offset = b_dec, duals = their pseudoinverse.

        A copy without a graph, in float32 at least, which training on does not change.

        Args:
            space: the space of the vectors, of size d_in.
            active: the features to keep, as a mask of length d_sae or as numbers, which the labels keep; all when None.

        Raises:
            ShapeError: a space or a mask of another size. BilensError: no feature is left, or a number out of range.

        Source: founding draft, "Pseudoinverse trick to project onto a feature basis".
        """
        instance("space", space, Space)
        if active is None:
            return Dictionary.from_atoms(self.W_dec, space, offset=self.b_dec)
        index = checks.places("features", active, self.d_sae, self.W_dec.device)
        labels = [str(i) for i in index.tolist()]
        return Dictionary.from_atoms(self.W_dec[index], space, offset=self.b_dec, labels=labels)

    @torch.no_grad()
    def rescale(self, factor: float | Tensor) -> None:
        """Make the SAE act on factor · x as it did on x: encode and forward give `factor` times what they gave.

        Every architecture is homogeneous in the vectors and its biases together, so that only biases change.

        Args:
            factor: above 0, as a number or a tensor of one.

        Raises:
            BilensError: not a finite number above 0.
        """
        value = factor.item() if isinstance(factor, Tensor) and factor.numel() == 1 else factor
        if isinstance(value, Tensor):
            raise ShapeError(f"factor of shape {tuple(value.shape)}", "one number")
        factor = checks.number("factor", value, above=0)
        for bias in (self.b_dec, *self._biases()):
            bias.mul_(factor)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a SAELens folder: `cfg.json` and `sae_weights.safetensors`.

        Examples:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     StandardSAE(8, 32).save_pretrained(folder)
            ...     again = SAE.from_pretrained(folder)
            >>> type(again).__name__, again.d_sae
            ('StandardSAE', 32)

        Raises:
            StoreError: SAELens has no such SAE (top-k without ReLU), or the folder cannot be written.
        """
        weights = {name: value.detach() for name, value in self.named_parameters()}
        folders.write(folder, self.architecture, self.settings, weights)

    @classmethod
    def from_pretrained(cls: type[C], folder: str | Path) -> C:
        """Read a SAELens folder, or the ICLR 2025 authors' top-k folder (`config.json`, `model.safetensors`).

        `SAE.from_pretrained` reads any architecture, a class only its own. Everything comes from the folder, k too.

        Raises:
            StoreError: a file is missing or damaged, a setting is unknown or not supported, or the weights do not fit.
        """
        content = folders.read(folder)
        kind = _ARCHITECTURES[content.architecture]
        if not issubclass(kind, cls):
            raise StoreError(
                f"{folder} with architecture {content.architecture!r}",
                f"architecture {cls.architecture!r}",
                f"read it with {kind.__name__}.from_pretrained",
            )
        settings: dict[str, Any] = dict(content.settings)
        d_sae, d_in = content.weights["W_dec"].shape
        sae = kind(d_in, d_sae, **settings).to(content.weights["W_dec"].dtype)
        sae.load_state_dict(content.weights)
        return sae

    @abstractmethod
    def _biases(self) -> tuple[nn.Parameter, ...]:
        """What scales with the vectors, b_dec aside."""

    def _centred(self, x: Tensor) -> Tensor:
        """The encoder's input x − b_dec, checked and in the type of the weights."""
        x = checks.vectors("vectors", x, self.W_enc, self.d_in)
        return x - self.b_dec if self.apply_b_dec_to_input else x


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
        values, features = top_k(z @ self.W_enc + self.b_enc, self.k)
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


_ARCHITECTURES: dict[str, type[SAE]] = {
    kind.architecture: kind for kind in (StandardSAE, TopKSAE, JumpReLUSAE, GatedSAE)
}
