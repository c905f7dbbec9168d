"""A metric from a user's own function, in scikit-learn's signature: one probe at a time, on numpy arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probecache.analyze.metrics.scores import margin, predicted, predicted_labels
from probecache.store.errors import InputError, first_line


@dataclass(frozen=True)
class OwnFunction:
    """`function(truth, predictions or scores) -> number` as the function of a `Metric`; pickles with it."""

    name: str
    function: Callable[[Any, Any], float]
    needs: str

    def __call__(self, scores: Tensor, truth: Tensor, n_classes: int, logits: bool) -> Tensor:
        if self.needs == "predictions" and not truth.is_floating_point():
            scores = predicted(scores) if truth.dim() == 1 else predicted_labels(scores).to(truth.dtype)
        elif truth.dim() == 1 and n_classes == 2:
            scores = margin(scores)
        # copies: a function that sorts in place would spoil the truth of every probe that follows
        wanted = truth.cpu().numpy()
        found = [self._of(wanted.copy(), one.cpu().numpy().copy()) for one in scores]
        return torch.tensor(found, dtype=torch.float64, device=scores.device)

    def _of(self, truth: np.ndarray, values: np.ndarray) -> float:
        try:
            found = self.function(truth, values.T)  # samples first
        except Exception as error:
            raise InputError(
                f"metric {self.name!r} failed: {type(error).__name__}: {first_line(error)}"
            ) from error
        try:
            return float(found)
        except (TypeError, ValueError):
            raise InputError(
                f"metric {self.name!r} gave {type(found).__name__} {found!r:.60}; it must give one number"
            ) from None
