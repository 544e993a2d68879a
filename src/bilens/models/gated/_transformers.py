"""The package transformers where it is installed, and the classes with which it opens models that were converted."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from bilens.errors import BilensError
from bilens.models.gated.families import BILINEAR, FAMILIES


def library(what: str) -> Any:
    """The package transformers.

    Args:
        what: is to be done with it, for the message.

    Raises:
        BilensError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise BilensError(
            what, "transformers, which runs the original", "install it: pip install 'bilens[lm]'"
        ) from error
    return transformers


class BilinearMLP(nn.Module):
    """D[(L n + b) ⊙ (R n + c)] + e, in a model whose family's config has no place for it.

    Args:
        inputs, units, outputs: sizes.
    """

    def __init__(self, inputs: int, units: int, outputs: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(inputs, units), nn.Linear(inputs, units)
        self.down = nn.Linear(units, outputs)

    def forward(self, n: Tensor) -> Tensor:
        """The output for each n."""
        output: Tensor = self.down(self.left(n) * self.right(n))
        return output


@functools.cache
def register(kind: str) -> tuple[type, type]:
    """Teach transformers' Auto classes a family's bilinear models, `model_type` "bilinear_" + kind.

    Call it before `AutoModelForCausalLM.from_pretrained` opens such a folder. Families whose own config says it (Llama,
    SmolLM) need no class of ours.

    Args:
        kind: the `model_type` of the family, for example "qwen2".

    Returns:
        (class of the config, class of the model).

    Raises:
        BilensError: transformers is not installed, or has no such family.
    """
    transformers = library(f"models of kind {kind!r}")
    if kind not in FAMILIES or kind not in transformers.CONFIG_MAPPING:
        raise BilensError(f"models of kind {kind!r}", f"one of {', '.join(FAMILIES)}")
    base = transformers.CONFIG_MAPPING[kind]
    theirs: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[base]
    config: Any = type(f"Bilinear{base.__name__}", (base,), {"model_type": f"{BILINEAR}{kind}", "__module__": __name__})

    def build(self: Any, given: Any) -> None:
        theirs.__init__(self, given)
        body = self.get_submodule(self.base_model_prefix)
        for layer in given.bilinear_layers:
            body.layers[layer].mlp = BilinearMLP(given.hidden_size, given.bilinear_units, given.hidden_size)

    model: Any = type(
        f"Bilinear{theirs.__name__}", (theirs,), {"config_class": config, "__init__": build, "__module__": __name__}
    )
    transformers.AutoConfig.register(config.model_type, config)
    transformers.AutoModelForCausalLM.register(config, model)
    return config, model


__all__ = ["BilinearMLP", "library", "register"]
