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
step and what is reported come from float32 products. Nothing penalises the intercepts b: a column of the
constant `sqrt(k / INTERCEPT)` stands for them within a step, and they follow the true gradient.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from probecache.analyze.probes.lbfgs.history import dot
from probecache.analyze.probes.lbfgs.lock_step import Solution
from probecache.analyze.probes.optim.cross_entropy import loss_and_residual
from probecache.analyze.probes.optim.multinomial import Batch
from probecache.analyze.probes.precondition.preconditioner import INTERCEPT

MOST_ROWS = 4096  # K takes their square times 4 bytes
FACTOR = 3  # rows per column from which two products with the columns are cheaper than one with the kernel
HELD = 2**28  # bytes of matrices K that are held for the prefixes of a column order
NEWTON_STEPS = 60  # a probe that takes more is left to the caller
# Conjugate gradients stop where a step gains less than this over the steps taken of what all have gained: the
# decrement is then known to about as much, whatever the condition. By the residual instead, twice as many
# products were needed, and at tol 1e-2 gaps of 6e-2 passed.
QUADRATIC = 0.5
SAFETY = 2  # on the gap: the decrement of a rough direction is short of what is left
STEPS = 100  # of conjugate gradients, per Newton step
HALVINGS = 30
ARMIJO = 1e-4
LONGER = (2.0, 4.0, 10.0)  # what a larger penalty's weights may gain by
NOISE = 1e-7  # relative rounding of the objective


@dataclass
class Point:
    """A probe in kernel form: rows (c, n) float32, which sum to zero over n, and intercept (c, 1).

    inner: the rows times the kernel of the size that it is for, where that has been multiplied.
    """

    rows: Tensor
    intercept: Tensor
    inner: Tensor | None = None

    def times(self, scale: float) -> "Point":
        """With its weights, not its intercept, times a scale."""
        return Point(scale * self.rows, self.intercept, None if self.inner is None else scale * self.inner)

    def on(self, problem: "KernelProblem") -> Tensor:
        """`inner`, multiplied once."""
        if self.inner is None:
            self.inner = problem.logits(self.rows)
        return self.inner


@dataclass(frozen=True)
class KernelProblem:
    """One probe.

    exact: float32, the kernel (n, n) of the centred columns, or the columns (k, n) where they are so few that
    two products with them are cheaper; rough: the same in the dtype of Hessian products. spread: the square
    of the intercept's column; truth: as `loss_and_residual` takes it; share: (n,), sample weights over their
    sum.
    """

    exact: Tensor
    rough: Tensor
    spread: float
    l2: float
    truth: Tensor
    share: Tensor

    def logits(self, rows: Tensor) -> Tensor:
        """rows (c, n) times the kernel, float32."""
        return self._times(rows, self.exact)

    def nearly(self, rows: Tensor) -> Tensor:
        """The same with products in the dtype of `rough`."""
        return self._times(rows.to(self.rough.dtype), self.rough).float()

    def _times(self, rows: Tensor, factor: Tensor) -> Tensor:
        return rows @ factor if len(factor) == factor.shape[1] else (rows @ factor.T) @ factor

    def objective(self, point: Point) -> float:
        """Mean cross-entropy and penalty at a point."""
        inner = point.on(self)
        entropy, _ = self.entropy(inner + point.intercept)
        return float(entropy) + 0.5 * self.l2 * float(dot(point.rows[None], inner[None]))

    def entropy(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy, a float64 scalar, and the residual (c, n), shares included."""
        loss, residual = loss_and_residual(logits[None].clone(), self.truth, self.share)
        return loss[0], residual[0]


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


def prefix_factors(columns: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    """What products with the kernel of the first k of columns (d, n) take, for each of sizes, largest first.

    The kernel (n, n), or where a product with it is dearer, the columns (k, n) themselves. Kernels are sums
    over segments of columns, held where they all fit in HELD bytes; else each is made by itself.
    """
    n = columns.shape[1]
    rising = sorted(set(sizes))
    wide = [size for size in rising if FACTOR * size >= n]
    held: list[Tensor] = []
    if len(wide) * 4 * n**2 <= HELD:
        for before, size in pairwise([0, *wide]):
            part = columns[before:size].T @ columns[before:size]
            held.append(part.add_(held[-1]) if held else part)
    for size in reversed(rising):
        if FACTOR * size < n:
            yield columns[:size].contiguous()
        else:
            yield held.pop() if held else columns[:size].T @ columns[:size]


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
        slope_rows = residual + l2 * rows
        slope_rows -= slope_rows.mean(dim=1, keepdim=True)
        tilt = residual.sum(dim=1, keepdim=True)  # the intercepts' gradient
        step, count = _conjugate_gradients(problem, share, slope_rows, tilt)
        products += count
        shift = problem.spread * step.sum(dim=1, keepdim=True)
        step = step - step.mean(dim=1, keepdim=True)
        moved = problem.logits(step)
        slope = float(dot(slope_rows[None], moved[None])) + float((tilt * shift).sum())
        cross, own = float(dot(rows[None], moved[None])), float(dot(step[None], moved[None]))
        gap = -0.5 * slope / max(abs(value), 1e-300)
        if not 0 <= gap < math.inf:
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


def _conjugate_gradients(
    problem: KernelProblem, share: Tensor, slope: Tensor, tilt: Tensor
) -> tuple[Tensor, int]:
    """The Newton direction (c, n) with minus the gradient on its right side, in kernel form.

    slope (c, n), tilt (c, 1): the gradient of weights and intercepts. Rows of the result sum to the
    intercepts' part over the spread. Returns it and the number of products.
    """
    l2, spread = problem.l2, problem.spread
    left = -slope - tilt / slope.shape[1]  # the residual, and its logits
    image = problem.logits(left) - spread * tilt
    rest = float(torch.vdot(left.flatten(), image.flatten()))
    curvature = share * problem.share  # times (1 - share) where there is one output
    if len(share) == 1:
        curvature = curvature * (1 - share)
    step, towards, seen = torch.zeros_like(left), left.clone(), image.clone()
    count, model = 0, 0.0
    for count in range(1, STEPS + 1):
        bent = curvature * seen
        if len(share) > 1:
            bent.addcmul_(share, bent.sum(dim=0), value=-1)
        far = problem.nearly(bent)
        far.add_(bent.sum(dim=1, keepdim=True), alpha=spread)
        flat = seen.flatten()
        bend = float(torch.vdot(flat, bent.flatten())) + l2 * float(torch.vdot(flat, towards.flatten()))
        if not bend > 0:
            break
        length = rest / bend
        step.add_(towards, alpha=length)
        left.sub_(bent, alpha=length).sub_(towards, alpha=length * l2)
        image.sub_(far, alpha=length).sub_(seen, alpha=length * l2)
        now = float(torch.vdot(left.flatten(), image.flatten()))
        gain = 0.5 * length * rest
        model += gain
        if count * gain <= QUADRATIC * model or not 0 < now < math.inf:
            break
        towards.mul_(now / rest).add_(left)
        seen.mul_(now / rest).add_(image)
        rest = now
    return step, count
