"""Predictions and accuracies of nested linear probes: one pass over the test rows for the whole batch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.nested_matmul import forward, spans


def _logits(
    x: Tensor, widths: Tensor, groups: Tensor, panels: Panels
) -> Iterator[tuple[slice, slice, Tensor]]:
    """(probes, rows, logits (probes, c, rows)), order by order within each panel."""
    products = spans(groups, widths, x.shape[1])
    for panel in panels:
        for span in products:
            yield span.probes, panel.rows, forward(x[span.probes], panel.of(span.group), span.segments)


def predict(x: Tensor, widths: Tensor, groups: Tensor, panels: Panels) -> Tensor:
    """Predicted classes int64 (m, n) of probes x (m, c, w), laid out as in `logistic.Batch`; one output means
    two classes."""
    predictions = torch.empty(x.shape[0], panels.n_samples, dtype=torch.int64, device=x.device)
    for probes, rows, logits in _logits(x, widths, groups, panels):
        predictions[probes, rows] = logits.argmax(dim=1) if x.shape[1] > 1 else (logits[:, 0] > 0).long()
    return predictions


def accuracies(predictions: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Accuracy (m,) and per-class accuracy (m, classes), float64; NaN for a class without test samples."""
    right = (predictions == labels).double()  # (m, n)
    counts = torch.bincount(labels, minlength=n_classes).double()
    hits = torch.zeros(right.shape[0], n_classes, dtype=torch.float64, device=right.device)
    hits.index_add_(1, labels, right)
    return right.mean(dim=1), hits / counts


def r_squared(x: Tensor, widths: Tensor, groups: Tensor, panels: Panels, targets: Tensor) -> Tensor:
    """Coefficient of determination float64 (m,), mean over the targets (n, t) of a regression."""
    squared = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
    for probes, rows, predicted in _logits(x, widths, groups, panels):
        squared[probes] += (predicted.double() - targets[rows].T).square().sum(dim=2)
    spread = (targets - targets.mean(dim=0)).square().sum(dim=0).double()
    return (1 - squared / spread).mean(dim=1)
