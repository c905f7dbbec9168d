"""Choosing l2 for each probe by rows that its fit does not see, then fitting it on all training rows.

    logistic    one stratified part, a fifth of the training rows of each class, is held out; the path is
                fitted on the rest and scored on it, as far as it takes to tell the best (race.py)
    ridge       five folds of the moments (cross_validate.py)

The penalty with the best score is taken, the largest of those that are equal. The test rows play no part.
A held-out part was preferred to folds for logistic probes: it costs 0.8 fits per penalty, five folds cost 4.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from probecache.analyze.probes.block_result import BlockResult
from probecache.analyze.probes.design.kept_panels import KeptPanels
from probecache.analyze.probes.fit import fit_request, moments_for, task_moments
from probecache.analyze.probes.kind import Kind, ProbeRequest, claims
from probecache.analyze.probes.l2_choice.cross_validate import FOLDS, ridge_scores
from probecache.analyze.probes.l2_choice.folds import SEED, held_out_rows, split_task
from probecache.analyze.probes.l2_choice.race import CLOSE, Fit, is_at_once, near_penalties, race
from probecache.analyze.probes.shared_state import SharedState
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError

L2_PATH = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
HELD_OUT = 0.2  # share of each class
FOLDED = "folds"  # a kind's `l2_choice`: whose scores over folds the moments give


@dataclass(frozen=True)
class HeldOut:
    """A task that fits on four fifths of another's training rows and scores on the rest; its moments."""

    task: Task
    shared: SharedState


def hold_out(
    task: Task,
    standardize: bool = True,
    device: str = "auto",
    memory_limit: int | None = None,
    exact: bool = True,
) -> HeldOut:
    """What choosing l2 for logistic probes needs of a task; compute it once per task. exact: as of
    `task_moments`."""
    part = split_task(task, held_out_rows(task.train_labels, HELD_OUT))
    return HeldOut(part, task_moments(part, standardize, device, memory_limit, exact=exact))


def describe_choice(kind: Kind) -> str:
    """How l2 is chosen, in words: a part of the settings of RESULTS."""
    if kind.l2_choice == FOLDED:
        return f"accuracy over {FOLDS} stratified folds of train, seed {SEED}"
    return f"accuracy on {HELD_OUT:.0%} of train held out by class, seed {SEED}, at a gap of {CLOSE} or less"


def fit_chosen(
    task: Task,
    request: ProbeRequest,
    *,
    shared: SharedState | None = None,
    held: HeldOut | None = None,
    fit: Fit = fit_request,
) -> tuple[BlockResult, np.ndarray]:
    """Choose l2 from the request's for each order and size, and fit each probe with its own on all rows.

    Returns the probes' arrays (s, f, 1) and the chosen l2, float64 (s, f, 1).
    held: `hold_out(task)` where it is known; fit: what fits, `fit_request` or another solver.
    `n_iter` is of the final fit. Raises InputError for probes without l2.
    """
    kind = request.kind
    if not kind.l2_choice:
        raise InputError(f"got l2 'auto' for a {kind.name} probe, which has no l2; give one number")
    path = np.unique(request.l2s)
    if shared is None:
        shared = moments_for(task, request)
    if kind.l2_choice == FOLDED:
        scores = ridge_scores(shared, request.orders, request.sizes, path)
    else:
        if held is None:
            exact = not claims(kind, "rough_moments")
            held = hold_out(task, request.standardize, request.device, request.memory_limit, exact)
        tried = replace(held.shared, share_curvature=True)
        scores = race(held.task, tried, request, path, fit)
        shared = replace(shared, share_curvature=True, curvatures=tried.curvatures)
    chosen = best_penalty(scores, path)  # (s, f)
    return refit(task, request, chosen, shared, fit), chosen[..., None]


def best_penalty(scores: np.ndarray, path: np.ndarray) -> np.ndarray:
    """The penalty of the highest score along the last axis, the largest where several are equal.

    >>> best_penalty(np.array([[0.5, 0.7, 0.7, 0.1]]), np.array([0.1, 1.0, 10.0, 100.0])).tolist()
    [10.0]
    """
    return path[::-1][np.argmax(scores[..., ::-1], axis=-1)]


def refit(
    task: Task, request: ProbeRequest, chosen: np.ndarray, shared: SharedState | None, fit: Fit
) -> BlockResult:
    """Each probe with its own penalty: all at once, or those of one penalty and the same sizes."""
    if shared is None:
        shared = moments_for(task, request)
    l2s = np.unique(chosen)
    far = len(near_penalties(l2s)) == len(l2s)  # near ones would start from probes of other sizes
    if request.kind.l2_choice == FOLDED or (far and is_at_once(task, shared)):
        return fit(task, replace(request, own_l2=chosen), shared)
    shared = replace(shared, kept=KeptPanels())
    groups: dict[tuple[float, tuple[int, ...]], list[int]] = defaultdict(list)
    for s, row in enumerate(chosen):
        for l2 in np.unique(row):
            groups[float(l2), tuple(np.flatnonzero(row == l2))].append(s)
    parts = []
    for (l2, columns), rows in sorted(
        groups.items(), key=lambda group: -max(group[0][1])
    ):  # the widest first
        part = replace(request.part(np.array(rows)), sizes=request.sizes[list(columns)], l2s=np.array([l2]))
        parts.append((np.ix_(rows, columns), fit(task, part, shared)))
    return BlockResult.assemble(chosen.shape, parts)
