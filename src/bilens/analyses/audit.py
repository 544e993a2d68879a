"""The command that asks how much of a layer's features a few eigenpairs explain, beside random directions."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bilens import activations, directions, files, plots, sae, tables
from bilens import decompose as decompositions
from bilens._internal.checks import whole
from bilens._internal.shown import line
from bilens.analyses.announced import announce, of_audit
from bilens.analyses.layer_text import PREFIX, SURROGATE, fitted, rows_of, split_of
from bilens.analyses.site_coders import CoderReport, CoderSettings, site_coder
from bilens.analyses.text_statistics import checksum
from bilens.decompose import Audit
from bilens.decompose.audit import LEAST
from bilens.directions import Directions
from bilens.errors import BilensError
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

LEVEL = 0.75
"""The correlation that a feature is said to need to be explained."""


@dataclass(frozen=True, eq=False, repr=False)
class Asked:
    """A set of directions with their true values on held-out tokens.

    Args:
        directions: the set; values: u·y of the layer itself, (m, n); active: where each is active, None for everywhere.
    """

    directions: Directions
    values: Float[Tensor, "m n"]
    active: Bool[Tensor, "m n"] | None = None

    __repr__ = line


@dataclass(frozen=True, eq=False)
class Result:
    """What an audit of a layer found.

    Args:
        audits: by the name of the surrogate; fvu: of each surrogate, on held-out tokens; coders: by name.
        tokens, fitted: held-out tokens, and those that surrogates were fitted to.
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
        kind: rule for codes of the coders that are trained on the MLP's output.
        features: features of each.
        k: active features of each, for topk.
        l1: penalty of relu.
        steps: updates of each coder that is trained, one coder for each number.
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
    asked = {
        "model": model,
        "layer": layer,
        "weights": checksum(mlp.gate, mlp.up, mlp.down),
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
    live = original(checkpoint)
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
        job.begin(f"a coder of {one.steps} steps")
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
    job.begin("surrogates")
    tensors, fvu, moment, seen = _tensors(mlp, live, split, x)
    frequent = split.fit[:, PREFIX:].flatten().bincount().argsort(descending=True, stable=True)[:tokens].tolist()
    named = directions.tokens(model, frequent, mlp=mlp) if tokens else None
    sets = [] if named is None else [_asked(named, y)]
    sets += _of_coders(mlp, coders, x, y, most)
    sets.append(_asked(directions.random(random, mlp.output.size, seed=seed), y))
    normal = mlp.norm.normalize(x.to(mlp.gate))
    job.begin("eigenpairs and correlations")
    found: dict[str, tuple[Audit, ...]] = dict.fromkeys(tensors, ())
    with bar("sets of directions, each in two orders", 2 * len(tensors) * len(sets)) as step:
        for name, tensor in tensors.items():
            for part, metric in itertools.product(sets, (moment, None)):

                def compute(
                    tensor: BilinearTensor = tensor, part: Asked = part, metric: Tensor | None = metric
                ) -> Audit:
                    return decompositions.audit(
                        tensor,
                        part.directions.matrix.to(tensor.down),
                        normal,
                        part.values,
                        metric=metric,
                        active=part.active,
                        labels=part.directions.labels,
                        name=part.directions.name,
                    )

                order = "magnitude" if metric is None else "weighted"
                record = run.record(f"audits/{name}-{part.directions.name}-{order}", Audit, compute)
                found[name] = (*found[name], record)
                step(1)
    for name, audits in found.items():
        console.print(_table(name, fvu[name], audits), soft_wrap=False)
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
    mlp: GatedMLP, live: nn.Module, split: Split, held_out: Tensor
) -> tuple[dict[str, BilinearTensor], dict[str, float], Tensor, int]:
    """The layer as tensors, fitted to the text and by its weights alone, with their FVU; and the second moment of x̂."""
    x, _ = rows_of(live, mlp, split.fit[:SURROGATE])
    normal = mlp.norm.normalize(x.to(mlp.gate))
    if mlp.bilinear:
        tensor = mlp.tensor()
        return {"exact": tensor}, {"exact": 0.0}, decompositions.second_moment(normal, tensor.input), len(x)
    found = {"fitted": fitted(mlp, x), "weights_only": weights_only(mlp)}
    tensors = {name: one.tensor() for name, one in found.items()}
    fvu = {name: one.fvu(held_out) for name, one in found.items()}
    return tensors, fvu, decompositions.second_moment(normal, tensors["fitted"].input), len(x)


def _of_coders(mlp: GatedMLP, coders: dict[str, SAE], x: Tensor, y: Tensor, most: int) -> Iterator[Asked]:
    """The features of each coder that are active often enough; of one whose features are all dead there are none."""
    for name, coder in coders.items():
        if coder.d_out != mlp.output.size or coder.d_in not in (mlp.output.size, mlp.input.size):
            raise BilensError(
                f"coder {name!r} of {coder.d_in} → {coder.d_out} numbers", f"one of the output of {mlp!r}"
            )
        with torch.no_grad():
            read = mlp.norm(x.to(mlp.gate)) if coder.transcodes else y
            active = torch.cat([coder.encode(part) != 0 for part in torch.split(read, 1024)])
        chosen = (active.sum(dim=0) >= LEAST).nonzero()[:most, 0]
        if len(chosen):
            which: Literal["duals", "encoder"] = "duals" if coder.transcodes else "encoder"
            yield _asked(directions.coder(coder, which, active=chosen, name=name), y, active[:, chosen])


def _asked(named: Directions, y: Tensor, active: Tensor | None = None) -> Asked:
    return Asked(named, y.double() @ named.matrix.to(y.device).double().T, active)


def _line(name: str, report: CoderReport) -> str:
    costs = ", ".join(f"{cost.by} {cost.delta_ce:+.3f} ± {cost.error:.3f}" for cost in report.costs)
    return (
        f"{name}: FVU {report.fvu:.3f}, L0 {report.l0:.1f}, dead {report.dead:.1%} on {report.tokens:,} held-out "
        f"tokens; nats more at its site: {costs}"
    )


HEAD = ("directions", "order", "features", "active on", "all pairs")
"""The first columns of the table; then one for each number of pairs, and two of shares."""


def _cells(audits: tuple[Audit, ...], *, active: bool) -> Iterator[tuple[str, ...]]:
    for one in audits:
        count = one.known(active=active)
        if not count or (active and bool((one.firings == one.tokens).all())):
            continue
        medians = [f"{one.median(k, active=active).value:.2f}" for k in (0, *one.ks)]
        share = one.share(2, above=LEVEL, active=active).text(".0%") if 2 in one.ks else "–"
        name = f"{one.name}, active tokens" if active else one.name
        fewest, middle, most = _firings(one)
        on = "all" if fewest == one.tokens else f"{middle:,} ({fewest:,} … {most:,})"
        yield (name, "by |λ|" if one.order == "magnitude" else "weighted", str(count), on, *medians, share)


def _columns(audits: tuple[Audit, ...]) -> tuple[str, ...]:
    return (*HEAD, *(f"k = {k}" for k in audits[0].ks), f"above {LEVEL} at 2")


def _table(name: str, fvu: float, audits: tuple[Audit, ...]) -> Table:
    shown = Table(
        box=None, pad_edge=False, title=f"{name}: FVU {fvu:.3f}; medians of |correlation|", title_justify="left"
    )
    for column in _columns(audits):
        shown.add_column(column, justify="left" if column in HEAD[:2] else "right")
    for active in (False, True):
        for cells in _cells(audits, active=active):
            shown.add_row(*cells)
    return shown


def _write(run: Folder, mlp: GatedMLP, split: Split, model: str, result: Result) -> None:
    """The report as Markdown, every number as JSON, and the figures."""
    parts = [
        f"# {mlp.title} of {model}: what the first eigenpairs explain",
        "Medians over features of |correlation| of the true value, of the layer as it is, with the sum of the first "
        f"eigenpairs, on {result.tokens:,} tokens that nothing was fitted to; the share above {LEVEL} with two pairs "
        f"has its 95 % interval over features. Surrogates were fitted to {result.fitted:,} tokens. The random "
        "directions are the null.",
        f"Text: {split.described}.",
    ]
    content: dict[str, Any] = {"tokens": result.tokens, "fitted": result.fitted, "fvu": result.fvu, "audits": {}}
    (run.path / "figures").mkdir(exist_ok=True)
    for name, audits in result.audits.items():
        rows = [_columns(audits), ("---",) * len(_columns(audits))]
        rows += [cells for active in (False, True) for cells in _cells(audits, active=active)]
        parts += [f"## {name}, FVU {result.fvu[name]:.3f}", "\n".join(_row(row) for row in rows)]
        plots.save(plots.audit(audits, title=f"{mlp.title}, {name}"), run.path / "figures" / f"{name}.svg")
        content["audits"][name] = [_numbers(one) for one in audits]
    for name, report in result.coders.items():
        parts.append(_line(name, report))
    content["coders"] = {name: asdict(report) for name, report in result.coders.items()}
    files.write_text(run.path / "report.md", "\n\n".join(parts) + "\n")
    run.write("summary.json", content)


def _row(cells: tuple[str, ...]) -> str:
    """A row of a table in Markdown, where a bar would end a cell."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _firings(one: Audit) -> tuple[int, int, int]:
    """On how many tokens features are active: the fewest, the middle, the most."""
    ordered = one.firings.sort().values
    return int(ordered[0]), int(ordered[len(ordered) // 2]), int(ordered[-1])


def _numbers(one: Audit) -> dict[str, Any]:
    """Medians and shares with their intervals."""
    found: dict[str, Any] = {"set": one.name, "order": one.order, "features": len(one), "tokens": one.tokens}
    found["firings"] = dict(zip(("fewest", "middle", "most"), _firings(one), strict=True))
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


__all__ = ["Asked", "Result", "audit", "table_rows"]
