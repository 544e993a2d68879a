"""What all sparse autoencoders and transcoders share, and the one door through which folders of them are read.

x̂ = a W_dec + b_dec with codes a = f((x − b_dec) W_enc + …), one vector per row; they differ in f. An SAE made with
`apply_b_dec_to_input = False` reads x itself and not x − b_dec.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from bilens._internal import checks
from bilens._internal.checks import flag, instance, whole
from bilens.dictionary import Dictionary
from bilens.errors import ShapeError, StoreError
from bilens.sae import _formats as formats
from bilens.sae._formats import saelens
from bilens.sae._formats.content import Content
from bilens.sae.site import Site
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
    """A sparse autoencoder, or a transcoder: what all architectures share.

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
    site: Site | None = None
    """What its folder says it was made for; None for one that was made here."""

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
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_dec.shape[0]

    @property
    def d_out(self) -> int:
        """Size of the reconstructions: d_in but for a transcoder."""
        return self.W_dec.shape[1]

    @property
    def transcodes(self) -> bool:
        """Whether it predicts other vectors than those that it encodes."""
        return False

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
            space: the space of the reconstructions, of size d_out: for a transcoder, that of the outputs.
            active: the features to keep, as a mask of length d_sae or as numbers, which the labels keep; all when None.

        Raises:
            ShapeError: a space or a mask of another size. BilensError: no feature is left, or a number out of range.

        Source: founding draft, "Pseudoinverse trick to project onto a feature basis".
        """
        return self._dictionary(self.W_dec, self.b_dec, space, active)

    def encoder_dictionary(
        self, space: Space, active: Sequence[int] | Sequence[bool] | Tensor | None = None
    ) -> Dictionary:
        """The encoder as a dictionary: atoms = columns of W_enc, duals = their pseudoinverse.

        A transcoder has two sides: this one in the space of what it encodes, and `dictionary` in that of what it
        predicts. Its offset is b_dec where that is subtracted from the vectors, else none.

        Args:
            space: the space of the vectors, of size d_in. active: as of `dictionary`.

        Raises: as `dictionary`.
        """
        return self._dictionary(self.W_enc.T, self.b_dec if self.apply_b_dec_to_input else None, space, active)

    def _dictionary(
        self,
        rows: Tensor,
        offset: Tensor | None,
        space: Space,
        active: Sequence[int] | Sequence[bool] | Tensor | None,
    ) -> Dictionary:
        instance("space", space, Space)
        if active is None:
            return Dictionary.from_atoms(rows, space, offset=offset)
        index = checks.places("features", active, self.d_sae, self.W_dec.device)
        labels = [str(i) for i in index.tolist()]
        return Dictionary.from_atoms(rows[index], space, offset=offset, labels=labels)

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
            >>> from bilens import sae
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     sae.StandardSAE(8, 32).save_pretrained(folder)
            ...     again = sae.load(folder)
            >>> type(again).__name__, again.d_sae
            ('StandardSAE', 32)

        Raises:
            StoreError: SAELens has no such SAE (top-k without ReLU), or the folder cannot be written.
        """
        weights = {name: value.detach() for name, value in self.named_parameters()}
        saelens.write(checks.path("folder", folder), self.architecture, self.settings, weights, self.site)

    @classmethod
    def from_pretrained(cls: type[C], folder: str | Path) -> C:
        """`load` a folder as an SAE of this class; `SAE.from_pretrained` takes whichever it is.

        Examples:
            >>> import tempfile
            >>> from bilens import sae
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     sae.TopKSAE(8, 32, k=4).save_pretrained(folder)
            ...     again = sae.TopKSAE.from_pretrained(folder)
            >>> again.d_sae, again.k
            (32, 4)

        Raises:
            StoreError: as `load`; the folder holds another class.
        """
        found = load(folder)
        if not isinstance(found, cls):
            raise StoreError(
                f"{folder} with architecture {found.architecture!r}",
                f"architecture {cls.architecture!r}" if hasattr(cls, "architecture") else f"a {cls.__name__}",
                f"read it with {type(found).__name__}.from_pretrained",
            )
        return found

    @classmethod
    def holds(cls, content: Content) -> bool:
        """Whether a folder's coder is one of this class: an autoencoder of vectors as they are, of its architecture."""
        instance("content", content, Content)
        return content.plain and content.architecture == cls.architecture

    @classmethod
    def holding(cls: type[C], content: Content) -> C:
        """The SAE of this class with the settings and weights of a folder."""
        instance("content", content, Content)
        d_in, d_sae = content.weights["W_enc"].shape
        sae = cls(d_in, d_sae, **content.settings)
        sae.to(content.weights["W_enc"].dtype).load_state_dict(content.weights)
        sae.site = content.site
        return sae

    @abstractmethod
    def _biases(self) -> tuple[nn.Parameter, ...]:
        """What scales with the vectors, b_dec aside."""

    def _centred(self, x: Tensor) -> Tensor:
        """The encoder's input x − b_dec, checked and in the type of the weights."""
        x = checks.vectors("vectors", x, self.W_enc, self.d_in)
        return x - self.b_dec if self.apply_b_dec_to_input else x


def load(folder: str | Path, *, scale: float | None = None) -> SAE:
    """Read the folder of a coder, other people's or ours, of whichever format its files are.

    Examples:
        >>> import tempfile
        >>> from bilens import sae
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sae.StandardSAE(8, 32).save_pretrained(folder)
        ...     coder = sae.load(folder)
        >>> x = torch.ones(2, 8)
        >>> coder.encode(x).shape, coder(x).shape
        (torch.Size([2, 32]), torch.Size([2, 8]))

    A plain autoencoder becomes a StandardSAE, TopKSAE, JumpReLUSAE or GatedSAE, anything else a `Coder`. Each gives the
    numbers of the program that wrote it, to rounding, in the type that its weights are stored in; `coder.float()`
    computes in float32. Every setting that shapes codes is understood or refused.

    Args:
        folder: SAELens' (of any version), sparsify's, dictionary_learning's, Gemma Scope's, the authors', or ours.
        scale: what training multiplied its vectors by, where the folder says that there was such a factor and does not
            hold it (`normalize_activations: expected_average_only_in`). The coder then takes vectors as they are.

    Raises:
        StoreError: a file is missing or damaged, the format or a setting is not supported, or the weights do not fit.
        BilensError: a scale that is no number above 0.
    """
    scale = None if scale is None else checks.number("scale", scale, above=0)
    content = formats.read(folder, scale)
    return next(kind for kind in SAE.__subclasses__() if kind.holds(content)).holding(content)
