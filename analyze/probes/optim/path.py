"""Logistic probes for a path of penalties, in memory: what one penalty has found serves the next.

From the largest penalty down, each starts where the parabola over log l2 through its neighbours' solutions
leads. It goes on with what L-BFGS has learnt of the curvature there, by steps from the float32 pass that
ended the one before (`fit_after`): three to five evaluations where a penalty by itself takes twenty. Factors
serve penalties up to `REUSE` apart. Class Grams serve until a penalty has been hard with them; from there
they are of the solutions themselves, by width, since a pilot is like the widest probes alone. Of many classes
a penalty that is near no other is fitted as if it were the only one (`downward.py`).
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design import bfloat16_product
from probecache.analyze.probes.kind import Fitted, ProbeRequest
from probecache.analyze.probes.lbfgs.lock_step import Solution
from probecache.analyze.probes.optim import downward
from probecache.analyze.probes.optim.fit_logistic import LOOSE, Trail, fit_after, fit_logistic, search_roughly
from probecache.analyze.probes.optim.logistic_start import precondition_and_start
from probecache.analyze.probes.optim.multinomial import Batch, search_dtype
from probecache.analyze.probes.optim.start import NEAR, Glance, foretold
from probecache.analyze.probes.precondition.class_grams import ROWS_PER_NEURON, class_grams
from probecache.analyze.probes.precondition.preconditioner import NULL, Preconditioner, cholesky
from probecache.analyze.probes.shared_state import (
    FEWEST,
    SharedState,
    prepare_together,
)

# Evaluations that the class Grams of two classes cost: of a task by itself, and of one among many, whose
# evaluations are a share of a wide product.
PLAIN, PLAIN_TOGETHER = 15, 40
# Evaluations of two classes by themselves after which class Grams are made, and made again: 8,000 to 16,000
# rows at l2 1e-6 take 709, with (5,) 834, with (15,), and steps that then start anew, 1,135.
ROUGHLY = (4, 8, 8)
REUSE = 10.0  # ratio of penalties up to which one's factors serve the other: the history makes up for it
# Below these penalties, of tols from LOOSE up and of tighter ones, what a near start leaves is in directions
# that hardly curve, of which a few steps tell little: gaps were up to 5 times tol there, and are at most 0.93
# with three tenths of it. A tight tol takes steps enough to know more where bfloat16 needs twice as many:
# from 1e-3 up it does without.
TINY, TINY_TIGHTLY, OF_TINY = 1e-2, 1e-3, 0.3
SLOW, SOON = 60, 2.0  # evaluations of a probe from which they serve up to this one
HARD = 12  # evaluations of a probe after which class Grams are made anew
LONE = 2  # times the median of the evaluations, from which a probe's class Grams are its own
SHARES = (0.25, 0.5, 0.75)  # of the widest probe's columns: where class Grams of solutions change
FOUND = ("objective", "grad_norm", "n_iter", "converged")


def fit_path(
    tasks: list[SharedState], orders: list[np.ndarray], batch: Batch, request: ProbeRequest
) -> Fitted:
    """Fit the batch, one penalty after the other; only one's factors are held. On disk all share each pass.

    tasks: one, or one of two classes for each of the batch's targets, over the same rows.
    """
    x = torch.zeros(len(batch.l2), batch.outputs, batch.width, device=batch.truth.device)
    found: dict[str, Tensor] = {}
    done: list[tuple[float, Tensor]] = []
    factors = Factors(tasks, orders)
    trail: Trail | None = None
    penalties = batch.l2.unique().flip(0)
    single = batch.panels.in_memory and len(tasks) == len(orders) == 1
    search = _search_dtype(batch, penalties)
    glance = None
    if single and len(penalties) > 1:
        glance = Glance.of(batch.part(batch.l2 == batch.l2[0]), search)
    apart = _apart(penalties)
    for at in [penalties] if _in_step(batch, penalties, tasks) else penalties.split(1):
        l2 = float(at[0])
        mine = torch.isin(batch.l2, at).nonzero()[:, 0]
        part = batch.part(mine)
        near = foretold(done, l2, glance)
        tiny = TINY if request.tol >= LOOSE or search == torch.float32 else TINY_TIGHTLY
        tol = request.tol * (OF_TINY if near is not None and l2 < tiny else 1)
        how: dict[str, Any] = {"tol": tol, "search": search}
        alone = batch.panels.in_memory and len(tasks) == 1 and near is not None
        if batch.outputs == 1 and not alone:
            fit = _fit_two_classes(tasks, orders, part, near, request.max_iter, how)
        elif not batch.panels.in_memory:
            fit = fit_logistic(
                part, *precondition_and_start(tasks, orders, part), max_iter=request.max_iter, **how
            )
        elif l2 in apart and downward.serves(part, tasks[0]):
            fit = downward.fit_downward(tasks[0], orders[0], part, request)
        else:
            trail = trail if near is not None else None
            solver, start = factors.at(part, near, done[-1][1] if done else None, trail)
            fit, trail = fit_after(part, solver, start, trail, max_iter=request.max_iter, **how)
        factors.taken = fit.n_iter.cpu()
        x[mine] = fit.x
        done = [*done[-2:], (l2, fit.x)]
        for name in FOUND:
            values = getattr(fit, name)
            found.setdefault(name, values.new_empty(len(batch.l2)))[mine] = values
    found["converged"] &= ~batch.has_no_minimum(found["objective"])
    return Fitted(**found, weights=x)


def _in_step(batch: Batch, penalties: Tensor, tasks: list[SharedState]) -> bool:
    """Whether all penalties, largest first, are fitted in lock step. On disk they share each pass; and of two
    classes, where none is near enough to start from, one weight vector a probe leaves room in products."""
    if not batch.panels.in_memory:
        return True
    return not _any_near(penalties) and batch.outputs == 1 and len(tasks) == 1


def _any_near(penalties: Tensor) -> bool:
    """Whether one of the penalties, largest first, starts from the solution before it."""
    return len(_apart(penalties)) < len(penalties)


def _apart(penalties: Tensor) -> list[float]:
    """Those of the penalties, largest first, that neither start from another nor are what one starts from."""
    near = (penalties[:-1] <= NEAR * penalties[1:]).tolist()
    return [
        l2
        for l2, before, after in zip(penalties.tolist(), [False, *near], [*near, False], strict=True)
        if not before and not after
    ]


def _search_dtype(batch: Batch, penalties: Tensor) -> torch.dtype:
    """Below float32 where that is faster. On a CPU without float32 sums of bfloat16 products, these are two
    to three times as fast as float32's: between penalties that are near they take twice the evaluations
    (4,749 for 2,476), and float32 passes besides."""
    device = batch.truth.device
    steps = batch.panels.in_memory and _any_near(penalties)
    if steps and device.type == "cpu" and not bfloat16_product.available():
        return torch.float32
    return search_dtype(device)


class Factors:
    """The preconditioner along a path: factors of one penalty, and the penalty whose class Grams they hold.

    taken: evaluations of each probe at the last penalty.
    """

    def __init__(self, tasks: list[SharedState], orders: list[np.ndarray]) -> None:
        self.tasks, self.orders = tasks, orders
        self.taken = torch.zeros(1, dtype=torch.int64)
        self._l2, self._grams_of = math.inf, math.inf
        self._held: Preconditioner | None = None

    def at(
        self, batch: Batch, near: Tensor | None, before: Tensor | None, trail: Trail | None
    ) -> tuple[Preconditioner, Tensor]:
        """The preconditioner of the batch, of one penalty, and its start: near where that is known.

        before: solutions of the penalty before; trail: what they left, which learns of a new preconditioner.
        """
        l2 = float(batch.l2[0])
        reuse = REUSE if int(self.taken.max()) <= SLOW else SOON
        if self._held is not None and near is not None and self._l2 <= reuse * l2:
            return self._held, near
        if near is None or before is None:
            self._held, start = precondition_and_start(self.tasks, self.orders, batch)
            self._grams_of = l2
        elif (int(self.taken.max()) > HARD or batch.outputs == 1) and len(self.orders) == 1:
            gram = self.tasks[0].moments.take(self.orders[0]).gram
            alone = self.taken > (LONE * self.taken.median()).clamp(min=HARD)
            self._held, start = curved_by(batch, before, gram, alone), near
        else:
            self._held, start = precondition_and_start(
                self.tasks, self.orders, batch, near, alike=self._grams_of
            )
        self._l2 = l2
        if trail is not None:
            trail.history.solve_again(self._held.solve, start.shape)
        return self._held, start


def curved_by(batch: Batch, solutions: Tensor, gram: Tensor, alone: Tensor | None = None) -> Preconditioner:
    """Factors from the class Grams at solutions (m, c, w) of the batch's probes, or of a larger penalty,
    which are softer; of each penalty's widest probe in each of some ranges of width. gram: (w, w), of every
    row, in the one column order. alone: bool (m,), probes that have class Grams of their own."""
    limits = torch.tensor([round(share * (batch.width - 1)) for share in SHARES])
    ranges = torch.bucketize(batch.widths - 1, limits)
    if alone is not None:
        ranges = torch.where(alone, len(SHARES) + 1 + torch.arange(len(ranges)), ranges)
    kinds, which = torch.stack([batch.l2, ranges.double()], dim=1).unique(dim=0, return_inverse=True)
    first = [int((which == i).nonzero()[0, 0]) for i in range(len(kinds))]
    widths = [int(batch.widths[probe]) for probe in first]
    grams = class_grams(
        batch.panels,
        [solutions[probe, :, :width] for probe, width in zip(first, widths, strict=True)],
        batch.panels,
        [ROWS_PER_NEURON * max(width, FEWEST) for width in widths],
        gram,
        batch.weights,
        narrow=True,
    )
    factors: list[Tensor | None] = [
        cholesky(own, float(l2), most=1e-2, least=NULL) for own, l2 in zip(grams, kinds[:, 0], strict=True)
    ]
    return Preconditioner(factors, which, batch.mask).for_products()


def _fit_two_classes(
    tasks: list[SharedState],
    orders: list[np.ndarray],
    batch: Batch,
    near: Tensor | None,
    max_iter: int,
    how: dict[str, Any],
) -> Solution:
    """The batch's probes from `near`, or from where the moments say; how: `fit_logistic`'s other arguments.

    Of two classes the Gram matrix, which all tasks share, is often as good as class Grams (4 to 8 evaluations
    for 5 to 7), which cost as much as so many evaluations: they are made for what it leaves unfinished.
    """
    alone = len(tasks) == 1 and len(orders) == 1 and batch.panels.in_memory
    if alone and how["search"] != torch.float32 and max_iter > sum(ROUGHLY) and tasks[0].levels:
        return _fit_alone(tasks[0], orders[0], batch, max_iter, how)
    plain = PLAIN if len(tasks) == 1 else PLAIN_TOGETHER
    if not tasks[0].levels or plain >= max_iter:
        return fit_logistic(
            batch, *precondition_and_start(tasks, orders, batch, near), max_iter=max_iter, **how
        )
    start = precondition_and_start(tasks, orders, batch, near, curved=False)
    fit = fit_logistic(batch, *start, max_iter=plain, **how)
    left = (~fit.converged).nonzero()[:, 0].cpu()
    if not len(left):
        return fit
    part, unfinished = batch.part(left), tasks
    if part.targets is not None:
        numbers, own = part.targets.unique(return_inverse=True)
        part = replace(part, truth=batch.truth[numbers], targets=own)
        unfinished = [tasks[number] for number in numbers.tolist()]
    for l2 in part.l2.unique().tolist():
        prepare_together(unfinished, l2)
    solver, begun = precondition_and_start(unfinished, orders, part, fit.x[left])
    begun = begun[:, :, : part.width].contiguous()  # the widest may have ended
    more = fit_logistic(part, solver, begun, max_iter=max_iter - plain, **how)
    fit.x[left, :, : part.width] = more.x
    fit.n_iter[left] += more.n_iter
    for name in ("objective", "grad_norm", "converged"):
        getattr(fit, name)[left] = getattr(more, name)
    return fit


def _fit_alone(
    task: SharedState,
    order: np.ndarray,
    batch: Batch,
    max_iter: int,
    how: dict[str, Any],
) -> Solution:
    """`_fit_two_classes` of one task and order in memory: a few steps by the Gram matrix, then by class Grams
    of what these have reached, which are its Hessian, made again where probes are slow with them."""
    solver, start = precondition_and_start([task], [order], batch, curved=False)
    history, used = None, torch.zeros(len(start), dtype=torch.int64, device=start.device)
    for count in ROUGHLY:
        found = search_roughly(batch, solver, start, how["tol"], count, how["search"], history)
        used, start, history = used + found.n_iter, found.x, found.history
        left = (~found.converged).nonzero()[:, 0].cpu()
        if not len(left):
            break
        part = batch.part(left)
        gram = task.moments.take(order[: part.width - 1]).gram
        curved = curved_by(part, start[left.to(start.device), :, : part.width], gram)
        which = solver.which.clone()
        which[left] = len(solver.factors) + curved.which
        solver = replace(solver, factors=[*solver.factors, *curved.factors], which=which)
        if history is not None:
            history.solve_again(solver.solve, start.shape)
    fit = fit_logistic(batch, solver, start, max_iter=max_iter - sum(ROUGHLY), history=history, **how)
    fit.n_iter += used
    return fit
