"""Scores of nested probes on the test rows: predictions, accuracies, metrics, a batch in one pass."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.metrics.regression import r2_of
from probecache.analyze.probes.design import stored_matmul
from probecache.analyze.probes.design.design_matrix import Panels
from probecache.analyze.probes.design.nested_matmul import forward, spans
from probecache.analyze.probes.design.probe_order import ProbeOrder
from probecache.analyze.probes.kind import Fitted, ProbeRequest
from probecache.analyze.probes.shared_state import SharedState

SCORES = 2**28  # bytes of test scores that are held at once for metrics that need them


def score(
    fitted: Fitted, probes: ProbeOrder, shared: SharedState, orders: list[np.ndarray], request: ProbeRequest
) -> dict[str, Tensor]:
    """Accuracy (m,), class_accuracy (m, c), each metric of the request (m,), and what else is to be kept."""
    task, device = shared.task, shared.device
    truth = torch.from_numpy(task.test_labels).to(device)
    widths, groups = (torch.from_numpy(a) for a in (probes.size + 1, probes.group))
    test = shared.panels(orders, test=True)
    m = len(probes)
    if task.target_kind == "numbers":
        truth = truth if truth.dim() == 2 else truth[:, None]
        nothing = torch.full((m,), torch.nan, dtype=torch.float64)
        out = {"accuracy": nothing, "class_accuracy": torch.empty(m, 0, dtype=torch.float64)}
        if fitted.weights is not None and not request.return_scores and _only_r2(request):
            return out | {"r2": r_squared(fitted.weights, widths, groups, test, truth)}
    elif fitted.scores is None and not request.return_scores and not request.metrics:
        assert fitted.weights is not None
        predictions = predict(fitted.weights, widths, groups, test, task.target_kind == "labels")
        return _accuracies(predictions, truth, shared, request)
    else:
        out = {}
    parts: list[dict[str, Tensor]] = []
    each = 4 * test.n_samples * max(1, task.n_outputs)
    step = max(1, int(SCORES // each))
    for start in range(0, m, step):
        chosen = slice(start, min(start + step, m))
        scores = _scores(fitted, chosen, widths, groups, test)
        guesses = None if fitted.predictions is None else fitted.predictions[chosen]
        parts.append(_of_scores(scores, guesses, truth, shared, request))
    return out | {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _only_r2(request: ProbeRequest) -> bool:
    return all(metric.name == "r2" for metric in request.metrics)


def _scores(fitted: Fitted, chosen: slice, widths: Tensor, groups: Tensor, test: Panels) -> Tensor:
    """float32 (a, c, n_test) of some of the probes."""
    if fitted.scores is not None:
        return fitted.scores[chosen]
    assert fitted.weights is not None
    x = fitted.weights[chosen]
    scores = torch.empty(*x.shape[:2], test.n_samples, device=x.device)
    for probes, rows, logits in _logits(x, widths[chosen], groups[chosen], test):
        scores[probes, :, rows] = logits
    return scores


def _of_scores(
    scores: Tensor, guesses: Tensor | None, truth: Tensor, shared: SharedState, request: ProbeRequest
) -> dict[str, Tensor]:
    """What is computed of scores (a, c, n) that are at hand; guesses: the classes (a, n) that a kind
    predicts, where those are not the largest scores'."""
    task = shared.task
    out: dict[str, Tensor] = {}
    metrics = {metric.name: metric for metric in request.metrics}
    if task.target_kind == "numbers":
        squared = (scores.double() - truth.T).square().sum(dim=2)
        out["r2"] = r2_of(squared, truth.T.double())
        offset = torch.from_numpy(task.offset).to(scores.device).reshape(-1)
        scores, truth = scores.double() + offset[:, None], truth + offset  # as they were given
    else:
        picked = classes_of(scores, task.target_kind == "labels") if guesses is None else guesses
        out |= _accuracies(picked, truth, shared, request)
    for name, metric in metrics.items():
        if name not in out:
            taken = guesses if guesses is not None and metric.needs == "predictions" else scores
            count, logits = len(task.classes) or truth.shape[1], request.kind.probabilities
            out[name] = metric.compute(taken, truth, count, logits=logits).double()
    if request.return_scores:
        out["scores"] = scores.float()
    return out


def _accuracies(
    predictions: Tensor, truth: Tensor, shared: SharedState, request: ProbeRequest
) -> dict[str, Tensor]:
    """predictions: int64 (a, n), or (a, t, n) of several labels."""
    if shared.task.target_kind == "labels":
        right = (predictions == truth.T).double()  # (a, t, n)
        out = {"accuracy": right.mean(dim=(1, 2)), "class_accuracy": right.mean(dim=2)}
    else:
        accuracy, by_class = accuracies(predictions, truth, len(shared.task.classes))
        out = {"accuracy": accuracy, "class_accuracy": by_class}
    return out | ({"predictions": predictions.int()} if request.return_predictions else {})


def classes_of(scores: Tensor, labels: bool = False) -> Tensor:
    """Predicted classes int64 (m, n) of scores (m, c, n): the largest, the first of several; one output means
    two classes. labels: which of c labels hold, (m, c, n)."""
    if labels or scores.shape[1] == 1:
        positive = (scores > 0).long()
        return positive if labels else positive[:, 0]
    return first_largest(scores)


def first_largest(scores: Tensor) -> Tensor:
    """The position of the largest of scores (m, c, n), the first of several, int64 (m, n).

    As `argmax` along the middle axis, in passes along memory: 36 ms to 4 for 20 probes of 10 classes.
    """
    c = scores.shape[1]
    if scores.is_cuda:
        return scores.argmax(dim=1)
    dtype = torch.uint8 if c < 256 else torch.int16 if c < 2**15 else torch.int32
    rank = torch.arange(c, 0, -1, dtype=dtype)[:, None]  # the first has the highest
    first = (scores == scores.amax(dim=1, keepdim=True)).to(dtype).mul_(rank).amax(dim=1)
    return (c - first.long()).clamp_(max=c - 1)  # of NaN, which equals nothing, the last


def _logits(
    x: Tensor, widths: Tensor, groups: Tensor, panels: Panels
) -> Iterator[tuple[slice, slice, Tensor]]:
    """(probes, rows, logits (probes, c, rows)), order by order within each panel."""
    if stored_matmul.serves(panels, groups, x.shape[1]):
        for rows, logits in stored_matmul.products(x, groups, panels):
            yield slice(0, len(x)), rows, logits
        return
    products = spans(groups, widths, x.shape[1], x.device)
    for panel in panels:
        for group, those in groupby(products, key=lambda span: span.group):
            columns = panel.of(group)  # arranged once for all of an order's probes
            for span in those:
                yield span.probes, panel.rows, forward(x[span.probes], columns, span.segments)


def predict(x: Tensor, widths: Tensor, groups: Tensor, panels: Panels, labels: bool = False) -> Tensor:
    """`classes_of` the scores of probes x (m, c, w), laid out as in `multinomial.Batch`."""
    shape = (x.shape[0], x.shape[1], panels.n_samples) if labels else (x.shape[0], panels.n_samples)
    predictions = torch.empty(shape, dtype=torch.int64, device=x.device)
    for probes, rows, logits in _logits(x, widths, groups, panels):
        predictions[probes, ..., rows] = classes_of(logits, labels)
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
    return r2_of(squared, targets.T.double())
