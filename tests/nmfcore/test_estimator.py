"""The estimator: scikit-learn's own battery, and what it gives beside nmf and encode."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nmfcore import NMF, encode, nmf

torch.set_num_threads(1)


@parametrize_with_checks([NMF(random_state=0), NMF(3, solver="mu", random_state=0)])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


@pytest.fixture
def X():
    generator = np.random.default_rng(0)
    return generator.random((40, 3)) @ generator.random((3, 12)) + 0.05 * generator.random((40, 12))


def test_it_is_nmf_and_encode(X):
    model = NMF(3, random_state=4, tol=1e-6)
    U = model.fit_transform(X)
    factors = nmf(torch.from_numpy(X), 3, seed=4, tol=1e-6)
    np.testing.assert_array_equal(model.components_, factors.V)
    assert model.n_iter_ == int(factors.iterations) and model.n_components_ == 3 and model.n_features_in_ == 12
    np.testing.assert_array_equal(U, encode(torch.from_numpy(X), factors.V))
    np.testing.assert_array_equal(U, model.transform(X))
    assert model.reconstruction_err_ == pytest.approx(np.linalg.norm(X - U @ model.components_), rel=1e-9)
    assert model.reconstruction_err_ <= float(factors.error) * np.linalg.norm(X) * (1 + 1e-9)
    np.testing.assert_allclose(model.inverse_transform(U), U @ model.components_)


def test_the_score_is_the_share_that_is_kept(X):
    model = NMF(2, random_state=0).fit(X[:20])
    rest = X[20:] - model.inverse_transform(model.transform(X[20:]))
    assert model.score(X[20:]) == pytest.approx(1 - (rest ** 2).sum() / (X[20:] ** 2).sum(), rel=1e-9)
    assert model.score(np.zeros((3, 12))) == 1


@pytest.mark.parametrize("state", [7, np.random.RandomState])
def test_the_start_depends_on_the_random_state_alone(X, state):
    states = [7, 7] if state == 7 else [state(3), state(3)]
    first, again = (NMF(3, random_state=s).fit(X).components_ for s in states)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, NMF(3, random_state=8).fit(X).components_)


def test_sparse_matrices_and_tables(X):
    X = X * (X > np.median(X))
    expected = NMF(3, random_state=0).fit(X)
    sparse = NMF(3, random_state=0).fit(csr_matrix(X))
    np.testing.assert_array_equal(sparse.components_, expected.components_)
    np.testing.assert_array_equal(sparse.transform(csr_matrix(X)), expected.transform(X))
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=[f"column {i}" for i in range(12)])
    model = NMF(3, random_state=0).set_output(transform="pandas").fit(table)
    assert list(model.transform(table).columns) == list(model.get_feature_names_out()) == ["nmf0", "nmf1", "nmf2"]
    with pytest.raises(ValueError, match="feature names should match"):
        model.transform(table.rename(columns={"column 0": "other"}))


def test_float32_stays_float32(X):
    model = NMF(3, random_state=0).fit(X.astype("f4"))
    assert model.components_.dtype == model.transform(X.astype("f4")).dtype == np.float32


def test_pipeline_and_grid_search(X):
    pipeline = make_pipeline(MinMaxScaler(clip=True), NMF(random_state=0))
    search = GridSearchCV(pipeline, {"nmf__n_components": [1, 2, 3]}, cv=3).fit(X)
    assert search.best_params_ == {"nmf__n_components": 3} and 0.9 < search.best_score_ <= 1
    assert clone(search.best_estimator_).get_params()["nmf__n_components"] == 3


def test_what_is_refused(X):
    with pytest.raises(NotFittedError):
        NMF().transform(X)
    with pytest.raises(ValueError, match="Negative values in data passed to X in NMF"):
        NMF().fit(-X)
    with pytest.raises(ValueError, match="rank 0 must be an integer ≥ 1"):
        NMF(0).fit(X)
    with pytest.raises(ValueError, match="solver 'cd' is not one of"):
        NMF(solver="cd").fit(X)
    with pytest.raises(ValueError, match="contains NaN"):
        NMF().fit(np.where(X == X.max(), np.nan, X))
    with pytest.raises(ValueError, match=r"U must have shape \(N, 2\), got \(40, 12\)"):
        NMF().fit(X).inverse_transform(X)
