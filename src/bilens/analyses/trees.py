"""Each output of a classifier of two layers as a tree of templates: roots that vote or veto, and what they look for."""

from __future__ import annotations

from dataclasses import replace

import torch

from bilens import decompose
from bilens.analyses._deep_subject import DeepSubject
from bilens.decompose import KernelTree
from bilens.faithfulness import Curve, Row
from bilens.features import OutputTree, TreeSet, singular
from bilens.progress import bar

ROOTS, LEAVES = 8, 16
"""Kept of each output and of each root. On two-layer MNIST these lose a third of a point."""

TEXT = (
    "Each {one} is a sum of roots, λ q², and each q a sum of leaves, μ (w·x)²: squared overlaps with templates. "
    "A root with λ > 0 votes for the {one} and one with λ < 0 vetoes it. Roots are taken so that their energies λ² add "
    "up to ‖T‖² of the {one}, and the μ² of each root's leaves to 1, in {metric}. "
    "A square does not see a sign: a root fires on −q as on q, so look at how q is distributed over the classes. "
    "The pictures here are the first leaves of the largest votes."
)
WORDS = {
    "Root": "λ q² of an output of two layers, the square of a quadratic form. With λ > 0 it is a vote, else a veto.",
    "Leaf": "μ (w·x)², one square of the form q of a root. The picture is M w, what an image that makes it large looks "
    "like; its sign means nothing, that of μ does.",
    "‖T‖, relative error": "The norm of the network's tree-symmetrised tensor: of the function and of how it is "
    "computed, in the metric that is named. The relative error is ‖T − T̂‖ / ‖T‖ of what is left out.",
}


def templates(subject: DeepSubject) -> TreeSet:
    """The trees of all outputs of a network of two layers, what they do on the test images, how faithful they are."""
    deep, classes, metric = subject.outputs, subject.output.size, subject.metric
    found, kept = [], []
    x, labels = (None, None) if subject.dataset is None else (subject.given, subject.labels)
    with bar("trees of templates", classes) as step:
        for place in range(classes):
            tree = decompose.kernel_tree(deep, place, roots=ROOTS, leaves=LEAVES, metric=metric)
            found.append(OutputTree.of(tree, subject.output.label(place), x=x, labels=labels, classes=classes))
            kept.append(tree)
            step()
    numbers = {
        "metric": subject.measured_in,
        "roots": ROOTS,
        "leaves": LEAVES,
        "relative_error": {tree.label: tree.error for tree in found},
        "share_of_first_root": {tree.label: float(tree.values[0] ** 2 / tree.energy) for tree in found},
    }
    curves: tuple[Curve, ...] = ()
    scores: tuple[Row, ...] = ()
    if subject.dataset is not None:
        curves, scores = measured(subject, kept)
    one = singular(subject.output.name)
    return TreeSet(
        tuple(found),
        deep.input,
        subject.output,
        subject.measured_in,
        len(subject.given),
        text=TEXT.format(one=one, metric=subject.measured_in),
        curves=curves,
        scores=scores,
        numbers=numbers,
        words=WORDS,
    )


def measured(subject: DeepSubject, trees: list[KernelTree]) -> tuple[tuple[Curve, ...], tuple[Row, ...]]:
    """The model through its trees, beside trees from the weights alone and beside the same leaves in other places."""
    with bar("the same trees from weights alone", len(trees)) as step:
        plain = []
        for place in range(len(trees)):
            plain.append(decompose.kernel_tree(subject.outputs, place, roots=ROOTS, leaves=LEAVES))
            step()
    ours = curve(subject, trees, f"roots kept for each output, {LEAVES} leaves each")
    rival = curve(subject, plain, "roots kept, trees from the weights alone", beside=ours.name)
    most = int(ours.kept[-1])
    row = ours.row(most)
    numbers = None if ours.numbers is None else int(ours.numbers[-1])
    return (ours, rival), (
        row,
        Row(
            "the same leaves, dealt out at random",
            curve(subject, dealt(trees), "").at(most),
            numbers,
            "null",
            row.name,
        ),
        Row(f"{most:,} {rival.name}", rival.at(most), numbers, "rival", row.name),
    )


def dealt(trees: list[KernelTree]) -> list[KernelTree]:
    """The trees with all of their λ and μ, and the templates of all of them dealt out at random."""
    readers = torch.cat([tree.readers.flatten(0, 1) for tree in trees])
    order = torch.randperm(len(readers), generator=torch.Generator().manual_seed(0)).to(readers.device)
    parts = torch.split(readers[order], [tree.leaf_values.numel() for tree in trees])
    return [replace(tree, readers=part.reshape(tree.readers.shape)) for tree, part in zip(trees, parts, strict=True)]


def curve(subject: DeepSubject, trees: list[KernelTree], name: str, beside: str | None = None) -> Curve:
    """Scores of the model through the first roots of each output."""
    votes = torch.stack([tree.contributions(subject.given).cumsum(dim=1) for tree in trees], dim=1)
    most = votes.shape[2]
    counts = [k for k in (1, 2, 3, 4, 5, 6) if k < most] + [most]
    scores = [subject.score(votes[:, :, k - 1].to(subject.outputs.layers[0].left.dtype)) for k in counts]
    leaves = max(tree.leaf_values.shape[1] for tree in trees)
    size = 1 + leaves * (subject.outputs.input.dim + 1)
    return Curve.of(name, counts, scores, numbers=[len(trees) * k * size for k in counts], beside=beside)
