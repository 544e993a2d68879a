"""The third-order tensor of a bilinear layer, and its kernels, held as factors and never built."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import checks
from bilens.checks import instance
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.products import product
from bilens.space import Space

DENSE_LIMIT = 2**30
"""Bytes of the largest dense tensor that `to_dense` builds unless it is told otherwise: 1 GiB."""

GRAM_ROWS = 256
"""Rows of one layer's hidden Gram at a time: fewer save more of the half above the diagonal, more are faster."""


@dataclass(frozen=True, eq=False)
class BilinearTensor:
    """B_oij = ½ Σ_h D_oh (L_hi R_hj + R_hi L_hj): symmetric in i and j, with y = B(x, x).

    It holds 2·h·i + o·h numbers in place of o·i². Biases live in the last column of L and R when `input.constant` is
    true. Every operation returns a new tensor.

    Args:
        left: L, (h, i), with i = `input.dim`.
        right: R, (h, i).
        down: D, (o, h), with o = `output.dim`.
        input: space of x; `output`: space of y.

    Raises:
        ShapeError: the factors do not fit together. BilensError: NaN or infinity, or types or devices that differ.

    Source: founding draft, "The bilinear tensor"; arXiv 2410.08417, section 3.
    """

    left: Float[Tensor, "h i"]
    right: Float[Tensor, "h i"]
    down: Float[Tensor, "o h"]
    input: Space
    output: Space

    def __post_init__(self) -> None:
        _check_factors(self.left, self.right, self.input)
        instance("output", self.output, Space)
        _check_factor("down", self.down, (self.output.dim, len(self.left)), f"output {self.output.title} × hidden")
        _check_alike(self.left, right=self.right, down=self.down)
        if self.output.constant:
            raise BilensError(
                f"output space {self.output.title} with a constant coordinate", "one without", "use without_constant()"
            )

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
    ) -> BilinearTensor:
        """The tensor of y = D[(W x + b) ⊙ (V x + c)] + e, its biases folded.

        x' = [x; 1], L = [W, b], R = [V, c]; e is one more hidden unit with left = right = e_const. The input space
        gains its constant coordinate when there is a bias or when it has one already.

        Args:
            left: W, (h, d); right: V, (h, d); down: D, (o, h), the identity when None.
            left_bias, right_bias: b and c, (h,), 0 when None; down_bias: e, (o,).
            input: space of x (size d); output: space of y.
        """
        instance("input", input, Space)
        _check_matrix("left", left, "(hidden, input)")
        _check_matrix("right", right, "(hidden, input)")
        if down is None:
            down = torch.eye(len(left), dtype=left.dtype, device=left.device)
        if input.constant or left_bias is not None or right_bias is not None:
            input = input.with_constant()
            left = _with_column("left_bias", left, left_bias)
            right = _with_column("right_bias", right, right_bias)
        tensor = cls(left, right, down, input, output)
        return tensor if down_bias is None else tensor.shift(down_bias)

    @classmethod
    def from_linear(cls, matrix: Float[Tensor, "o d"], *, input: Space, output: Space) -> BilinearTensor:
        """The linear map y = M x as a tensor, through the constant coordinate: (e_const · x')(M_o · x') for each o.

        Added to a layer's tensor it is the path that goes around the layer, for example a residual connection.
        """
        instance("input", input, Space)
        instance("output", output, Space)
        _check_factor("matrix", matrix, (output.dim, input.size), f"{output.title} × {input.title}")
        lifted = _with_column("bias", matrix, None)
        left = torch.zeros_like(lifted)
        left[:, -1] = 1
        eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        return cls(left, lifted, eye, input.with_constant(), output)

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
            x: vectors of the input space without the constant coordinate, one a row; y: the same.

        Raises:
            ShapeError: the last axis is not `input.size`.
        """
        x = self.input.lift(x)
        if y is None:
            return ((x @ self.left.T) * (x @ self.right.T)) @ self.down.T
        y = self.input.lift(y)
        both = (x @ self.left.T) * (y @ self.right.T) + (x @ self.right.T) * (y @ self.left.T)
        return (both / 2) @ self.down.T

    def kernel(self, u: Float[Tensor, " o"] | str | int) -> Kernel:
        """Q_u = Σ_o u_o B_o, so that u·y = x'ᵀ Q_u x'.

        Args:
            u: a direction of the output space, or the label or number of one output.

        Raises:
            SpaceError: an unknown label. ShapeError: a direction of another size. BilensError: NaN or infinity.
        """
        if not isinstance(u, Tensor):
            index = self.output.index(u)
            return Kernel(self.left, self.right, self.down[index], self.input, self.output.label(index))
        _check_factor("direction", u, (self.output.dim,), f"output {self.output.title}")
        return Kernel(self.left, self.right, u.to(self.down) @ self.down, self.input)

    def read(self, d: Dictionary) -> BilinearTensor:
        """The tensor of the codes: a = duals (y − b) is quadratic in x too, with down' = duals · down.

        The pseudoinverse trick. The codes rebuild y exactly when the atoms span the output space; otherwise they
        rebuild its projection on the atoms.

        Raises:
            SpaceError: the dictionary is over another space than `output`.
        """
        instance("dictionary", d, Dictionary)
        self.output.require(d.space, "a dictionary")
        tensor = self if d.offset is None else self.shift(-d.offset.to(self.down))
        return replace(tensor, down=d.duals.to(self.down) @ tensor.down, output=d.features)

    def pullback(self, d: Dictionary) -> BilinearTensor:
        """The layer as a function of codes, a ↦ g(Fᵀa + b): every kernel becomes F Q Fᵀ (left' = L Fᵀ).

        An affine dictionary adds the atom [b; 1] on the folded space.

        Raises:
            SpaceError: the dictionary is over another space than `input`.
        """
        tensor, d = self.match(d)
        atoms = d.atoms.to(self.left)
        return replace(tensor, left=tensor.left @ atoms.T, right=tensor.right @ atoms.T, input=d.features)

    def coordinates(self, d: Dictionary) -> BilinearTensor:
        """Coordinates of the kernels in input features: C with Σ_ab C_ab f_a f_bᵀ = Q, of least Frobenius norm.

        C = duals Q dualsᵀ, exact when the atoms span the input space. Not the pullback: that is how the layer acts on
        codes, this is how its kernel is written as a sum of feature pairs. An affine dictionary is folded first.

        Raises:
            SpaceError: the dictionary is over another space than `input`.
        """
        tensor, d = self.match(d)
        duals = d.duals.to(self.left)
        return replace(tensor, left=tensor.left @ duals.T, right=tensor.right @ duals.T, input=d.features)

    def then(self, matrix: Float[Tensor, "p o"], output: Space) -> BilinearTensor:
        """The tensor of M y: a linear map after the layer, for example its read-out.

        Raises:
            ShapeError: the matrix is not (`output.dim` of the result, `output.dim` of this tensor).
        """
        instance("output", output, Space)
        _check_factor("matrix", matrix, (output.dim, self.output.dim), f"{output.title} × {self.output.title}")
        return replace(self, down=matrix.to(self.down) @ self.down, output=output)

    def centered(self) -> BilinearTensor:
        """The tensor less its mean over outputs: the same softmax, and kernels that can be compared across classes.

        One vector added to all rows of a read-out changes no prediction, so only the centred read-out means something.
        """
        return replace(self, down=self.down - self.down.mean(dim=0, keepdim=True))

    def shift(self, e: Float[Tensor, " o"]) -> BilinearTensor:
        """The tensor of y + e: one more hidden unit that is always 1 (left = right = e_const, down = e)."""
        _check_factor("shift", e, (self.output.dim,), f"output {self.output.title}")
        tensor = self.lift()
        unit = tensor.left.new_zeros(1, tensor.input.dim)
        unit[0, -1] = 1
        return replace(
            tensor,
            left=torch.cat([tensor.left, unit]),
            right=torch.cat([tensor.right, unit]),
            down=torch.cat([tensor.down, e.to(self.down)[:, None]], dim=1),
        )

    def lift(self) -> BilinearTensor:
        """The same function over the input space with its constant coordinate (a column of zeros in L and R)."""
        if self.input.constant:
            return self
        left, right = _with_column("bias", self.left, None), _with_column("bias", self.right, None)
        return replace(self, left=left, right=right, input=self.input.with_constant())

    def to(self, target: torch.dtype | torch.device | str) -> BilinearTensor:
        """The same tensor in another type or on another device. Raises BilensError for what is neither."""
        target = checks.target(target)
        return replace(self, left=self.left.to(target), right=self.right.to(target), down=self.down.to(target))

    def __add__(self, other: BilinearTensor) -> BilinearTensor:
        """The sum of two layers side by side: their hidden units together."""
        instance("the other one", other, BilinearTensor)
        a, b = (self.lift(), other.lift()) if self.input.constant or other.input.constant else (self, other)
        a.input.require(b.input, "a tensor")
        a.output.require(b.output, "a tensor to output")
        return replace(
            a,
            left=torch.cat([a.left, b.left.to(a.left)]),
            right=torch.cat([a.right, b.right.to(a.left)]),
            down=torch.cat([a.down, b.down.to(a.left)], dim=1),
        )

    def inner(self, other: BilinearTensor) -> Float[Tensor, ""]:
        """Frobenius inner product ⟨B₁, B₂⟩ = Σ (D₁ᵀD₂) ∘ G₁₂, from the factors, in float64 inside.

        G₁₂ = ½[(L₁L₂ᵀ)∘(R₁R₂ᵀ) + (L₁R₂ᵀ)∘(R₁L₂ᵀ)]. This is a metric of weights; the inner product of the functions
        under a Gaussian input is another: 2⟨B₁, B₂⟩ + tr B₁ · tr B₂.

        Raises:
            SpaceError: the tensors are over other spaces.
        """
        instance("the other one", other, BilinearTensor)
        self.input.require(other.input, "a tensor")
        self.output.require(other.output, "a tensor to output")
        down = self.down.double().T @ other.down.double()
        return (down * hidden_gram(self.left, self.right, other.left, other.right)).sum().to(self.left.dtype)

    def norm(self) -> Float[Tensor, ""]:
        """Frobenius norm ‖B‖ = √⟨B, B⟩."""
        double = self.to(torch.float64)
        return double.inner(double).clamp(min=0).sqrt().to(self.left.dtype)

    def cosine(self, other: BilinearTensor) -> Float[Tensor, ""]:
        """Cosine ⟨B₁, B₂⟩ / (‖B₁‖ ‖B₂‖); 0 when one of them is zero."""
        instance("the other one", other, BilinearTensor)
        a, b = self.to(torch.float64), other.to(torch.float64)
        norms = a.norm() * b.norm()
        inner = a.inner(b)
        return torch.where(norms > 0, inner / norms.clamp(min=torch.finfo(norms.dtype).tiny), 0).to(self.left.dtype)

    def gram(self) -> Float[Tensor, "o o"]:
        """⟨B_o, B_p⟩ for every pair of outputs: D G Dᵀ with the hidden Gram G, in float64."""
        gram = hidden_gram(self.left, self.right, self.left, self.right)
        if self.reads_hidden:
            return gram
        down = self.down.double()
        return down @ gram @ down.T

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


@dataclass(frozen=True, eq=False)
class Kernel:
    """Q = ½ Σ_h w_h (L_h R_hᵀ + R_h L_hᵀ), the symmetric matrix with u·y = x'ᵀ Q x', held as factors.

    Its rank is at most twice the number of weights that are not zero.

    Args:
        left: L, (h, i), with i = `input.dim`; right: R, (h, i).
        weights: w = Dᵀu, (h,).
        input: space of x.
        label: what the direction u stands for, for titles; may be empty.

    Raises:
        ShapeError: the factors do not fit together. BilensError: NaN or infinity, or types or devices that differ.

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

    @classmethod
    def from_matrix(cls, matrix: Float[Tensor, "i i"], input: Space, label: str = "") -> Kernel:
        """The kernel of the form x'ᵀ M x': M's symmetric part, ½(M + Mᵀ).

        Held as L = I, R = M, which symmetrises M, so that a matrix that is not symmetric cannot slip through.
        """
        instance("input", input, Space)
        _check_factor("matrix", matrix, (input.dim, input.dim), f"{input.title} twice")
        eye = torch.eye(input.dim, dtype=matrix.dtype, device=matrix.device)
        return cls(eye, matrix, matrix.new_ones(input.dim), input, label)

    def __call__(self, x: Float[Tensor, "*n d"], y: Float[Tensor, "*n d"] | None = None) -> Float[Tensor, "*n"]:
        """x'ᵀ Q x', or x'ᵀ Q y'; the constant coordinate is added here."""
        x = self.input.lift(x)
        return (self.matvec(x) * (x if y is None else self.input.lift(y))).sum(dim=-1)

    def matvec(self, v: Float[Tensor, "*n i"]) -> Float[Tensor, "*n i"]:
        """Q v for each row v of the folded space, from the factors: O(h i) a row."""
        instance("vectors", v, Tensor)
        if v.ndim == 0 or v.shape[-1] != self.input.dim:
            raise ShapeError(
                f"vectors of shape {tuple(v.shape)}", f"{self.input.dim} coordinates per row", "fold them first"
            )
        one = ((v @ self.right.T) * self.weights) @ self.left
        two = ((v @ self.left.T) * self.weights) @ self.right
        return (one + two) / 2

    def dense(self) -> Float[Tensor, "i i"]:
        """Q as a symmetric matrix; one product of (i, h) and (h, i), h the units whose weight is not 0."""
        used = (self.weights != 0).nonzero()[:, 0]
        half = product((self.left[used] * self.weights[used, None]).T, self.right[used].T)
        return (half + half.T) / 2

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

    def inner(self, other: Kernel) -> Float[Tensor, ""]:
        """Frobenius inner product ⟨Q₁, Q₂⟩ from the factors, in float64 inside."""
        instance("the other one", other, Kernel)
        self.input.require(other.input, "a kernel")
        gram = hidden_gram(self.left, self.right, other.left, other.right)
        return (self.weights.double() @ gram @ other.weights.double()).to(self.left.dtype)

    def norm(self) -> Float[Tensor, ""]:
        """Frobenius norm ‖Q‖, in float64 inside."""
        double = self.to(torch.float64)
        return double.inner(double).clamp(min=0).sqrt().to(self.left.dtype)

    def to(self, target: torch.dtype | torch.device | str) -> Kernel:
        """The same kernel in another type or on another device. Raises BilensError for what is neither."""
        target = checks.target(target)
        return replace(self, left=self.left.to(target), right=self.right.to(target), weights=self.weights.to(target))


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


def _check_factor(name: str, value: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    instance(name, value, Tensor)
    if tuple(value.shape) != shape:
        raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"{shape} ({meaning})", "check which axis is which")
    if not value.is_floating_point():
        raise BilensError(f"{name} of type {value.dtype}", "floating-point numbers", "convert it with .float()")
    if not bool(torch.isfinite(value).all()):
        raise BilensError(f"{name} with NaN or infinity", "finite numbers", "check how the model was trained or saved")


def _check_matrix(name: str, value: Tensor, shape: str) -> None:
    instance(name, value, Tensor)
    if value.ndim != 2:
        raise ShapeError(f"{name} of shape {tuple(value.shape)}", shape)


def _check_factors(left: Tensor, right: Tensor, input: Space) -> None:
    instance("left", left, Tensor)
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


def _with_column(name: str, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """[matrix, bias], with zeros where there is no bias."""
    if bias is None:
        bias = matrix.new_zeros(len(matrix))
    _check_factor(name, bias, (len(matrix),), "hidden")
    return torch.cat([matrix, bias[:, None]], dim=1)
