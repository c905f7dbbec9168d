"""Which variable of results is their score, and what it is of the full layer."""

import numpy as np
import xarray as xr

from probecache.store.errors import InputError

MIXED = "accuracy or r2"  # of results with targets that are classes and targets that are numbers
NOT_SCORES = frozenset(
    (
        "n_neurons",
        "n_iter",
        "objective",
        "grad_norm",
        "gap_bound",
        "converged",
        "seconds",
        "state",
        "chosen_l2",
    )
)
_OF_A_SCORE = {"model", "target", "layer", "selection", "shots", "fraction", "seed", "l2"}


def restored(results: xr.Dataset) -> xr.Dataset:
    """`results` with the dimensions `fraction` and `seed` back where `squeeze` or `isel` left one of them."""
    if not isinstance(results, xr.Dataset):
        raise InputError(
            f"got results of type {type(results).__name__}; give what sweep or cka returned, or "
            "xarray.open_zarr of a RESULTS folder"
        )
    lost = [d for d in ("fraction", "seed") if d not in results.dims and d in results.coords]
    return results.expand_dims(lost)


def score_of(results: xr.Dataset, score: str | None = None) -> xr.DataArray:
    """The score as (..., fraction, seed), fractions rising: `score`, or else the usual one.

    That is `accuracy`, and `r2` of targets that are numbers; or else `cka`.
    """
    values = _usual(results) if score is None else results.get(score)
    if values is None:
        if score is None:
            raise InputError(
                f"no accuracy or cka in the results ({', '.join(map(str, results.data_vars))}): give what "
                "sweep or cka returned"
            )
        raise InputError(
            f"no {score} in the results, whose scores are {', '.join(score_names(results)) or 'none'}: sweep "
            f"with --metric {score}, or give one of those"
        )
    name = str(values.name)
    missing = [d for d in ("fraction", "seed") if d not in values.dims]
    if missing:
        raise InputError(
            f"{name} has no dimension {' and '.join(missing)}, only {', '.join(map(str, values.dims))}"
        )
    return values.sortby("fraction").transpose(..., "fraction", "seed")


def _usual(results: xr.Dataset) -> xr.DataArray | None:
    accuracy, r2 = results.get("accuracy"), results.get("r2")
    if accuracy is None:
        return results.get("cka")
    if r2 is None or not r2.notnull().any():
        return accuracy
    return accuracy.fillna(r2).rename(MIXED) if accuracy.notnull().any() else r2


def score_names(results: xr.Dataset) -> list[str]:
    """The scores that results hold, accuracy first, then R2; without those that have no value, if not all."""
    found = [
        str(name)
        for name, values in results.data_vars.items()
        if {"fraction", "seed"} <= set(values.dims) <= _OF_A_SCORE and name not in NOT_SCORES
    ]
    found = [name for name in found if results[name].notnull().any()] or found[:1]
    return sorted(found, key=lambda name: (name != "accuracy", name != "r2"))


def require_more_is_better(score: str, told: str = "") -> None:
    """InputError for a variable that is no score, or a loss: keeping a share of a loss is losing less.

    told: the attribute `losses` of results, which names those that the process that swept had registered.
    """
    if score in NOT_SCORES:
        raise InputError(f"got score {score!r}, which says nothing about how good a probe is; give a metric")
    from probecache.analyze.metrics import METRICS  # with torch, which is not needed for anything else here

    if score in told.split(", ") or (score in METRICS and not METRICS[score].higher_is_better):
        raise InputError(
            f"got score {score!r}, where lower is better: no share of it can be kept; give one where "
            "higher is, such as accuracy"
        )


def full_scores(values: xr.DataArray) -> xr.DataArray:
    """T(g) per seed: the score at fraction 1, of the selection `random` where that was measured."""
    if not np.isclose(values["fraction"][-1], 1.0):
        raise InputError(
            f"the results end at fraction {float(values['fraction'][-1]):g}: "
            "DR compares with the full layer; run the same sweep with fraction 1.0 added"
        )
    full = values.isel(fraction=-1, drop=True)
    if "selection" in full.dims and "random" in full["selection"]:
        return full.sel({"selection": "random"}, drop=True)  # `method` is also a keyword of sel
    return full


def neurons_of(results: xr.Dataset, values: xr.DataArray) -> xr.DataArray:
    """k of each fraction, (..., fraction), shaped as `values` without its seeds.

    The sweep measures the same k for every seed and l2, so a cell that is still missing there takes its
    neighbour's.
    """
    if "n_neurons" not in results:
        raise InputError("the results have no variable n_neurons: give what sweep or cka returned")
    sizes = results["n_neurons"].sortby("fraction").astype(np.float64)
    sizes = sizes.where(sizes > 0).max([d for d in ("seed", "l2") if d in sizes.dims])
    return sizes.broadcast_like(values.isel(seed=0, drop=True)).transpose(
        *(d for d in values.dims if d != "seed")
    )
