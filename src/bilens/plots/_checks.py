"""What figures check of their arguments."""

from __future__ import annotations

from bilens._internal.checks import instance, whole
from bilens.errors import BilensError
from bilens.features import FeatureSet
from bilens.plots.style import numbers


def check_count(name: str, value: int) -> None:
    """Raises BilensError for anything but a whole number of at least 1."""
    whole(name, value, 1)


def check_view(view: FeatureSet) -> None:
    """Raises BilensError for a set without features, or with NaN or infinity among its effects."""
    instance("view", view, FeatureSet)
    if not len(view):
        raise BilensError(f"a set {view.name!r} without features", "at least one", "keep more features")
    numbers("effects", view.effects)
