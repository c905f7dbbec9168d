"""What every block of one task shares: moments, a sample of the rows, and the curvature of each l2.

Computed once per task and process, from the task alone, so that blocks of any size get the same numbers.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from analyze.probes.crossentropy import indicator, n_outputs
from analyze.probes.curvature import class_grams
from analyze.probes.lockstep import lbfgs
from analyze.probes.logistic import Batch
from analyze.probes.moments import Moments, moments
from analyze.probes.panels import Panels
from analyze.probes.precondition import Preconditioner, cholesky
from analyze.probes.ridge import class_targets
from analyze.probes.start import newton_start
from analyze.task import Task, row_blocks

SAMPLE_ROWS = 16384
PILOT_TOL = 1e-3


@dataclass
class Prepared:
    """Made by `prepare`. sample: a panel (1 + d, S) of evenly spaced rows; sample_labels: int64 (S,).

    gram_limit: bytes that the class Grams of one l2 may take; where they would take more, or where there are
    too few rows to estimate them, `curvature` is None and the plain Gram matrix serves.
    """

    task: Task
    standardize: bool
    device: torch.device
    moments: Moments
    sample: Panels
    sample_labels: Tensor
    gram_limit: int
    grams: dict[float, Tensor | None] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes held: moments, sampled rows and the curvatures computed so far."""
        grams = sum(gram.nbytes for gram in self.grams.values() if gram is not None)
        return (
            self.moments.gram.nbytes
            + self.moments.cross.nbytes
            + 4 * self.sample.n_samples * self.sample.width
            + grams
        )

    def curvature(self, l2: float) -> Tensor | None:
        """Class Grams float32 (c, 1 + d, 1 + d) for probes of this penalty; computed at the first call."""
        if l2 not in self.grams:
            outputs, (n, d) = n_outputs(len(self.task.classes)), self.task.train.shape
            worth = n >= 2 * d and 4 * outputs * (1 + d) ** 2 <= self.gram_limit
            self.grams[l2] = self._class_grams(l2, outputs) if worth else None
        return self.grams[l2]

    def _class_grams(self, l2: float, outputs: int) -> Tensor:
        width = 1 + max(self.task.n_neurons // 4, min(self.task.n_neurons, 16))
        penalty = torch.tensor([l2], dtype=torch.float64, device=self.device)
        widths = torch.tensor([width], device=self.device)
        zero = torch.zeros(1, dtype=torch.int64, device=self.device)
        panels = Panels(
            self.sample.matrix,
            self.sample.mean,
            self.sample.scale,
            self.device,
            [np.arange(width - 1)],
            keep=True,
        )
        batch = Batch(panels, zero, widths, penalty, indicator(self.sample_labels, outputs))
        part = Moments(
            self.moments.gram[:width, :width], self.moments.cross[:width], self.moments.square, 1.0
        )
        gram = Preconditioner([gram_factor(part, l2, len(self.task.classes))], zero, batch.mask)
        start = newton_start(part, gram, zero)
        pilot = lbfgs(batch.evaluate, gram.solve, start, PILOT_TOL, 100).x
        (sample,) = Panels(
            self.sample.matrix, self.sample.mean, self.sample.scale, self.device, rows=SAMPLE_ROWS
        )
        return class_grams(
            task_panels(self.task, self.standardize, self.device),
            pilot,
            sample.base,
            task_weights(self.task, self.device),
        )


def prepare(
    task: Task,
    standardize: bool,
    device: torch.device,
    memory_limit: int | None = None,
    found: Moments | None = None,
) -> Prepared:
    """One pass over the training rows. memory_limit: bytes for all that this process holds.

    found: the task's moments where they were computed already, by `analyze.sweeps.reduce` on a cluster.
    """
    labels = torch.from_numpy(task.train_labels).to(device)
    if task.is_regression:
        targets = labels if labels.dim() == 2 else labels[:, None]
    else:
        targets = class_targets(labels, len(task.classes))
    if found is None:
        found = moments(task_panels(task, standardize, device), targets, task_weights(task, device))
    else:
        found = found.to(device)
    n = task.train.shape[0]
    rows = np.unique(np.linspace(0, n - 1, min(n, SAMPLE_ROWS)).astype(np.int64))
    mean, scale = (task.mean, task.scale) if standardize else (None, None)
    sample = Panels(_take_rows(task, rows), mean, scale, device)
    gram_limit = 2**30 if device.type == "cpu" else 2**33
    if memory_limit is not None:
        gram_limit = min(gram_limit, memory_limit // 8)
    return Prepared(task, standardize, device, found, sample, labels[rows], gram_limit)


def gram_factor(part: Moments, l2: float, n_classes: int) -> Tensor:
    """Cholesky factor float32 (1, w, w) of the Hessian at zero weights, near enough: Gram / classes + l2."""
    return cholesky(part.gram[None] / (4 if n_classes == 2 else n_classes), l2).float()


def task_panels(
    task: Task,
    standardize: bool,
    device: torch.device,
    orders: list[np.ndarray] | None = None,
    keep: bool = False,
    test: bool = False,
) -> Panels:
    """Panels of the training rows, or of the test rows in the training rows' standard units."""
    mean, scale = (task.mean, task.scale) if standardize else (None, None)
    return Panels(task.test if test else task.train, mean, scale, device, orders or [], keep=keep)


def task_weights(task: Task, device: torch.device) -> Tensor | None:
    return None if task.weights is None else torch.from_numpy(task.weights).to(device, torch.float32)


def _take_rows(task: Task, rows: np.ndarray) -> np.ndarray:
    if isinstance(task.train, np.ndarray):
        return task.train[rows]
    found = [
        block[rows[(rows >= s) & (rows < s + len(block))] - s] for s, block in row_blocks(task.train, 8192)
    ]
    return np.concatenate(found)
