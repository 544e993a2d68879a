"""The third-order tensor of a bilinear layer, and its kernels, held as factors and never built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import checks
from bilens.checks import instance, number, trusted
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.scale import NONE, Units, fitted, times_two_to, tracked, units
from bilens.space import Space

DENSE_LIMIT = 2**30
"""Bytes of the largest dense tensor that `to_dense` builds by default: 1 GiB."""

GRAM_ROWS = 256
"""Rows of one layer's hidden Gram at a time: fewer save more of the half above the diagonal, more are faster."""


@dataclass(frozen=True, eq=False, repr=False)
class BilinearTensor:
    """B_oij = ½ Σ_h D_oh (L_hi R_hj + R_hi L_hj): symmetric in i and j, with y = B(x, x).

    It holds 2·h·i + o·h numbers instead of o·i². Biases live in the last column of L and R when `input.constant` is
    true. Every operation returns a new tensor.

    The factors are copied and detached, so that training on does not change the tensor; those of half precision become
    float32. Only `from_layer`, `from_linear` and the `.tensor()` of a layer or model keep the graph, when they are
    called with `detach=False`. Gradients then flow through every method that returns a tensor, a kernel or a number.

    Args:
        left: L, (h, i), with i = `input.dim`.
        right: R, (h, i).
        down: D, (o, h), with o = `output.dim`.
        input: space of x; `output`: space of y.

    Raises:
        ShapeError: the factors do not fit together. BilensError: NaN or infinity, types or devices that differ, or
            factors that are not dense floating-point tensors in memory.

    Source: founding draft, "The bilinear tensor"; arXiv 2410.08417, section 3.
    """

    left: Float[Tensor, "h i"]
    right: Float[Tensor, "h i"]
    down: Float[Tensor, "o h"]
    input: Space
    output: Space

    def __post_init__(self) -> None:
        _check_tensor(self.left, self.right, self.down, self.input, self.output)
        _own(self, "left", "right", "down")

    @classmethod
    def from_layer(
        cls,
        left: Float[Tensor, "h d"],
        right: Float[Tensor, "h d"],
        down: Float[Tensor, "o h"] | None = None,
        *,
        left_bias: Float[Tensor, " h"] | None = None,
        right_bias: Float[Tensor, " h"] | None = None,
        down_bias: Float[Tensor, " o"] | None = None,
        input: Space,
        output: Space,
        detach: bool = True,
    ) -> BilinearTensor:
        """The tensor of y = D[(W x + b) ⊙ (V x + c)] + e, its biases folded.

        x' = [x; 1], L = [W, b], R = [V, c]; e is one more hidden unit with left = right = e_const. The input space
        gains its constant coordinate when there is a bias or when it has one already.

        Args:
            left: W, (h, d); right: V, (h, d); down: D, (o, h), the identity when None. All of one type.
            left_bias, right_bias: b and c, (h,), 0 when None; down_bias: e, (o,). Converted to the type of W.
            input: space of x (size d); output: space of y.
            detach: False keeps the graph of the weights, so that a loss of the tensor trains the layer.

        Raises: as the class.
        """
        instance("input", input, Space)
        detach = checks.flag("detach", detach)
        _check_matrix("left", left, "(hidden, input)")
        _check_matrix("right", right, "(hidden, input)")
        if down is None:
            down = torch.eye(len(left), dtype=left.dtype, device=left.device)
        _check_tensor(left, right, down, input.without_constant(), output)
        left, right, down = (checks.owned(factor, detach=detach) for factor in (left, right, down))
        if input.constant or left_bias is not None or right_bias is not None:
            input = input.with_constant()
            left = _with_column("left_bias", left, left_bias, detach)
            right = _with_column("right_bias", right, right_bias, detach)
        tensor = trusted(cls, left, right, down, input, output)
        return tensor if down_bias is None else tensor._shifted("down_bias", down_bias, detach)

    @classmethod
    def from_linear(
        cls, matrix: Float[Tensor, "o d"], *, input: Space, output: Space, detach: bool = True
    ) -> BilinearTensor:
        """The linear map y = M x as a tensor, through the constant coordinate: (e_const · x')(M_o · x') for each o.

        Added to a layer's tensor it is the path that goes around the layer, for example a residual connection.

        Args:
            matrix: M; input, output: spaces of x and y.
            detach: False keeps the graph of M.
        """
        instance("input", input, Space)
        instance("output", output, Space)
        detach = checks.flag("detach", detach)
        _check_factor("matrix", matrix, (output.dim, input.size), f"{output.title} × {input.title}")
        _check_output(output)
        lifted = _with_column("bias", checks.owned(matrix, detach=detach), None)
        left = torch.zeros_like(lifted)
        left[:, -1] = 1
        eye = torch.eye(len(matrix), dtype=lifted.dtype, device=lifted.device)
        return trusted(cls, left, lifted, eye, input.with_constant(), output)

    def __repr__(self) -> str:
        """For example "BilinearTensor('pixels' (784+1) → 'digits' (10), 300 hidden units, float32)"."""
        return (
            f"BilinearTensor({self.input.title} → {self.output.title}, {_counted(self.hidden)}, {_numbers(self.left)})"
        )

    @property
    def hidden(self) -> int:
        """Number of hidden units h, the ones that carry folded biases included."""
        return len(self.left)

    @property
    def reads_hidden(self) -> bool:
        """Whether the outputs are the hidden units themselves, D = I, as before a read-out."""
        o, h = self.down.shape
        return o == h and bool((self.down == torch.eye(o, dtype=self.down.dtype, device=self.down.device)).all())

    @property
    def numel(self) -> int:
        """How many numbers the factors hold: 2·h·i + o·h."""
        return self.left.numel() + self.right.numel() + self.down.numel()

    @property
    def dense_numel(self) -> int:
        """How many numbers the dense tensor would hold: o·i²."""
        return self.output.dim * self.input.dim**2

    def __call__(self, x: Float[Tensor, "*n d"], y: Float[Tensor, "*n d"] | None = None) -> Float[Tensor, "*n o"]:
        """B(x, x), or the polarised form B(x, y) = ½ D[(Lx ⊙ Ry) + (Rx ⊙ Ly)]; the constant coordinate is added here.

        Args:
            x: vectors of the input space without the constant coordinate, one per row, of any floating-point type;
                they are converted to the tensor's, which is that of the result. y: the same.

        Raises:
            ShapeError: the last axis is not `input.size`, or x and y do not go together. BilensError: whole, complex
                or 8-bit numbers, sparse vectors, or vectors on another device.
        """
        x = self.input.lift(x, self.left)
        if y is None:
            return ((x @ self.left.T) * (x @ self.right.T)) @ self.down.T
        y = self.input.lift(y, self.left)
        _check_together(x, y)
        both = (x @ self.left.T) * (y @ self.right.T) + (x @ self.right.T) * (y @ self.left.T)
        return (both / 2) @ self.down.T

    def kernel(self, u: Float[Tensor, " o"] | str | int, *, detach: bool = True) -> Kernel:
        """Q_u = Σ_o u_o B_o, so that u·y = x'ᵀ Q_u x'.

        Args:
            u: a direction of the output space, or the label or number of one output.
            detach: False keeps the graph of u. That of the tensor is kept where the tensor has one.

        Raises:
            SpaceError: an unknown label. ShapeError: a direction of another size. BilensError: NaN or infinity, or
                weights beyond the range of the tensor's type.
        """
        if not isinstance(u, Tensor):
            index = self.output.index(u)
            return trusted(Kernel, self.left, self.right, self.down[index], self.input, self.output.label(index))
        _check_factor("direction", u, (self.output.dim,), f"output {self.output.title}")
        weights = _given(u, self.down, detach) @ self.down
        _check_range("a kernel", weights)
        return trusted(Kernel, self.left, self.right, weights, self.input, "")

    def read(self, d: Dictionary) -> BilinearTensor:
        """The tensor of the codes: a = duals (y − b) is quadratic in x too, with down' = duals · down.

        The pseudoinverse trick. The codes rebuild y exactly when the atoms span the output space; otherwise they
        rebuild its projection on the atoms.

        Raises:
            SpaceError: the dictionary is over another space than `output`.
        """
        instance("dictionary", d, Dictionary)
        self.output.require(d.space, "a dictionary")
        tensor = self if d.offset is None else self.shift(-d.offset, detach=False)
        down = d.duals.to(self.down) @ tensor.down
        _check_range("codes", down)
        return trusted(BilinearTensor, tensor.left, tensor.right, down, tensor.input, d.features)

    def pullback(self, d: Dictionary) -> BilinearTensor:
        """The layer as a function of codes, a ↦ g(Fᵀa + b): every kernel becomes F Q Fᵀ (left' = L Fᵀ).

        An affine dictionary adds the atom [b; 1] on the folded space.

        Raises:
            SpaceError: the dictionary is over another space than `input`.
        """
        tensor, d = self.match(d)
        return tensor._mapped(d.atoms, d.features)

    def coordinates(self, d: Dictionary) -> BilinearTensor:
        """Coordinates of the kernels in input features: C with Σ_ab C_ab f_a f_bᵀ = Q, of least Frobenius norm.

        C = duals Q dualsᵀ, exact when the atoms span the input space. Not the pullback: that is how the layer acts on
        codes, this is how its kernel is written as a sum of feature pairs. An affine dictionary is folded first.

        Raises:
            SpaceError: the dictionary is over another space than `input`.
        """
        tensor, d = self.match(d)
        return tensor._mapped(d.duals, d.features)

    def _mapped(self, rows: Tensor, input: Space) -> BilinearTensor:
        """L Fᵀ and R Fᵀ for these rows F."""
        rows = rows.to(self.left)
        left, right = self.left @ rows.T, self.right @ rows.T
        for factor in (left, right):
            _check_range("a layer of features", factor)
        return trusted(BilinearTensor, left, right, self.down, input, self.output)

    def then(self, matrix: Float[Tensor, "p o"], output: Space, *, detach: bool = True) -> BilinearTensor:
        """The tensor of M y: a linear map after the layer, for example its read-out.

        Args:
            matrix: M; output: space of M y; detach: False keeps the graph of M.

        Raises:
            ShapeError: the matrix is not (`output.dim` of the result, `output.dim` of this tensor).
        """
        instance("output", output, Space)
        _check_factor("matrix", matrix, (output.dim, self.output.dim), f"{output.title} × {self.output.title}")
        _check_output(output)
        down = _given(matrix, self.down, detach) @ self.down
        _check_range("a layer with its read-out", down)
        return trusted(BilinearTensor, self.left, self.right, down, self.input, output)

    def centered(self) -> BilinearTensor:
        """The tensor less its mean over outputs: the same softmax, and kernels that can be compared across classes.

        One vector added to all rows of a read-out changes no prediction, so only the centred read-out means something.
        """
        down = self.down - self.down.mean(dim=0, keepdim=True)
        _check_range("a centred layer", down)
        return trusted(BilinearTensor, self.left, self.right, down, self.input, self.output)

    def shift(self, e: Float[Tensor, " o"], *, detach: bool = True) -> BilinearTensor:
        """The tensor of y + e: one more hidden unit that is always 1 (left = right = e_const, down = e).

        Args:
            e: (o,), converted to the tensor's type; detach: False keeps the graph of e.
        """
        return self._shifted("shift", e, detach)

    def _shifted(self, name: str, e: Tensor, detach: bool) -> BilinearTensor:
        _check_factor(name, e, (self.output.dim,), f"output {self.output.title}")
        tensor = self.lift()
        unit = tensor.left.new_zeros(1, tensor.input.dim)
        unit[0, -1] = 1
        e = _given(e, self.down, detach)
        _check_range(name, e)
        return trusted(
            BilinearTensor,
            torch.cat([tensor.left, unit]),
            torch.cat([tensor.right, unit]),
            torch.cat([tensor.down, e[:, None]], dim=1),
            tensor.input,
            tensor.output,
        )

    def lift(self) -> BilinearTensor:
        """The same function over the input space with its constant coordinate (a column of zeros in L and R)."""
        if self.input.constant:
            return self
        left, right = _with_column("bias", self.left, None), _with_column("bias", self.right, None)
        return trusted(BilinearTensor, left, right, self.down, self.input.with_constant(), self.output)

    def to(self, target: torch.dtype | torch.device | str) -> BilinearTensor:
        """The same tensor in float32 or float64, or on another device.

        Raises:
            BilensError: another target, or numbers beyond the range of the type.
        """
        left, right, down = _moved("a tensor", target, self.left, self.right, self.down)
        return trusted(BilinearTensor, left, right, down, self.input, self.output)

    def __add__(self, other: BilinearTensor) -> BilinearTensor:
        """The sum of two layers side by side: their hidden units together, in the wider of the two types."""
        instance("the other one", other, BilinearTensor)
        a, b = (self.lift(), other.lift()) if self.input.constant or other.input.constant else (self, other)
        a.input.require(b.input, "a tensor")
        a.output.require(b.output, "a tensor to output")
        work = torch.promote_types(a.left.dtype, b.left.dtype)
        a, b = a.to(work), b.to(a.left.device).to(work)
        return trusted(
            BilinearTensor,
            torch.cat([a.left, b.left]),
            torch.cat([a.right, b.right]),
            torch.cat([a.down, b.down], dim=1),
            a.input,
            a.output,
        )

    def __neg__(self) -> BilinearTensor:
        """−B: the layer with the sign of every output turned."""
        return trusted(BilinearTensor, self.left, self.right, -self.down, self.input, self.output)

    def __sub__(self, other: BilinearTensor) -> BilinearTensor:
        """B − C: what one layer adds to another, with the hidden units of both. Raises as their sum."""
        instance("the other one", other, BilinearTensor)
        return self + -other

    def __mul__(self, factor: float) -> BilinearTensor:
        """s·B for a number s.

        Raises:
            BilensError: no number, NaN or infinity, or a product beyond the range of the type.
        """
        down = self.down * number("a factor", factor)
        _check_range("a layer times a number", down)
        return trusted(BilinearTensor, self.left, self.right, down, self.input, self.output)

    __rmul__ = __mul__

    def inner(self, other: BilinearTensor) -> Float[Tensor, ""]:
        """Frobenius inner product ⟨B₁, B₂⟩ = Σ (D₁ᵀD₂) ∘ G₁₂, from the factors, in float64 inside.

        G₁₂ = ½[(L₁L₂ᵀ)∘(R₁R₂ᵀ) + (L₁R₂ᵀ)∘(R₁L₂ᵀ)]. This is a metric of weights; the inner product of the functions
        under a Gaussian input is another: 2⟨B₁, B₂⟩ + tr B₁ · tr B₂.

        Raises:
            SpaceError: the tensors are over other spaces. BilensError: a product beyond the range of the type.
        """
        self._require(other)
        work = torch.promote_types(self.left.dtype, other.left.dtype)
        return fitted(*_inner(self._units, other._units), work, "an inner product")

    def norm(self) -> Float[Tensor, ""]:
        """Frobenius norm ‖B‖ = √⟨B, B⟩, at any scale that the type holds.

        Raises:
            BilensError: a norm beyond the range of the type.
        """
        return _norm(self._units, self.left.dtype)

    def cosine(self, other: BilinearTensor) -> Float[Tensor, ""]:
        """Cosine ⟨B₁, B₂⟩ / (‖B₁‖ ‖B₂‖), at any scale; 0 when one of them is zero."""
        self._require(other)
        a = self._units
        b = a if other is self else other._units
        work = torch.promote_types(self.left.dtype, other.left.dtype)
        return _cosine(a, b).to(work)

    def gram(self) -> Float[Tensor, "o o"]:
        """⟨B_o, B_p⟩ for every pair of outputs: D G Dᵀ with the hidden Gram G, in float64.

        Raises:
            BilensError: a product beyond the range of float64.
        """
        left, right, down, exponents = self._units
        gram = hidden_gram(left, right, left, right)
        if not self.reads_hidden or self.down.requires_grad:
            gram = down @ gram @ down.T
        own = gram.detach().diagonal()
        fitted(own, 2 * exponents, torch.float64, "a squared norm")  # beside large ones, small products may round to 0
        return times_two_to(gram, exponents[:, None] + exponents)

    def _require(self, other: BilinearTensor) -> None:
        instance("the other one", other, BilinearTensor)
        self.input.require(other.input, "a tensor")
        self.output.require(other.output, "a tensor to output")

    @property
    def _units(self) -> Units:
        return units(self.left, self.right, self.down)

    def to_dense(self, limit: int = DENSE_LIMIT) -> Float[Tensor, "o i i"]:
        """The dense tensor, for looking at small ones and for tests.

        Raises:
            BilensError: it would be larger than `limit` bytes.
        """
        size = self.dense_numel * self.left.element_size()
        if size > limit:
            raise BilensError(
                f"a dense tensor of {self.output.dim}×{self.input.dim}×{self.input.dim} = {size:,} bytes",
                f"at most {limit:,} bytes",
                "work on the factors, or pass a larger limit",
            )
        dense = self.left.new_empty(self.output.dim, self.input.dim, self.input.dim)
        for o in range(self.output.dim):
            dense[o] = self.kernel(o).dense()
        return dense

    def match(self, d: Dictionary) -> tuple[BilinearTensor, Dictionary]:
        """This tensor and a dictionary of its input, both folded when one of them needs the constant coordinate."""
        instance("dictionary", d, Dictionary)
        if self.input.constant or d.space.constant or d.offset is not None:
            tensor, d = self.lift(), d.folded()
        else:
            tensor = self
        tensor.input.require(d.space, "a dictionary")
        return tensor, d


class Split(NamedTuple):
    """A folded kernel taken apart: u·y = xᵀ quadratic x + linear·x + constant."""

    quadratic: Float[Tensor, "d d"]
    linear: Float[Tensor, " d"]
    constant: Float[Tensor, ""]


@dataclass(frozen=True, eq=False, repr=False)
class Kernel:
    """Q = ½ Σ_h w_h (L_h R_hᵀ + R_h L_hᵀ), the symmetric matrix with u·y = x'ᵀ Q x', held as factors.

    Its rank is at most twice the number of weights that are not zero. The factors are copied and detached, and those of
    half precision become float32. Kernels of a tensor that keeps its graph have one too, as does
    `from_matrix(…, detach=False)`; gradients then flow through every method that returns numbers.

    Args:
        left: L, (h, i), with i = `input.dim`; right: R, (h, i).
        weights: w = Dᵀu, (h,).
        input: space of x.
        label: what the direction u stands for, for titles; may be empty.

    Raises:
        ShapeError: the factors do not fit together. BilensError: NaN or infinity, types or devices that differ, or
            factors that are not dense floating-point tensors in memory.

    Source: founding draft, "quadratic kernel"; later papers call it the interaction matrix.
    """

    left: Float[Tensor, "h i"]
    right: Float[Tensor, "h i"]
    weights: Float[Tensor, " h"]
    input: Space
    label: str = ""

    def __post_init__(self) -> None:
        _check_factors(self.left, self.right, self.input)
        _check_factor("weights", self.weights, (len(self.left),), "hidden")
        _check_alike(self.left, right=self.right, weights=self.weights)
        instance("label", self.label, str, "a string", "write it as one, str(label)")
        _own(self, "left", "right", "weights")

    @classmethod
    def from_matrix(cls, matrix: Float[Tensor, "i i"], input: Space, label: str = "", *, detach: bool = True) -> Kernel:
        """The kernel of the form x'ᵀ M x': M's symmetric part, ½(M + Mᵀ).

        Held as L = I, R = M, which symmetrises M, so that a matrix that is not symmetric cannot slip through.

        Args:
            matrix: M; input: space of x; label: as the class; detach: False keeps the graph of M.
        """
        instance("input", input, Space)
        instance("label", label, str, "a string", "write it as one, str(label)")
        detach = checks.flag("detach", detach)
        _check_factor("matrix", matrix, (input.dim, input.dim), f"{input.title} twice")
        matrix = checks.owned(matrix, detach=detach)
        eye = torch.eye(input.dim, dtype=matrix.dtype, device=matrix.device)
        return trusted(cls, eye, matrix, matrix.new_ones(input.dim), input, label)

    def __repr__(self) -> str:
        """For example "Kernel('3' over 'pixels' (784+1), 300 hidden units, float32)"."""
        label = f"{self.label!r} over " if self.label else "over "
        return f"Kernel({label}{self.input.title}, {_counted(len(self.left))}, {_numbers(self.left)})"

    def __call__(self, x: Float[Tensor, "*n d"], y: Float[Tensor, "*n d"] | None = None) -> Float[Tensor, "*n"]:
        """x'ᵀ Q x', or x'ᵀ Q y'; the constant coordinate is added here.

        Args:
            x: vectors of the input space without the constant coordinate, one per row, of any floating-point type;
                they are converted to the kernel's. y: the same.
        """
        x = self.input.lift(x, self.left)
        if y is None:
            return (self.matvec(x) * x).sum(dim=-1)
        y = self.input.lift(y, self.left)
        _check_together(x, y)
        return (self.matvec(x) * y).sum(dim=-1)

    def matvec(self, v: Float[Tensor, "*n i"]) -> Float[Tensor, "*n i"]:
        """Q v for each row v of the folded space, from the factors: O(h i) per row."""
        v = checks.vectors("vectors", v, self.left, self.input.dim, hint="fold them first, space.lift(x)")
        one = ((v @ self.right.T) * self.weights) @ self.left
        two = ((v @ self.left.T) * self.weights) @ self.right
        return (one + two) / 2

    def dense(self) -> Float[Tensor, "i i"]:
        """Q as a symmetric matrix; one product of (i, h) and (h, i), h the units whose weight is not 0.

        Raises:
            BilensError: entries beyond the range of the type.
        """
        left, right, weights = self.left, self.right, self.weights
        if not tracked(weights):  # the gradient in a weight of 0 is not 0
            used = (weights != 0).nonzero()[:, 0]
            left, right, weights = left[used], right[used], weights[used]
        half = (left * weights[:, None]).T @ right
        dense = (half + half.T) / 2
        _check_range("a dense kernel", dense)
        return dense

    def split(self) -> Split:
        """The quadratic, linear and constant part: Q[:d,:d], 2·Q[:d,d] and Q[d,d] of the folded kernel."""
        q = self.dense()
        if not self.input.constant:
            return Split(q, q.new_zeros(len(q)), q.new_zeros(()))
        return Split(q[:-1, :-1], 2 * q[:-1, -1], q[-1, -1])

    @property
    def rank_bound(self) -> int:
        """min(i, 2 · number of weights that are not zero), an upper bound on the rank of Q."""
        return min(self.input.dim, 2 * int((self.weights != 0).sum()))

    def __add__(self, other: Kernel) -> Kernel:
        """The sum of two kernels, (Q + P)(x) = Q(x) + P(x), with the factors of both, in the wider of the two types.

        Raises:
            SpaceError: kernels over other spaces. BilensError: another type of thing.
        """
        return self._beside(other, "+")

    def __neg__(self) -> Kernel:
        """−Q."""
        label = f"−{self.label}" if self.label else ""
        return trusted(Kernel, self.left, self.right, -self.weights, self.input, label)

    def __sub__(self, other: Kernel) -> Kernel:
        """Q − P, for example what speaks for one class and not for another. Raises as the sum."""
        return self._beside(other, "−")

    def __mul__(self, factor: float) -> Kernel:
        """s·Q for a number s.

        Raises:
            BilensError: no number, NaN or infinity, or a product beyond the range of the type.
        """
        weights = self.weights * number("a factor", factor)
        _check_range("a kernel times a number", weights)
        return trusted(Kernel, self.left, self.right, weights, self.input, self.label)

    __rmul__ = __mul__

    def _beside(self, other: Kernel, sign: str) -> Kernel:
        instance("the other one", other, Kernel)
        self.input.require(other.input, "a kernel")
        work = torch.promote_types(self.left.dtype, other.left.dtype)
        a, b = self.to(work), other.to(self.left.device).to(work)
        weights = torch.cat([a.weights, b.weights if sign == "+" else -b.weights])
        label = f"{a.label} {sign} {b.label}" if a.label and b.label else ""
        return trusted(Kernel, torch.cat([a.left, b.left]), torch.cat([a.right, b.right]), weights, self.input, label)

    def inner(self, other: Kernel) -> Float[Tensor, ""]:
        """Frobenius inner product ⟨Q₁, Q₂⟩ from the factors, in float64 inside.

        Raises:
            SpaceError: kernels over other spaces. BilensError: a product beyond the range of the type.
        """
        instance("the other one", other, Kernel)
        self.input.require(other.input, "a kernel")
        work = torch.promote_types(self.left.dtype, other.left.dtype)
        return fitted(*_inner(self._units, other._units), work, "an inner product")

    def norm(self) -> Float[Tensor, ""]:
        """Frobenius norm ‖Q‖, in float64 inside, at any scale that the type holds.

        Raises:
            BilensError: a norm beyond the range of the type.
        """
        return _norm(self._units, self.left.dtype)

    @property
    def _units(self) -> Units:
        return units(self.left, self.right, self.weights[None])

    def to(self, target: torch.dtype | torch.device | str) -> Kernel:
        """The same kernel in float32 or float64, or on another device.

        Raises:
            BilensError: another target, or numbers beyond the range of the type.
        """
        left, right, weights = _moved("a kernel", target, self.left, self.right, self.weights)
        return trusted(Kernel, left, right, weights, self.input, self.label)


def hidden_gram(
    left1: Float[Tensor, "h i"], right1: Float[Tensor, "h i"], left2: Float[Tensor, "g i"], right2: Float[Tensor, "g i"]
) -> Float[Tensor, "h g"]:
    """Inner products of the rank-one kernels sym(l rᵀ) of two layers, in float64.

    G = ½[(L₁L₂ᵀ)∘(R₁R₂ᵀ) + (L₁R₂ᵀ)∘(R₁L₂ᵀ)]; cost: four products of (h, i) and (i, g), a little over two for one layer.
    """
    l1, r1, l2, r2 = (factor.double() for factor in (left1, right1, left2, right2))
    crossed = l1 @ r2.T
    if not (left1 is left2 and right1 is right2):
        return (l1 @ l2.T).mul_(r1 @ r2.T).addcmul_(crossed, r1 @ l2.T).div_(2)
    gram = torch.empty_like(crossed)
    for start in range(0, len(gram), GRAM_ROWS):  # up to the diagonal: the rest is the same mirrored
        rows, until = slice(start, start + GRAM_ROWS), slice(0, start + GRAM_ROWS)
        lower = (l1[rows] @ l1[until].T).mul_(r1[rows] @ r1[until].T)
        gram[rows, until] = lower.addcmul_(crossed[rows, until], crossed[until, rows].T).div_(2)
        gram[:start, rows] = gram[rows, :start].T
    return gram


def _inner(a: Units, b: Units) -> tuple[Tensor, Tensor]:
    """⟨A, B⟩ as a number near 1 and the power of two that it is multiplied by."""
    exponents = a.exponents + b.exponents
    if not tracked(a.down, b.down):
        nothing = (a.down == 0).all(dim=1) | (b.down == 0).all(dim=1)
        exponents = exponents.masked_fill(nothing, NONE)
    most = exponents.max()
    most = torch.where(most > NONE, most, 0)
    gram = hidden_gram(a.left, a.right, b.left, b.right)
    down = times_two_to(a.down, (exponents - most)[:, None]).T @ b.down
    return (down * gram).sum(), most


def _norm(a: Units, dtype: torch.dtype) -> Tensor:
    square, exponent = _inner(a, a)  # an even exponent: twice that of the largest output
    return fitted(_root(square), exponent // 2, dtype, "a norm")


def _root(square: Tensor) -> Tensor:
    """Its square root, with 0 for what rounding made negative, and gradient 0 at 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def _cosine(a: Units, b: Units) -> Tensor:
    """⟨A, B⟩ / √(⟨A, A⟩ ⟨B, B⟩) between −1 and 1, exactly 1 for A = B; 0 where one of the two is 0."""
    (inner, both), (first, one), (second, other) = _inner(a, b), _inner(a, a), _inner(b, b)
    positive = (first > 0) & (second > 0)
    norms = torch.where(positive, first * second, 1).sqrt()
    inner = times_two_to(inner, both - (one + other) // 2)
    return torch.where(positive, (inner / norms).clamp(-1, 1), 0)


def _own(record: BilinearTensor | Kernel, *names: str) -> None:
    """Replace the record's tensors by copies that nothing else shares or trains."""
    for name in names:
        object.__setattr__(record, name, checks.owned(getattr(record, name)))


def _given(value: Tensor, like: Tensor, detach: bool) -> Tensor:
    """An argument in the type and on the device of a record, without its graph unless that is asked for."""
    return (value.detach() if checks.flag("detach", detach) else value).to(like)


def _moved(name: str, target: torch.dtype | torch.device | str, *factors: Tensor) -> list[Tensor]:
    """Factors in another type or on another device."""
    target = checks.target(target)
    moved = [factor.to(target) for factor in factors]
    for before, after in zip(factors, moved, strict=True):
        if after.dtype == torch.float32 and before.dtype == torch.float64:
            lost = not bool(after.detach().any()) and bool(before.detach().any())
            _check_range(name, torch.full_like(after.detach(), torch.inf) if lost else after)
    return moved


def _check_range(name: str, value: Tensor) -> None:
    """Refuse what was computed from finite numbers and left the range of its type."""
    if bool(torch.isfinite(value.detach().sum())) or bool(torch.isfinite(value).all()):
        return
    limits = torch.finfo(value.dtype)
    raise BilensError(
        f"{name} with numbers beyond {str(value.dtype).removeprefix('torch.')}",
        f"sizes from {limits.tiny:.2g} to {limits.max:.2g}",
        "call .to(torch.float64)" if value.dtype != torch.float64 else "scale the weights",
    )


def _check_together(x: Tensor, y: Tensor) -> None:
    try:
        torch.broadcast_shapes(x.shape, y.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ShapeError(
            f"x and y with {tuple(x.shape[:-1])} and {tuple(y.shape[:-1])} vectors", "as many of both"
        ) from None


def _counted(hidden: int) -> str:
    return f"{hidden} hidden unit{'' if hidden == 1 else 's'}"


def _numbers(value: Tensor) -> str:
    """Type, device and graph of a record's numbers, as its `repr` shows them."""
    where = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{str(value.dtype).removeprefix('torch.')}{where}{', with a graph' if value.requires_grad else ''}"


def _check_tensor(left: Tensor, right: Tensor, down: Tensor, input: Space, output: Space) -> None:
    _check_factors(left, right, input)
    instance("output", output, Space)
    _check_factor("down", down, (output.dim, len(left)), f"output {output.title} × hidden")
    _check_alike(left, right=right, down=down)
    _check_output(output)


def _check_output(output: Space) -> None:
    if output.constant:
        raise BilensError(
            f"output space {output.title} with a constant coordinate", "one without", "use without_constant()"
        )


def _check_factor(name: str, value: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    checks.floating(name, value)
    if tuple(value.shape) != shape:
        raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"{shape} ({meaning})", "check which axis is which")
    checks.weights(name, value)


def _check_matrix(name: str, value: Tensor, shape: str) -> None:
    checks.floating(name, value)
    if value.ndim != 2:
        raise ShapeError(f"{name} of shape {tuple(value.shape)}", shape)


def _check_factors(left: Tensor, right: Tensor, input: Space) -> None:
    checks.floating("left", left)
    instance("input", input, Space)
    if left.ndim != 2 or len(left) < 1:
        raise ShapeError(f"left of shape {tuple(left.shape)}", f"(hidden, {input.dim})")
    for name, value in (("left", left), ("right", right)):
        _check_factor(name, value, (len(left), input.dim), f"hidden × input {input.title}")


def _check_alike(left: Tensor, **others: Tensor) -> None:
    for name, value in others.items():
        if value.dtype != left.dtype or value.device != left.device:
            raise BilensError(
                f"{name} as {value.dtype} on {value.device}",
                f"{left.dtype} on {left.device} like left",
                "convert one of them with .to(...)",
            )


def _with_column(name: str, matrix: Tensor, bias: Tensor | None, detach: bool = True) -> Tensor:
    """[matrix, bias], the bias in the type of the matrix, with zeros where there is none."""
    if bias is None:
        return torch.cat([matrix, matrix.new_zeros(len(matrix), 1)], dim=1)
    _check_factor(name, bias, (len(matrix),), "hidden")
    bias = _given(bias, matrix, detach)
    _check_range(name, bias)
    return torch.cat([matrix, bias[:, None]], dim=1)
