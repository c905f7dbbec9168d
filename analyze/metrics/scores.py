"""From scores to what metrics take: predicted classes, the score of each class, probabilities."""

import torch
from torch import Tensor


def predicted(scores: Tensor) -> Tensor:
    """Predicted classes int64 (m, n) of scores (m, c, n): the first of the largest; of one output, above 0.

    Integers are predictions already and come back as they are.
    """
    if not scores.is_floating_point():
        return scores
    return scores.argmax(dim=1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()


def predicted_labels(scores: Tensor) -> Tensor:
    """Predicted labels bool (m, t, n): above 0."""
    return scores > 0


def margin(scores: Tensor) -> Tensor:
    """The score of class 1 above class 0, float64 (m, n), of two classes with one output or with two."""
    scores = scores.double()
    return scores[:, 0] if scores.shape[1] == 1 else scores[:, 1] - scores[:, 0]


def log_probabilities(scores: Tensor) -> Tensor:
    """Logarithms of the softmax, float64 (m, c, n); one output gives both classes, (m, 2, n)."""
    scores = scores.double()
    if scores.shape[1] == 1:
        scores = torch.cat([torch.zeros_like(scores), scores], dim=1)
    return torch.log_softmax(scores, dim=1)


def label_log_probabilities(scores: Tensor) -> Tensor:
    """Logarithms of the probabilities of no and of yes, float64 (m, t, 2, n)."""
    scores = scores.double()[:, :, None]
    return torch.nn.functional.logsigmoid(torch.cat([-scores, scores], dim=2))
