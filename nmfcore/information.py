"""Entropies and the information that a factorization carries: propositions 1 to 3 of the thesis (sections 3.2, 3.4).

Two things are measured. The rank-one parts of a joint distribution P(A, B) = U V make A and B independent given the
part F, which bounds Wyner's common information (Wyner 1975; Braun & Pokutta 2013). And any A = U V with U ≥ 0 defines
a mixture: pick a row i at random, a component F = k with probability U_ik / Σ_k U_ik, then Z near V_k.

Results are in bits; pass `base=math.e` for nats. Everything is computed in float64 on the CPU.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.special import gammaln, ive, logsumexp
from scipy.stats import norm, vonmises_fisher
from torch import Tensor

_CHUNK = 2 ** 22  # numbers in one block of the Monte Carlo sums

# --- discrete distributions, exact -------------------------------------------------------------------------


def entropy(P: Tensor, *, base: float = 2) -> float:
    """H = −Σ P log P of a distribution of any shape, over all its entries, in bits.

    Args:
        P: floating tensor, non-negative, of sum 1.
        base: of the logarithm: 2 for bits, `math.e` for nats.

    Raises:
        ValueError: P is no floating tensor, negative, not finite, or does not sum to 1.

    Example:
        >>> entropy(torch.full((8,), 1 / 8))
        3.0
    """
    P = _distribution(P)
    return -float(torch.xlogy(P, P).sum()) / _log(base) + 0.0  # no -0.0


def mutual_information(P: Tensor, *, base: float = 2) -> float:
    """I(A, B) = H(A) + H(B) − H(A, B) of a joint distribution P (A, B), in bits.

    Args:
        P: (A, B), as for `entropy`.
        base: of the logarithm.

    Raises:
        ValueError: as `entropy`.

    Example:
        >>> mutual_information(torch.eye(4) / 4)  # either tells the other
        2.0
    """
    P = _distribution(P, 2)
    sums = (torch.xlogy(X, X).sum() for X in (P, P.sum(0), P.sum(1)))
    joint, first, second = map(float, sums)
    return max(joint - first - second, 0.0) / _log(base)


def conditional_information(P: Tensor, *, base: float = 2) -> float:
    """I(A, B | F) of a joint distribution P (A, B, F), in bits: zero exactly where A and B are independent given F.

    Args:
        P: (A, B, F), as for `entropy`.
        base: of the logarithm.

    Raises:
        ValueError: as `entropy`.

    Example:
        >>> P = torch.stack([torch.eye(2), torch.ones(2, 2)], dim=2)
        >>> round(conditional_information(P / P.sum()), 4)  # A is B where F = 0
        0.3333
    """
    P = _distribution(P, 3)
    joint, given, first, second = (float(torch.xlogy(X, X).sum()) for X in (P, P.sum((0, 1)), P.sum(0), P.sum(1)))
    return max(joint + given - first - second, 0.0) / _log(base)


def joint_of_parts(U: Tensor, V: Tensor) -> Tensor:
    """P(A = a, B = b, F = k) = U_ak V_kb / Σ U V, shape (N, M, K), for U (N, K) ≥ 0 and V (K, M) ≥ 0.

    Its sum over F is the joint distribution U V / Σ U V, and A and B are independent given F (thesis eq. 3.9).

    Raises:
        ValueError: negative or non-finite entries, shapes that do not fit, or U V = 0.

    Example:
        >>> P = joint_of_parts(torch.rand(5, 2), torch.rand(2, 6))
        >>> P.shape, round(conditional_information(P), 9)
        (torch.Size([5, 6, 2]), 0.0)
    """
    U, V = _factors(U, V)
    for name, X in (("U", U), ("V", V)):
        _refuse(X < 0, X, name, "the parts of a distribution are non-negative; factorize it with nmf")
    P = U.mT[:, :, None] * V[:, None, :]  # (K, N, M)
    total = P.sum()
    if not 0 < total < math.inf:
        raise ValueError(f"U V sums to {float(total):g}, so it cannot be made a distribution; scale U and V")
    return P.permute(1, 2, 0) / total


def common_information(U: Tensor, V: Tensor, *, base: float = 2) -> float:
    """I((A, B), F): what the parts of P(A, B) = U V / Σ U V tell about both variables. U (N, K) ≥ 0, V (K, M) ≥ 0.

    An upper bound of Wyner's common information C(A, B), hence of I(A, B), and itself at most H(F) ≤ log K
    (thesis eq. 3.10). It depends on the factorization, but not on its scale.

    Raises:
        ValueError: as `joint_of_parts`.

    Example:
        >>> common_information(torch.eye(4), torch.eye(4))  # four parts that share nothing
        2.0
    """
    return mutual_information(joint_of_parts(U, V).flatten(0, 1), base=base)


# --- densities around the rows of V ------------------------------------------------------------------------


class Density(Protocol):
    """What the mixture needs of a density on R^M, one around each row of V (K, M).

    Example:
        >>> density: Density = Gaussian(0.1)
        >>> density.log_prob(torch.zeros(5, 3), torch.eye(2, 3)).shape
        torch.Size([5, 2])
    """

    def log_prob(self, Z: Tensor, V: Tensor) -> Tensor:
        """(S, K) log density, in nats, of each row of Z (S, M) around each row of V."""

    def sample(self, V: Tensor, count: int, generator: np.random.Generator) -> Tensor:
        """(K, count, M) draws around each row of V."""


@dataclass(frozen=True)
class VonMisesFisher:
    """Directions around V_k: density ∝ exp(κ ⟨z, V_k⟩ / ‖V_k‖) on the unit sphere of R^M, M ≥ 2.

    Raises:
        ValueError: κ ≤ 0, a row of V that is zero, and Z that is not on the sphere.

    Example:
        >>> import numpy as np
        >>> generator = np.random.default_rng(0)
        >>> Z = VonMisesFisher(50.0).sample(torch.eye(3).double(), 4, generator)
        >>> Z.shape, bool((Z.norm(dim=2) - 1).abs().max() < 1e-12)
        (torch.Size([3, 4, 3]), True)
    """

    concentration: float  #: κ

    def __post_init__(self):
        _positive(self.concentration, "concentration", "κ → 0 is uniform, a large κ close to the row itself")

    def log_prob(self, Z: Tensor, V: Tensor) -> Tensor:
        length = Z.norm(dim=1)
        _refuse((length - 1).abs() > 1e-5, length, "‖Z‖", "the von Mises-Fisher density lives on the unit sphere; "
                "normalize Z")
        return self.concentration * (Z @ self._directions(V).mT) + _log_sphere(V.shape[1], self.concentration)

    def sample(self, V: Tensor, count: int, generator: np.random.Generator) -> Tensor:
        V = self._directions(V)
        K, M = V.shape
        around_first = vonmises_fisher(np.eye(M)[0], self.concentration).rvs((K, count), random_state=generator)
        along = torch.from_numpy(around_first[..., :1])  # ⟨z, V_k⟩; what is across has no preferred direction
        across = torch.from_numpy(generator.standard_normal((K, count, M)))
        across = across - (across @ V[:, :, None]) * V[:, None]
        return along * V[:, None] + (1 - along.square()).clamp_min(0).sqrt() * across / across.norm(dim=2, keepdim=True)

    @staticmethod
    def _directions(V):
        if V.shape[1] < 2:
            raise ValueError("V has one column, but a direction needs two; use Gaussian")
        length = V.norm(dim=1, keepdim=True)
        _refuse(length[:, 0] == 0, length[:, 0], "‖V‖", "a zero row has no direction; drop that component")
        return V / length


@dataclass(frozen=True)
class Gaussian:
    """Isotropic normal around V_k, with standard deviation `scale` in every coordinate.

    Raises:
        ValueError: scale ≤ 0.

    Example:
        >>> Gaussian(1.0).log_prob(torch.zeros(1, 1), torch.zeros(1, 1))  # −log √2π
        tensor([[-0.9189]])
    """

    scale: float  #: in units of V

    def __post_init__(self):
        _positive(self.scale, "scale", "for Z = V_k itself use PointMass")

    def log_prob(self, Z: Tensor, V: Tensor) -> Tensor:
        square = torch.cdist(Z, V, compute_mode="donot_use_mm_for_euclid_dist").square()
        return -square / (2 * self.scale ** 2) - V.shape[1] * math.log(self.scale * math.sqrt(2 * math.pi))

    def sample(self, V: Tensor, count: int, generator: np.random.Generator) -> Tensor:
        noise = generator.standard_normal((len(V), count, V.shape[1]))
        return V[:, None] + self.scale * torch.from_numpy(noise)


@dataclass(frozen=True)
class PointMass:
    """Z = V_k without noise, the limit of the other two. Equal rows of V are the same Z.

    Example:
        >>> PointMass().log_prob(torch.eye(2), torch.eye(2)).exp().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    def log_prob(self, Z: Tensor, V: Tensor) -> Tensor:
        return (Z[:, None] == V).all(2).double().log()  # a probability, not a density

    def sample(self, V: Tensor, count: int, generator: np.random.Generator) -> Tensor:
        return V[:, None].expand(-1, count, -1)


# --- the mixture of proposition 2 --------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo mean with its confidence interval; where all three agree, the value is exact.

    Example:
        >>> Estimate(0.5, low=0.4, high=0.6).value
        0.5
    """

    value: float  #: in the unit that was asked for
    low: float  #: end of the interval, ≥ 0
    high: float  #: end of the interval


@dataclass(frozen=True)
class Chain:
    """What i, Z and F tell about each other. I(i, Z) ≤ I(i, F) ≤ I((i, Z), F) ≤ H(F) ≤ log K, in this order.

    Example:
        >>> chain = mixture_information(torch.eye(4), torch.eye(4), PointMass())
        >>> chain.i_Z.value, chain.i_F, chain.H_F, chain.log_K
        (2.0, 2.0, 2.0, 2.0)
    """

    i_Z: Estimate  #: I(i, Z)
    i_F: float  #: I(i, F)
    iZ_F: Estimate  #: I((i, Z), F)
    H_F: float  #: H(F)
    log_K: float  #: log K
    Z_F: Estimate  #: I(Z, F), at least I(i, Z)
    Z_Y: Estimate | None  #: I(Z, Y), at most I(i, Z); None without labels


def mixing_weights(U: Tensor) -> Tensor:
    """P(F = k | i) = U_ik / Σ_k U_ik, shape (N, K), for U (N, K) ≥ 0 (thesis eq. 3.13).

    Raises:
        ValueError: entries that are negative or not finite, and a row of zeros.

    Example:
        >>> mixing_weights(torch.tensor([[3.0, 1.0]])).tolist()
        [[0.75, 0.25]]
    """
    U = _matrix(U, "U")
    _refuse(U < 0, U, "U", "mixing weights are non-negative; use a factorization with U ≥ 0, such as nmf")
    largest = U.amax(1, keepdim=True)
    _refuse(largest[:, 0] == 0, largest[:, 0], "the largest entry of row i of U, U.amax(1)",
            "a row of zeros has no mixing weights; leave rows out where the layer is silent")
    U = U / largest  # sums of the largest and the smallest floating numbers stay in range
    return U / U.sum(1, keepdim=True)


def posterior(U: Tensor, V: Tensor, density: Density, Z: Tensor, i: Tensor) -> Tensor:
    """P(F = k | i, z), shape (S, K), for S samples.

    Args:
        U, V: (N, K) ≥ 0 and (K, M), the mixture.
        density: `VonMisesFisher`, `Gaussian` or `PointMass`, around the rows of V.
        Z: (S, M).
        i: (S,) the row of U that each z came from.

    Raises:
        ValueError: shapes that do not fit, an index outside 0..N−1, and z that cannot occur at its i.

    Example:
        >>> U, V = torch.ones(1, 2), torch.tensor([[0.0], [1.0]])
        >>> Z, i = torch.tensor([[0.5]]), torch.tensor([0])  # half-way between the rows of V
        >>> posterior(U, V, Gaussian(1.0), Z, i).tolist()
        [[0.5, 0.5]]
    """
    U, V = _factors(U, V)
    weights = mixing_weights(U)
    Z = _matrix(Z, "Z")
    if i.shape != Z.shape[:1] or Z.shape[1] != V.shape[1] or i.is_floating_point():
        raise ValueError(f"Z {tuple(Z.shape)} and i {tuple(i.shape)}, {i.dtype}, do not fit V {tuple(V.shape)}; "
                         "pass Z (S, M) with one integer index per row")
    i = i.cpu().long()
    _refuse((i < 0) | (i >= len(U)), i, "i", f"U has rows 0..{len(U) - 1}")
    logits = weights[i].log() + density.log_prob(Z, V)
    _refuse(logits.amax(1) == -math.inf, logits.amax(1).exp(), "p(z | i)",
            "a z that cannot occur at its i has no posterior")
    return logits.softmax(1)


def mixture_information(U: Tensor, V: Tensor, density: Density, *, labels: Tensor | None = None, samples: int = 1000,
                        confidence: float = 0.95, base: float = 2, seed: int = 0) -> Chain:
    """The chain of proposition 2, and of proposition 3 with labels, for the mixture of U (N, K) ≥ 0 and V (K, M).

    I(i, F) and H(F) are sums. For the others Z is drawn, component by component, and everything else is summed: with
    ratios g_k = p(z | k) / p(z), the information between Z and any B that reaches Z through F is the mean over z of
    Σ_b P(b) r_b log r_b, where r_b = Σ_k P(k | b) g_k. And I((i, Z), F) = I(i, F) + I(Z, F) − I(i, Z), because i and Z
    are independent given F. With `PointMass`, Z too is summed, and the estimates are exact.

    The result depends on the scale of U's columns, so fix that of V's rows; `nmf` returns them with unit length.

    Args:
        U, V: (N, K) ≥ 0 without a row of zeros, and (K, M), whose rows may have any sign.
        density: `VonMisesFisher`, `Gaussian` or `PointMass`, around the rows of V.
        labels: (N,) a class per row, Y; the information I(Z, Y) is then estimated too.
        samples: draws of Z per component.
        confidence: probability of the normal-theory intervals.
        base: of the logarithm: 2 for bits, `math.e` for nats.
        seed: of the draws.

    Raises:
        ValueError: U that is negative, not finite or has a row of zeros; see also the density.

    Example:
        >>> U, V = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.eye(2)
        >>> chain = mixture_information(U, V, VonMisesFisher(20.0))
        >>> round(chain.i_F, 4), round(chain.H_F, 4), chain.i_Z.low < chain.i_Z.value < chain.i_F
        (0.6667, 1.0, True)
    """
    U, V = _factors(U, V)
    weights = mixing_weights(U)  # (N, K)
    if samples < 2:
        raise ValueError(f"samples {samples} must be at least 2: an interval needs a variance")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} must lie between 0 and 1, such as 0.95")
    unit, K, N = _log(base), U.shape[1], len(U)
    prior = weights.mean(0)
    used = prior > 0
    weights, prior, V = weights[:, used], prior[used], V[used]

    channels = {"i": (weights.new_full((N,), 1 / N), weights), "F": (prior, torch.eye(len(prior)).double())}
    if labels is not None:
        channels["Y"] = _classes(labels, weights)
    i_F, H_F = mutual_information(weights / N, base=base), entropy(prior, base=base)

    exact = isinstance(density, PointMass)
    Z = V[:, None] if exact else density.sample(V, samples, np.random.default_rng(seed))  # (K, S, M)
    found = []
    for some in Z.flatten(0, 1).split(max(1, _CHUNK // max(len(W) for _, W in channels.values()))):
        log_p = density.log_prob(some, V)  # (s, K)
        g = (log_p - (log_p + prior.log()).logsumexp(1, keepdim=True)).exp()
        per_z = [torch.xlogy(r, r) @ P for P, W in channels.values() for r in [g @ W.mT]]
        found.append(torch.stack([*per_z, per_z[1] - per_z[0]]))
    terms = torch.cat(found, 1).unflatten(1, Z.shape[:2]) / unit  # (B, K, S): i, F, Y, and F without i
    value = (terms.mean(2) @ prior).tolist()
    margin = [0.0] * len(value) if exact else (
        norm.ppf((1 + confidence) / 2) * ((terms.var(2) / samples) @ prior.square()).sqrt()).tolist()

    def estimate(b, shift=0.0):
        middle, half = max(value[b] + shift, 0.0), margin[b]
        return Estimate(middle, max(middle - half, 0.0), middle + half)

    return Chain(estimate(0), i_F, estimate(-1, i_F), H_F, math.log(K) / unit, estimate(1),
                 None if labels is None else estimate(2))


# --- checks ------------------------------------------------------------------------------------------------


def _classes(labels, weights):
    """P(y) and P(F | y) from the labels of the rows."""
    if not isinstance(labels, Tensor) or labels.shape != weights.shape[:1]:
        got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels {got} must be a tensor with one class for each of the {len(weights)} rows of U")
    _, index, count = labels.cpu().unique(return_inverse=True, return_counts=True)
    mean = weights.new_zeros(len(count), weights.shape[1]).index_add_(0, index, weights) / count[:, None]
    return count.double() / len(labels), mean


def _log_sphere(M, kappa):
    """Logarithm of the von Mises-Fisher density's normalizer on the unit sphere of R^M."""
    order = M / 2 - 1
    bessel = ive(order, kappa)
    if bessel > 0:
        log_bessel = math.log(bessel) + kappa
    else:  # underflow, where κ is small against M: its power series, which has but few terms that count
        m = np.arange(int(kappa) + 100)
        log_bessel = logsumexp((2 * m + order) * math.log(kappa / 2) - gammaln(m + 1) - gammaln(m + order + 1))
    return order * math.log(kappa) - M / 2 * math.log(2 * math.pi) - log_bessel


def _log(base):
    if not 1 < base < math.inf:
        raise ValueError(f"base {base} must be above 1: 2 for bits, math.e for nats")
    return math.log(base)


def _positive(value, name, cure):
    if not 0 < value < math.inf:
        raise ValueError(f"{name} {value} must be positive and finite: {cure}")


def _refuse(bad, values, name, cure):
    """Name the first entry where `bad` is true."""
    if bad.any():
        index = bad.nonzero()[0].tolist()
        raise ValueError(f"{name}{index} = {values[tuple(index)].item():g}: {cure}")


def _matrix(X, name, dims=2):
    if not isinstance(X, Tensor) or not X.is_floating_point() or dims not in (None, X.dim()) or X.numel() == 0:
        got = f"{X.dtype} {tuple(X.shape)}" if isinstance(X, Tensor) else type(X).__name__
        shape = "" if dims is None else f"{dims} dimensions and "
        raise ValueError(f"{name} must be a floating tensor with {shape}at least one entry, got {got}")
    _refuse(~X.isfinite(), X, name, "every entry must be finite")
    return X.detach().cpu().double()


def _factors(U, V):
    U, V = _matrix(U, "U"), _matrix(V, "V")
    if U.shape[1] != len(V):
        raise ValueError(f"U {tuple(U.shape)} and V {tuple(V.shape)} do not fit: U has a column for each row of V")
    return U, V


def _distribution(P, dims=None):
    exact = _matrix(P, "P", dims)
    _refuse(exact < 0, exact, "P", "probabilities are non-negative")
    total = float(exact.sum())
    if abs(total - 1) > (1e-9 if P.dtype == torch.float64 else 1e-4):
        raise ValueError(f"P sums to {total:.10g}, but a distribution sums to 1; divide it by P.sum()")
    return exact / total
