"""SVD of the layer's tensor before the read-out: features ordered by what the weights alone call large."""

from __future__ import annotations

import functools
from dataclasses import replace

from bilens import decompose
from bilens.decompose import Spectrum, TensorSVD
from bilens.errors import BilensError
from bilens.faithfulness import Curve
from bilens.recipes.ways.details import detail
from bilens.recipes.ways.subject import Subject, kept
from bilens.store import Folder
from bilens.tensor import Kernel
from bilens.views import Detail, View


def singular_values(subject: Subject, run: Folder) -> tuple[View, Detail, TensorSVD, Curve | None]:
    """The layer's SVD before the read-out, its right kernels' eigenvectors, and accuracy against components kept."""
    tensor = subject.hidden
    found = run.record("svd", TensorSVD, lambda: decompose.svd(tensor))

    solid = found.values[found.values > found.floor]
    if not len(solid):
        raise BilensError("a layer whose tensor is 0", "weights that are not all 0", "train the model first")
    count = min(subject.budget.count, len(solid))

    @functools.cache
    def decomposed() -> tuple[tuple[Kernel, Spectrum], ...]:
        return tuple((found.kernel(s), decompose.eigh(found.kernel(s))) for s in range(count))

    def view() -> View:
        found_spectra = (subject.spectrum(spectrum) for _, spectrum in decomposed())
        spectra = tuple(replace(spectrum, label=str(s)) for s, spectrum in enumerate(found_spectra, 1))
        effects = found.outputs[:count] @ subject.readout.T
        return View("svd", spectra, found.values[:count], "singular value, σ", effects, subject.logits.output)

    def curve() -> Curve:
        outputs, images = subject.test_outputs, subject.data.test.images
        whole, norms = subject.read(outputs), tensor.input.lift(images).norm(dim=1)
        reach = subject.model.readout.weight.detach().norm(dim=1).max()
        counts = kept(len(found))
        scores, errors, bounds = [], [], []
        for k in counts:
            directions = found.outputs[:k]
            logits = subject.read((outputs @ directions.T) @ directions)
            scores.append(subject.score(logits))
            errors.append(float((logits - whole).abs().max()))
            bounds.append(float((reach * found.bound(k, norms)).max()))
        # The factors stay, with an output direction and its effects for each component.
        factors, each = tensor.left.numel() + tensor.right.numel(), tensor.output.size + subject.logits.output.size
        numbers = [factors + k * each for k in counts]
        return Curve.of("SVD components kept", counts, scores, error=errors, bound=bounds, numbers=numbers)

    features = run.record("svd_view", View, view)
    more = run.record("svd_detail", Detail, lambda: detail(decomposed(), subject.examined))
    return features, more, found, None if subject.dataset is None else run.record("svd_curve", Curve, curve)
