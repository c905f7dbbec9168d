"""A scikit-learn estimator as a kind of probe: one fit for each subset, on its standardised columns."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True, eq=False)  # `make` may be an object that has no hash
class EstimatorKind:
    """`make(l2, seed)` gives an unfitted estimator with `fit`, and `predict`, `predict_proba` or
    `decision_function`. See `register_probe`."""

    name: str
    make: Callable[[float, int], Any]
    has_l2: bool = True
    targets: tuple[str, ...] = ("classes",)
    takes_weights = False
    draws = True
    from_disk = False
    solvers = ("torch",)
    l2_choice = ""
    counts = "what the estimator says (n_iter_)"

    @cached_property
    def probabilities(self) -> bool:
        """Whether the estimators say how probable each class is."""
        try:
            return hasattr(self.make(1.0, 0), "predict_proba")
        except Exception:  # told where it is fitted
            return False

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
        wanted = task.train_labels if task.classes else task.train_labels + task.offset
        if not task.classes and wanted.shape[1:] == (1,):
            wanted = wanted[:, 0]  # some estimators take no column
        outputs = len(task.classes) or int(np.prod(task.train_labels.shape[1:]))
        scores = torch.empty(len(probes), outputs, len(rows[1]), device=shared.device)
        guesses = torch.empty(len(probes), len(rows[1]), dtype=torch.int64, device=shared.device)
        n_iter, converged = torch.full((len(probes),), -1), torch.ones(len(probes), dtype=torch.bool)
        for at, (group, size, l2) in enumerate(zip(probes.group, probes.size, probes.l2, strict=True)):
            columns = orders[group][:size]
            model = self.make(float(l2), int(request.seeds[group]))
            if isinstance(model, type) or not hasattr(model, "fit"):
                raise InputError(
                    f"got {model!r:.80} from make(l2, seed) of {self.name!r}; needed: an estimator"
                )
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.fit(rows[0][:, columns], wanted.copy())  # of its own, should it write to it
            converged[at] = not any("Converge" in w.category.__name__ for w in caught)
            steps = getattr(model, "n_iter_", None)  # None too of those that solve in one step
            n_iter[at] = -1 if steps is None else int(np.max(steps))
            scores[at] = torch.from_numpy(_scores(model, rows[1][:, columns], task))
            if task.classes:
                guesses[at] = torch.from_numpy(_classes(model, rows[1][:, columns], scores[at]))
        nothing = torch.full((len(probes),), torch.nan, dtype=torch.float64)
        picked = guesses if task.classes else None
        return Fitted(nothing, nothing, n_iter, converged, scores=scores, predictions=picked)

    def flops(self, size: LayerSize, ks: np.ndarray, penalties: int) -> float:
        """A guess, since it is not ours: 200 passes over the columns."""
        return penalties * 200 * 4.0 * size.train * float(ks.sum()) * max(1, size.classes)

    def shared_flops(self, size: LayerSize, penalties: int) -> float:
        return 0.0

    def memory(self, size: LayerSize, fractions: int, l2s: int) -> int:
        return 3 * size.loaded + 4 * fractions * l2s * size.classes * size.test


def _scores(model: Any, x: np.ndarray, task: Task) -> np.ndarray:
    """float32 (outputs, n): log probabilities, decision values, or the predictions themselves; numbers less
    the task's offset."""
    count = len(task.classes)
    if not count:  # numbers
        found = np.asarray(model.predict(x), np.float64)
        wanted = task.test_labels.shape[1:]
        if found.shape[:1] != (len(x),) or found.shape[1:] not in (wanted, () if wanted == (1,) else wanted):
            raise InputError(
                f"got predictions of shape {found.shape} from {type(model).__name__}; needed: "
                f"{(len(x), *wanted)}"
            )
        return _numbers(model, found.reshape(len(x), -1) - task.offset).T
    if hasattr(model, "predict_proba"):
        values = np.log(np.maximum(np.asarray(model.predict_proba(x), np.float64), 1e-30))
    elif hasattr(model, "decision_function"):
        _check_columns(model, count)
        values = np.asarray(model.decision_function(x))
    else:
        values = np.eye(count)[_checked(model, model.predict(x), len(x), count)]
    if values.ndim == 1:  # two classes: the second one's
        values = np.stack([-values / 2, values / 2], axis=1)
    if values.shape != (len(x), count):
        raise InputError(
            f"got scores of shape {values.shape} from {type(model).__name__}; needed: "
            f"({len(x)}, {count}), one column per class"
        )
    return _numbers(model, values).T


def _classes(model: Any, x: np.ndarray, scores: torch.Tensor) -> np.ndarray:
    """What the estimator predicts, int64 (n,): its own word, as thresholds are tuned and votes counted."""
    if not hasattr(model, "predict"):
        return scores.argmax(dim=0).numpy()
    return _checked(model, model.predict(x), len(x), len(scores))


def _checked(model: Any, found: Any, n: int, count: int) -> np.ndarray:
    """Predicted classes int64 (n,); InputError for anything else, which would be read as some class."""
    values = np.asarray(found)
    good = values.shape == (n,) and values.dtype.kind in "iubf" and bool((values == np.rint(values)).all())
    if not good or values.min() < 0 or values.max() >= count:
        odd = f", {values.ravel()[0]!s:.40} the first" if values.size else ""
        raise InputError(
            f"got predictions {values.dtype} {values.shape}{odd} from {type(model).__name__}; needed: "
            f"({n},), whole numbers from 0 to {count - 1}"
        )
    return values.astype(np.int64)


def _check_columns(model: Any, count: int) -> None:
    """InputError where decision values are of pairs of classes: of three classes there are three pairs."""
    settings = model.get_params() if hasattr(model, "get_params") else {}
    for name, value in settings.items():
        if name.endswith("decision_function_shape") and value == "ovo" and count > 2:
            raise InputError(f"got {name}='ovo' of {type(model).__name__}; allowed: 'ovr', a score per class")


def _numbers(model: Any, values: np.ndarray) -> np.ndarray:
    """As float32; InputError for NaN, which is no score of any class."""
    if np.isnan(values).any():
        rows = int(np.isnan(values).any(axis=1).sum())
        raise InputError(f"got NaN from {type(model).__name__} for {rows} of {len(values)} test samples")
    return values.astype(np.float32)
