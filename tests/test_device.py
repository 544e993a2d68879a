"""Which device is chosen, on machines that are not this one."""

from __future__ import annotations

import pytest
import torch

from bilens._internal import device
from bilens.errors import BilensError, SinglePrecisionWarning


def test_a_device_without_float64_is_never_chosen_by_default(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.choose() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.choose() == torch.device("cuda")


def test_a_device_without_float64_that_is_named_is_taken_with_a_warning(monkeypatch) -> None:
    class Made:
        device = torch.device("mps")

    monkeypatch.setattr(torch, "empty", lambda size, *, device: Made)
    with pytest.warns(SinglePrecisionWarning, match=r"^device mps has no float64: .* move .* to the CPU"):
        assert device.choose("mps") == torch.device("mps")


def test_a_device_of_another_machine_is_refused() -> None:
    with pytest.raises(BilensError, match=r"^got device 'abacus'; expected a device of this machine"):
        device.choose("abacus")
