"""What a metric is: a name, what it needs, and one batched function from scores to a number per probe."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from probecache.store.errors import InputError

KINDS = ("classes", "labels", "numbers")  # of targets
NEEDS = ("predictions", "scores")
STRIP = 2**24  # scores worked on together: metrics take several float64 copies of them


@dataclass(frozen=True)
class Metric:
    """One number per probe, from its scores on the test samples.

    name: the variable's name in RESULTS.
    function: (scores (m, c, n), truth, n_classes, logits) -> float64 (m,), for a few probes at a time.
    needs: "predictions", or "scores" where the predicted classes are not enough (a knn probe has no scores).
    kinds: of targets that it is defined for. probabilities: it takes softmax (logistic) probabilities of the
    scores, so it is refused for probes that have none (ridge). across: it compares scores of different
    samples, so it is refused for votes (knn).
    """

    name: str
    function: Callable[[Tensor, Tensor, int, bool], Tensor]
    needs: str = "scores"
    kinds: tuple[str, ...] = ("classes",)
    higher_is_better: bool = True
    probabilities: bool = False
    across: bool = False

    def __post_init__(self) -> None:
        if self.needs not in NEEDS:
            raise InputError(
                f"got needs {self.needs!r} for metric {self.name!r}; allowed: {', '.join(NEEDS)}"
            )
        wrong = [kind for kind in self.kinds if kind not in KINDS]
        if wrong or not self.kinds:
            raise InputError(
                f"got kinds {self.kinds!r} for metric {self.name!r}; allowed: one or more of "
                f"{', '.join(KINDS)}"
            )

    def compute(self, scores: Tensor, truth: Tensor, n_classes: int, *, logits: bool = True) -> Tensor:
        """The metric of m probes, float64 (m,) on the scores' device; NaN where a probe's scores hold NaN.

        Parameters
        ----------
        scores : float (m, c, n), probes by outputs by samples. `classes`: one output per class, or, of two
            classes, one output, above 0 for class 1. `labels`: one per label, above 0 for yes. `numbers`: the
            predicted values.
            Where `needs` is "predictions", integers are taken too: predicted classes (m, n) or labels
            (m, t, n).
        truth : int64 (n,), positions in the classes; 0 or 1, (n, t), of labels; float (n, t) of numbers.
        n_classes : classes of the target, whether or not the samples have them all; labels or columns, t.
        logits : whether softmax (for labels the logistic function) of the scores are probabilities. Of a
            ridge probe they are not: metrics of ranks take its scores as they are, those of probabilities
            raise InputError.
        """
        if self.probabilities and not logits:
            raise InputError(
                f"got metric {self.name!r} for a probe without probabilities; it is for logistic and sgd"
            )
        _check(self, scores, truth, n_classes)
        truth = truth.to(scores.device)
        size = max(1, STRIP // max(1, scores[0].numel())) if len(scores) else 1
        parts = [
            self.function(scores[at : at + size], truth, n_classes, logits)
            for at in range(0, len(scores), size)
        ]
        found = torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64, device=scores.device)
        if scores.is_floating_point():
            found[torch.isnan(scores).flatten(1).any(dim=1)] = torch.nan
        return found


def _check(metric: Metric, scores: Tensor, truth: Tensor, n_classes: int) -> None:
    """InputError where shapes do not fit: broadcasting would give numbers for them all the same."""
    plain = truth.dim() == 1  # classes
    kinds = ("classes",) if plain else ("labels", "numbers")
    outputs = (1, 2) if plain and n_classes == 2 else (n_classes,)
    if not set(kinds) & set(metric.kinds):
        raise InputError(
            f"got metric {metric.name!r} for a target of {' or '.join(kinds)}; it is for "
            f"{', '.join(metric.kinds)}"
        )
    predicted = not scores.is_floating_point()
    if predicted and metric.needs != "predictions":
        raise InputError(
            f"got predictions for metric {metric.name!r}, which needs scores; take a probe that has them"
        )
    flat = predicted and plain
    fits = scores.dim() == (2 if flat else 3) and scores.shape[-1] == len(truth) > 0
    if not fits or not (flat or scores.shape[1] in outputs):
        raise InputError(
            f"got scores {tuple(scores.shape)} for truth {tuple(truth.shape)} and {n_classes} classes or "
            f"columns; needed: (probes, outputs, samples)"
        )
