"""A task as the design takes it: panels in its units, targets, weights, some of its rows."""

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.gram import class_targets
from probecache.analyze.tasks.matrix import row_blocks
from probecache.analyze.tasks.task import Task


def task_panels(
    task: Task,
    standardize: bool,
    device: torch.device,
    orders: list[np.ndarray] | None = None,
    keep: bool = False,
    test: bool = False,
    as_stored: bool = False,
) -> Panels:
    """Panels of the training rows, or of the test rows in the training rows' `units`.

    as_stored: columns that are not standardised are not centred either, for kinds that see the difference.
    """
    mean, scale = (None, None) if as_stored and not standardize else units(task, standardize)
    return Panels(task.test if test else task.train, mean, scale, device, orders or [], keep=keep)


def units(task: Task, standardize: bool) -> tuple[np.ndarray, np.ndarray]:
    """What is subtracted from the columns and what they are divided by, float32 (d,) each.

    Columns are centred even where they are not standardised: an intercept that nothing penalises makes up for
    it, and float32 sums of columns whose means are far larger than their spreads would lose the spreads.
    """
    return task.mean, task.scale if standardize else np.ones_like(task.scale)


def resident(panels: Panels, memory_limit: int | None) -> Panels | None:
    """The panels, held where they are iterated first, if a GPU has room for eight times as much.

    Fits hold the columns in their order in float32 and in bfloat16, and logits of all rows, beside them.
    """
    if panels.device.type != "cuda" or not panels.in_memory:
        return None
    free = torch.cuda.mem_get_info(panels.device)[0]
    if memory_limit is not None:
        free = min(free, memory_limit)
    if 8 * 4 * panels.n_samples * panels.width > free:
        return None
    panels.keep = True
    return panels


def task_targets(task: Task, labels: Tensor) -> Tensor:
    """What least squares fit: numbers as they are, +-1 for classes and labels; float (n, t)."""
    if task.target_kind == "numbers":
        return labels if labels.dim() == 2 else labels[:, None]
    if task.target_kind == "labels":
        return 2 * labels.float() - 1
    return class_targets(labels, len(task.classes))


def task_weights(task: Task, device: torch.device) -> Tensor | None:
    return None if task.weights is None else torch.from_numpy(task.weights).to(device, torch.float32)


def some_rows(n: int, count: int) -> np.ndarray | None:
    """`count` of n rows in order, drawn with seed 0, since labels may be periodic; None where all will do."""
    return None if n <= count else np.sort(np.random.default_rng(0).permutation(n)[:count])


def take_rows(task: Task, rows: np.ndarray) -> np.ndarray:
    if isinstance(task.train, np.ndarray):
        return task.train[rows]
    found = [
        block[rows[(rows >= s) & (rows < s + len(block))] - s] for s, block in row_blocks(task.train, 8192)
    ]
    return np.concatenate(found)
