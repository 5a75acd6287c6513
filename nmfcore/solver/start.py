"""Where problems start: from numbers that depend on the seed alone, from a pair that is given, from a lower rank."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .processes import Rows

_SAMPLE = (512, 2048)  # an eighth of the rows, within these bounds, more for many components: solved first
_STRIPE = 4096  # columns of random numbers that one generator draws


@dataclass
class Given:
    """Factors to start from."""

    U: Tensor  # (B, K, N), transposed
    V: Tensor  # (B, K, M)
    peak: Tensor  # (B,) largest entry of U, over all processes


@dataclass
class Starts:
    """The starts of B problems N × M, alike in all of them unless they are given."""

    rows: Rows
    B: int
    M: int
    dtype: torch.dtype
    device: torch.device
    seed: int
    given: Given | None = None

    def pair(self, K: int) -> tuple[Tensor, Tensor]:
        """U (B, K, N), transposed, and V (B, K, M)."""
        if self.given:
            U, V = self.given.U, self.given.V
            largest = (torch.where(top > 0, top, 1)[:, None, None] for top in (self.given.peak, V.amax((-2, -1))))
            return U / next(largest), V / next(largest)
        U, V = self._draw(K, self.rows.N, self.rows.offset, 0), self._draw(K, self.M, 0, 1)
        return U.to(self.device).expand(self.B, *U.shape), V.to(self.device).expand(self.B, *V.shape)

    def _draw(self, K, count, offset, stream):
        """Uniform numbers (K, count) that depend on the seed and on the position in K × (offset + count) alone."""
        stripes = []
        for i in range(offset // _STRIPE, (offset + count - 1) // _STRIPE + 1):
            generator = torch.Generator().manual_seed((2 * self.seed + stream + i * 2 ** 40) % 2 ** 63)
            numbers = torch.rand(K, _STRIPE, generator=generator, dtype=self.dtype)
            stripes.append(numbers[:, max(offset - i * _STRIPE, 0):offset + count - i * _STRIPE])
        return torch.cat(stripes, 1)

    def sample(self, K: int) -> Tensor | None:
        """Indices of the rows to solve first, spread evenly over all processes; None where that does not pay."""
        (least, most), total = _SAMPLE, self.rows.total
        size = max(min(8 * K, total // 4), min(max(least, total // 8), most))
        few = 4 * most if self.device.type == "cuda" else 0  # which take a GPU as long as many
        if size < 2 * K or total < max(4 * size, few):
            return None
        first, last = self.rows.offset, self.rows.offset + self.rows.N
        golden = (torch.arange(first, last, dtype=torch.float64) * 0.6180339887498949) % 1
        return (golden < size / total).nonzero().flatten()

    def extended(self, slices: Iterable[Tensor], U: Tensor, V: Tensor, K: int) -> tuple[Tensor, Tensor]:
        """U (N, K) and V (K, M) from a result of lower rank: new rows of V from what it leaves unexplained, U = 0."""
        more = self.unexplained(slices, U, V, K - len(V))
        length = V.norm(dim=1)
        V = V / torch.where(length > 0, length, 1)[:, None]
        return torch.cat([U * length, U.new_zeros(len(U), K - len(V))], 1), torch.cat([V, more])

    def unexplained(self, slices: Iterable[Tensor], U: Tensor, V: Tensor, count: int) -> Tensor:
        """(count, M) unit-norm rows of max(A − U V, 0), drawn in proportion to their squared length."""
        keys, rows, first = V.new_zeros(0), V.new_zeros(0, V.shape[1]), 0
        # exponential: the smallest wins
        chance = self._draw(1, self.rows.N, self.rows.offset, 2)[0].log().neg().to(V)
        for A in slices:
            left = torch.addmm(A, U[first:first + len(A)], V, alpha=-1).relu_()
            key = left.square().sum(1) / chance[first:first + len(A)]
            best = key.topk(min(count, len(key))).indices
            keys, rows = torch.cat([keys, key[best]]), torch.cat([rows, left[best]])
            first += len(A)
        keys, rows = self.rows.gathered(keys), self.rows.gathered(rows)
        rows = rows[keys.topk(min(count, len(keys))).indices]
        rows = torch.cat([rows, rows.new_zeros(count - len(rows), rows.shape[1])])
        return torch.nn.functional.normalize(rows, dim=1)


def rows_at(X: Tensor, index: Tensor) -> Tensor:
    """Rows of X (…, N, P); a single one of zeros, which changes no sum, where there are none."""
    return X[..., index.to(X.device), :] if len(index) else torch.zeros_like(X[..., :1, :])
