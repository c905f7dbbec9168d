"""Ridge probes from the moments: one Cholesky factor per (seed, l2) serves every nested subset.

Minimises (1/n) ||Y - X W - b||^2 + l2 ||W||^2, b not penalised. With centred moments G = X'X / n and
C = X'Y / n the solution on the first k columns is (G_k + l2)^-1 C_k, and the leading block of a Cholesky
factor is the factor of the leading block. Classes are +-1 targets, so this is RidgeClassifier(alpha = l2 n).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.gram import Moments
from probecache.analyze.probes.design.probe_order import ProbeOrder
from probecache.analyze.probes.kind import Fitted, ProbeRequest
from probecache.analyze.probes.optim.preconditioner import cholesky
from probecache.analyze.probes.shared_state import SharedState
from probecache.analyze.tasks.size import LayerSize
from probecache.analyze.tasks.task import StoredRows


@dataclass(frozen=True)
class RidgeSolution:
    """x: float32 (m, t, 1 + d), intercept first, zero beyond each probe's columns; objective and grad_norm
    (of the float32 solution) float64 (m,)."""

    x: Tensor
    objective: Tensor
    grad_norm: Tensor


def fit_ridge(moments: Moments, sizes: np.ndarray, l2: np.ndarray) -> RidgeSolution:
    """Fit m probes on the first sizes (m,) columns with penalties l2 (m,), both of any order."""
    mean = moments.gram[0, 1:]  # weighted column means: zero up to rounding where columns are standardised
    target_mean = moments.cross[0]  # (t,)
    gram = moments.gram[1:, 1:] - torch.outer(mean, mean)
    cross = moments.cross[1:] - torch.outer(mean, target_mean)  # (d, t)
    square = moments.square - target_mean**2
    d, t = cross.shape
    m = len(sizes)
    inside = torch.arange(d)[:, None] < torch.from_numpy(np.asarray(sizes))  # (d, m)
    inside = inside.to(gram.device).repeat_interleave(t, dim=1)  # (d, m t)
    w = torch.zeros(d, m * t, dtype=torch.float64, device=gram.device)
    for value in np.unique(l2):
        chosen = torch.from_numpy(np.flatnonzero(l2 == value)).to(gram.device)
        widest = int(np.max(sizes[l2 == value]))
        mine = (chosen[:, None] * t + torch.arange(t, device=gram.device)).flatten()  # columns of w
        # L y = C once: forward substitution of a prefix is a prefix of the forward substitution, and back
        # substitution of zeros beyond a prefix leaves them.
        factor = _factor(gram[:widest, :widest], float(value))
        half = torch.linalg.solve_triangular(factor, cross[:widest], upper=False)  # (widest, t)
        half = half.repeat(1, len(chosen)) * inside[:widest, mine]
        w[:widest, mine] = torch.linalg.solve_triangular(factor.T, half, upper=True)
    w = w.float().double()  # what is returned is what is measured
    gw, penalty = gram @ w, torch.from_numpy(np.asarray(l2)).to(gram.device).repeat_interleave(t)
    fitted = (w * (gw - 2 * cross.repeat(1, m))).sum(dim=0).view(m, t).sum(dim=1)
    shrunk = penalty * w.square().sum(dim=0)
    slope = (gw - cross.repeat(1, m) + penalty * w) * inside
    x = torch.empty(m, t, 1 + d, device=gram.device)
    x[:, :, 0] = (target_mean.repeat(m) - mean @ w).view(m, t)
    x[:, :, 1:] = w.T.view(m, t, d)
    return RidgeSolution(
        x,
        (square.sum() + fitted).clamp(min=0) + shrunk.view(m, t).sum(dim=1),
        2 * slope.square().sum(dim=0).view(m, t).sum(dim=1).sqrt(),
    )


def _factor(gram: Tensor, l2: float) -> Tensor:
    padded = torch.nn.functional.pad(gram, (1, 0, 1, 0))
    padded[0, 0] = 1
    return cholesky(padded, l2)[1:, 1:].contiguous()


class Ridge:
    """Least squares on +-1 targets, or on numbers, from the moments alone."""

    name = "ridge"
    has_l2 = True
    takes_weights = True
    targets = ("classes", "labels", "numbers")
    from_disk = True
    solvers = ("torch", "sklearn", "cuml")
    l2_choice = "folds"
    probabilities = False
    counts = "solves"

    def orders_per_batch(self, shared: SharedState, request: ProbeRequest) -> int:
        """All, since they share a pass over the test rows; on disk, as many as their factors leave room."""
        if not isinstance(shared.task.train, StoredRows):
            return len(request.orders)
        factors = 4 * len(request.l2s) * (1 + int(request.sizes.max())) ** 2
        return max(1, int((request.memory_limit or 2**33) // 4 // factors))

    def fit(
        self, shared: SharedState, orders: list[np.ndarray], probes: ProbeOrder, request: ProbeRequest
    ) -> Fitted:
        parts = []
        for g, order in enumerate(orders):
            mine = probes.group == g
            parts.append(fit_ridge(shared.moments.take(order), probes.size[mine], probes.l2[mine]))
        once = torch.ones(len(probes), dtype=torch.int64, device=shared.device)
        objective, grad_norm = (torch.cat([getattr(p, n) for p in parts]) for n in ("objective", "grad_norm"))
        weights = torch.cat([part.x for part in parts])
        return Fitted(objective, grad_norm, once, once.bool(), weights=weights)

    def flops(self, size: LayerSize, ks: np.ndarray, penalties: int) -> float:
        return penalties * (float(ks.max()) ** 3 / 3 + 6 * float((ks**2).sum()) * size.classes)

    def shared_flops(self, size: LayerSize, penalties: int) -> float:
        return 0.0

    def memory(self, size: LayerSize, fractions: int, l2s: int) -> int:
        """Right-hand sides and solutions in float64, and one factor per penalty."""
        weights = size.classes * (size.d + 1) * 4
        return int(12 * fractions * l2s * weights + 4 * l2s * (size.d + 1) ** 2)


KIND = Ridge()
