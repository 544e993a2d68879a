"""Sums over all pairs of functions of their vectors, and the sparse codes of all pairs: a layer through an SAE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, trusted, whole
from bilens._internal.shown import line
from bilens.dictionary import Dictionary
from bilens.errors import BilensError, ShapeError
from bilens.kernel import Kernel
from bilens.pairs.order import count, first, multiplicity, unranked
from bilens.pairs.streams import PairStream
from bilens.pairs.vectors import PairResponses
from bilens.space import Space
from bilens.tensor import BilinearTensor


def contract(
    tensor: BilinearTensor,
    codes: Float[Tensor, "n m"],
    transform: Callable[[Tensor], Tensor] | None = None,
    dictionary: Dictionary | None = None,
    *,
    detach: bool = True,
) -> Float[Tensor, "n p"]:
    """Σ_ij a_i a_j f(r_ij), the sum over all i and j, for many samples at once and without holding the pairs.

    With f = identity it is g(Σ a_i v_i). With f the encoder and decoder of an SAE, f(r) = Aᵀ f_ij + b_dec, it
    is the layer with its pair vectors replaced by the SAE's reconstructions: Aᵀ(Σ a_i a_j f_ij) + (Σ a)² b_dec. With
    f the encoder alone, it is the code of each feature on each sample, xᵀ Φ_k x with Φ_k[i, j] = f_k(r_ij).

    Args:
        tensor: the layer.
        codes: (n, m), one sample per row, over the (folded) features: fold inputs first, `tensor.input.fold(x)`.
        transform: f, from pair vectors (b, o) to (b, p), one row from one row; the identity when None.
        dictionary: the features; the input's coordinates when None.
        detach: False keeps the graph: that of `codes`, of the parameters of `transform`, of a tensor that has one.

    Cost: m products of (n, m) and (m, p); a feature costs nothing for the samples in which it is 0, if those are most.

    Raises:
        ShapeError: codes of another width. BilensError: codes of whole, complex or 8-bit numbers, sparse ones, or codes
            on another device. Codes of another floating-point type are converted to the tensor's.

    Source: `docs/theory.md`, "An SAE over pairs is a model of the layer".
    """
    features = PairResponses.of(tensor, dictionary)
    detach = checks.flag("detach", detach)
    m = len(features)

    def rows(i: int) -> Tensor:
        vectors = features.span("polarized", first(i, m), first(i + 1, m))
        return vectors if transform is None else transform(vectors)

    with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
        return _contract(codes, m, rows, features.left)


@dataclass(frozen=True, eq=False, repr=False)
class PairCodes:
    """Sparse codes f_ij of every pair vector r_ij, i ≤ j: each feature k is an explicit kernel Φ_k[i, j] = f_k(r_ij).

    Through an SAE r_ij ≈ Aᵀ f_ij + b_dec, so that g(x) ≈ Aᵀ(Σ a_i a_j f_ij) + (Σ a)² b_dec.

    The codes are copied and have no graph. What is computed from them has their type, to which vectors and atoms of
    another floating-point type are converted; gradients flow to `atoms` and `bias` alone where these have a graph.

    Args:
        starts: (pairs + 1,), where each pair's codes start in the next two; pairs in the order of `unrank`.
        features: (nnz,), numbers of the features that are not 0; values: (nnz,), their codes.
        width: how many features there are, d_sae.
        space: the (folded) space of i and j, m = `space.dim`, with m(m+1)/2 pairs.

    Raises:
        ShapeError: the shapes do not fit together. BilensError: codes that are not finite or not in a dense
            floating-point tensor in memory.

    Source: `docs/theory.md`, "An SAE over pairs is a model of the layer".
    """

    starts: Int[Tensor, " starts"]
    features: Int[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]
    width: int
    space: Space

    __repr__ = line

    def __post_init__(self) -> None:
        checks.fields(self)
        for name in ("starts", "features", "values"):
            instance(name, getattr(self, name), Tensor)
        _check_sizes(self.starts, self.features, self.values, self.space)
        checks.weights("values", self.values)
        for name in ("starts", "features", "values"):
            object.__setattr__(self, name, checks.owned(getattr(self, name)))

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        stream: PairStream,
        encode: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]],
        *,
        width: int | None = None,
        step: Callable[[int], object] | None = None,
    ) -> PairCodes:
        """Encode every pair vector of a stream once, batch by batch, and keep the codes that are not 0. No gradients.

        Args:
            stream: the vectors in order, `stream(…, shuffle=False)`; two-hot ones rebuild the layer by
                `rebuild_two_hot`.
            encode: from pair vectors (b, o) to codes (b, d_sae); or, which costs less, to the values and the numbers
                of those features that may be other than 0, (b, k) each, as a top-k SAE knows them.
            width: d_sae, where `encode` gives values and features.
            step: called with the number of pairs after each batch.

        Raises:
            BilensError: a shuffled stream, or one of symmetric vectors; values and features without a width.
        """
        instance("stream", stream, PairStream, hint="make one with pairs.stream(tensor, shuffle=False)")
        for name, function in (("encode", encode), ("step", step)):
            if not callable(function) and (name == "encode" or function is not None):
                raise BilensError(checks.got(name, function), "a function")
        width = None if width is None else whole("width", width, 1)
        if stream.shuffle:
            raise BilensError("a shuffled stream", "a stream of pairs row by row", "pass shuffle=False")
        if stream.kind == "symmetric":
            raise BilensError("a stream of symmetric vectors", "polarised or two-hot ones", "pass `pairs.stream`")
        checks.in_memory("a layer", stream.features.left)
        counts, features, values = [], [], []
        for n in range(len(stream)):
            codes = encode(stream.batch(n))
            if isinstance(codes, Tensor):
                width = codes.shape[1]
                feature = torch.arange(width, device=codes.device).expand_as(codes)
            else:
                codes, feature = codes
            if width is None:
                raise BilensError("values and features without a width", "width = d_sae")
            active = codes != 0
            counts.append(active.sum(dim=1))
            features.append(feature[active].to(torch.int32))
            values.append(codes[active])
            if step is not None:
                step(len(active))
        ends = torch.cat(counts).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])
        found, numbers, space = torch.cat(values), torch.cat(features), stream.features.space
        checks.weights("codes", found)
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        _check_sizes(starts, numbers, found, space)
        return trusted(cls, starts, numbers, found, width or 0, space)

    def kernel(self, feature: int, label: str = "") -> Kernel:
        """Φ_k[i, j] = f_k(r_ij), symmetric, so that xᵀ Φ_k x is the feature's code on x.

        Raises:
            BilensError: no such feature.
        """
        feature = whole("feature", feature, 0, self.width - 1)
        entry = (self.features == feature).nonzero()[:, 0]
        i, j = unranked(torch.searchsorted(self.starts, entry, right=True) - 1, self.space.dim)
        phi = self.values.new_zeros(self.space.dim, self.space.dim)
        phi[i, j] = self.values[entry]
        phi[j, i] = self.values[entry]
        return Kernel.from_matrix(phi, self.space, label)

    def expectation(self, second_moment: Float[Tensor, "m m"]) -> Float[Tensor, " d_sae"]:
        """E[xᵀ Φ_k x] = Σ_ij E[a_i a_j] f_k(r_ij) for every feature, given E[a aᵀ] over the (folded) features.

        Raises:
            ShapeError: a second moment of another size.
        """
        m = self.space.dim
        checks.floating("second moment", second_moment)
        if tuple(second_moment.shape) != (m, m):
            raise ShapeError(f"a second moment of shape {tuple(second_moment.shape)}", f"({m}, {m})", "pass E[a aᵀ]")
        second_moment = checks.vectors("second moment", second_moment, self.values, m).detach()
        i, j = torch.triu_indices(self.space.dim, self.space.dim, device=self.values.device)
        weights = second_moment[i, j] * multiplicity(i, j)
        products = weights.repeat_interleave(self.starts.diff()) * self.values
        return self.values.new_zeros(self.width).index_add_(0, self.features, products)

    def decode(self, start: int, stop: int, atoms: Float[Tensor, "d_sae p"]) -> Float[Tensor, "pairs p"]:
        """Aᵀ f of the pairs start … stop−1, in the order of `unrank`, without the SAE's bias."""
        stop = whole("stop", stop, 0, len(self.starts) - 1)
        start = whole("start", start, 0, stop)
        first, last = int(self.starts[start]), int(self.starts[stop])
        checks.floating("atoms", atoms)
        if atoms.ndim != 2 or len(atoms) != self.width:
            raise ShapeError(f"atoms of shape {tuple(atoms.shape)}", f"({self.width}, outputs): one row per feature")
        atoms = checks.vectors("atoms", atoms, self.values, atoms.shape[1])
        return torch.nn.functional.embedding_bag(
            self.features[first:last].to(torch.int64),
            atoms,
            self.starts[start:stop] - first,
            mode="sum",
            per_sample_weights=self.values[first:last],
        )

    def contract(self, codes: Float[Tensor, "n m"], atoms: Float[Tensor, "d_sae p"]) -> Float[Tensor, "n p"]:
        """Aᵀ(Σ_ij a_i a_j f_ij) for many samples: the layer through the features, without the SAE's bias.

        Add (Σ a)² b_dec for the whole reconstruction of g(x).

        Args:
            codes: (n, m), one sample per row, over the (folded) features; atoms: (d_sae, p), rows A_k or a map of them.
        """
        m = self.space.dim

        def rows(i: int) -> Tensor:
            return self.decode(first(i, m), first(i + 1, m), atoms)

        return _contract(codes, m, rows, self.values)

    def rebuild(
        self, codes: Float[Tensor, "n m"], atoms: Float[Tensor, "d_sae p"], *, bias: Float[Tensor, " p"]
    ) -> Float[Tensor, "n p"]:
        """g(x) ≈ Aᵀ(Σ_ij a_i a_j f_ij) + (Σ a)² b_dec, from codes of the polarised vectors r_ij ≈ Aᵀ f_ij + b_dec.

        Args:
            codes: (n, m), one sample per row; atoms: (d_sae, p), A or a map of it; bias: (p,), b_dec, mapped alike.
        """
        total = self.contract(codes, atoms)
        codes, bias = (self._given(name, value) for name, value in (("codes", codes), ("bias", bias)))
        return total + codes.sum(dim=1, keepdim=True).square() * bias

    def rebuild_two_hot(
        self, codes: Float[Tensor, "n m"], atoms: Float[Tensor, "d_sae p"], *, bias: Float[Tensor, " p"]
    ) -> Float[Tensor, "n p"]:
        """g(x) from codes of the two-hot vectors û_ij = Aᵀ f_ij + b_dec: ½ Σ_ij a_i a_j û_ij − ¼ (Σ a) Σ_i a_i û_ii.

        From r_ij = ½(u_ij − r_ii − r_jj) with r_ii = ¼ u_ii; exact when û = u.

        Args:
            codes, atoms, bias: as `rebuild`.
        """
        rebuilt = self.rebuild(codes, atoms, bias=bias) / 2
        codes, bias = (self._given(name, value) for name, value in (("codes", codes), ("bias", bias)))
        m = self.space.dim
        places = [first(i, m) for i in range(m)]
        itself = torch.cat([self.decode(place, place + 1, atoms) for place in places]) + bias
        own = codes.sum(dim=1, keepdim=True) * (codes @ itself)
        return rebuilt - own / 4

    def _given(self, name: str, value: Tensor) -> Tensor:
        checks.floating(name, value)
        return checks.vectors(name, value, self.values, value.shape[-1] if value.ndim else 0)


def _contract(codes: Tensor, m: int, rows: Callable[[int], Tensor], like: Tensor) -> Tensor:
    """Σ_ij a_i a_j f_ij, given a function that returns the rows f_ij of one i and all j ≥ i; in the type of `like`."""
    checks.floating("codes", codes)
    if codes.ndim != 2 or codes.shape[1] != m:
        raise ShapeError(f"codes of shape {tuple(codes.shape)}", f"(samples, {m})", "fold the inputs first")
    checks.in_memory("codes", codes)
    codes = checks.vectors("codes", codes, like, m)
    total = codes.new_zeros(len(codes), rows(m - 1).shape[1])
    active = codes != 0
    for i, samples in enumerate(active.sum(dim=0).tolist()):
        if not samples:
            continue
        few = 2 * samples < len(codes)  # a pixel is black in most images: those need no product
        chosen = active[:, i].nonzero()[:, 0] if few else None
        part = codes[:, i:] if chosen is None else codes[chosen, i:]
        weighted = part * 2
        weighted[:, 0] = part[:, 0]
        added = (weighted @ rows(i).to(codes)).mul_(part[:, :1])
        if chosen is None:
            total += added
        else:
            total.index_add_(0, chosen, added)
    return total


def _check_sizes(starts: Tensor, features: Tensor, values: Tensor, space: Space) -> None:
    if starts.ndim != 1 or len(starts) != count(space.dim) + 1 or features.shape != values.shape:
        raise ShapeError(
            f"codes of {starts.numel() - 1} pairs, {features.numel()} features and {values.numel()} values",
            f"{count(space.dim)} pairs of {space.title} and one value per feature",
            "encode every pair once",
        )
