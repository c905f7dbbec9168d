"""Metrics of predicted classes: accuracy, its mean per class, exact matches, F1, and the five best classes.

For several labels at once, accuracy, balanced accuracy and F1 are means over the labels, each a problem of
two classes by itself; `exact_match` is what scikit-learn calls accuracy there.
"""

import torch
from torch import Tensor

from probecache.analyze.metrics.metric import Metric
from probecache.analyze.metrics.scores import predicted, predicted_labels


def _accuracy(scores: Tensor, truth: Tensor, n_classes: int, logits: bool) -> Tensor:
    if truth.dim() == 2:
        return _right_labels(scores, truth).double().mean(dim=(1, 2))
    return (predicted(scores) == truth).double().mean(dim=1)


def _exact_match(scores: Tensor, truth: Tensor, n_classes: int, logits: bool) -> Tensor:
    if truth.dim() == 2:
        return _right_labels(scores, truth).all(dim=1).double().mean(dim=1)
    return _accuracy(scores, truth, n_classes, logits)


def _balanced_accuracy(scores: Tensor, truth: Tensor, n_classes: int, logits: bool) -> Tensor:
    hits, _, known = _counts(scores, truth, n_classes)
    present = known > 0
    recall = torch.where(present, hits / known.clamp(min=1), 0.0)
    mean = recall.sum(dim=-1) / present.sum(dim=-1)
    return mean.mean(dim=1) if truth.dim() == 2 else mean


def _macro_f1(scores: Tensor, truth: Tensor, n_classes: int, logits: bool) -> Tensor:
    hits, guessed, known = _counts(scores, truth, n_classes)
    if truth.dim() == 2:  # F1 of yes; 0 for a label that neither the truth nor the probe ever has
        yes, both = hits[..., 1], (guessed + known)[..., 1]
        return (2 * yes / both.clamp(min=1)).mean(dim=1)
    f1 = 2 * hits / (guessed + known).clamp(min=1)
    return f1.sum(dim=1) / (guessed + known > 0).sum(dim=1)


def _top5_accuracy(scores: Tensor, truth: Tensor, n_classes: int, logits: bool) -> Tensor:
    if n_classes <= 5:
        return torch.ones(len(scores), dtype=torch.float64, device=scores.device)
    own = scores.gather(1, truth.expand(len(scores), 1, -1))  # (m, 1, n)
    after = torch.arange(n_classes, device=scores.device)[:, None] > truth  # (c, n)
    ahead = (scores > own) | ((scores == own) & after)
    return (ahead.sum(dim=1) < 5).double().mean(dim=1)


def _right_labels(scores: Tensor, truth: Tensor) -> Tensor:
    return predicted_labels(scores) == (truth.T > 0)  # (m, t, n)


def _counts(scores: Tensor, truth: Tensor, n_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of each class that are right, that are predicted, that there are; float64.

    (m, c), (m, c) and (c,); for labels no and yes are the classes: (m, t, 2), (m, t, 2) and (t, 2).
    """
    if truth.dim() == 2:
        guess, yes = predicted_labels(scores), truth.T > 0  # (m, t, n), (t, n)
        n = float(len(truth))
        right, guessed, known = ((a.sum(dim=-1).double()) for a in (guess & yes, guess, yes))
        wrong = n - guessed - known + right  # neither
        pairs = ((wrong, right), (n - guessed, guessed), (n - known, known))
        hits, said, there = (torch.stack(pair, dim=-1) for pair in pairs)
        return hits, said, there
    guess = predicted(scores)
    m = len(guess)
    hits = torch.zeros(m, n_classes, dtype=torch.float64, device=guess.device)
    hits.index_add_(1, truth, (guess == truth).double())
    offset = n_classes * torch.arange(m, device=guess.device)[:, None]
    said = torch.bincount((guess + offset).flatten(), minlength=m * n_classes).view(m, n_classes)
    return hits, said.double(), torch.bincount(truth, minlength=n_classes).double()


_BOTH = ("classes", "labels")
# The share of samples whose class is predicted. Labels: the mean of the labels' accuracies.
ACCURACY = Metric("accuracy", _accuracy, "predictions", _BOTH)
# Labels: the share of samples all of whose labels are right.
EXACT_MATCH = Metric("exact_match", _exact_match, "predictions", _BOTH)
# The mean over the classes that the samples have of the share of their samples that is right.
BALANCED_ACCURACY = Metric("balanced_accuracy", _balanced_accuracy, "predictions", _BOTH)
# The mean of the classes' F1, over classes that the samples or the predictions have. Labels: of all labels.
MACRO_F1 = Metric("macro_f1", _macro_f1, "predictions", _BOTH)
# Is the class among the five of highest score; of equal scores the later class counts as higher, as in
# scikit-learn's top_k_accuracy_score. 1 where there are five classes or fewer.
TOP5_ACCURACY = Metric("top5_accuracy", _top5_accuracy, "scores", ("classes",))
