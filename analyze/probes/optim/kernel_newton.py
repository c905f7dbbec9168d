"""Newton's method in kernel form, for logistic probes on few rows: weights are kept as combinations of rows.

With n rows and k columns of much the same number the weights are W = A X, A (c, n), and all that the method
needs of them are the logits Z = A K + b and the inner products tr(A K B'), K = X X' (n, n). With residuals
R = w (P - Y) / sum w, the gradient is (R + l2 A) X, and the Hessian times a direction D X with logits Z is
(H Z + l2 D) X, where H applies w (diag p - p p') / sum w row by row. So conjugate gradients in the space of
the weights,

    <U X, V X> = tr(U K V'),

cost one product with K per step instead of two with X, and a line search costs none. K of a prefix of the
columns is the running sum of K over segments of columns, and the A of one prefix, shrunk by the ratio of the
sizes, is an excellent start for the next: they are dual variables, which hardly change with the columns.

Hessian products may be taken in bfloat16, which changes their number little: the gradient, the logits of a
step and what is reported come from float32 products. Nothing penalises the intercepts b: within a step a
column of a constant stands for them, which is all that rows have alike, since X is centred.
"""

import math

import torch
from torch import Tensor

from probecache.analyze.probes.lbfgs.history import dot
from probecache.analyze.probes.lbfgs.lock_step import Solution
from probecache.analyze.probes.optim.conjugate_gradients import newton_direction
from probecache.analyze.probes.optim.kernel_problem import KernelProblem, Point, prefix_factors
from probecache.analyze.probes.optim.multinomial import Batch
from probecache.analyze.probes.precondition.preconditioner import INTERCEPT

MOST_ROWS = 4096  # K takes their square times 4 bytes
NEWTON_STEPS = 60  # a probe that takes more is left to the caller
SAFETY = 1.4  # on the gap: at 1 three of 1,280 probes of Pets37 ended at up to 1.5 times tol, at 1.4 none
HALVINGS = 30
ARMIJO = 1e-4
LONGER = (2.0, 4.0, 10.0)  # what a larger penalty's weights may gain by
NOISE = 1e-7  # relative rounding of the objective


def serves(batch: Batch) -> bool:
    """Whether the rows are in memory and so few that their kernel is small."""
    return batch.panels.in_memory and batch.panels.n_samples <= MOST_ROWS


def fit_in_kernel_form(batch: Batch, *, tol: float, max_iter: int, search: torch.dtype) -> Solution:
    """Fit the probes of a batch one after the other, each from those before it: sizes from the widest down,
    and within a size penalties from the largest down.

    batch: in memory, at most MOST_ROWS rows. tol: estimated relative gap of the objective, half the Newton
    decrement over it. max_iter: Newton steps per probe. search: dtype of the Hessian products.
    Solution.n_iter counts gradients and Hessian products.
    """
    m, outputs, device = len(batch.l2), len(batch.truth), batch.truth.device
    x = torch.zeros(m, outputs, batch.width, device=device)
    used = torch.zeros(m, dtype=torch.int64, device=device)
    gap = torch.zeros(m, dtype=torch.float64, device=device)
    converged = torch.zeros_like(used, dtype=torch.bool)
    weights = torch.ones(batch.panels.n_samples, device=device) if batch.weights is None else batch.weights
    share = weights / weights.sum(dtype=torch.float64).to(weights.dtype)
    truth = batch.classes(slice(0, batch.panels.n_samples), None)
    for group in batch.groups.unique().tolist():
        columns = torch.cat([panel.of(group) for panel in batch.panels], dim=1)[1:]  # (d, n)
        mean = columns.mean(dim=1, keepdim=True)
        columns = columns - mean
        members = (batch.groups == group).nonzero()[:, 0].tolist()
        factors = prefix_factors(columns, [int(batch.widths[i]) - 1 for i in members])
        factor, rough, size = columns, columns, 0
        wider: dict[float, Point] = {}  # by penalty, of the last wider size that had it, scaled to this one
        found: dict[float, Point] = {}  # of this size
        last: list[float] = []  # penalties of the size before
        for i in sorted(members, key=lambda i: (-int(batch.widths[i]), -float(batch.l2[i]))):
            before, size, l2 = size, int(batch.widths[i]) - 1, float(batch.l2[i])
            if size != before:
                factor = next(factors)
                rough = factor.to(search)
                known = (wider | found).items()
                wider = {at: Point(p.rows * (before / size), p.intercept) for at, p in known}
                last, found = list(found), {}
            problem = KernelProblem(factor, rough, size / INTERCEPT, l2, truth, share)
            others = [] if l2 in last else [wider[at] for at in last]
            begun, tried = _start(problem, wider, found, others, torch.zeros_like(batch.truth))
            point, used[i], gap[i], converged[i] = newton_cg(problem, begun, tol, max_iter)
            used[i] += tried
            found[l2] = point
            slopes = point.rows @ columns[:size].T  # (c, k)
            x[i, :, 1 : 1 + size] = slopes
            x[i, :, 0] = point.intercept[:, 0] - slopes @ mean[:size, 0]
    objective, gradient = batch.evaluate(x, torch.arange(m))
    return Solution(x, objective, dot(gradient, gradient).sqrt(), gap, used, converged)


def _start(
    problem: KernelProblem,
    wider: dict[float, Point],
    found: dict[float, Point],
    others: list[Point],
    nothing: Tensor,
) -> tuple[Point, int]:
    """Where a probe starts, and the products that it took to tell.

    wider: points of wider sizes, by penalty; found: of this size, of larger penalties; others: of the next
    wider size, where it lacks this penalty; nothing: zeros (c, n), which are the start without any. With the
    first two, the step that the wider size took from the penalty before leads on from this size's point
    there. The one of the least objective is taken.
    """
    l2, starts = problem.l2, list(others)
    if l2 in wider:
        starts.append(wider[l2])
    if found:
        last = min(found)
        near = found[last]
        starts += [near, *(near.times(longer) for longer in LONGER if l2 and longer * l2 <= last)]
        if l2 in wider and last in wider:
            step = wider[l2].rows - wider[last].rows, wider[l2].intercept - wider[last].intercept
            inner = near.on(problem) + wider[l2].on(problem) - wider[last].on(problem)
            starts.append(Point(near.rows + step[0], near.intercept + step[1], inner))
    if not starts:
        return Point(nothing, nothing[:, :1]), 0
    if len(starts) == 1:
        return starts[0], 0
    return min(starts, key=problem.objective), len(starts)


def newton_cg(
    problem: KernelProblem, start: Point, tol: float, max_iter: int
) -> tuple[Point, int, float, bool]:
    """Minimise from `start`: the point, gradients and products used, the gap, whether it has converged."""
    rows, intercept, l2 = start.rows, start.intercept, problem.l2
    inner = start.on(problem).clone()
    used, products, gap = 0, 0, math.inf
    entropy, residual = problem.entropy(inner + intercept)
    square = float(dot(rows[None], inner[None]))
    value = float(entropy) + 0.5 * l2 * square
    while used < min(max_iter, NEWTON_STEPS):
        used += 1
        share = torch.softmax(inner + intercept, dim=0) if len(rows) > 1 else torch.sigmoid(inner + intercept)
        spread = problem.spread_at(share)
        slope_rows = residual + l2 * rows
        slope_rows -= slope_rows.mean(dim=1, keepdim=True)
        tilt = residual.sum(dim=1, keepdim=True)  # the intercepts' gradient
        step, count, left = newton_direction(problem, share, spread, slope_rows, tilt)
        products += count
        shift = spread * step.sum(dim=1, keepdim=True)
        step = step - step.mean(dim=1, keepdim=True)
        moved = problem.logits(step)
        slope = float(dot(slope_rows[None], moved[None])) + float((tilt * shift).sum())
        cross, own = float(dot(rows[None], moved[None])), float(dot(step[None], moved[None]))
        gap = max(-0.5 * slope, left) / max(abs(value), 1e-300)
        if not (slope <= 0 and gap < math.inf):  # rough products may lead uphill
            break
        length = 1.0
        for _ in range(HALVINGS):
            entropy, trial = problem.entropy(inner + intercept + length * (moved + shift))
            found = float(entropy) + 0.5 * l2 * (square + 2 * length * cross + length**2 * own)
            if found <= value + ARMIJO * length * slope + NOISE * abs(value):
                break
            length /= 2
        else:
            break
        rows, intercept = rows + length * step, intercept + length * shift
        inner += length * moved
        square += 2 * length * cross + length**2 * own
        value, residual = found, trial
        if SAFETY * gap <= tol:
            return Point(rows, intercept, inner), used + products, gap, True
    return Point(rows, intercept, inner), used + products, gap, False
