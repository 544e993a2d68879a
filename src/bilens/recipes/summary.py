"""What a run of the main job found: numbers, figures and the page, written from its records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from bilens import explorer, plots
from bilens.decompose import TensorSVD
from bilens.faithfulness import Curve, Row
from bilens.history import History
from bilens.recipes import explore
from bilens.recipes.ways.inputs import OUTPUT_SAMPLES, PAIRS, PairFeatures
from bilens.recipes.ways.outputs import OutputFeatures
from bilens.recipes.ways.subject import Subject
from bilens.store import Folder
from bilens.views import Detail, View


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that the four ways gave.

    Args:
        subject: the model and its images.
        digits: the kernels of the outputs, more of each, and accuracy against eigenvectors kept.
        components: the SVD's features, more of each, the SVD, and accuracy against components kept.
        outputs: the SAE on outputs; None without images. pairs: the SAE on input pairs.
        training: how the model was trained, where that is known.
    """

    subject: Subject
    digits: tuple[View, Detail, Curve | None]
    components: tuple[View, Detail, TensorSVD, Curve | None]
    outputs: OutputFeatures | None
    pairs: PairFeatures
    training: History | None

    @property
    def views(self) -> tuple[View, ...]:
        """The four views, in the order of the founding draft."""
        sae = () if self.outputs is None else (self.outputs.view,)
        return (self.digits[0], *sae, self.components[0], self.pairs.view)

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The curves of what the weights alone give, where they were measured."""
        return tuple(curve for curve in (self.digits[2], self.components[3]) if curve is not None)

    @property
    def details(self) -> tuple[Detail, ...]:
        """More of the features of every view."""
        sae = () if self.outputs is None else (self.outputs.detail,)
        return (self.digits[1], *sae, self.components[1], self.pairs.detail)

    @property
    def scores(self) -> tuple[Row, ...]:
        """How faithful the model is when it is replaced by each view; empty without images."""
        if self.subject.dataset is None:
            return ()
        rows = [Row("the model itself", self.subject.original, self.subject.numbers, "model")]
        for curve, counts in zip(self.curves, ((10, 20), (20, 50)), strict=True):
            rows += [curve.row(k) for k in counts if k in curve.kept.tolist()]
        if self.outputs is not None:
            count, rank = self.outputs.comparison.features, self.outputs.comparison.rank
            name = f"SAE on outputs, pseudoinverse codes of {count} active features (rank {rank})"
            rows += [Row("SAE on outputs, ReLU codes", self.outputs.trained, self.outputs.stored)]
            rows += [replace(self.outputs.curve.row(count), name=name, score=self.outputs.pseudoinverse)]
        if self.pairs.curve is not None:
            rows.append(replace(self.pairs.curve.row(int(self.pairs.curve.kept[-1])), name=PAIRS))
            rows += self.pairs.nulls
            components, k = self.curves[1], self.subject.budget.pair_k
            if k in components.kept.tolist():  # as many components as a pair may have codes
                rows.append(replace(components.row(k), kind="rival", beside=PAIRS))
        return tuple(rows)


def columns(curve: Curve) -> dict[str, Any]:
    """The number of samples and the columns that a curve has, as JSON."""
    return {"samples": curve.samples} | {
        column: getattr(curve, column).tolist()
        for column in ("kept", "numbers", "accuracy", "cross_entropy", "recovered", "error", "bound")
        if getattr(curve, column) is not None
    }


def entry(row: Row) -> dict[str, Any]:
    """A row as JSON, but for its name."""
    about = {"kind": row.kind, "beside": row.beside, "numbers": row.numbers}
    return vars(row.score) | {name: value for name, value in about.items() if value is not None}


def numbers(found: Findings, run: Folder) -> dict[str, Any]:
    """Every number of a run, as JSON."""
    subject, dataset = found.subject, found.subject.dataset
    tensor, svd = subject.hidden, found.components[2]
    summary: dict[str, Any] = {
        "model": {
            "inputs": tensor.input.size,
            "hidden": subject.model.config["hidden"],
            "outputs": subject.model.output.size,
            "parameters": sum(value.numel() for value in subject.model.parameters()),
            "tensor_numbers_factored": tensor.numel,
            "tensor_numbers_dense": tensor.dense_numel,
        },
        "digits": {
            "norms": dict(
                zip([s.label for s in found.digits[0].spectra], found.digits[0].importance.tolist(), strict=True)
            ),
        },
        "svd": {"singular_values": svd.values[:50].tolist(), "floor": float(svd.floor)},
        "pairs": {
            "pairs": found.pairs.evaluation.rows,
            "features": len(found.pairs.evaluation.frequency),
            "l0": found.pairs.evaluation.l0,
            "nmse": found.pairs.evaluation.nmse,
            "explained_variance": found.pairs.evaluation.explained_variance,
            "dead_fraction": found.pairs.evaluation.dead_fraction,
        },
    }
    if dataset is not None:
        summary["data"] = {
            "name": dataset.name,
            "source": dataset.source,
            "train": len(dataset.train.labels),
            "test": len(dataset.test.labels),
        }
        summary["model"] |= {
            "test_accuracy": subject.original.accuracy,
            "test_cross_entropy": subject.original.cross_entropy,
        }
        summary["faithfulness"] = {row.name: entry(row) for row in found.scores}
        summary["faithfulness_baseline"] = f"ln {subject.model.output.size}: a uniform guess"
        for name, curve in zip(("digits", "svd"), found.curves, strict=True):
            summary[name]["curve"] = columns(curve)
        if found.pairs.curve is not None:
            summary["pairs"]["curve"] = columns(found.pairs.curve)
        summary["pairs"]["output_nmse"] = found.pairs.output_nmse
        summary["pairs"]["output_nmse_samples"] = min(OUTPUT_SAMPLES, len(dataset.test.labels))
    if found.outputs is not None:
        evaluation, comparison = found.outputs.evaluation, found.outputs.comparison
        summary["sae"] = {
            "features": len(evaluation.frequency),
            "l0": evaluation.l0,
            "samples": evaluation.rows,
            "nmse": evaluation.nmse,
            "explained_variance": evaluation.explained_variance,
            "dead_fraction": evaluation.dead_fraction,
            "active": comparison.features,
            "active_threshold": comparison.threshold,
            "active_rank": comparison.rank,
            "code_correlation": comparison.correlation,
            "code_samples": comparison.samples,
            "curve": columns(found.outputs.curve),
        }
    summary["seconds"] = run.timings
    return summary


def write(found: Findings, run: Folder) -> dict[str, Any]:
    """Write `summary.json`, `figures/` and `report.html`, print the summary, and return it."""
    summary = numbers(found, run)
    run.write("summary.json", summary)
    _figures(found, run)
    explorer.write([explore.read(run.path)], run.path / explore.PAGE)
    _print(found, summary, run)
    return summary


def _figures(found: Findings, run: Folder) -> None:
    folder = run.path / "figures"
    for view in found.views:
        plots.save(plots.view(view), folder / f"{view.name}.svg")
    for spectrum in found.digits[0].spectra:
        number = found.digits[0].spectra.index(spectrum)
        plots.save(plots.spectrum(spectrum), folder / f"digits-{number}.svg")
    plots.save(plots.gallery(found.digits[0]), folder / "gallery.svg")
    plots.save(plots.singular_values(found.components[2]), folder / "singular-values.svg")
    plots.save(plots.effects(found.pairs.view), folder / "pairs-effects.svg")
    if found.curves:
        plots.save(plots.curves(found.curves), folder / "accuracy.svg")
        if all(curve.recovered is not None for curve in found.curves):
            plots.save(plots.curves(found.curves, "recovered"), folder / "recovered.svg")
            counted = [curve for curve in found.curves if curve.numbers is not None]
            if counted:
                plots.save(plots.curves(counted, "recovered", against="numbers"), folder / "numbers.svg")
        for name, curve in zip(("digits", "svd"), found.curves, strict=True):
            plots.save(plots.certificate(curve), folder / f"{name}-certificate.svg")
    if found.outputs is not None:
        plots.save(plots.codes(found.outputs.comparison), folder / "codes.svg")
    if found.training is not None:
        plots.save(plots.history(found.training), folder / "training.svg")


def _print(found: Findings, summary: dict[str, Any], run: Folder) -> None:
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if found.subject.dataset is not None:
        data = summary["data"]
        sizes = f"{data['train']:,} training and {data['test']:,} test images"
        console.print(f"{data['name']}: {sizes}, from {data['source']}")
        console.print(f"On {len(found.subject.data.test.labels):,} test images, the model replaced by:")
        console.print(f"{'accuracy':>9} {'CE recovered':>13}  {'numbers stored':>14}")
        for row in found.scores:
            recovered = "–" if row.score.recovered is None else f"{row.score.recovered:.2%}"
            stored = "–" if row.numbers is None else f"{row.numbers:,}"
            mark = "" if row.beside is None else f"  ({row.kind})"
            console.print(f"{row.score.accuracy:>9.2%} {recovered:>13}  {stored:>14}  {row.name}{mark}")
    pairs = summary["pairs"]
    console.print(
        f"SAE on input pairs: L0 {pairs['l0']:.1f}, NMSE {pairs['nmse']:.3f} on pairs"
        + ("" if pairs.get("output_nmse") is None else f", {pairs['output_nmse']:.3f} on outputs")
    )
    if "sae" in summary:
        sae = summary["sae"]
        console.print(f"SAE on outputs: L0 {sae['l0']:.2f}, NMSE {sae['nmse']:.3f}, {sae['active']} active features")
    console.print(f"numbers: {run.path / 'summary.json'}")
    console.print(f"page:    {run.path / explore.PAGE}")
