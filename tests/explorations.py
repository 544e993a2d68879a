"""Explorations for the tests of the page: small ones with everything, without parts, and with hostile texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bilens import decompose
from bilens.decompose import Spectrum
from bilens.deep import DeepTensor
from bilens.explorer import Exploration
from bilens.faithfulness import Curve, Row, Score
from bilens.features import Chart, CodeComparison, FeatureSet, OutputTree, Samples, TreeSet, detail
from bilens.history import History
from bilens.kernel import Kernel
from bilens.space import Space
from bilens.tensor import BilinearTensor

EVIL = "</script><img src=x onerror=\"document.title='run'\"><!--'&{{ 7*7 }}<svg/onload=alert(1)>"
PIXELS = Space("pixels", 36, image=(6, 6), constant=True)
WORDS = Space("words", 12, ("red", EVIL, *(f"word {i}" for i in range(2, 12))))
WORDS_OF: dict[str, dict[str, str]] = {
    "digits": {"title": "Class directions", "tab": "Classes", "feature": "Class"},
    "svd": {"title": "SVD of the tensor", "tab": "SVD", "feature": "Component", "among": "components"},
    "sae": {"title": "Features of the outputs", "feature": "SAE feature", "among": "active features", "text": EVIL},
    "pairs": {"title": EVIL, "feature": "Pair feature"},
}
CLASSES = Space("classes", 4, ("cat", "dog", EVIL, "\x1b[31mfish"))


def make_tensor(space: Space, output: Space, hidden: int = 5, seed: int = 0) -> BilinearTensor:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    bias = draw(2, hidden) if space.constant else (None, None)
    return BilinearTensor.from_layer(
        draw(hidden, space.size) / space.size,
        draw(hidden, space.size),
        draw(output.size, hidden),
        left_bias=bias[0],
        right_bias=bias[1],
        input=space.without_constant(),
        output=output,
    )


def make_set(
    name: str, kernels: list[Kernel], output: Space, inputs: Tensor | None = None, kept: int = 32, **more: Any
) -> FeatureSet:
    whole = [decompose.eigh(kernel) for kernel in kernels]
    count = len(kernels)
    generator = torch.Generator().manual_seed(count)
    effects = torch.eye(count) - 1 / count if name == "digits" else torch.randn(count, output.dim, generator=generator)
    spectra = tuple(spectrum.keep(min(kept, len(spectrum))) for spectrum in whole)
    found = None if inputs is None else detail(zip(kernels, whole, strict=True), inputs)
    importance = torch.arange(count, 0, -1).float()
    return FeatureSet(name, spectra, importance, "norm of Q", effects, output, detail=found, **more)


def make_curve(name: str, shift: float = 0.0) -> Curve:
    share = torch.tensor([0.25, 0.75, 0.9375]) - shift
    kept = torch.tensor([1, 4, 12])
    numbers = 38 * kept if name == "eigenvectors" else None
    return Curve(name, kept, share, 1 - share, share, error=share, bound=1 + share, samples=40, numbers=numbers)


def whole(space: Space = PIXELS, seed: int = 0, samples: int = 40) -> Exploration:
    """A run with everything: labels and texts are hostile."""
    tensor = make_tensor(space, CLASSES, seed=seed).centered()
    other = make_tensor(space, Space("codes", 7), seed=seed + 1)
    logits = [tensor.kernel(o) for o in range(4)]
    codes = [replace(other.kernel(o), label=EVIL if o == 0 else str(o)) for o in range(7)]
    inputs = torch.rand(samples, space.size, generator=torch.Generator().manual_seed(seed))
    if space.image is not None:
        inputs = (inputs * 255).round() / 255
    svd = decompose.svd(other)
    chart = Chart("Singular values", "component", torch.arange(1.0, len(svd) + 1), ("σ", EVIL),
                  torch.stack([svd.values, svd.values.cumsum(0)], dim=1), note=EVIL, log=True, level=0.5)  # fmt: skip
    compared = CodeComparison(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.1, 0.9, 0.9]), 0.99, 12, 0.01, 9, 40)
    sets = (
        make_set("digits", logits, CLASSES, inputs, **WORDS_OF["digits"], curves=(make_curve("eigenvectors"),),
                 scores=(Row(EVIL, Score(0.5, 1.2, None, 40)),), notes=(EVIL,)),
        make_set("svd", codes, CLASSES, inputs, **WORDS_OF["svd"], total=7, charts={"singular-values": chart},
                 curves=(make_curve(EVIL),)),
        make_set("sae", codes[:2], CLASSES, inputs, **WORDS_OF["sae"], total=1234, codes={"codes": compared},
                 words={"Norm of Q": EVIL}),
        make_set("pairs", codes[2:], CLASSES, inputs, **WORDS_OF["pairs"]),
    )  # fmt: skip
    numbers = torch.arange(samples)
    shown = Samples(inputs, numbers, tensor(inputs), numbers % 4, space.without_constant(), CLASSES)
    return Exploration(
        title=f"A small model {EVIL}",
        run=EVIL,
        facts={"hidden units": 5, "accuracy": "97.8 %", EVIL: EVIL},
        model=tensor,
        logits=True,
        features=sets,
        samples=shown,
        scores=(
            Row("the model itself", Score(0.9781, 0.0712, 1.0, 40), 390, "model"),
            Row("never trained", Score(0.75, 1.1, 0.5, 40), 152, "null", beside=EVIL),
        ),
        history=History(("loss", EVIL), torch.tensor([0, 10]), torch.tensor([[2.0, 0.5], [1.0, 0.25]])),
        notes=("Trained on nothing.", EVIL),
    )


def deep(seed: int = 0, samples: int = 40) -> Exploration:
    """A network of two layers with biases, as trees of templates, with hostile texts."""
    hidden = Space("hidden", 6)
    first = make_tensor(PIXELS, hidden, seed=seed)
    second = make_tensor(Space("hidden", 6, constant=True), CLASSES, seed=seed + 1)
    network = DeepTensor.chain(first, second).centered()
    inputs = (torch.rand(samples, 36, generator=torch.Generator().manual_seed(seed)) * 255).round() / 255
    numbers = torch.arange(samples)
    trees = tuple(
        OutputTree.of(decompose.kernel_tree(network, o, roots=3, leaves=8), CLASSES.label(o),
                      x=inputs, labels=numbers % 4, classes=4)
        for o in range(4)
    )  # fmt: skip
    rows = (Row("trees", Score(0.5, 1.2, None, samples)), Row(EVIL, Score(0.1, 2.2, None, samples), 9, "null", "trees"))
    found = TreeSet(trees, network.input, CLASSES, EVIL, samples, title="Trees", text=EVIL, notes=(EVIL,), scores=rows,
                    curves=(make_curve("roots"),), words={"Root": EVIL})  # fmt: skip
    shown = Samples(inputs, numbers, network(inputs), numbers % 4, network.input.without_constant(), CLASSES)
    return Exploration(title=EVIL, run="deep", model=network, logits=True, trees=found, samples=shown)


def parts_missing() -> dict[str, Exploration]:
    """Runs as they come from weights alone, from an older version, or from a job that was stopped."""
    full = whole()
    words = whole(WORDS)
    sets = full.features
    bare = tuple(replace(each, detail=None, spectra=tuple(s.keep(2) for s in each.spectra)) for each in sets)
    unmeasured = tuple(replace(each, curves=(), scores=(), codes={}) for each in sets)
    zero = torch.zeros(1)
    dead = Spectrum(zero, torch.eye(37)[:1], zero, zero[0], zero[0], PIXELS, "dead")
    one = replace(sets[1], spectra=(dead,), importance=zero, effects=torch.zeros(1, 4), detail=None)
    nothing = replace(one, name="sae", spectra=(), importance=zero[:0], effects=torch.zeros(0, 4), curves=())
    return {
        "nothing": Exploration(title="Nothing yet"),
        "no samples": replace(full, samples=None, features=unmeasured, scores=full.scores[:1]),
        "no sae": replace(full, features=sets[:2]),
        "no labels": replace(full, samples=replace(full.samples, labels=None)) if full.samples else full,
        "no details": replace(full, features=bare),
        "no model": replace(full, model=None),
        "no outputs' view": replace(full, features=sets[1:], scores=full.scores[:1]),
        "words": words,
        "dead and empty": replace(full, features=(one, nothing), scores=full.scores[:1]),
    }


def speaking(run: Exploration) -> Exploration:
    """Two features over ten digits: one speaks most against an output, the other for one alone."""
    effects = torch.zeros(2, 10)
    effects[0, [7, 5, 4]] = torch.tensor([0.20, 0.17, -0.46])
    effects[1, 3] = 1.0
    spectra = run.features[1].spectra[1:3]
    found = FeatureSet("speaking", spectra, torch.tensor([2.0, 1.0]), "σ", effects, Space("digits", 10))
    return Exploration(title="Speaking", features=(found,), logits=True)


def named() -> Exploration:
    """A model of one's own over named measurements, with a view of its outputs that has a name of its own."""
    kinds = Space("kinds", 3, ("oak", "elm", "ash"))
    space = Space("measurements", 12, tuple(f"leaf width {i}" for i in range(12)))
    tensor = make_tensor(space, kinds, hidden=9).centered()
    kernels = [tensor.kernel(o) for o in range(3)]
    x = torch.rand(20, 12, generator=torch.Generator().manual_seed(0))
    found = make_set("kinds", kernels, kinds, x, title="Kind directions", tab="Kinds", feature="Kind")
    return Exploration(
        title="Twelve measurements",
        model=tensor,
        features=(replace(found, effects=torch.eye(3) - 1 / 3), make_set("more", kernels[:2], kinds, x)),
        samples=Samples(x, torch.arange(20), tensor(x), None, space, kinds),
    )


def unbiased() -> Exploration:
    """A layer without biases over a space with the constant coordinate, in which it has no part."""
    tensor = make_tensor(PIXELS.without_constant(), CLASSES).fold()
    found = make_set("svd", [tensor.kernel(o) for o in range(4)], CLASSES, **WORDS_OF["svd"])
    return Exploration(title="No biases", features=(found,))
