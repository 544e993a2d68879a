"""Several processes train what one does: shares of batches, sums of gradients, checkpoints of any number of them."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_sae_train import sparse_vectors
from torch import Tensor
from torch import distributed as dist
from torch.testing import assert_close

from bilens import pairs, sae
from bilens.errors import BilensError, StoreError
from bilens.sae.distributed import Ranks
from bilens.sae.processes import OneProcess, Processes
from bilens.space import Space
from bilens.tensor import BilinearTensor
from messages import refuses

training = importlib.import_module("bilens.sae.train")  # the module, which the function of that name hides
EXAMPLE = Path(__file__).parents[2] / "examples" / "05_processes.py"

CHILD = """
import sys, warnings
warnings.simplefilter("error")
sys.path[:0] = [{here!r}, {above!r}]
from torch import distributed as dist
import test_distributed as test
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=int(sys.argv[3]), world_size=2)
getattr(test, sys.argv[1])(*sys.argv[4:])
dist.destroy_process_group()
"""


def two(job: str, folder: Path, *arguments: str) -> list[int]:
    """Run a function of this file in two processes of one group; their exit codes."""
    here = Path(__file__).parent
    script = CHILD.format(here=str(here), above=str(here.parent))
    meeting = folder / f"meeting of {job}"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, job, str(meeting), str(rank), *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [child.communicate(timeout=120)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    if any(child.returncode == 1 for child in children):
        pytest.fail("\n".join(said))
    return [child.returncode for child in children]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Ranks]:
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'alone'}", rank=0, world_size=1)
    try:
        yield Ranks()
    finally:
        dist.destroy_process_group()


# What is trained: vectors whose epochs end with a batch of one vector, and pair vectors, made whole in each process


def stream(kind: str, dtype: torch.dtype) -> sae.Stream:
    if kind != "pairs":
        return sae.TensorStream(sparse_vectors(51)[0].to(dtype) + 1, 10)
    factors = torch.randn(2, 12, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
    tensor = BilinearTensor.from_layer(*factors, input=Space("pixels", 7), output=Space("hidden", 12))
    return pairs.stream(tensor, batch_size=9)


JOBS = [
    (kind, name)
    for kind in ("standard", "topk", "pairs")
    for name in (["float32", "float64"] if kind != "pairs" else ["float64"])
]


def train(kind: str, name: str, processes: Processes | None, **arguments: Any) -> tuple[sae.Coder, Tensor]:
    dtype = getattr(torch, name)
    coder = sae.StandardSAE(12, 24) if kind == "standard" else sae.TopKSAE(12, 90, 2)
    settings: dict[str, Any] = {"steps": 30, "lr": 0.01, "l1": 0.05, "similarity": 0.05, "clip": 5.0, "device": "cpu"}
    settings |= {"progress": False, "processes": processes}
    source = arguments.pop("stream", None) or stream(kind, dtype)
    history = sae.train(coder.to(dtype), source, **settings | arguments)
    return coder, history.values


def weights(coder: sae.Coder, history: Tensor) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in coder.named_parameters()} | {"history": history}


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Largest entries set the scale: Adam turns rounding of tiny gradients into steps."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert_close(ours[name], value, rtol=tolerance, atol=tolerance * (1 + float(value.abs().max())))


def same_job(folder: str) -> None:
    """In each of two processes: train everything; each writes what it ended with."""
    ranks = Ranks()
    training._POINTS = 10  # three steps a row
    for kind, name in JOBS:
        found = weights(*train(kind, name, ranks))
        safetensors.torch.save_file(found, Path(folder) / f"{kind}.{name}.{ranks.rank}")


def test_two_processes_train_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert two("same_job", tmp_path, str(tmp_path)) == [0, 0]
    monkeypatch.setattr(training, "_POINTS", 10)
    for kind, name in JOBS:
        first, second = (safetensors.torch.load_file(tmp_path / f"{kind}.{name}.{rank}") for rank in (0, 1))
        for part, value in first.items():
            assert torch.equal(value, second[part]), "the processes ended with different weights"
        whole = weights(*train(kind, name, None))
        close(first, whole, 1e-12 if name == "float64" else 1e-5)


# Checkpoints


class Ending:
    """A stream that ends the process when a batch is asked for; a checkpoint is written after step 11."""

    def __init__(self, source: sae.Stream, how: BaseException | None) -> None:
        self.source, self.width, self.rows, self.how = source, source.width, source.rows, how

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, n: int) -> Tensor:
        training.SECONDS_BETWEEN_CHECKPOINTS = 0.0 if n == 10 else 1e9
        training._SECONDS_BETWEEN_REPORTS = 0.0
        if n == 14:
            if self.how is not None:
                raise self.how
            os.kill(os.getpid(), signal.SIGKILL)
        return self.source.batch(n)


def killed_job(folder: str) -> None:
    training._POINTS = 10
    train("topk", "float64", Ranks(), checkpoint=folder, stream=Ending(stream("topk", torch.float64), None))


def resumed_job(folder: str, result: str) -> None:
    training._POINTS = 10
    ranks = Ranks()
    asked: list[int] = []

    class Watched(Ending):
        def batch(self, n: int) -> Tensor:
            asked.append(n)
            return self.source.batch(n)

    found = weights(
        *train("topk", "float64", ranks, checkpoint=folder, stream=Watched(stream("topk", torch.float64), None))
    )
    if asked[1:] != list(range(11, 30)):
        raise RuntimeError(f"trained on batches {asked}")
    safetensors.torch.save_file(found, f"{result}.{ranks.rank}")


def test_a_run_killed_in_two_processes_goes_on_in_one(
    tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    assert -signal.SIGKILL in two("killed_job", tmp_path, str(folder))
    pointer = json.loads((folder / "checkpoint.json").read_text("utf-8"))
    assert (pointer["folder"], pointer["done"]) == ("step-11", 11)
    shards = sorted((folder / "step-11").iterdir())
    assert len(shards) == 2
    assert all(path.suffix == ".safetensors" for path in shards)

    monkeypatch.setattr(training, "_POINTS", 10)
    resumed = weights(*train("topk", "float64", alone, checkpoint=folder))
    straight = weights(*train("topk", "float64", None))
    close(resumed, straight, 1e-12)
    assert [path.name for path in folder.glob("step-*")] == ["step-30"]
    again = weights(*train("topk", "float64", alone, checkpoint=folder))
    assert all(torch.equal(value, resumed[name]) for name, value in again.items())


def test_a_run_stopped_in_one_process_goes_on_in_two(
    tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    for name in ("_POINTS", "SECONDS_BETWEEN_CHECKPOINTS", "_SECONDS_BETWEEN_REPORTS"):
        monkeypatch.setattr(training, name, 10)
    ending = Ending(stream("topk", torch.float64), MemoryError("in between"))
    with pytest.raises(MemoryError, match="in between"):
        train("topk", "float64", alone, checkpoint=folder, stream=ending)
    assert two("resumed_job", tmp_path, str(folder), str(tmp_path / "resumed")) == [0, 0]
    resumed = safetensors.torch.load_file(tmp_path / "resumed.0")
    close(resumed, weights(*train("topk", "float64", None)), 1e-12)
    # What two processes wrote is what one reads: bit for bit, since nothing is left to do.
    read = weights(*train("topk", "float64", alone, checkpoint=folder))
    assert all(torch.equal(value, resumed[name]) for name, value in read.items())


def test_a_checkpoint_that_is_damaged_or_of_another_run_is_refused(tmp_path: Path, alone: Ranks) -> None:
    folder = tmp_path / "run"
    train("standard", "float32", alone, checkpoint=folder)
    with refuses(StoreError, "a run with other settings", "l1 = 0.05 and not 0.5"):
        train("standard", "float32", alone, checkpoint=folder, l1=0.5)
    (shard,) = (folder / "step-30").iterdir()
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with refuses(StoreError, "on reading", "a whole checkpoint"):
        train("standard", "float32", alone, checkpoint=folder)
    shard.unlink()
    with refuses(StoreError, "with files missing"):
        train("standard", "float32", alone, checkpoint=folder)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with refuses(StoreError, "file"):
            train("standard", "float32", alone, checkpoint=path)


def test_nothing_in_a_checkpoint_is_pickled(tmp_path: Path, alone: Ranks) -> None:
    train("standard", "float32", alone, checkpoint=tmp_path / "run")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        else:
            safetensors.torch.load_file(path)


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
    share, size = OneProcess().share(sae.TensorStream(x, 3, shuffle=False), 1)
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


def test_the_example_says_the_same_in_two_processes(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(EXAMPLE)]
    both = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
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
