"""The strongest interactions of every output feature: exact, one output at a time, without all pairs of all outputs."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import pairs
from bilens._internal import checks
from bilens._internal.checks import flag, instance, whole
from bilens._internal.factors import checksum
from bilens._internal.scale import times_two_to
from bilens._internal.shown import line
from bilens.decompose._strongest import Matrices
from bilens.decompose.interactions import Interaction, TopInteractions
from bilens.decompose.linalg import (
    at_least_single,
    detach,
    fitting,
    folded_rows,
    largest_square,
    upward,
)
from bilens.decompose.many import spectra_stream
from bilens.dictionary import Dictionary
from bilens.errors import BilensError
from bilens.progress import bar
from bilens.space import Space
from bilens.tensor import BilinearTensor


@dataclass(frozen=True, eq=False, repr=False)
class StrongestInteractions:
    """The k strongest interactions of each of n outputs: y_o = Σ_{a≤b} c_abo z_a z_b, of which these are the largest.

    They are the pairs with the largest part of ‖C_o‖² = Σ_ab C_abo², in which a pair a < b counts twice: there
    c_abo = 2 C_abo, on the diagonal c_aao = C_aao, and their parts are c²/2 and c².

    Args:
        first, second: a ≤ b, (n, k), numbers of the input features, strongest pair first.
        coefficients: c with its sign, (n, k).
        energies: ‖C_o‖², (n,), in float64: a square leaves the range of float32 before its root does.
        left: (n,), at most the Frobenius norm of what the listed leave of C_o, rounded up.
        input: the space of the codes z; output: the outputs.

    Raises:
        ShapeError: the shapes do not fit together.
    """

    first: Int[Tensor, "n k"]
    second: Int[Tensor, "n k"]
    coefficients: Float[Tensor, "n k"]
    energies: Float[Tensor, " n"]
    left: Float[Tensor, " n"]
    input: Space
    output: Space

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        detach(self)
        checks.shapes(self, n=self.output.dim)

    def __len__(self) -> int:
        """How many outputs."""
        return len(self.coefficients)

    @property
    def shares(self) -> Float[Tensor, "n k"]:
        """What each pair holds of ‖C_o‖², between 0 and 1; 0 for an output that is 0."""
        mass = self.coefficients.double().square() / pairs.multiplicity(self.first, self.second)
        energies = self.energies.double()[:, None]
        return torch.where(energies > 0, mass / torch.where(energies > 0, energies, 1), 0).to(self.coefficients.dtype)

    @property
    def held(self) -> Float[Tensor, " n"]:
        """What all listed pairs together hold of ‖C_o‖²."""
        return self.shares.double().sum(dim=1).clamp(max=1).to(self.coefficients.dtype)

    @torch.no_grad()
    def bound(self, norm: Float[Tensor, "*m"] | float) -> Float[Tensor, "*m n"]:
        """|y_o − Σ listed c z_a z_b| ≤ `left` · ‖z'‖² for all codes z, rounded up; rounding of both sides is not in it.

        Args:
            norm: ‖z'‖, the norm of the codes with their constant coordinate.
        """
        left = self.left.double()
        return upward(largest_square(norm, self.input.dim, left, "norm")[..., None] * left, self.left.dtype)

    def __call__(self, codes: Float[Tensor, "m size"]) -> Float[Tensor, "m n"]:
        """Σ of the listed c_abo z_a z_b for each row of codes, in float64; the constant coordinate is added here.

        Raises:
            ShapeError: the last axis is not `input.size`. BilensError: codes that are not floating-point numbers.
        """
        z = folded_rows(self.input, codes, self.coefficients)
        y = [
            (z[:, a] * z[:, b]) @ c.double() for a, b, c in zip(self.first, self.second, self.coefficients, strict=True)
        ]
        return torch.stack(y, dim=1).to(self.coefficients.dtype)

    def top(self, output: str | int, k: int | None = None) -> TopInteractions:
        """The strongest pairs of one output with their labels: print it for a table.

        Args:
            output: its label or number; k: how many, all that are listed when None. Those that are 0 are left out.

        Raises:
            SpaceError: no such output. BilensError: k out of range.
        """
        n = self.output.index(output)
        k = self.first.shape[1] if k is None else whole("k", k, 1)
        found = zip(self.first[n], self.second[n], self.coefficients[n], self.shares[n], strict=True)
        return TopInteractions(
            Interaction(self.name(int(a)), self.name(int(b)), self.output.label(n), float(c), float(share))
            for a, b, c, share in list(found)[:k]
            if c != 0
        )

    def name(self, place: int) -> str:
        """Of an input feature; "constant" for the constant coordinate, whose label is the number of another."""
        place = whole("place", place, 0, self.input.dim - 1)
        return "constant" if self.input.constant and place == self.input.size else self.input.label(place)

    @classmethod
    def join(cls, parts: Sequence[StrongestInteractions], output: Space) -> StrongestInteractions:
        """The outputs of several records, one after another, as `Spectra.join`.

        Raises:
            BilensError: no parts, or parts of other inputs or another k.
        """
        instance("output", output, Space)
        parts = checks.several("parts", parts, "a list of StrongestInteractions", "pass [found]")
        for part in parts:
            instance("a part", part, StrongestInteractions)
        if len({(part.first.shape[1], part.input) for part in parts}) != 1:
            raise BilensError(f"{len(parts)} parts", "at least one, all of one input and k")
        names = ("first", "second", "coefficients", "energies", "left")
        joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], **joined, output=output)


@dataclass(frozen=True, eq=False, repr=False)
class StrongestStream:
    """The strongest interactions of many outputs, a batch at a time; any batch can be asked for directly.

    Made by `strongest_stream`. `store.save_batches` writes the batches to a folder, and continues where it stopped.

    Args:
        tensor: the layer, whose outputs are the output features; inputs: the dictionary of its input, or None.
        top, batch_size: as `strongest_stream`.
    """

    tensor: BilinearTensor
    inputs: Dictionary | None
    top: int
    batch_size: int

    __repr__ = line

    def __len__(self) -> int:
        """Batches."""
        return math.ceil(self.tensor.output.dim / self.batch_size)

    @property
    def features(self) -> Space:
        """The space of the codes."""
        return self.tensor.input if self.inputs is None else self.inputs.features

    @functools.cached_property
    def _matrices(self) -> Matrices:
        return Matrices(self.tensor, self.inputs)

    @torch.no_grad()
    def batch(self, n: int) -> StrongestInteractions:
        """The n-th batch; it depends on the arguments of the stream and on n alone, and carries no gradient.

        Raises:
            BilensError: no such batch, or coefficients that do not fit the type.
        """
        n = whole("batch", n, 0, len(self) - 1)
        output, made = self.tensor.output, self._matrices
        rows = range(n * self.batch_size, min((n + 1) * self.batch_size, output.dim))
        found = [made.strongest(row, self.top) for row in rows]
        first, second, values = (torch.stack(part) for part in zip(*found, strict=True))
        dtype = at_least_single(self.tensor.left.dtype)
        coefficients = fitting(values, made.power, dtype, "coefficients", 1e-10)
        some = slice(rows.start, rows.stop)
        energies, slack = made.energies[some], made.slack(self.top)[some]
        listed = (values.square() / pairs.multiplicity(first, second)).sum(dim=1)
        left = ((energies - listed).clamp(min=0) + slack).sqrt() + torch.finfo(dtype).eps * listed.sqrt()
        return StrongestInteractions(
            first,
            second,
            coefficients,
            fitting(energies, 2 * made.power, torch.float64, "squared norms", 1e-20),
            upward(times_two_to(left * (1 + 1e-12), made.power), dtype),
            self.features,
            Space(output.name, len(rows), tuple(output.label(row) for row in rows)),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What the batches depend on, as JSON values; weights and atoms by their checksums."""
        atoms = None if self.inputs is None else checksum(self.inputs.atoms)
        return {
            "stream": "strongest interactions",
            "batches": len(self),
            "outputs": self.tensor.output.dim,
            "top": self.top,
            "batch_size": self.batch_size,
            "weights": checksum(self.tensor.left, self.tensor.right, self.tensor.down),
            "atoms": atoms,
            "input": self.features.to_json(),
            "output": [self.tensor.output.name, list(self.tensor.output.labels or ())],
        }

    def __iter__(self) -> Iterator[StrongestInteractions]:
        return (self.batch(n) for n in range(len(self)))


@torch.no_grad()
def strongest_stream(
    tensor: BilinearTensor,
    inputs: Dictionary | None = None,
    outputs: Float[Tensor, "n o"] | Dictionary | None = None,
    top: int = 100,
    *,
    batch_size: int = 64,
) -> StrongestStream:
    """As `strongest`, a batch of outputs at a time, for results larger than memory.

    Args:
        batch_size: outputs per batch; the others as `strongest`.

    Raises:
        As `strongest`. BilensError: a batch size below 1.
    """
    instance("tensor", tensor, BilinearTensor)
    batch_size = whole("batch_size", batch_size, 1)
    tensor = spectra_stream(tensor, outputs, 1).tensor
    if inputs is not None:
        instance("inputs", inputs, Dictionary)
        tensor, inputs = tensor.match(inputs)
    size = tensor.input.dim if inputs is None else inputs.features.dim
    top = whole("top", top, 1)
    return StrongestStream(tensor, inputs, min(top, pairs.count(size)), batch_size)


def strongest(
    tensor: BilinearTensor,
    inputs: Dictionary | None = None,
    outputs: Float[Tensor, "n o"] | Dictionary | None = None,
    top: int = 100,
    *,
    progress: bool = False,
) -> StrongestInteractions:
    """For every output feature the pairs of input features that hold most of C_o = F Q_o Fᵀ, exact.

    Examples:
        >>> W, V = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 3.0], [1.0, 0.0]])
        >>> B = BilinearTensor.from_layer(
        ...     W, V, torch.ones(1, 2), input=Space("x", 2, ("age", "dose")), output=Space("y", 1, ("risk",))
        ... )
        >>> strongest(B, top=1).top("risk")
           first  second  output  coefficient  share
        1  age    dose    risk             +3  81.82%

    C_o is formed for one output at a time, a few rows at a time, in the type of the weights, and dropped; the strongest
    are computed again in float64, with ‖C_o‖² in float64 beside them. Where float32 cannot tell which pair is the last,
    by eight times the rounding that is seen, the output is done in float64.

    `interactions` gives all pairs of all outputs, m(m+1)/2 · o numbers; this one top · o.

    Args:
        tensor: the layer.
        inputs: features of its input, whose codes z are multiplied (an offset adds the constant atom); None for the
            coordinates of the input.
        outputs: directions (n, o), or a dictionary of the output space, whose duals are the directions; None for every
            output.
        top: pairs per output; all where there are fewer. progress: whether to show a bar.

    Returns:
        `StrongestInteractions` in the tensor's type, float32 at least. No gradients.

    Cost: per output 2hi² + 2mi² + m²i operations, or 2hm² where that is less; memory 256 m numbers of C_o, and the
    factors in both types. A pair cannot be left out unseen by a bound on norms: on random atoms that spares nothing.

    Raises:
        BilensError: top below 1, an argument of another type, or coefficients outside the range of the type.
        ShapeError: directions of another size. SpaceError: a dictionary of another space.
    """
    progress = flag("progress", progress)
    stream = strongest_stream(tensor, inputs, outputs, top)
    parts = []
    with bar("interactions", len(stream), show=progress) as step:
        for n in range(len(stream)):
            parts.append(stream.batch(n))
            step(1)
    return StrongestInteractions.join(parts, stream.tensor.output)


__all__ = ["StrongestInteractions", "StrongestStream", "strongest", "strongest_stream"]
