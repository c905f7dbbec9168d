"""Making what blocks share of a task's rows: for a target, others of the same rows, one of several labels."""

from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import torch

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.gram import Moments, moments
from probecache.analyze.probes.design.task_panels import (
    resident,
    some_rows,
    take_rows,
    task_panels,
    task_targets,
    task_weights,
    units,
)
from probecache.analyze.probes.shared_state import GRAM_LIMIT, SAMPLE_ROWS, SharedState
from probecache.analyze.tasks.task import Task


@dataclass(frozen=True)
class Known:
    """What is known of a task before its rows are read.

    moments: the task's own, where a cluster summed them up. state: what is shared of the same rows with
    another target: the Gram matrix serves, and rows on a GPU. gram: moments of the same rows with other
    targets, or with none, whose Gram matrix serves.
    """

    moments: Moments | None = None
    state: SharedState | None = None
    gram: Moments | None = None


def share(
    task: Task,
    standardize: bool,
    device: torch.device,
    memory_limit: int | None = None,
    known: Known = Known(),
    exact: bool = True,
) -> SharedState:
    """One pass over the training rows. memory_limit: bytes for all that this process holds. exact: as
    `moments` takes it; a kind that claims `rough_moments` does without."""
    labels = torch.from_numpy(task.train_labels).to(device)
    targets, state = task_targets(task, labels), known.state
    held = resident(task_panels(task, standardize, device), memory_limit) if state is None else state.rows
    if known.moments is None:
        weights = task_weights(task, device)
        gram = known.gram if state is None else state.moments
        found = moments(held or task_panels(task, standardize, device), targets, weights, gram, exact)
    else:
        found = known.moments.to(device)
    n = task.train.shape[0]
    chosen = some_rows(n, SAMPLE_ROWS)
    rows = np.arange(n) if chosen is None else chosen
    mean, scale = units(task, standardize)
    sample = None if held is not None else Panels(take_rows(task, rows), mean, scale, device)
    gram_limit = GRAM_LIMIT if device.type == "cpu" else 2**33
    if memory_limit is not None:
        gram_limit = min(gram_limit, memory_limit // 8)
    tests = None if state is None else state.test_rows
    shown = labels[rows]
    return SharedState(
        task, standardize, device, found, sample, shown, gram_limit, rows=held, test_rows=tests
    )


def share_labels(shared: SharedState, tasks: list[Task]) -> list[SharedState]:
    """What is shared of tasks over the same rows as another's, without weights: one pass for all of them.

    The other test rows of a task are not those that are on the device already.
    """
    if not tasks:
        return []
    labels = [torch.from_numpy(task.train_labels).to(shared.device) for task in tasks]
    targets = [task_targets(task, own) for task, own in zip(tasks, labels, strict=True)]
    panels = shared.rows or task_panels(shared.task, shared.standardize, shared.device)
    whole = moments(panels, torch.cat(targets, dim=1), None, shared.moments)
    drawn = some_rows(shared.task.train.shape[0], SAMPLE_ROWS)
    rows = slice(None) if drawn is None else torch.from_numpy(drawn).to(shared.device)
    states, start = [], 0
    for task, own, target in zip(tasks, labels, targets, strict=True):
        part = slice(start, start + target.shape[1])
        known = Moments(whole.gram, whole.cross[:, part], whole.square[part], whole.count)
        states.append(replace(shared, task=task, moments=known, sample_labels=own[rows], curvatures={}))
        start = part.stop
    return states


def one_label(shared: SharedState, column: int) -> SharedState:
    """What is shared of a task of several labels as the task of one of them, with two classes."""
    task = shared.task
    # made without its checks, which the whole task has passed, and without a copy of its rows
    one = copy(task)
    for name, value in (
        ("train_labels", task.train_labels[:, column]),
        ("test_labels", task.test_labels[:, column]),
        ("classes", ("0", "1")),
    ):
        object.__setattr__(one, name, value)
    return replace(
        shared,
        task=one,
        moments=shared.moments.of_target(column),
        sample_labels=shared.sample_labels[:, column],
        curvatures={},
    )
