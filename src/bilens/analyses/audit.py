"""The command that asks how much of a layer's features a few eigenpairs explain, beside random directions."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn

from bilens import activations, directions, plots, sae, tables
from bilens import decompose as decompositions
from bilens._internal import files
from bilens._internal.checks import whole
from bilens.analyses._announced import announce, of_audit
from bilens.analyses._audit_sets import asked as asked_of
from bilens.analyses._audit_sets import audited, of_coders
from bilens.analyses._layer_text import PREFIX, SURROGATE, fitted, rows_of, split_of
from bilens.analyses.audit_table import LEVEL, firings, markdown, table
from bilens.analyses.site_coders import CoderReport, CoderSettings, site_coder
from bilens.analyses.text_statistics import checksum
from bilens.decompose import Audit
from bilens.models import gated
from bilens.models.gated import GatedMLP
from bilens.models.gated.original import original
from bilens.models.surrogate import weights_only
from bilens.progress import Steps, bar
from bilens.sae import SAE
from bilens.statistics import Estimate
from bilens.store import Folder
from bilens.tensor import BilinearTensor
from bilens.text import Split

EXACT = "exact"
"""What stands for a layer that is bilinear: itself."""


@dataclass(frozen=True, eq=False)
class Result:
    """What an audit of a layer found.

    Args:
        audits: by the name of the surrogate, `EXACT` for a layer that is bilinear; fvu: of each, on held-out tokens,
            from what the model itself gives where that is exact; coders: by name.
        tokens, fitted: held-out tokens, and those that surrogates, or the order of pairs alone, were fitted to.
    """

    audits: dict[str, tuple[Audit, ...]]
    fvu: dict[str, float]
    coders: dict[str, CoderReport]
    tokens: int
    fitted: int


def audit(
    model: str,
    /,
    *,
    out: Path,
    layer: int | None = None,
    coder: tuple[Path, ...] = (),
    kind: Literal["topk", "relu"] = "topk",
    features: int = 2048,
    k: int = 32,
    l1: float = 5.0,
    steps: tuple[int, ...] = (48, 144, 432),
    batch: int = 1024,
    tokens: int = 40,
    random: int = 64,
    most: int = 256,
    text: tuple[Path, ...] = (),
    length: int = 256,
    fit: int = 90,
    held_out: int = 30,
    seed: int = 0,
) -> Result:
    """How much of a layer's features do their first eigenpairs explain, beside random directions?

    For each feature the correlation of its true value, of the layer as it is, with the sum of its k first eigenpairs,
    k = 1 … 64, on text that nothing was fitted to. Example: bilens audit runs/smollm2 --layer 12 --out runs/audit

    Args:
        model: a folder, a GGUF file or the name of a model on Hugging Face's hub.
        out: folder for the results; the same command run again continues there.
        layer: which layer (default: the middle one).
        coder: folders of coders of the MLP's output, or of transcoders; none are trained then.
        kind: rule for codes of the SAEs that are trained on the MLP's output.
        features: features of each.
        k: active features of each, for topk.
        l1: penalty of relu.
        steps: updates of each SAE that is trained, one SAE for each number.
        batch: vectors in an update, a multiple of 8.
        tokens: unembedding directions, of the most frequent tokens of the text; 0 for none.
        random: random directions, the null.
        most: features of each coder at most; those active on fewer than 15 held-out tokens are left out.
        text: files and folders of text; by default what is found without a network (docs/text.md).
        length: tokens in a row of text.
        fit: rows to fit surrogates and coders to.
        held_out: rows to measure on, of other documents.
        seed: of the order of the text, of coders and of random directions.
    """
    fit, held_out, length = whole("fit", fit, 8), whole("held_out", held_out, 2), whole("length", length, 2)
    tokens, random, most = whole("tokens", tokens, 0), whole("random", random, 2), whole("most", most, 1)
    several = [CoderSettings(kind, features, k, l1, count, batch, seed=seed) for count in ([] if coder else steps)]
    job = Steps(5 + len(several))
    job.begin("opening the model")
    checkpoint = gated.load(model)
    layer = len(checkpoint) // 2 if layer is None else layer
    mlp = checkpoint.mlp(layer)
    job.begin("reading the text")
    split = split_of(checkpoint, text, length=length, fit=fit, held_out=held_out, seed=seed)
    live = original(checkpoint)
    asked = {
        "model": model,
        "layer": layer,
        "weights": checksum(*live.state_dict().values()),  # the text goes through all of the model
        "text": split.described,
        "coders": [str(folder) for folder in coder],
        "trained": [asdict(one) for one in several],
        "tokens": tokens,
        "random": random,
        "most": most,
        "seed": seed,
    }
    settings = {"command": "audit", **asked}
    counts = [tokens, *([min(most, features)] * len(several) or [most] * len(coder)), random]
    announce(of_audit(mlp, several, counts), out)
    run = Folder(out, settings)
    console = Console(markup=False, highlight=False, soft_wrap=True, width=140)
    console.print(f"{mlp!r} of {model}")
    console.print(f"text: {split.described}")
    job.begin(f"running the model on the text, up to {mlp.title}")
    x, y = rows_of(live, mlp, split.held_out)
    coders, reports = dict[str, SAE](), dict[str, CoderReport]()
    for folder in coder:
        coders[_named(folder, coders)] = sae.load(folder)
    shared = (
        activations.stream(live, layer, "mlp_out", split.fit, batch_size=batch, seed=seed, prefix=PREFIX)
        if several
        else None
    )
    for one in several:
        job.begin(f"an SAE of {one.steps} steps")
        name = f"coder-{one.steps}"
        coders[name], reports[name] = site_coder(
            run,
            name,
            live,
            layer,
            "mlp_out",
            fit=split.fit,
            held_out=split.held_out,
            settings=one,
            prefix=PREFIX,
            stream=shared,
        )
        console.print(_line(name, reports[name]))
    job.begin("the layer's tensor" if mlp.bilinear else "surrogates")
    tensors, fvu, moment, seen = _tensors(mlp, live, split, x, y)
    frequent = split.fit[:, PREFIX:].flatten().bincount().argsort(descending=True, stable=True)[:tokens].tolist()
    named = directions.tokens(model, frequent, mlp=mlp) if tokens else None
    sets = [] if named is None else [asked_of(named, y)]
    sets += of_coders(mlp, coders, x, y, most)
    sets.append(asked_of(directions.random(random, mlp.output.size, seed=seed), y))
    normal = mlp.norm.normalize(x.to(mlp.gate))
    job.begin("eigenpairs and correlations")
    found: dict[str, tuple[Audit, ...]] = dict.fromkeys(tensors, ())
    with bar("sets of directions, each in two orders", 2 * len(tensors) * len(sets)) as step:
        for name, tensor in tensors.items():
            for part, metric in itertools.product(sets, (moment, None)):
                order = "magnitude" if metric is None else "weighted"
                record = f"audits/{name}-{part.directions.name}-{order}"
                found[name] = (*found[name], audited(run, record, tensor, part, normal=normal, metric=metric))
                step(1)
    for name, audits in found.items():
        console.print(table(_title(name, fvu[name]), audits), soft_wrap=False)
    result = Result(found, fvu, reports, len(x), seen)
    _write(run, mlp, split, model, result)
    if importlib.util.find_spec("pyarrow") is not None:
        _tabulate(tables.Writer(run.path, settings), layer, next(iter(found.values())))
    console.print(f"report: {run.path / 'report.md'}; figures: {run.path / 'figures'}")
    return result


def _named(folder: Path, taken: Mapping[str, object]) -> str:
    """A name that files and tables can have for a coder: its folder's, with a number where that is taken."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-.")[:60] or "coder"
    return next(name for n in itertools.count(1) if (name := plain if n == 1 else f"{plain}-{n}") not in taken)


def _tensors(
    mlp: GatedMLP, live: nn.Module, split: Split, held_out: Tensor, given: Tensor
) -> tuple[dict[str, BilinearTensor], dict[str, float], Tensor, int]:
    """The layer as tensors, fitted to the text and by its weights alone, with their FVU; and the second moment of x̂.

    One that is exactly bilinear is one tensor, which is asked, too, how far it is from what the model itself gives.
    """
    x, _ = rows_of(live, mlp, split.fit[:SURROGATE])
    normal = mlp.norm.normalize(x.to(mlp.gate))
    if mlp.bilinear:
        tensor, true = mlp.tensor(), given.double()
        off = tensor(mlp.norm.normalize(held_out.to(mlp.gate))).double() - true
        lost = float(off.square().sum() / (true - true.mean(dim=0)).square().sum())
        return {EXACT: tensor}, {EXACT: lost}, decompositions.second_moment(normal, tensor.input), len(x)
    found = {"fitted": fitted(mlp, x), "weights_only": weights_only(mlp)}
    tensors = {name: one.tensor() for name, one in found.items()}
    fvu = {name: one.fvu(held_out) for name, one in found.items()}
    return tensors, fvu, decompositions.second_moment(normal, tensors["fitted"].input), len(x)


def _title(name: str, fvu: float) -> str:
    return f"{name}, the layer's own tensor, FVU {fvu:.0e}" if name == EXACT else f"{name}, FVU {fvu:.3f}"


def _line(name: str, report: CoderReport) -> str:
    costs = ", ".join(f"{cost.by} {cost.delta_ce:+.3f} ± {cost.error:.3f}" for cost in report.costs)
    return (
        f"{name}: FVU {report.fvu:.3f}, L0 {report.l0:.1f}, dead {report.dead:.1%} on {report.tokens:,} held-out "
        f"tokens; nats more at its site: {costs}"
    )


def _write(run: Folder, mlp: GatedMLP, split: Split, model: str, result: Result) -> None:
    """The report as Markdown, every number as JSON, and the figures."""
    rests = (
        f"The layer is bilinear: its tensor is the layer itself, and the order of pairs is that of {result.fitted:,} "
        "other tokens."
        if EXACT in result.audits
        else f"Surrogates were fitted to {result.fitted:,} tokens."
    )
    parts = [
        f"# {mlp.title} of {model}: what the first eigenpairs explain",
        "Medians over features of |correlation| of the true value, of the layer as it is, with the sum of the first "
        f"eigenpairs, on {result.tokens:,} tokens that nothing was fitted to; the share above {LEVEL} with two pairs "
        f"has its 95 % interval over features. {rests} The random directions are the null.",
        f"Text: {split.described}.",
    ]
    content: dict[str, Any] = {"tokens": result.tokens, "fitted": result.fitted, "fvu": result.fvu, "audits": {}}
    (run.path / "figures").mkdir(exist_ok=True)
    for name, audits in result.audits.items():
        parts += [f"## {_title(name, result.fvu[name])}", markdown(audits)]
        plots.save(plots.audit(audits, title=f"{mlp.title}, {name}"), run.path / "figures" / f"{name}.svg")
        content["audits"][name] = [_numbers(one) for one in audits]
    for name, report in result.coders.items():
        parts.append(_line(name, report))
    content["coders"] = {name: asdict(report) for name, report in result.coders.items()}
    files.write_text(run.path / "report.md", "\n\n".join(parts) + "\n")
    run.write("summary.json", content)


def _numbers(one: Audit) -> dict[str, Any]:
    """Medians and shares with their intervals."""
    found: dict[str, Any] = {"set": one.name, "order": one.order, "features": len(one), "tokens": one.tokens}
    found["firings"] = dict(zip(("fewest", "middle", "most"), firings(one), strict=True))
    for active in (False, True):
        if one.known(active=active):
            medians = {str(k): _interval(one.median(k, active=active)) for k in (0, *one.ks)}
            shares = {str(k): _interval(one.share(k, above=LEVEL, active=active)) for k in one.ks}
            found["active" if active else "all"] = {"medians": medians, "shares": shares}
    return found


def _interval(found: Estimate) -> dict[str, Any]:
    """An estimate as values of JSON, which has no infinity."""
    ends = {side: getattr(found, side) for side in ("low", "high")}
    return {
        "value": found.value,
        "count": found.count,
        **{side: value if abs(value) < float("inf") else None for side, value in ends.items()},
    }


def _tabulate(writer: tables.Writer, layer: int, audits: tuple[Audit, ...]) -> None:
    """The weighted audits as rows of the table `audit`, which `bilens query` asks."""
    for one in audits:
        if one.order == "weighted":
            writer.write("audit", table_rows(one), layer=layer, set=one.name)


def table_rows(one: Audit, first: int = 0) -> dict[str, list[Any]]:
    """The columns of the table `audit`: a row for each feature and number of pairs, 0 for the whole form.

    Args:
        one: an audit; first: number of its first feature.
    """
    ks = (*one.ks, 0)
    n = len(one)

    def column(values: Tensor, last: Tensor) -> list[float | None]:
        every = torch.cat([values, last[:, None]], dim=1).flatten().tolist()
        return [None if math.isnan(value) else value for value in every]

    return {
        "feature": [first + place for place in range(n) for _ in ks],
        "pairs": list(ks) * n,
        "correlation": column(one.correlations, one.full),
        "correlation_active": column(one.active, one.full_active),
        "tokens": [one.tokens] * (n * len(ks)),
        "active": [count for count in one.firings.tolist() for _ in ks],
    }


__all__ = ["EXACT", "Result", "audit", "table_rows"]
