"""The headline: how much of the model is left when it runs through each way of reading its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from bilens import plots
from bilens.measurement import Measurement
from bilens.recipes.programme import digit_directions, output_sae, pair_sae, tensor_svd
from bilens.statistics import interval

CAPTION = (
    "The model (1,000 hidden units) run through each way of reading its features: points of test accuracy lost, and "
    "cross-entropy recovered, 0 for a uniform guess and 100 for the model: each seed, mean and 95 % interval."
)


def rows(measured: Mapping[str, Sequence[Measurement]]) -> dict[str, tuple[list[float], list[float]]]:
    """Accuracy lost and cross-entropy recovered of each way, one number a seed, of the recipes that were measured."""
    found: dict[str, tuple[list[float], list[float]]] = {}

    def add(name: str, lost: list[float], recovered: list[float]) -> None:
        found[name] = (lost, recovered)

    digits, svd = measured.get("digits", ()), measured.get("svd", ())
    widest = _widest(digits)
    for k in (10, 20):
        if digits:
            points = [_at(seed, f"{digit_directions.ORDERS[0]}, {widest}", k) for seed in digits]
            own = [seed[f"accuracy, {widest}"] for seed in digits]
            add(
                f"{k} eigenvectors for each digit",
                [whole - accuracy for whole, (accuracy, _) in zip(own, points, strict=True)],
                [recovered for _, recovered in points],
            )
    for k in (20, 50):
        if svd and k in svd[0].curve(tensor_svd.FOUNDING).kept:
            points = [_at(seed, tensor_svd.FOUNDING, k) for seed in svd]
            add(
                f"{k} SVD components",
                [seed[f"drop at {k}, {tensor_svd.FOUNDING}"] for seed in svd],
                [recovered for _, recovered in points],
            )
    outputs = measured.get("outputs", ())
    main = output_sae.MAIN
    if outputs and all(f"pseudoinverse accuracy, {main}" in seed.names for seed in outputs):
        for code, text in (("ReLU", "ReLU codes"), ("pseudoinverse", "pseudoinverse")):
            add(
                f"SAE on outputs, {text}",
                [seed["accuracy of the model"] - seed[f"{code} accuracy, {main}"] for seed in outputs],
                [seed[f"{code} recovered from ln 10, {main}"] for seed in outputs],
            )
    pairs = measured.get("pairs", ())
    if pairs:
        main = pair_sae.MAIN
        add(
            "SAE on input pairs, no data seen",
            [seed[f"accuracy lost, {main}"] for seed in pairs],
            [seed[f"recovered, {main}"] for seed in pairs],
        )
    return found


def table(measured: Mapping[str, Sequence[Measurement]]) -> list[str]:
    """The headline as a Markdown table, one string a line; empty where nothing of it was measured."""
    found = rows(measured)
    if not found:
        return []
    lines = ["| the model runs through | accuracy lost, points | cross-entropy recovered |", "|---|---|---|"]
    for name, (lost, recovered) in found.items():
        said = interval(lost).text(".2f", 100), interval(recovered).text(".2f", 100)
        lines.append(f"| {name} | {said[0]} | {said[1]} % |")
    return lines


def figure(measured: Mapping[str, Sequence[Measurement]]) -> Figure | None:
    """The headline as a figure; None where nothing of it was measured."""
    found = rows(measured)
    if not found:
        return None
    panels = {
        "accuracy lost, points": {name: [100 * value for value in lost] for name, (lost, _) in found.items()},
        "cross-entropy recovered, %": {name: [100 * value for value in kept] for name, (_, kept) in found.items()},
    }
    return plots.dots(panels, "", shared=False)


def _widest(digits: Sequence[Measurement]) -> str:
    """The text that names the widest layer in the numbers of digit directions."""
    widths = [
        int(name.rsplit("= ", 1)[1]) for name in (digits[0].names if digits else ()) if name.startswith("accuracy, h")
    ]
    return f"h = {max(widths, default=0)}"


def _at(seed: Measurement, name: str, k: int) -> tuple[float, float]:
    """Accuracy and cross-entropy recovered of a curve's point that keeps k, or keeps the most below k."""
    curve = seed.curve(name)
    place = int((curve.kept <= k).nonzero()[-1])
    recovered = 0.0 if curve.recovered is None else float(curve.recovered[place])
    return float(curve.accuracy[place]), recovered
