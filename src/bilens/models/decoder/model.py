"""A bilinear decoder: attention without a softmax, bilinear MLPs, scales instead of norms; every logit a polynomial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens._internal import checks, files
from bilens._internal.checks import number, whole
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.models._weights import check
from bilens.score import BASE, HeadTensor, ScoreTensor, rotate
from bilens.space import Space
from bilens.tensor import BilinearTensor

SIZES = {
    "vocab_size": "vocabulary",
    "d_model": "width",
    "d_head": "head",
    "d_mlp": "mlp",
    "n_layers": "blocks",
    "seq_len": "length",
}
"""Entries of `config.json` that are sizes, and the arguments of the model that they are."""


class Scale(nn.Module):
    """x ↦ s ∘ x: a scale for each channel, where other models have a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """S ∘ x."""
        return self.scale * x


class Attention(nn.Module):
    """z_i = W_O Σ_{j≤i} (q1_i·k1_j)(q2_i·k2_j)/d_head · W_V x_j: no softmax, rotary position on q1, q2, k1 and k2."""

    def __init__(self, width: int, head: int, base: float) -> None:
        super().__init__()
        self.base = base
        self.q1_proj, self.q2_proj, self.k1_proj, self.k2_proj, self.v_proj = (_linear(width, head) for _ in range(5))
        self.o_proj = _linear(head, width)

    @property
    def projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
        """Q₁, Q₂, K₁ and K₂."""
        return self.q1_proj, self.q2_proj, self.k1_proj, self.k2_proj

    def scores(self, x: Float[Tensor, "n l d"], positions: Int[Tensor, " l"]) -> Float[Tensor, "n l l"]:
        """The weight of every key (last axis) for every query; 0 for keys after the query."""
        q1, q2, k1, k2 = (rotate(part(x), positions, self.base) for part in self.projections)
        table = (q1 @ k1.mT) * (q2 @ k2.mT) / q1.shape[-1]
        return table.tril()

    def forward(self, x: Float[Tensor, "n l d"], positions: Int[Tensor, " l"]) -> Float[Tensor, "n l d"]:
        """What attention adds at every position."""
        found: Tensor = self.o_proj(self.scores(x, positions) @ self.v_proj(x))
        return found


class Products(nn.Module):
    """y = P((M x) ⊙ (N x)): a bilinear MLP."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_m, self.w_n = _linear(width, hidden), _linear(width, hidden)
        self.w_proj = _linear(hidden, width)

    def hidden(self, x: Float[Tensor, "*n d"], y: Float[Tensor, "*n d"] | None = None) -> Float[Tensor, "*n h"]:
        """The products (M x) ⊙ (N x), or the symmetric ones of two vectors, ½[(M x) ⊙ (N y) + (M y) ⊙ (N x)]."""
        if y is None:
            one: Tensor = self.w_m(x) * self.w_n(x)
            return one
        two: Tensor = (self.w_m(x) * self.w_n(y) + self.w_m(y) * self.w_n(x)) / 2
        return two

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """What the MLP adds."""
        found: Tensor = self.w_proj(self.hidden(x))
        return found


class Block(nn.Module):
    """x += attention(s₁ ∘ x), then x += MLP(s₂ ∘ x)."""

    def __init__(self, width: int, head: int, mlp: int, base: float) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(width, head, base), Products(width, mlp)
        self.norm_attn, self.norm_mlp = Scale(width), Scale(width)

    def attended(self, x: Float[Tensor, "n l d"], positions: Int[Tensor, " l"]) -> Float[Tensor, "n l d"]:
        """What attention adds."""
        found: Tensor = self.attn(self.norm_attn(x), positions)
        return found

    def multiplied(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """What the MLP adds."""
        found: Tensor = self.mlp(self.norm_mlp(x))
        return found

    def forward(self, x: Float[Tensor, "n l d"], positions: Int[Tensor, " l"]) -> Float[Tensor, "n l d"]:
        """The residual stream after the block."""
        x = x + self.attended(x, positions)
        return x + self.multiplied(x)


class BilinearDecoder(nn.Module):
    """logits = U(s ∘ x_n) with x_0 = E[tokens] and blocks of attention and MLP that are products: no norm, no softmax.

    Every logit is a polynomial in the embeddings of the tokens that are read, and positions enter through their
    differences alone. So what one token does to another can be written down, without text, as an exact sum: see `paths`
    and `effect`.

    Examples:
        >>> model = BilinearDecoder(5, width=4, head=2, mlp=3)
        >>> model(torch.tensor([[0, 3, 1]])).shape
        torch.Size([1, 3, 5])

    Args:
        vocabulary: number of tokens; width: of the residual stream; head: d_head, even; mlp: hidden products.
        blocks: how many; length: of the context, for the config alone; base: of the rotary angles.
        labels: names of the tokens; seed: of the first weights, normal with deviation `std`.

    Attributes:
        embed, unembed: E and U; blocks: nn.ModuleList; final_norm: s.
        tokens, residual: the spaces of the tokens and of the residual stream; config: the arguments as JSON values.

    Raises:
        BilensError: a size below 1 or a base that is not above 0. ShapeError: an odd d_head, or too few labels.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int,
        head: int,
        mlp: int,
        blocks: int = 2,
        length: int = 64,
        base: float = BASE,
        labels: tuple[str, ...] | None = None,
        seed: int = 0,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        sizes = {"vocabulary": vocabulary, "width": width, "head": head, "mlp": mlp, "blocks": blocks, "length": length}
        given = {name: whole(name, size, 1, 2**31 - 1) for name, size in sizes.items()}
        base, std = number("base", base, above=0), number("std", std, above=0)
        if given["head"] % 2:
            raise ShapeError(f"head = {head}", "an even number, to be turned in pairs")
        generator = torch.Generator().manual_seed(checks.seed(seed, 0))
        self.tokens, self.residual = Space("tokens", vocabulary, labels), Space("residual", width)
        self.config: dict[str, Any] = {
            **{name: given[ours] for name, ours in SIZES.items()},
            "rope_base": base,
            "norm_type": "channel",
        }
        # from numbers, and not by skip_init: an embedding's first weights on the meta device import torch's compiler
        empty = torch.empty(vocabulary, width)
        self.embed = nn.Embedding.from_pretrained(empty, freeze=False)  # type: ignore[no-untyped-call]
        self.blocks = nn.ModuleList(Block(width, head, mlp, base) for _ in range(given["blocks"]))
        self.final_norm = Scale(width)
        self.unembed = _linear(width, vocabulary)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if not name.endswith("scale") and not weight.is_meta:
                    weight.normal_(0, std, generator=generator)

    def forward(self, tokens: Int[Tensor, "n l"], positions: Int[Tensor, " l"] | None = None) -> Float[Tensor, "n l v"]:
        """Logits of the next token after each one.

        Args:
            tokens: numbers of tokens, one sequence per row.
            positions: where they stand, 0, 1, … when None; what stands in the gaps is not read by anybody.

        Raises:
            BilensError: tokens that the vocabulary does not have, positions that do not rise. ShapeError: other shapes.
        """
        tokens, positions = self.placed(tokens, positions)
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, positions)
        logits: Tensor = self.unembed(self.final_norm(x))
        return logits

    def placed(
        self, tokens: Int[Tensor, "n l"], positions: Int[Tensor, " l"] | None = None
    ) -> tuple[Int[Tensor, "n l"], Int[Tensor, " l"]]:
        """Tokens and their positions, checked. Raises as the call."""
        checks.instance("tokens", tokens, Tensor)
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise BilensError(f"tokens of type {tokens.dtype}", "whole numbers")
        if tokens.ndim != 2 or not tokens.shape[1]:
            raise ShapeError(
                f"tokens of shape {tuple(tokens.shape)}", "(sequences, length)", "pass one sequence per row"
            )
        tokens = tokens.to(self.embed.weight.device, torch.int64)
        if tokens.numel() and not bool((tokens >= 0).all() & (tokens < self.tokens.size).all()):
            raise BilensError(f"tokens from {int(tokens.min())} to {int(tokens.max())}", f"0 to {self.tokens.size - 1}")
        if positions is None:
            return tokens, torch.arange(tokens.shape[1], device=tokens.device)
        checks.instance("positions", positions, Tensor)
        if tuple(positions.shape) != (tokens.shape[1],):
            raise ShapeError(f"positions of shape {tuple(positions.shape)}", f"({tokens.shape[1]},), one per token")
        if positions.is_floating_point() or not bool((positions.diff() > 0).all()):
            raise BilensError(f"positions {positions.tolist()!s:.40}", "whole numbers that rise")
        return tokens, positions.to(tokens.device)

    def block(self, number: int) -> Block:
        """Block `number`, counted from 0. Raises BilensError when there is none."""
        found: Block = self.blocks[whole("block", number, 0, len(self.blocks) - 1)]  # type: ignore[assignment]
        return found

    def score(self, number: int, offset: int) -> ScoreTensor:
        """The attention score of a block at a distance, query less key, its scale and rotary position folded."""
        block = self.block(number)
        scale = block.norm_attn.scale.detach()
        q1, q2, k1, k2 = (part.weight.detach() * scale for part in block.attn.projections)
        return ScoreTensor.from_heads(
            q1, q2, k1, k2, offset, queries=self.residual, scale=1 / len(q1), base=block.attn.base
        )

    def head(self, number: int, offset: int) -> HeadTensor:
        """What a block's attention adds for one key at a distance: its score times W_O W_V (s₁ ∘ x)."""
        block = self.block(number)
        value = block.attn.o_proj.weight.detach() @ block.attn.v_proj.weight.detach()
        return HeadTensor(self.score(number, offset), value * block.norm_attn.scale.detach(), self.residual)

    def mlp(self, number: int) -> BilinearTensor:
        """A block's MLP as a tensor over the residual stream, its scale folded."""
        block = self.block(number)
        scale, mlp = block.norm_mlp.scale.detach(), block.mlp
        return BilinearTensor.from_layer(
            mlp.w_m.weight.detach() * scale,
            mlp.w_n.weight.detach() * scale,
            mlp.w_proj.weight.detach(),
            input=self.residual,
            output=self.residual,
        )

    def readout(self) -> Float[Tensor, "v d"]:
        """U with its scale: logits = readout() x."""
        return (self.unembed.weight * self.final_norm.scale).detach()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder, in one step.

        Raises:
            StoreError: the folder cannot be written, or holds a model that bilens did not save; what was there before
                is then still there.
        """
        folder = checks.path("folder", folder)
        files.write_pair(folder / "config.json", self.config, folder / "model.safetensors", self.state_dict())

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        weights: str = "model.safetensors",
        *,
        labels: tuple[str, ...] | None = None,
    ) -> BilinearDecoder:
        """Read a folder with `config.json` and one or more safetensors files, for example a checkpoint of the training.

        The layout is that of github.com/henrylhale/bilinear-vpd: `embed`, `unembed`, `blocks.N.attn.{q1, q2, k1, k2, v,
        o}_proj`, `blocks.N.mlp.{w_m, w_n, w_proj}` with `.weight`, and `blocks.N.norm_attn`, `blocks.N.norm_mlp`,
        `final_norm` with `.scale`. Weights keep the type that they have in the file.

        Args:
            folder: of the model; weights: name of the file in it; labels: names of the tokens.

        Raises:
            StoreError: a file is missing, damaged, a pickle, another kind of model, or holds tensors of other names,
                shapes or types than the config says, or NaN or infinity.
        """
        folder = checks.path("folder", folder)
        path = folder / checks.path("weights", weights)
        if weights == "model.safetensors":
            config, tensors = files.read_pair(folder / "config.json", path)
        else:
            config, tensors = files.read_json(folder / "config.json"), files.read_tensors(path)[0]
        settings = _settings(folder / "config.json", config)
        if settings["blocks"] > len(tensors):
            raise StoreError(
                f"{folder / 'config.json'} with {settings['blocks']} blocks, but {len(tensors)} tensors in {path.name}",
                "a config and weights of one model",
                "copy or download both again",
            )
        try:
            with torch.device("meta"):
                model = cls(**settings, labels=labels)
        except BilensError as error:
            raise StoreError(
                f"{folder / 'config.json'}, which describes no model ({error})", "the config of a bilinear decoder"
            ) from error
        check(path, tensors, {name: tuple(value.shape) for name, value in model.state_dict().items()})
        model.load_state_dict(tensors, assign=True)
        return model


def _settings(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    for name in SIZES:
        value = config.get(name)
        if type(value) is not int or not 1 <= value < 2**31:
            raise StoreError(
                f"{path} with {name} = {value!r:.40}" if name in config else f"{path} without {name}",
                "a number of at least 1",
                "copy or download it again",
            )
    if config.get("norm_type") != "channel":
        raise StoreError(
            f"{path} with norm_type = {config.get('norm_type')!r:.40}",
            "'channel', a scale for each channel",
            "a model that divides by norms is no polynomial",
        )
    base = config.get("rope_base", BASE)
    if isinstance(base, bool) or not isinstance(base, int | float) or not base > 0:
        raise StoreError(f"{path} with rope_base = {base!r:.40}", "a number above 0", "copy or download it again")
    return {**{ours: config[name] for name, ours in SIZES.items()}, "base": float(base)}


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map without bias; its weights are drawn when the whole model is there, by its own generator."""
    made: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)  # type: ignore[no-untyped-call]
    return made
