"""L-BFGS on many independent problems in lock step: one evaluation serves all of them.

Each problem has its own step length, line search, history and convergence; a finished one leaves the batch,
so the evaluations get cheaper as it empties. Scalars are float64.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

HISTORY = 10
ARMIJO = 1e-4
MAX_HALVINGS = 25


@dataclass
class Solution:
    """Per problem: x (m, ...), objective, grad_norm, gap (relative, estimated) float64; n_iter, converged."""

    x: Tensor
    objective: Tensor
    grad_norm: Tensor
    gap: Tensor
    n_iter: Tensor
    converged: Tensor


Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Solve(Protocol):
    def __call__(self, gradient: Tensor, which: Tensor) -> Tensor: ...


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products per problem, float64 (m,)."""
    return (a * b).flatten(1).sum(dim=1, dtype=torch.float64)


def _spread(scalars: Tensor, like: Tensor) -> Tensor:
    return scalars.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def lbfgs(evaluate: Evaluate, solve: Solve, start: Tensor, tol: float, max_iter: int) -> Solution:
    """Minimise m convex problems from `start` (m, ...).

    evaluate(x, which) -> objective float64 (a,), gradient (a, ...) for the problems `which` int64 (a,).
    solve(gradient, which) -> the preconditioner's inverse applied.
    tol: a problem has converged when its estimated gap, half the quasi-Newton decrement, is below
    tol * objective. max_iter: steps per problem; those left report converged = False.
    """
    m = start.shape[0]
    device = start.device
    zeros = torch.zeros(m, dtype=torch.float64, device=device)
    done = Solution(start.clone(), zeros, zeros.clone(), zeros.clone(), zeros.long(), zeros.bool())
    active = torch.arange(m, device=device)
    x = start.clone()
    f, g = evaluate(x, active)
    pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=HISTORY)
    evaluations = 1
    while True:
        direction = _two_loop(g, pairs, partial(solve, which=active))
        slope = dot(g, direction)
        gap = -0.5 * slope
        finished = (gap <= tol * f.abs()) | (slope >= 0) | (evaluations >= max_iter)
        if bool(finished.any()):
            ids = active[finished]
            done.x[ids], done.objective[ids], done.gap[ids] = (
                x[finished],
                f[finished],
                (gap / f.abs())[finished],
            )
            done.grad_norm[ids], done.n_iter[ids] = dot(g, g).sqrt()[finished], evaluations
            done.converged[ids] = (gap <= tol * f.abs())[finished]
            keep = ~finished
            if not bool(keep.any()):
                return done
            active, x, f, g, direction, slope = (t[keep] for t in (active, x, f, g, direction, slope))
            pairs = deque(((s[keep], y[keep], r[keep]) for s, y, r in pairs), maxlen=HISTORY)
        x, f, g, pair, used = _step(evaluate, active, x, f, g, direction, slope)
        evaluations += used
        pairs.appendleft(pair)


def _two_loop(
    g: Tensor, pairs: "deque[tuple[Tensor, Tensor, Tensor]]", solve: Callable[[Tensor], Tensor]
) -> Tensor:
    """Minus the quasi-Newton inverse applied to g; pairs (s, y, 1 / s'y), newest first, weight 0 to skip."""
    q = g.clone()
    alphas = []
    for s, y, r in pairs:
        alpha = r * dot(s, q)
        q -= _spread(alpha, q) * y
        alphas.append(alpha)
    q = solve(q)
    for (s, y, r), alpha in zip(reversed(pairs), reversed(alphas), strict=True):
        beta = r * dot(y, q)
        q += _spread(alpha - beta, q) * s
    return q.neg_()


def _step(
    evaluate: Evaluate, active: Tensor, x: Tensor, f: Tensor, g: Tensor, direction: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor], int]:
    """One line search per problem, from step 1; only those that did not descend are evaluated again."""
    t = torch.ones_like(f)
    new_x = x + direction
    new_f, new_g = evaluate(new_x, active)
    used = 1
    noise = 1e-6 * f.abs()  # float32 sums: a smaller change is not seen
    while used < MAX_HALVINGS:
        bad = ~(new_f <= f + ARMIJO * t * slope + noise)
        if not bool(bad.any()):
            break
        ids = bad.nonzero()[:, 0]
        curve = 2 * (new_f - f - t * slope)[ids]
        guess = -slope[ids] * t[ids] ** 2 / curve  # the parabola through f, slope and the failed value
        guess = torch.where(torch.isfinite(guess), guess, 0.1 * t[ids])
        t[ids] = torch.clamp(guess, 0.1 * t[ids], 0.5 * t[ids])
        new_x[ids] = x[ids] + _spread(t[ids], x) * direction[ids]
        new_f[ids], new_g[ids] = evaluate(new_x[ids], active[ids])
        used += 1
    s, y = new_x - x, new_g - g
    curvature = dot(s, y)
    usable = curvature > 1e-10 * (dot(s, s) * dot(y, y)).sqrt()
    r = torch.where(usable, 1 / torch.where(usable, curvature, 1.0), 0.0)
    return new_x, new_f, new_g, (s, y, r), used
