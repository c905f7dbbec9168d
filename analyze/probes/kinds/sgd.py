"""The paper's own probe: a linear layer trained by stochastic gradient descent, all fractions in one batch.

Learning rate 0.1, divided by 10 every 20 epochs, 100 epochs, batches of 256, no momentum, no weight decay
(Nanda et al. 2023, arXiv 2306.00183, section 2), on cached features instead of a backbone run again in each
epoch. The layer starts as torch.nn.Linear does, uniform in +-1/sqrt(k). The order of samples is drawn anew
each epoch and shared by the probes of a batch.

It stops after its epochs wherever it is: objective and gradient are reported at l2 = 0, and `converged` says
only that the loss is finite.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.nested_matmul import backward, forward, segments
from probecache.analyze.probes.design.probe_order import ProbeOrder
from probecache.analyze.probes.design.task_panels import task_panels, task_weights
from probecache.analyze.probes.kind import Fitted, ProbeRequest
from probecache.analyze.probes.lbfgs.history import dot
from probecache.analyze.probes.optim.cross_entropy import indicator, loss_and_residual
from probecache.analyze.probes.optim.multinomial import Batch
from probecache.analyze.probes.shared_state import SharedState
from probecache.analyze.tasks.size import LayerSize


@dataclass(frozen=True)
class Schedule:
    """Defaults are the paper's."""

    learning_rate: float = 0.1
    decay: float = 0.1
    decay_every: int = 20
    epochs: int = 100
    batch: int = 256


def fit_sgd(
    panels: Panels,
    truth: Tensor,
    sizes: np.ndarray,
    schedule: Schedule,
    *,
    weights: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Weights (m, c, 1 + d), intercept first, of probes on the first `sizes` (m,) columns, not increasing.

    panels: one column order, in memory; truth: (c, n) from `cross_entropy.indicator`; weights: float32 (n,).
    """
    device = panels.device
    x = torch.cat([panel.of(0) for panel in panels], dim=1)  # (w, n)
    n, widths = x.shape[1], torch.from_numpy(sizes + 1).to(device)
    parts = segments(widths.tolist())
    # By column, from a generator of its own: a probe starts and goes on the same whatever others are fitted.
    drawn = torch.rand(panels.width, truth.shape[0], generator=torch.Generator().manual_seed(seed)).T
    w = drawn.repeat(len(sizes), 1, 1).to(device)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(panels.width, device=device) < widths[:, None, None]
    w = (2 * w - 1) / (widths - 1).sqrt()[:, None, None] * mask
    mean_weight = 1.0 if weights is None else float(weights.mean())
    for epoch in range(schedule.epochs):
        rate = schedule.learning_rate * schedule.decay ** (epoch // schedule.decay_every)
        shuffled = torch.randperm(n, generator=generator).to(device)
        for rows in shuffled.split(schedule.batch):
            columns = x[:, rows]
            share = None if weights is None else weights[rows] / mean_weight
            _, residual = loss_and_residual(forward(w, columns, parts), truth[:, rows], share)
            gradient = torch.zeros_like(w)
            backward(residual, columns, parts, gradient)
            w.sub_(gradient.mul_(mask), alpha=rate / len(rows))
    return w


@dataclass(frozen=True)
class Sgd:
    """The paper's probe. No penalty: every l2 gives the same values."""

    schedule: Schedule = field(default_factory=Schedule)
    name = "sgd"
    has_l2 = False
    takes_weights = True
    targets = ("classes",)
    from_disk = False
    solvers = ("torch",)
    l2_choice = ""
    probabilities = True
    counts = "steps"

    def orders_per_batch(self, shared: SharedState, request: ProbeRequest) -> int:
        return 1

    def fit(
        self, shared: SharedState, orders: list[np.ndarray], probes: ProbeOrder, request: ProbeRequest
    ) -> Fitted:
        task, device = shared.task, shared.device
        labels = torch.from_numpy(task.train_labels).to(device)
        truth, weights = indicator(labels, len(task.classes)), task_weights(task, device)
        found, objective, grad_norm = [], [], []
        for g, order in enumerate(orders):
            sizes = probes.size[probes.group == g]
            panels = task_panels(task, shared.standardize, device, [order], keep=True, as_stored=True)
            x = fit_sgd(panels, truth, sizes, self.schedule, weights=weights)
            zero, widths = torch.zeros(len(sizes), dtype=torch.int64), torch.from_numpy(sizes + 1)
            batch = Batch(panels, zero, widths, zero.double(), truth, weights)
            f, gradient = batch.evaluate(x, torch.arange(len(x)))
            if not shared.standardize:  # it walks on the columns as stored, and is scored on centred ones
                mean = torch.from_numpy(task.mean[order]).to(device).double()
                x[..., 0] += (x[..., 1:].double() @ mean).float()
            found.append(x)
            objective.append(f)
            grad_norm.append(dot(gradient, gradient).sqrt())
        values = torch.cat(objective)
        steps = torch.full((len(values),), self._steps(panels.n_samples))
        return Fitted(values, torch.cat(grad_norm), steps, torch.isfinite(values), weights=torch.cat(found))

    def _steps(self, rows: int) -> int:
        return self.schedule.epochs * -(-rows // self.schedule.batch)

    def flops(self, size: LayerSize, ks: np.ndarray, penalties: int) -> float:
        """Two products per row and epoch, in steps of 256 rows: a fifth of the rate of large ones."""
        return 5 * penalties * self.schedule.epochs * 4.0 * size.train * float(ks.sum()) * size.classes

    def shared_flops(self, size: LayerSize, penalties: int) -> float:
        return 0.0

    def memory(self, size: LayerSize, fractions: int, l2s: int) -> int:
        weights = size.classes * (size.d + 1) * 4
        return 4 * fractions * l2s * weights + 8 * size.train * (size.d + size.classes)


KIND = Sgd()
