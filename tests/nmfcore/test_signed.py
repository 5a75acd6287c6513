"""Split, Join and semi-NMF, against definitions, bounds and the multiplicative updates of Ding et al."""

import pytest
import torch
from torch import nn

from nmfcore import nmf
from nmfcore.compression import accuracy_curve
from nmfcore.factorization import pca
from nmfcore.signed import Join, Split, semi_nmf


def signed(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(A, found):
    return float(torch.linalg.norm(A - found.approximation) / torch.linalg.norm(A))


def ding(A, U, turns=2000):
    """Multiplicative updates of Ding, Li and Jordan 2010, equations 10 and 11, with their F = Vᵀ and G = U."""
    for _ in range(turns):
        V = torch.linalg.pinv(U) @ A
        up, down = A @ V.mT, V @ V.mT
        U = U * ((up.relu() + U @ (-down).relu()) / ((-up).relu() + U @ down.relu()).clamp(min=1e-12)).sqrt()
    return float(torch.linalg.norm(A - U @ torch.linalg.pinv(U) @ A) / torch.linalg.norm(A))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5)])
def test_join_undoes_split(shape):
    x = signed(*shape)
    parts = Split()(x)
    assert parts.shape == (2, 6, *shape[2:]) and (parts >= 0).all() and torch.equal(Join()(parts), x)
    with pytest.raises(ValueError, match="3 channels"):
        Join()(signed(2, 3))


def test_semi_nmf_lies_between_its_start_and_pca():
    A = signed(60, 12)
    for rank in (1, 3, 6):
        found, start = semi_nmf(A, rank), nmf(Split()(A), rank)
        assert (found.U >= 0).all() and torch.allclose(found.V.norm(dim=1), torch.ones(rank, dtype=A.dtype))
        before = float(torch.linalg.norm(A - start.U @ Join()(start.V)) / torch.linalg.norm(A))
        assert error(A, pca(A, rank)) - 1e-9 <= error(A, found) < before


def test_semi_nmf_is_as_good_as_multiplicative_updates():
    A = signed(40, 8)
    starts = [torch.rand(40, 4, dtype=A.dtype, generator=torch.Generator().manual_seed(s)) + 0.2 for s in range(5)]
    assert error(A, semi_nmf(A, 4, tol=1e-8, max_iter=2000)) < 1.05 * min(ding(A, U) for U in starts)


def test_semi_nmf_depends_on_its_seed_and_stops_by_its_tolerance():
    A = signed(40, 8)
    assert torch.equal(semi_nmf(A, 4, seed=1).U, semi_nmf(A, 4, seed=1).U)
    assert not torch.allclose(semi_nmf(A, 4, seed=1).U, semi_nmf(A, 4, seed=2).U)
    assert torch.equal(semi_nmf(A, 4, tol=1.0).U, semi_nmf(A, 4, max_iter=1).U)


def test_semi_nmf_finds_a_planted_factorization():
    U = torch.eye(3, dtype=torch.float64).repeat(10, 1) * torch.arange(1, 31)[:, None]
    A = U @ signed(3, 7)
    assert error(A, semi_nmf(A, 3, tol=1e-10, max_iter=1000)) < 1e-3
    nothing = semi_nmf(torch.zeros(4, 3), 2)
    assert not nothing.U.any() and torch.isfinite(nothing.V).all()
    with pytest.raises(ValueError, match="max_iter=0"):
        semi_nmf(A, 3, max_iter=0)


def test_a_signed_layer_can_be_compressed():
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 4), Split(), Join()), nn.Linear(4, 3))
    inputs, labels = signed(20, 6).float(), torch.arange(20) % 3
    curve = accuracy_curve(model, "0.1", inputs, labels, ranks=[1, 2])
    assert curve.width == 8 and curve.accuracy[0, -1] == curve.baseline[0]
    with pytest.raises(ValueError, match=r"0\.0"):
        accuracy_curve(model, "0.0", inputs, labels, ranks=[1])
