"""Open RESULTS as an xarray Dataset whose every value has been checked, or is when it is read."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from probecache.analyze.probes.registry import known_claims
from probecache.analyze.results import chunks
from probecache.analyze.results.check import (
    DONE,
    Checked,
    Damage,
    bad_orders,
    bad_rows,
    check,
    describe,
    version_of,
)
from probecache.analyze.results.chunks import Array
from probecache.analyze.results.grid import ORDERS, SEAL, Grid, Variable
from probecache.analyze.results.layout import fixed_arrays, texts_of
from probecache.analyze.sweeps.plan import DIMS
from probecache.store.errors import DamagedStore, ProbecacheError
from probecache.store.storage.files import Files, open_files

BOUND = "gap_bound"  # not stored: it follows from what is
MEND = "run the same sweep again: it computes exactly what is damaged (`probecache verify` lists it)"


def read_sweep(path: str | Path) -> xr.Dataset:
    """RESULTS of a sweep: scores and coordinates in memory, rows of values read and checked when used.

    Raises InputError where the path holds no RESULTS, DamagedStore, with the coordinates, where they are not
    what was written; a row that is damaged raises it when it is read.
    """
    found = check(path)
    refuse(path, found.damages)
    return dataset(path, found)


def _refuse_other(path: str | Path, grid: Grid) -> None:
    """ProbecacheError where RESULTS at `path` lie on another grid than when they were opened."""
    if version_of(path) == () or check(path).grid != grid:
        raise ProbecacheError(f"{path} has been replaced or has grown since it was opened: open it again")


def refuse(path: str | Path, damages: Sequence[Damage]) -> None:
    """DamagedStore that names the first damage, where there is one."""
    if damages:
        more = f" and {len(damages) - 1} more" if len(damages) > 1 else ""
        raise DamagedStore(f"{path} is damaged: {damages[0]}{more}; {MEND}")


def dataset(path: str | Path, found: Checked) -> xr.Dataset:
    """What was checked, with the large variables lazy."""
    grid, files = found.grid, open_files(str(path))
    variables: dict[str, Any] = {}
    for name, (values, dims, about) in fixed_arrays(grid).items():
        if not name.endswith(SEAL):
            data = np.array(texts_of(grid, name), np.dtypes.StringDType()) if values is None else values
            variables[name] = xr.Variable(dims, data, {"long_name": about} if about else {})
    for variable in grid.scalars:
        if not variable.name.endswith(("seal", SEAL)):
            data = found.values[variable.name]
            variables[variable.name] = xr.Variable(variable.dims, data, {"long_name": variable.about})
    for variable in (*grid.wide, ORDERS):
        lazy = indexing.LazilyIndexedArray(CheckedArray(path, files, found, variable))
        variables[variable.name] = xr.Variable(variable.dims, lazy, {"long_name": variable.about})
    if known_claims(str(found.attributes.get("probe")), "strongly_convex"):
        variables[BOUND] = _bound(grid, found)
    further = {"class": grid.classes, "sample": grid.samples, "group": grid.groups}
    coordinates = {*DIMS, *(name for name, values in further.items() if values)}
    attributes = {name: value for name, value in found.attributes.items() if name != "results"}
    opened = xr.Dataset(variables, attrs=attributes).set_coords(sorted(coordinates))
    for dim in ("fraction", "l2"):  # RESULTS that have grown by them hold new ones behind the others
        coordinate = getattr(grid, dim)
        if list(coordinate) != sorted(coordinate):
            opened = opened.isel({dim: np.argsort(np.array(coordinate))})
    return opened


def _bound(grid: Grid, found: Checked) -> xr.Variable:
    """What gradient and penalty prove of a probe's gap; NaN where nothing is penalised.

    The objective is l2-strongly convex in the weights: f(W) - min f <= ||g||^2 / (2 l2).
    """
    chosen = found.values.get("chosen_l2")
    l2 = np.array(grid.l2, float) if chosen is None else chosen
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = found.values["grad_norm"] ** 2 / (2 * l2 * found.values["objective"])
    about = "the objective is at most this share above its minimum, once the intercepts are at their best"
    return xr.Variable(DIMS, np.where(np.isfinite(bound), bound, np.nan), {"long_name": about})


class CheckedArray(BackendArray):
    """A large variable of RESULTS: chunks are read, and each row compared with its seal, as they are used."""

    def __init__(self, path: str | Path, files: Files, found: Checked, variable: Variable) -> None:
        self.path, self.files, self.grid, self.variable = path, files, found.grid, variable
        self.shape = found.grid.shape_of(variable)
        self.dtype = np.dtype(variable.dtype)
        if variable is ORDERS:
            self.seals, self.there = found.orders, np.ones(found.orders.shape, bool)
        else:
            self.seals = found.values[variable.name + SEAL]
            self.there = (found.values["state"] == DONE) & (found.values["seal"] != 0)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Array:
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)

    def _read(self, key: tuple[Any, ...]) -> Array:
        sizes = self.grid.chunk_of(self.variable)
        wanted = [np.atleast_1d(np.arange(n)[k]) for k, n in zip(key, self.shape, strict=True)]
        out = np.empty([len(w) for w in wanted], self.dtype)
        needed = [np.unique(w // size) for w, size in zip(wanted, sizes, strict=True)]
        for index in itertools.product(*(list(map(int, n)) for n in needed)):
            self._check(index)
            chunk = chunks.read_chunk(self.files, self.grid, self.variable, index)
            mine = [np.flatnonzero(w // size == i) for w, size, i in zip(wanted, sizes, index, strict=True)]
            from_chunk = [w[m] - i * size for w, m, i, size in zip(wanted, mine, index, sizes, strict=True)]
            out[np.ix_(*mine)] = chunk[np.ix_(*from_chunk)]
        scalar = tuple(0 if isinstance(k, int | np.integer) else slice(None) for k in key)
        return out[scalar]

    def _check(self, index: tuple[int, ...]) -> None:
        if self.variable is ORDERS:
            wrong, why = bad_orders(self.files, self.grid, index, self.seals)
            where = f"layer {self.grid.layer[index[0]]}"
        else:
            wrong, why = bad_rows(self.files, self.grid, self.variable, index, self.seals, self.there)
            place = chunks.place_of(self.grid, self.variable, index)
            where = describe(self.grid, place[: len(DIMS)])
        if wrong.any():
            _refuse_other(self.path, self.grid)
            refuse(self.path, [Damage(self.variable.name, where, why)])
