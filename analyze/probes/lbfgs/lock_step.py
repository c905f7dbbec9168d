"""L-BFGS on many independent problems in lock step: one evaluation serves all of them.

Each problem has its own step length, line search, history and convergence; a finished one leaves the batch,
so the evaluations get cheaper as it empties. Scalars are float64 and lie on the CPU, where all is decided: a
device is waited for twice a step, for the slopes and for the objectives, and else where a step failed or
problems leave.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from probecache.analyze.probes.lbfgs.history import History, dot

ARMIJO = 1e-4
HALVINGS = 30
ON_GRID = 5  # halvings of a step between rounded points: shorter ones find nothing

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Solve(Protocol):
    def __call__(self, gradient: Tensor, which: Tensor) -> Tensor: ...


@dataclass
class Solution:
    """Per problem: x (m, ...); objective, grad_norm, gap (relative, estimated) float64; n_iter: evaluations
    of the objective, int64; converged, bool. history: what was learnt of the curvature, where asked for."""

    x: Tensor
    objective: Tensor
    grad_norm: Tensor
    gap: Tensor
    n_iter: Tensor
    converged: Tensor
    history: History | None = None

    def on(self, device: torch.device) -> "Solution":
        """With all of it on the device."""
        told = ("objective", "grad_norm", "gap", "n_iter", "converged")
        return replace(self, **{name: getattr(self, name).to(device) for name in told})


@dataclass(frozen=True)
class Rounding:
    """What the arithmetic of an evaluation leaves of it.

    noise: relative rounding of the objective; a rise below it does not fail a line search.
    grid: every iterate is rounded to this dtype, so that an evaluation may multiply in it and lose nothing of
    x; the solution then has a history, as it has with keep.
    coarse: rounding hides the last digits of what is found: a decrement or gain below tol ends it.
    margin: of tol, for points other than the start; first: for the start, one number or each problem's (m,).
    """

    noise: float = 1e-6
    grid: torch.dtype | None = None
    coarse: bool = False
    margin: float = 1.0
    first: float | Tensor = 1.0
    keep: bool = False


@dataclass(frozen=True)
class Known:
    """What is known before the first evaluation: the history of an earlier solution of the same m problems,
    to go on from, which may be changed; objective and gradient at the start."""

    history: History | None = None
    first: tuple[Tensor, Tensor] | None = None


EXACT, NOTHING = Rounding(), Known()


def lbfgs(
    evaluate: Evaluate,
    solve: Solve,
    start: Tensor,
    tol: float,
    max_iter: int | Tensor,
    rounding: Rounding = EXACT,
    known: Known = NOTHING,
) -> Solution:
    """Minimise m convex problems from `start` (m, ...).

    evaluate(x, which) -> objective float64 (a,), gradient (a, ...) for the problems `which` int64 (a,), which
    is on the CPU, and the same object until problems leave.
    solve(gradient, which) -> the preconditioner's inverse applied.
    tol: a problem has converged when its estimated gap (`History.gap`) is at most tol * objective.
    max_iter: evaluations per problem, or int64 (m,), each one's; those left then report converged = False.
    """
    m, device = start.shape[0], start.device
    zeros = torch.zeros(m, dtype=torch.float64)
    done = Solution(start.clone(), zeros, zeros.clone(), zeros.clone(), zeros.long(), zeros.bool())
    grid, keeps = rounding.grid, rounding.keep or rounding.grid is not None
    active = torch.arange(m)
    limit = torch.as_tensor(max_iter).cpu().expand(m)
    first = torch.as_tensor(rounding.first, dtype=torch.float64).expand(m)
    history = History.empty(start) if known.history is None else known.history
    x = _on_grid(start.clone(), grid)
    objective, g = evaluate(x, active) if known.first is None else known.first
    f, solved = objective.cpu(), solve(g, active)
    used, stuck = torch.ones(m, dtype=torch.int64), torch.zeros(m, dtype=torch.bool)
    gain = torch.full_like(f, torch.inf)
    while True:
        direction, slope, left, still = history.direction(g, solved)
        decrement = -0.5 * slope
        # A decrement that stops at the rounding would look like slow progress.
        gap = decrement if rounding.coarse else history.gap(decrement, left)
        if not history.order:  # without a step, a gradient has no scale
            gap = torch.full_like(gap, torch.inf)
        enough = tol * f.abs() * torch.where(used > 1, rounding.margin, first[active])
        within = gap <= enough
        if rounding.coarse and history.order:
            within |= gain <= enough  # what rounding hides is left to a finer search
        finished = within | stuck | still | (used >= limit) | ~torch.isfinite(slope)
        if bool(finished.any()):
            ids, gone, keep = active[finished], _where(finished), _where(~finished)
            there, here = gone.to(device), keep.to(device)
            done.x[ids.to(device)], done.objective[ids] = x[there], f[gone]
            done.gap[ids] = (gap / f.abs().clamp(min=1e-300))[gone]
            done.grad_norm[ids] = dot(g[there], g[there]).sqrt().cpu()
            done.n_iter[ids], done.converged[ids] = used[gone], within[gone]
            if keeps and len(gone) == m:
                done.history = history  # all at once, as they often do: not copied
            elif keeps:
                done.history = History.empty(start) if done.history is None else done.history
                done.history.put(ids, history.pick(gone))
            if not len(keep):
                return done.on(device)
            x, g, solved, direction = (t[here] for t in (x, g, solved, direction))
            active, limit, f, slope, decrement, used = (
                t[keep] for t in (active, limit, f, slope, decrement, used)
            )
            history = history.pick(keep)
        old_x, old_f, old_g, old_solved = x, f, g, solved
        line = Line(x, f, g, direction, slope)
        x, f, g, cost, stuck = _search(evaluate, active, line, rounding)
        used, gain = used + cost, old_f - f
        solved = solve(g, active)
        history.step((x, solved, g), (old_x, old_solved, old_g), decrement)


def _where(chosen: Tensor) -> Tensor:
    return chosen.nonzero()[:, 0]


def _spread(scalars: Tensor, like: Tensor) -> Tensor:
    return scalars.to(like).view(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True)
class Line:
    """From x (a, ...) along `direction`: objective and slope float64 (a,) on the CPU, gradient at x."""

    x: Tensor
    objective: Tensor
    gradient: Tensor
    direction: Tensor
    slope: Tensor


def _search(
    evaluate: Evaluate, active: Tensor, line: Line, rounding: Rounding
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One backtracking line search per problem, from step 1: (x, f, g, evaluations, stuck). What comes back
    but x and g lies on the CPU.

    Only problems that did not descend are evaluated again. One that never does keeps its x and is stuck: the
    arithmetic sees no descent. Nor does it where a step underflows, which the history tells.
    """
    x, f, direction, slope, grid = line.x, line.objective, line.direction, line.slope, rounding.grid
    t = torch.ones_like(f)
    new_x = _on_grid(x + direction, grid)
    objective, new_g = evaluate(new_x, active)
    new_f = objective.cpu()
    used = torch.ones_like(f, dtype=torch.int64)
    slack = rounding.noise * f.abs()
    for _ in range(HALVINGS if grid is None else ON_GRID):
        again = _where(~(new_f <= f + ARMIJO * t * slope + slack))
        if not len(again):
            break
        rows = again.to(x.device)
        # The parabola through f, its slope and the value that failed.
        guess = -slope[again] * t[again] ** 2 / (2 * (new_f - f - t * slope)[again])
        guess = torch.where(torch.isfinite(guess), guess, 0.1 * t[again])
        t[again] = torch.clamp(guess, min=0.1 * t[again], max=0.5 * t[again])
        new_x[rows] = _on_grid(x[rows] + _spread(t[again], x) * direction[rows], grid)
        objective, new_g[rows] = evaluate(new_x[rows], active[again])
        new_f[again] = objective.cpu()
        used[again] += 1
    stuck = ~(new_f <= f + ARMIJO * t * slope + slack)
    if bool(stuck.any()):
        rows = _where(stuck).to(x.device)
        new_x[rows], new_f[stuck], new_g[rows] = x[rows], f[stuck], line.gradient[rows]
    return new_x, new_f, new_g, used, stuck


def _on_grid(x: Tensor, grid: torch.dtype | None) -> Tensor:
    return x if grid is None else x.to(grid).to(x.dtype)
