"""The pictures of docs/figures.md, drawn from the records of a real run.

bilens demo --out runs/mnist
python docs/figures.py runs/mnist
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bilens import decompose, plots
from bilens.analyses import explore
from bilens.features import Explanation

FOLDER = Path(__file__).parent / "assets" / "figures"


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run of bilens demo")
    run = explore.read(parser.parse_args().run)
    sets = {found.name: found for found in run.features}
    digits, samples = sets["digits"], run.samples
    if samples is None or run.model is None:
        raise SystemExit("this run has no samples")
    spectrum = decompose.eigh(run.model.kernel(3))
    x, number = samples.inputs[0], int(samples.outputs[0].argmax())
    whole = decompose.eigh(run.model.kernel(number))
    order = whole.terms(x).abs().argsort(descending=True)[:6]
    top = whole.select(order)
    figures = {
        "gallery": plots.gallery(digits),
        "view": plots.view(sets["svd"], count=3),
        "spectrum": plots.spectrum(spectrum),
        "terms": plots.terms(Explanation(f"The logit of {number}", x, top, float(samples.outputs[0, number]))),
        "curves": plots.curves(run.all_curves, against="numbers"),
        "certificate": plots.certificate(run.all_curves[0]),
    }
    for name, figure in figures.items():
        plots.save(figure, FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
