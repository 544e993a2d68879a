"""The main job for language models: layers opened, read in sets of directions, looked at on text, kept in tables."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import decompose, tables
from bilens._internal import files, ranks
from bilens.analyses._announced import announce
from bilens.analyses.language import _budget as budget
from bilens.analyses.language import _index as index
from bilens.analyses.language import inputs
from bilens.analyses.language._made import Basis, Made, made, readings
from bilens.analyses.language._pages import Read
from bilens.analyses.language._sizes import sizes
from bilens.analyses.language.input_coder import TRAIN, train, trained
from bilens.analyses.language.layer import Costs, Layer, cost_name, costs, from_weights, opened
from bilens.analyses.language.seen import KINDS, KS, Eigenpairs, Seen, look
from bilens.analyses.language.sets import Outputs, input_features, outputs
from bilens.analyses.language.subject import PREFIX, Subject
from bilens.analyses.text_statistics import checksum
from bilens.errors import BilensError
from bilens.progress import Steps
from bilens.store import Folder
from bilens.tables import Writer

BEFORE, AFTER = 14, 8
"""Tokens of a context before and after the one that it is kept for."""

COLUMNS = tuple(column.name for column in tables.TABLES["examples"][2:])
"""Columns of a context."""

BATCH = 256
"""Features of a set whose contexts are written at a time."""


@dataclass(frozen=True)
class Plan:
    """What is asked for of each layer.

    Args:
        directions: "tokens", or folders of coders of what the layer gives; inputs: the folder of an SAE of what it
            takes, "train" to train one on the text, empty for token embeddings.
        tokens: how many tokens are read as directions; controls: random directions beside them.
        input_tokens: token embeddings that are input features, where no SAE is named.
        pairs: eigenpairs of each feature; interactions: of each feature; seed: of what is drawn.
    """

    directions: tuple[str, ...] = ("tokens",)
    inputs: str = ""
    tokens: int = 256
    controls: int = 64
    input_tokens: int = 512
    pairs: int = 16
    interactions: int = 64
    seed: int = 0


def settings(subject: Subject, layers: Sequence[int], plan: Plan) -> dict[str, Any]:
    """What a run was asked for, as JSON: its folder belongs to these.

    Weights and text are there by their checksums, since a file of the same name may hold others: of all weights where
    text goes through the model, else of those that are read.
    """
    split = subject.split
    if split is None:
        mlps = [subject.checkpoint.mlp(layer) for layer in layers]
        read = [
            subject.embedding,
            subject.unembedding,
            *(part for mlp in mlps for part in (mlp.gate, mlp.up, mlp.down)),
        ]
    else:
        read = list(subject.live().state_dict().values())
    return {
        "command": "read",
        "kind": "language",
        "model": subject.named,
        "weights": checksum(*read),
        "layers": list(layers),
        "text": None if split is None else split.described,
        "text_checksum": None if split is None else checksum(split.fit, split.held_out),
        **asdict(plan),
        "directions": list(plan.directions),
    }


def read_layers(
    subject: Subject,
    layers: Sequence[int],
    out: Path,
    plan: Plan,
    steps: Steps | None = None,
    *,
    known: Costs | None = None,
) -> list[Path]:
    """Read layers into a run's folder, and write the page of each; what is there already is kept.

    The processes of torchrun, once they are joined, share the rows of text, the batches and the sets.

    Args:
        subject: the model and its text; layers: their numbers; out: the folder; plan: what is asked for.
        steps: of a job that began before this; known: what the surrogate of the one layer costs, where that job has it.

    Returns:
        The pages, and the index before them where there are several; of several processes those of the first alone.

    Raises:
        BilensError: no such layer, or directions that do not fit. StoreError: the folder is of another run.
    """
    tables.needed()
    if plan.inputs == TRAIN and subject.split is None:
        raise BilensError("an SAE to be trained without text", "text to train it on")
    asked = settings(subject, layers, plan)
    if ranks.lead():
        announced(subject, from_weights(subject.checkpoint.mlp(layers[0])), layers, plan, out)
    run, writer = Folder(out, asked), Writer(out, asked)
    steps = steps or Steps(count_steps(subject, layers, out, plan))
    if inputs.missing(subject, out, layers):
        _begin(steps, "running the model on the text")
        inputs.collect(subject, out, layers)
    ranks.wait()
    if known is not None and ranks.lead():
        run.record(cost_name(layers[0]), Costs, lambda: known)
    written = []
    for number in layers:
        if plan.inputs == TRAIN:
            _begin(steps, f"an SAE of what layer {number} takes")
            if ranks.lead():
                train(subject, run, number, seed=plan.seed)
            ranks.wait()
        _begin(steps, f"reading layer {number}")
        found = read_layer(subject, number, run, writer, plan)
        ranks.wait()
        _begin(steps, f"the page of layer {number}")
        if ranks.lead():
            written.append(budget.write(subject, found, run, layers))
    if len(layers) > 1 and ranks.lead():
        written.insert(0, index.write(subject, layers, run.path))
    return written


def _begin(steps: Steps, title: str) -> None:
    if ranks.lead():
        steps.begin(title)


def count_steps(subject: Subject, layers: Sequence[int], out: Path, plan: Plan) -> int:
    """How many steps `read_layers` has."""
    each = 3 if plan.inputs == TRAIN else 2
    return each * len(layers) + bool(inputs.missing(subject, out, layers))


def announced(subject: Subject, layer: Layer, layers: Sequence[int], plan: Plan, out: Path) -> tables.Sizes:
    """Say how large the job will be, and refuse a disk that is too small; wrong directions are refused here, too."""
    sets = outputs(subject, layer, plan)
    if plan.inputs != TRAIN:
        input_features(subject, layer, Path(plan.inputs) if plan.inputs else None, count=plan.input_tokens)
    found = sizes(
        subject,
        layer,
        len(layers),
        (sum(len(each) for each in sets if not each.control), plan.controls),
        pairs=plan.pairs,
        interactions=plan.interactions,
        tokens=BEFORE + 1 + AFTER,
        inputs_of=plan.inputs,
    )
    announce(found, out)
    return found


def read_layer(subject: Subject, number: int, run: Folder, writer: Writer, plan: Plan) -> Read:
    """Everything of one layer but its page, into the tables and the records of a run."""
    layer = opened(subject, run.path, number)
    if ranks.lead():
        costs(layer, subject, run, seed=plan.seed)
    sets = outputs(subject, layer, plan)
    made_of = input_features(subject, layer, folder_of(plan, run.path, number), count=plan.input_tokens)
    share: _Share = {"rank": ranks.rank(), "size": ranks.size(), "progress": ranks.lead()}
    for found in sets:
        named = layer.tensor.then(found.of(layer).to(layer.tensor.down), found.space)
        most = layer.tensor.input.dim if layer.metric is None else layer.metric.rank
        spectra = decompose.spectra_stream(named, k=min(plan.pairs, most), metric=layer.metric, seed=plan.seed)
        tables.save_spectra(writer, spectra, layer=number, set=found.name, control=found.control, **share)
        strongest = decompose.strongest_stream(named, made_of.dictionary, top=plan.interactions)
        tables.save_interactions(
            writer, strongest, layer=number, set=found.name, inputs=made_of.name, codes=made_of.codes, **share
        )
    ranks.wait()  # what follows reads the tables
    basis: Basis | None = None
    for found in sets[ranks.rank() :: ranks.size()]:
        pairs = saved(run.path, number, found.name)
        place = f"layer-{number:03d}/{found.name}"
        if subject.split is not None:
            look_at = functools.partial(look, subject, layer, found, pairs)
            seen = run.record(f"{place}/seen", Seen, look_at)
            write_examples(writer, subject, layer, found, seen)
            write_audit(writer, layer, found, seen)
        if not run.has(f"{place}/made"):
            basis = basis or Basis(readings(subject, layer), subject.unembedding, made_of)
            _, dictionary = layer.tensor.match(made_of.dictionary)
            held = held_by(run.path, number, found.name, (len(found), dictionary.features.dim))
            run.record(f"{place}/made", Made, functools.partial(made, layer, found, pairs.vectors, basis, held))
    return Read(layer, tuple(sets), made_of)


class _Share(TypedDict):
    """The part of the batches that this process takes, and whether it shows how far it is."""

    rank: int
    size: int
    progress: bool


def folder_of(plan: Plan, out: Path, number: int) -> Path | None:
    """The folder of the coder whose features the input of a layer is made of; None for token embeddings."""
    if plan.inputs == TRAIN:
        return trained(out, number)
    return Path(plan.inputs) if plan.inputs else None


def saved(out: Path, layer: int, name: str) -> Eigenpairs:
    """The eigenpairs of a set, from the tables of a run."""
    run = tables.open(out)
    rows = run.query(
        'SELECT feature, value FROM eigenpairs WHERE layer = ? AND "set" = ? ORDER BY feature, pair', [layer, name]
    )
    names = dict.fromkeys(run.features(layer=layer, set=name).column("file").to_pylist())
    vectors = torch.cat([files.read_tensors(out / file)[0]["vectors"] for file in names])
    values = torch.tensor(rows.column("value").to_pylist(), dtype=torch.float64)
    return Eigenpairs(values.view(len(vectors), -1).to(vectors), vectors)


def held_by(out: Path, layer: int, name: str, shape: tuple[int, int]) -> Float[Tensor, "n m"]:
    """What the stored interactions of each input feature hold of each feature's, from the tables of a run."""
    rows = tables.open(out).query(
        'SELECT feature, first, second, share FROM interactions WHERE layer = ? AND "set" = ?', [layer, name]
    )
    held = torch.zeros(shape)
    feature, first, second = (torch.tensor(rows.column(one).to_pylist()) for one in ("feature", "first", "second"))
    shares = torch.tensor(rows.column("share").to_pylist(), dtype=held.dtype)
    for side in (first, second):
        held.index_put_((feature.long(), side.long()), shares, accumulate=True)
    return held


def write_examples(writer: Writer, subject: Subject, layer: Layer, found: Outputs, seen: Seen) -> None:
    """The contexts of a set into the table `examples`."""
    if layer.held_out is None or subject.split is None:
        return
    tokens, number = subject.split.held_out, layer.number
    length = tokens.shape[1] - PREFIX
    source = f"{seen.values.double().sum():.9g} {seen.places.sum()}"
    missing = [
        start
        for start in range(0, len(found), BATCH)
        if not writer.finished("examples", layer=number, set=found.name, batch=start // BATCH, source=source)
    ]
    if not missing:
        return
    y, directions = layer.mlp(layer.held_out), found.of(layer)
    for start in missing:
        true = (y @ directions[start : start + BATCH].to(y).T).T.view(-1, len(tokens), length)
        rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for feature in range(start, min(start + BATCH, len(found))):
            for kind, name in enumerate(KINDS):
                for rank, (row, position) in enumerate(seen.places[feature, kind].tolist()):
                    first = max(PREFIX, position - BEFORE)
                    last = min(tokens.shape[1], position + AFTER + 1)
                    rows["feature"].append(feature)
                    rows["kind"].append(name)
                    rows["rank"].append(rank)
                    rows["document"].append(row)
                    rows["position"].append(position)
                    rows["value"].append(float(seen.values[feature, kind, rank]))
                    rows["predicted"].append(float(seen.predicted[feature, kind, rank]))
                    rows["focus"].append(position - first)
                    rows["tokens"].append([_piece(subject, token) for token in tokens[row, first:last].tolist()])
                    rows["values"].append(true[feature - start, row, first - PREFIX : last - PREFIX].tolist())
        writer.write("examples", rows, layer=number, set=found.name, batch=start // BATCH, source=source)


def _piece(subject: Subject, token: int) -> str:
    return subject.pieces[token] if token < len(subject.pieces) else f"[{token}]"


def write_audit(writer: Writer, layer: Layer, found: Outputs, seen: Seen) -> None:
    """The correlations of a set into the table `audit`; 0 pairs are the whole quadratic form."""
    if layer.held_out is None:
        return
    source = f"{seen.correlations.double().sum():.9g} {seen.full.double().sum():.9g}"
    if writer.finished("audit", layer=layer.number, set=found.name, source=source):
        return
    ks = [*KS[: seen.correlations.shape[1]], 0]
    columns = torch.cat([seen.correlations, seen.full[:, None]], dim=1).double().flatten().tolist()
    count = len(found) * len(ks)
    rows = {
        "feature": [feature for feature in range(len(found)) for _ in ks],
        "pairs": ks * len(found),
        "correlation": columns,
        "tokens": [len(layer.held_out)] * count,
    }
    writer.write("audit", rows, layer=layer.number, set=found.name, source=source)


def numbers(asked: str | None, count: int) -> list[int]:
    """The layers that `--layers` names: numbers with commas and ranges ("3,5-8"), "all", or None for the middle one.

    Raises:
        BilensError: something else, or no such layer.
    """
    if asked is None:
        return [count // 2]
    if asked == "all":
        return list(range(count))
    found = list[int]()
    for part in asked.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise BilensError(f"--layers {asked}", "numbers such as 12, 3,5 or 3-8, or all")
        found += range(int(first), int(last or first) + 1)
    if not found or max(found) >= count:
        raise BilensError(f"--layers {asked}", f"layers from 0 to {count - 1}")
    return sorted(set(found))


__all__ = ["Plan", "count_steps", "numbers", "read_layer", "read_layers", "saved", "settings"]
