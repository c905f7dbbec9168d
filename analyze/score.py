"""Predictions and accuracies of nested linear probes, one pass over the test rows for the whole batch."""

import torch
from torch import Tensor

from analyze.nested import forward, segments
from analyze.panels import Panels


def predict(x: Tensor, widths: Tensor, panels: Panels) -> Tensor:
    """Predicted classes int64 (m, n) of probes x (m, c, w), sizes not increasing; c = 1 means two classes."""
    parts = segments(widths.tolist())
    predictions = torch.empty(x.shape[0], panels.n_samples, dtype=torch.int64, device=x.device)
    for start, panel in panels:
        logits = forward(x, panel, parts)  # (m, c, rows)
        chosen = logits.argmax(dim=1) if x.shape[1] > 1 else (logits[:, 0] > 0).long()
        predictions[:, start : start + panel.shape[1]] = chosen
    return predictions


def accuracies(predictions: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Accuracy (m,) and per-class accuracy (m, classes), float64; NaN for a class without test samples."""
    right = (predictions == labels).double()  # (m, n)
    counts = torch.bincount(labels, minlength=n_classes).double()
    hits = torch.zeros(right.shape[0], n_classes, dtype=torch.float64, device=right.device)
    hits.index_add_(1, labels, right)
    return right.mean(dim=1), hits / counts


def r_squared(x: Tensor, widths: Tensor, panels: Panels, targets: Tensor) -> Tensor:
    """Coefficient of determination (m,), mean over targets, float64: of regression targets (n, t)."""
    parts = segments(widths.tolist())
    squared = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
    for start, panel in panels:
        truth = targets[start : start + panel.shape[1]].T.double()  # (t, rows)
        squared += (forward(x, panel, parts).double() - truth).square().sum(dim=2)
    spread = (targets - targets.mean(dim=0)).square().sum(dim=0).double()
    return (1 - squared / spread).mean(dim=1)
