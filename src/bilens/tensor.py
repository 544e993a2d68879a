"""The third-order tensor of a bilinear layer, held as factors and never built."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks, factors, shown
from bilens._internal.checks import instance, number, trusted, whole
from bilens._internal.scale import Units, fitted, times_two_to, units
from bilens.dictionary import Dictionary
from bilens.errors import BilensError
from bilens.kernel import Kernel
from bilens.space import Space

DENSE_LIMIT = 2**30
"""Bytes of the largest dense tensor that `to_dense` builds by default: 1 GiB."""


@dataclass(frozen=True, eq=False, repr=False)
class BilinearTensor(factors.Factored):
    """B_oij = ½ Σ_h D_oh (L_hi R_hj + R_hi L_hj): symmetric in i and j, with y = B(x, x).

    It holds 2·h·i + o·h numbers instead of o·i². Biases live in the last column of L and R when `input.constant` is
    true. Every operation returns a new tensor.

    The factors are copied and detached, so that training on does not change the tensor; those of half precision become
    float32. Only `from_layer`, `from_linear` and the `.tensor()` of a layer or model keep the graph, when they are
    called with `detach=False`. Gradients then flow through every method that returns a tensor, a kernel or a number.

    Args:
        left, right: L and R, (h, i), with i = `input.dim`.
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
        factors.check_tensor(self.left, self.right, self.down, self.input, self.output)
        factors.own(self, "left", "right", "down")

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

        Examples:
            >>> W, V = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
            >>> B = BilinearTensor.from_layer(W, V, input=Space("x", 2), output=Space("y", 2))
            >>> B(torch.tensor([3.0, 5.0]))  # W x ⊙ V x
            tensor([15., 30.])

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
        factors.check_matrix("left", left, "(hidden, input)")
        factors.check_matrix("right", right, "(hidden, input)")
        if down is None:
            down = torch.eye(len(left), dtype=left.dtype, device=left.device)
        factors.check_tensor(left, right, down, input.without_constant(), output)
        left, right, down = (checks.owned(factor, detach=detach) for factor in (left, right, down))
        if input.constant or left_bias is not None or right_bias is not None:
            input = input.with_constant()
            left = factors.with_column("left_bias", left, left_bias, detach)
            right = factors.with_column("right_bias", right, right_bias, detach)
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
        factors.check_factor("matrix", matrix, (output.dim, input.size), f"{output.title} × {input.title}")
        factors.check_output(output)
        lifted = factors.with_column("bias", checks.owned(matrix, detach=detach), None)
        left = torch.zeros_like(lifted)
        left[:, -1] = 1
        eye = torch.eye(len(matrix), dtype=lifted.dtype, device=lifted.device)
        return trusted(cls, left, lifted, eye, input.with_constant(), output)

    def __repr__(self) -> str:
        """For example "BilinearTensor('pixels' (784+1) → 'digits' (10), 300 hidden units, float32)"."""
        units, numbers = factors.counted(self.hidden), shown.numbers(self.left)
        return f"BilinearTensor({self.input.title} → {self.output.title}, {units}, {numbers})"

    @property
    def hidden(self) -> int:
        """Number of hidden units h, the ones that carry folded biases included."""
        return len(self.left)

    @property
    def reads_hidden(self) -> bool:
        """Whether the outputs are the hidden units themselves, D = I, as before a read-out."""
        o, h = self.down.shape
        eye = torch.eye(o, dtype=self.down.dtype, device=self.down.device)
        return o == h and checks.holds((self.down == eye).all(), False)

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
        x = self.input.fold(x, self.left)
        if y is None:
            return ((x @ self.left.T) * (x @ self.right.T)) @ self.down.T
        y = self.input.fold(y, self.left)
        factors.check_together(x, y)
        both = (x @ self.left.T) * (y @ self.right.T) + (x @ self.right.T) * (y @ self.left.T)
        return (both / 2) @ self.down.T

    def kernel(self, u: Float[Tensor, " o"] | str | int, *, detach: bool = True) -> Kernel:
        """Q_u = Σ_o u_o B_o, so that u·y = x'ᵀ Q_u x'.

        Examples:
            >>> W = torch.ones(1, 2)
            >>> B = BilinearTensor.from_layer(W, W, input=Space("x", 2), output=Space("y", 1, ("square of the sum",)))
            >>> B.kernel("square of the sum").dense().tolist()
            [[1.0, 1.0], [1.0, 1.0]]

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
        factors.check_factor("direction", u, (self.output.dim,), f"output {self.output.title}")
        weights = factors.given(u, self.down, detach) @ self.down
        factors.check_range("a kernel", weights)
        return trusted(Kernel, self.left, self.right, weights, self.input, "")

    def read(self, d: Dictionary) -> BilinearTensor:
        """The tensor of the codes: a = duals (y − b) is quadratic in x too, with down' = duals · down.

        Examples:
            >>> B = BilinearTensor.from_layer(torch.eye(2), torch.eye(2), input=Space("x", 2), output=Space("y", 2))
            >>> B.read(Dictionary.from_atoms(torch.tensor([[1.0, 1.0]]), B.output))(torch.tensor([3.0, 4.0]))
            tensor([12.5000])

        The pseudoinverse trick. The codes rebuild y exactly when the atoms span the output space; otherwise they
        rebuild its projection on the atoms.

        Raises:
            SpaceError: the dictionary is over another space than `output`.
        """
        instance("dictionary", d, Dictionary)
        self.output.require(d.space, "a dictionary")
        tensor = self if d.offset is None else self.shift(-d.offset, detach=False)
        down = factors.given(d.duals, self.down, False) @ tensor.down
        factors.check_range("codes", down)
        return trusted(BilinearTensor, tensor.left, tensor.right, down, tensor.input, d.features)

    def pullback(self, d: Dictionary) -> BilinearTensor:
        """The layer as a function of codes, a ↦ g(Fᵀa + b): every kernel becomes F Q Fᵀ (left' = L Fᵀ).

        Examples:
            >>> B = BilinearTensor.from_layer(torch.eye(2), torch.eye(2), input=Space("x", 2), output=Space("y", 2))
            >>> B.pullback(Dictionary.from_atoms(torch.tensor([[1.0, 2.0]]), B.input))(torch.tensor([3.0]))  # at 3, 6
            tensor([ 9., 36.])

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
        rows = factors.given(rows, self.left, False)
        left, right = self.left @ rows.T, self.right @ rows.T
        factors.check_range("a layer of features", left, right)
        return trusted(BilinearTensor, left, right, self.down, input, self.output)

    def then(self, matrix: Float[Tensor, "p o"], output: Space, *, detach: bool = True) -> BilinearTensor:
        """The tensor of M y: a linear map after the layer, for example its read-out.

        Examples:
            >>> B = BilinearTensor.from_layer(torch.eye(2), torch.eye(2), input=Space("x", 2), output=Space("y", 2))
            >>> B.then(torch.tensor([[1.0, 1.0]]), Space("sum", 1))(torch.tensor([3.0, 4.0]))
            tensor([25.])

        Args:
            matrix: M; output: space of M y; detach: False keeps the graph of M.

        Raises:
            ShapeError: the matrix is not (`output.dim` of the result, `output.dim` of this tensor).
        """
        instance("output", output, Space)
        factors.check_factor("matrix", matrix, (output.dim, self.output.dim), f"{output.title} × {self.output.title}")
        factors.check_output(output)
        down = factors.given(matrix, self.down, detach) @ self.down
        factors.check_range("a layer with its read-out", down)
        return trusted(BilinearTensor, self.left, self.right, down, self.input, output)

    def centered(self) -> BilinearTensor:
        """The tensor less its mean over outputs: the same softmax, and kernels that can be compared across classes.

        Examples:
            >>> B = BilinearTensor.from_layer(torch.eye(2), torch.eye(2), input=Space("x", 2), output=Space("y", 2))
            >>> B.centered()(torch.tensor([3.0, 4.0]))  # 9 and 16 less their mean
            tensor([-3.5000,  3.5000])

        One vector added to all rows of a read-out changes no prediction, so only the centred read-out means something.
        """
        down = self.down - self.down.mean(dim=0, keepdim=True)
        factors.check_range("a centred layer", down)
        return trusted(BilinearTensor, self.left, self.right, down, self.input, self.output)

    def shift(self, e: Float[Tensor, " o"], *, detach: bool = True) -> BilinearTensor:
        """The tensor of y + e: one more hidden unit that is always 1 (left = right = e_const, down = e).

        Args:
            e: (o,), converted to the tensor's type; detach: False keeps the graph of e.
        """
        return self._shifted("shift", e, detach)

    def _shifted(self, name: str, e: Tensor, detach: bool) -> BilinearTensor:
        factors.check_factor(name, e, (self.output.dim,), f"output {self.output.title}")
        tensor = self.fold()
        unit = tensor.left.new_zeros(1, tensor.input.dim)
        unit[0, -1] = 1
        e = factors.given(e, self.down, detach)
        factors.check_range(name, e)
        left, right = torch.cat([tensor.left, unit]), torch.cat([tensor.right, unit])
        down = torch.cat([tensor.down, e[:, None]], dim=1)
        return trusted(BilinearTensor, left, right, down, tensor.input, tensor.output)

    def fold(self) -> BilinearTensor:
        """The same function over the input space with its constant coordinate (a column of zeros in L and R)."""
        if self.input.constant:
            return self
        left, right = factors.with_column("bias", self.left, None), factors.with_column("bias", self.right, None)
        return trusted(BilinearTensor, left, right, self.down, self.input.with_constant(), self.output)

    def to(self, target: torch.dtype | torch.device | str) -> BilinearTensor:
        """The same tensor in float32 or float64, or on another device.

        Raises:
            BilensError: another target, or numbers beyond the range of the type.
        """
        left, right, down = factors.moved("a tensor", target, self.left, self.right, self.down)
        return trusted(BilinearTensor, left, right, down, self.input, self.output)

    def __add__(self, other: BilinearTensor) -> BilinearTensor:
        """The sum of two layers side by side: their hidden units together, in the wider of the two types."""
        instance("the other one", other, BilinearTensor)
        a, b = (self.fold(), other.fold()) if self.input.constant or other.input.constant else (self, other)
        a._require(b)
        work = torch.promote_types(a.left.dtype, b.left.dtype)
        a, b = a.to(work), b.to(a.left.device).to(work)
        left, right = torch.cat([a.left, b.left]), torch.cat([a.right, b.right])
        return trusted(BilinearTensor, left, right, torch.cat([a.down, b.down], dim=1), a.input, a.output)

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
        factors.check_range("a layer times a number", down)
        return trusted(BilinearTensor, self.left, self.right, down, self.input, self.output)

    __rmul__ = __mul__

    def gram(self) -> Float[Tensor, "o o"]:
        """⟨B_o, B_p⟩ for every pair of outputs: D G Dᵀ with the hidden Gram G, in float64.

        Raises:
            BilensError: a product beyond the range of float64.
        """
        left, right, down, exponents = self._units
        gram = factors.hidden_gram(left, right, left, right)
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
        if size > whole("limit", limit, 0):
            raise BilensError(
                f"a dense tensor of {self.output.dim}×{self.input.dim}×{self.input.dim} = {size:,} bytes",
                f"at most {limit:,} bytes",
                "work on the factors, or pass a larger limit",
            )
        return torch.stack([self.kernel(o).dense() for o in range(self.output.dim)])

    def match(self, d: Dictionary) -> tuple[BilinearTensor, Dictionary]:
        """This tensor and a dictionary of its input, both folded when one of them needs the constant coordinate."""
        instance("dictionary", d, Dictionary)
        tensor = self
        if self.input.constant or d.space.constant or d.offset is not None:
            tensor, d = self.fold(), d.fold()
        tensor.input.require(d.space, "a dictionary")
        return tensor, d
