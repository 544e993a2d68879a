"""Digit directions: the kernel of each output of the centred read-out, and its eigenvectors in pixel space."""

from __future__ import annotations

import functools

import torch

from bilens import decompose
from bilens.decompose import Spectrum
from bilens.faithfulness import Curve
from bilens.recipes.ways.details import detail
from bilens.recipes.ways.subject import Subject, kept
from bilens.store import Folder
from bilens.views import Detail, View


def digit_directions(subject: Subject, run: Folder) -> tuple[View, Detail, Curve | None]:
    """The kernel of each (centred) output and its eigenvectors; accuracy against eigenvectors kept for each output."""
    tensor = subject.logits

    kernels = [tensor.kernel(o) for o in range(tensor.output.size)]

    @functools.cache
    def spectra() -> tuple[Spectrum, ...]:
        return tuple(decompose.eigh(kernel) for kernel in kernels)

    def view() -> View:
        norms = torch.stack([spectrum.energy.sqrt() for spectrum in spectra()])
        effects = torch.eye(len(norms)).to(norms) - 1 / len(norms)
        stored = tuple(subject.spectrum(spectrum) for spectrum in spectra())
        return View("digits", stored, norms, "norm of the kernel, ‖Q‖", effects, tensor.output)

    def curve() -> Curve:
        images = subject.data.test.images
        whole, norms = tensor(images), tensor.input.lift(images).norm(dim=1)
        counts = kept(tensor.input.dim)
        terms = [spectrum.terms(images).cumsum(dim=1) for spectrum in spectra()]
        scores, errors, bounds = [], [], []
        for k in counts:
            logits = torch.stack([sums[:, k - 1] for sums in terms], dim=1)
            scores.append(subject.score(logits))
            errors.append(float((logits - whole).abs().max()))
            bounds.append(max(float(s.keep(k).bound(norms).max()) for s in spectra()))
        numbers = [len(kernels) * k * (tensor.input.dim + 1) for k in counts]  # k vectors with their values per output
        name = "eigenvectors kept for each output"
        return Curve.of(name, counts, scores, error=errors, bound=bounds, numbers=numbers)

    found = run.record("digits", View, view)
    more = run.record("digits_detail", Detail, lambda: detail(zip(kernels, spectra(), strict=True), subject.examined))
    return found, more, None if subject.dataset is None else run.record("digits_curve", Curve, curve)
