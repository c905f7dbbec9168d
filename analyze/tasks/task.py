"""A probe task: the train and test matrices of one layer, with labels, checked before any work starts."""

from copy import copy
from dataclasses import dataclass

import numpy as np

from probecache.analyze.tasks.labels import check_size
from probecache.analyze.tasks.matrix import Matrix, StoredRows, column_moments, require_finite
from probecache.store.errors import InputError


@dataclass(frozen=True)
class Task:
    """Train and test features of one layer. Arrays are raw; `mean` and `scale` standardise where asked.

    train, test: float32 (n, d) arrays, or `StoredRows` where they stay on disk.
    train_labels, test_labels: int64 (n,), positions in `classes`; int64 (n, t), 0 or 1 for each of t labels,
    named by `classes`; or float (n,) or (n, t), targets of a regression, with `classes` empty: of those the
    training rows' means are taken off and kept in `offset`, float64 () or (t,), as float32 products of
    numbers that are large beside their spread (a year, a time stamp) would lose what they differ by.
    mean, scale: float32 (d,), the training rows' mean and population standard deviation; 1 where constant.
    weights: float64 (n,) >= 0 per training sample, their total above 0 for every class; None: equal weights.
    Raises InputError for anything that a probe could not be fitted on.
    """

    train: Matrix
    train_labels: np.ndarray
    test: Matrix
    test_labels: np.ndarray
    classes: tuple[str, ...] = ()
    layer: str = "features"
    mean: np.ndarray = None  # type: ignore[assignment]
    scale: np.ndarray = None  # type: ignore[assignment]
    weights: np.ndarray | None = None
    offset: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            matrix, labels = getattr(self, name), np.asarray(getattr(self, name + "_labels"))
            if not isinstance(matrix, StoredRows):
                matrix = np.ascontiguousarray(matrix, dtype=np.float32)
                if matrix.ndim != 2:
                    raise InputError(f"got {name} of shape {matrix.shape}; it must be (samples, neurons)")
                require_finite(matrix, name)
            regression = labels.dtype.kind == "f"
            labels = labels.astype(np.float64 if regression else np.int64)
            if labels.shape[:1] != matrix.shape[:1] or labels.ndim > 2:
                raise InputError(
                    f"got {name} labels {labels.shape} for {matrix.shape[0]} {name} samples; needed: one each"
                )
            object.__setattr__(self, name, matrix)
            object.__setattr__(self, name + "_labels", labels)
        if self.train.shape[1] != self.test.shape[1]:
            raise InputError(f"got {self.train.shape[1]} neurons in train and {self.test.shape[1]} in test")
        if 0 in self.train.shape or 0 in self.test.shape:
            raise InputError(f"got train {self.train.shape} and test {self.test.shape}; neither may be empty")
        self._check_targets()
        if self.weights is not None:
            object.__setattr__(self, "weights", np.asarray(self.weights, dtype=np.float64))
            self._check_weights(self.weights)
        if self.mean is None or self.scale is None:
            mean, scale = column_moments(self.train)
            object.__setattr__(self, "mean", mean)
            object.__setattr__(self, "scale", scale)

    def relabelled(self, train: np.ndarray, test: np.ndarray, classes: tuple[str, ...]) -> "Task":
        """The task with other labels for the same rows, which are neither copied nor checked again."""
        made = copy(self)
        for name, value in (
            ("train_labels", train),
            ("test_labels", test),
            ("classes", classes),
            ("offset", None),
        ):
            object.__setattr__(made, name, value)
        made._check_targets()
        return made

    def _check_targets(self) -> None:
        if self.is_regression:
            for labels in (self.train_labels, self.test_labels):
                if not np.isfinite(labels).all():
                    raise InputError("got NaN or infinite regression targets; drop those rows first")
            if self.train_labels.shape[1:] != self.test_labels.shape[1:]:
                raise InputError("got different numbers of targets in train and test")
            self._centre()
            return
        if self.target_kind == "labels":
            self._check_several()
            return
        if not self.classes:
            names = tuple(str(i) for i in range(int(self.train_labels.max(initial=-1)) + 1))
            object.__setattr__(self, "classes", names)
        count = len(self.classes)
        present = np.unique(self.train_labels)
        if present.size < 2:
            raise InputError(f"got only one class in train, {self.classes[0]!r}; a probe needs two")
        for name in ("train", "test"):
            labels = getattr(self, name + "_labels")
            if labels.min() < 0 or labels.max() >= count:
                bad = labels[(labels < 0) | (labels >= count)][0]
                raise InputError(f"got {name} label {bad}; the training classes are 0 to {count - 1}")
        if present.size < count:
            missing = sorted(set(range(count)) - set(present.tolist()))
            raise InputError(f"got no train sample of class {self.classes[missing[0]]!r}; leave it out")

    def _centre(self) -> None:
        """Numbers less their means over the training rows; those of a task made from this one stay as they
        are."""
        if self.offset is None:
            offset = np.asarray(self.train_labels, np.float64).mean(axis=0)
            check_size(self.train_labels, "got numbers to predict")
            object.__setattr__(self, "train_labels", self.train_labels - offset)
            object.__setattr__(self, "test_labels", self.test_labels - offset)
            object.__setattr__(self, "offset", np.asarray(offset))

    def _check_several(self) -> None:
        """Several labels of a sample: 0 or 1, each of them both in train."""
        count = self.train_labels.shape[1]
        if not self.classes:
            object.__setattr__(self, "classes", tuple(str(i) for i in range(count)))
        if self.test_labels.shape[1:] != (count,) or len(self.classes) != count or not count:
            raise InputError(
                f"got {self.test_labels.shape[1:]} labels in test and {count} in train; needed: as many"
            )
        for name in ("train", "test"):
            wrong = getattr(self, name + "_labels")
            wrong = wrong[(wrong != 0) & (wrong != 1)]
            if wrong.size:
                raise InputError(f"got {name} label {wrong[0]} among several labels; allowed: 0 or 1")
        constant = np.flatnonzero(self.train_labels.min(axis=0) == self.train_labels.max(axis=0))
        if constant.size:
            name, value = self.classes[constant[0]], self.train_labels[0, constant[0]]
            raise InputError(
                f"got label {name!r} that is {value} for every training row; a probe needs both: leave it out"
            )

    def _check_weights(self, weights: np.ndarray) -> None:
        if weights.shape != self.train.shape[:1] or not (np.isfinite(weights) & (weights >= 0)).all():
            raise InputError(f"got sample weights {weights.shape}; needed: one per train sample, >= 0")
        if not weights.any():
            raise InputError("got sample weights that are all zero; at least one must be above 0")
        if self.target_kind != "classes":
            return
        without = np.flatnonzero(np.bincount(self.train_labels, weights, len(self.classes)) == 0)
        if without.size:
            raise InputError(
                f"got total sample weight 0 for class {self.classes[without[0]]!r}; allowed: above 0 for "
                "every class; raise its class weight or its samples' weights, or leave its rows out"
            )

    @property
    def target_kind(self) -> str:
        """What the labels are: "classes", several "labels" of a sample, or "numbers"."""
        if self.train_labels.dtype.kind == "f":
            return "numbers"
        return "classes" if self.train_labels.ndim == 1 else "labels"

    @property
    def is_regression(self) -> bool:
        return self.target_kind == "numbers"

    @property
    def n_outputs(self) -> int:
        """Weight vectors per probe: one for two classes, else one per class, label or number."""
        if self.target_kind == "classes":
            return 1 if len(self.classes) == 2 else len(self.classes)
        return 1 if self.train_labels.ndim == 1 else self.train_labels.shape[1]

    @property
    def n_neurons(self) -> int:
        return self.train.shape[1]


def rotate(task: Task, basis: np.ndarray) -> Task:
    """The task in rotated columns: standardised features times `basis`, float (d, r).

    Principal components and random projections become prefix problems: k components are the first k columns.
    The rotated columns are standardised again by their own training moments where a probe asks for it.
    """
    if isinstance(task.train, StoredRows) or isinstance(task.test, StoredRows):
        raise InputError(
            "got a layer that stays on disk; rotated columns need it in memory: raise memory_limit"
        )
    if basis.ndim != 2 or basis.shape[0] != task.n_neurons:
        raise InputError(f"got a basis of shape {basis.shape}; needed: ({task.n_neurons}, components)")
    basis = (basis / task.scale[:, None]).astype(np.float32)  # (d, r)
    train, test = ((matrix - task.mean) @ basis for matrix in (task.train, task.test))
    return Task(
        train,
        task.train_labels,
        test,
        task.test_labels,
        task.classes,
        task.layer,
        weights=task.weights,
        offset=task.offset,
    )
