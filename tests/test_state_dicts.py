"""Files of torch.save: weights are read, and nothing that a file holds is run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from bilens import StoreError
from bilens.state_dicts import read_saved, state_dict

RAN: list[str] = []


class Unwanted:
    """Whatever makes one runs code."""

    def __init__(self) -> None:
        RAN.append("made")

    def __reduce__(self) -> tuple[Any, ...]:
        return RAN.append, ("run",)


class Settings:
    """A plain class of somebody's own."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (Settings(), "test_state_dicts.Settings"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (print, "print"),
        (Path("a"), "pathlib"),
        (Unwanted(), "with "),
    ],
)
def test_a_class_that_is_not_allowed_is_named_and_not_made(
    value: Any, named: str, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(2), "args": value}, path, _use_new_zipfile_serialization=zipped)
    RAN.clear()
    with pytest.raises(StoreError) as refused:
        read_saved(path)
    assert named in str(refused.value)
    assert "which would run code; expected tensors" in str(refused.value)
    assert "weights_only" not in str(refused.value)
    assert not RAN


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_allowed_is_read(zipped: bool, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    path = tmp_path / "model.pt"
    torch.save(
        {"step": 3, "config": {"d": 2, "name": "a"}, "model": model.state_dict()},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    tensors, rest = state_dict(path)
    assert rest == {"step": 3, "config": {"d": 2, "name": "a"}}
    assert torch.equal(tensors["weight"], model.weight)
    assert torch.equal(tensors["bias"], model.bias)
    assert not tensors["weight"].requires_grad


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_lose_their_wrappers(wrapper: str, tmp_path: Path) -> None:
    torch.save({f"{wrapper}a.weight": torch.zeros(2), f"{wrapper}b": torch.ones(1)}, tmp_path / "model.pt")
    tensors, rest = state_dict(tmp_path / "model.pt")
    assert (list(tensors), rest) == (["a.weight", "b"], {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "with no state dict in a; expected one state dict"),
        ({}, "with no state dict in nothing"),
        ([torch.zeros(1)], "with a list; expected a state dict"),
        (
            {"model": {"w": torch.zeros(1)}, "ema": {"w": torch.zeros(1)}},
            "the state dicts model, ema in model, ema; .* Say which",
        ),
    ],
)
def test_files_without_one_state_dict(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(StoreError, match=message):
        state_dict(tmp_path / "model.pt")


def test_one_of_several(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(1)}, "ema": {"w": torch.ones(1)}}, tmp_path / "model.pt")
    assert state_dict(tmp_path / "model.pt", "ema")[0]["w"] == 1
    with pytest.raises(StoreError, match="without a state dict 'emma'; it has model, ema"):
        state_dict(tmp_path / "model.pt", "emma")


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(StoreError, match="No such file"):
        read_saved(path)
    for zipped in (True, False):
        torch.save({"w": torch.zeros(999)}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for part in (whole[: len(whole) // 2], b"noise", b"", b"\x80\x02."):
            path.write_bytes(part)
            with pytest.raises(StoreError) as refused:
                read_saved(path)
            assert "\n" not in str(refused.value)
