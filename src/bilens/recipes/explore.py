"""Reads a run's folder and writes the explorer: one offline page that shows everything the run found."""

from __future__ import annotations

import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from bilens import explorer, files, store
from bilens.decompose import TensorSVD
from bilens.errors import BilensError, StoreError
from bilens.explorer import Exploration, PageServer
from bilens.faithfulness import Curve, Row, Score
from bilens.history import History
from bilens.tensor import BilinearTensor
from bilens.views import CodeComparison, Detail, Samples, View

PAGE = "report.html"
"""The page's name in a run's folder."""

VIEWS = {"digits": "digits", "svd": "svd_view", "sae": "sae_view", "pairs": "pairs_view"}
"""The records of the views, by name, in the order shown."""

R = TypeVar("R")


def explore(
    run: Path,
    /,
    *,
    out: Path | None = None,
    compare: Path | None = None,
    seeds: tuple[Path, ...] = (),
    open: bool = False,
    serve: bool = False,
    port: int = 8765,
) -> None:
    """Write the explorer of a run: one page that needs no network and no server.

    Example: bilens explore runs/mnist --open

    Args:
        run: folder that bilens mnist or bilens decompile wrote.
        out: the page to write, a new file or over an older page; report.html in the run's folder by default.
        compare: folder of another run, whose features can then be looked at beside this one's.
        seeds: folders of the same run with other seeds; curves become means with 95 % intervals, at the numbers of
            components that all of them measured.
        open: show the page in the browser.
        serve: serve the page on this machine alone, at 127.0.0.1, until Ctrl-C.
        port: for --serve; 0 takes any that is free.
    """
    shown = read(run)
    _check_seeds(run, seeds)
    others = [curves(folder) for folder in seeds]
    runs = [replace(shown, repeats=others), *([] if compare is None else [read(compare)])]
    path = run / PAGE if out is None else out
    explorer.write(runs, path)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if serve:
        with PageServer(path, port) as server:
            console.print(f"serving {server.url} until Ctrl-C")
            if open:
                webbrowser.open(server.url)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                console.print("\nstopped")
    elif open:
        webbrowser.open(path.resolve().as_uri())
    console.print(f"page: {path}")


def read(run: Path) -> Exploration:
    """Everything that a run's folder holds for the page; parts that the run has not (yet) computed are left out.

    Raises:
        StoreError: it is not the folder of such a run, or one of its files is damaged.
    """
    _settings(run)
    summary = store.read_summary(run, "summary.json")
    views = {name: view for name, record in VIEWS.items() if (view := store.read_record(run, record, View)) is not None}
    details = {name: found for name in views if (found := store.read_record(run, f"{name}_detail", Detail)) is not None}
    model = store.read_record(run, "logits", BilinearTensor)
    try:
        return Exploration(
            title="A bilinear network, read from its weights",
            run=run.resolve().name,
            facts=_facts(summary),
            model=model,
            views=tuple(views.values()),
            details=details,
            samples=store.read_record(run, "samples", Samples),
            scores=tuple(_row(name, entry) for name, entry in summary.get("faithfulness", {}).items()),
            curves=curves(run),
            codes=store.read_record(run, "sae_codes", CodeComparison),
            svd=(svd := store.read_record(run, "svd", TensorSVD)),
            history=store.read_record(run, "training", History),
            notes=_notes(summary),
            totals=_totals(summary, svd),
            outputs="digits" if "digits" in views else None,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"folder {run} with files that do not fit together ({error})",
            "the folder of a run as bilens wrote it",
            "delete it and run the same command again",
        ) from error


def curves(run: Path) -> tuple[Curve, ...]:
    """The curves of a run's folder: scores against components kept, for each source of features.

    Raises:
        StoreError: it is not the folder of such a run, or one of its files is damaged.
    """
    _settings(run)
    found = (store.read_record(run, f"{name}_curve", Curve) for name in VIEWS)
    return tuple(curve for curve in found if curve is not None)


def _check_seeds(run: Path, seeds: tuple[Path, ...]) -> None:
    """Whether these are runs alike but for their seeds, or for the seeds of the weights that they were given."""
    settings = _settings(run)
    taken = {(settings.get("seed"), settings.get("weights")): run}
    for folder in seeds:
        other = _settings(folder)
        different = sorted(name for name in {*settings, *other} if _unseeded(settings, name) != _unseeded(other, name))
        if different:
            raise BilensError(
                f"--seeds {folder} with another {', '.join(different)} than {run}",
                "runs that differ in their seed alone",
                "leave it out, or look at it with --compare",
            )
        own = (other.get("seed"), other.get("weights"))
        if own in taken:
            raise BilensError(
                f"--seeds {folder} with seed {own[0]}, like {taken[own]}",
                "another seed in each folder",
                "leave it out, or run it with another --seed",
            )
        taken[own] = folder


def _unseeded(settings: dict[str, Any], name: str) -> Any:
    """One setting without the seed in it."""
    if name in ("seed", "weights"):
        return None
    value = settings.get(name)
    return {key: part for key, part in value.items() if key != "seed"} if isinstance(value, dict) else value


def _settings(run: Path) -> dict[str, Any]:
    known = run / "settings.json"
    if not known.exists():
        raise StoreError(
            f"{run}, which is not the folder of a run (it has no settings.json)",
            "a folder that bilens mnist or bilens decompile wrote",
            "name that folder, or make one: bilens mnist --out runs/mnist",
        )
    settings = files.read_json(known)
    if settings.get("command") not in ("mnist", "decompile"):
        raise StoreError(
            f"{run}, the folder of a run of {settings.get('command', 'something else')!r:.40}",
            "a folder that bilens mnist or bilens decompile wrote",
            "name that folder, or make one: bilens mnist --out runs/mnist",
        )
    for name, kinds in (("seed", int), ("weights", str | None), ("model", dict)):
        if not isinstance(settings.get(name), kinds):
            raise StoreError(
                f"{known} with {name} = {settings.get(name)!r:.40}",
                "the settings of a run as bilens wrote them",
                "write them back as they were, or run it again in another folder",
            )
    return settings


def _row(name: str, entry: dict[str, Any]) -> Row:
    """A row of the table of scores, from its JSON."""
    score = Score(entry["accuracy"], entry["cross_entropy"], entry["recovered"], entry.get("samples"))
    return Row(name, score, entry.get("numbers"), entry.get("kind", "view"), entry.get("beside"))


def _facts(summary: dict[str, Any]) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {}
    if "model" in summary:
        model = summary["model"]
        factored, dense = model["tensor_numbers_factored"], model["tensor_numbers_dense"]
        facts["layer"] = f"{model['inputs']:,} inputs → {model['hidden']:,} hidden → {model['outputs']:,} outputs"
        facts["parameters"] = f"{model['parameters']:,}"
        facts["tensor"] = f"{factored:,} numbers as factors; dense {dense / factored:,.0f} × as many, never built"
        if "test_accuracy" in model:
            facts["test accuracy"] = f"{model['test_accuracy']:.2%} of {summary['data']['test']:,} images"
    if "data" in summary:
        data = summary["data"]
        facts["data"] = f"{data['name']}: {data['train']:,} to train with, {data['test']:,} to test with"
    return facts


def _totals(summary: dict[str, Any], svd: TensorSVD | None) -> dict[str, int]:
    """How many features each view was chosen from: components above rounding, active features, features."""
    totals: dict[str, int] = {}
    if svd is not None:
        totals["svd"] = int((svd.values > svd.floor).sum())
    for name, count in (("sae", "active"), ("pairs", "features")):
        if name in summary:
            totals[name] = summary[name][count]
    return totals


def _notes(summary: dict[str, Any]) -> tuple[str, ...]:
    notes = []
    if not summary:
        notes.append("This run is not finished: run the same command again to add what is missing.")
    if "data" in summary:
        stated = all("samples" in entry for entry in summary.get("faithfulness", {}).values())
        notes.append(
            (f"Scores and curves are measured on all {summary['data']['test']:,} test images. " if stated else "")
            + "Cross-entropy recovered is 1 for the model itself and 0 for a uniform guess over the "
            + f"{summary['model']['outputs']} outputs."
        )
    if "sae" in summary:
        sae = summary["sae"]
        notes.append(
            f"SAE on outputs: {sae['features']:,} features, L0 {sae['l0']:.2f}, NMSE {sae['nmse']:.3f}, "
            f"{sae['active']} features active on more than {sae['active_threshold']:.1%} of the training images."
        )
    if "pairs" in summary:
        pairs = summary["pairs"]
        real, samples = pairs.get("output_nmse"), pairs.get("output_nmse_samples", "some")
        notes.append(
            f"SAE on input pairs: {pairs['pairs']:,} pair vectors, {pairs['features']:,} features, L0 "
            f"{pairs['l0']:.1f}, NMSE {pairs['nmse']:.3f}, {pairs['dead_fraction']:.0%} of the features never active."
            + (
                ""
                if real is None
                else f" Its reconstruction of the layer's outputs on {samples} test images: NMSE {real:.3f}."
            )
        )
    return tuple(notes)


__all__ = ["PAGE", "curves", "explore", "read"]
