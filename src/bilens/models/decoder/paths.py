"""The logits of a bilinear decoder as exact sums over paths: which attention, which product, from which token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens._internal.shown import line
from bilens.errors import BilensError, ShapeError
from bilens.models.decoder.model import BilinearDecoder, Block


@dataclass(frozen=True, eq=False, repr=False)
class Effect:
    """What reading one more token does to the logits of the last position: with it less without it, as an exact sum.

    Args:
        paths: names of the paths; logits: what each adds, (p, n, v), for n contexts.
        products: of each block, by how much its hidden products at the last position change, (b, n, m).
        without: the logits without the token, (n, v).

    Raises:
        ShapeError: the shapes do not fit together.
    """

    paths: tuple[str, ...]
    logits: Float[Tensor, "p n v"]
    products: Float[Tensor, "b n m"]
    without: Float[Tensor, "n v"]

    __repr__ = line

    def __post_init__(self) -> None:
        checks.shapes(self, p=len(checks.several("paths", self.paths, "the names of the paths", "pass (name,)")))

    @property
    def total(self) -> Float[Tensor, "n v"]:
        """The whole effect: the sum over paths."""
        return self.logits.sum(dim=0)

    def path(self, name: str) -> Float[Tensor, "n v"]:
        """What one path adds. Raises BilensError for an unknown one."""
        if name not in self.paths:
            raise BilensError(f"path {name!r}", f"one of {', '.join(self.paths)}")
        return self.logits[self.paths.index(name)]


@torch.no_grad()
def paths(
    decoder: BilinearDecoder, tokens: Int[Tensor, "n l"], positions: Int[Tensor, " l"] | None = None
) -> dict[str, Float[Tensor, "n v"]]:
    """The logits after the last token as a sum over what added them: each attention by the token it read, each product.

    Examples:
        >>> model = BilinearDecoder(5, width=4, head=2, mlp=3, blocks=1, std=1.0)
        >>> found = paths(model, torch.tensor([[0, 3]]))
        >>> list(found)[:4]
        ['token', 'attention 1 of token 0', 'attention 1 of token 1', 'mlp 1: token × token']
        >>> torch.allclose(sum(found.values()), model(torch.tensor([[0, 3]]))[:, -1], atol=1e-4)
        True

    With x_n = e + Σ_b (Σ_j a_bj + m_b), the logits are U(s ∘ x_n), linear in every part; and m_b, a product of two
    sums, is the sum over pairs of the parts that came before it, B_b(u, u) for one and 2 B_b(u, v) for two.

    Args:
        decoder: the model; tokens, positions: as the model reads them.

    Returns:
        Logits by the name of the path, (n, v). Names: "token"; "attention b of token j"; "mlp b: u × v".

    Raises: as the model.
    """
    instance("decoder", decoder, BilinearDecoder)
    tokens, positions = decoder.placed(tokens, positions)
    x = decoder.embed(tokens)
    streams = {"token": x[:, -1]}
    found = dict(streams)
    for number in range(len(decoder.blocks)):
        block = decoder.block(number)
        read = _read(block, x, positions)
        attended = {f"attention {number + 1} of token {j}": read[:, j] for j in range(tokens.shape[1])}
        x = x + block.attended(x, positions)
        streams |= attended
        products = {f"mlp {number + 1}: {name}": part for name, part in _products(block, streams).items()}
        x = x + block.multiplied(x)
        streams[f"mlp {number + 1}"] = torch.stack(list(products.values())).sum(dim=0)
        found |= attended | products
    readout = decoder.readout()
    return {name: part @ readout.T for name, part in found.items()}


@torch.no_grad()
def effect(
    decoder: BilinearDecoder,
    tokens: Int[Tensor, "n l"],
    positions: Int[Tensor, " l"] | None = None,
    *,
    source: int = 0,
) -> Effect:
    """What the token at place `source` does to the logits after the last one, as an exact sum over paths.

    With it less without it: the streams at the last position are written as o + Σ_s d_s, o what they are without the
    source and d_s what each attention and MLP adds because of it. Attention is split by whether it reads the source or
    something that the source has changed ("elsewhere"), MLPs by pairs: 2 B(o, d_s), B(d_s, d_s) and 2 B(d_s, d_t).

    Examples:
        >>> model = BilinearDecoder(5, width=4, head=2, mlp=3, blocks=1, std=1.0)
        >>> found = effect(model, torch.tensor([[0, 3]]))
        >>> found.paths
        ('attention 1', 'mlp 1: own × attention 1', 'mlp 1: attention 1 × attention 1')
        >>> without = model(torch.tensor([[3]]))[:, -1]
        >>> torch.allclose(found.total, model(torch.tensor([[0, 3]]))[:, -1] - without, atol=1e-4)
        True

    Args:
        decoder: the model; tokens, positions: as the model reads them, at least two tokens.
        source: place of the token among them, not the last.

    Raises: as the model; BilensError: a source that is the last token, or none of them.
    """
    instance("decoder", decoder, BilinearDecoder)
    tokens, positions = decoder.placed(tokens, positions)
    if tokens.shape[1] < 2:
        raise ShapeError(f"tokens of shape {tuple(tokens.shape)}", "two tokens at least: a source and the last one")
    source = whole("source", source, 0, tokens.shape[1] - 2)
    rest = [place for place in range(tokens.shape[1]) if place != source]
    full, own = decoder.embed(tokens), decoder.embed(tokens[:, rest])
    streams: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    changes = []
    for number in range(1, len(decoder.blocks) + 1):
        block = decoder.block(number - 1)
        read, alone = _read(block, full, positions), _read(block, own, positions[rest])
        attended = {f"attention {number}": read[:, source]}
        if number > 1:  # before the first block nothing else has changed
            attended[f"attention {number} elsewhere"] = (read[:, rest] - alone).sum(dim=1)
        full = full + block.attended(full, positions)
        own = own + block.attended(own, positions[rest])
        streams |= attended
        last = block.norm_mlp(own[:, -1])
        products = {
            f"own × {name}": 2 * block.mlp.w_proj(block.mlp.hidden(last, block.norm_mlp(part)))
            for name, part in streams.items()
        } | _products(block, streams)
        products = {f"mlp {number}: {name}": part for name, part in products.items()}
        changes.append(block.mlp.hidden(block.norm_mlp(full[:, -1])) - block.mlp.hidden(last))
        full, own = full + block.multiplied(full), own + block.multiplied(own)
        streams[f"mlp {number}"] = torch.stack(list(products.values())).sum(dim=0)
        found |= attended | products
    readout = decoder.readout()
    logits = torch.stack([part @ readout.T for part in found.values()])
    return Effect(tuple(found), logits, torch.stack(changes), own[:, -1] @ readout.T)


def _read(block: Block, x: Tensor, positions: Tensor) -> Float[Tensor, "n l d"]:
    """What attention adds at the last position for each position that it reads."""
    z = block.norm_attn(x)
    scores = block.attn.scores(z, positions)[:, -1]
    values: Tensor = block.attn.o_proj(block.attn.v_proj(z))
    return scores[..., None] * values


def _products(block: Block, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The MLP of a sum as a sum over pairs of its parts: B(u, u) for each, 2 B(u, v) for each two."""
    scaled = {name: block.norm_mlp(part) for name, part in streams.items()}
    found: dict[str, Tensor] = {}
    names = list(scaled)
    for place, name in enumerate(names):
        for other in names[place:]:
            weight = 1 if other == name else 2
            found[f"{name} × {other}"] = weight * block.mlp.w_proj(block.mlp.hidden(scaled[name], scaled[other]))
    return found
