"""The tensors of a file beside those of a model: the same names and shapes, one type, and finite."""

from bilens.models._config import check

__all__ = ["check"]
