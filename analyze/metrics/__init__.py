"""Metrics of probes: scores on the test samples to one number per probe.

Each equals scikit-learn's function of that name wherever that one gives a number; docs/metrics.md has the
definitions and what happens where scikit-learn warns or refuses. One file per family, behind `Metric`.
"""

import inspect
from collections.abc import Callable
from typing import Any

from probecache.analyze.metrics.accuracy import (
    ACCURACY,
    BALANCED_ACCURACY,
    EXACT_MATCH,
    MACRO_F1,
    TOP5_ACCURACY,
)
from probecache.analyze.metrics.calibration import ECE, LOG_LOSS
from probecache.analyze.metrics.metric import Metric
from probecache.analyze.metrics.own import OwnFunction
from probecache.analyze.metrics.ranking import AUROC, AVERAGE_PRECISION
from probecache.analyze.metrics.regression import MAE, R2, SPEARMAN
from probecache.store.errors import InputError, close_names

_OURS = (
    ACCURACY,
    BALANCED_ACCURACY,
    TOP5_ACCURACY,
    MACRO_F1,
    AUROC,
    AVERAGE_PRECISION,
    LOG_LOSS,
    ECE,
    EXACT_MATCH,
    R2,
    MAE,
    SPEARMAN,
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _OURS}
_NAMES = frozenset(METRICS)
# What a variable of RESULTS is called already.
_COORDINATES = "target layer selection shots fraction seed l2 class neuron sample label"
_VARIABLES = (
    "neurons n_neurons n_iter objective grad_norm converged seconds state chosen_l2 gap_bound "
    "class_accuracy permutation predictions scores truth group seal"
)
RESERVED = frozenset(f"{_COORDINATES} {_VARIABLES}".split())


def get_metric(name: "str | Metric") -> Metric:
    """The metric called `name`, ours or registered; a `Metric` comes back as it is. InputError if unknown."""
    if isinstance(name, Metric):
        return name
    if name not in METRICS:
        raise InputError(f"got metric {name!r}; {close_names(str(name), METRICS)}")
    return METRICS[name]


def register_metric(
    name: str,
    function: Callable[[Any, Any], float],
    *,
    needs: str = "predictions",
    kinds: tuple[str, ...] | str = ("classes",),
    higher_is_better: bool = True,
) -> Metric:
    """Register `function(truth, predictions) -> number` as a metric that sweeps take by its name.

    Functions of sklearn.metrics, and others with their signature, can be used as they are. The function is
    called once per probe, on numpy arrays. Registering the same name again replaces it.

    Parameters
    ----------
    name : str
        Name of the metric and of its variable in RESULTS: letters, digits and underscores.
    function : callable
        Takes truth, int64 (n,) positions in the classes (labels: 0 or 1, (n, t); numbers: float (n, t)), and
        predictions of that shape; with `needs="scores"` scores float (n, c), or (n,) for two classes.
    needs : str
        "predictions" (default) or "scores".
    kinds : str or tuple of str
        Kinds of targets that it is for: "classes" (default), "labels", "numbers".
    higher_is_better : bool
        False for losses.

    Returns
    -------
    Metric
        What was registered.

    Raises
    ------
    InputError
        If the name is taken or not a name, or anything else is not as above.

    Examples
    --------
    >>> from sklearn.metrics import cohen_kappa_score
    >>> pc.register_metric("kappa", cohen_kappa_score).name
    'kappa'
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise InputError(f"got metric name {name!r}; allowed: letters, digits and underscores")
    if name in _NAMES or name in RESERVED:
        raise InputError(f"got metric name {name!r}, which is taken; give another name")
    if not callable(function):
        raise InputError(f"got {type(function).__name__} for metric {name!r}; needed: a function")
    which = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    made = Metric(name, OwnFunction(name, function, needs), needs, which, higher_is_better)
    _require_two(name, function)
    METRICS[name] = made
    return METRICS[name]


def _require_two(name: str, function: Callable[..., Any]) -> None:
    """InputError, before any probe is fitted, for a function that does not take (truth, predictions)."""
    try:
        taken = inspect.signature(function)
    except (TypeError, ValueError):
        return  # builtins and some classes do not say
    try:
        taken.bind(None, None)
    except TypeError as error:
        raise InputError(
            f"got a function {taken} for metric {name!r} ({error}); needed: function(truth, predictions)"
        ) from None
