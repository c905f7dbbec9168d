"""A scikit-learn estimator as a kind of probe: one fit for each subset, on its standardised columns."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probecache.analyze.probes.design.probe_order import ProbeOrder
from probecache.analyze.probes.kind import Fitted, ProbeRequest
from probecache.analyze.probes.shared_state import SharedState
from probecache.analyze.tasks.size import LayerSize
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError

TARGETS = ("classes", "numbers")


@dataclass(frozen=True)
class EstimatorKind:
    """`make(l2, seed)` gives an unfitted estimator with `fit`, and `decision_function`, `predict_proba` or
    `predict`. See `register_probe`."""

    name: str
    make: Callable[[float, int], Any]
    has_l2: bool = True
    targets: tuple[str, ...] = ("classes",)
    takes_weights = False
    from_disk = False
    solvers = ("torch",)
    l2_choice = ""
    probabilities = False
    counts = "what the estimator says (n_iter_)"

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise InputError(f"got a probe called {self.name!r}; allowed: letters, digits and underscores")
        if not callable(self.make):
            raise InputError(f"got make={self.make!r} for probe {self.name!r}; needed: make(l2, seed)")
        object.__setattr__(self, "targets", tuple(self.targets))
        if not self.targets or set(self.targets) - set(TARGETS):
            raise InputError(f"got targets {self.targets} for probe {self.name!r}; allowed: {TARGETS}")

    def orders_per_batch(self, shared: SharedState, request: ProbeRequest) -> int:
        return 1

    def fit(
        self, shared: SharedState, orders: list[np.ndarray], probes: ProbeOrder, request: ProbeRequest
    ) -> Fitted:
        task = shared.task
        rows = [np.asarray(matrix, np.float32) for matrix in (task.train, task.test)]
        if shared.standardize:
            rows = [(matrix - task.mean) / task.scale for matrix in rows]
        seeds = {order.tobytes(): seed for order, seed in zip(request.orders, request.seeds, strict=True)}
        wanted = task.train_labels if task.classes else task.train_labels + task.offset
        outputs = len(task.classes) or int(np.prod(task.train_labels.shape[1:]))
        scores = torch.empty(len(probes), outputs, len(rows[1]), device=shared.device)
        n_iter, converged = torch.full((len(probes),), -1), torch.ones(len(probes), dtype=torch.bool)
        for at, (group, size, l2) in enumerate(zip(probes.group, probes.size, probes.l2, strict=True)):
            columns = orders[group][:size]
            model = self.make(float(l2), int(seeds.get(orders[group].tobytes(), 0)))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.fit(rows[0][:, columns], wanted)
            converged[at] = not any("Converge" in w.category.__name__ for w in caught)
            n_iter[at] = int(np.max(getattr(model, "n_iter_", -1)))
            scores[at] = torch.from_numpy(_scores(model, rows[1][:, columns], task))
        nothing = torch.full((len(probes),), torch.nan, dtype=torch.float64)
        return Fitted(nothing, nothing, n_iter, converged, scores=scores)

    def flops(self, size: LayerSize, ks: np.ndarray, penalties: int) -> float:
        """A guess, since it is not ours: 200 passes over the columns."""
        return penalties * 200 * 4.0 * size.train * float(ks.sum()) * max(1, size.classes)

    def shared_flops(self, size: LayerSize, penalties: int) -> float:
        return 0.0

    def memory(self, size: LayerSize, fractions: int, l2s: int) -> int:
        return 3 * size.loaded + 4 * fractions * l2s * size.classes * size.test


def _scores(model: Any, x: np.ndarray, task: Task) -> np.ndarray:
    """float32 (outputs, n): decision values, log probabilities, or the predictions themselves; numbers less
    the task's offset."""
    classes = task.classes
    if not classes:  # numbers
        found = np.asarray(model.predict(x), np.float64).reshape(len(x), -1) - task.offset
        return found.astype(np.float32).T
    if hasattr(model, "decision_function"):
        values = np.asarray(model.decision_function(x), np.float32)
    elif hasattr(model, "predict_proba"):
        values = np.log(np.maximum(np.asarray(model.predict_proba(x), np.float64), 1e-30)).astype(np.float32)
    else:
        values = np.eye(len(classes), dtype=np.float32)[np.asarray(model.predict(x), np.int64)]
    if values.ndim == 1:  # two classes: the second one's
        values = np.stack([-values / 2, values / 2], axis=1)
    if values.shape != (len(x), len(classes)):
        raise InputError(
            f"got scores of shape {values.shape} from {type(model).__name__}; needed: "
            f"({len(x)}, {len(classes)}), one column per class"
        )
    return values.T
