"""Reads a run's folder and writes the explorer: one offline page that shows everything the run found."""

from __future__ import annotations

import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bilens import explorer, store
from bilens._internal import files
from bilens.analyses._page import PAGE, exploration
from bilens.deep import DeepTensor
from bilens.errors import BilensError, StoreError
from bilens.explorer import Exploration
from bilens.faithfulness import Curve
from bilens.features import FeatureSet, Samples, TreeSet
from bilens.history import History
from bilens.tensor import BilinearTensor


def explore(
    run: Path,
    /,
    *,
    out: Path | None = None,
    compare: Path | None = None,
    seeds: tuple[Path, ...] = (),
    open: bool = False,
) -> None:
    """Write the explorer of a run: one page that needs no network and no server.

    Example: bilens explore runs/mnist --open

    Args:
        run: folder that bilens demo or bilens read wrote.
        out: the page to write, a new file or over an older page; report.html in the run's folder by default.
        compare: folder of another run, whose features can then be looked at beside this one's.
        seeds: folders of the same run with other seeds; curves become means with 95 % intervals, at the numbers of
            components that all of them measured.
        open: show the page in the browser.
    """
    shown = read(run)
    _check_seeds(run, seeds)
    others = [curves(folder) for folder in seeds]
    runs = [replace(shown, repeats=others), *([] if compare is None else [read(compare)])]
    path = run / PAGE if out is None else out
    explorer.write(runs, path)
    if open:
        webbrowser.open(path.resolve().as_uri())
    Console(markup=False, highlight=False, soft_wrap=True).print(f"page: {path}")


def read(run: Path) -> Exploration:
    """Everything that a run's folder holds for the page; parts that the run has not (yet) computed are left out.

    Raises:
        StoreError: it is not the folder of such a run, or one of its files is damaged.
    """
    _settings(run)
    store.verify(run)
    summary = store.read_summary(run, "summary.json")
    sets = store.read_records(run, "features", FeatureSet)
    factors = store.read_record(run, "logits", BilinearTensor) or store.read_record(run, "network", DeepTensor)
    trees = store.read_record(run, "trees", TreeSet)
    samples = store.read_record(run, "samples", Samples)
    training = store.read_record(run, "training", History)
    try:
        return exploration(run, summary, sets, factors=factors, samples=samples, training=training, trees=trees)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"folder {run} with files that do not fit together ({error})",
            "the folder of a run as bilens wrote it",
            "delete it and run the same command again",
        ) from error


def curves(run: Path) -> tuple[Curve, ...]:
    """The curves of a run's folder: scores against components kept, for each set of features, in their order.

    Raises:
        StoreError: it is not the folder of such a run, or one of its files is damaged.
    """
    _settings(run)
    sets = sorted(store.read_records(run, "features", FeatureSet), key=lambda found: found.order)
    return tuple(curve for found in sets for curve in found.curves)


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
                "runs that differ only in their seed",
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
            "a folder that bilens demo or bilens read wrote",
            "name that folder, or make one: bilens demo --out runs/mnist",
        )
    settings = files.read_json(known)
    if settings.get("command") not in ("demo", "read"):
        raise StoreError(
            f"{run}, the folder of a run of {settings.get('command', 'something else')!r:.40}",
            "a folder that bilens demo or bilens read wrote",
            "name that folder, or make one: bilens demo --out runs/mnist",
        )
    if settings.get("kind") == "language":
        raise StoreError(
            f"{run}, the folder of layers of a language model",
            "that of an image classifier",
            "run the same bilens read command again to write its pages anew, or compare two with bilens compare",
        )
    for name, kinds in (("seed", int), ("weights", str | None), ("model", dict)):
        if not isinstance(settings.get(name), kinds):
            raise StoreError(
                f"{known} with {name} = {settings.get(name)!r:.40}",
                "the settings of a run as bilens wrote them",
                "write them back as they were, or run it again in another folder",
            )
    return settings


__all__ = ["PAGE", "curves", "explore", "read"]
