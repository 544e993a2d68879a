"""Distillation end to end: all bilinear MLPs of a converted model at once, towards the original's next-token odds.

The first token of every text, where it is always the same, stays as it is in every layer. Its residual stream is
some 200 times as large as that of other tokens in the middle of SmolLM2, and they attend to it; a step that moves it a
little loses the model.
It depends on no other token, so that it stays where no linear map changes on what the first token gives it, layer after
layer: each update is made orthogonal to that one vector.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from bilens._internal import checkpoint, ranks
from bilens._internal.checks import whole
from bilens._internal.device import product_type, rounded_products
from bilens._internal.seeds import derived
from bilens.models import gated
from bilens.models.conversion._descent import usual_size
from bilens.models.conversion.layer import MATRICES
from bilens.models.gated.original import owner
from bilens.progress import bar

TEXTS = 4
"""Texts of a step, in all processes together, or one for each process where these are more."""

RATE = 3e-4
"""AdamW's rate at its highest, as a share of each matrix's `usual_size`. On SmolLM2 of 30 converted layers 40 steps
take the KL on 12 texts from 0.261 to 0.247 with 1e-4, and to 0.248 with 1e-3."""

SECONDS = 120.0
"""Between two checkpoints."""


def distilled(
    student: nn.Module,
    teacher: nn.Module,
    fit: Int[Tensor, "n t"],
    check: Int[Tensor, "k t"],
    *,
    steps: int,
    seed: int = 0,
    precision: Literal["bfloat16"] | None = None,
    kept: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> tuple[float, float]:
    """Train a converted model's MLPs on KL(teacher ‖ student) of the next token; the student is changed in place.

    It ends as it was where the divergence on the texts that are set aside did not fall. The units that carry the linear
    map stay as they are, and so does what the first token becomes, where all texts begin with the same one. In several
    processes torch's DistributedDataParallel averages the gradients; each has its share of a step's texts.

    Args:
        student: of transformers, as `assembled` makes it; teacher: the original.
        fit: texts to train on, one per row; check: texts that are set aside.
        steps: of AdamW; seed: of the order of texts.
        precision: "bfloat16" rounds the factors of products to it, in both models, but where they are measured.
        kept: file of a checkpoint, from which a run that was stopped goes on; settings: what it must have been asked
            for.
        progress: whether to show a bar.

    Returns:
        (KL on the texts that are set aside before, and after), in nats per token.

    Raises:
        StoreError: the checkpoint is damaged, or of a run with other settings.
    """
    steps = whole("steps", steps, 1)
    product_type(precision, next(student.parameters()).device)
    before = divergence(student, teacher, check)
    needed = {name: value.requires_grad for name, value in student.named_parameters()}
    places = _places(student)
    start = {name: student.get_submodule(name) for name in places}
    saved = {name: copy.deepcopy(mlp.state_dict()) for name, mlp in start.items()}
    mlps = [_Trained(start[name]) for name in places]
    trained = nn.ModuleList(mlps)
    first = torch.cat([fit[:, 0], check[:, 0]])
    shared = bool((first == first[0]).all())
    for value in student.parameters():
        value.requires_grad_(False)
    for name, mlp in zip(places, mlps, strict=True):
        student.set_submodule(name, mlp)
    held = _Held(student, mlps, fit[:1, :1]) if shared else None
    optimizer = torch.optim.AdamW(
        [{"params": [value], "lr": rate, "initial_lr": rate} for mlp in mlps for value, rate in _rates(mlp)],
        weight_decay=0.0,
        fused=True,
    )
    done = 0
    if kept is not None:
        done, _ = checkpoint.load(kept, trained, optimizer, settings=settings or {})
    model = student if ranks.size() == 1 else DistributedDataParallel(student)
    each = max(1, TEXTS // ranks.size())
    pace = checkpoint.Pace()
    with bar("distillation", steps, done=done, show=progress and ranks.lead()) as step:
        for number in range(done, steps):
            texts = _texts(len(fit), number, each * ranks.size(), seed)[ranks.rank() :: ranks.size()]
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * _share(number, steps)
            optimizer.zero_grad()
            tokens = fit[texts].to(mlps[0].left.device)
            with rounded_products(precision, tokens.device):
                with torch.no_grad():
                    aim = _logs(teacher, tokens)
                loss = functional.kl_div(_logs(model, tokens), aim, reduction="batchmean", log_target=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if held is not None:
                held.hold()
            step(1, kl=float(loss.detach()))
            if kept is not None and ranks.agreed(pace.due(SECONDS)):
                _save(pace, kept, trained, optimizer, done=number + 1, settings=settings or {})
    for place, mlp in zip(places, mlps, strict=True):
        mlp.write(start[place])
        student.set_submodule(place, start[place])
    for name, value in student.named_parameters():
        value.requires_grad_(needed[name])
    after = divergence(student, teacher, check)
    if not after < before:
        for place in places:
            start[place].load_state_dict(saved[place])
        return before, before
    return before, after


class _Trained(nn.Module):
    """The weights of a `ConvertedMLP` as parameters, from the three linear maps that `assembled` made of them."""

    left: nn.Parameter
    left_bias: nn.Parameter
    right: nn.Parameter
    right_bias: nn.Parameter
    down: nn.Parameter
    bypass: nn.Parameter
    down_bias: nn.Parameter

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        gate, up, down = _linears(mlp)
        h = down.in_features - down.out_features  # the last units carry the linear map
        start = {
            "left": gate.weight[:h],
            "left_bias": gate.bias[:h],
            "right": up.weight[:h],
            "right_bias": up.bias[:h],
            "down": down.weight[:, :h],
            "bypass": gate.weight[h:],
            "down_bias": down.bias,
        }
        for name in MATRICES:
            setattr(self, name, nn.Parameter(start[name].detach().clone()))

    def units(self, n: Tensor) -> Tensor:
        """(L n + b) ⊙ (R n + c)."""
        left: Tensor = functional.linear(n, self.left, self.left_bias)
        return left * functional.linear(n, self.right, self.right_bias)

    def forward(self, n: Tensor) -> Tensor:
        """The output for each n."""
        straight: Tensor = functional.linear(n, self.bypass, self.down_bias)
        return straight + functional.linear(self.units(n), self.down)

    @torch.no_grad()
    def write(self, mlp: nn.Module) -> None:
        """Copy the weights to where they came from."""
        gate, up, down = _linears(mlp)
        h = len(self.left)
        gate.weight[:h], gate.bias[:h], gate.weight[h:] = self.left, self.left_bias, self.bypass
        up.weight[:h], up.bias[:h] = self.right, self.right_bias
        down.weight[:, :h], down.bias[:] = self.down, self.down_bias


class _Held:
    """Maps that a step may change, but not on what the first token gives them."""

    def __init__(self, student: nn.Module, mlps: list[_Trained], first: Int[Tensor, "1 1"]) -> None:
        inputs: dict[nn.Module, Tensor] = {}
        hooks = [mlp.register_forward_pre_hook(lambda mlp, given: inputs.update({mlp: given[0][0, 0]})) for mlp in mlps]
        with torch.no_grad():
            student(input_ids=first.to(mlps[0].left.device), use_cache=False)
            for hook in hooks:
                hook.remove()
            self.maps: list[tuple[list[nn.Parameter], list[Tensor], list[Tensor], float]] = []
            for mlp in mlps:
                n = inputs[mlp]
                one = n.new_ones(1)
                for parts, given in (
                    ([mlp.left, mlp.left_bias], [n, one]),
                    ([mlp.right, mlp.right_bias], [n, one]),
                    ([mlp.down, mlp.bypass, mlp.down_bias], [mlp.units(n), n, one]),
                ):
                    size = sum(float(part.double().square().sum()) for part in given)
                    self.maps.append((parts, [part.detach().clone() for part in parts], given, size))

    @torch.no_grad()
    def hold(self) -> None:
        """Take from each map's change since the start what acts on its own input from the first token."""
        for parts, start, given, size in self.maps:
            pairs = [((part - old).view(len(part), -1), a) for part, old, a in zip(parts, start, given, strict=True)]
            moved = torch.stack([change @ a for change, a in pairs]).sum(dim=0) / size
            for part, a in zip(parts, given, strict=True):
                part.view(len(part), -1).sub_(torch.outer(moved, a))


def _linears(mlp: nn.Module) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    gate, up, down = (part for part in mlp.children() if isinstance(part, nn.Linear))
    return gate, up, down


def _rates(mlp: nn.Module) -> list[tuple[nn.Parameter, float]]:
    """Each weight with its highest rate: a bias that is 0 so far moves as its layer's matrices do, by a little."""
    sizes = [(value, RATE * usual_size(value)) for value in mlp.parameters()]
    largest = max(rate for _, rate in sizes)
    return [(value, rate or 0.01 * largest) for value, rate in sizes]


def _share(number: int, steps: int) -> float:
    """Of the highest rate at a step: up over the first twentieth of the steps, then down to 0 along a cosine."""
    return min(1.0, (number + 1) / max(1, steps // 20)) * (1 + math.cos(math.pi * number / steps)) / 2


def divergence(student: nn.Module, teacher: nn.Module, tokens: Int[Tensor, "n t"]) -> float:
    """The mean KL(teacher ‖ student) per token, over all processes' shares of some texts."""
    sums = torch.zeros(2, dtype=torch.float64)
    where = next(student.parameters()).device
    with torch.no_grad():
        for text in tokens[ranks.rank() :: ranks.size()]:
            given = text[None].to(where)
            aim = _logs(teacher, given)
            part = functional.kl_div(_logs(student, given), aim, reduction="sum", log_target=True)
            sums += torch.tensor([float(part), len(aim)], dtype=torch.float64)
    ranks.add([sums])
    return float(sums[0] / sums[1])


def _logs(model: nn.Module, tokens: Tensor) -> Tensor:
    """The logarithms of the odds of each next token, one row per token."""
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits[:, :-1].float().log_softmax(dim=-1).flatten(0, 1)


def _places(model: nn.Module) -> list[str]:
    """The names of a model's bilinear MLPs, in the order of layers."""
    live = gated.load(model)
    return [
        owner(place.name(place.layout.gate), place.name(place.layout.down))
        for entry, place in zip(live.entries(), live.places.values(), strict=True)
        if entry.bilinear
    ]


def _texts(count: int, step: int, size: int, seed: int) -> Tensor:
    """The numbers of a step's texts: of an endless row of orders of all texts, each drawn from the seed."""
    places = [step * size + place for place in range(size)]
    orders = {
        turn: torch.randperm(count, generator=torch.Generator().manual_seed(derived(seed, turn)))
        for turn in {place // count for place in places}
    }
    return torch.stack([orders[place // count][place % count] for place in places])


def _save(
    pace: checkpoint.Pace,
    kept: str | Path,
    mlps: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    done: int,
    settings: Mapping[str, Any],
) -> None:
    if ranks.lead():
        pace.write(lambda: checkpoint.save(kept, mlps, optimizer, done=done, settings=settings))


__all__ = ["RATE", "TEXTS", "distilled", "divergence"]
