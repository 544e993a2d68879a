"""Alters folders of every kind and reads them: nothing may end in a traceback, be believed, or be lost.

`python tests/fuzz.py --count 2000 --seed 0`; case n of a seed is the same case every time, so that a finding can be
repeated by `--first n --count 1`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.torch
import torch

from bilens import cli, data, decompose, explorer, plots, sae, store
from bilens._internal import checkpoint
from bilens.analyses import layers
from bilens.analyses.explore import PAGE
from bilens.errors import BilensError
from bilens.faithfulness import Curve, Score
from bilens.models import ImageClassifier, gated, imported
from bilens.space import Space
from bilens.state_dicts import state_dict
from bilens.tensor import BilinearTensor
from goldens import GOLDEN

SMALL = ["--count", "2", "--sae-steps", "2", "--pair-features", "8", "--pair-steps", "2"]
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 10**30, 2**31, 2**63, 0.5, -0.0, 1e300, "", "?", "1", "a\nb", "\ud800", "NaN"),
    *([], {}, [1], [[]], ["x"], {"a": 1}, {"tensor": "x"}, {"kind": "Score", "fields": {}}, "x" * 5000),
)
"""Values that a JSON file may be given in place of its own."""


class Killed(BaseException):
    """The moment at which a process is killed: no clean-up of its own runs after it."""


@dataclasses.dataclass
class Kind:
    """One kind of folder.

    Args:
        root: a whole folder; other: a second one of the same kind with other content, to take files from.
        read: what a reader makes of a folder, as a text; it raises BilensError for one that is refused.
        writes: whether reading may add and replace files; sealed: whether alterations can be noticed at all, which
            they cannot in a folder that another program wrote without checksums.
    """

    root: Path
    other: Path
    read: Callable[[Path], str]
    writes: bool = False
    sealed: bool = True

    def __post_init__(self) -> None:
        self.whole = snapshot(self.root)
        self.strange = snapshot(self.other)
        self.right = self.read(self.root)
        self.restore()

    def restore(self) -> None:
        """Make the folder what it was."""
        if snapshot(self.root) == self.whole:
            return
        shutil.rmtree(self.root)
        for name, content in self.whole.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(content)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path in it."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def digest(value: Any) -> str:
    """A text that is another one for every other value."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return f"{value.dtype}{tuple(value.shape)}{hashlib.sha256(flat.numpy().tobytes()).hexdigest()}"
    if dataclasses.is_dataclass(value):
        return type(value).__name__ + digest([getattr(value, field.name) for field in dataclasses.fields(value)])
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{digest(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(digest, value)) + "]"
    return repr(value)


# The kinds


def model(seed: int) -> ImageClassifier:
    return ImageClassifier(Space("pixels", 6), Space("classes", 3, ("a", "b", "ü")), 4, bias=True, seed=seed)


def read_model(folder: Path) -> str:
    found = ImageClassifier.from_pretrained(folder)
    return digest([found.config, dict(found.state_dict())])


def read_coder(folder: Path) -> str:
    found = sae.load(folder)
    return digest([type(found).__name__, found.settings, dict(found.named_parameters())])


def layer(seed: int) -> BilinearTensor:
    return model(seed).tensor()


def write_records(folder: Path, seed: int) -> None:
    tensor = layer(seed)
    store.save(tensor, folder / "tensor")
    store.save(decompose.eigh(tensor.kernel("a"), 2), folder / "spectrum")
    store.save(decompose.eigh_many(tensor, None, 2), folder / "spectra")
    store.save(
        Curve.of("kept", [1, 2], [Score(0.1, 2.0, seed), Score(0.2, 1.0, 0.6)], error=[1.0, 0.5]), folder / "curve"
    )
    # With tensors: a record of one file is whole wherever it comes from, unless it is a run's and names its place.
    several = (Score(0.5, 1.25, None), Space("x", 2 + seed), tensor.kernel("a"))
    store.save(several, folder / "several")


def read_records(folder: Path) -> str:
    kinds = {
        "tensor": BilinearTensor,
        "spectrum": decompose.Spectrum,
        "spectra": decompose.Spectra,
        "curve": Curve,
        "several": tuple,
    }
    return digest([store.load(folder / name, kind) for name, kind in kinds.items()])


def batches(seed: int) -> decompose.SpectraStream:
    return decompose.spectra_stream(layer(seed), None, 2, batch_size=1)


def read_batches(folder: Path) -> str:
    return digest(list(store.load_batches(folder, decompose.Spectra)))


def resume_batches(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", store.DamagedBatchWarning)
        store.save_batches(batches(0), folder, progress=False)
    return read_batches(folder)


def module() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    made = torch.nn.Linear(3, 2)
    for parameter in made.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    return made, torch.optim.AdamW(made.parameters())


def write_checkpoint(folder: Path, seed: int) -> None:
    """Of the run of this seed, with other numbers for each."""
    made, optimizer = module()
    made(torch.full((1, 3), float(seed + 1))).sum().backward()
    optimizer.step()
    extra, settings = {"rows": torch.ones(2, 1) * seed}, {"lr": 1, "seed": seed}
    checkpoint.save(folder / "training.part", made, optimizer, done=1 + seed, settings=settings, extra=extra)


def read_checkpoint(folder: Path, seeds: tuple[int, ...] = (0,)) -> str:
    """As the run of the first of these seeds whose checkpoint it is."""
    made, optimizer = module()
    try:
        done, extra = checkpoint.load(folder / "training.part", made, optimizer, settings={"lr": 1, "seed": seeds[0]})
    except BilensError:
        if len(seeds) == 1:
            raise
        return read_checkpoint(folder, seeds[1:])
    # A checkpoint that is not there is a run that has not begun.
    return "begins" if done == 0 else digest([done, extra, dict(made.state_dict()), optimizer.state_dict()["state"]])


def write_data(folder: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for position, name in enumerate(data._FILES):
        images = position % 2 == 0
        array = generator.integers(0, 256 if images else 10, (6, 3, 3) if images else (6,)).astype(np.uint8)
        content = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes() + array.tobytes()
        zipped = position < 2
        (folder / "mnist").mkdir(exist_ok=True)
        path = folder / "mnist" / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)


def reader_of_data(folder: Path) -> Callable[[Path], str]:
    """Reads MNIST from a folder with small files in its layout, whose checksums are those of the whole files."""
    sums = []
    for name in data._FILES:
        path = folder / "mnist" / name
        content = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(f"{name}.gz").read_bytes())
        sums.append(hashlib.md5(content, usedforsecurity=False).hexdigest())
    published = dataclasses.replace(data._MNIST, md5=tuple(sums))

    def read(where: Path) -> str:
        with (
            mock.patch.object(data, "_MNIST", published),
            mock.patch.object(data, "_download", mock.Mock(side_effect=TimeoutError("no network here"))),
            mock.patch.dict(os.environ, {"BILENS_DATA": str(where), "XDG_CACHE_HOME": str(where / "none")}),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error", data.SmallSetWarning)
            try:
                found = data.mnist()
            except data.SmallSetWarning as warning:
                raise BilensError(str(warning), "all of MNIST") from warning
        return digest([found.train.images, found.train.labels, found.test.images, found.test.labels])

    return read


def command(*arguments: object) -> str:
    """Run a command in this process; BilensError when it ends with status 2 and one line."""
    said, told = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(told),
        mock.patch.object(plots, "save"),
        mock.patch.object(warnings, "showwarning", warnings.showwarning),
    ):
        status = cli.main([str(argument) for argument in arguments])
    lines = [line for line in told.getvalue().splitlines() if line.startswith("bilens: ")]
    if status == 2 and len(lines) == 1 and lines[0].isprintable():
        raise BilensError(lines[0], "")
    if status:
        raise RuntimeError(f"status {status}, {len(lines)} lines of error")
    return said.getvalue()


def explored(folder: Path) -> str:
    with tempfile.TemporaryDirectory() as beside:
        page = Path(beside, "page.html")
        command("explore", folder, "--out", page)
        text = page.read_text("utf-8")
    if "This run is not finished" in text:
        raise BilensError("a run that is not finished, as its page says", "")
    return digest(text)


def resumer(folder: Path, seed: int) -> Callable[[Path], str]:
    """Runs the main job on a folder again."""
    kept = folder / f"model-{seed}"
    model(seed).save_pretrained(kept)

    def resume(run: Path) -> str:
        command("read", kept, "--out", run, *SMALL)
        summary = json.loads((run / "summary.json").read_text("utf-8"))
        # `records` lists what is there: what only led to a whole record, such as a training, may be gone.
        return digest({name: value for name, value in summary.items() if name not in ("seconds", "records", "sha256")})

    return resume


def stop(run: Path) -> None:
    """Take from a finished run what it had not yet computed while its last SAE was being trained."""
    for path in [run / "summary.json", run / PAGE, *(run / "records").rglob("*pairs*"), *(run / "sae_pairs").iterdir()]:
        path.unlink()


def kinds(folder: Path, only: tuple[str, ...] = ()) -> dict[str, Kind]:
    """Whole folders of every kind."""
    made: dict[str, Callable[[], Kind]] = {}

    def add(name: str, write: Callable[[Path, int], Any], read: Callable[[Path], str], **how: bool) -> None:
        def make() -> Kind:
            places = (folder / name, folder / f"{name}-other")
            for seed, place in enumerate(places):
                place.mkdir()
                write(place, seed)
            return Kind(*places, reader_of_data(places[0]) if name == "data" else read, **how)

        made[name] = make

    add("model", lambda place, seed: model(seed).save_pretrained(place), read_model)
    add("coder", lambda place, seed: sae.TopKSAE(3, 5, 2, seed=seed).save_pretrained(place), read_coder)
    add("gated SAE", lambda place, seed: sae.GatedSAE(3, 5, seed=seed).save_pretrained(place), read_coder)
    add("records", write_records, read_records)
    add("batches", lambda place, seed: store.save_batches(batches(seed), place, progress=False), read_batches)
    add("resumed batches", lambda place, seed: store.save_batches(batches(seed), place, progress=False), resume_batches,
        writes=True)  # fmt: skip
    add("checkpoint", write_checkpoint, read_checkpoint)
    add("data", write_data, lambda place: "")
    add("authors' model", foreign_model, read_model, sealed=False)
    add("SAELens' SAE", lambda place, seed: shutil.copytree(GOLDEN / f"saelens_{('topk', 'standard')[seed]}", place,
        dirs_exist_ok=True), read_coder, sealed=False)  # fmt: skip
    for name, ones in {
        "SAELens' transcoder": ("saelens_skip_transcoder", "saelens_jumprelu_skip_transcoder"),
        "sparsify's SAE": ("sparsify_topk", "sparsify_skip_transcoder"),
        "dictionary_learning's SAE": ("dictionary_learning_topk", "dictionary_learning_gated"),
    }.items():
        add(name, lambda place, seed, ones=ones: shutil.copytree(GOLDEN / ones[seed], place, dirs_exist_ok=True),
            read_coder, sealed=False)  # fmt: skip
    add("language model", write_language_model, read_language_model, sealed=False)
    add("saved weights", lambda place, seed: torch.save(model(seed).state_dict(), place / "model.pt"), read_saved,
        sealed=False)  # fmt: skip
    again = [resumer(folder, seed) for seed in (0, 1)] if not only or {"page", "run", "stopped run"} & set(only) else []
    add("page", lambda place, seed: again[seed](place), explored)
    add("run", lambda place, seed: again[seed](place), lambda place: again[0](place), writes=True)

    def stopped(place: Path, seed: int) -> None:
        with mock.patch("bilens.analyses.SAEs.discard"):
            again[seed](place)
        stop(place)

    add("stopped run", stopped, lambda place: again[0](place), writes=True)
    return {name: make() for name, make in made.items() if not only or name in only}


def foreign_model(place: Path, seed: int) -> None:
    shutil.copy(GOLDEN / "image_bias_2layer.config.json", place / "config.json")
    shutil.copy(GOLDEN / "image_bias_2layer.model.safetensors", place / "model.safetensors")


def write_language_model(place: Path, seed: int) -> None:
    """One with an MLP in its first layer and experts in its second, in two parts."""
    sizes = {"hidden_size": 4, "intermediate_size": 3, "moe_intermediate_size": 2, "num_hidden_layers": 2}
    more = {"model_type": "qwen2_moe", "hidden_act": "silu", "rms_norm_eps": 1e-6, "num_experts": 2}
    (place / "config.json").write_text(json.dumps({**sizes, **more}))
    parts: list[dict[str, torch.Tensor]] = []
    for k, heads in enumerate((("mlp.",), ("mlp.experts.0.", "mlp.experts.1."))):
        h = 3 - k
        shapes = {f"{head}{name}_proj": (h, 4) for head in heads for name in ("gate", "up")}
        shapes |= {f"{head}down_proj": (4, h) for head in heads}
        generator = torch.Generator().manual_seed(seed)
        weights = {f"model.layers.{k}.{n}.weight": torch.randn(s, generator=generator) for n, s in shapes.items()}
        parts.append({**weights, f"model.layers.{k}.post_attention_layernorm.weight": torch.ones(4)})
    files = {name: f"model-0000{k + 1}-of-00002.safetensors" for k, part in enumerate(parts) for name in part}
    for part in parts:
        safetensors.torch.save_file(part, place / files[next(iter(part))])
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def read_language_model(folder: Path) -> str:
    checkpoint = gated.load(folder)
    entries = checkpoint.entries()
    layers.table(entries)
    mlps = []
    for entry in entries:
        one = checkpoint.mlp if entry.part == "mlp" else checkpoint.shared_expert
        experts = [checkpoint.expert(entry.layer, e) for e in range(entry.count)] if entry.part == "experts" else []
        mlps += experts or [one(entry.layer)]
    return digest([[mlp.gate, mlp.up, mlp.down] for mlp in mlps])


def read_saved(folder: Path) -> str:
    tensors, rest = state_dict(folder / "model.pt")
    found = imported.recognise(tensors, rest, title="model.pt")
    return digest([found.config, dict(found.tensors)])


SHARES = {"page": 6, "run": 2, "stopped run": 2, "resumed batches": 4, "batches": 8, "data": 8}
"""How often each kind is drawn, of about a hundred; the others share the rest."""


# What is done to them


def alter(kind: Kind, draw: random.Random) -> str:
    """Alter one file, or swap two; the words say what was done."""
    names = sorted(name for name in kind.whole if not name.endswith((".html", ".svg")))
    name = draw.choice(names)
    path = kind.root / name
    whole = kind.whole[name]
    ways = [flip, cut, add, zeros, empty, away, folder_instead, garbage, swap, foreign]
    ways += [json_value] * 8 if name.endswith(".json") else []
    ways += [tensors] * 6 if name.endswith((".safetensors", ".part")) else []
    way = draw.choice(ways)
    done = way(kind, path, whole, draw)
    return f"{name}: {way.__name__} {done}"


def flip(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    content = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.randrange(len(content) if draw.random() < 0.5 else min(len(content), 400))
        content[place] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return ""


def cut(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    path.write_bytes(whole[: draw.randrange(len(whole))])
    return ""


def add(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    path.write_bytes(whole + draw.randbytes(draw.choice((1, 8, 100))))
    return ""


def zeros(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    start = draw.randrange(len(whole))
    end = min(len(whole), start + draw.choice((1, 4, 64, 4096)))
    path.write_bytes(whole[:start] + bytes(end - start) + whole[end:])
    return ""


def empty(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    path.write_bytes(b"")
    return ""


def away(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    path.unlink()
    return ""


def folder_instead(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return ""


def garbage(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    some = (
        b"{}",
        b"[]",
        b"null",
        b'"x"',
        b"{" * 3000,
        b"[" * 3000,
        b"PK\x03\x04",
        b"\x80\x02.",
        b"\x1f\x8b\x08",
        b"<html>",
    )
    path.write_bytes(draw.choice((*some, draw.randbytes(64))))
    return ""


def swap(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    other = kind.root / draw.choice(sorted(kind.whole))
    path.write_bytes(other.read_bytes())
    other.write_bytes(whole)
    return f"with {other.relative_to(kind.root)}"


def foreign(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    """A file of another folder of the same kind, or both files of one record or model."""
    name = path.relative_to(kind.root).as_posix()
    names = [name]
    if draw.random() < 0.5 and name.startswith("records/"):
        names = [other for other in kind.strange if other.rpartition(".")[0] == name.rpartition(".")[0]]
    for other in names:
        if other in kind.strange:
            (kind.root / other).write_bytes(kind.strange[other])
    return ", ".join(names)


def json_value(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    content = json.loads(whole)
    places = list(nodes(content))
    if not places:
        return cut(kind, path, whole, draw)
    parent, key = draw.choice(places)
    how = draw.choice(("value", "value", "remove", "rename", "number"))
    if how == "remove" or (how == "rename" and isinstance(parent, list)):
        del parent[key]
    elif how == "rename":
        parent[draw.choice((f"{key}s", key[:-1], key.upper(), "kind", "tensor", "sha256"))] = parent.pop(key)
    elif how == "number" and type(parent[key]) in (int, float):
        parent[key] += draw.choice((1, -1, 0.5, 1e-9 * (1 + abs(parent[key]))))
    else:
        parent[key] = copy.deepcopy(draw.choice(ODD))
    text = json.dumps(content, ensure_ascii=draw.random() < 0.5)
    if draw.random() < 0.1:
        text = text.replace("0.5", draw.choice(("NaN", "Infinity", "1e999", "1" * 5000)))
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return f"{how} of {key!r}"


def nodes(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every entry of every list and object, as what holds it and its key."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield content, key
        yield from nodes(value)


def tensors(kind: Kind, path: Path, whole: bytes, draw: random.Random) -> str:
    values = safetensors.torch.load(whole)
    size = int.from_bytes(whole[:8], "little")
    metadata = json.loads(whole[8 : 8 + size]).get("__metadata__") if draw.random() < 0.7 else None
    name = draw.choice(sorted(values))
    value = values[name].clone()
    flat = value.reshape(-1)
    how = draw.choice(
        ("nan", "infinity", "number", "number", "type", "shape", "transpose", "remove", "rename", "empty")
    )
    if how in ("nan", "infinity", "number") and value.numel():
        place = draw.randrange(value.numel())
        odd = {"nan": float("nan"), "infinity": float("inf")}.get(
            how, float(flat[place]) + draw.choice((1e-3, 1.0, -2.0))
        )
        flat[place] = odd if value.is_floating_point() else 77
        values[name] = flat.reshape(value.shape)
    elif how == "type":
        values[name] = value.to(draw.choice((torch.float16, torch.float64, torch.int64, torch.bool, torch.bfloat16)))
    elif how == "shape":
        values[name] = torch.cat([flat, flat])
    elif how == "transpose":
        values[name] = value.reshape(tuple(reversed(value.shape)))
    elif how == "empty":
        values[name] = value.new_zeros(0)
    else:
        del values[name]
        if how == "rename":
            values[draw.choice((name + "s", name[:-1], "w", "module", "optimizer.x.y", "blocks.0"))] = value
    path.write_bytes(safetensors.torch.save(values, metadata))
    return f"{how} of {name}"


# What must not happen


def examine(kind: Kind, draw: random.Random) -> tuple[str, str]:
    """Alter a folder and read it: ("", …) when all is well, else the name of the finding, and what was done."""
    done = alter(kind, draw)
    before = snapshot(kind.root)
    finding = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = kind.read(kind.root)
        if found != kind.right and kind.sealed and found != "begins":
            finding = "believed"
    except BilensError as error:
        if not str(error).isprintable() or not str(error).startswith("got "):
            finding = "traceback"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of safetensors is no Exception
        finding, done = "traceback", f"{done} ({type(error).__name__}: {error})"
    after = snapshot(kind.root)
    gone = [n for n in before if n not in after and not (kind.writes and n.endswith(".part"))]
    if gone or (not kind.writes and after != before):
        finding = finding or "lost"
    kind.restore()
    return finding, done


SAVES: tuple[tuple[Callable[[Path, int], None], Callable[[Path], str]], ...] = (
    (lambda place, seed: model(seed).save_pretrained(place), read_model),
    (lambda place, seed: sae.StandardSAE(3, 5 + seed, seed=seed).save_pretrained(place), read_coder),
    (lambda place, seed: store.save(layer(seed), place / "tensor"),
     lambda place: digest(store.load(place / "tensor", BilinearTensor))),
    (write_checkpoint, lambda place: read_checkpoint(place, (0, 1))),
    (lambda place, seed: explorer.write([explorer.Exploration(str(seed))], place / PAGE),
     lambda place: digest((place / PAGE).read_bytes())),
)  # fmt: skip
"""How things are written over older ones, and read."""


def interrupt(folder: Path, draw: random.Random) -> tuple[str, str]:
    """Save over an older file and fail, or be killed, at one of the steps: the old or the new one must be there."""
    write, read = draw.choice(SAVES)
    shutil.rmtree(folder, ignore_errors=True)
    states = []
    for seed in (1, 0):
        folder.mkdir(exist_ok=True)
        write(folder, seed)
        states.append(read(folder))
    kill, moment = draw.random() < 0.5, draw.randrange(8)
    steps, real = 0, {name: getattr(os, name) for name in ("replace", "link", "unlink", "chmod")}

    def at(name: str) -> Callable[..., Any]:
        def step(*arguments: Any, **more: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > moment and kill:  # whatever would be done afterwards is not done
                raise Killed
            if steps == moment + 1 and name != "unlink":
                raise OSError(28, "No space left on device")
            return real[name](*arguments, **more)

        return step

    done = f"{SAVES.index((write, read))}: {'killed' if kill else 'failed'} at step {moment}"
    with mock.patch.multiple(os, **{name: at(name) for name in real}), contextlib.suppress(BilensError, Killed):
        write(folder, 1)
    try:
        return ("" if read(folder) in states else "believed"), done
    except BilensError as error:
        return "lost", f"{done} ({error})"
    except Exception as error:
        return "traceback", f"{done} ({type(error).__name__}: {error})"


def fuzz(
    count: int, seed: int, first: int = 0, only: tuple[str, ...] = (), say: Callable[[str], None] = print
) -> Counter:
    """Examine so many cases; the counter has how many of each kind there were, and the findings."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        made = kinds(Path(place), only)
        names = [*made, *(["save"] if not only or "save" in only else [])]
        shares = [SHARES.get(name, 9) for name in names]
        for n in range(first, first + count):
            draw = random.Random(f"{seed} {n}")
            name = draw.choices(names, shares)[0]
            finding, done = interrupt(Path(place, "save"), draw) if name == "save" else examine(made[name], draw)
            found[f"cases of {name}"] += 1
            if (n - first + 1) % 500 == 0:
                say(f"{n - first + 1} of {count}")
            if finding:
                found[finding] += 1
                say(f"{finding}: seed {seed}, case {n}: {name}: {done}"[:400])
    return found


def main() -> int:
    """Run, print the counts, and return 1 where there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="of the cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", nargs="*", default=(), help="kinds of folders")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    print(f"altering {asked.count} folders of models, SAEs, records, runs, data and checkpoints, and reading each")
    found = fuzz(asked.count, asked.seed, asked.first, tuple(asked.only))
    findings = {name: found[name] for name in ("traceback", "believed", "lost")}
    print(", ".join(f"{count} {name.removeprefix('cases of ')}" for name, count in found.items() if "cases of" in name))
    print(f"{findings} in {asked.count} cases, {time.monotonic() - started:.0f} s")
    return int(any(findings.values()))


if __name__ == "__main__":
    sys.exit(main())
