"""Checkpoints: a run that was interrupted goes on as if it had not been."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

from bilens import files
from bilens._internal import checkpoint
from bilens.errors import StoreError
from messages import refuses

SETTINGS = {"lr": 0.1, "hidden": 4, "layers": [1, 2], "name": None}


def model(seed: int = 0, width: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1)).double()


OPTIMIZERS = {
    "adamw": lambda module: torch.optim.AdamW(module.parameters(), lr=0.05, amsgrad=True),
    "momentum": lambda module: torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9),
    "plain": lambda module: torch.optim.SGD(module.parameters(), lr=0.05),
}


def train(module, optimizer, first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


def test_one_and_one_point_nought_are_one_setting(tmp_path):
    module = model()
    optimizer = OPTIMIZERS["plain"](module)
    checkpoint.save(tmp_path / "c", module, optimizer, done=4, settings=SETTINGS | {"lr": 1})
    assert checkpoint.load(tmp_path / "c", module, optimizer, settings=SETTINGS | {"lr": 1.0})[0] == 4


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_interrupted_run_ends_with_the_very_weights_of_a_whole_one(tmp_path, kind):
    whole = model()
    train(whole, OPTIMIZERS[kind](whole), 0, 9)

    first = model()
    optimizer = OPTIMIZERS[kind](first)
    train(first, optimizer, 0, 4)
    losses = torch.tensor([0.5, 0.25])
    checkpoint.save(
        tmp_path / "c", first, optimizer, done=4, settings=SETTINGS, extra={"losses": losses, "a.b": losses[0]}
    )

    second = model(seed=1)
    optimizer = OPTIMIZERS[kind](second)
    done, extra = checkpoint.load(tmp_path / "c", second, optimizer, settings=dict(reversed(SETTINGS.items())))
    assert done == 4
    assert set(extra) == {"losses", "a.b"}
    torch.testing.assert_close(extra["losses"], losses, rtol=0, atol=0)
    train(second, optimizer, done, 9)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0)


def test_nothing_begun_is_nothing_done(tmp_path):
    module = model()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = OPTIMIZERS["adamw"](module)
    assert checkpoint.load(tmp_path / "none", module, optimizer, settings=SETTINGS) == (0, {})
    assert optimizer.state_dict()["state"] == {}
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_checkpoint_can_be_written_before_the_first_step(tmp_path):
    module = model()
    checkpoint.save(tmp_path / "c", module, OPTIMIZERS["adamw"](module), done=0, settings={})
    other = model(seed=1)
    assert checkpoint.load(tmp_path / "c", other, OPTIMIZERS["adamw"](other), settings={}) == (0, {})
    torch.testing.assert_close(other[0].weight, module[0].weight, rtol=0, atol=0)


def test_the_file_is_safetensors_and_replaced_as_one(tmp_path):
    module = model()
    optimizer = OPTIMIZERS["adamw"](module)
    for done in (1, 2):
        train(module, optimizer, done - 1, done)
        checkpoint.save(tmp_path / "c", module, optimizer, done=done, settings=SETTINGS)
    names = safetensors.torch.load_file(tmp_path / "c").keys()
    assert {"module.0.weight", "module.1.running_mean", "optimizer.0.exp_avg", "optimizer.0.step"} <= set(names)
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


# What does not fit is refused


def written(path):
    module = model()
    optimizer = OPTIMIZERS["adamw"](module)
    train(module, optimizer, 0, 1)
    checkpoint.save(path, module, optimizer, done=1, settings=SETTINGS)


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        (SETTINGS | {"lr": 0.2}, "lr = 0.1 and not 0.2)"),
        (SETTINGS | {"layers": [1, 3]}, "layers = [1, 2] and not [1, 3])"),
        (SETTINGS | {"seed": 1}, "seed = nothing and not 1)"),
        ({"lr": 0.1}, "hidden = 4 and not nothing, layers = [1, 2] and not nothing, name = None and not nothing"),
    ],
)
def test_refuses_a_run_with_other_settings_and_names_them(tmp_path, settings, difference):
    written(tmp_path / "c")
    module = model(seed=1)
    before = module[0].weight.clone()
    with refuses(StoreError, str(tmp_path / "c"), "other settings", difference, "delete the checkpoint"):
        checkpoint.load(tmp_path / "c", module, OPTIMIZERS["adamw"](module), settings=settings)
    torch.testing.assert_close(module[0].weight, before, rtol=0, atol=0)


def test_refuses_weights_of_another_model(tmp_path):
    written(tmp_path / "c")
    module = model(width=5)
    with refuses(StoreError, str(tmp_path / "c"), "another model", "Delete it"):
        checkpoint.load(tmp_path / "c", module, OPTIMIZERS["adamw"](module), settings=SETTINGS)


def test_refuses_a_file_that_is_no_checkpoint(tmp_path):
    module = model()
    for settings in (None, "not json", "[]", "3"):
        metadata = None if settings is None else {"settings": settings}
        safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "c", metadata)
        with refuses(StoreError, str(tmp_path / "c"), "none are recorded"):
            checkpoint.load(tmp_path / "c", module, OPTIMIZERS["adamw"](module), settings=SETTINGS)


def test_refuses_a_pickle_and_a_truncated_checkpoint(tmp_path):
    module = model()
    torch.save(module.state_dict(), tmp_path / "p")
    with refuses(StoreError, str(tmp_path / "p"), "pickle"):
        checkpoint.load(tmp_path / "p", module, OPTIMIZERS["adamw"](module), settings=SETTINGS)
    written(tmp_path / "c")
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:-10])
    with refuses(StoreError, str(tmp_path / "c"), "cannot be read"):
        checkpoint.load(tmp_path / "c", module, OPTIMIZERS["adamw"](module), settings=SETTINGS)


def test_refuses_to_write_where_it_cannot(tmp_path):
    (tmp_path / "file").write_text("")
    module = model()
    with refuses(StoreError, f"{tmp_path / 'file'}, which is a file", "a folder"):
        checkpoint.save(tmp_path / "file" / "c", module, OPTIMIZERS["plain"](module), done=0, settings={})


def test_a_checkpoint_waits_for_its_seconds_and_for_twenty_times_what_the_last_one_took(monkeypatch):
    now = 100.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    pace, written = checkpoint.Pace(), []

    def slow() -> None:
        nonlocal now
        written.append(now)
        now += 2.0

    now = 104.9
    assert not pace.due(5)
    now = 105.0
    assert pace.due(5)
    pace.write(slow)
    assert written == [105.0]
    now = 107.0 + 39.9
    assert not pace.due(5)
    now = 107.0 + 40.0
    assert pace.due(5)
    assert not pace.due(41)


def altered(path, change=None, **metadata):
    """A checkpoint with other tensors or metadata under the checksum that it had."""
    tensors, known = files.read_tensors(path)
    known = {name: value for name, value in {**known, **metadata}.items() if value is not None}
    safetensors.torch.save_file(tensors | (change or {}), path, known)


@pytest.mark.parametrize(
    ("change", "metadata"),
    [
        ({"module.0.weight": torch.zeros(4, 3, dtype=torch.float64)}, {}),
        ({"optimizer.0.step": torch.tensor(9.0)}, {}),
        ({"extra.more": torch.ones(2)}, {}),
        ({}, {"done": "7"}),
        ({}, {"done": None}),
        ({}, {"sha256": None}),
    ],
)
def test_an_altered_checkpoint_is_refused_and_nothing_is_filled(tmp_path, change, metadata):
    written(tmp_path / "c")
    altered(tmp_path / "c", change, **metadata)
    module = model(seed=1)
    before = module[0].weight.clone()
    with refuses(StoreError, "without its checksum: of an older version, or altered", "Delete it"):
        checkpoint.load(tmp_path / "c", module, OPTIMIZERS["adamw"](module), settings=SETTINGS)
    torch.testing.assert_close(module[0].weight, before, rtol=0, atol=0)


def resealed(path, change=None, **metadata):
    """A checkpoint with other tensors or metadata, and the checksum of these."""
    tensors, known = files.read_tensors(path)
    tensors |= change or {}
    known = {name: value for name, value in (known | metadata).items() if name != "sha256"}
    safetensors.torch.save_file(tensors, path, known | {"sha256": checkpoint._checksum(tensors, known)})


@pytest.mark.parametrize("name", ["x.step", "99.step", "0.exp_avg", "", "0", "-1.step", "9" * 5000 + ".step"])
def test_an_optimisers_state_that_does_not_fit_is_refused(tmp_path, name):
    written(tmp_path / "c")
    resealed(tmp_path / "c", {f"optimizer.{name}": torch.ones(7)})
    module = model()
    with refuses(StoreError, "/c with optimizer.", "of shape (7,)"):
        checkpoint.load(tmp_path / "c", module, OPTIMIZERS["adamw"](module), settings=SETTINGS)


@pytest.mark.parametrize("done", ["", "-1", "1.5", "many", "9" * 5000])
def test_steps_that_are_no_number_are_refused(tmp_path, done):
    written(tmp_path / "c")
    resealed(tmp_path / "c", done=done)
    module = model()
    with refuses(StoreError, "/c with", "a number of steps"):
        checkpoint.load(tmp_path / "c", module, OPTIMIZERS["adamw"](module), settings=SETTINGS)


def test_a_checkpoint_that_is_not_needed_goes_where_it_can(tmp_path, monkeypatch):
    (tmp_path / "c").touch()
    checkpoint.discard(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []

    def read_only(self, missing_ok=False):  # what a read-only file system says, even of a file that is not there
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(type(tmp_path), "unlink", read_only)
    checkpoint.discard(tmp_path / "c")
