"""Fits batches of multinomial logistic probes: L-BFGS in lock step, then Newton's method for small ones.

Where the device multiplies bfloat16 faster, the search runs on a bfloat16 copy of the panels. A finish
corrects it: one float32 pass, steps by bfloat16 products of the difference to it (`anchor.py`), and again,
until a float32 pass finds that they have ended at the minimum: two such passes as a rule. What is reported
always comes from float32 products.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from probecache.analyze.probes.lbfgs.history import History, dot
from probecache.analyze.probes.lbfgs.lock_step import NOTHING, Known, Rounding, Solution, lbfgs
from probecache.analyze.probes.optim.anchor import Anchor, anchor
from probecache.analyze.probes.optim.multinomial import MANY, Arithmetic, Batch
from probecache.analyze.probes.optim.newton import newton
from probecache.analyze.probes.precondition.preconditioner import Preconditioner

SEARCH_NOISE = 2e-4  # logits rounded to bfloat16 move the mean loss by a few 1e-5
SEARCH_TOL = 5e-5
SEARCH_MAX = 60  # a search that rounding has stalled is left to the finish
PAIRED = 5e-3  # a tol below which pairs of bfloat16 save more than the float32 pass at their end costs
LOOSE = 5e-4  # a tol that rounding does not hide: the search's own estimate of the gap serves
PATIENCE = 150  # evaluations after which a probe of few parameters is left to Newton's method
ROUNDS = 5  # float32 passes that correct; what is left then is iterated in float32
NEAR_NOISE = 1e-5  # relative rounding of an objective near an anchor
NEAR_MAX = 20  # evaluations near an anchor: what is not done then is too far for bfloat16's differences
MARGIN = 0.5  # of tol, near an anchor: the float32 pass that follows should find it
LENT = 0.7  # of tol, in float32, for probes whose pairs are mostly another penalty's
UNMOVED = 0.2  # of tol, where a path's next penalty starts: another's curvature, and no step yet, tell of it
# Bytes of logits and residuals that anchors hold at a time; on a GPU a sixteenth of what is free.
HELD = 2**28


@dataclass(frozen=True)
class Trail:
    """What a fit leaves to one of the same probes with penalties that are near: what it learnt of the
    curvature, and the float32 pass that found it converged, where the search was below float32."""

    history: History
    anchor: Anchor | None = None


def fit_logistic(
    batch: Batch,
    preconditioner: Preconditioner,
    start: Tensor,
    *,
    tol: float,
    max_iter: int,
    search: torch.dtype,
    history: History | None = None,
    keep: bool = False,
) -> Solution:
    """Fit the batch from `start` (m, c, w). Solution.x: intercept first, zero beyond each probe's columns.

    tol: estimated relative gap of the objective. max_iter: evaluations per probe. search: the dtype of the
    search's products, torch.float32 for none but exact ones. history: what is known of the curvature. keep:
    the solution has a history, as it always has from a search below float32.
    """
    how = How(tol, _limits(batch, max_iter), search)
    if search == torch.float32:
        found = _exactly(batch, preconditioner, start, how, Known(history), Rounding(keep=keep))
    else:
        found = search_roughly(batch, preconditioner, start, tol, max_iter, search, history)
        _finish(batch, preconditioner, found, replace(how, limit=how.limit + found.n_iter))
    return _newton(batch, found, tol, max_iter)


def fit_after(
    batch: Batch,
    preconditioner: Preconditioner,
    start: Tensor,
    trail: Trail | None,
    *,
    tol: float,
    max_iter: int,
    search: torch.dtype,
) -> tuple[Solution, Trail | None]:
    """`fit_logistic` of one penalty of a path, in memory, and what it leaves to the next one.

    With the trail of a penalty that is near, the search goes on from its history. Below float32 it is steps
    from its float32 pass, whose products are of the difference and round nothing else: one more such pass
    ends it as a rule.
    """
    how = How(tol, _limits(batch, max_iter), search)
    if search == torch.float32:
        known, rounding = NOTHING, Rounding(keep=True)
        if trail is not None:
            known = Known(trail.history.of_another())
            rounding = replace(rounding, margin=LENT, first=_unmoved(trail))
        found = _exactly(batch, preconditioner, start, how, known, rounding)
        assert found.history is not None
        return _newton(batch, found, tol, max_iter), Trail(found.history)
    each = 8 * batch.outputs * batch.panels.n_samples
    if each * len(start) > HELD:
        return fit_logistic(batch, preconditioner, start, tol=tol, max_iter=max_iter, search=search), None
    if trail is None:
        found = search_roughly(batch, preconditioner, start, tol, max_iter, search)
        how = replace(how, limit=how.limit + found.n_iter)
    else:
        assert trail.anchor is not None
        here = replace(trail.anchor, batch=batch)
        found = lbfgs(
            partial(here.near, how=arithmetic(batch, tol, search)),
            preconditioner.solve,
            start - here.point,
            tol,
            how.limit.clamp(max=NEAR_MAX),
            Rounding(NEAR_NOISE, search, margin=MARGIN, first=_unmoved(trail)),
            Known(trail.history.of_another()),
        )
        _level(found)
        found.x += here.point
    last = _finish(batch, preconditioner, found, how)
    left = None if last is None or found.history is None else Trail(found.history, last)
    return _newton(batch, found, tol, max_iter), left


def _unmoved(trail: Trail) -> Tensor:
    """Of tol, (m,), up to which each probe ends where it starts: but not twice, since what is left
    then grows from penalty to penalty in directions that no pair has met (to 12 times 1e-2, seen)."""
    return torch.where(trail.history.taken > 0, UNMOVED, 0.0)


@dataclass(frozen=True)
class How:
    """tol as `fit_logistic`'s; limit: evaluations int64 (m,), each probe's; search: below float32."""

    tol: float
    limit: Tensor
    search: torch.dtype


def arithmetic(batch: Batch, tol: float, dtype: torch.dtype) -> Arithmetic:
    """How the search multiplies: rounded once more where it is loose, or classes are many.

    That rounding spoils the pairs where classes nearly separate, and what they tell of the gap: at tol 5e-6
    probes ended at up to 70 times it. Many classes have one preconditioner for all, whose estimate stands it.
    """
    return Arithmetic(dtype, summed=tol < LOOSE and batch.outputs < MANY)


def _exactly(
    batch: Batch,
    preconditioner: Preconditioner,
    start: Tensor,
    how: How,
    known: Known,
    rounding: Rounding,
) -> Solution:
    """A search by float32 products. Where pairs of bfloat16 numbers are faster, by these, and from there in
    float32: one pass, as a rule, which finds that nothing is left, and whose objective and gradient are
    reported."""
    solve = preconditioner.solve
    if how.tol >= PAIRED or not batch.paired:
        return lbfgs(batch.evaluate, solve, start, how.tol, how.limit, rounding, known)
    kept = replace(rounding, keep=True)
    found = lbfgs(batch.evaluate_in_pairs, solve, start, how.tol, how.limit, kept, known)
    left = (how.limit - found.n_iter).clamp(min=1)
    last = Rounding(keep=rounding.keep)
    rest = lbfgs(batch.evaluate, solve, found.x, how.tol, left, last, Known(found.history))
    rest.n_iter += found.n_iter
    return rest


def _limits(batch: Batch, max_iter: int) -> Tensor:
    """Evaluations of each probe: fewer where Newton's method takes over."""
    small = [batch.problem(probe).is_small for probe in range(len(batch.l2))]
    limit = torch.tensor([min(max_iter, PATIENCE) if one else max_iter for one in small])
    return limit.to(batch.truth.device)


def _newton(batch: Batch, solution: Solution, tol: float, max_iter: int) -> Solution:
    """The solution with what is small and has not converged brought to its end by Newton's method."""
    if max_iter <= PATIENCE:
        return solution
    undone = (~solution.converged).nonzero()[:, 0].tolist()
    left = [i for i in undone if batch.problem(i).is_small]
    if left:
        for i in left:
            solution.x[i], used, solution.converged[i] = newton(batch.problem(i), solution.x[i], tol)
            solution.n_iter[i] += used
        solution.objective[left], gradient = batch.evaluate(solution.x[left], torch.tensor(left))
        solution.grad_norm[left] = dot(gradient, gradient).sqrt()
    return solution


def search_roughly(
    batch: Batch,
    preconditioner: Preconditioner,
    start: Tensor,
    tol: float,
    max_iter: int,
    dtype: torch.dtype,
    history: History | None = None,
) -> Solution:
    """Minimise with products of `dtype` as far as its rounding allows. The solution has a history.

    Iterates are rounded to the dtype, so only the data, the logits and the residuals are rounded.
    """
    found = lbfgs(
        partial(batch.evaluate, how=arithmetic(batch, tol, dtype)),
        preconditioner.solve,
        start,
        max(tol, SEARCH_TOL),
        min(max_iter, SEARCH_MAX),
        Rounding(SEARCH_NOISE, dtype, coarse=tol < LOOSE),
        Known(history),
    )
    _level(found)
    return found


def _level(found: Solution) -> None:
    """Takes out of a solution and its history what rounding has shifted all classes alike.

    The loss does not see it, and no step would undo it. Nor may the steps that the history keeps bring it
    back: with class weights of 1 to 1,000 such a shift held the finish 7e-5 above the minimum, at a decrement
    of nothing.
    """
    assert found.history is not None
    if found.x.shape[1] > 1:
        found.x -= found.x.mean(dim=1, keepdim=True)
        steps = found.history.steps.unflatten(2, found.x.shape[1:])
        steps -= steps.mean(dim=2, keepdim=True)


def _finish(batch: Batch, preconditioner: Preconditioner, found: Solution, how: How) -> Anchor | None:
    """From a search's solution to the minimum, in place; evaluations are added to the search's.

    Returns the float32 passes where the probes are left, if these ended all and were held together.
    """
    left, last = torch.arange(len(found.x)), None
    if batch.panels.in_memory:
        for _ in range(ROUNDS):
            undone, here = _correct(batch, preconditioner, found, left, how)
            if last is None:
                last = here
            elif here is not None:
                last.put(left, here)
            left = undone
            if not len(left):
                return last
    assert found.history is not None
    rest = lbfgs(
        lambda x, which: batch.evaluate(x, left[which]),
        lambda gradient, which: preconditioner.solve(gradient, left[which]),
        found.x[left],
        how.tol,
        (how.limit - found.n_iter)[left].clamp(min=1),
        known=Known(found.history.pick(left)),
    )
    _put(found, left, rest)
    return None


def _correct(
    batch: Batch, preconditioner: Preconditioner, found: Solution, left: Tensor, how: How
) -> tuple[Tensor, Anchor | None]:
    """One float32 pass over the probes `left`, and steps near it; returns those that are not done, and the
    pass, if it held them all together."""
    assert found.history is not None
    each = 8 * batch.outputs * batch.panels.n_samples
    undone, here = [], None
    room = torch.cuda.mem_get_info(found.x.device)[0] // 16 if found.x.is_cuda else 0
    parts = left.split(max(1, max(HELD, room) // each))
    for probes in parts:
        here = anchor(batch, probes, found.x[probes])
        steps = lbfgs(
            partial(here.near, how=arithmetic(batch, how.tol, how.search)),
            lambda gradient, which, probes=probes: preconditioner.solve(gradient, probes[which]),
            torch.zeros_like(here.point),
            how.tol,
            (how.limit - found.n_iter)[probes].clamp(1, NEAR_MAX),
            Rounding(NEAR_NOISE, how.search, margin=1.0 if found.history.between else MARGIN),
            Known(found.history.pick(probes), (here.objective, here.gradient)),
        )
        assert steps.history is not None
        _level(steps)
        steps.x += here.point
        found.history.put(probes, steps.history)
        undone.append(probes[(steps.n_iter > 1).cpu()])
        _put(found, probes, steps)
    return torch.cat(undone), here if len(parts) == 1 else None


def _put(found: Solution, probes: Tensor, part: Solution) -> None:
    found.x[probes], found.n_iter[probes] = part.x, found.n_iter[probes] + part.n_iter
    for name in ("objective", "grad_norm", "gap", "converged"):
        getattr(found, name)[probes] = getattr(part, name)
