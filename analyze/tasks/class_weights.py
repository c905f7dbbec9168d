"""Class weights: how much a training sample counts in the objective, by its class."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError, close_names

ClassWeight = str | Mapping[str, float] | None


def weigh_classes(task: Task, class_weight: ClassWeight) -> Task:
    """The task with each training sample's weight multiplied by its class's.

    class_weight: None; 'balanced', n / (classes * n_class), so that every class counts the same; or a mapping
    of class names to weights above 0, 1 for those that are not named. Counts are of samples, as in
    scikit-learn. Raises InputError for an unknown class, a weight that is no weight, or regression targets.
    """
    if class_weight is None:
        return task
    if task.is_regression:
        raise InputError("got class weights for real-valued targets; use sample weights")
    counts = np.bincount(task.train_labels, minlength=len(task.classes))
    if isinstance(class_weight, str):
        check_class_weight(class_weight)
        factors = counts.sum() / (len(counts) * counts)
    else:
        named = {str(name): float(weight) for name, weight in class_weight.items()}
        check_named(check_class_weight(class_weight), task.classes)
        factors = np.array([named.get(name, 1.0) for name in task.classes])
    weights = np.ones(len(task.train_labels)) if task.weights is None else task.weights
    return replace(task, weights=weights * factors[task.train_labels])


def check_named(class_weight: ClassWeight | tuple[tuple[str, float], ...], classes: tuple[str, ...]) -> None:
    """InputError where a class that has a weight is none of `classes`."""
    for name, _ in class_weight if isinstance(class_weight, tuple) else ():
        if name not in classes:
            raise InputError(f"got a weight for class {name!r}; {close_names(name, classes)}")


def check_class_weight(class_weight: ClassWeight) -> str | tuple[tuple[str, float], ...] | None:
    """'balanced', or (class, weight) pairs in the order of the names; InputError for anything else."""
    if class_weight is None or class_weight == "balanced":
        return class_weight
    pairs = class_weight.items() if isinstance(class_weight, Mapping) else class_weight
    try:
        named = {str(name): float(weight) for name, weight in pairs}  # type: ignore[str-unpack]
        good = all(np.isfinite(weight) and weight > 0 for weight in named.values()) and bool(named)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(
            f"got class_weight {class_weight!r}; allowed: 'balanced', or class names with weights above 0; "
            "to fit without a class, use a train split without its rows"
        )
    return tuple(sorted(named.items()))
