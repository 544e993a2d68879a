"""Truth tables read from the weights of toy layers trained on Boolean functions, with inputs in superposition too."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from bilens import matching
from bilens.dictionary import Dictionary
from bilens.kernel import Kernel, KernelParts
from bilens.models import ImageClassifier
from bilens.space import Space
from bilens.tensor import BilinearTensor
from reproduction import charts
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement

FUNCTIONS = {"AND": (0, 0, 0, 1), "OR": (0, 1, 1, 1), "XOR": (0, 1, 1, 0), "XNOR": (1, 0, 0, 1)}
"""Truth tables, in the order 00, 01, 10, 11."""

SHARES = {"half of the inputs on": 0.5, "an eighth of the inputs on": 0.125}
"""How often an input is 1, each on its own."""

_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True, eq=False)
class Task:
    """Each function of each pair of n inputs.

    Args:
        inputs: (2ⁿ, n), all of them; pairs: the two inputs of each output; tables: (o, 4), what each output should be.
        targets: (2ⁿ, o), the outputs of all inputs; output: their space, one label an output.
    """

    inputs: Float[Tensor, "s n"]
    pairs: tuple[tuple[int, int], ...]
    tables: Float[Tensor, "o 4"]
    targets: Float[Tensor, "s o"]
    output: Space

    @classmethod
    def of(cls, n: int) -> Task:
        """The task of n inputs, 4 · n(n−1)/2 outputs."""
        inputs = torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)
        outputs = list(itertools.product(itertools.combinations(range(n), 2), FUNCTIONS))
        tables = torch.tensor([FUNCTIONS[function] for _, function in outputs], dtype=torch.float64)
        pairs = tuple(pair for pair, _ in outputs)
        rows = [table[(2 * inputs[:, i] + inputs[:, j]).long()] for (i, j), table in zip(pairs, tables, strict=True)]
        labels = tuple(f"{function} of {i} and {j}" for (i, j), function in outputs)
        return cls(inputs, pairs, tables, torch.stack(rows, dim=1), Space("functions", len(labels), labels))

    def chances(self, share: float) -> Float[Tensor, " s"]:
        """How likely each input is when every coordinate is 1 with this chance, on its own."""
        return (self.inputs * share + (1 - self.inputs) * (1 - share)).prod(dim=1)


def multilinear(split: KernelParts) -> KernelParts:
    """The same function of Boolean inputs without squares: the diagonal of the quadratic part joins the linear part.

    On {0, 1}, x² = x, so that Σ_k Q_kk x_k² = Σ_k Q_kk x_k: mass moves between diagonal and linear part, and no output
    changes. Without squares the coefficients are unique, and the mean output over independent inputs is the output of
    their means.
    """
    diagonal = split.quadratic.diagonal()
    return KernelParts(split.quadratic - diagonal.diag(), split.linear + diagonal, split.constant)


def truth_table(split: KernelParts, pair: tuple[int, int], others: float) -> Float[Tensor, " 4"]:
    """The outputs where the inputs of a pair are 00, 01, 10 and 11, and every other input has the same value."""
    points = split.linear.new_full((4, len(split.linear)), others)
    points[:, list(pair)] = points.new_tensor(_CORNERS)
    return ((points @ split.quadratic) * points).sum(dim=1) + points @ split.linear + split.constant


def strongest_pair(split: KernelParts) -> tuple[int, int]:
    """The two inputs with the largest interaction |Q_ij|, i < j."""
    n = len(split.linear)
    i, j = divmod(int(split.quadratic.abs().triu(1).argmax()), n)
    return i, j


def train(
    task: Task, embedding: Float[Tensor, "n d"], share: float, *, hidden: int, steps: int, seed: int
) -> BilinearTensor:
    """The tensor over the n inputs of a layer that sees only their d embedded coordinates.

    It is trained on the mean squared error where every input is 1 with chance `share`. Biases are folded, and the
    tensor is pulled back through the embedding.
    """
    d = embedding.shape[1]
    model = ImageClassifier(
        Space("coordinates", d), task.output, hidden, bias=True, readout_bias=True, seed=seed
    ).double()
    seen, chances = task.inputs @ embedding, task.chances(share)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = chances @ (model(seen) - task.targets).square().mean(dim=1)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return model.tensor().pullback(Dictionary.from_atoms(embedding, Space("coordinates", d)))


def best(task: Task, embedding: Float[Tensor, "n d"], share: float) -> list[KernelParts]:
    """What no quadratic layer beats in squared error: least squares over all quadratic forms, pulled back."""
    n, d = embedding.shape
    seen = torch.cat([task.inputs @ embedding, torch.ones(len(task.inputs), 1).double()], dim=1)
    rows, columns = torch.triu_indices(d + 1, d + 1)
    weights = task.chances(share).sqrt()[:, None]
    terms = seen[:, rows] * seen[:, columns]
    found = torch.linalg.lstsq(weights * terms, weights * task.targets, driver="gelsd").solution
    lifted = embedding.new_zeros(n + 1, d + 1)
    lifted[:n, :d], lifted[n, d] = embedding, 1
    space = Space("inputs", n, constant=True)
    splits = []
    for values in found.T:
        form = values.new_zeros(d + 1, d + 1)
        form[rows, columns] = values
        splits.append(Kernel.from_matrix(lifted @ form @ lifted.T, space).parts())
    return splits


def splits(tensor: BilinearTensor) -> list[KernelParts]:
    """Quadratic, linear and constant part of each output's kernel."""
    return [tensor.kernel(output).parts() for output in range(tensor.output.size)]


def recovered(task: Task, found: Sequence[KernelParts], others: float) -> tuple[float, Float[Tensor, " 4"]]:
    """The share of outputs whose pair and whole truth table are right, and of right entries at 00, 01, 10 and 11.

    An entry is read as 1 above ½; the inputs that are not of the pair have the value `others`.
    """
    tables = torch.stack([truth_table(split, pair, others) for split, pair in zip(found, task.pairs, strict=True)])
    right = (tables > 0.5) == (task.tables > 0.5)
    pairs = torch.tensor([strongest_pair(split) == pair for split, pair in zip(found, task.pairs, strict=True)])
    return float((right.all(dim=1) & pairs).double().mean()), right.double().mean(dim=0)


def _coefficients(task: Task, found: Sequence[KernelParts]) -> dict[str, float]:
    """Mean coefficients of 1, x, x² and xy over the outputs of each function."""
    numbers = {}
    for place, function in enumerate(FUNCTIONS):
        values = []
        for split, (i, j) in list(zip(found, task.pairs, strict=True))[place :: len(FUNCTIONS)]:
            linear, square = split.linear[[i, j]].mean(), split.quadratic.diagonal()[[i, j]].mean()
            values.append(torch.stack([split.constant, linear, square, 2 * split.quadratic[i, j]]))
        for term, value in zip(_TERMS, torch.stack(values).mean(dim=0).tolist(), strict=True):
            numbers[f"{function}, {term}"] = value
    return numbers


_TERMS = ("1", "x", "x²", "xy")


def _linear_error(task: Task, found: Sequence[KernelParts]) -> float:
    """Root of the mean squared error of the linear parts; the true ones are f(1, 0) − f(0, 0) and f(0, 1) − f(0, 0)."""
    errors = []
    for split, (i, j), table in zip(found, task.pairs, task.tables, strict=True):
        true = torch.zeros_like(split.linear)
        true[i], true[j] = table[2] - table[0], table[1] - table[0]
        errors.append((split.linear - true).square())
    return float(torch.stack(errors).mean().sqrt())


def _folded(found: Sequence[KernelParts]) -> Float[Tensor, "o k"]:
    """The kernels over [x; 1] as rows, of parts that were split."""
    rows = []
    for split in found:
        half = split.linear[:, None] / 2
        top, bottom = torch.cat([split.quadratic, half], 1), torch.cat([half.T, split.constant.reshape(1, 1)], 1)
        rows.append(torch.cat([top, bottom]).flatten())
    return torch.stack(rows)


def measure(lab: Lab, seed: int) -> Measurement:
    """Truth tables from the weights of one layer that sees its inputs, and of those that see them in superposition."""
    task, hidden, steps = Task.of(lab.size(8, 5)), lab.size(64, 24), lab.size(1000, 600)
    n = task.inputs.shape[1]
    plain = torch.eye(n, dtype=torch.float64)
    tensor = train(task, plain, 0.5, hidden=hidden, steps=steps, seed=seed)
    other = train(task, plain, 0.5, hidden=hidden, steps=steps, seed=seed + 1000)
    raw = splits(tensor)
    folded = [multilinear(split) for split in raw]
    without = [KernelParts(split.quadratic - split.quadratic.diagonal().diag(), *split[1:]) for split in raw]
    theirs = _folded([multilinear(split) for split in splits(other)])
    ours = _folded(folded)
    cosines = torch.nn.functional.cosine_similarity(ours, theirs, dim=1)
    halves = torch.full((1, n), 0.5, dtype=torch.float64)
    moved = [abs(float(_value(a, halves) - _value(b, halves))) for a, b in zip(raw, folded, strict=True)]
    changed = [
        float((_value(a, task.inputs) - _value(b, task.inputs)).abs().max()) for a, b in zip(raw, folded, strict=True)
    ]
    diagonal = torch.stack([split.quadratic.diagonal().square().sum() for split in raw]).sum()
    energy = torch.stack([split.quadratic.square().sum() for split in raw]).sum()
    numbers = {
        "inputs": float(n),
        "largest error of an output": float((tensor(task.inputs) - task.targets).abs().max()),
        "recovered": recovered(task, folded, 0.0)[0],
        "recovered without the diagonal": recovered(task, without, 0.0)[0],
        "error of the linear part, as trained": _linear_error(task, raw),
        "error of the linear part, folded": _linear_error(task, folded),
        "share of the diagonal": float(diagonal / energy),
        "change on Boolean inputs": max(changed),
        "change at ½": max(moved),
        "cosine with another seed, as trained": float(matching.kernel_cosines(tensor, other).diagonal().mean()),
        "cosine with another seed, folded": float(cosines.mean()),
        **{f"{name}, as trained": value for name, value in _coefficients(task, raw).items()},
        **{f"{name}, folded": value for name, value in _coefficients(task, folded).items()},
    }
    for d in dimensions(n):
        embedding = superposed(n, d, seed)
        for name, share in SHARES.items():
            found = splits(train(task, embedding, share, hidden=hidden, steps=steps, seed=seed))
            for what, parts in (("trained", found), ("least squares", best(task, embedding, share))):
                whole, entries = recovered(task, [multilinear(split) for split in parts], share)
                numbers[f"recovered, {d}, {name}, {what}"] = whole
                numbers[f"entries 11, {d}, {name}, {what}"] = float(entries[3])
                numbers[f"other entries, {d}, {name}, {what}"] = float(entries[:3].mean())
    return Measurement.of(numbers)


def dimensions(n: int) -> range:
    """How many dimensions n inputs are embedded in."""
    return range(max(2, n - 5), n + 1)


def superposed(n: int, d: int, seed: int) -> Float[Tensor, "n d"]:
    """Random unit vectors that n inputs are embedded by in d dimensions."""
    drawn = torch.randn(n, d, generator=torch.Generator().manual_seed(1000 * seed + d), dtype=torch.float64)
    unit: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    return unit


def _value(split: KernelParts, x: Float[Tensor, "s n"]) -> Float[Tensor, " s"]:
    return ((x @ split.quadratic) * x).sum(dim=1) + x @ split.linear + split.constant


def claims(measured: Measurement) -> Sequence[Claim]:
    """Recovery from weights with and without folding the diagonal, and in superposition."""
    n = int(measured["inputs"])
    kept, out = "diagonal folded into the linear part", "diagonal left out"
    read, error = "functions read right from the weights alone", "root mean squared error of the linear parts"
    changed, cosine = (
        "largest change of an output by folding the diagonal",
        "cosine of one function's kernels in two seeds",
    )
    table = [
        Claim("largest error of an output over all Boolean inputs", "largest error of an output", form=".1e"),
        Claim(f"{read}, {kept}", "recovered", "–", ".1f", 100, " %"),
        Claim(f"{read}, {out}", "recovered without the diagonal", "–", ".1f", 100, " %"),
        Claim(f"{error}, as trained", "error of the linear part, as trained"),
        Claim(f"{error}, {kept}", "error of the linear part, folded", form=".1e"),
        Claim("share of the diagonal in the squared quadratic parts", "share of the diagonal", "–", ".1f", 100, " %"),
        Claim(f"{changed}, inputs 0 and 1", "change on Boolean inputs", form=".1e"),
        Claim(f"{changed}, every input ½", "change at ½"),
        Claim(f"{cosine}, as trained", "cosine with another seed, as trained"),
        Claim(f"{cosine}, {kept}", "cosine with another seed, folded", form=".4f"),
    ]
    for name in SHARES:
        for d in dimensions(n):
            text = f"{read}, {n} inputs in {d} dimensions, {name}"
            table.append(Claim(text, f"recovered, {d}, {name}, trained", "–", ".1f", 100, " %"))
    return table


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """Coefficients before and after folding, and recovery against the number of dimensions."""
    n = int(seeds[0]["inputs"])
    names = [f"{function}, {term}" for function in FUNCTIONS for term in _TERMS]
    coefficients = {
        title: {name: [seed[f"{name}, {title}"] for seed in seeds] for name in names}
        for title in ("as trained", "folded")
    }
    superposed = {
        f"{what}, {name.partition(' of')[0]} on": {
            f"{d} dimensions": [100 * seed[f"recovered, {d}, {name}, {what}"] for seed in seeds] for d in dimensions(n)
        }
        for name in SHARES
        for what in ("trained", "least squares")
    }
    return {
        "boolean-coefficients": (
            charts.dots(coefficients, "coefficient, mean over the outputs of a function", line=0),
            "Coefficients of 1, x, x² and xy read from the weights, before and after the diagonal is folded into the "
            "linear part: each seed, mean and 95 % interval.",
        ),
        "boolean-superposition": (
            charts.dots(superposed, "functions recovered, %"),
            f"Functions of {n} inputs whose pair and whole truth table are read from the weights, against the "
            "dimensions that the inputs are embedded in: each seed, mean and 95 % interval. Least squares is the "
            "quadratic form of smallest squared error, which training cannot beat. An entry is read as 1 above ½, "
            "with all "
            "other inputs at their mean.",
        ),
    }


RECIPE = Recipe(
    "boolean",
    "Boolean functions and superposition",
    lambda lab: (
        f"AND, OR, XOR and XNOR of every pair of {lab.size(8, 5)} inputs, bilinear layer with h = {lab.size(64, 24)}, "
        f"biases and a linear read-out, all inputs at once, squared error, Adam, lr 0.03, cosine schedule, "
        f"{lab.size(1000, 600)} steps; superposition by random unit vectors in d dimensions."
    ),
    measure,
    claims,
    figures,
)
