"""Other people's coders in full: any rule for codes, normalised vectors, another output, a skip connection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bilens._internal import checks
from bilens._internal.checks import flag, number, whole
from bilens._internal.sums import top_k
from bilens.errors import BilensError, StoreError
from bilens.sae._formats import saelens, sparsify
from bilens.sae._formats.content import NORMALIZATIONS, VECTORS, Content
from bilens.sae.base import SAE, Sparse


@final
class Coder(SAE):
    """A sparse coder that somebody else trained, or a transcoder, which `train_transcoder` trains.

    Examples:
        >>> coder = Coder(8, 32, "abstopk", k=4)
        >>> codes = coder.encode(torch.randn(5, 8))
        >>> int((codes != 0).sum(dim=1).max())
        4

    With z = x, or x normalised: a = f((z − b_dec) W_enc + b_enc), without b_dec unless `apply_b_dec_to_input`, and
    ŷ = a W_dec + b_dec, scaled back where it rebuilds vectors that were normalised, plus W_skip x where there is a skip
    connection. The rules f, by name:

    - "standard", "topk", "jumprelu", "gated": as the classes of those names;
    - "abstopk": the k of largest size, with their signs;
    - "groupmax": the features in k groups of one size, in order; of each the largest, rectified;
    - "matching_pursuit": z − b_dec = r; add to the code of the atom with the largest r·w_k, if above 0, that product,
      and take it off r; until a vector's set of atoms stays the same, its ‖r‖ is below a threshold, or often enough.

    Args:
        d_in, d_sae, seed, apply_b_dec_to_input: as `SAE`; d_out: size of what it predicts, d_in when None.
        architecture: the rule for codes.
        k: of the rules that have one; as an attribute, 0 of the others.
        normalization: "none"; "layer_norm", (x − mean) / (std + 1e-5) over the coordinates of a vector; or
            "constant_norm_rescale", √d_in x / ‖x‖.
        skip: whether there is a W_skip (d_out, d_in).
        transcodes: whether it predicts other vectors than those it encodes, which a d_out other than d_in implies.
        residual_threshold, max_iterations, stop_on_duplicate_support: when matching pursuit stops; a threshold of 0 and
            a False switch these two off.

    Raises:
        BilensError: an unknown rule or normalisation, a number out of range, or what does not go together.

    Source: the formats' own code; arXiv 2510.00404 (abstopk), 2506.03093 (matching pursuit).
    """

    b_enc: nn.Parameter
    threshold: nn.Parameter
    b_gate: nn.Parameter
    b_mag: nn.Parameter
    r_mag: nn.Parameter

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        architecture: str = "standard",
        *,
        d_out: int | None = None,
        k: int | None = None,
        normalization: str = "none",
        skip: bool = False,
        transcodes: bool = False,
        residual_threshold: float = 1e-2,
        max_iterations: int | None = None,
        stop_on_duplicate_support: bool = True,
        seed: int = 0,
        apply_b_dec_to_input: bool = False,
    ) -> None:
        super().__init__(d_in, d_sae, seed=seed, apply_b_dec_to_input=apply_b_dec_to_input)
        checks.choice("architecture", architecture, tuple(VECTORS))
        checks.choice("normalization", normalization, NORMALIZATIONS)
        self.architecture, self.normalization = architecture, normalization
        d_in, d_sae = self.d_in, self.d_sae
        d_out = d_in if d_out is None else whole("d_out", d_out, 1)
        self._transcodes = flag("transcodes", transcodes) or d_out != d_in
        if normalization == "layer_norm" and d_in < 2:
            raise BilensError("layer_norm of vectors of one coordinate", "at least two, whose deviation can be taken")
        if self._transcodes and d_out != d_in and self.apply_b_dec_to_input:
            raise BilensError(f"a b_dec of size {d_out} subtracted from vectors of size {d_in}", "equal sizes")
        if architecture == "matching_pursuit" and self._transcodes:
            raise BilensError("a transcoder by matching pursuit", "an autoencoder: pursuit encodes by its decoder")
        self.k = 0 if k is None else whole("k", k, 1, d_sae)
        if (k is None) == (architecture in ("topk", "abstopk", "groupmax")):
            raise BilensError(f"k = {k} with architecture {architecture!r}", "k for topk, abstopk and groupmax alone")
        if architecture == "groupmax" and d_sae % self.k:
            raise BilensError(f"{d_sae} features in k = {self.k} groups", "groups of one size")
        self.residual_threshold = number("residual_threshold", residual_threshold, 0)
        self.max_iterations = d_in if max_iterations is None else whole("max_iterations", max_iterations, 1)
        self.stop_on_duplicate_support = flag("stop_on_duplicate_support", stop_on_duplicate_support)
        if d_out != d_in:
            rows = torch.randn(d_sae, d_out, generator=torch.Generator().manual_seed(self.seed))
            self.W_dec = nn.Parameter(functional.normalize(rows, dim=1))
            self.b_dec = nn.Parameter(torch.zeros(d_out))
        for name in VECTORS[architecture]:
            self.register_parameter(name, nn.Parameter(torch.zeros(d_sae)))
        self.W_skip = nn.Parameter(torch.zeros(d_out, d_in)) if flag("skip", skip) else None

    @property
    def transcodes(self) -> bool:
        """Whether it predicts other vectors than those that it encodes."""
        return self._transcodes

    @property
    def settings(self) -> dict[str, Any]:
        """What the coder was made with, the sizes aside, by name."""
        stated = ("architecture", "normalization", "residual_threshold", "max_iterations", "stop_on_duplicate_support")
        found = {name: getattr(self, name) for name in (*stated, "transcodes", "d_out")}
        return {**super().settings, **found, "k": self.k or None, "skip": self.W_skip is not None}

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """Codes a of vectors, normalised first where the coder does so."""
        z, _, _ = self._normalized(checks.vectors("vectors", x, self.W_enc, self.d_in))
        z = z - self.b_dec if self.apply_b_dec_to_input else z
        return _RULES[self.architecture](self, z.reshape(-1, self.d_in)).reshape(*x.shape[:-1], self.d_sae)

    def decode(self, acts: Float[Tensor, "*n d_sae"]) -> Float[Tensor, "*n d_out"]:
        """ŷ = a W_dec + b_dec, without the skip connection, which is a function of x: that is what a call adds.

        Raises:
            BilensError: the coder normalises its vectors, so that codes alone do not know the scale of one: `restore`.
        """
        if self.normalization != "none" and not self.transcodes:
            raise BilensError(
                f"codes alone for a coder of vectors under {self.normalization}",
                "the vectors too, for their scale",
                "call restore(codes, x), or the coder itself on x",
            )
        return super().decode(acts)

    def restore(self, acts: Float[Tensor, "*n d_sae"], x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        """What the coder makes of x when its codes are these: decoded, scaled back as x was, with x's skip connection.

        Raises: as `encode` and `decode` for codes and vectors of another size.
        """
        x = checks.vectors("vectors", x, self.W_enc, self.d_in)
        y = super().decode(acts)
        if not self.transcodes:
            _, scale, shift = self._normalized(x)
            y = y * scale + shift
        return y if self.W_skip is None else y + x @ self.W_skip.T

    def forward(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        """x̂, or for a transcoder the prediction ŷ: `restore(encode(x), x)`."""
        return self.restore(self.encode(x), x)

    def sparse(self, x: Float[Tensor, "b d_in"]) -> Sparse:
        """Codes and reconstructions of a batch."""
        acts = self.encode(x)
        return Sparse(self.restore(acts, x), acts, torch.arange(self.d_sae, device=acts.device))

    def rescale(self, factor: float | Tensor) -> None:
        """As `SAE.rescale`, where codes grow with the vectors.

        Raises:
            BilensError: a coder that normalises its vectors, or stops at a fixed residual; as `SAE.rescale`.
        """
        if self.normalization != "none" or self.architecture == "matching_pursuit":
            why = self.normalization if self.normalization != "none" else "matching pursuit"
            raise BilensError(f"a scale for a coder under {why}", "one whose codes grow with its vectors")
        super().rescale(factor)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a transcoder that was trained here: SAELens' folder with ReLU, sparsify's with the k largest.

        Raises:
            StoreError: another coder, whose own folder is the one that other programs read.
        """
        path = checks.path("folder", folder)
        plain = self.transcodes and self.normalization == "none" and self.W_skip is None
        weights = {name: value.detach() for name, value in self.named_parameters()}
        if plain and self.architecture == "standard":
            settings = {"apply_b_dec_to_input": False, "d_out": self.d_out}
            saelens.write(path, "transcoder", settings, weights, self.site)
        elif plain and self.architecture == "topk" and self.d_in == self.d_out:
            sparsify.write(path, self.k, weights)
        else:
            raise StoreError(
                f"a coder of the kind {self.architecture!r} for {path}",
                "a StandardSAE, TopKSAE, JumpReLUSAE or GatedSAE, or a plain transcoder",
                "keep the folder that it was read from",
            )

    @classmethod
    def holds(cls, content: Content) -> bool:
        """Every coder that a folder can hold; the other classes are asked first."""
        return True

    @classmethod
    def holding(cls, content: Content) -> Coder:
        """The coder with the settings and weights of a folder."""
        weights = content.weights
        d_in, d_sae = weights["W_enc"].shape
        coder = cls(
            d_in,
            d_sae,
            content.architecture,
            d_out=weights["W_dec"].shape[1],
            normalization=content.normalization,
            skip="W_skip" in weights,
            transcodes=content.transcodes,
            **content.settings,
        )
        coder.to(weights["W_enc"].dtype).load_state_dict(weights)
        coder.site = content.site
        return coder

    def _normalized(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(z, scale, shift): what is encoded, and what takes a reconstruction of z back to one of x."""
        if self.normalization == "layer_norm":
            shift, scale = x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)
            return (x - shift) / (scale + 1e-5), scale, shift
        if self.normalization == "constant_norm_rescale":
            scale = x.norm(dim=-1, keepdim=True) / self.d_in**0.5
            return x / torch.where(scale > 0, scale, 1), scale, x.new_zeros(())
        return x, x.new_ones(()), x.new_zeros(())

    def _biases(self) -> tuple[nn.Parameter, ...]:
        return tuple(getattr(self, name) for name in VECTORS[self.architecture] if name != "r_mag")

    def _pre(self, z: Tensor) -> Tensor:
        return z @ self.W_enc + self.b_enc


def _top_k(coder: Coder, z: Tensor) -> Tensor:
    values, features = top_k(coder._pre(z), coder.k)
    return values.new_zeros(len(z), coder.d_sae).scatter(1, features, functional.relu(values))


def _abs_top_k(coder: Coder, z: Tensor) -> Tensor:
    pre = coder._pre(z)
    _, features = top_k(pre.abs(), coder.k)
    return torch.zeros_like(pre).scatter(1, features, pre.gather(1, features))


def _group_max(coder: Coder, z: Tensor) -> Tensor:
    groups = functional.relu(coder._pre(z)).view(len(z), coder.k, coder.d_sae // coder.k)
    values, features = groups.max(dim=2, keepdim=True)
    return torch.zeros_like(groups).scatter(2, features, values).flatten(1)


def _jump(coder: Coder, z: Tensor) -> Tensor:
    pre = coder._pre(z)
    return functional.relu(pre) * (pre > coder.threshold)


def _gated(coder: Coder, z: Tensor) -> Tensor:
    pre = z @ coder.W_enc
    return functional.relu(pre * coder.r_mag.exp() + coder.b_mag) * (pre + coder.b_gate > 0)


def _pursuit(coder: Coder, z: Tensor) -> Tensor:
    """Matching pursuit of all vectors at once; those that are done keep their codes."""
    codes, residual = z.new_zeros(len(z), coder.d_sae), z
    done = torch.zeros(len(z), 1, dtype=torch.bool, device=z.device)
    support = codes.detach() != 0
    for _ in range(coder.max_iterations):
        best = (residual.detach() @ coder.W_dec.detach().T).argmax(dim=1)
        atoms = coder.W_dec[best]
        step = functional.relu((residual * atoms).sum(dim=1, keepdim=True)) * ~done
        codes = codes.scatter_add(1, best[:, None], step)
        residual = residual - step * atoms
        before, support = support, codes.detach() != 0
        if coder.stop_on_duplicate_support:
            done = done | (support == before).all(dim=1, keepdim=True)
        if coder.residual_threshold > 0:
            done = done | (residual.detach().norm(dim=1, keepdim=True) < coder.residual_threshold)
        if bool(done.all()):
            break
    return codes


_RULES: dict[str, Callable[[Coder, Tensor], Tensor]] = {
    "standard": lambda coder, z: functional.relu(coder._pre(z)),
    "topk": _top_k,
    "abstopk": _abs_top_k,
    "groupmax": _group_max,
    "jumprelu": _jump,
    "gated": _gated,
    "matching_pursuit": _pursuit,
}
