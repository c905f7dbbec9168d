"""scikit-learn, one fit at a time in float64: the reference that the other solvers are held against."""

import warnings
from typing import Any

import numpy as np

from probecache.analyze.probes.block_result import BlockResult
from probecache.analyze.probes.kind import ProbeRequest
from probecache.analyze.sweeps.solvers.one_by_one import (
    Fit,
    Problem,
    logistic_objective,
    loop,
    ridge_objective,
)
from probecache.analyze.tasks.task import Task

TOLERANCE = 1e-6
MAX_ITER = 2000


def unavailable() -> str:
    return ""  # scikit-learn is a requirement


def solve(task: Task, request: ProbeRequest, shared: Any = None) -> BlockResult:
    """`solvers.solve` with LogisticRegression(lbfgs) or RidgeClassifier(cholesky), on the CPU."""
    from sklearn import __version__

    attrs = {"solver": "sklearn", "device": "cpu", "sklearn": __version__, "tol": TOLERANCE}
    return loop(task, request, PROBLEMS, attrs)


def fit_logistic(x: np.ndarray, labels: np.ndarray, l2: float) -> Fit:
    """LogisticRegression with C = 1 / (l2 n): the same objective times n / l2."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    strength = 1 / (l2 * len(x)) if l2 else np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported as converged=False
        model = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=MAX_ITER).fit(x, labels)
    steps = int(np.max(model.n_iter_))
    return Fit(model.coef_, model.intercept_, steps, steps < MAX_ITER)


def fit_ridge(x: np.ndarray, labels: np.ndarray, l2: float) -> Fit:
    """RidgeClassifier with alpha = l2 n."""
    from sklearn.linear_model import RidgeClassifier

    model = RidgeClassifier(alpha=l2 * len(x), solver="cholesky" if l2 else "svd").fit(x, labels)
    return Fit(np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_), 1, True)


PROBLEMS = {
    "logistic": Problem(fit_logistic, logistic_objective),
    "ridge": Problem(fit_ridge, ridge_objective),
}
