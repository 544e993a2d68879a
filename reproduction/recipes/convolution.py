"""A bilinear convolution with a linear read-out, read on its filters and never unfolded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor, nn

from bilens import decompose, files, pairs, sae
from bilens.convolution import ConvTensor
from bilens.data import Dataset, Split
from bilens.faithfulness import Curve, Score, score, whole
from bilens.pair_coding import coded, drawn_pairs, mean_pair, nearest, random_directions, refit, through
from bilens.progress import bar
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement

KEPT = (1, 2, 5, 10, 20, 40)
"""Eigenvectors of each class that are kept."""

FILTER, STRIDE = 5, 2

FEATURES, ACTIVE = 64, 4
"""Of the SAEs on the channels of a position and on the pairs of a patch: in all, and in each code."""

CHANNELS = ("SAE", "random directions", "principal components")
"""What stands for the channels of each position: the SAE, its null and its rival, in the table."""

PAIRS = ("SAE", "random directions", "pairs drawn at random", "singular components")
"""What stands for the pairs of a patch."""


class Model(nn.Module):
    """logits = M [(W ∗ x + b) ⊙ (V ∗ x + c)]: two convolutions, their product, and a linear read-out."""

    def __init__(self, image: tuple[int, int], channels: int, classes: int, seed: int) -> None:
        super().__init__()
        self.image = image
        self.left, self.right = (nn.Conv2d(1, channels, FILTER, STRIDE) for _ in range(2))
        height, width = ((size - FILTER) // STRIDE + 1 for size in image)
        self.readout = nn.Linear(channels * height * width, classes, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                fan = weight[0].numel() if weight.ndim > 1 else 1
                weight.normal_(0, fan**-0.5 if name.endswith("weight") else 0.1, generator=generator)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n o"]:
        """Logits, one row per image."""
        image = x.reshape(-1, 1, *self.image)
        logits: Tensor = self.readout((self.left(image) * self.right(image)).flatten(1))
        return logits

    def tensor(self, data: Dataset) -> ConvTensor:
        """The same function as a tensor, in float64, the softmax gauge centred."""
        parts = {name: weight.detach().double() for name, weight in self.named_parameters()}
        conv = ConvTensor.from_filters(
            parts["left.weight"],
            parts["right.weight"],
            image=self.image,
            stride=STRIDE,
            left_bias=parts["left.bias"],
            right_bias=parts["right.bias"],
        )
        readout = parts["readout.weight"]
        return conv.then(readout - readout.mean(dim=0), data.output)


def trained(lab: Lab, seed: int) -> Model:
    """A trained model: read from the folder, or trained and kept there."""
    data = lab.dataset()
    image = data.input.image or (1, data.input.size)
    model = Model(image, lab.size(16, 4), data.output.size, seed)
    epochs = lab.size(3, 2)
    path = lab.run.path / "models" / f"{data.name}-{len(data.train)}-convolution-{epochs}-{seed}.safetensors"
    if path.exists():
        model.load_state_dict(files.read_tensors(path)[0])
        return model.requires_grad_(False)
    train: Split = data.train
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    size = 100
    steps = epochs * (len(train) // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with bar(f"training a convolution, seed {seed}", steps) as step:
        for _ in range(epochs):
            order = torch.randperm(len(train), generator=generator)[: len(train) // size * size]
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                images = train.images[rows] + 0.3 * torch.randn(size, data.input.size, generator=generator)
                loss = nn.functional.cross_entropy(model(images), train.labels[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                step(1)
    files.write_tensors(path, model.state_dict())
    return model.requires_grad_(False)


def measure(lab: Lab, seed: int) -> Measurement:
    """Exactness, eigenvectors of the classes by Lanczos, singular values of the outputs, beside random directions."""
    data = lab.dataset()
    model = trained(lab, seed)
    tensor = model.tensor(data)
    test = data.test
    images, labels = test.images.double(), test.labels
    parts = [slice(start, start + 1000) for start in range(0, len(images), 1000)]
    logits = torch.cat([tensor(images[part]) for part in parts])
    own = torch.cat([model(test.images[part]) for part in parts]).double()
    one, original = tensor.kernel(0), whole(logits, labels)
    formed = decompose.eigh(one.unfolded(), KEPT[0])
    most = min(KEPT[-1], tensor.input.dim)
    spectra = [decompose.eigh_conv(tensor.kernel(o), most) for o in range(tensor.output.dim)]
    norms = tensor.input.fold(images).norm(dim=1)
    numbers = {
        "accuracy": float((logits.argmax(dim=1) == labels).double().mean()),
        "error of a logit": float((logits - own + own.mean(dim=1, keepdim=True)).abs().max()),
        "largest logit": float(logits.abs().max()),
        "error of the first eigenvalue": float(
            (spectra[0].values[0] - formed.values[0]).abs() / formed.values[0].abs()
        ),
        "error of the norm": float((one.norm() / one.unfolded().norm() - 1).abs()),
        "numbers": float(tensor.patch.numel + (0 if tensor.readout is None else tensor.readout.numel())),
        "numbers unfolded": float(2 * tensor.patch.hidden * tensor.geometry.positions * tensor.input.dim),
    }
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Score]] = {"eigenvectors": [], "random directions": []}
    random = torch.linalg.qr(torch.randn(tensor.input.dim, most, generator=generator, dtype=torch.float64))[0].T
    folded = tensor.input.fold(images)
    weights = [(tensor.kernel(o).matvec(random) * random).sum(dim=1) for o in range(tensor.output.dim)]
    for k in [k for k in KEPT if k <= most]:
        views = {
            "eigenvectors": torch.stack([spectrum.keep(k).reconstruct(images) for spectrum in spectra], dim=1),
            "random directions": torch.stack([(folded @ random[:k].T).square() @ w[:k] for w in weights], dim=1),
        }
        for name, view in views.items():
            found[name].append(score(view, labels, original))
            numbers[f"accuracy, {k} {name}"] = float((view.argmax(dim=1) == labels).double().mean())
        off = (views["eigenvectors"] - logits).abs()
        bounds = torch.stack([spectrum.keep(k).bound(norms) for spectrum in spectra], dim=1)
        numbers[f"error over certificate, {k}"] = float((off / bounds).max())
        numbers[f"certificates violated, {k}"] = float((off > bounds).sum())
    values, directions = decompose.svd_conv(tensor)
    energy = values.square().cumsum(dim=0) / values.square().sum()
    for s in (1, 3, 5, 9):
        if s <= len(values):
            view = logits @ directions[:s].T @ directions[:s]
            numbers[f"energy of {s} singular values"] = float(energy[s - 1])
            numbers[f"accuracy, {s} singular values"] = float((view.argmax(dim=1) == labels).double().mean())
    numbers |= _channels(lab, tensor, data, seed) | _pairs(lab, tensor, data, seed)
    curves = [Curve.of(name, [k for k in KEPT if k <= most], scores) for name, scores in found.items()]
    return Measurement.of(numbers, curves)


def _right(tensor: ConvTensor, data: Dataset, maps: Callable[[Tensor], Tensor]) -> float:
    """Accuracy with other channels, (n·p, c) from images, in the place of the layer's own."""
    assert tensor.readout is not None
    readout = tensor.readout.float()
    right = 0
    for part in torch.split(torch.arange(len(data.test)), 1000):
        found = maps(data.test.images[part]).reshape(len(part), -1, tensor.patch.output.size)
        logits = found.transpose(1, 2).flatten(1) @ readout.T
        right += int((logits.argmax(dim=1) == data.test.labels[part]).sum())
    return right / len(data.test)


def _patches(tensor: ConvTensor, images: Float[Tensor, "n d"]) -> Float[Tensor, "m t"]:
    """The patches of images, one per row, with the constant coordinate."""
    height, width = tensor.geometry.image
    found = nn.functional.unfold(images.view(len(images), 1, height, width), FILTER, stride=STRIDE)
    rows: Tensor = tensor.patch.input.fold(found.transpose(1, 2).flatten(0, 1))
    return rows


def _channels(lab: Lab, tensor: ConvTensor, data: Dataset, seed: int) -> dict[str, float]:
    """Accuracy with the channels of each position in a few features: of an SAE, drawn at random, or components."""
    patch = tensor.patch.to(torch.float32)
    rows = patch(_patches(tensor, data.train.images[: lab.size(2000, 100)])[:, :-1])
    coder = sae.TopKSAE(patch.output.size, FEATURES, k=ACTIVE, seed=seed)
    stream = sae.TensorStream(rows, batch_size=1024, seed=seed)
    sae.train(coder, stream, steps=lab.size(2000, 40), title=f"SAE on channels, seed {seed}")
    mean = rows.mean(dim=0)
    axes: Tensor = torch.linalg.svd(rows[:100_000] - mean, full_matrices=False)[2][:ACTIVE]
    atoms = {
        "SAE": (nn.functional.normalize(coder.W_dec.detach().cpu(), dim=1), coder.b_dec.detach().cpu()),
        "random directions": (random_directions(len(mean), FEATURES, seed), mean),
    }

    def view(name: str) -> Callable[[Tensor], Tensor]:
        def maps(images: Tensor) -> Tensor:
            own = patch(_patches(tensor, images)[:, :-1])
            if name == "principal components":
                kept: Tensor = mean + (own - mean) @ axes.T @ axes
                return kept
            each, offset = atoms[name]
            chosen, products = nearest(own - offset, each, ACTIVE)
            codes, _ = refit(each.double() @ each.double().T, chosen, products)
            return offset + torch.einsum("nk,nkc->nc", codes, each[chosen])

        return maps

    return {f"accuracy, channels, {name}": _right(tensor, data, view(name)) for name in CHANNELS}


def _pairs(lab: Lab, tensor: ConvTensor, data: Dataset, seed: int) -> dict[str, float]:
    """Accuracy with the vector of every pair of a patch in a few atoms, or in a few singular components."""
    patch = tensor.patch.to(torch.float32)
    coder = sae.TopKSAE(patch.output.size, FEATURES, k=ACTIVE, seed=seed)
    stream = pairs.stream(patch, batch_size=256, seed=seed)
    sae.train(coder, stream, steps=lab.size(2000, 40), title=f"SAE on the pairs of a patch, seed {seed}")
    mean = mean_pair(patch)
    given = {
        "SAE": (nn.functional.normalize(coder.W_dec.detach().cpu(), dim=1), coder.b_dec.detach().cpu()),
        "random directions": (random_directions(len(mean), FEATURES, seed), mean),
        "pairs drawn at random": (drawn_pairs(patch, FEATURES, seed, mean), mean),
    }
    found, energy = coded(patch, list(given.values()), [[ACTIVE]] * len(given))
    values = {name: each.values(each.atoms, each.offset) for name, (each,) in zip(given, found, strict=True)}
    axes = decompose.svd(patch, k=ACTIVE).outputs

    def view(name: str) -> Callable[[Tensor], Tensor]:
        if name == "singular components":
            return lambda images: patch(_patches(tensor, images)[:, :-1]) @ axes.T @ axes
        return lambda images: through(_patches(tensor, images), values[name])

    errors = {f"error of pairs, {name}": each.error / energy for name, (each,) in zip(given, found, strict=True)}
    return {f"accuracy, pairs, {name}": _right(tensor, data, view(name)) for name in PAIRS} | errors


def claims(measured: Measurement) -> Sequence[Claim]:
    """Exactness, and accuracy against what is kept."""
    table = [
        Claim("accuracy of the model, %", "accuracy", form=".2f", scale=100),
        Claim("largest |tensor − model| over all logits of the test images, the model in float32", "error of a logit",
              form=".1e"),
        Claim("largest |logit|, for comparison", "largest logit", form=".1f"),
        Claim("first eigenvalue by Lanczos against the unfolded kernel, relative", "error of the first eigenvalue",
              form=".1e"),
        Claim("norm by autocorrelations against the unfolded kernel, relative", "error of the norm", form=".1e"),
        Claim("numbers held", "numbers", form=",.0f"),
        Claim("numbers of the unfolded layer", "numbers unfolded", form=",.0f"),
    ]  # fmt: skip
    for k in KEPT:
        if f"accuracy, {k} eigenvectors" in measured.names:
            table += [
                Claim(f"accuracy with {k} eigenvectors per class, %", f"accuracy, {k} eigenvectors", scale=100),
                Claim(f"accuracy with {k} random directions, %", f"accuracy, {k} random directions", scale=100),
                Claim(f"certificates of {k} eigenvectors violated", f"certificates violated, {k}", form=".0f"),
            ]
    for s in (1, 3, 5, 9):
        if f"energy of {s} singular values" in measured.names:
            table += [
                Claim(f"energy of the first {s} singular values, %", f"energy of {s} singular values", form=".1f",
                      scale=100),
                Claim(f"accuracy with the first {s} output directions, %", f"accuracy, {s} singular values", scale=100),
            ]  # fmt: skip
    of_features = f"{ACTIVE} of {FEATURES}"
    others = {"principal components": f"{ACTIVE} principal components of channels",
              "singular components": f"{ACTIVE} singular components of the patch tensor"}  # fmt: skip
    for kind, names, said in (
        ("channels", CHANNELS, "the channels of each position"),
        ("pairs", PAIRS, "each pair of a patch"),
    ):
        for name in names:
            words = others.get(name, f"{said} in {of_features} features: {name}")
            table.append(Claim(f"accuracy, %, {words}", f"accuracy, {kind}, {name}", scale=100))
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Accuracy against eigenvectors kept."""
    groups = {name: [seed.curve(name) for seed in seeds] for name in ("eigenvectors", "random directions")}
    return {
        "convolution-accuracy": (
            charts.bands(groups, x="directions kept per class"),
            "Accuracy of a bilinear convolution with its classes replaced by the terms of a few eigenvectors, found by "
            "Lanczos on convolutions, and of as many random directions: mean and 95 % interval over seeds.",
        )
    }


RECIPE = Recipe(
    "convolution",
    "A bilinear convolution",
    lambda lab: (
        f"{lab.size(16, 4)} filters of {FILTER}×{FILTER}, stride {STRIDE}, biases, a linear read-out; "
        f"{lab.size(3, 2)} epochs, AdamW, lr 2e-3, weight decay 0.1, Gaussian noise 0.3; "
        f"{len(lab.dataset().test.labels):,} test images."
    ),
    measure,
    claims,
    figures,
)
