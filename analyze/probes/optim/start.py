"""Where logistic probes start: a Newton step from zero, by the moments; from a wider probe's weights, or from
those of penalties that are near."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from probecache.analyze.probes.design.gram import Moments
from probecache.analyze.probes.design.nested_matmul import forward, segments
from probecache.analyze.probes.design.task_panels import some_rows
from probecache.analyze.probes.optim.cross_entropy import loss_and_residual
from probecache.analyze.probes.optim.multinomial import Batch
from probecache.analyze.probes.precondition.preconditioner import Preconditioner

SCALES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
NEAR = 4.0  # ratio of penalties up to which one's solution is the better start for the other
GLANCE = 2048  # rows that tell which of several starts is the best
# Parts of the way along the line through two solutions, and from there to the parabola through three.
WAYS = ((0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (1.0, 0.5), (1.0, 1.0))


def newton_start(moments: Moments, gram: Preconditioner, which: Tensor) -> Tensor:
    """Weights (a, c, w) of the probes `which` of one column order: (G / c + l2)^-1 times minus the gradient
    at zero; intercepts are the log priors. `moments.cross` is of +-1 targets; `gram` holds the Gram factors.
    """
    x_mean = moments.gram[0]  # (w,)
    prior = (moments.cross[0] + 1) / 2  # (c,)
    with_class = (moments.cross.T + x_mean) / 2  # (c, w): mean of x where the sample is of the class
    one = prior.numel() == 1
    downhill = with_class - prior[:, None] * x_mean
    if one:
        intercept = torch.log(prior / (1 - prior))
    else:
        intercept = torch.log(prior) - torch.log(prior).mean()
    x = gram.solve(downhill.float().expand(len(which), -1, -1), which)
    x[..., 0] = intercept.float()
    return x


def best_scale(
    x: Tensor,
    widths: Tensor,
    l2: Tensor,
    panel: Tensor,
    truth: Tensor,
    scales: tuple[float, ...] = SCALES,
) -> Tensor:
    """x with each probe's weights, not its intercept, times the best of scales on the panel's (w, rows).

    truth: (c, rows). A full step overshoots or falls short by a factor that a few thousand rows tell.
    """
    intercept = x[..., :1].clone()  # (m, c, 1)
    slopes = x.clone()
    slopes[..., 0] = 0
    logits = forward(slopes, panel, segments(widths.tolist()))  # (m, c, rows)
    l2 = l2.to(x.device)
    square = slopes.square().flatten(1).sum(dim=1, dtype=torch.float64)
    losses = []
    for scale in scales:
        loss, _ = loss_and_residual(scale * logits + intercept, truth, None)
        losses.append(loss / panel.shape[1] + 0.5 * l2 * scale**2 * square)
    best = torch.tensor(scales, device=x.device)[torch.stack(losses).argmin(dim=0)]
    return torch.cat([intercept, slopes[..., 1:] * best[:, None, None]], dim=2)


def without_columns(x: Tensor, factor: Tensor, widths: Tensor) -> Tensor:
    """Weights (m, c, w), w the largest of widths int64 (m,): what x (c, w') becomes with so many columns.

    factor: L (w'', w''), w'' >= w'. Where the objective is a parabola about x with Hessian LL', its minimum
    over the columns that are left has the first entries of L'x for its own: columns that are like the lost
    ones make up for them.
    """
    wider = factor[: x.shape[1], : x.shape[1]]
    kept = x @ wider
    found = x.new_zeros(len(widths), len(x), int(widths.max()))
    for i, width in enumerate(widths.tolist()):
        block = wider[:width, :width].contiguous()
        found[i, :, :width] = torch.linalg.solve_triangular(block, kept[:, :width], upper=False, left=False)
    return found


@dataclass(frozen=True)
class Glance:
    """Some rows of a batch of one column order and penalty: columns (w, a), truth (c, a), weights (a,) or
    None for ones; widths: int64 (m,)."""

    columns: Tensor
    truth: Tensor
    weights: Tensor | None
    widths: Tensor

    @classmethod
    def of(cls, batch: Batch, search: torch.dtype) -> "Glance":
        """search: the dtype of the products that follow."""
        n, group = batch.panels.n_samples, int(batch.groups[0])
        drawn = some_rows(n, GLANCE)
        rows = torch.arange(n) if drawn is None else torch.from_numpy(drawn)
        rows = rows.to(batch.truth.device)
        parts = []
        for panel in batch.panels:
            here = rows[(rows >= panel.rows.start) & (rows < panel.rows.stop)] - panel.start
            parts.append(
                panel.of(group, search)[: batch.width, here]
            )  # what it rounds, all starts have alike
        weights = None if batch.weights is None else batch.weights[rows]
        return cls(torch.cat(parts, dim=1), batch.truth[:, rows], weights, batch.widths)

    def least(self, base: Tensor, steps: list[Tensor], ways: list[tuple[float, ...]], l2: float) -> Tensor:
        """base (m, c, w) and shares of the steps: for each probe those of least objective on the rows."""
        parts = segments(self.widths.tolist())
        logits = [forward(x, self.columns, parts) for x in (base, *steps)]
        total = float(self.columns.shape[1] if self.weights is None else self.weights.sum())
        found, values = [], []
        for shares in ways:
            x, z = base.clone(), logits[0].clone()
            for share, step, moved in zip(shares, steps, logits[1:], strict=True):
                x.add_(step, alpha=share)
                z.add_(moved, alpha=share)
            loss, _ = loss_and_residual(z, self.truth, self.weights)
            square = x[..., 1:].square().flatten(1).sum(dim=1, dtype=torch.float64)
            found.append(x)
            values.append(loss / total + 0.5 * l2 * square)
        best = torch.stack(values).argmin(dim=0)
        return torch.stack(found)[best, torch.arange(len(best), device=best.device)]


def foretold(done: list[tuple[float, Tensor]], l2: float, glance: Glance | None = None) -> Tensor | None:
    """Weights for a penalty from those of larger ones that are near, the nearest last; None without any.

    The parabola over log l2 through three of them; with a glance at some rows no further along the line and
    the parabola than these agree: what a loose tol has left in the solutions grows fourfold on the way.
    """
    known: list[tuple[float, Tensor]] = []
    after = l2
    for value, weights in reversed(done):
        if not 0 < value <= NEAR * after:
            break
        known.append((math.log(value), weights))
        after = value
    if not known:
        return None
    guesses = [_polynomial(known[: 1 + degree], math.log(l2)) for degree in range(len(known))]
    if glance is None or len(guesses) == 1:
        return guesses[-1]
    steps = [later - sooner for sooner, later in pairwise(guesses)]
    ways = [way[: len(steps)] for way in WAYS if not any(way[len(steps) :])]
    return glance.least(guesses[0], steps, ways, l2)


def _polynomial(known: list[tuple[float, Tensor]], at: float) -> Tensor:
    """The polynomial through (place, value) at a place, as Lagrange writes it."""
    total = torch.zeros_like(known[0][1])
    for i, (place, value) in enumerate(known):
        others = [other for j, (other, _) in enumerate(known) if j != i]
        total += value * math.prod((at - other) / (place - other) for other in others)
    return total
