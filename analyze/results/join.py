"""RESULTS to work with: opened by path, joined over models, as a table of one row per probe."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.analyze.results.open import read_sweep
from probecache.analyze.results.saved import is_saved, read_saved
from probecache.analyze.sweeps.plan import DIMS
from probecache.store.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MODEL = "model"
# Where one side has no such probe, class or neuron; NaN for numbers.
_FILL = {"neurons": 0, "n_neurons": 0, "n_iter": -1, "converged": False, "state": 0}
_FILL |= {"permutation": -1, "predictions": -1}


def open_results(paths: "str | Path | Iterable[str | Path]") -> xr.Dataset:
    """Open RESULTS, or what `cka` wrote, as a Dataset whose every value is checked; `concat` joins several.

    Scores and coordinates are read into memory and checked at once; rows of `class_accuracy`, `predictions`
    and `permutation` are checked when they are read.

    Parameters
    ----------
    paths : str, Path or list of them
        A folder that `sweep` or `cka` wrote, or several of `sweep`, which get a dimension `model`.

    Returns
    -------
    xarray.Dataset
        With the dimensions target, layer, selection, shots, fraction, seed, l2. Its attributes name store,
        backbone, data set, solver, device and versions.

    Raises
    ------
    InputError
        If a path holds neither.
    DamagedStore
        If a value is not what was written, with its coordinates and what to do.

    Examples
    --------
    >>> pc.open_results("results.zarr")["layer"].values.tolist()
    ['early', 'late']
    """
    if isinstance(paths, str | Path):
        path = Path(paths).expanduser()
        return read_saved(path) if is_saved(path) else read_sweep(path)
    listed = [Path(path).expanduser() for path in paths]
    return concat(dict(zip(_names(listed), map(read_sweep, listed), strict=True)))


def as_results(results: "xr.Dataset | str | os.PathLike[str]") -> xr.Dataset:
    """What a function was given for results: a Dataset, or a path to open; InputError for anything else."""
    if isinstance(results, xr.Dataset):
        return results
    if not isinstance(results, str | os.PathLike):
        raise InputError(
            f"got results of type {type(results).__name__}; give what sweep or cka returned, or its path"
        )
    return open_results(Path(results))


def concat(
    results: "Mapping[str, xr.Dataset | str | Path] | Sequence[xr.Dataset | str | Path]", dim: str = MODEL
) -> xr.Dataset:
    """Join the results of several models along a new dimension; coordinates are united, gaps are NaN.

    Parameters
    ----------
    results : {str: Dataset or path} or list of them
        By name; of a list the names are the backbones where these differ, else numbers.
    dim : str
        The new dimension, in front of all others.

    Returns
    -------
    xarray.Dataset
        Loaded. Attributes that agree stay; the others become variables along `dim`.

    Raises
    ------
    InputError
        For nothing to join, and results that have `dim` already.

    Examples
    --------
    >>> results = pc.open_results("results.zarr")
    >>> pc.concat({"one": results, "other": results}).sizes["model"]
    2
    """
    if not isinstance(results, Mapping):
        opened = [as_results(one) for one in results]
        backbones = [str(one.attrs.get("backbone", "")) for one in opened]
        named = all(backbones) and len(set(backbones)) == len(backbones)
        results = dict(zip(backbones if named else map(str, range(len(opened))), opened, strict=True))
    if not results:
        raise InputError("got no results to join; give one or more")
    parts = {str(name): as_results(one).load() for name, one in results.items()}
    for name, part in parts.items():
        if dim in part.dims:
            raise InputError(f"the results of {name!r} have a dimension {dim!r} already; give another dim")
    width = max(part.sizes.get("neuron", 0) for part in parts.values())
    together = []
    for part in parts.values():
        if "neuron" in part.dims:
            part = part.pad(neuron=(0, width - part.sizes["neuron"]), constant_values=-1)
        together.append(part.drop_attrs(deep=False))
    names = {str(v) for part in together for v in part.data_vars}
    fill = {name: _FILL.get(name, np.nan) for name in names}
    axis = xr.Variable((dim,), np.array(list(parts), np.dtypes.StringDType()))
    options: dict[str, Any] = {"data_vars": "all", "coords": "minimal", "compat": "equals"}
    joined = xr.concat(together, axis, join="outer", fill_value=fill, **options)
    joined = joined.assign_coords({dim: axis})
    attributes = [part.attrs for part in parts.values()]
    for key in dict.fromkeys(key for attrs in attributes for key in attrs):
        values = [attrs.get(key, "") for attrs in attributes]
        if all(value == values[0] for value in values):
            joined.attrs[key] = values[0]
        elif key not in joined.variables:
            joined[key] = (dim, np.array([str(value) for value in values], np.dtypes.StringDType()))
    return joined


def tidy(results: "xr.Dataset | str | Path") -> "pd.DataFrame":
    """A table with one row per computed probe: coordinates and every score of it, no index.

    Parameters
    ----------
    results : Dataset, str or Path
        Of `sweep`, `open_results` or `concat`.

    Returns
    -------
    pandas.DataFrame
        Columns are the dimensions (with `model` where there is one) and the variables with one value per
        probe; probes that were not computed have no row.

    Raises
    ------
    InputError
        For results without a value per probe.

    Examples
    --------
    >>> len(pc.tidy("results.zarr"))  # 2 layers, 2 fractions, 2 seeds
    8
    """
    data = as_results(results)
    dims = [str(d) for d in data.dims if d in DIMS or d == MODEL]
    scalars = [name for name, variable in data.data_vars.items() if set(variable.dims) == set(dims)]
    if not scalars:
        raise InputError(f"the results hold no value per probe over {', '.join(dims) or 'any dimension'}")
    chosen = data[scalars]
    chosen = chosen.drop_vars([name for name in chosen.coords if name not in dims])
    frame = chosen.to_dataframe().reset_index()
    if "state" in frame:
        frame = frame[frame["state"] != 0]
    order: list[Any] = [d for d in (MODEL, *DIMS) if d in frame] + scalars
    return frame[order].reset_index(drop=True)


def _names(paths: Sequence[Path]) -> list[str]:
    """Folders' names without their suffixes, as long as it takes to tell them apart."""
    stems = [re.sub(r"\.(zarr|results)$", "", path.name) for path in paths]
    if len(set(stems)) < len(stems):
        stems = [path.absolute().as_posix() for path in paths]
    if len(set(stems)) < len(stems):
        raise InputError(f"got {', '.join(map(str, paths))}: one of them twice; give each once")
    return stems
