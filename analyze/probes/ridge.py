"""Ridge probes from the moments: one Cholesky factor per (seed, l2) serves every nested subset.

Minimises (1/n) ||Y - X W - b||^2 + l2 ||W||^2, b not penalised. With centred moments G = X'X / n and
C = X'Y / n the solution on the first k columns is (G_k + l2)^-1 C_k, and the leading block of a Cholesky
factor is the factor of the leading block. Classes are +-1 targets, so this is RidgeClassifier(alpha = l2 n).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analyze.probes.moments import Moments
from analyze.probes.precondition import cholesky


@dataclass(frozen=True)
class RidgeSolution:
    """x: float32 (m, t, 1 + d), intercept first, zero beyond each probe's columns; objective and grad_norm
    (of the float32 solution) float64 (m,)."""

    x: Tensor
    objective: Tensor
    grad_norm: Tensor


def class_targets(labels: Tensor, n_classes: int) -> Tensor:
    """+1 for the sample's class, -1 for the others, float32 (n, t); t is 1 for two classes."""
    if n_classes == 2:
        return (2 * labels - 1).float()[:, None]
    return 2 * torch.nn.functional.one_hot(labels, n_classes).float() - 1


def fit_ridge(moments: Moments, sizes: np.ndarray, l2: np.ndarray) -> RidgeSolution:
    """Fit m probes on the first sizes (m,) columns with penalties l2 (m,), both of any order."""
    mean = moments.gram[0, 1:]  # weighted column means: zero up to rounding where columns are standardised
    target_mean = moments.cross[0]  # (t,)
    gram = moments.gram[1:, 1:] - torch.outer(mean, mean)
    cross = moments.cross[1:] - torch.outer(mean, target_mean)  # (d, t)
    square = moments.square - target_mean**2
    d, t = cross.shape
    x = torch.zeros(len(sizes), t, 1 + d, device=gram.device)
    objective = torch.zeros(len(sizes), dtype=torch.float64, device=gram.device)
    grad_norm = torch.zeros_like(objective)
    for value in np.unique(l2):
        chosen = np.flatnonzero(l2 == value)
        widest = int(sizes[chosen].max())
        # L y = C once: forward substitution of a prefix is a prefix of the forward substitution.
        factor = _factor(gram[:widest, :widest], float(value))
        half = torch.linalg.solve_triangular(factor, cross[:widest], upper=False)
        for i in chosen:
            k = int(sizes[i])
            w = torch.linalg.solve_triangular(factor[:k, :k].T, half[:k], upper=True)  # (k, t)
            x[i, :, 1 : 1 + k] = w.T.float()
            x[i, :, 0] = (target_mean - mean[:k] @ w).float()
            gw = gram[:k, :k] @ w
            penalty = value * (w * w).sum()
            objective[i] = (square.sum() - 2 * (w * cross[:k]).sum() + (w * gw).sum()).clamp(min=0) + penalty
            grad_norm[i] = 2 * (gw - cross[:k] + value * w).norm()
    return RidgeSolution(x, objective, grad_norm)


def _factor(gram: Tensor, l2: float) -> Tensor:
    padded = torch.nn.functional.pad(gram, (1, 0, 1, 0))
    padded[0, 0] = 1
    return cholesky(padded, l2)[1:, 1:]
