"""Fits batches of multinomial logistic probes: L-BFGS in lock step, then Newton's method for small ones.

Where the device multiplies bfloat16 faster, the search runs on a bfloat16 copy of the panels. A finish
corrects it: one float32 pass, steps by bfloat16 products of the difference to it (`anchor.py`), and again,
until a float32 pass finds that they have ended at the minimum: two such passes as a rule. What is reported
always comes from float32 products.
"""

from functools import partial

import torch
from torch import Tensor

from probecache.analyze.probes.optim.anchor import anchor
from probecache.analyze.probes.optim.lbfgs import Solution, lbfgs
from probecache.analyze.probes.optim.lbfgs_history import dot
from probecache.analyze.probes.optim.multinomial import Batch
from probecache.analyze.probes.optim.newton import newton
from probecache.analyze.probes.optim.preconditioner import Preconditioner

SEARCH_NOISE = 2e-4  # logits rounded to bfloat16 move the mean loss by a few 1e-5
SEARCH_TOL = 5e-5
SEARCH_MAX = 60  # a search that rounding has stalled is left to the finish
LOOSE = 5e-4  # a tol that rounding does not hide: the search's own estimate of the gap serves
PATIENCE = 150  # evaluations after which a probe of few parameters is left to Newton's method
ROUNDS = 5  # float32 passes that correct; what is left then is iterated in float32
NEAR_NOISE = 1e-5  # relative rounding of an objective near an anchor
MARGIN = 0.5  # of tol, near an anchor: the float32 pass that follows should find it
HELD = (
    2**28
)  # bytes of logits and residuals that anchors hold at a time; on a GPU a sixteenth of what is free


def fit_logistic(
    batch: Batch,
    preconditioner: Preconditioner,
    start: Tensor,
    *,
    tol: float,
    max_iter: int,
    search: torch.dtype,
) -> Solution:
    """Fit the batch from `start` (m, c, w). Solution.x: intercept first, zero beyond each probe's columns.

    tol: estimated relative gap of the objective. max_iter: evaluations per probe. search: the dtype of the
    search's products, torch.float32 for none but exact ones.
    """
    problems = [batch.problem(probe) for probe in range(len(start))]
    limit = torch.tensor([min(max_iter, PATIENCE) if p.is_small else max_iter for p in problems])
    limit = limit.to(start.device)
    if search == torch.float32:
        solution = lbfgs(batch.evaluate, preconditioner.solve, start, tol, limit)
    else:
        searched = search_roughly(batch, preconditioner, start, tol, max_iter, search)
        solution = _finish(batch, preconditioner, searched, tol, limit, search)
    left = [i for i in (~solution.converged).nonzero()[:, 0].tolist() if problems[i].is_small]
    if left and max_iter > PATIENCE:
        for i in left:
            solution.x[i], used, solution.converged[i] = newton(problems[i], solution.x[i], tol)
            solution.n_iter[i] += used
        solution.objective[left], gradient = batch.evaluate(solution.x[left], torch.tensor(left))
        solution.grad_norm[left] = dot(gradient, gradient).sqrt()
    return solution


def search_roughly(
    batch: Batch, preconditioner: Preconditioner, start: Tensor, tol: float, max_iter: int, dtype: torch.dtype
) -> Solution:
    """Minimise with products of `dtype` as far as its rounding allows. The solution has a history.

    Iterates are rounded to the dtype, so only the data and the residuals are rounded in products.
    """
    found = lbfgs(
        lambda x, which: batch.evaluate(x, which, dtype),
        preconditioner.solve,
        start,
        max(tol, SEARCH_TOL),
        min(max_iter, SEARCH_MAX),
        noise=SEARCH_NOISE,
        grid=dtype,
        coarse=tol < LOOSE,
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
        steps = found.history.steps.view(-1, *found.x.shape)
        steps -= steps.mean(dim=2, keepdim=True)


def _finish(
    batch: Batch,
    preconditioner: Preconditioner,
    found: Solution,
    tol: float,
    limit: Tensor,
    dtype: torch.dtype,
) -> Solution:
    """From a search's solution to the minimum; evaluations are added to the search's."""
    history = found.history
    assert history is not None
    searched = found.n_iter.clone()
    left = torch.arange(len(found.x))
    if batch.panels.in_memory:
        for _ in range(ROUNDS):
            left = _correct(batch, preconditioner, found, left, tol, limit + searched, dtype)
            if not len(left):
                return found
    rest = lbfgs(
        lambda x, which: batch.evaluate(x, left[which]),
        lambda gradient, which: preconditioner.solve(gradient, left[which]),
        found.x[left],
        tol,
        (limit + searched - found.n_iter)[left].clamp(min=1),
        history=history.pick(left),
    )
    _put(found, left, rest)
    return found


def _correct(
    batch: Batch,
    preconditioner: Preconditioner,
    found: Solution,
    left: Tensor,
    tol: float,
    limit: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """One float32 pass over the probes `left`, and steps near it; returns those that are not done."""
    assert found.history is not None
    each = 8 * batch.outputs * batch.panels.n_samples
    undone = []
    room = torch.cuda.mem_get_info(found.x.device)[0] // 16 if found.x.is_cuda else 0
    for probes in left.split(max(1, max(HELD, room) // each)):
        here = anchor(batch, probes, found.x[probes])
        steps = lbfgs(
            partial(here.near, dtype=dtype),
            lambda gradient, which, probes=probes: preconditioner.solve(gradient, probes[which]),
            torch.zeros_like(here.point),
            tol,
            (limit - found.n_iter)[probes].clamp(min=1),
            noise=NEAR_NOISE,
            history=found.history.pick(probes),
            grid=dtype,
            first=(here.objective, here.gradient),
            margin=MARGIN,
        )
        assert steps.history is not None
        _level(steps)
        steps.x += here.point
        found.history.put(probes, steps.history)
        undone.append(probes[(steps.n_iter > 1).cpu()])
        _put(found, probes, steps)
    return torch.cat(undone)


def _put(found: Solution, probes: Tensor, part: Solution) -> None:
    found.x[probes], found.n_iter[probes] = part.x, found.n_iter[probes] + part.n_iter
    for name in ("objective", "grad_norm", "gap", "converged"):
        getattr(found, name)[probes] = getattr(part, name)
