"""What a replaced layer costs, against the same model with that layer's weights changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilens.errors import BilensError, ShapeError
from bilens.models import gated
from bilens.models.replaced import replaced
from bilens.models.surrogate import least_squares, weights_only, with_bypass

transformers = pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours


def made(**more: Any) -> nn.Module:
    sizes = {
        "vocab_size": 12,
        "hidden_size": 8,
        "intermediate_size": 6,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.AutoConfig.for_model("llama", **{**sizes, **more})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)
    return model


TOKENS = torch.randint(12, (4, 9), generator=torch.Generator().manual_seed(1))


def loss(model: nn.Module) -> Tensor:
    """Cross-entropy of each text, by transformers itself."""
    with torch.no_grad():
        return torch.stack([model(text[None], labels=text[None]).loss for text in TOKENS])


@pytest.mark.parametrize("layer", [0, 1])
def test_costs_are_those_of_the_changed_model(layer: int) -> None:
    """With no prefix kept, the mean in the layer's place is a layer with D = 0 and a bias."""
    model = made(mlp_bias=True)
    mlp = gated.load(model).mlp(layer)
    rows = torch.randn(500, 8, generator=torch.Generator().manual_seed(2))
    surrogate = least_squares(mlp, rows)
    ours, mean, random = replaced(surrogate, model, TOKENS, prefix=0)
    outputs: list[Tensor] = []
    hook = model.model.layers[layer].mlp.register_forward_hook(lambda _, __, output: outputs.append(output[0]))
    before = loss(model)
    hook.remove()
    other = copy.deepcopy(model)
    changed = other.model.layers[layer].mlp.down_proj
    with torch.no_grad():
        changed.weight.zero_()
        changed.bias.copy_(torch.cat(outputs).mean(dim=0))
    more = loss(other) - before
    assert mean.delta_ce == pytest.approx(float(more.mean()), abs=1e-5)
    assert mean.error == pytest.approx(float(more.std() / 2), abs=1e-5)
    assert mean.fvu == pytest.approx(1, abs=1e-5)
    assert (mean.texts, mean.tokens, mean.layer, mean.by) == (4, 32, layer, "mean")
    assert 0 < ours.fvu < random.fvu <= 1
    assert (ours.by, random.by) == ("least_squares", "random layer")
    torch.testing.assert_close(loss(model), before, rtol=0, atol=0)  # the model is as it was


def test_an_exact_surrogate_costs_nothing() -> None:
    model = made(hidden_act="linear")
    surrogate = weights_only(gated.load(model).mlp(1))
    ours, mean, _ = replaced(surrogate, model, TOKENS)
    assert ours.fvu < 1e-10
    assert abs(ours.delta_ce) < 1e-5
    assert abs(mean.delta_ce) > 1e-2


def test_several_surrogates_cost_what_each_costs_alone() -> None:
    model = made()
    mlp = gated.load(model).mlp(1)
    rows = torch.randn(500, 8, generator=torch.Generator().manual_seed(2))
    several = [weights_only(mlp), with_bypass(least_squares(mlp, rows), rows)]
    together = replaced(several, model, TOKENS)
    assert [one.by for one in together] == ["weights_only", "least_squares + bypass", "mean", "random layer"]
    for surrogate, one in zip(several, together, strict=False):
        assert replaced(surrogate, model, TOKENS) == (one, *together[2:])


def test_a_prefix_that_is_the_whole_text_but_one_costs_less() -> None:
    model = made()
    surrogate = weights_only(gated.load(model).mlp(0))
    _, all_but_first, _ = replaced(surrogate, model, TOKENS, prefix=1)
    _, last, _ = replaced(surrogate, model, TOKENS, prefix=7)
    assert abs(last.delta_ce) < abs(all_but_first.delta_ce)


@pytest.mark.bad_input
def test_bad_input_is_refused() -> None:
    model = made()
    surrogate = weights_only(gated.load(model).mlp(1))
    cases = [
        (lambda: replaced(surrogate, made(num_hidden_layers=1), TOKENS), BilensError, "without an MLP in layer 1"),
        (lambda: replaced(surrogate, model, TOKENS[:1]), ShapeError, r"tokens of shape \(1, 9\)"),
        (lambda: replaced(surrogate, model, TOKENS, prefix=8), ShapeError, "each longer than 9"),
        (lambda: replaced(surrogate, model, TOKENS.float()), ShapeError, "type torch.float32"),
        (lambda: replaced(surrogate, model, [[1]]), BilensError, "tokens of type list"),
        (lambda: replaced(surrogate, nn.Linear(2, 2), TOKENS), BilensError, "a Linear in memory"),
        (lambda: replaced([], model, TOKENS), BilensError, r"surrogates of layers \[\]; expected one layer's"),
        (lambda: replaced(3, model, TOKENS), BilensError, "surrogates of type int"),
        (
            lambda: replaced([surrogate, weights_only(gated.load(model).mlp(0))], model, TOKENS),
            BilensError,
            r"surrogates of layers \[0, 1\]",
        ),
    ]
    for make, kind, message in cases:
        with pytest.raises(kind, match=message):
            make()
