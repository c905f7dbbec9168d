"""Multinomial logistic probes on nested column subsets, all of one column order in one batch.

Minimises, for each probe,

    (1 / sum w) sum_i w_i CE(y_i, W x_i + b)  +  (l2 / 2) ||W||^2,

by L-BFGS in lock step, preconditioned by the Cholesky factor of the Gram matrix. Equal to scikit-learn's
LogisticRegression(C = 1 / (l2 sum w)); two classes have one weight vector, as there.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analyze import crossentropy
from analyze.lockstep import Solution, lbfgs
from analyze.nested import backward, forward, segments
from analyze.panels import Panels
from analyze.precondition import gram_preconditioner


@dataclass(frozen=True)
class Objective:
    """The objective of m nested probes over panels; `evaluate` gives values and gradients of some of them.

    widths: int64 (m,), 1 + k, not increasing; l2: float64 (m,); truth: (c, n) from `crossentropy.indicator`;
    weights: float32 (n,) or None.
    """

    panels: Panels
    widths: Tensor
    l2: Tensor
    truth: Tensor
    weights: Tensor | None

    @property
    def mask(self) -> Tensor:
        """bool (m, 1, w): the panel rows that each probe sees."""
        return torch.arange(self.panels.width, device=self.widths.device) < self.widths[:, None, None]

    def evaluate(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Objective float64 (a,) and gradient (a, c, w) at x (a, c, w)."""
        widths, l2 = self.widths[which], self.l2[which]
        parts = segments(widths.tolist())
        gradient = torch.zeros_like(x)
        loss = torch.zeros_like(l2)
        for start, panel in self.panels:
            rows = slice(start, start + panel.shape[1])
            weights = None if self.weights is None else self.weights[rows]
            logits = forward(x, panel, parts)
            part, residual = crossentropy.loss_and_residual(logits, self.truth[:, rows], weights)
            loss += part
            backward(residual, panel, parts, gradient)
        total = (
            self.panels.n_samples if self.weights is None else float(self.weights.sum(dtype=torch.float64))
        )
        penalised = x.clone()
        penalised[..., 0] = 0
        gradient = gradient / total + penalised * l2.to(x.dtype)[:, None, None]
        gradient *= self.mask[which]
        square = penalised.square().flatten(1).sum(dim=1, dtype=torch.float64)
        return loss / total + 0.5 * l2 * square, gradient


def fit_logistic(
    panels: Panels,
    labels: Tensor,
    n_classes: int,
    sizes: np.ndarray,
    l2: np.ndarray,
    gram: Tensor,
    *,
    weights: Tensor | None = None,
    tol: float = 1e-5,
    max_iter: int = 500,
) -> Solution:
    """Fit m probes: sizes int64 (m,) not increasing, l2 float64 (m,).

    gram: float64 (1 + d, 1 + d), `moments(panels).gram`. Solution.x: (m, c, 1 + d), intercept first, zero
    beyond each probe's columns; objective, grad_norm and converged from float32 products, float64 sums.
    """
    device = panels.device
    widths = torch.from_numpy(sizes + 1).to(device)
    penalty = torch.from_numpy(np.asarray(l2, dtype=np.float64)).to(device)
    outputs = crossentropy.n_outputs(n_classes)
    objective = Objective(panels, widths, penalty, crossentropy.indicator(labels, outputs), weights)
    preconditioner = gram_preconditioner(gram, penalty, 1 / max(n_classes, 4))
    mask = objective.mask
    start = torch.zeros(len(sizes), outputs, panels.width, device=device)

    def solve(gradient: Tensor, which: Tensor) -> Tensor:
        return preconditioner.take(which).solve(gradient, mask[which])

    return lbfgs(objective.evaluate, solve, start, tol, max_iter)
