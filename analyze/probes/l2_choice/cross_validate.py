"""K-fold cross-validation of ridge probes: a fold's moments are subtracted from those of all rows.

The moments of all rows are there already. Those of each fold take one pass over its rows; what is left
without them are the moments of the rows that the fold's probes are fitted on. So K folds cost one more Gram
matrix, and per fold, order and l2 one Cholesky factor that serves every nested subset.
"""

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.gram import moments
from probecache.analyze.probes.design.task_panels import task_targets, task_weights, units
from probecache.analyze.probes.kinds.ridge import fit_ridge
from probecache.analyze.probes.l2_choice.folds import fold_numbers
from probecache.analyze.probes.score import predict, r_squared
from probecache.analyze.probes.shared_state import SharedState
from probecache.analyze.tasks.rows import rows_of
from probecache.analyze.tasks.task import Task

FOLDS = 5


def ridge_scores(
    shared: SharedState, orders: np.ndarray, sizes: np.ndarray, path: np.ndarray, folds: int = FOLDS
) -> np.ndarray:
    """Score on rows left out, averaged over the folds, float64 (s, f, p): orders, sizes, penalties.

    Accuracy; R^2, mean over targets, for regression. Folds are stratified, seed 0. Columns are standardised
    once, by all training rows, so this is RidgeClassifier(alpha = l2 n') or Ridge, n' the rows (or the sum of
    the sample weights) that a fold fits, averaged over the folds.
    Where a fold leaves no row of a class to fit on, that class is never predicted there.
    """
    task = shared.task
    numbers = fold_numbers(task.train_labels, folds)
    targets = _targets(shared)
    weights, width = task_weights(task, shared.device), len(path)
    widths = np.repeat(sizes, width)
    penalties = np.tile(path, len(sizes))
    total = np.zeros((len(orders), len(sizes), width))
    for fold in range(folds):
        held = numbers == fold
        rows = torch.from_numpy(np.flatnonzero(held)).to(shared.device)
        panels = _panels(shared, held, [])
        mine = None if weights is None else weights[rows]
        left = shared.moments.without(moments(panels, targets[rows], mine))
        absent = _absent(task, ~held)
        for at, order in enumerate(orders):
            fit = fit_ridge(left.take(order), widths, penalties)
            total[at] += _score(shared, fit.x, widths, order, held, absent).reshape(len(sizes), width)
    return total / folds


def _targets(shared: SharedState) -> Tensor:
    return task_targets(shared.task, torch.from_numpy(shared.task.train_labels).to(shared.device))


def _panels(shared: SharedState, held: np.ndarray, orders: list[np.ndarray]) -> Panels:
    task = shared.task
    mean, scale = units(task, shared.standardize)
    return Panels(rows_of(task.train, held), mean, scale, shared.device, orders)


def _absent(task: Task, fitted: np.ndarray) -> np.ndarray:
    """Classes that no fitted row has, as outputs; none of other targets, or of two classes' one output."""
    count = len(task.classes) if task.target_kind == "classes" else 0
    return np.setdiff1d(np.arange(count), task.train_labels[fitted]) if count > 2 else np.empty(0, np.int64)


def _score(
    shared: SharedState,
    x: Tensor,
    widths: np.ndarray,
    order: np.ndarray,
    held: np.ndarray,
    absent: np.ndarray,
) -> np.ndarray:
    """Scores (m,) of probes x (m, t, 1 + d), in any order, on the rows held out."""
    task = shared.task
    rank = np.argsort(-widths, kind="stable")  # products of nested probes want the largest first
    x[:, torch.from_numpy(absent), 0] = -torch.inf
    sorted_widths = torch.from_numpy(widths[rank] + 1)
    one_order = torch.zeros(len(rank), dtype=torch.int64)
    panels, truth = _panels(shared, held, [order]), _targets(shared)[torch.from_numpy(held)]
    scores = np.empty(len(widths))
    ranked = x[torch.from_numpy(rank)]
    if task.is_regression:
        scores[rank] = r_squared(ranked, sorted_widths, one_order, panels, truth).cpu().numpy()
    else:
        labels = torch.from_numpy(task.train_labels[held]).to(shared.device)
        several = task.target_kind == "labels"
        guesses = predict(ranked, sorted_widths, one_order, panels, several)
        right = guesses == (labels.T if several else labels)
        scores[rank] = right.double().flatten(1).mean(dim=1).cpu().numpy()
    return scores
