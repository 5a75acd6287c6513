"""Bi-cross-validation: it finds planted ranks, and what it holds out has no part in the prediction."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from nmfcore import choose_rank, nmf, selection

torch.set_num_threads(1)


def planted(N, M, K, noise, seed):
    """K parts, each in half of the rows and columns, and noise in units of their standard deviation."""
    generator = torch.Generator().manual_seed(seed)

    def part(*shape):
        return -torch.rand(*shape, generator=generator).log() * (torch.rand(*shape, generator=generator) < 0.5)
    A = part(N, K) @ part(K, M)
    return torch.relu(A + noise * A.std() * torch.randn(N, M, generator=generator))


@pytest.mark.parametrize("N, M, K, noise", [
    (60, 40, 3, 0.3), (80, 60, 4, 0.0), (100, 80, 5, 0.3), (100, 80, 5, 1.0), (200, 150, 6, 1.0), (300, 60, 4, 0.5)])
def test_planted_ranks_are_found(N, M, K, noise):
    found = [choose_rank(planted(N, M, K, noise, seed), range(1, 11), seed=seed).rank for seed in range(10)]
    assert sum(abs(rank - K) <= 1 for rank in found) >= 9, found
    assert sum(rank == K for rank in found) >= 5, found


def test_noise_alone_is_one_part_and_drowns_others():
    generator = torch.Generator().manual_seed(0)
    assert choose_rank(torch.rand(60, 40, generator=generator), range(1, 7)).rank == 1
    assert choose_rank(planted(60, 40, 3, 10.0, 0), range(1, 7)).rank < 3  # as its description says


def test_each_error_is_that_of_an_independent_prediction():
    A, folds = planted(20, 15, 2, 0.3, 0).double(), 2
    choice = choose_rank(A, [1, 3], folds=folds, seed=5)
    generator = torch.Generator().manual_seed(5)
    rows, columns = (torch.randperm(length, generator=generator).numpy() % folds for length in A.shape)
    X, expected = A.numpy(), []
    for i in range(folds):
        for j in range(folds):
            row, column = rows == i, columns == j
            errors = []
            for fit in nmf(torch.from_numpy(X[~row][:, ~column]), [1, 3], seed=5):
                U = np.stack([nnls(fit.V.numpy().T, x)[0] for x in X[row][:, ~column]])
                V = np.stack([nnls(fit.U.numpy(), x)[0] for x in X[~row][:, column].T]).T
                errors.append(((X[row][:, column] - U @ V) ** 2).mean() / (X ** 2).mean())
            expected.append(errors)
    np.testing.assert_allclose(choice.error, expected, rtol=1e-6)


def test_the_prediction_does_not_see_its_target(monkeypatch):
    seen = []
    held_out = selection._held_out_error
    monkeypatch.setattr(selection, "_held_out_error",
                        lambda target, *others: seen.append((target, others)) or held_out(target, *others))
    A = torch.arange(1.0, 121.0).reshape(12, 10)
    choose_rank(A, [2])
    targets = torch.cat([target.flatten() for target, _ in seen])
    assert torch.equal(targets.sort().values, A.flatten())  # every entry is held out once
    for target, (beside, above, _) in seen:
        assert not torch.isin(target, torch.cat([beside.flatten(), above.flatten()])).any()


def test_what_it_says_and_that_it_says_it_again():
    A = planted(40, 30, 2, 0.3, 0)
    choice, again = (choose_rank(A, [4, 2, 1, 2], seed=1) for _ in range(2))
    assert choice.ranks == (1, 2, 4) and choice.error.shape == (9, 3) and choice.rank == 2
    assert torch.equal(choice.error, again.error)
    assert not torch.equal(choice.error, choose_rank(A, [1, 2, 4], seed=2).error)
    assert str(choice) == (f"rank 2 of 1, 2, 4: held-out error {choice.error[:, 1].mean():.3g} ± "
                           f"{choice.error[:, 1].std():.2g}, mean and spread of 9 folds")
    limit = choice.mean.min() + choice.spread[choice.mean.argmin()] / 3
    assert choice.rank == choice.ranks[int((choice.mean <= limit).nonzero()[0])]


def test_zeros_and_half_precision():
    assert choose_rank(torch.zeros(12, 9), [1, 2]).rank == 1
    A = planted(40, 30, 2, 0.3, 0).half()
    assert torch.equal(choose_rank(A, [1, 2]).error, choose_rank(A.float(), [1, 2]).error)


@pytest.mark.parametrize("A, ranks, options, message", [
    (np.ones((9, 9)), [1], {}, "A must be a floating-point tensor, got ndarray"),
    (torch.ones(2, 9, 9), [1], {}, r"A must have shape \(N, M\), got \(2, 9, 9\)"),
    (torch.ones(9, 9), [], {}, "at least one rank"),
    (torch.ones(9, 9), [0, 1], {}, "rank 0 must be an integer ≥ 1"),
    (torch.ones(9, 9), ["2"], {}, "rank '2' must be an integer ≥ 1"),
    (torch.ones(9, 12), [2, 7], {}, r"A of shape \(9, 12\) in 3 × 3 folds leaves 6 × 8 to fit rank 7 to"),
    (torch.ones(2, 12), [1], {}, r"A of shape \(2, 12\) in 3 × 3 folds"),
    (torch.ones(9, 9), [1], {"folds": 1}, "folds 1 must be an integer ≥ 2"),
    (-torch.ones(9, 9), [1], {}, r"A\[0, 0\] = -1.0 but every entry"),
    (torch.full((9, 9), torch.nan), [1], {}, r"A\[0, 0\] = nan"),
    (torch.ones(9, 9), [1], {"tol": -1}, "tol -1 must be a number ≥ 0"),
])
def test_what_is_refused(A, ranks, options, message):
    with pytest.raises(ValueError, match=message):
        choose_rank(A, ranks, **options)
