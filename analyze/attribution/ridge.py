"""A ridge probe without some of its neurons, for every group of them, in closed form.

With A = (G + l2)^-1 and the weights W = A C of the probe on all neurons, the probe on all but a group B has

    W' = W - A_:B (A_BB)^-1 W_B

exactly, so the test scores change by a product of width |B|: no system of d equations is solved again.
"""

from dataclasses import dataclass

import numpy as np

from probecache.analyze.selections.greedy import centred_moments
from probecache.analyze.tasks.matrix import row_blocks
from probecache.analyze.tasks.task import Task


@dataclass(frozen=True)
class WholeRidge:
    """The probe on all neurons. weights: (d, t); inverse: A (d, d); scores: (n_test, t); reach: test rows
    times A, (n_test, d). All float64."""

    weights: np.ndarray
    inverse: np.ndarray
    scores: np.ndarray
    reach: np.ndarray

    def without(self, group: np.ndarray) -> np.ndarray:
        """Test scores (n_test, t) of the probe on all neurons but those of `group`, int (b,)."""
        own = self.inverse[np.ix_(group, group)]
        return self.scores - self.reach[:, group] @ np.linalg.solve(own, self.weights[group])


def fit_whole_ridge(task: Task, l2: float, standardize: bool = True) -> WholeRidge:
    """The probe of (1/n) ||Y - XW - b||^2 + l2 ||W||^2 on all neurons of a task."""
    gram, cross, target_mean = centred_moments(task, standardize)
    inverse = np.linalg.inv(gram + l2 * np.eye(len(gram)))
    inverse = (inverse + inverse.T) / 2
    weights = inverse @ cross
    train_mean = _train_mean(task)
    scale = task.scale.astype(np.float64) if standardize else 1.0
    reach = np.concatenate(
        [
            ((block.astype(np.float64) - train_mean) / scale) @ inverse
            for _, block in row_blocks(task.test, 8192)
        ]
    )
    return WholeRidge(weights, inverse, reach @ cross + target_mean, reach)


def _train_mean(task: Task) -> np.ndarray:
    """The training rows' weighted mean, float64 (d,): what the intercept is taken at."""
    weights = np.ones(task.train.shape[0]) if task.weights is None else task.weights
    total = sum(
        weights[start : start + len(block)] @ block.astype(np.float64)
        for start, block in row_blocks(task.train, 8192)
    )
    return np.asarray(total) / weights.sum()
