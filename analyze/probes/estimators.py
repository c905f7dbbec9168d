"""scikit-learn estimators on the probe engine: one probe on all columns, for pipelines and cross-validation.

For many subsets, seeds or penalties use `fit_block` or `sweep`: fitting one by one gives their speed away.
"""

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from probecache.analyze.probes.fit import fit_block
from probecache.analyze.tasks.matrix import scales
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError

_FLOATS = [np.float64, np.float32]


def _with_numpy(X: Any) -> Any:
    """A tensor as float32 on the CPU where numpy has not its dtype (bfloat16), else X itself."""
    return X.detach().cpu().float() if getattr(X, "dtype", None) is torch.bfloat16 else X


class _Linear(BaseEstimator):
    """What all share: checks, sample weights, and weights in the units of the input."""

    _probe = ""

    def _checked(self, X: Any, y: Any, sample_weight: Any, **how: Any) -> tuple[np.ndarray, ...]:
        """X float64 (n, d), y and weights float64 (n,); rows of weight 0 are among them."""
        X, y = validate_data(self, _with_numpy(X), y, dtype=_FLOATS, ensure_min_samples=2, **how)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return X.astype(np.float64), np.asarray(y), weights

    def _solve(
        self, X: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: tuple[str, ...], **options: Any
    ) -> None:
        """One probe on all columns. `labels` are what a Task takes; `weights` (n,) weigh its rows."""
        mean = np.average(X, axis=0, weights=weights)
        scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))
        constant = scale <= 1e-7 * np.abs(mean)
        scale = scales(np.where(constant, 0.0, scale))
        if not self.standardize:
            scale = scale * 0 + 1
        d = X.shape[1]
        ready = ((X - mean) / scale).astype(np.float32)
        task = Task(
            ready,
            labels,
            ready[:1],
            labels[:1],
            classes,
            mean=np.zeros(d, np.float32),
            scale=np.ones(d, np.float32),
            weights=None if np.ptp(weights) == 0 else weights,
        )
        result = fit_block(
            task,
            np.arange(d)[None],
            np.array([d]),
            np.array([self.l2]),
            probe=self._probe,
            standardize=False,
            device=self.device,
            return_coef=True,
            **options,
        )
        assert result.coef is not None
        assert result.intercept is not None
        self.coef_ = result.coef[0, 0, 0].astype(np.float64) / scale  # (c, d), or (1, d) for two classes
        self.intercept_ = result.intercept[0, 0, 0].astype(np.float64) - self.coef_ @ mean
        if task.is_regression:
            self.intercept_ = self.intercept_ + task.offset
        self.n_iter_ = int(result.n_iter[0, 0, 0])
        self.objective_ = float(result.objective[0, 0, 0])
        self.converged_ = bool(result.converged[0, 0, 0])


class _Probe(ClassifierMixin, _Linear):
    """What both classifiers share."""

    def _fit(self, X: Any, y: Any, sample_weight: Any, **options: Any) -> Self:
        X, y, weights = self._checked(X, y, sample_weight)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"got only one class, {str(self.classes_[0])!r}; a probe needs two classes")
        kept = weights > 0  # a class that has no other row is named, not forgotten
        weights = weights * compute_sample_weight(self.class_weight, y)
        classes = tuple(str(c) for c in self.classes_)
        self._solve(X[kept], labels[kept], weights[kept], classes, **options)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """X coef_' + intercept_, float64 (n, c), or (n,) for two classes."""
        check_is_fitted(self)
        X = validate_data(self, _with_numpy(X), dtype=_FLOATS, reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> np.ndarray:
        """The class of the largest score, (n,)."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]


class LogisticProbe(_Probe):
    """Minimises (1 / sum w) sum_i w_i CE(y_i, W x_i + b) + (l2 / 2) ||W||^2 over standardised columns.

    Equal to scikit-learn's LogisticRegression(C = 1 / (l2 sum w)) behind a StandardScaler. After `fit`:
    classes_, coef_ (c, d) and intercept_ (c,) in the input's units, float64 (c is 1 for two classes), n_iter_
    (evaluations), objective_, converged_.

    Parameters
    ----------
    l2 : float
        The penalty, at least 0; the intercept bears none.
    standardize : bool
        Divide columns by their standard deviation; they are centred in any case.
    class_weight : None, 'balanced' or dict
        As in scikit-learn.
    tol : float
        Estimated relative gap of the objective at which the fit ends.
    max_iter : int
        Evaluations at most.
    device : str
        'cpu', 'cuda' or 'auto'.

    Raises
    ------
    InputError
        From `fit`, for a single class.

    Examples
    --------
    >>> x, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    >>> pc.LogisticProbe(l2=1e-2).fit(x, y).predict(x).tolist()
    [0, 0, 1, 1]
    """

    _probe = "logistic"

    def __init__(
        self,
        l2: float = 1e-4,
        *,
        standardize: bool = True,
        class_weight: Any = None,
        tol: float = 1e-7,
        max_iter: int = 1000,
        device: str = "cpu",
    ) -> None:
        self.l2 = l2
        self.standardize = standardize
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        return self._fit(X, y, sample_weight, tol=self.tol, max_iter=self.max_iter)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities float64 (n, classes): the softmax of the scores."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)


class RidgeProbe(_Probe):
    """Minimises (1 / sum w) sum_i w_i ||y_i - W x_i - b||^2 + l2 ||W||^2, y +-1, over standardised columns.

    Equal to scikit-learn's RidgeClassifier(alpha = l2 sum w) behind a StandardScaler. It has scores, not
    probabilities. After `fit`: what `LogisticProbe` has.

    Parameters
    ----------
    l2 : float
        The penalty, at least 0; the intercept bears none.
    standardize : bool
        Divide columns by their standard deviation; they are centred in any case.
    class_weight : None, 'balanced' or dict
        As in scikit-learn.
    device : str
        'cpu', 'cuda' or 'auto'.

    Raises
    ------
    InputError
        From `fit`, for a single class. Numbers are for `RidgeRegressor`.

    Examples
    --------
    >>> x, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    >>> pc.RidgeProbe(l2=1e-2).fit(x, y).predict(x).tolist()
    [0, 0, 1, 1]
    """

    _probe = "ridge"

    def __init__(
        self,
        l2: float = 1e-4,
        *,
        standardize: bool = True,
        class_weight: Any = None,
        device: str = "cpu",
    ) -> None:
        self.l2 = l2
        self.standardize = standardize
        self.class_weight = class_weight
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        return self._fit(X, y, sample_weight)


class RidgeRegressor(MultiOutputMixin, RegressorMixin, _Linear):
    """Minimises (1 / sum w) sum_i w_i ||y_i - W x_i - b||^2 + l2 ||W||^2, y numbers, columns standardised.

    Equal to scikit-learn's Ridge(alpha = l2 sum w) behind a StandardScaler: the probe of a ridge sweep over a
    target of numbers. `score` is R2. After `fit`: coef_ (d,) or (t, d) and intercept_, a number or (t,), in
    the input's units, float64; n_iter_, objective_, converged_.

    Parameters
    ----------
    l2 : float
        The penalty, at least 0; the intercept bears none.
    standardize : bool
        Divide columns by their standard deviation; they are centred in any case.
    device : str
        'cpu', 'cuda' or 'auto'.

    Raises
    ------
    InputError
        From `fit`, for numbers whose range is beyond 1e30 or below 1e-30.

    Examples
    --------
    >>> x, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([2006.0, 2008.0, 2012.0, 2014.0])
    >>> pc.RidgeRegressor(l2=0).fit(x, y).predict([[0.0]]).round(3).tolist()
    [2010.0]
    """

    _probe = "ridge"

    def __init__(self, l2: float = 1e-4, *, standardize: bool = True, device: str = "cpu") -> None:
        self.l2 = l2
        self.standardize = standardize
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        X, y, weights = self._checked(X, y, sample_weight, multi_output=True, y_numeric=True)
        kept = weights > 0
        self._solve(X[kept], y[kept].astype(np.float64), weights[kept], ())
        if y.ndim == 1:
            self.coef_, self.intercept_ = self.coef_[0], float(self.intercept_[0])
        return self

    def predict(self, X: Any) -> np.ndarray:
        """X coef_' + intercept_, float64 (n,) or (n, t)."""
        check_is_fitted(self)
        X = validate_data(self, _with_numpy(X), dtype=_FLOATS, reset=False)
        return X @ self.coef_.T + self.intercept_
