"""What the processes of test_distributed.py train: run as a script in each of two, or imported by one."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional

from bilens import pairs, sae
from bilens.sae._processes import Processes
from bilens.sae.distributed import Ranks
from bilens.space import Space
from bilens.tensor import BilinearTensor

training = importlib.import_module("bilens.sae.train")  # the module, which the function of that name hides

# Vectors whose epochs end with a batch of one vector, and pair vectors, whose batches every process makes whole


def stream(kind: str, dtype: torch.dtype) -> sae.Stream:
    generator = torch.Generator().manual_seed(1)
    if kind != "pairs":
        atoms = functional.normalize(torch.randn(16, 12, generator=generator), dim=1)
        codes = torch.rand(51, 16, generator=generator) * (torch.rand(51, 16, generator=generator) < 0.2)
        return sae.TensorStream((codes @ atoms).to(dtype) + 1, 10)
    factors = torch.randn(2, 12, 7, generator=generator).to(dtype)
    tensor = BilinearTensor.from_layer(*factors, input=Space("pixels", 7), output=Space("hidden", 12))
    return pairs.stream(tensor, batch_size=9)


JOBS = [
    (kind, name)
    for kind in ("standard", "topk", "pairs")
    for name in (["float32", "float64"] if kind != "pairs" else ["float64"])
]


def train(kind: str, name: str, processes: Processes | None, **arguments: Any) -> tuple[sae.SAE, Tensor]:
    dtype = getattr(torch, name)
    coder = sae.StandardSAE(12, 24) if kind == "standard" else sae.TopKSAE(12, 90, 2)
    settings: dict[str, Any] = {"steps": 30, "lr": 0.01, "l1": 0.05, "similarity": 0.05, "clip": 5.0, "device": "cpu"}
    settings |= {"progress": False, "processes": processes}
    source = arguments.pop("stream", None) or stream(kind, dtype)
    history = sae.train(coder.to(dtype), source, **settings | arguments)
    return coder, history.values


def weights(coder: sae.SAE, history: Tensor) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in coder.named_parameters()} | {"history": history}


class Ending:
    """A stream that ends the process when a batch is asked for; a checkpoint is written after step 11."""

    def __init__(self, source: sae.Stream, how: BaseException | None) -> None:
        self.source, self.width, self.rows, self.how = source, source.width, source.rows, how

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, n: int) -> Tensor:
        training.checkpoints.SECONDS_BETWEEN_CHECKPOINTS = 0.0 if n == 10 else 1e9
        training._SECONDS_BETWEEN_REPORTS = 0.0
        if n == 14:
            if self.how is not None:
                raise self.how
            os.kill(os.getpid(), signal.SIGKILL)
        return self.source.batch(n)


class Watched(Ending):
    """A stream that notes what is asked for, and ends nothing."""

    asked: list[int]

    def batch(self, n: int) -> Tensor:
        self.asked.append(n)
        return self.source.batch(n)


def job(folder: Path) -> None:
    """In each of two processes: train everything, go on from where one process stopped, and be killed."""
    training._POINTS = 10  # three steps a row of the history
    ranks = Ranks()
    for kind, name in JOBS:
        found = weights(*train(kind, name, ranks))
        safetensors.torch.save_file(found, folder / f"{kind}.{name}.{ranks.rank}")
    watched = Watched(stream("topk", torch.float64), None)
    watched.asked = []
    found = weights(*train("topk", "float64", ranks, checkpoint=folder / "stopped", stream=watched))
    found["asked"] = torch.tensor(watched.asked)
    safetensors.torch.save_file(found, folder / f"resumed.{ranks.rank}")
    ending = Ending(stream("topk", torch.float64), None)
    train("topk", "float64", ranks, checkpoint=folder / "killed", stream=ending)


if __name__ == "__main__":
    warnings.simplefilter("error")
    training._POINTS = 10  # three steps a row of the history
    where, rank = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{where / 'meeting'}", rank=rank, world_size=2)
    job(where)
