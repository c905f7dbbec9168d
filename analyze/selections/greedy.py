"""Neurons in the order in which they lower the squared error most, or least: best and worst subsets.

Ridge on a set S of the columns, with centred moments G = X'X / n and C = X'Y / n, reaches the objective

    f(S) = tr(Y'Y) / n - tr(C_S' (G_S + l2)^-1 C_S)

and one more column j lowers it by  ||c_j||^2 / g_j,  where c_j and g_j are j's row of C and diagonal entry of
G + l2 after the columns of S have been swept out. Each step takes the largest of these ("greedy") or the
smallest ("greedy-worst"), so the first k of the order are the subset of size k, for every k at once. The
sweeps are a pivoted Cholesky factorisation: d^3 / 2 multiply-adds for the whole order.
"""

import numpy as np

from probecache.analyze.tasks.matrix import row_blocks
from probecache.analyze.tasks.task import Task

# Of standardised columns, whose variance is 1: keeps the order stable where columns depend on each other.
L2 = 1e-3


def greedy_order(gram: np.ndarray, cross: np.ndarray, *, l2: float = L2, worst: bool = False) -> np.ndarray:
    """The order of all d columns, int64 (d,): gram (d, d) and cross (d, t), centred, float64; ties to the
    first column."""
    d = len(gram)
    diagonal, cross = np.diag(gram) + l2, cross.astype(np.float64, copy=True)
    factor = np.zeros((d, d))  # column i: of the i-th pick, in the order of the picks
    order = np.empty(d, np.int64)
    left = np.ones(d, bool)
    for i in range(d):
        gain = (cross**2).sum(1) / np.maximum(diagonal, np.finfo(float).tiny)
        pick = int(np.where(left, gain if worst else -gain, np.inf).argmin())
        order[i], left[pick] = pick, False
        pivot = np.sqrt(max(diagonal[pick], np.finfo(float).tiny))
        column = gram[:, pick] - factor[:, :i] @ factor[pick, :i]
        column[pick] += l2
        column /= pivot
        factor[:, i] = column
        cross -= np.outer(column, cross[pick] / pivot)
        diagonal -= column**2
        cross[pick] = 0
    return order


def centred_moments(task: Task, standardize: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """G (d, d), C (d, t) and the targets' means (t,) of the training rows, float64, weighted as the task is.

    Targets are 1 for the row's class and -1 for the others, or the task's own numbers.
    """
    targets = target_matrix(task.train_labels, len(task.classes))
    weights = np.ones(len(targets)) if task.weights is None else task.weights
    total = float(weights.sum())
    scale = task.scale.astype(np.float64) if standardize else np.ones(task.n_neurons)
    gram = np.zeros((task.n_neurons, task.n_neurons))
    cross = np.zeros((task.n_neurons, targets.shape[1]))
    mean = np.zeros(task.n_neurons)
    target_mean = weights @ targets / total
    for start, block in row_blocks(task.train, 8192):
        x = (block.astype(np.float64) - task.mean) / scale
        w = weights[start : start + len(block)]
        gram += (x * w[:, None]).T @ x
        cross += (x * w[:, None]).T @ targets[start : start + len(block)]
        mean += w @ x
    mean /= total  # zero but for weights
    return gram / total - np.outer(mean, mean), cross / total - np.outer(mean, target_mean), target_mean


def target_matrix(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """float64 (n, t): +1 and -1 for class labels int (n,); numbers (n,) or (n, t) as they are."""
    labels = np.asarray(labels)
    if labels.ndim == 1 and n_classes:
        return 2.0 * (labels[:, None] == np.arange(n_classes)) - 1
    return labels.reshape(len(labels), -1).astype(np.float64)
