"""Functions that take the fields of a plan as keywords, with a signature that says which."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from probecache.analyze.sweeps.plan import SweepPlan

Function = TypeVar("Function", bound=Callable[..., Any])


def show_plan(function: Function) -> Function:
    """`function(..., **plan)`, whose signature in help() and for completion names each field of `SweepPlan`
    that it does not name itself, with its default as a caller may write it.
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
    function.__signature__ = signature.replace(parameters=[*given, *shown])  # type: ignore[attr-defined]
    return function


def _written(name: str, default: Any) -> Any:
    """One value for a list of one, and a count for seeds from 0 on."""
    if name == "seeds":
        return len(default)
    return default[0] if isinstance(default, tuple) and len(default) == 1 else default
