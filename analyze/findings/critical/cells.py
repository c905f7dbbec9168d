"""The cells of a search: every combination of what was given as lists, and one answer of theirs."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import xarray as xr

from probecache.store.errors import InputError


def cells_of(given: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Every combination of what was given, and the names of which a list was given."""
    lists = {n: isinstance(v, Iterable) and not isinstance(v, str) for n, v in given.items()}
    values = [list(dict.fromkeys(v)) if lists[n] else [v] for n, v in given.items()]
    for name, value in zip(given, values, strict=True):
        if not value:
            raise InputError(f"got an empty list for {name}; give at least one")
    cells = [dict(zip(given, cell, strict=True)) for cell in itertools.product(*values)]
    return cells, [name for name in given if lists[name]]


def combine(answers: list[xr.Dataset], cells: Sequence[Mapping[str, Any]], dims: Sequence[str]) -> xr.Dataset:
    """The cells' answers along `dims`, each a dimension of what was given as a list."""
    nested: Any = [
        answer.expand_dims({name: [str(cell[name]) if name == "shots" else cell[name]] for name in dims})
        for answer, cell in zip(answers, cells, strict=True)
    ]
    for name in dims[:0:-1]:  # the last dimension varies fastest
        count = len({cell[name] for cell in cells})
        nested = [nested[i : i + count] for i in range(0, len(nested), count)]
    return xr.combine_nested(nested, list(dims)) if dims else nested[0]
