"""Metrics of how samples are ranked by score: the area under the ROC curve, and average precision.

Samples of equal score stand at one threshold. Two classes are ranked by the score of class 1. With more, and
with labels, the metric is the mean over one-against-rest problems (scikit-learn's multi_class="ovr",
average="macro"); classes are then ranked by their softmax probability, by the score itself for a probe
without probabilities. Classes that no sample has, or that all have, say nothing and are left out; NaN where
none is left. Average precision has a number for more of them: 1 where all samples are positive, 0 for a
label, or for class 1 of two, that none has.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from probecache.analyze.metrics.metric import STRIP, Metric
from probecache.analyze.metrics.scores import log_probabilities, margin


def _auroc(scores: Tensor, truth: Tensor, n_classes: int, logits: bool) -> Tensor:
    return _one_against_rest(_area, scores, truth, n_classes, logits)


def _average_precision(scores: Tensor, truth: Tensor, n_classes: int, logits: bool) -> Tensor:
    return _one_against_rest(_precision, scores, truth, n_classes, logits)


def _area(hits: Tensor, rank: Tensor, ends: Tensor) -> Tensor:
    """Trapezoids under the ROC curve through the thresholds, float64 (m, c)."""
    false = rank - hits
    true_before, false_before = _before(hits, ends), _before(false, ends)
    strips = torch.where(ends, (false - false_before) * (hits + true_before) / 2, 0.0)
    return strips.sum(dim=-1) / (hits[..., -1] * false[..., -1])


def _precision(hits: Tensor, rank: Tensor, ends: Tensor) -> Tensor:
    """sum over thresholds of (recall - recall before) * precision, float64 (m, c); 0 without positives."""
    steps = torch.where(ends, (hits - _before(hits, ends)) * hits / rank, 0.0)
    return steps.sum(dim=-1) / hits[..., -1].clamp(min=1)


def _before(counts: Tensor, ends: Tensor) -> Tensor:
    """The count at the threshold before each position: counts never fall, so it is the largest before."""
    known = torch.where(ends, counts, 0.0).cummax(dim=-1).values
    return torch.nn.functional.pad(known[..., :-1], (1, 0))


def _one_against_rest(
    measure: Callable[[Tensor, Tensor, Tensor], Tensor],
    scores: Tensor,
    truth: Tensor,
    n_classes: int,
    logits: bool,
) -> Tensor:
    if truth.dim() == 2:
        ranked, positive = scores, truth.T > 0  # (m, t, n), (t, n)
    elif n_classes == 2:
        ranked, positive = margin(scores)[:, None], truth[None] == 1
    else:
        ranked = log_probabilities(scores).exp() if logits else scores
        positive = torch.arange(n_classes, device=truth.device)[:, None] == truth
    count = positive.sum(dim=1)
    told = (count > 0) & (count < positive.shape[1])
    if measure is _precision:
        # scikit-learn has a number, 0 or 1, for labels and for two classes; many must all be in the truth
        told = count > 0 if truth.dim() == 1 and n_classes > 2 else torch.ones_like(told)
    which = told.nonzero()[:, 0]
    if not len(which):
        return torch.full((len(scores),), torch.nan, dtype=torch.float64, device=scores.device)
    total = torch.zeros(len(scores), dtype=torch.float64, device=scores.device)
    for part in which.split(max(1, STRIP // ranked[:, 0].numel())):
        total += _measured(measure, ranked[:, part].double(), positive[part]).sum(dim=1)
    return total / len(which)


def _measured(
    measure: Callable[[Tensor, Tensor, Tensor], Tensor], ranked: Tensor, positive: Tensor
) -> Tensor:
    """measure of every problem, (m, c): ranked float64 (m, c, n), positive bool (c, n)."""
    found, order = ranked.sort(dim=-1, descending=True)
    hits = positive.expand_as(order).gather(-1, order).double().cumsum(dim=-1)
    ends = torch.ones_like(found, dtype=torch.bool)
    ends[..., :-1] = found[..., 1:] != found[..., :-1]
    rank = torch.arange(1, found.shape[-1] + 1, dtype=torch.float64, device=found.device)
    return measure(hits, rank, ends)


AUROC = Metric("auroc", _auroc, "scores", ("classes", "labels"), across=True)
AVERAGE_PRECISION = Metric(
    "average_precision", _average_precision, "scores", ("classes", "labels"), across=True
)
