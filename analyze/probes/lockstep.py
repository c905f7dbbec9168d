"""L-BFGS on many independent problems in lock step: one evaluation serves all of them.

Each problem has its own step length, line search, history and convergence; a finished one leaves the batch,
so the evaluations get cheaper as it empties. Scalars are float64.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

HISTORY = 10
ARMIJO = 1e-4

Pairs = deque[tuple[Tensor, Tensor, Tensor]]
Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Solve(Protocol):
    def __call__(self, gradient: Tensor, which: Tensor) -> Tensor: ...


@dataclass
class Solution:
    """Per problem: x (m, ...); objective, grad_norm, gap (relative, estimated) float64; n_iter: evaluations
    of the objective, int64; converged, bool. pairs: what was learnt of the curvature, newest first."""

    x: Tensor
    objective: Tensor
    grad_norm: Tensor
    gap: Tensor
    n_iter: Tensor
    converged: Tensor
    pairs: Pairs = field(default_factory=deque)


def lbfgs(
    evaluate: Evaluate,
    solve: Solve,
    start: Tensor,
    tol: float,
    max_iter: int,
    noise: float = 1e-6,
    pairs: Pairs | None = None,
) -> Solution:
    """Minimise m convex problems from `start` (m, ...).

    evaluate(x, which) -> objective float64 (a,), gradient (a, ...) for the problems `which` int64 (a,).
    solve(gradient, which) -> the preconditioner's inverse applied.
    tol: a problem has converged when its estimated gap, half the quasi-Newton decrement, is at most
    tol * objective. max_iter: evaluations per problem; those left then report converged = False.
    noise: relative rounding of the objective; a rise below it does not fail a line search.
    pairs: an earlier solution's, of the same m problems, to go on from.
    """
    m, device = start.shape[0], start.device
    zeros = torch.zeros(m, dtype=torch.float64, device=device)
    done = Solution(start.clone(), zeros, zeros.clone(), zeros.clone(), zeros.long(), zeros.bool())
    active = torch.arange(m, device=device)
    x = start.clone()
    f, g = evaluate(x, active)
    used = torch.ones_like(active)
    stuck = torch.zeros_like(active, dtype=torch.bool)
    pairs = deque(pairs or (), maxlen=HISTORY)
    while True:
        direction = _two_loop(g, pairs, partial(solve, which=active))
        slope = dot(g, direction)
        gap = -0.5 * slope
        within = gap <= tol * f.abs()
        finished = within | stuck | (used >= max_iter) | ~torch.isfinite(slope)
        if bool(finished.any()):
            ids = active[finished]
            done.x[ids], done.objective[ids] = x[finished], f[finished]
            done.gap[ids] = (gap / f.abs().clamp(min=1e-300))[finished]
            done.grad_norm[ids] = dot(g, g).sqrt()[finished]
            done.n_iter[ids], done.converged[ids] = used[finished], within[finished]
            _keep_pairs(done.pairs, pairs, ids, finished, start)
            keep = ~finished
            if not bool(keep.any()):
                return done
            active, x, f, g, direction, slope, used = (
                t[keep] for t in (active, x, f, g, direction, slope, used)
            )
            pairs = deque(((s[keep], y[keep], r[keep]) for s, y, r in pairs), maxlen=HISTORY)
        old_x, old_g = x, g
        x, f, g, cost, stuck = _search(evaluate, active, x, f, g, direction, slope, noise, max_iter)
        used = used + cost
        pairs.appendleft(_pair(x - old_x, g - old_g))


def _keep_pairs(kept: Pairs, pairs: Pairs, ids: Tensor, finished: Tensor, like: Tensor) -> None:
    """Writes the finished problems' pairs at `ids` of kept, (m, ...) as `like`; r = 0 where it has none."""
    for age, (s, y, r) in enumerate(pairs):
        if age == len(kept):
            none = torch.zeros(len(like), dtype=r.dtype, device=r.device)
            kept.append((torch.zeros_like(like), torch.zeros_like(like), none))
        for whole, part in zip(kept[age], (s, y, r), strict=True):
            whole[ids] = part[finished]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products per problem, float64 (m,)."""
    return (a * b).flatten(1).sum(dim=1, dtype=torch.float64)


def _spread(scalars: Tensor, like: Tensor) -> Tensor:
    return scalars.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def _pair(s: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(s, y, 1 / s'y), the last 0, which skips the pair, where rounding hides the curvature."""
    curvature = dot(s, y)
    usable = curvature > 1e-10 * (dot(s, s) * dot(y, y)).sqrt()
    return s, y, torch.where(usable, 1 / torch.where(usable, curvature, 1.0), 0.0)


def _two_loop(g: Tensor, pairs: Pairs, solve: Callable[[Tensor], Tensor]) -> Tensor:
    """Minus the quasi-Newton inverse applied to g; pairs newest first."""
    q = g.clone()
    alphas = []
    for s, y, r in pairs:
        alpha = r * dot(s, q)
        q -= _spread(alpha, q) * y
        alphas.append(alpha)
    q = solve(q)
    for (s, y, r), alpha in zip(reversed(pairs), reversed(alphas), strict=True):
        q += _spread(alpha - r * dot(y, q), q) * s
    return q.neg_()


def _search(
    evaluate: Evaluate,
    active: Tensor,
    x: Tensor,
    f: Tensor,
    g: Tensor,
    direction: Tensor,
    slope: Tensor,
    noise: float,
    max_halvings: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One backtracking line search per problem, from step 1: (x, f, g, evaluations, stuck).

    Only problems that did not descend are evaluated again. One whose step underflows keeps its x and is
    stuck: float32 sees no descent.
    """
    t = torch.ones_like(f)
    new_x = x + direction
    new_f, new_g = evaluate(new_x, active)
    used = torch.ones_like(active)
    stuck = torch.zeros_like(active, dtype=torch.bool)
    slack = noise * f.abs()
    for _ in range(min(max_halvings, 30)):
        bad = ~(new_f <= f + ARMIJO * t * slope + slack)
        if not bool(bad.any()):
            return new_x, new_f, new_g, used, stuck
        ids = bad.nonzero()[:, 0]
        # The parabola through f, its slope and the value that failed.
        guess = -slope[ids] * t[ids] ** 2 / (2 * (new_f - f - t * slope)[ids])
        guess = torch.where(torch.isfinite(guess), guess, 0.1 * t[ids])
        t[ids] = torch.clamp(guess, min=0.1 * t[ids], max=0.5 * t[ids])
        new_x[ids] = x[ids] + _spread(t[ids], x) * direction[ids]
        new_f[ids], new_g[ids] = evaluate(new_x[ids], active[ids])
        used[ids] += 1
    stuck = ~(new_f <= f + ARMIJO * t * slope + slack)
    new_x[stuck], new_f[stuck], new_g[stuck] = x[stuck], f[stuck], g[stuck]
    return new_x, new_f, new_g, used, stuck
