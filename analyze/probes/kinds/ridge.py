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
from probecache.analyze.probes.design.nested_matmul import segments
from probecache.analyze.probes.design.probe_order import ProbeOrder
from probecache.analyze.probes.kind import Fitted, ProbeRequest
from probecache.analyze.probes.precondition.blocked_cholesky import blocked_cholesky
from probecache.analyze.probes.precondition.preconditioner import cholesky
from probecache.analyze.probes.shared_state import SharedState
from probecache.analyze.tasks.matrix import StoredRows
from probecache.analyze.tasks.size import LayerSize


@dataclass(frozen=True)
class RidgeSolution:
    """x: float32 (m, t, 1 + d), intercept first, zero beyond each probe's columns; objectives and slopes
    (norms of the gradient at the float32 solution) float64 (m, t), of each output."""

    x: Tensor
    objectives: Tensor
    slopes: Tensor

    def of_outputs(self, part: slice) -> "RidgeSolution":
        return RidgeSolution(self.x[:, part], self.objectives[:, part], self.slopes[:, part])

    @property
    def objective(self) -> Tensor:
        """float64 (m,)."""
        return self.objectives.sum(dim=1)

    @property
    def grad_norm(self) -> Tensor:
        """float64 (m,)."""
        return self.slopes.square().sum(dim=1).sqrt()


def fit_ridge(moments: Moments, sizes: np.ndarray, l2: np.ndarray) -> RidgeSolution:
    """Fit m probes on the first sizes (m,) columns with penalties l2 (m,), both of any order."""
    mean = moments.gram[0, 1:]  # weighted column means: zero up to rounding where columns are standardised
    target_mean = moments.cross[0]  # (t,)
    gram = moments.gram[1:, 1:].addr(mean, mean, alpha=-1)
    cross = moments.cross[1:].addr(mean, target_mean, alpha=-1)  # (d, t)
    d, t = cross.shape
    m, device = len(sizes), gram.device
    w = torch.zeros(d, m, t, dtype=torch.float64, device=device)
    gw = torch.zeros_like(w)
    for value in np.unique(l2):
        mine = np.flatnonzero(l2 == value)
        mine = mine[np.argsort(-sizes[mine], kind="stable")]  # the largest first
        widest, chosen = int(sizes[mine[0]]), torch.from_numpy(mine).to(device)
        # L y = C once: forward substitution of a prefix is a prefix of the forward substitution, and back
        # substitution of zeros beyond a prefix leaves them.
        factor = _factor(gram[:widest, :widest], float(value))
        half = torch.linalg.solve_triangular(factor, cross[:widest], upper=False)  # (widest, t)
        inside = torch.arange(widest, device=device)[:, None] < torch.from_numpy(sizes[mine]).to(device)
        half = (half[:, None] * inside[:, :, None]).view(widest, -1)
        found = torch.linalg.solve_triangular(factor.T, half, upper=True)
        found = found.float().double()  # what is returned is what is measured
        image = torch.zeros_like(found)
        for part in segments(sizes[mine].tolist()):
            reach = part.probes * t
            image[:, :reach] += gram[:widest, part.start : part.stop] @ found[part.start : part.stop, :reach]
        w[:widest, chosen], gw[:widest, chosen] = found.view(widest, -1, t), image.view(widest, -1, t)
    penalty = torch.from_numpy(np.asarray(l2, np.float64)).to(device)
    square = moments.square - target_mean**2
    fitted = (w * (gw - 2 * cross[:, None])).sum(dim=0)  # (m, t)
    inside = torch.arange(d, device=device)[:, None] < torch.from_numpy(np.asarray(sizes)).to(device)
    slope = (gw - cross[:, None] + penalty[:, None] * w) * inside[:, :, None]
    x = torch.empty(m, t, 1 + d, device=device)
    x[:, :, 0] = target_mean - torch.einsum("d,dmt->mt", mean, w)
    x[:, :, 1:] = w.permute(1, 2, 0)
    return RidgeSolution(
        x,
        (square + fitted).clamp(min=0) + penalty[:, None] * w.square().sum(dim=0),
        2 * slope.square().sum(dim=0).sqrt(),
    )


def _factor(gram: Tensor, l2: float) -> Tensor:
    if (factor := blocked_cholesky(gram, l2)) is not None:
        return factor
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
    order_free = True
    closed_form = True
    fits_any_together = True
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
        return self.fit_several([shared], orders, probes, request)[0]

    def fit_several(
        self, tasks: list[SharedState], orders: list[np.ndarray], probes: ProbeOrder, request: ProbeRequest
    ) -> list[Fitted]:
        """Fit the probes on each of several tasks over the same rows: right-hand sides of one factor."""
        first = tasks[0]
        cross = torch.cat([task.moments.cross for task in tasks], dim=1)
        square = torch.cat([task.moments.square for task in tasks])
        moments = Moments(first.moments.gram, cross, square, first.moments.count)
        parts = []
        for g, order in enumerate(orders):
            mine = probes.group == g
            parts.append(fit_ridge(moments.take(order), probes.size[mine], probes.l2[mine]))
        once = torch.ones(len(probes), dtype=torch.int64, device=first.device)
        found, start = [], 0
        for task in tasks:
            outputs = slice(start, start + len(task.moments.square))
            own, start = [part.of_outputs(outputs) for part in parts], outputs.stop
            found.append(
                Fitted(
                    torch.cat([part.objective for part in own]),
                    torch.cat([part.grad_norm for part in own]),
                    once,
                    once.bool(),
                    weights=torch.cat([part.x for part in own]),
                )
            )
        return found

    def flops(self, size: LayerSize, ks: np.ndarray, penalties: int) -> float:
        return penalties * (float(ks.max()) ** 3 / 3 + 6 * float((ks**2).sum()) * size.classes)

    def shared_flops(self, size: LayerSize, penalties: int) -> float:
        return 0.0

    def memory(self, size: LayerSize, fractions: int, l2s: int) -> int:
        """Right-hand sides and solutions in float64, and one factor per penalty."""
        weights = size.classes * (size.d + 1) * 4
        return int(12 * fractions * l2s * weights + 4 * l2s * (size.d + 1) ** 2)


KIND = Ridge()
