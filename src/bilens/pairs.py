"""Input-pair vectors: what a layer answers to pairs of input features, streamed from the factors.

For atoms v_i of the (folded) input space and codes a, two objects carry the name "pair vector" in the literature:

- polarised, r_ij = B(v_i, v_j), for which Σ_ij a_i a_j r_ij = g(Σ a_i v_i) exactly;
- two-hot, u_ij = g(v_i + v_j) = r_ii + r_jj + 2 r_ij, the founding draft's sentence, for which
  Σ_ij a_i a_j u_ij = 2 g(x) + 2 (Σ a) Σ_i a_i g(v_i), which is not g(x).

Pairs are taken with i ≤ j: weight 2 on i < j rebuilds g, and √2 on i < j gives the singular values of B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor, Kernel


def count(m: int) -> int:
    """How many pairs i ≤ j there are of m features: m(m+1)/2."""
    return m * (m + 1) // 2


def multiplicity(i: Int[Tensor, " b"], j: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """How often an unordered pair stands in Σ_ij: 1 when i = j, else 2; its root weighs rows for singular values."""
    return 2 - (i == j).to(i.dtype)


def unrank(t: Int[Tensor, " b"], m: int) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
    """The t-th pair (i, j), i ≤ j, of m features, counted row by row: (0,0), (0,1) … (0,m−1), (1,1) …

    Row i starts at i·m − i(i−1)/2; its inverse is a root, corrected by one where rounding moved it.
    """
    b = 2 * m + 1
    i = ((b - torch.sqrt((b * b - 8 * t).double())) / 2).floor().to(torch.int64)
    i = i - (i * m - i * (i - 1) // 2 > t).to(torch.int64)
    i = i + ((i + 1) * m - (i + 1) * i // 2 <= t).to(torch.int64)
    return i, i + t - (i * m - i * (i - 1) // 2)


@dataclass(frozen=True, eq=False)
class Features:
    """A layer prepared to answer pairs of input features: what each atom is to each hidden unit.

    Args:
        left: (m, h), row i is L v_i; right: (m, h), row i is R v_i.
        down: (o, h), or None when the layer is studied before its read-out (D = I).

    Raises:
        ShapeError: the shapes do not fit together.
    """

    left: Float[Tensor, "m h"]
    right: Float[Tensor, "m h"]
    down: Float[Tensor, "o h"] | None

    def __post_init__(self) -> None:
        if self.left.ndim != 2 or self.left.shape != self.right.shape:
            raise ShapeError(
                f"left of shape {tuple(self.left.shape)} and right of {tuple(self.right.shape)}",
                "one shape (features, hidden)",
                "use Features.of",
            )
        if self.down is not None and (self.down.ndim != 2 or self.down.shape[1] != self.left.shape[1]):
            raise ShapeError(
                f"down of shape {tuple(self.down.shape)}", f"(outputs, {self.left.shape[1]})", "use Features.of"
            )

    @classmethod
    def of(cls, tensor: BilinearTensor, dictionary: Dictionary | None = None) -> Features:
        """Prepare a tensor; without a dictionary the features are the coordinates of its (folded) input space."""
        if dictionary is not None:
            tensor = tensor.pullback(dictionary)
        down = tensor.down
        eye = down.shape[0] == down.shape[1] and bool((down == torch.eye(len(down)).to(down)).all())
        return cls(tensor.left.T.contiguous(), tensor.right.T.contiguous(), None if eye else down)

    @property
    def width(self) -> int:
        """Size of a pair vector, o."""
        return self.left.shape[1] if self.down is None else len(self.down)

    def polarized(self, i: Int[Tensor, " b"], j: Int[Tensor, " b"]) -> Float[Tensor, "b o"]:
        """r_ij = ½ D[(L v_i ⊙ R v_j) + (R v_i ⊙ L v_j)], one pair a row."""
        rows = self.left[i].mul_(self.right[j]).addcmul_(self.right[i], self.left[j]).mul_(0.5)
        return rows if self.down is None else rows @ self.down.T

    def two_hot(self, i: Int[Tensor, " b"], j: Int[Tensor, " b"]) -> Float[Tensor, "b o"]:
        """u_ij = D[L(v_i + v_j) ⊙ R(v_i + v_j)], one pair a row."""
        rows = (self.left[i] + self.left[j]).mul_(self.right[i] + self.right[j])
        return rows if self.down is None else rows @ self.down.T


def polarized(
    tensor: BilinearTensor, i: Int[Tensor, " b"], j: Int[Tensor, " b"], dictionary: Dictionary | None = None
) -> Float[Tensor, "b o"]:
    """Polarised pair vectors r_ij = B(v_i, v_j) = ½[g(v_i+v_j) − g(v_i) − g(v_j)] (+ ½g(0) with unfolded biases).

    They satisfy Σ_ij a_i a_j r_ij = g(Σ a_i v_i) exactly, the sum over all i and j.

    Args:
        tensor: the layer; its pairs are those of its folded input, the constant coordinate being the last feature.
        i, j: feature numbers, (b,).
        dictionary: the features v_i; the coordinates of the input when None.

    Raises:
        BilensError: a number outside 0 … m−1. ShapeError: i and j of different lengths.

    Source: arXiv 2410.08417; the founding draft's "input pairs as a basis", corrected.
    """
    features = Features.of(tensor, dictionary)
    _check_numbers(i, j, len(features.left))
    return features.polarized(i, j)


def two_hot(
    tensor: BilinearTensor, i: Int[Tensor, " b"], j: Int[Tensor, " b"], dictionary: Dictionary | None = None
) -> Float[Tensor, "b o"]:
    """The draft's pair vectors u_ij = g(v_i + v_j) = r_ii + r_jj + 2 r_ij: the output when the input is v_i + v_j.

    They do not rebuild g: Σ_ij a_i a_j u_ij = 2 g(x) + 2 (Σ a) Σ_i a_i g(v_i) with x = Σ a_i v_i. With i = j this is
    g(2 v_i) = 4 r_ii. In a folded tensor v_i + v_j adds the constant coordinates of the atoms like any other.

    Args and Raises: as `polarized`.

    Source: founding draft, "Input pairs can act as a basis for bilinear outputs".
    """
    features = Features.of(tensor, dictionary)
    _check_numbers(i, j, len(features.left))
    return features.two_hot(i, j)


@dataclass(frozen=True, eq=False)
class PairStream:
    """Every pair i ≤ j once an epoch, in a seeded order, one batch at a time; any batch can be asked for directly.

    The order is a keyed permutation computed batch by batch, so that memory is one batch whatever the number of pairs,
    and a run that was interrupted continues at its batch.

    Args:
        features: the prepared layer.
        kind: which pair vector the rows are.
        batch_size: pairs a batch; the last batch of an epoch has what is left.
        seed: order of the pairs; every epoch has its own.

    Raises:
        BilensError: a batch size below 1.
    """

    features: Features
    kind: Literal["polarized", "two_hot"]
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size)

    @property
    def width(self) -> int:
        """Size of a pair vector."""
        return self.features.width

    @property
    def rows(self) -> int:
        """Pairs an epoch, m(m+1)/2."""
        return count(len(self.features.left))

    def __len__(self) -> int:
        """Batches an epoch."""
        return (self.rows + self.batch_size - 1) // self.batch_size

    def pairs(self, n: int) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Feature numbers (i, j) of the n-th batch, counted from the first epoch on."""
        epoch, position = divmod(n, len(self))
        start = position * self.batch_size
        place = torch.arange(start, min(start + self.batch_size, self.rows), device=self.features.left.device)
        return unrank(permuted(place, self.rows, self.seed + 0x9E3779B1 * epoch), len(self.features.left))

    def batch(self, n: int) -> Float[Tensor, "b o"]:
        """Pair vectors of the n-th batch, one a row."""
        return _vectors(self.features, self.kind, *self.pairs(n))


def stream(
    tensor: BilinearTensor, dictionary: Dictionary | None = None, *, batch_size: int = 4096, seed: int = 0
) -> PairStream:
    """A stream of the polarised pair vectors r_ij, for which Σ_ij a_i a_j r_ij = g(Σ a_i v_i).

    Args:
        tensor: the layer. dictionary: the features; the input's coordinates (the constant included) when None.
        batch_size: pairs a batch, at least 1. seed: order of the pairs.

    Raises:
        BilensError: a batch size below 1. SpaceError: a dictionary of another space.
    """
    return _stream(tensor, dictionary, "polarized", batch_size, seed)


def two_hot_stream(
    tensor: BilinearTensor, dictionary: Dictionary | None = None, *, batch_size: int = 4096, seed: int = 0
) -> PairStream:
    """A stream of the draft's pair vectors u_ij = g(v_i + v_j); see `two_hot` for what they do and do not rebuild.

    Args and Raises: as `stream`.
    """
    return _stream(tensor, dictionary, "two_hot", batch_size, seed)


@dataclass(frozen=True, eq=False)
class SampledStream:
    """Pairs i ≤ j drawn with replacement, pair t with the chance p_t ∝ its weight; any batch can be asked for directly.

    Training on the stream minimises Σ_t p_t ‖r_t − r̂_t‖². For a mean over all N pairs alike, weigh pair t by
    1/(N p_t), which `importance` gives: the weighted mean over a batch is unbiased for Σ_t f(r_t)/N where f is 0
    wherever p is 0.

    Args:
        features: the prepared layer; kind: which pair vector the rows are.
        ends: (pairs,), running sums of the chances in the order of `unrank`, the last one 1; float64.
        batch_size: pairs a batch; seed: batch n depends on (seed, n) alone.

    Raises:
        BilensError: a batch size below 1. ShapeError: not one chance a pair.

    Memory: one number a pair beside a batch.
    """

    features: Features
    kind: Literal["polarized", "two_hot"]
    ends: Float[Tensor, " pairs"]
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size)
        _check_one_a_pair("chances", self.ends, len(self.features.left))

    @property
    def width(self) -> int:
        """Size of a pair vector."""
        return self.features.width

    @property
    def rows(self) -> int:
        """Pairs an epoch: as many draws as there are pairs."""
        return len(self.ends)

    def __len__(self) -> int:
        """Batches an epoch."""
        return (self.rows + self.batch_size - 1) // self.batch_size

    def pairs(self, n: int) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Feature numbers (i, j) of the n-th batch."""
        return unrank(self._places(n), len(self.features.left))

    def batch(self, n: int) -> Float[Tensor, "b o"]:
        """Pair vectors of the n-th batch, one a row."""
        return _vectors(self.features, self.kind, *self.pairs(n))

    def importance(self, n: int) -> Float[Tensor, " b"]:
        """1/(N p_t) of each pair of the n-th batch, N the number of pairs: 1 where all are alike."""
        places = self._places(n)
        before = torch.where(places > 0, self.ends[places - 1], 0)
        return 1 / (self.rows * (self.ends[places] - before))

    def _places(self, n: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B1 + n) % 2**63)
        drawn = torch.rand(self.batch_size, generator=generator, dtype=torch.float64).to(self.ends.device)
        # The first end beyond the number drawn: a pair of chance 0 ends where the pair before it does.
        return torch.searchsorted(self.ends, drawn, right=True).clamp(max=self.rows - 1)


def sampled(
    tensor: BilinearTensor,
    weights: Float[Tensor, " pairs"],
    dictionary: Dictionary | None = None,
    *,
    kind: Literal["polarized", "two_hot"] = "polarized",
    batch_size: int = 4096,
    seed: int = 0,
) -> SampledStream:
    """A stream of pair vectors drawn with chances in proportion to weights, with replacement.

    Args:
        tensor: the layer. dictionary: the features; the input's coordinates (the constant included) when None.
        weights: (m(m+1)/2,), one a pair in the order of `unrank`, for example `norms` or `second_moments`.
        kind: which pair vector; batch_size: pairs a batch, at least 1; seed: of the draws.

    Raises:
        ShapeError: not one weight a pair. BilensError: a weight below 0 or not finite, or all of them 0; a batch size
            below 1. SpaceError: a dictionary of another space.
    """
    features = Features.of(tensor, dictionary)
    _check_one_a_pair("weights", weights, len(features.left))
    if not bool(torch.isfinite(weights).all() and (weights >= 0).all() and (weights > 0).any()):
        raise BilensError("weights of pairs that are negative, not finite or all 0", "0 or more", "correct them")
    if kind not in ("polarized", "two_hot"):
        raise BilensError(f"kind {kind!r}", "'polarized' or 'two_hot'", "choose one of them")
    ends = weights.double().cumsum(0)
    # What the last pair of a chance ends at is 1 exactly, so that no draw falls behind it.
    last = int(weights.nonzero()[-1])
    ends = ends / ends[last]
    ends[last:] = 1
    return SampledStream(features, kind, ends, batch_size, seed)


def norms(
    tensor: BilinearTensor, dictionary: Dictionary | None = None, *, block: int = 8192
) -> Float[Tensor, " pairs"]:
    """‖r_ij‖ of every pair i ≤ j, in the order of `unrank`, a block of pairs at a time.

    Args:
        tensor: the layer; dictionary: the features, the input's coordinates when None; block: pairs at a time.
    """
    features = Features.of(tensor, dictionary)
    m = len(features.left)
    found = []
    for start in range(0, count(m), block):
        places = torch.arange(start, min(start + block, count(m)), device=features.left.device)
        found.append(features.polarized(*unrank(places, m)).norm(dim=1))
    return torch.cat(found)


def second_moments(codes: Float[Tensor, "n m"]) -> Float[Tensor, " pairs"]:
    """E[(c_ij a_i a_j)²] of every pair i ≤ j, in the order of `unrank`; c is 1 on i = j and 2 off it.

    g(Σ a_i v_i) is Σ_{i≤j} c_ij a_i a_j r_ij, so that pair errors e_ij that are uncorrelated with one another make a
    mean squared error of the output of Σ_{i≤j} E[(c_ij a_i a_j)²] ‖e_ij‖².

    Args:
        codes: (n, m), one sample a row, over the (folded) features: lift inputs first, `tensor.input.lift(x)`.

    Raises:
        ShapeError: no matrix with at least one row.
    """
    if codes.ndim != 2 or 0 in codes.shape:
        raise ShapeError(f"codes of shape {tuple(codes.shape)}", "(samples, features)", "pass one sample a row")
    squares = codes.square()
    moments = (squares.T @ squares).div_(len(codes)).mul_(4)
    moments.diagonal().div_(4)
    i, j = torch.triu_indices(codes.shape[1], codes.shape[1], device=codes.device)
    return moments[i, j]


def contract(
    tensor: BilinearTensor,
    codes: Float[Tensor, "n m"],
    transform: Callable[[Tensor], Tensor] | None = None,
    dictionary: Dictionary | None = None,
) -> Float[Tensor, "n p"]:
    """Σ_ij a_i a_j f(r_ij), the sum over all i and j, for many samples at once and without holding the pairs.

    With f = identity it is g(Σ a_i v_i). With f the encoder and decoder of a sparse coder, f(r) = Aᵀ f_ij + b_dec, it
    is the layer run through the coder's features: Aᵀ(Σ a_i a_j f_ij) + (Σ a)² b_dec. With f the encoder alone, it is
    the code of each feature on each sample, xᵀ Φ_k x with Φ_k[i, j] = f_k(r_ij).

    Args:
        tensor: the layer.
        codes: (n, m), one sample a row, over the (folded) features: lift inputs first, `tensor.input.lift(x)`.
        transform: f, from pair vectors (b, o) to (b, p), one row from one row; the identity when None.
        dictionary: the features; the input's coordinates when None.

    Cost: m products of (n, m) and (m, p); features that are 0 in every sample are passed over.

    Raises:
        ShapeError: codes of another width.

    Source: `docs/theory.md`, "An SAE over pairs is a model of the layer".
    """
    features = Features.of(tensor, dictionary)

    def rows(i: int) -> Tensor:
        j = torch.arange(i, len(features.left), device=features.left.device)
        vectors = features.polarized(torch.full_like(j, i), j)
        return vectors if transform is None else transform(vectors)

    return _contract(codes, len(features.left), rows)


@dataclass(frozen=True, eq=False)
class PairCodes:
    """Sparse codes f_ij of every pair vector r_ij, i ≤ j: each feature k is an explicit kernel Φ_k[i, j] = f_k(r_ij).

    Through a sparse coder r_ij ≈ Aᵀ f_ij + b_dec, so that g(x) ≈ Aᵀ(Σ a_i a_j f_ij) + (Σ a)² b_dec.

    Args:
        starts: (pairs + 1,), where each pair's codes start in the next two; pairs in the order of `unrank`.
        features: (nnz,), numbers of the features that are not 0; values: (nnz,), their codes.
        width: how many features there are, d_sae.
        space: the (folded) space of i and j, m = `space.dim`, with m(m+1)/2 pairs.

    Raises:
        ShapeError: the shapes do not fit together.

    Source: `docs/theory.md`, "An SAE over pairs is a model of the layer".
    """

    starts: Int[Tensor, " starts"]
    features: Int[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]
    width: int
    space: Space

    def __post_init__(self) -> None:
        if len(self.starts) != count(self.space.dim) + 1 or self.features.shape != self.values.shape:
            raise ShapeError(
                f"codes of {len(self.starts) - 1} pairs, {len(self.features)} features and {len(self.values)} values",
                f"{count(self.space.dim)} pairs of {self.space.title} and one value a feature",
                "encode every pair once",
            )

    @classmethod
    def of(
        cls,
        tensor: BilinearTensor,
        encode: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]],
        dictionary: Dictionary | None = None,
        *,
        width: int | None = None,
        block: int = 4096,
        step: Callable[[int], object] | None = None,
    ) -> PairCodes:
        """Encode every pair vector r_ij once, a block at a time; only the codes that are not 0 are kept.

        Args:
            tensor: the layer; dictionary: the features.
            encode: from pair vectors (b, o) to codes (b, d_sae); or, which costs less, to the values and the numbers
                of those features that may be other than 0, (b, k) each, as a top-k coder knows them.
            width: d_sae, where `encode` gives values and features.
            block: pairs at a time; step: called with the number of pairs after each block.

        Raises:
            BilensError: values and features without a width.
        """
        return cls._of(
            tensor, dictionary, vectors=Features.polarized, encode=encode, width=width, block=block, step=step
        )

    @classmethod
    def of_two_hot(
        cls,
        tensor: BilinearTensor,
        encode: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]],
        dictionary: Dictionary | None = None,
        *,
        width: int | None = None,
        block: int = 4096,
        step: Callable[[int], object] | None = None,
    ) -> PairCodes:
        """As `of`, for the draft's two-hot vectors u_ij; `rebuild_two_hot` says what they rebuild."""
        return cls._of(tensor, dictionary, vectors=Features.two_hot, encode=encode, width=width, block=block, step=step)

    @classmethod
    def _of(
        cls,
        tensor: BilinearTensor,
        dictionary: Dictionary | None,
        *,
        vectors: Callable[[Features, Tensor, Tensor], Tensor],
        encode: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]],
        width: int | None,
        block: int,
        step: Callable[[int], object] | None,
    ) -> PairCodes:
        prepared = Features.of(tensor, dictionary)
        m = len(prepared.left)
        counts, features, values = [], [], []
        for start in range(0, count(m), block):
            places = torch.arange(start, min(start + block, count(m)), device=prepared.left.device)
            codes = encode(vectors(prepared, *unrank(places, m)))
            if isinstance(codes, Tensor):
                width = codes.shape[1]
                feature = torch.arange(width, device=codes.device).expand_as(codes)
            else:
                codes, feature = codes
            if width is None:
                raise BilensError("values and features without a width", "width = d_sae", "pass it")
            lit = codes != 0
            counts.append(lit.sum(dim=1))
            features.append(feature[lit].to(torch.int32))
            values.append(codes.detach()[lit])
            if step is not None:
                step(len(places))
        ends = torch.cat(counts).cumsum(0)
        space = tensor.input if dictionary is None else tensor.pullback(dictionary).input
        return cls(torch.cat([ends.new_zeros(1), ends]), torch.cat(features), torch.cat(values), width or 0, space)

    def kernel(self, feature: int, label: str = "") -> Kernel:
        """Φ_k[i, j] = f_k(r_ij), symmetric, so that xᵀ Φ_k x is the feature's code on x.

        Raises:
            BilensError: no such feature.
        """
        if not 0 <= feature < self.width:
            raise BilensError(f"feature {feature}", f"0 … {self.width - 1}", "choose one of these")
        entry = (self.features == feature).nonzero()[:, 0]
        i, j = unrank(torch.searchsorted(self.starts, entry, right=True) - 1, self.space.dim)
        phi = self.values.new_zeros(self.space.dim, self.space.dim)
        phi[i, j] = self.values[entry]
        phi[j, i] = self.values[entry]
        return Kernel.from_matrix(phi, self.space, label)

    def expectation(self, second_moment: Float[Tensor, "m m"]) -> Float[Tensor, " d_sae"]:
        """E[xᵀ Φ_k x] = Σ_ij E[a_i a_j] f_k(r_ij) for every feature, given E[a aᵀ] over the (folded) features."""
        i, j = torch.triu_indices(self.space.dim, self.space.dim, device=self.values.device)
        weights = (second_moment[i, j] * multiplicity(i, j)).to(self.values)
        products = weights.repeat_interleave(self.starts.diff()) * self.values
        return self.values.new_zeros(self.width).index_add_(0, self.features, products)

    def decode(self, start: int, stop: int, atoms: Float[Tensor, "d_sae p"]) -> Float[Tensor, "pairs p"]:
        """Aᵀ f of the pairs start … stop−1, in the order of `unrank`, without the coder's bias."""
        first, last = int(self.starts[start]), int(self.starts[stop])
        return torch.nn.functional.embedding_bag(
            self.features[first:last].to(torch.int64),
            atoms,
            self.starts[start:stop] - first,
            mode="sum",
            per_sample_weights=self.values[first:last].to(atoms),
        )

    def contract(self, codes: Float[Tensor, "n m"], atoms: Float[Tensor, "d_sae p"]) -> Float[Tensor, "n p"]:
        """Aᵀ(Σ_ij a_i a_j f_ij) for many samples: the layer through the features, without the coder's bias.

        Add (Σ a)² b_dec for the whole reconstruction of g(x).

        Args:
            codes: (n, m), one sample a row, over the (folded) features; atoms: (d_sae, p), rows A_k or a map of them.
        """
        m = self.space.dim

        def rows(i: int) -> Tensor:
            start = i * m - i * (i - 1) // 2
            return self.decode(start, start + m - i, atoms)

        return _contract(codes, m, rows)

    def rebuild(
        self, codes: Float[Tensor, "n m"], atoms: Float[Tensor, "d_sae p"], *, bias: Float[Tensor, " p"]
    ) -> Float[Tensor, "n p"]:
        """g(x) ≈ Aᵀ(Σ_ij a_i a_j f_ij) + (Σ a)² b_dec, from codes of the polarised vectors r_ij ≈ Aᵀ f_ij + b_dec.

        Args:
            codes: (n, m), one sample a row; atoms: (d_sae, p), A or a map of it; bias: (p,), b_dec, mapped alike.
        """
        return self.contract(codes, atoms) + codes.sum(dim=1, keepdim=True).square() * bias

    def rebuild_two_hot(
        self, codes: Float[Tensor, "n m"], atoms: Float[Tensor, "d_sae p"], *, bias: Float[Tensor, " p"]
    ) -> Float[Tensor, "n p"]:
        """g(x) from codes of the two-hot vectors û_ij = Aᵀ f_ij + b_dec: ½ Σ_ij a_i a_j û_ij − ¼ (Σ a) Σ_i a_i û_ii.

        From r_ij = ½(u_ij − r_ii − r_jj) with r_ii = ¼ u_ii; exact when û = u.

        Args:
            codes, atoms, bias: as `rebuild`.
        """
        m = self.space.dim
        places = [i * m - i * (i - 1) // 2 for i in range(m)]
        itself = torch.cat([self.decode(place, place + 1, atoms) for place in places]) + bias
        own = codes.sum(dim=1, keepdim=True) * (codes @ itself.to(codes))
        return self.rebuild(codes, atoms, bias=bias) / 2 - own / 4


def permuted(place: Int[Tensor, " b"], size: int, seed: int) -> Int[Tensor, " b"]:
    """Where a seeded permutation of 0 … size−1 puts these places: four Feistel rounds, walked until inside the range.

    Each value is computed on its own, so that no list of `size` numbers is ever held.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), cycle walking.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = place.to(torch.int64).clone()
    todo = torch.ones_like(value, dtype=torch.bool)
    while bool(todo.any()):
        high, low = value[todo] >> half, value[todo] & mask
        for turn in range(4):
            high, low = low, high ^ (_mixed(low, seed * 4 + turn) & mask)
        value[todo] = (high << half) | low
        todo = value >= size
    return value


def _mixed(value: Tensor, key: int) -> Tensor:
    """A hash of 32-bit numbers: multiply, add a key, fold the high bits down; all products stay below 2⁶³."""
    key = (key * 0x9E3779B97F4A7C15 + 0x7F4A7C15) & 0x7FFFFFFF
    value = ((value ^ key) * 0x45D9F3B) & 0x7FFFFFFF
    value = ((value ^ (value >> 15)) * 0x2C1B3C6D + key) & 0x7FFFFFFF
    return value ^ (value >> 13)


def _contract(codes: Tensor, m: int, rows: Callable[[int], Tensor]) -> Tensor:
    """Σ_ij a_i a_j f_ij, given a function that returns the rows f_ij of one i and all j ≥ i."""
    if codes.ndim != 2 or codes.shape[1] != m:
        raise ShapeError(f"codes of shape {tuple(codes.shape)}", f"(samples, {m})", "lift the inputs first")
    total = codes.new_zeros(len(codes), rows(m - 1).shape[1])
    for i in (codes != 0).any(dim=0).nonzero()[:, 0].tolist():
        weighted = codes[:, i:] * 2
        weighted[:, 0] = codes[:, i]
        total += (weighted @ rows(i).to(codes)).mul_(codes[:, i, None])
    return total


def _stream(
    tensor: BilinearTensor,
    dictionary: Dictionary | None,
    kind: Literal["polarized", "two_hot"],
    batch_size: int,
    seed: int,
) -> PairStream:
    return PairStream(Features.of(tensor, dictionary), kind, batch_size, seed)


def _vectors(features: Features, kind: Literal["polarized", "two_hot"], i: Tensor, j: Tensor) -> Tensor:
    return features.polarized(i, j) if kind == "polarized" else features.two_hot(i, j)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise BilensError(f"batch_size = {batch_size}", "at least 1", "choose the pairs a batch")


def _check_one_a_pair(name: str, value: Tensor, m: int) -> None:
    if value.shape != (count(m),):
        raise ShapeError(f"{name} of shape {tuple(value.shape)}", f"({count(m)},)", "give one number a pair i ≤ j")


def _check_numbers(i: Tensor, j: Tensor, m: int) -> None:
    if i.shape != j.shape or i.ndim != 1:
        raise ShapeError(f"i of shape {tuple(i.shape)} and j of {tuple(j.shape)}", "two lists", "pass one j for each i")
    for name, value in (("i", i), ("j", j)):
        if len(value) and not (int(value.min()) >= 0 and int(value.max()) < m):
            raise BilensError(f"{name} from {int(value.min())} to {int(value.max())}", f"0 … {m - 1}", "correct it")
