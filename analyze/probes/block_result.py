"""What a block of probes comes back as: arrays over orders, sizes and penalties, and how parts are joined."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np


@dataclass
class BlockResult:
    """Arrays of shape (s, f, p): orders, sizes, l2s. NaN where a value has no meaning for the probe.

    accuracy: share of test samples that are right (of labels, where there are several; NaN for numbers).
    objective, grad_norm: at the returned weights, float64. n_iter: evaluations of the objective.
    seconds: the wall time of the probe's batch divided by its probes.
    class_accuracy: (s, f, p, c). metrics: (s, f, p) each. coef: float32 (s, f, p, c, d') in the order's
    columns and standardised units, and intercept (s, f, p, c), where asked for; predictions: int32
    (s, f, p, n_test[, t]) and scores: float32 (s, f, p, c, n_test), likewise.
    """

    accuracy: np.ndarray
    objective: np.ndarray
    grad_norm: np.ndarray
    n_iter: np.ndarray
    converged: np.ndarray
    seconds: np.ndarray
    class_accuracy: np.ndarray
    coef: np.ndarray | None = None
    intercept: np.ndarray | None = None
    predictions: np.ndarray | None = None
    scores: np.ndarray | None = None
    metrics: dict[str, np.ndarray] = field(default_factory=dict)
    attrs: dict[str, str | int | float | bool] = field(default_factory=dict)

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], attrs: dict[str, Any]) -> Self:
        """From arrays by name: those that are no field are metrics."""
        known = {f.name for f in fields(cls)}
        own = {name: values for name, values in arrays.items() if name in known}
        metrics = {name: values for name, values in arrays.items() if name not in known}
        return cls(**own, metrics=metrics, attrs=attrs)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, metrics among them."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("metrics", "attrs")}
        return {name: values for name, values in own.items() if values is not None} | self.metrics

    def for_every_l2(self, count: int) -> Self:
        """The result of one penalty as that of `count`, of a kind that none of them changes."""
        whole = {name: np.repeat(values, count, axis=2) for name, values in self.arrays.items()}
        return self.of(whole | {"seconds": whole["seconds"] / count}, self.attrs)

    @property
    def score(self) -> np.ndarray:
        """What penalties are chosen by: R^2 where targets are numbers, else accuracy. (s, f, p)."""
        return self.metrics["r2"] if "r2" in self.metrics and np.isnan(self.accuracy).all() else self.accuracy

    @classmethod
    def assemble(cls, shape: tuple[int, ...], parts: Iterable[tuple[Any, "BlockResult"]]) -> "BlockResult":
        """One result from parts, (index, part). shape: the leading lengths that the indices point into."""
        whole: dict[str, np.ndarray] = {}
        attrs: dict[str, Any] = {}
        for index, part in parts:
            attrs = part.attrs
            for name, values in part.arrays.items():
                if name not in whole:
                    whole[name] = np.empty((*shape, *values.shape[len(shape) :]), values.dtype)
                whole[name][index] = values
        return cls.of(whole, attrs)
