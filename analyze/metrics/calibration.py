"""Metrics of probabilities: log loss and expected calibration error. Lower is better.

Both take softmax probabilities (for labels, of the logistic function), so they are refused for a ridge probe:
its scores are no logits. For labels they are means over the labels.
"""

import math

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.metrics.metric import Metric
from probecache.analyze.metrics.scores import label_log_probabilities, log_probabilities

BINS = 15  # Guo et al. 2017
_LEAST = math.log(np.finfo(np.float64).eps)  # scikit-learn takes no probability as smaller


def _log_loss(scores: Tensor, truth: Tensor, n_classes: int, logits: bool) -> Tensor:
    if truth.dim() == 2:
        found = label_log_probabilities(scores)  # (m, t, 2, n)
        own = torch.where(truth.T > 0, found[:, :, 1], found[:, :, 0])
        return -own.clamp(min=_LEAST).mean(dim=(1, 2))
    own = log_probabilities(scores).gather(1, truth.expand(len(scores), 1, -1))
    return -own.clamp(min=_LEAST).mean(dim=(1, 2))


def _ece(scores: Tensor, truth: Tensor, n_classes: int, logits: bool) -> Tensor:
    if truth.dim() == 2:
        found = label_log_probabilities(scores)
        parts = [_binned(found[:, i], truth[:, i].long()) for i in range(truth.shape[1])]
        return torch.stack(parts).mean(dim=0)
    return _binned(log_probabilities(scores), truth)


def _binned(log_p: Tensor, truth: Tensor) -> Tensor:
    """sum over bins of |right - confidence| / n, (m,): log_p (m, c, n), truth (n,)."""
    best, guess = log_p.max(dim=1)  # of equal ones the first
    edges = torch.from_numpy(np.linspace(0, 1, BINS + 1)[1:-1]).to(best.device)
    confidence = best.exp()
    gap = torch.zeros(len(best), BINS, dtype=torch.float64, device=best.device)
    gap.scatter_add_(1, torch.bucketize(confidence, edges), (guess == truth).double() - confidence)
    return gap.abs().sum(dim=1) / best.shape[1]


_BOTH = ("classes", "labels")
# -mean log p(truth); a probability below 2.2e-16 counts as that, as in scikit-learn's log_loss.
LOG_LOSS = Metric("log_loss", _log_loss, "scores", _BOTH, higher_is_better=False, probabilities=True)
# sum over 15 bins (lower, upper] of the confidence, of |share right - mean confidence|, weighted by samples.
ECE = Metric("ece", _ece, "scores", _BOTH, higher_is_better=False, probabilities=True)
