"""Input-pair vectors: what a layer answers to pairs of input features, streamed from the factors.

For atoms v_i of the (folded) input space and codes a, two objects carry the name "pair vector" in the literature:

- polarised, r_ij = B(v_i, v_j), for which Σ_ij a_i a_j r_ij = g(Σ a_i v_i) exactly;
- two-hot, u_ij = g(v_i + v_j) = r_ii + r_jj + 2 r_ij, the founding draft's sentence, for which
  Σ_ij a_i a_j u_ij = 2 g(x) + 2 (Σ a) Σ_i a_i g(v_i), which is not g(x).

Pairs are taken with i ≤ j: weight 2 on i < j rebuilds g, and √2 on i < j gives the singular values of B. The latter
rows are a third object, the symmetric s_ij.
"""

from bilens.pairs.codes import PairCodes, contract
from bilens.pairs.order import count, multiplicity, permuted, unrank
from bilens.pairs.streams import PairStream, SampledStream, sampled, stream
from bilens.pairs.vectors import Kind, PairResponses, polarized, symmetric, two_hot
from bilens.pairs.weights import moment_weights, norms, second_moments

__all__ = [
    "Kind",
    "PairCodes",
    "PairResponses",
    "PairStream",
    "SampledStream",
    "contract",
    "count",
    "moment_weights",
    "multiplicity",
    "norms",
    "permuted",
    "polarized",
    "sampled",
    "second_moments",
    "stream",
    "symmetric",
    "two_hot",
    "unrank",
]
