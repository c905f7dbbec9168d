"""One fit at a time: the loop that lends solvers of single problems the interface of the batched one."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probecache.analyze.probes.block_result import BlockResult
from probecache.analyze.probes.kind import ProbeRequest
from probecache.analyze.tasks.matrix import StoredRows
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError

ARRAYS = ("accuracy", "objective", "grad_norm", "seconds")


@dataclass(frozen=True)
class Fit:
    """What a solver found: coef (outputs, k), intercept (outputs,); outputs is 1 for two classes.

    converged: what the solver says of itself.
    """

    coef: np.ndarray
    intercept: np.ndarray
    n_iter: int
    converged: bool


@dataclass(frozen=True)
class Problem:
    """How one kind of probe is fitted and measured by a solver of single problems.

    fit: columns (n, k), labels (n,), l2 -> Fit. measure: Fit, columns, labels, l2 -> objective and gradient.
    gradient_tol: a fit has converged if its solver says so and, at its weights, no entry of the gradient is
    above gradient_tol times the objective.
    """

    fit: Callable[[np.ndarray, np.ndarray, float], Fit]
    measure: Callable[[Fit, np.ndarray, np.ndarray, float], tuple[float, np.ndarray]]
    gradient_tol: float = np.inf


def loop(
    task: Task, request: ProbeRequest, problems: Mapping[str, Problem], attrs: dict[str, Any]
) -> BlockResult:
    """Fit a probe for every order, size and l2 of a request, one by one; score each in float64."""
    problem = problems.get(request.kind.name)
    if problem is None:
        raise InputError(f"got a {request.kind.name} probe for solver {attrs['solver']}; only torch fits it")
    if isinstance(task.train, StoredRows) or isinstance(task.test, StoredRows):
        raise InputError(f"got layer {task.layer!r} on disk; only solver torch reads it in row blocks")
    if task.target_kind != "classes" or task.weights is not None:
        raise InputError("got regression targets, labels or sample weights; only solver torch takes them")
    orders, sizes, penalties = request.orders, request.sizes, request.penalties()
    train, test = (np.asarray(matrix, np.float64) for matrix in (task.train, task.test))
    if request.standardize:
        train, test = ((matrix - task.mean) / task.scale for matrix in (train, test))
    shape, count = penalties.shape, len(task.classes)
    arrays = {name: np.empty(shape) for name in (*ARRAYS, *(metric.name for metric in request.metrics))}
    arrays |= {"n_iter": np.empty(shape, np.int64), "converged": np.empty(shape, bool)}
    arrays["class_accuracy"] = np.empty((*shape, count))
    if request.return_predictions:
        arrays["predictions"] = np.empty((*shape, len(test)), np.int32)
    if request.return_scores:
        arrays["scores"] = np.empty((*shape, task.n_outputs, len(test)), np.float32)
    for at in np.ndindex(shape):
        columns = orders[at[0]][: sizes[at[1]]]
        l2 = float(penalties[at])
        begun = time.perf_counter()
        x = np.ascontiguousarray(train[:, columns])  # (n, k)
        found = problem.fit(x, task.train_labels, l2)
        objective, gradient = problem.measure(found, x, task.train_labels, l2)
        values = scores(found, test[:, columns])
        predicted = predict(values)
        right = predicted == task.test_labels
        arrays["objective"][at], arrays["grad_norm"][at] = objective, np.linalg.norm(gradient)
        arrays["accuracy"][at] = right.mean()
        arrays["class_accuracy"][at] = per_class(right, task.test_labels, count)
        small = bool(np.abs(gradient).max() <= problem.gradient_tol * objective)
        arrays["n_iter"][at], arrays["converged"][at] = found.n_iter, found.converged and small
        _keep(arrays, at, request, task, values, predicted)
        arrays["seconds"][at] = time.perf_counter() - begun
    return BlockResult.of(arrays, attrs)


def _keep(
    arrays: dict[str, np.ndarray],
    at: tuple[int, ...],
    request: ProbeRequest,
    task: Task,
    values: np.ndarray,
    predicted: np.ndarray,
) -> None:
    """What a request asks for beside accuracy, of the test scores (n, outputs)."""
    if request.return_predictions:
        arrays["predictions"][at] = predicted
    if request.return_scores:
        arrays["scores"][at] = values.T
    if request.metrics:
        import torch

        given = torch.from_numpy(np.ascontiguousarray(values.T))[None]
        truth = torch.from_numpy(task.test_labels)
        for metric in request.metrics:
            logits = request.kind.probabilities
            found = metric.compute(given, truth, len(task.classes), logits=logits)
            arrays[metric.name][at] = float(found[0])


def scores(fit: Fit, x: np.ndarray) -> np.ndarray:
    """Decision values (n, outputs)."""
    return x @ fit.coef.T + fit.intercept


def predict(values: np.ndarray) -> np.ndarray:
    """Predicted classes (n,) of decision values (n, outputs)."""
    return values.argmax(axis=1) if values.shape[1] > 1 else (values[:, 0] > 0).astype(np.int64)


def per_class(right: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Accuracy of each class (count,); NaN for a class without test samples."""
    totals = np.bincount(labels, minlength=count)
    hits = np.bincount(labels, weights=right, minlength=count)
    return np.divide(hits, totals, out=np.full(count, np.nan), where=totals > 0)


def logistic_objective(fit: Fit, x: np.ndarray, labels: np.ndarray, l2: float) -> tuple[float, np.ndarray]:
    """(1/n) sum CE + (l2/2) ||W||^2  and its gradient in b and W, (1 + k, outputs)."""
    n, rows = len(x), np.arange(len(x))
    logits = scores(fit, x)
    if logits.shape[1] == 1:  # two classes, one output: CE of (0, z)
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    top = logits.max(axis=1, keepdims=True)
    norm = np.log(np.exp(logits - top).sum(axis=1, keepdims=True)) + top
    residual = np.exp(logits - norm)  # probabilities
    residual[rows, labels] -= 1
    residual = residual[:, -fit.coef.shape[0] :]  # (n, outputs)
    objective = (norm[:, 0] - logits[rows, labels]).mean() + 0.5 * l2 * np.sum(fit.coef**2)
    gradient = x.T @ residual / n + l2 * fit.coef.T
    return float(objective), np.vstack([residual.mean(axis=0), gradient])


def ridge_objective(fit: Fit, x: np.ndarray, labels: np.ndarray, l2: float) -> tuple[float, np.ndarray]:
    """(1/n) ||Y - XW - b||^2 + l2 ||W||^2  and its gradient in W, (k, outputs), with targets of +-1."""
    outputs = fit.coef.shape[0]
    targets = np.where(labels[:, None] == np.arange(outputs), 1.0, -1.0)
    if outputs == 1:
        targets = 2.0 * labels[:, None] - 1
    residual = scores(fit, x) - targets
    gradient = 2 * (x.T @ residual / len(x) + l2 * fit.coef.T)
    objective = np.sum(residual**2) / len(x) + l2 * np.sum(fit.coef**2)
    return float(objective), gradient
