"""What a user's own probes and metrics are, in a text each: RESULTS of others are not gone on with.

A name says nothing of them: the same script, with another width in it, registers another probe under it.
"""

import functools
import inspect
import re
import sys
from contextlib import suppress
from hashlib import blake2b
from types import CodeType
from typing import Any

from probecache.analyze.metrics import get_metric
from probecache.analyze.metrics.own import OwnFunction
from probecache.analyze.probes.kinds.estimator import EstimatorKind
from probecache.analyze.sweeps.plan import SweepPlan

MOST = 200  # characters of a text that are kept as they are
_PLACE = re.compile(r" at 0x[0-9a-fA-F]+")  # of an object in memory, another in each process


def own_parts(plan: SweepPlan) -> dict[str, str]:
    """By "probe:NAME" and "metric:NAME": the estimator with its settings, the function's code.

    What cannot be told is left out. Code is that of one version of Python: another's is not compared.
    """
    found: dict[str, str] = {}
    if isinstance(plan.kind, EstimatorKind) and (text := _estimator(plan.kind)):
        found[f"probe:{plan.probe}"] = text
    for name in plan.metric:
        function = get_metric(name).function
        if isinstance(function, OwnFunction):
            version = f"python {sys.version_info.major}.{sys.version_info.minor}"
            found[f"metric:{name} ({version})"] = _function(function.function)
    return found


@functools.lru_cache(maxsize=64)
def _estimator(kind: EstimatorKind) -> str:
    """What `make` gives; an empty text where it fails here, or gives another thing each time."""
    try:
        first, again = (_shown(kind.make(1.0, 0)) for _ in range(2))
    except Exception:  # told where it is fitted
        return ""
    return first if first == again else ""


def _shown(model: Any) -> str:
    from sklearn import config_context
    from sklearn.base import BaseEstimator

    if isinstance(model, BaseEstimator):
        with config_context(print_changed_only=True):
            text = BaseEstimator.__repr__(model, N_CHAR_MAX=10**9)
    else:
        text = f"{type(model).__qualname__}({_value(getattr(model, '__dict__', {}))})"
    text = " ".join(_PLACE.sub("", text).split())
    return text if len(text) <= MOST else f"{text[:MOST]}... {_hash(text)}"


def _function(function: Any) -> str:
    """Name and digest of a function's code, its defaults and what it closes over; of a library's the name."""
    if isinstance(function, functools.partial):
        return f"{_function(function.func)} {_hash(_value((function.args, function.keywords)))}"
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if code is None or "site-packages" in code.co_filename:
        return f"{getattr(function, '__module__', '')}.{name}"
    kept = (getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None))
    own = {} if inspect.isfunction(function) else getattr(function, "__dict__", {})
    return f"{name} {_hash(_code(code) + _value((kept, _closed_over(function), own)))}"


def _closed_over(function: Any) -> list[Any]:
    """What the function closes over, but for names that have no value yet."""
    found = []
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):
            found.append(cell.cell_contents)
    return found


def _code(code: CodeType) -> str:
    return repr((code.co_code, code.co_names)) + _value(code.co_consts)


def _value(value: Any) -> str:
    """`repr`, without places in memory; of sets, which have another order in each process, sorted."""
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_value, value)))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{_value(key)}: {_value(held)}' for key, held in value.items()))}}}"
    return _PLACE.sub("", repr(value))


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
