"""Several processes train what one does: shares of batches, sums of gradients, checkpoints of any number of them."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from distributed_jobs import JOBS, Ending, stream, train, training, weights
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch import distributed as dist
from torch.testing import assert_close

from bilens import sae
from bilens.errors import BilensError, StoreError
from bilens.sae._processes import Processes
from bilens.sae.distributed import Ranks
from messages import refuses

pytestmark = pytest.mark.slow

JOB = Path(__file__).parent / "distributed_jobs.py"
EXAMPLE = Path(__file__).parents[2] / "examples" / "05_processes.py"
CHANGED = ((training.checkpoints, "SECONDS_BETWEEN_CHECKPOINTS"), (training, "_SECONDS_BETWEEN_REPORTS"))
"""What `Ending` changes."""


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `Ending` changes is put back."""
    for home, name in CHANGED:
        monkeypatch.setattr(home, name, getattr(home, name))
    monkeypatch.setattr(training, "_POINTS", 10)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Ranks]:
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'alone'}", rank=0, world_size=1)
    try:
        yield Ranks()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run stopped in one process, and two processes then did their job, killed at its end."""
    folder = tmp_path_factory.mktemp("job")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'alone'}", rank=0, world_size=1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for home, name in CHANGED:
                patch.setattr(home, name, getattr(home, name))
            patch.setattr(training, "_POINTS", 10)
            ending = Ending(stream("topk", torch.float64), MemoryError("in between"))
            with pytest.raises(MemoryError, match="in between"):
                train("topk", "float64", Ranks(), checkpoint=folder / "stopped", stream=ending)
    finally:
        dist.destroy_process_group()
    children = [
        subprocess.Popen(
            [sys.executable, str(JOB), str(folder), str(rank)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [child.communicate(timeout=200)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert -signal.SIGKILL in [child.returncode for child in children], "\n".join(said)
    return folder


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Largest entries set the scale: Adam turns rounding of tiny gradients into steps."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert_close(ours[name], value, rtol=tolerance, atol=tolerance * (1 + float(value.abs().max())))


def test_two_processes_train_what_one_does(folder: Path) -> None:
    for kind, name in JOBS:
        first, second = (safetensors.torch.load_file(folder / f"{kind}.{name}.{rank}") for rank in (0, 1))
        for part, value in first.items():
            assert torch.equal(value, second[part]), "the processes ended with different weights"
        close(first, weights(*train(kind, name, None)), 1e-12 if name == "float64" else 1e-5)


# Checkpoints


def test_a_run_killed_in_two_processes_goes_on_in_one(folder: Path, alone: Ranks) -> None:
    killed = folder / "killed"
    with safetensors.safe_open(killed, framework="pt") as file:
        assert file.metadata()["done"] == "11"
    shutil.copy(killed, folder / "one")
    expected = weights(*train("topk", "float64", None))
    close(weights(*train("topk", "float64", alone, checkpoint=killed)), expected, 1e-12)
    close(weights(*train("topk", "float64", None, checkpoint=folder / "one")), expected, 1e-12)  # without a group too


def test_a_run_stopped_in_one_process_goes_on_in_two(folder: Path, alone: Ranks) -> None:
    resumed = safetensors.torch.load_file(folder / "resumed.0")
    assert resumed.pop("asked").tolist() == [0, *range(11, 30)]
    close(resumed, weights(*train("topk", "float64", None)), 1e-12)
    # What two processes wrote is what one reads: bit for bit, since nothing is left to do.
    read = weights(*train("topk", "float64", alone, checkpoint=folder / "stopped"))
    assert all(torch.equal(value, resumed[name]) for name, value in read.items())


def test_a_checkpoint_that_is_damaged_or_of_another_run_is_refused(tmp_path: Path, alone: Ranks) -> None:
    path = tmp_path / "run"
    train("standard", "float32", alone, checkpoint=path)
    with refuses(StoreError, "a run with other settings", "l1 = 0.05 and not 0.5"):
        train("standard", "float32", alone, checkpoint=path, l1=0.5)
    path.write_bytes(path.read_bytes()[:-10])
    with refuses(StoreError, "which cannot be read"):
        train("standard", "float32", alone, checkpoint=path)
    with refuses(StoreError, f"{tmp_path}, which is a folder", "Name a file in it"):
        train("standard", "float32", alone, checkpoint=tmp_path)
    with refuses(StoreError, f"{path}, which is a file"):
        train("standard", "float32", alone, checkpoint=path / "below")


def test_all_ranks_stop_where_one_cannot_go_on(tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    coder = sae.StandardSAE(2, 4)
    optimizer = torch.optim.Adam(coder.parameters())
    monkeypatch.setattr(alone, "rank", 1)
    monkeypatch.setattr(alone, "agree", lambda numbers: [1])  # of rank 0: it sees a file, and could not write one
    with refuses(StoreError, "on rank 1", "rank 0 sees"):
        alone.load(tmp_path / "run", coder, optimizer, settings={})
    with refuses(StoreError, "rank 0 could not write"):
        alone.save(tmp_path / "run", coder, optimizer, done=1, settings={}, extra={})
    assert not list(tmp_path.glob("run*"))


# Shares and devices


class Shared(Processes):
    """One of several processes, of which only the shares matter."""

    device = equal = add = agree = save = load = None  # type: ignore[assignment]


@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 12), st.integers(0, 40), st.booleans())
def test_shares_are_the_batch_in_order(size: int, rows: int, batch_size: int, n: int, divisible: bool) -> None:
    x = torch.arange(rows).float()[:, None]
    whole = sae.TensorStream(x, batch_size)
    source: sae.Stream = whole if divisible else sae.IterableStream([whole.batch(m) for m in range(n + 1)])
    shares = [Shared(rank, size).share(source, n) for rank in range(size)]
    assert torch.equal(torch.cat([share for share, _ in shares]), whole.batch(n))
    assert {b for _, b in shares} == {len(whole.batch(n))}
    assert max(len(share) for share, _ in shares) - min(len(share) for share, _ in shares) <= 1


def test_one_process_has_the_whole_batch() -> None:
    x = torch.randn(5, 2)
    share, size = Processes().share(sae.TensorStream(x, 3, shuffle=False), 1)
    assert torch.equal(share, x[3:])
    assert size == 2


def test_a_group_is_needed_and_must_fit_the_device(alone: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (alone.rank, alone.size, alone.lead) == (0, 1, True)
    assert alone.device(None) == torch.device("cpu")
    monkeypatch.setattr(dist, "get_backend", lambda group: "nccl")
    with refuses(BilensError, "device 'cpu' with a process group of NCCL"):
        alone.device("cpu")
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    with refuses(BilensError, "no process group", "torchrun"):
        Ranks()


def test_sums_reach_tensors_of_any_layout(alone: Ranks) -> None:
    tensors = [torch.randn(3, 4), torch.randn(4, 3).T, torch.randn(6, 8)[::2, ::2], torch.tensor(2.0)]
    before = [tensor.clone() for tensor in tensors]
    alone.add(tensors)
    alone.equal(tensors)
    for tensor, value in zip(tensors, before, strict=True):
        assert torch.equal(tensor, value)


def test_the_example_says_the_same_in_two_processes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_POINTS", 100)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(EXAMPLE)]
    for _ in range(3):
        both = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        # On a loaded machine a process of torch rarely aborts in one of its own threads, as it ends or begins.
        if "terminate called without an active exception" not in both.stderr:
            break
    assert both.returncode == 0, both.stderr
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert both.stdout == capsys.readouterr().out
    assert "NMSE" in both.stdout


@pytest.mark.gpu
def test_a_group_of_nccl_trains_on_its_gpu(tmp_path: Path) -> None:
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'nccl'}", rank=0, world_size=1)
    try:
        for kind in ("standard", "topk"):
            found = weights(*train(kind, "float64", Ranks(), device=None, checkpoint=tmp_path / kind))
            here = {name: value.cpu() for name, value in found.items()}
            close(here, weights(*train(kind, "float64", None)), 1e-9)
    finally:
        dist.destroy_process_group()
