"""NMF of a stream: as good as one of everything where nothing changes, and of bounded size."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from nmfcore import nmf
from nmfcore.streaming import StreamingNMF


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_a_stream_of_one_law_is_factorized_nearly_as_well_as_all_of_it(generator):
    V = torch.rand(4, 30, generator=generator) * (torch.rand(4, 30, generator=generator) < 0.4)
    chunks = [torch.rand(50, 4, generator=generator) @ V + 0.05 * torch.rand(50, 30, generator=generator)
              for _ in range(40)]
    stream, left = StreamingNMF(4, forget=1), []
    for chunk in chunks:
        U = stream.update(chunk)
        assert U.shape == (50, 4) and U.min() >= 0
        left.append(float((chunk - U @ stream.V).square().sum() / chunk.square().sum()) ** 0.5)
    whole = float(nmf(torch.cat(chunks), 4).error)
    assert sum(left[-5:]) / 5 < 1.1 * whole
    assert torch.allclose(stream.V.norm(dim=1), torch.ones(4), atol=1e-5)


def test_it_follows_what_changes(generator):
    first, second = (torch.rand(2, 20, generator=generator) * (torch.rand(2, 20, generator=generator) < 0.5)
                     for _ in range(2))
    chunks = [torch.rand(40, 2, generator=generator) @ V for V in [first] * 10 + [second] * 20]
    left = {}
    for forget in (0.3, 1.0):
        stream = StreamingNMF(2, forget=forget)
        for chunk in chunks:
            U = stream.update(chunk)
        left[forget] = float((chunk - U @ stream.V).norm() / chunk.norm())
    assert left[0.3] < 0.02 and left[0.3] < left[1.0] / 5


def test_a_factor_that_disappears_does_no_harm(generator):
    V = torch.eye(2, 10)
    stream = StreamingNMF(2, forget=0.5)
    stream.update(torch.rand(30, 2, generator=generator) @ V)
    for _ in range(200):
        chunk = torch.rand(30, 1, generator=generator) @ V[:1]
        U = stream.update(chunk)
    assert torch.isfinite(stream.V).all() and torch.allclose(U @ stream.V, chunk, atol=1e-3)
    stream.update(torch.zeros(30, 10))
    assert torch.allclose(stream.V.norm(dim=1), torch.ones(2), atol=1e-5)


def test_what_is_kept_does_not_grow(generator):
    stream, sizes = StreamingNMF(3), []
    for rows in (10, 500, 20):
        stream.update(torch.rand(rows, 6, generator=generator))
        sizes.append(sum(value.numel() for value in vars(stream).values() if isinstance(value, torch.Tensor)))
    assert sizes == [3 * 6 + 3 * 3 + 3 * 6] * 3


def test_bad_input(generator):
    for options in (dict(forget=0), dict(forget=1.1), dict(turns=0), dict(sweeps=0)):
        with pytest.raises(ValueError, match=f"{next(iter(options))}="):
            StreamingNMF(2, **options)
    stream = StreamingNMF(2)
    stream.update(torch.rand(10, 6, generator=generator))
    for bad in (torch.rand(10, 5), -torch.rand(10, 6), torch.full((3, 6), float("nan")), torch.rand(6)):
        with pytest.raises(ValueError, match="must be"):
            stream.update(bad)


def test_the_sums_are_those_of_all_chunks_with_their_weights(generator):
    """A reference that keeps everything and adds it up anew at every turn."""
    chunks = [torch.rand(30, 8, generator=generator, dtype=torch.float64) for _ in range(4)]
    forget, stream, kept = 0.6, StreamingNMF(3, forget=0.6, turns=2, sweeps=200), []
    V = nmf(chunks[0], 3, seed=0).V
    for t, A in enumerate(chunks):
        found = stream.update(A)
        for _ in range(2):
            U = nonnegative(A, V)
            kept[t:] = [(U, A)]
            weights = [forget ** (t - s) for s in range(t + 1)]
            rows = torch.cat([w ** 0.5 * U for w, (U, _) in zip(weights, kept, strict=True)])
            targets = torch.cat([w ** 0.5 * A for w, (_, A) in zip(weights, kept, strict=True)])
            V = nonnegative(targets.T, rows.T).T
            length = V.norm(dim=1)
            V, kept = V / length[:, None], [(U * length, A) for U, A in kept]
        assert torch.allclose(stream.V, V, atol=1e-6) and torch.allclose(found, nonnegative(A, V), atol=1e-6)


def nonnegative(A, V):
    """U ≥ 0 of min ‖A − U V‖, by scipy."""
    return torch.from_numpy(np.stack([nnls(V.T.numpy(), row.numpy())[0] for row in A]))
