"""bilens reads features straight from the weights of bilinear networks g(x) = (Wx + b) ⊙ (Vx + c).

The public names are loaded when they are first asked for, so that the command line answers before torch is imported.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bilens.analyses.own import explore
    from bilens.dictionary import Dictionary
    from bilens.errors import BilensError, ShapeError, SpaceError, StoreError
    from bilens.kernel import Kernel
    from bilens.models import Bilinear, ImageClassifier
    from bilens.space import Space
    from bilens.tensor import BilinearTensor

__version__ = metadata.version("bilens")

_HOMES = {
    "Bilinear": "bilens.models",
    "BilensError": "bilens.errors",
    "BilinearTensor": "bilens.tensor",
    "Dictionary": "bilens.dictionary",
    "ImageClassifier": "bilens.models",
    "Kernel": "bilens.kernel",
    "ShapeError": "bilens.errors",
    "Space": "bilens.space",
    "SpaceError": "bilens.errors",
    "StoreError": "bilens.errors",
    "explore": "bilens.analyses.own",
}

__all__ = [
    "BilensError",
    "Bilinear",
    "BilinearTensor",
    "Dictionary",
    "ImageClassifier",
    "Kernel",
    "ShapeError",
    "Space",
    "SpaceError",
    "StoreError",
    "explore",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bilens' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
