"""Newton's method for one logistic probe of few parameters, where L-BFGS makes no headway.

A probe on few neurons that separates its rows nearly perfectly (on a few principal components, say) has a
Hessian

    (1 / sum w) sum_i w_i (diag p_i - p_i p_i') (x) x_i x_i'  +  l2

that couples the classes: no preconditioner of one class at a time is like it, and L-BFGS takes hundreds to
thousands of evaluations where Newton's method takes ten. With c (1 + k) parameters it is cheap while they are
few. Everything is float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from probecache.analyze.probes.design.design_matrix import Panels

PARAMETERS = 2800  # a Hessian takes their square times 8 bytes
WORK = 1e10  # products per Hessian: about a second of one core
STEPS = 50
HALVINGS = 30
EXTRA = (1e-12, 1e-10, 1e-8, 1e-6)  # of the Hessian's mean diagonal, added until there is a factor
CHUNK = 2**21  # numbers of a weighted design matrix held at once


@dataclass(frozen=True)
class Problem:
    """The probe on the first `width` rows of the panels of column order `group`; the rest as in
    `logistic.Batch`."""

    panels: Panels
    group: int
    width: int
    l2: float
    truth: Tensor
    weights: Tensor | None = None

    @property
    def is_small(self) -> bool:
        """Whether its Hessian is cheap to form: few parameters, and rows that are not read from disk."""
        parameters = len(self.truth) * self.width
        work = self.panels.n_samples * parameters**2
        return parameters <= PARAMETERS and work <= WORK and self.panels.in_memory

    def expand(self, x: Tensor) -> tuple[float, Tensor, Tensor]:
        """Objective, gradient (c, w) and Hessian (c w, c w), all float64, at x float64 (c, w)."""
        c, w = x.shape
        loss, total = 0.0, 0.0
        gradient, hessian = torch.zeros_like(x), x.new_zeros(c * w, c * w)
        chunk = max(1, CHUNK // (c * w))
        for panel in self.panels:
            columns = panel.of(self.group)[:w]
            for start in range(0, columns.shape[1], chunk):
                a = columns[:, start : start + chunk].double()  # (w, rows)
                here = slice(panel.start + start, panel.start + start + a.shape[1])
                weights = a[0] if self.weights is None else self.weights[here].double()
                part, p = _loss_and_probabilities(x @ a, self.truth[:, here].double())
                loss += float(weights @ part)
                total += float(weights.sum())
                gradient += ((p - self.truth[:, here]) * weights) @ a.T
                _add_curvature(hessian, a, p, weights)
        penalty = torch.full_like(x, self.l2)
        penalty[:, 0] = 0
        hessian /= total
        hessian.diagonal().add_(penalty.flatten())
        square = float((penalty * x.square()).sum())
        return loss / total + 0.5 * square, gradient / total + penalty * x, hessian


def newton(problem: Problem, x: Tensor, tol: float) -> tuple[Tensor, int, bool]:
    """Minimise the problem from x float32 (c, >= width), damped where the full step does not descend.

    tol: half the squared Newton decrement over the objective, which is the gap near the minimum.
    Returns x, the number of evaluations, and whether it has converged.
    """
    point = x[:, : problem.width].double()
    f, gradient, hessian = problem.expand(point)
    used, converged = 1, False
    for _ in range(STEPS):
        step = _solve(hessian, gradient)
        slope = float((gradient * step).sum())
        converged = 0 <= -0.5 * slope <= tol * f
        if converged or not slope < 0:
            break
        length = 1.0
        for _ in range(HALVINGS):
            found = problem.expand(point + length * step)
            used += 1
            if found[0] <= f + 1e-4 * length * slope:
                break
            length /= 2
        else:
            break
        point = point + length * step
        f, gradient, hessian = found
    result = torch.zeros_like(x)
    result[:, : problem.width] = point
    return result, used, converged


def _solve(hessian: Tensor, gradient: Tensor) -> Tensor:
    """The Newton step; overwrites the Hessian's diagonal. NaN where no factor is found.

    A shift of all intercepts changes no probability: rounding decides whether the Hessian is positive
    definite along it, hence the little that is added, and more where sharp probabilities have cancelled.
    """
    diagonal = hessian.diagonal()
    own, size = diagonal.clone(), float(diagonal.mean())
    for extra in EXTRA:
        _ = diagonal.copy_(own + extra * size)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if not int(failed):
            return -torch.cholesky_solve(gradient.reshape(-1, 1), factor).view_as(gradient)
    return torch.full_like(gradient, torch.nan)


def _loss_and_probabilities(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row (rows,) and the probabilities (c, rows)."""
    if len(logits) == 1:
        # Of the log-odds of being wrong: beyond 20, softplus drops what a right row's would leave.
        wrong = torch.where(truth > 0, -logits, logits)
        return functional.softplus(wrong[0]), torch.sigmoid(logits)
    logs = torch.log_softmax(logits, dim=0)
    return -(truth * logs).sum(dim=0), logs.exp()


def _add_curvature(hessian: Tensor, a: Tensor, p: Tensor, weights: Tensor) -> None:
    """Adds sum_i w_i (diag p_i - p_i p_i') (x) a_i a_i' to hessian (c w, c w); a: (w, rows), p: (c, rows)."""
    (c, rows), w = p.shape, len(a)
    spread = ((p * weights.sqrt())[:, None] * a).view(c * w, rows)
    hessian.addmm_(spread, spread.T, alpha=-1)
    for j in range(c):
        block = slice(j * w, (j + 1) * w)
        hessian[block, block] += (a * (p[j] * weights)) @ a.T
