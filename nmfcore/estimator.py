"""NMF as scikit-learn's estimators are used: in pipelines and grid searches, on NumPy arrays, tables, CSR matrices."""

from numbers import Integral
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .solver import encode, nmf

_TYPES = [np.float64, np.float32]


class NMF(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """X ≈ U V, X (N, M), with parts V (K, M) learned by `nmf`, and U (N, K) found for any rows by `encode`.

    X is non-negative; float32 stays float32, anything else becomes float64, and CSR matrices become dense. U of
    `fit_transform` is that of `transform`: the best for V, where `nmf` stops at a tolerance.

    Args:
        n_components: K.
        solver, max_iter, tol: as in `nmf`.
        random_state: seed of the start; with an integer, V is that of `nmf(X, K, seed=random_state)`.
        device: on which it computes, such as "cuda". Results are NumPy arrays on the CPU.

    Attributes:
        components_: (K, M) V, rows of unit length.
        reconstruction_err_: ‖X − U V‖_F on the rows that were fitted.
        n_iter_: iterations of `nmf`.
        n_components_: K.
        n_features_in_: M.
        feature_names_in_: the columns of a table.

    Raises:
        ValueError: as `nmf` does.
        NotFittedError: before `fit`.

    Example:
        >>> import numpy as np
        >>> from nmfcore import NMF
        >>> X = np.array([[1, 0, 2], [0, 3, 0], [2, 0, 4], [0, 1, 0]])
        >>> model = NMF(2, random_state=0).fit(X)
        >>> model.transform(X).shape, model.components_.shape
        ((4, 2), (2, 3))
        >>> round(model.score(X), 3)
        1.0
    """

    def __init__(self, n_components: int = 2, *, solver: str = "hals", max_iter: int | None = None, tol: float = 1e-4,
                 random_state: int | np.random.RandomState | None = None, device: str = "cpu"):
        self.n_components = n_components
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "NMF":
        """Learn V. y is ignored."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Learn V and return U (N, K). y is ignored."""
        A = self._tensor(X, reset=True)
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2 ** 31 - 1)
        factors = nmf(A, self.n_components, solver=self.solver, max_iter=self.max_iter, tol=self.tol, seed=int(seed))
        U = encode(A, factors.V)
        self.components_ = factors.V.cpu().numpy()
        self.n_components_ = self._n_features_out = len(self.components_)
        self.n_iter_ = int(factors.iterations)
        self.reconstruction_err_ = float(torch.linalg.vector_norm((A - U @ factors.V).double()))
        return U.cpu().numpy()

    def transform(self, X: Any) -> np.ndarray:
        """U (N, K) of rows X (N, M), each by itself."""
        check_is_fitted(self)
        A = self._tensor(X)
        return encode(A, torch.from_numpy(self.components_).to(A)).cpu().numpy()

    def inverse_transform(self, X: Any) -> np.ndarray:
        """U V (N, M) of U (N, K)."""
        check_is_fitted(self)
        U = np.asarray(X)
        if U.ndim != 2 or U.shape[1] != self.n_components_:
            raise ValueError(f"U must have shape (N, {self.n_components_}), got {U.shape}")
        return U @ self.components_

    def score(self, X: Any, y: Any = None) -> float:
        """1 − ‖X − U V‖² / ‖X‖², the share of X's squared length that `transform` keeps. y is ignored.

        It grows with K on new rows, too, as their U is fitted to them; `choose_rank` holds out entries instead.
        """
        check_is_fitted(self)
        A = self._tensor(X)
        V = torch.from_numpy(self.components_).to(A)
        left, size = (float(Y.double().square().sum()) for Y in (A - encode(A, V) @ V, A))
        return 1 - left / size if size else 1.0

    def _tensor(self, X, reset=False):
        """X as a tensor, checked; `reset` takes its columns as those to expect from now on."""
        X = validate_data(self, X, reset=reset, accept_sparse="csr", dtype=_TYPES, ensure_non_negative=True)
        X = np.require(X.toarray() if issparse(X) else X, requirements=["C", "W"])  # torch takes no others
        return torch.from_numpy(X).to(self.device)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
