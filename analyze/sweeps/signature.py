"""Functions that take the fields of a plan as keywords, with a signature that says which."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, cast

from probecache.analyze.sweeps.plan import SweepPlan, check_names

Function = TypeVar("Function", bound=Callable[..., Any])


def show_plan(function: Function) -> Function:
    """`function(..., **plan)`, whose signature in help() and for completion names each field of `SweepPlan`
    that it does not name itself, with its default as a caller may write it. InputError for other names.
    """
    signature = inspect.signature(function)
    given = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    known = {p.name for p in given}
    shown = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=_written(field.name, field.default)
        )
        for field in fields(SweepPlan)
        if field.name not in known and field.default is not MISSING
    ]
    names = known | {p.name for p in shown}

    @functools.wraps(function)
    def checked(*args: Any, **asked: Any) -> Any:
        check_names(
            asked, names, f"{function.__name__}()"
        )  # else Python misses `layer` where `layers` is given
        return function(*args, **asked)

    checked.__signature__ = signature.replace(parameters=[*given, *shown])  # type: ignore[attr-defined]
    return cast(Function, checked)


def _written(name: str, default: Any) -> Any:
    """One value for a list of one, and a count for seeds from 0 on."""
    if name == "seeds":
        return len(default)
    return default[0] if isinstance(default, tuple) and len(default) == 1 else default
