"""Objectives and gradients near a point that float32 products have seen, by bfloat16 products.

At the anchor x0 every probe's logits Z0 and residuals R0 are kept. At x = x0 + s

    Z = Z0 + S X,    gradient = X'R0 + X'(R - R0),

so bfloat16 rounds a difference, which is small, and never what it is small against: the gradient is as exact
as float32's up to 2^-9 of its change since the anchor. Softmax, loss and residual are float32 throughout.
"""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from probecache.analyze.probes.design.nested_matmul import backward, forward
from probecache.analyze.probes.optim.cross_entropy import loss_and_residual
from probecache.analyze.probes.optim.multinomial import Arithmetic, Batch


@dataclass(frozen=True)
class Anchor:
    """Some probes of a batch at a point, made by `anchor`.

    probes: int64 (a,), on the CPU, which of the batch's; point: (a, c, w); objective: float64 (a,), gradient:
    (a, c, w), by float32 products; pull: (a, c, w), the sum over the rows; logits, residual: (a, c, n).
    """

    batch: Batch
    probes: Tensor
    point: Tensor
    objective: Tensor
    gradient: Tensor
    pull: Tensor
    logits: Tensor
    residual: Tensor
    _last: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def near(self, step: Tensor, which: Tensor, how: Arithmetic) -> tuple[Tensor, Tensor]:
        """Objective and gradient of the probes `which` (a',) of these at point + step (a', c, w).

        which: on the CPU; given again as the same tensor it is not looked at again. how: of a dtype that
        holds `step` without rounding.
        """
        batch = self.batch
        if not self._last or self._last[0] is not which:
            self._last[:] = [which, self.probes[which], which.to(step.device)]
        _, mine, here = self._last
        chosen, loss = batch.chosen(mine), torch.zeros(len(mine), dtype=torch.float64, device=step.device)
        pull = self.pull[here]
        change = torch.zeros_like(pull)
        for panel in batch.panels:
            for span in chosen.products:
                near = partial(self._at, _neighbours(here[span.probes]))
                moved = batch.residual(step[span.probes], span, panel, chosen, loss[span.probes], how, near)
                backward(*moved, span.segments, change[span.probes])
        return batch.penalise(self.point[here] + step, chosen, loss, pull + change)

    def _at(self, probes: slice | Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Logits and residuals (a, c, rows) of some of the probes."""
        return self.logits[probes, :, rows], self.residual[probes, :, rows]

    def put(self, rows: Tensor, later: "Anchor") -> None:
        """The probes at positions `rows`, on the CPU, as a later anchor has them, in place."""
        there = rows.to(self.point.device)
        for name in ("point", "objective", "gradient", "pull", "logits", "residual"):
            getattr(self, name)[there] = getattr(later, name)


def _neighbours(rows: Tensor) -> slice | Tensor:
    """Positions as a slice where they follow each other: what they choose is then not copied."""
    if rows.is_cuda or bool((rows.diff() != 1).any()):
        return rows
    return slice(int(rows[0]), int(rows[-1]) + 1)


def anchor(batch: Batch, probes: Tensor, point: Tensor) -> Anchor:
    """The probes `probes` (a,) of the batch, which is in memory, at `point` (a, c, w): one float32 pass."""
    logits = torch.empty(*point.shape[:2], batch.panels.n_samples, device=point.device)
    residual = torch.empty_like(logits)
    pull = torch.zeros_like(point, memory_format=torch.contiguous_format)
    chosen, loss = batch.chosen(probes), torch.zeros(len(probes), dtype=torch.float64, device=point.device)
    for panel in batch.panels:
        for span in chosen.products:
            columns = panel.of(span.group)
            vectors = point[span.probes].shape[0] * point.shape[1]
            for rows, inside in batch.strips(panel, vectors):
                z = forward(point[span.probes], columns[:, inside], span.segments)
                logits[span.probes, :, rows] = z
                truth = batch.classes(rows, chosen.of(span))
                part, residual[span.probes, :, rows] = loss_and_residual(z, truth, batch.shares(rows))
                loss[span.probes] += part
            backward(residual[span.probes, :, panel.rows], columns, span.segments, pull[span.probes])
    objective, gradient = batch.penalise(point, chosen, loss, pull)
    return Anchor(batch, probes, point, objective, gradient, pull, logits, residual)
