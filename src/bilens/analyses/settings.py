"""What a run is asked for, and its defaults: here, once, for Python, the command line and its help."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bilens._internal.checks import number, whole

FEW, FEW_EPOCHS = 20_000, 40
"""Training images below which there are few, and the passes over these."""
DEEP: dict[str, Any] = {"hidden": 128, "weight_decay": 0.1}
"""What differs where there are several layers: a decay of 1 costs two of them most of a point."""


@dataclass(frozen=True)
class Budget:
    """How much work the SAEs get, and how much is drawn.

    Args:
        count: features of each set to draw.
        sae_features: features of the SAE on the layer's outputs; sae_steps: its updates, of 1,024 vectors; sae_l1 and
            sae_similarity: its penalties, for vectors scaled to a mean squared norm of d_in.
        pair_features: features of the SAE on pair vectors; pair_k: how many of them a pair may use; pair_steps: its
            updates, of 1,024 pairs.

    Raises:
        BilensError: a count below 1, or a penalty below 0.
    """

    count: int = 24
    sae_features: int = 2000
    sae_steps: int = 500
    sae_l1: float = 4.0
    sae_similarity: float = 10.0
    pair_features: int = 5000
    pair_k: int = 30
    pair_steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("count", "sae_features", "sae_steps", "pair_features", "pair_k", "pair_steps"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        for name in ("sae_l1", "sae_similarity"):
            object.__setattr__(self, name, number(name, getattr(self, name), 0))


SMALL = Budget(sae_steps=250, pair_features=2000, pair_steps=250)
"""What `--small` asks for, where nothing else is named."""


@dataclass(frozen=True)
class Training:
    """How the main job trains its classifier.

    Args:
        hidden: hidden units of the layer; epochs: passes over the training images; weight_decay: AdamW's; noise:
            standard deviation of the noise added to training images.
    """

    hidden: int = 300
    epochs: int = 10
    weight_decay: float = 1.0
    noise: float = 0.3

    @classmethod
    def usual(cls, images: int, layers: int = 1) -> Training:
        """For so many training images, of which few need more passes, and so many layers."""
        usual = cls() if layers == 1 else replace(cls(), **DEEP)
        return replace(usual, epochs=FEW_EPOCHS) if images < FEW else usual


def shown() -> dict[str, str]:
    """The defaults of the main job's options as its help shows them."""
    words = {}
    for usual, other in ((Training(), Training()), (Budget(), SMALL)):
        for name, value in vars(usual).items():
            small = getattr(other, name)
            words[name] = f"{value:g}" if value == small else f"{value:g}, with --small {small:g}"
    for name, value in DEEP.items():
        words[name] += f", and {value:g} where there are several layers"
    words["epochs"] += f", or {FEW_EPOCHS} over fewer than {FEW:,} images"
    return words
