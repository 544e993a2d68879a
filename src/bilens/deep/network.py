"""Several bilinear layers as one object: a tree of tensors, held as factors and never built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks, factors, shown
from bilens._internal import levels as chains
from bilens._internal.checks import instance, number, trusted
from bilens._internal.grams import Scaled, both, checked_metric, upward
from bilens._internal.levels import Balanced, Level
from bilens._internal.scale import fitted, times_two_to
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor


@dataclass(frozen=True, eq=False, repr=False)
class DeepTensor:
    """y = B_n(… B_1(x', x') …): a network of bilinear layers, with what runs around them, as one tensor T of 2ⁿ legs.

    Examples:
        >>> x, pair, y, e = Space("x", 2), Space("pair", 2), Space("y", 1), torch.eye(2)
        >>> squares = BilinearTensor(e, e, e, x, pair)  # x₀² and x₁²
        >>> product = BilinearTensor(e[:1], e[1:], e[:, :1], x, pair)  # x₀ x₁ and 0
        >>> times = BilinearTensor(e[:1], e[1:], e[:1, :1], pair, y)
        >>> square = BilinearTensor(e[:1], e[:1], e[:1, :1], pair, y)
        >>> one, other = DeepTensor.chain(squares, times), DeepTensor.chain(product, square)
        >>> one(torch.tensor([2.0, 3.0])), other(torch.tensor([2.0, 3.0]))  # (x₀²)(x₁²) and (x₀x₁)(x₀x₁)
        (tensor([36.]), tensor([36.]))
        >>> one.cosine(other)
        tensor(0.)

    **Tree-symmetrised.** Each layer's tensor is symmetric in its two legs, so T is symmetric under what exchanges the
    two subtrees of a node, and under nothing else: it depends on the function *and* on how the network computes it. The
    two networks of the example are one function with orthogonal trees. ‖S − S'‖ ≤ ‖T − T'‖ for the fully symmetrised S,
    so that near trees are near functions; far trees prove nothing. `full_inner` and `gaussian_inner` compare functions,
    at one and two layers.

    Bonds are numbered from 0, the input, to n, the outputs; a bond carries the constant coordinate, last, where a bias
    or a skip above needs it. Everything is computed on matrices of two bonds or two layers of hidden units, in float64.

    Args:
        layers: B_1 … B_n; the output space of each is the input space of the next without its constant coordinate.
        skips: for each layer a matrix S (o, i) over its input with the constant coordinate where it has one, so that
            y_l = B_l(y', y') + S y', or None. A residual connection is S = I.

    Raises:
        SpaceError, ShapeError: layers or skips that do not follow one another. BilensError: no layer, or types or
            devices that differ.

    Source: `docs/theory.md`, "Several layers"; the reduction is that of arXiv 2504.02667.
    """

    layers: tuple[BilinearTensor, ...]
    skips: tuple[Float[Tensor, "_ _"] | None, ...]

    def __post_init__(self) -> None:
        layers = tuple(checks.several("layers", self.layers, "a list of BilinearTensors", "pass (layer,)"))
        skips = tuple(checks.several("skips", self.skips, "a matrix or None for each layer", "pass (None,)"))
        _check_layers(layers)
        if len(skips) != len(layers):
            raise BilensError(f"{len(skips)} skips for {len(layers)} layers", "one for each layer, None for none")
        for place, (layer, skip) in enumerate(zip(layers, skips, strict=True)):
            if skip is not None:
                shape = (layer.output.dim, layer.input.dim)
                factors.check_factor(f"skip {place}", skip, shape, f"{layer.output.title} × {layer.input.title}")
                factors.check_alike(**{f"layer {place}": layer.left, f"skip {place}": skip})
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "skips", tuple(None if skip is None else checks.owned(skip) for skip in skips))

    @classmethod
    def chain(cls, *layers: BilinearTensor, residual: bool = False) -> DeepTensor:
        """The network of these layers, the first first, in the widest of their types.

        Args:
            layers: at least one; residual: whether each is added to what it reads, y_l = y_{l−1} + B_l(y', y').

        Raises: as the class. ShapeError: residual layers whose outputs are not as many as their inputs.
        """
        residual = checks.flag("residual", residual)
        _check_layers(layers, alike=False)
        work = layers[0].left.dtype
        for layer in layers:
            work = torch.promote_types(work, layer.left.dtype)
        skips: list[Tensor | None] = []
        for layer in layers:
            if residual and layer.output.size != layer.input.size:
                title = f"a residual layer {layer.input.title} → {layer.output.title}"
                raise ShapeError(title, "as many outputs as inputs")
            eye = torch.eye(layer.output.size, layer.input.dim, dtype=work, device=layer.left.device)
            skips.append(eye if residual else None)
        return trusted(cls, tuple(layer.to(work) for layer in layers), tuple(skips))

    @classmethod
    def from_levels(cls, levels: Sequence[Level], input: Space, output: Space, name: str) -> DeepTensor:
        """The network of these levels, without skips; the bonds between them are spaces "name 1", "name 2", ….

        Args:
            levels: factors whose bonds carry the constant themselves; input: the space of the first, with the constant
                coordinate where the levels read one; output: the space of the last.
        """
        levels = checks.several("levels", levels, "a list of levels", "take them with deep.levels()")
        instance("input", input, Space)
        instance("output", output, Space)
        layers, space = [], input
        for place, level in enumerate(levels):
            instance("a level", level, Level)
            last = place == len(levels) - 1
            after = output if last else Space(f"{name} {place + 1}", len(level.down))
            layers.append(BilinearTensor(level.left, level.right, level.down, space, after))
            space = after
        return cls(tuple(layers), (None,) * len(layers))

    def __repr__(self) -> str:
        """For example "DeepTensor('pixels' (784+1) → 'hidden 0' (128) → 'digits' (10), 2 layers, float32)"."""
        spaces = " → ".join([self.input.title, *(layer.output.title for layer in self.layers)])
        around = ", with skips" if any(skip is not None for skip in self.skips) else ""
        counted = f"{len(self.layers)} layer{'' if len(self.layers) == 1 else 's'}{around}"
        return f"DeepTensor({spaces}, {counted}, {shown.numbers(self.layers[0].left)})"

    @property
    def input(self) -> Space:
        """The space of x, with its constant coordinate where the network needs one: where any bond carries it."""
        space = self.layers[0].input
        return space.with_constant() if self._constants()[0] else space

    @property
    def output(self) -> Space:
        """The space of y."""
        return self.layers[-1].output

    @property
    def depth(self) -> int:
        """How many layers n; the tree has 2ⁿ leaves."""
        return len(self.layers)

    def bond(self, level: int) -> Space:
        """The space of bond 0, the input, to n, the outputs, with the constant coordinate where it carries one."""
        level = checks.whole("bond", level, 0, self.depth)
        if level == self.depth:
            return self.output
        space = self.input if level == 0 else self.layers[level - 1].output
        return space.with_constant() if self._constants()[level] else space

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n o"]:
        """y, in the network's type; x without the constant coordinate, one vector per row."""
        y = x
        for layer, skip in zip(self.layers, self.skips, strict=True):
            beside = None if skip is None else layer.input.fold(y, layer.left) @ skip.T
            y = layer(y) if beside is None else layer(y) + beside
        return y

    def inner(self, other: DeepTensor, *, metric: Float[Tensor, "i i"] | None = None) -> Float[Tensor, ""]:
        """⟨T, T'⟩ of the tree-symmetrised tensors (see the class), summed over outputs, from the factors.

        With a metric M = E[x'x'ᵀ] it is E[T(x_1, …, x_N)·T'(x_1, …, x_N)] over N = 2ⁿ *independent* inputs of that
        second moment; M = I, the default, needs no data. It is neither E[y·y'] nor the same for two networks of one
        function; for one layer it is `BilinearTensor.inner`.

        Args:
            other: a network of as many layers over the same input and output; metric: M, (i, i), over `input`.

        Cost: O(h²m) per layer. Floor: ‖T − T'‖ from inner products is known to 3e-8 ‖T‖; `(a − b).norm()` has no floor.

        Raises:
            SpaceError: other spaces. BilensError: another depth, no metric, or a product beyond the range of the type.
        """
        ours, theirs, metric = self.over_one_input(other, metric)
        return _fitted(*_inner(ours, theirs, metric), self._work(other), "an inner product")

    def norm(self, *, metric: Float[Tensor, "i i"] | None = None) -> Float[Tensor, ""]:
        """‖T‖ of the tree-symmetrised tensor, √⟨T, T⟩, in a metric of the input as `inner`.

        Norms in two metrics are not comparable: the norm of a function of degree N differs by up to N! between
        independent and equal inputs. Compare cosines.
        """
        ours, _, metric = self.over_one_input(self, metric)
        square, power = _inner(ours, ours, metric)
        root = torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)
        return _fitted(root, power // 2, self.layers[0].left.dtype, "a norm")  # the power is even

    def cosine(self, other: DeepTensor, *, metric: Float[Tensor, "i i"] | None = None) -> Float[Tensor, ""]:
        """⟨T, T'⟩ / (‖T‖ ‖T'‖) of the tree-symmetrised tensors, between −1 and 1; 0 when one of them is 0.

        A cosine near 1 hides much: √(1 − c²) is the relative difference that is left.
        """
        ours, theirs, metric = self.over_one_input(other, metric)
        theirs = ours if other is self else theirs
        pairs = ((ours, theirs), (ours, ours), (theirs, theirs))
        (both, a), (one, b), (two, c) = (_inner(*pair, metric) for pair in pairs)
        positive = (one > 0) & (two > 0)
        found = both / torch.where(positive, one * two, 1).sqrt() * 2.0 ** max(min(a - (b + c) // 2, 1000), -1000)
        return torch.where(positive, found.clamp(-1, 1), 0).to(self._work(other))

    def gram(self, level: int, *, metric: Float[Tensor, "i i"] | None = None) -> Float[Tensor, "m m"]:
        """G_l, inner products of the tree-symmetrised tensors of bond l's coordinates: what the layers below can say.

        Args:
            level: from 0, where it is the metric, to n; metric: as for `inner`.

        Returns:
            A matrix over `bond(l)`, in float64.
        """
        level = checks.whole("bond", level, 0, self.depth)
        chain, _, metric = self.over_one_input(self, metric)
        return _unbalanced(upward(chain.levels, chain.levels, metric)[level], chain.bonds[level], 0)

    def environment(self, level: int, *, metric: Float[Tensor, "i i"] | None = None) -> Float[Tensor, "m m"]:
        """E_l, how one of the 2^(n−l) copies of bond l is listened to by all that is above and beside it.

        Of the tree-symmetrised tensors (see the class): tr(E_l G_l) = ‖T‖² at every bond. E_0 is over the input: its
        largest eigenvectors are the directions that the network, or the difference of two, responds to most, and its
        diagonal is a picture.

        Args:
            level: from 0 to n, where it is I; metric: as for `inner`.

        Returns:
            A matrix over `bond(l)`, in float64.
        """
        level = checks.whole("bond", level, 0, self.depth)
        chain, _, metric = self.over_one_input(self, metric)
        found = both(chain.levels, metric, level)[1][0]
        return found.times(0) if level == self.depth else _unbalanced(found, -chain.bonds[level], 2 * chain.power)

    def __sub__(self, other: DeepTensor) -> DeepTensor:
        """T − T' as a network of y − y', in which equal parts cancel exactly: (a − a).norm() is 0.

        The tensors are tree-symmetrised (see the class): a norm of 0 says that the functions are equal, and equal
        functions in other trees leave a norm above 0. Where the weights are near (closer than half of their own size,
        layer by layer), each bond holds the difference of the two networks' bonds and the first one's, and every term a
        difference of weights, so that the norm of a small difference is right to its own size; hidden units are three
        times as many. Networks with nothing in common stand side by side, and the norm of their difference is right to
        about 3e-8 of theirs. No gradients.

        Raises: as `inner`.
        """
        self._require(other)
        lift = self.input.constant or other.input.constant
        work = self._work(other)
        ours, theirs = self.to(work).levels(lift), other.to(work).levels(lift)
        levels = (chains.difference if chains.aligned(ours, theirs) else chains.beside)(ours, theirs)
        input = self.input.with_constant() if lift else self.input
        return DeepTensor.from_levels(levels, input, self.output, "difference")

    def __mul__(self, factor: float) -> DeepTensor:
        """s·T for a number s."""
        scale = number("a factor", factor)
        last = None if self.skips[-1] is None else self.skips[-1] * scale
        return self._with_last(self.layers[-1] * scale, last)

    __rmul__ = __mul__

    def __neg__(self) -> DeepTensor:
        """−T."""
        return self * -1.0

    def then(self, matrix: Float[Tensor, "p o"], output: Space, *, detach: bool = True) -> DeepTensor:
        """The network followed by a linear map M, for example its read-out, folded into the last layer.

        Args:
            matrix: M, (p, o); output: the space of M y; detach: False keeps the graph of M.
        """
        last = self.layers[-1].then(matrix, output, detach=detach)
        skip = self.skips[-1]
        return self._with_last(last, None if skip is None else factors.given(matrix, skip, detach) @ skip)

    def shift(self, e: Float[Tensor, " o"], *, detach: bool = True) -> DeepTensor:
        """The network of y + e, the bias of a read-out."""
        last = self.layers[-1].shift(e, detach=detach)
        return self._with_last(last, _widened(self.skips[-1], last))

    def after(self, matrix: Float[Tensor, "e d"], input: Space, *, detach: bool = True) -> DeepTensor:
        """The network of E x: a linear map before the first layer, for example an embedding, folded into it.

        Args:
            matrix: E, (e, d), with e the size of the first layer's input; input: the space of x, without the constant
                coordinate, which E carries by itself; detach: False keeps the graph of E.

        Raises:
            ShapeError: a matrix of another shape.
        """
        instance("input", input, Space)
        first, space = self.layers[0], input.without_constant()
        shape = (first.input.size, space.size)
        factors.check_factor("matrix", matrix, shape, f"{first.input.title} × {space.title}")
        rows = factors.given(matrix, first.left, detach)
        if first.input.constant:
            rows, space = chains.diagonal(rows, rows.new_ones(1, 1)), space.with_constant()
        left, right = first.left @ rows, first.right @ rows
        for factor in (left, right):
            factors.check_range("a layer with its embedding", factor)
        layer = trusted(BilinearTensor, left, right, first.down, space, first.output)
        skip = None if self.skips[0] is None else self.skips[0] @ rows
        return trusted(DeepTensor, (layer, *self.layers[1:]), (skip, *self.skips[1:]))

    def centered(self) -> DeepTensor:
        """The network less its mean over outputs: the same softmax (`BilinearTensor.centered`).

        Do this before anything is compared or decomposed: the part that all logits share would come first.
        """
        skip = self.skips[-1]
        around = None if skip is None else skip - skip.mean(dim=0, keepdim=True)
        return self._with_last(self.layers[-1].centered(), around)

    def to(self, target: torch.dtype | torch.device | str) -> DeepTensor:
        """The same network in float32 or float64, or on another device."""
        skips = (None if skip is None else factors.moved("a skip", target, skip)[0] for skip in self.skips)
        return trusted(DeepTensor, tuple(layer.to(target) for layer in self.layers), tuple(skips))

    def levels(self, lift: bool = False) -> list[Level]:
        """The layers as factors between bonds that carry the constant coordinate themselves (`levels.Level`).

        Args:
            lift: whether the input has the constant coordinate even where nothing needs it.
        """
        constants = self._constants()
        constants[0] = checks.flag("lift", lift) or constants[0]
        found = []
        for place, (layer, skip) in enumerate(zip(self.layers, self.skips, strict=True)):
            below = constants[place]
            around = layer.fold() if below else layer
            beside = None if skip is None else _widened(skip, around)
            parts = around.left, around.right, around.down, beside
            found.append(chains.closed(*parts, below=below, above=constants[place + 1]))
        return found

    def _constants(self) -> list[bool]:
        """For every bond, whether it carries the constant coordinate."""
        found = [False]
        for layer, skip in zip(reversed(self.layers), reversed(self.skips), strict=True):
            found.append(found[-1] or layer.input.constant or skip is not None)
        return found[::-1]

    def _with_last(self, layer: BilinearTensor, skip: Tensor | None) -> DeepTensor:
        if skip is not None:
            factors.check_range("a skip", skip)
        return trusted(DeepTensor, (*self.layers[:-1], layer), (*self.skips[:-1], skip))

    def _require(self, other: DeepTensor) -> None:
        instance("the other one", other, DeepTensor)
        self.input.without_constant().require(other.input.without_constant(), "a network")
        self.output.require(other.output, "a network to output")
        if self.depth != other.depth:
            raise BilensError(f"networks of {self.depth} and {other.depth} layers", "as many layers in both")
        factors.check_together_on(self.layers[0].left, other.layers[0].left)

    def over_one_input(self, other: DeepTensor, metric: Tensor | None) -> tuple[Balanced, Balanced, Tensor | None]:
        """Both networks over one input, and the metric of it."""
        self._require(other)
        checks.in_memory("a network", self.layers[0].left, other.layers[0].left)
        input = self.input if self.input.constant else other.input
        metric = checked_metric(metric, input)
        ours = chains.balanced(self.levels(input.constant))
        return ours, ours if other is self else chains.balanced(other.levels(input.constant)), metric

    def _work(self, other: DeepTensor) -> torch.dtype:
        return torch.promote_types(self.layers[0].left.dtype, other.layers[0].left.dtype)


def _check_layers(layers: Sequence[BilinearTensor], *, alike: bool = True) -> None:
    if not layers:
        raise BilensError("no layer", "at least one")
    for place, layer in enumerate(layers):
        instance(f"layer {place}", layer, BilinearTensor)
        if place:
            before = layers[place - 1]
            layer.input.without_constant().require(before.output, f"layer {place - 1} to output")
            factors.check_together_on(before.left, layer.left)
            if alike:
                factors.check_alike(**{"layer 0": layers[0].left, f"layer {place}": layer.left})


def _widened(skip: Tensor | None, layer: BilinearTensor) -> Tensor | None:
    """A skip with a column of zeros for the constant coordinate that its layer has gained."""
    return None if skip is None else chains.padded(skip, len(skip), layer.input.dim)


def _inner(a: Balanced, b: Balanced, metric: Tensor | None) -> tuple[Tensor, int]:
    """⟨T, T'⟩ as a number and the power of two that it is multiplied by."""
    gram = upward(a.levels, b.levels, metric)[-1]
    return gram.matrix.trace(), gram.power + a.power + b.power


def _fitted(value: Tensor, power: int, dtype: torch.dtype, what: str) -> Tensor:
    return fitted(value, torch.tensor(power, device=value.device), dtype, what)


def _unbalanced(scaled: Scaled, exponents: Tensor, power: int) -> Tensor:
    """A matrix over a bond's own coordinates instead of the balanced ones."""
    own = exponents[:, None] + exponents + power + scaled.power
    matrix = times_two_to(scaled.matrix, own)
    factors.check_range("a Gram of a bond", matrix)
    return matrix
