"""Whether an option from Python is of the kind that its field says: text for numbers decides nothing here.

What means the same is taken: numpy's and torch's numbers, arrays and dtypes, a `torch.device`, a member of an
enum of texts, a number for a layer. 'no' is not False, and 2.5 is no count.
"""

import enum
import types
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import torch

from probecache.store.errors import InputError

_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}


def plain(value: Any) -> Any:
    """`value` without the types of numpy, torch and enum, where there is such a one.

    >>> plain(np.float32(0.5)), plain(torch.tensor([1, 2])), plain(torch.device("cpu"))
    (0.5, [1, 2], 'cpu')
    """
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if isinstance(value, enum.Enum) and isinstance(value.value, str):
        return value.value
    return value


def require_kind(name: str, value: Any, kind: Any) -> None:
    """InputError unless `value` is what the annotation `kind` of option `name` says."""
    if not _fits(value, kind):
        raise InputError(f"--{name.replace('_', '-')} got {value!r:.80}; allowed: {_described(kind)}")


def _fits(value: Any, kind: Any) -> bool:
    parts = get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is types.NoneType:
        return value is None
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if get_origin(kind) is Mapping:
        return isinstance(value, Mapping)
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    return isinstance(value, kind)


def _described(kind: Any) -> str:
    parts = [part for part in get_args(kind) if part is not types.NoneType]
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_described, parts))
    if get_origin(kind) is tuple:
        one = _described(parts[0])
        return f"{one}, or a list of such" if parts[-1] is Ellipsis else f"{len(parts)} times {one}"
    if get_origin(kind) is Mapping:
        return "a mapping of names to values"
    return _WORDS[kind]
