"""Scores of penalties on rows that the fits do not see, where only the best has to be known.

From the least large penalty down, then up, every probe is fitted, loosely where fits are dear. One that falls
far behind what other penalties have reached is not followed further; and only penalties whose loose score is
so near the best that they could win are fitted to a gap of `CLOSE`, or to the request's tol where that is
larger.

How close: between `CLOSE` and the minimum a few rows change sides. Of eight penalties and 20 sizes of five
tasks, of 147 to 10,000 such rows, the chosen penalty's score at the minimum was at most 3 rows below the best
one's, or 0.2 standard errors, for half to two thirds of the evaluations that tol 5e-6 takes.

How near: scores move by rows that change sides between a gap of `LOOSE` and the minimum, fewer the better
the probes are. Eight penalties and 20 sizes of four tasks, of 147 to 4,000 such rows: the best penalty's
loose score was at most 0.5 standard errors behind the best loose one, or 2 rows. Of large penalties the
objective is mostly that of no weights at all, and a gap relative to it says little of them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from probecache.analyze.probes.block_result import BlockResult
from probecache.analyze.probes.design.kept_panels import KeptPanels
from probecache.analyze.probes.kind import ProbeRequest
from probecache.analyze.probes.optim.start import NEAR
from probecache.analyze.probes.shared_state import SharedState
from probecache.analyze.tasks.matrix import StoredRows
from probecache.analyze.tasks.task import Task

Fit = Callable[[Task, ProbeRequest, SharedState | None], BlockResult]
LOOSE = 1e-2  # tol of the first fits
CLOSE = 1e-3  # tol of those that could win
LARGE = 0.03  # penalty from which the first fit is the last, to the request's tol
OFF = 0.75  # standard errors that a loose score may be off by
ROWS = 2  # by which it may be off, however few there are
BEHIND = 2.0  # standard errors, beyond that, at which penalties further out are given up


def race(task: Task, shared: SharedState, request: ProbeRequest, path: np.ndarray, fit: Fit) -> np.ndarray:
    """Scores (s, f, p) on the task's test rows of fits with the penalties of a rising path; minus infinity
    for those that cannot be the best. request: of logistic probes, whose l2s do not matter."""
    plain = replace(request, return_coef=False, return_predictions=False, return_scores=False, metrics=())
    if isinstance(task.train, StoredRows) or shared.is_scarce:
        return _at_once(task, shared, plain, path, fit)
    kept, orders = replace(shared, kept=KeptPanels()), range(len(plain.orders))
    one = _at_once if is_at_once(task, shared) else _race
    return np.concatenate([one(task, kept, plain.part(slice(s, s + 1)), path, fit) for s in orders])


def is_at_once(task: Task, shared: SharedState) -> bool:
    """Whether all penalties are one fit: on disk they share each pass, of few rows each starts from others,
    and of two classes they fill products in lock step."""
    two = len(task.classes) == 2 and task.target_kind == "classes"
    return isinstance(task.train, StoredRows) or shared.is_scarce or two


def _race(task: Task, shared: SharedState, plain: ProbeRequest, path: np.ndarray, fit: Fit) -> np.ndarray:
    """`race` of one order in memory."""
    n, needed = len(task.test_labels), _needed(path, plain.tol)
    scores = np.full((1, len(plain.sizes), len(path)), -np.inf)
    loose, settled = replace(plain, tol=max(plain.tol, LOOSE)), path >= LARGE
    ends = np.cumsum([len(part) for part in near_penalties(path)])
    parts = np.split(np.arange(len(path)), ends[:-1])
    first = min(sum(not settled[part].any() for part in parts), len(parts) - 1)
    for way in parts[first::-1], parts[first:]:  # down to the smallest, then up to the largest
        running = np.ones(scores.shape[:2], bool)
        for part in way:
            new = running & np.isinf(scores[..., part]).all(axis=2)
            for at, asked in _grids(plain if settled[part].any() else loose, new, path[part]):
                found = fit(task, asked, shared)
                scores[np.ix_(at[0], at[1], part)] = found.score
                settled[part] = float(found.attrs.get("tol", asked.tol)) <= needed[part]
            best, error, near = _best(scores, n)
            running &= scores[..., part].max(axis=2) >= best - near - BEHIND * error
            if not running.any():
                break
    best, _, near = _best(scores, n)
    scores[scores < (best - near)[..., None]] = -np.inf
    possible = np.isfinite(scores)
    possible &= (possible.sum(axis=2, keepdims=True) > 1) & ~settled
    for part in parts[::-1]:
        left = part[possible[..., part].any(axis=(0, 1))]
        if len(left):
            close = replace(plain, tol=float(needed[left].min()))
            for at, asked in _grids(close, possible[..., left].any(axis=2), path[left]):
                scores[np.ix_(at[0], at[1], left)] = fit(task, asked, shared).score
    return scores


def _at_once(task: Task, shared: SharedState, plain: ProbeRequest, path: np.ndarray, fit: Fit) -> np.ndarray:
    """Scores (s, f, p) of all penalties, those of one tol together."""
    needed = _needed(path, plain.tol)
    parts = [replace(plain, tol=float(tol), l2s=path[needed == tol]) for tol in np.unique(needed)[::-1]]
    return np.concatenate([fit(task, part, shared).score for part in parts], axis=2)


def _needed(path: np.ndarray, tol: float) -> np.ndarray:
    """The tol (p,) at which the score of each penalty of a rising path counts."""
    return np.where(path >= LARGE, tol, max(tol, CLOSE))


def _best(scores: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best score (s, f) of n rows, its standard error, and how far behind one may be that could win."""
    best = scores.max(axis=2)
    error = np.sqrt(np.clip(best * (1 - best), 0, None) / n)
    return best, error, np.maximum(OFF * error, ROWS / n)


def near_penalties(path: np.ndarray, ratio: float = NEAR, most: int = 15) -> list[np.ndarray]:
    """A rising path cut where neighbours are more than `ratio` apart, and after `most` of them: those that
    are near start from one another's solutions.

    >>> [part.tolist() for part in near_penalties(np.array([0.0, 1e-4, 2e-4, 1e-2]))]
    [[0.0], [0.0001, 0.0002], [0.01]]
    """
    far = np.flatnonzero(path[1:] > ratio * path[:-1]) + 1
    return [part[i : i + most] for part in np.split(path, far) for i in range(0, len(part), most)]


def _grids(
    request: ProbeRequest, chosen: np.ndarray, l2s: np.ndarray
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], ProbeRequest]]:
    """The probes `chosen` bool (s, f) as requests of whole grids, and the orders and sizes of each."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for s, row in enumerate(chosen):
        if row.any():
            alike[tuple(np.flatnonzero(row).tolist())].append(s)
    for columns, rows in alike.items():
        at = np.array(rows), np.array(columns)
        yield at, replace(request.part(at[0]), sizes=request.sizes[at[1]], l2s=l2s)
