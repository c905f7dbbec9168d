"""Logistic probes of many classes, from the widest down: each size starts where the next wider one has ended.

One probe's weights fill a product where classes are many, so that sizes need not go in lock step. A wider
probe's weights, once they have made up for the columns that are left out (`start.without_columns`) and are a
little longer, are within a percent or two of the minimum; and what L-BFGS has learnt of the curvature there,
cut to the columns that stay, is still nearly right: four to fifteen evaluations where a start from zero takes
thirty. One Gram matrix preconditions all, whose rows are weighted by how undecided the widest probe leaves
them. Where it is slow with that it gets class Grams of its solution, which cost as much as hundreds of
evaluations of a probe, and the others go in lock step with those of a pilot: columns are many for the rows
there, and narrower probes much less sure of them.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design import bfloat16_product
from probecache.analyze.probes.design.gram import Moments, add_gram
from probecache.analyze.probes.design.nested_matmul import forward, runs, segments
from probecache.analyze.probes.design.task_panels import some_rows
from probecache.analyze.probes.kind import ProbeRequest
from probecache.analyze.probes.lbfgs.history import History
from probecache.analyze.probes.lbfgs.lock_step import Known, Rounding, Solution, lbfgs
from probecache.analyze.probes.optim.cross_entropy import indicator
from probecache.analyze.probes.optim.fit_logistic import fit_logistic, search_roughly
from probecache.analyze.probes.optim.logistic_start import precondition_and_start
from probecache.analyze.probes.optim.multinomial import MANY, Batch, search_dtype
from probecache.analyze.probes.optim.start import best_scale, newton_start, without_columns
from probecache.analyze.probes.precondition.class_grams import class_grams
from probecache.analyze.probes.precondition.preconditioner import NULL, Preconditioner, cholesky, gram_factor
from probecache.analyze.probes.shared_state import FEWEST, SharedState

LONGER = (0.95, 1.0, 1.02, 1.05, 1.1, 1.2, 1.3, 1.5, 1.8)  # what a cut probe may gain by
SAMPLE = 2048  # rows that tell it; a quarter of them where classes are a thousand, and their logits many
TELLING = 2**18  # logits that are enough
ROUGH = 0.3  # relative gap of the widest at which rows are weighted: softer weights serve narrower ones too
LEAST = 1e-6  # weight of a row
PLAIN = 40  # evaluations of the widest after which class Grams are made: where columns are much alike
WORTH = 4  # rows per column from which class Grams pay: solves with them cost forty evaluations of few rows
# Pairs that a narrower probe gets: 4, 6 or 10 take as many evaluations, each costs a solve per probe.
CARRIED = 5
ROWS_PER_NEURON = 2  # for those of a solution: 6 save nothing more
REPORTED = ("objective", "grad_norm", "gap", "n_iter", "converged")


@dataclass(frozen=True)
class Aim:
    """As `fit_logistic`'s."""

    tol: float
    max_iter: int
    search: torch.dtype


@dataclass(frozen=True)
class Outset:
    """Before a row is read: moments in the order of the columns; some rows (1 + d, a), and their classes
    (c, a)."""

    moments: Moments
    sample: Tensor
    truth: Tensor


def serves(batch: Batch, shared: SharedState) -> bool:
    """Whether a batch of one penalty is fitted so: one order in memory, on a CPU, many classes and rows."""
    plain = batch.panels.in_memory and batch.truth.device.type == "cpu" and not shared.is_scarce
    return plain and batch.outputs >= MANY and len(batch.panels.orders) == 1


def fit_downward(shared: SharedState, order: np.ndarray, batch: Batch, request: ProbeRequest) -> Solution:
    """Fit the batch of `serves`. Solution.x: (m, c, w), zero beyond each probe's columns."""
    x = torch.zeros(len(batch.l2), batch.outputs, batch.width)
    aim, outset = Aim(request.tol, request.max_iter, search_dtype(x.device)), _outset(shared, order)
    widest = batch.part(slice(0, 1))  # alone: nothing is known before it
    last, factor = _fit_widest(widest, shared, outset, aim)
    x[:1], parts = last.x, [last]
    slow = len(factor) > 1  # then what the widest has learnt says little of those that are less sure
    rest = [slice(0, len(x) - 1)] if slow else runs(len(x) - 1, batch.outputs, x.device)
    for run in rest if len(x) > 1 else []:
        those = slice(1 + run.start, 1 + run.stop)
        part = batch.part(those)
        if slow:
            last = _fit_in_step(part, shared, order, aim)
        else:
            last = _fit_narrower(part, last, factor, outset, aim)
        x[those, :, : part.width] = last.x
        parts.append(last)
    told: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in REPORTED}
    return Solution(x, **told)


def _outset(shared: SharedState, order: np.ndarray) -> Outset:
    index = torch.from_numpy(np.concatenate([[0], order + 1]))
    rows = min(SAMPLE, max(SAMPLE // 4, TELLING // len(shared.task.classes)))
    chosen = some_rows(len(shared.sample_labels), rows)
    labels = shared.sample_labels if chosen is None else shared.sample_labels[torch.from_numpy(chosen)]
    truth = indicator(labels, len(shared.task.classes))
    return Outset(shared.moments.take(order), shared.sampled(chosen)[index], truth)


def _fit_widest(batch: Batch, shared: SharedState, outset: Outset, aim: Aim) -> tuple[Solution, Tensor]:
    """The widest probe, roughly with the Gram matrix, then with its rows weighted, and with class Grams where
    that is slow; the factor (1 or c, w, w) that it ended with."""
    which, l2 = torch.zeros(1, dtype=torch.int64), float(batch.l2[0])
    gram = Preconditioner([gram_factor(outset.moments, l2, batch.outputs)], which, batch.mask)
    start = newton_start(outset.moments, gram, which)
    start = best_scale(start, batch.widths, batch.l2, outset.sample, outset.truth)
    found = _search(batch, gram, start, replace(aim, tol=max(aim.tol, ROUGH)), None)
    used, factor = found.n_iter, _weighted_factor(batch, found.x[0], aim.search)
    solver = Preconditioner([factor], which, batch.mask)
    _solve_again(found, solver)
    many_rows = batch.panels.n_samples >= WORTH * batch.width
    if many_rows and shared.gram_bytes <= shared.gram_limit and aim.max_iter > int(used) + PLAIN:
        found = _search(batch, solver, found.x, replace(aim, max_iter=PLAIN), found.history)
        used = used + found.n_iter
        if not bool(found.converged):
            wanted = [ROWS_PER_NEURON * max(batch.width, FEWEST)]
            grams = class_grams(
                batch.panels, [found.x[0]], batch.panels, wanted, outset.moments.gram, batch.weights
            )
            factor = cholesky(grams[0], l2, most=1e-2, least=NULL)
            solver = Preconditioner([factor], which, batch.mask)
            _solve_again(found, solver)
    fit = fit_logistic(
        batch,
        solver,
        found.x,
        tol=aim.tol,
        max_iter=max(1, aim.max_iter - int(used)),
        search=aim.search,
        history=found.history,
        keep=True,
    )
    fit.n_iter += used
    return fit, factor


def _search(
    batch: Batch, solver: Preconditioner, start: Tensor, aim: Aim, history: History | None
) -> Solution:
    if aim.search == torch.float32:
        how = Rounding(keep=True), Known(history)
        return lbfgs(batch.evaluate, solver.solve, start, aim.tol, aim.max_iter, *how)
    return search_roughly(batch, solver, start, aim.tol, aim.max_iter, aim.search, history)


def _solve_again(found: Solution, solver: Preconditioner) -> None:
    if found.history is not None:
        found.history.solve_again(solver.solve, found.x.shape)
        found.history.between = all(f is not None and len(f) == 1 for f in solver.factors)


def _fit_narrower(part: Batch, wider: Solution, factor: Tensor, outset: Outset, aim: Aim) -> Solution:
    """Probes of some sizes from the last of the next wider ones."""
    solver = Preconditioner([factor], torch.zeros_like(part.groups), part.mask)
    start = without_columns(wider.x[-1], factor[0], part.widths)
    start = best_scale(start, part.widths, part.l2, outset.sample[: part.width], outset.truth, LONGER)
    history = None
    if wider.history is not None and wider.history.order:  # none, where one evaluation was the limit
        history = _cut(wider.history, wider.x.shape, part, solver)
    return fit_logistic(
        part,
        solver,
        start,
        tol=aim.tol,
        max_iter=aim.max_iter,
        search=aim.search,
        history=history,
        keep=True,
    )


def _fit_in_step(part: Batch, shared: SharedState, order: np.ndarray, aim: Aim) -> Solution:
    """Probes of all sizes together, by class Grams of a pilot."""
    solver, start = precondition_and_start([shared], [order[: part.width - 1]], part)
    return fit_logistic(part, solver, start, tol=aim.tol, max_iter=aim.max_iter, search=aim.search)


def _weighted_factor(batch: Batch, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Factor (1, w, w) of the mean over the classes of the Hessian's diagonal blocks at x (c, w)."""
    width, group = x.shape[1], int(batch.groups[0])
    gram, parts = torch.zeros(width, width), segments([width])
    exact = dtype == torch.float32 or not bfloat16_product.available()
    for panel in batch.panels:
        columns = panel.of(group, dtype)[:width]
        doubt = torch.empty(columns.shape[1])
        for rows, inside in batch.strips(panel, len(x)):
            p = torch.softmax(forward(x[None], columns[:, inside], parts)[0], dim=0)
            doubt[inside] = 1 - p.square_().sum(dim=0)
            shares = batch.shares(rows)
            if shares is not None:
                doubt[inside] *= shares
        doubt.clamp_(min=LEAST).sqrt_()
        weighted = panel.of(group)[:width] * doubt if exact else columns * doubt.to(dtype)
        add_gram(gram, weighted, weighted)
    gram /= batch.total * batch.outputs
    return cholesky(gram[None], float(batch.l2[0]), most=1e-2, least=NULL)


def _cut(history: History, shape: torch.Size, batch: Batch, solver: Preconditioner) -> History:
    """The newest pairs of the last problem of a history (m, c, w), for each narrower probe of a batch."""
    _, c, w = shape
    like = torch.zeros(len(batch.l2), c, batch.width)
    cut, every = replace(History.empty(like), between=True), torch.arange(len(like))
    unknown = torch.full((len(like),), torch.nan, dtype=torch.float64)
    slots = list(reversed(history.order[:CARRIED]))
    steps, changes = (
        torch.cat(
            [
                (vectors[slot, -1] * history.usable[-1, slot]).view(1, c, w)[:, :, : batch.width] * batch.mask
                for slot in slots
            ]
        )
        for vectors in (history.steps, history.changes)
    )
    solved = solver.solve(changes, every.repeat(len(slots)))  # all at once: the factors are read once
    parts = (part.split(len(like)) for part in (steps, changes, solved))
    for step, change, result in zip(*parts, strict=True):
        cut.push(step, change, result, unknown)
    cut.pairs, cut.taken = history.pairs[-1:].repeat(len(like)), torch.zeros_like(cut.taken)
    return cut
