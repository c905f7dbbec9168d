"""Critical mass and diffused redundancy (DR) of a layer, from measured scores.

For a layer g of |g| neurons, a score T and a tolerance delta in (0, 1]:

    f*  = the smallest f such that  mean over subsets m with |m| = f  of  T(m * g) / T(g)  >=  delta
    DR  = 1 - f* / |g|

(Nanda et al., Diffused Redundancy in Pre-trained Representations, NeurIPS 2023, section 2). f* is the
critical mass.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from probecache.analyze.results.join import as_results
from probecache.store.errors import InputError

# A mean over seeds is a rounded sum: a ratio that equals delta on paper must not miss it by the last bit.
_ROUNDING = 1e-12
CELLS_AT_ONCE = 2**24  # numbers of the bootstrap that are held together


def redundancy(
    results: xr.Dataset | str | Path,
    delta: float | Sequence[float] = 0.9,
    *,
    score: str | None = None,
    bootstrap: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """f* = the smallest measured k whose mean score over seeds is at least delta T(g), T(g) the full layer's.

    Only sizes that the sweep measured count: nothing is interpolated, so f* is no finer than the grid of
    fractions. "Smallest" is meant literally: a later dip below delta does not move it. DR = 1 - f* / d.

    T(g) is the mean score at fraction 1 of the selection `random` where it was measured (all neurons,
    whatever their order), else the selection's own score at fraction 1. So a projection may never reach
    delta; its critical mass and DR are then NaN.

    Parameters
    ----------
    results : Dataset, str or Path
        What `sweep` or `cka` returned, or its folder: a score with the dimensions `fraction` and `seed`, and
        any others.
    delta : float or list of float
        Tolerance in (0, 1]; a sequence gives a `delta` dimension.
    score : str or None
        Name of the score variable. None: `accuracy`, else `cka`.
    bootstrap : int
        Resamples of the seeds for the intervals, 2000 by default; 0 leaves them out. With one seed they are
        NaN.
    confidence : float
        Coverage of the intervals (percentiles of the bootstrap; each bound is a measured size).
    seed : int
        Of the resampling.

    Returns
    -------
    xarray.Dataset
        Over the other dimensions of the score: `critical_mass` (neurons), `critical_fraction` and `dr`
        (shares of the layer), each with `_low` and `_high` bounds; `full_score` (T(g)) and `layer_size`
        (neurons). A seed without a value is left out of the mean at that fraction; a fraction without any
        value is passed over.

    Raises
    ------
    InputError
        For a delta outside (0, 1], and for results without a score or without fraction 1.

    Examples
    --------
    >>> pc.redundancy("results.zarr", delta=0.9)["critical_mass"].sel(layer="late").size
    1
    """
    results = _restored(as_results(results))
    values = score_of(results, score)
    try:
        deltas = np.atleast_1d(np.asarray(delta, dtype=np.float64))
    except (TypeError, ValueError):
        deltas = np.empty(0)
    if deltas.size == 0 or deltas.ndim > 1 or not ((deltas > 0) & (deltas <= 1)).all():
        raise InputError(
            f"delta {delta} is outside (0, 1]: it is the share of the full score to keep, e.g. 0.9"
        )
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence} is outside (0, 1): give a coverage such as 0.95")

    others = tuple(str(d) for d in values.dims if d not in ("fraction", "seed"))
    full = full_scores(values)
    table = values.to_numpy().astype(np.float64)  # (..., fraction, seed)
    reference = full.broadcast_like(values.isel(fraction=0)).transpose(*others, "seed").to_numpy()
    sizes = neurons_of(results, values).to_numpy()  # (..., fraction)
    layer_size = sizes[..., -1]

    n_seeds = table.shape[-1]
    mass = _critical_mass(table, reference, sizes, deltas, np.ones((1, n_seeds)))[0]  # (delta, ...)
    bounds = {"": mass}
    if bootstrap:
        low = high = np.full_like(mass, np.nan)
        if n_seeds > 1:
            draws = np.random.default_rng(seed).multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), bootstrap)
            low, high = _resampled(table, reference, sizes, deltas, draws, confidence)
        bounds |= {"_low": low, "_high": high}

    dims = ("delta", *others)
    out = xr.Dataset(coords={"delta": ("delta", deltas, {"long_name": "share of the full score to keep"})})
    out = out.assign_coords({d: values[d] for d in others if d in values.coords})
    for end, critical in bounds.items():
        share = critical / layer_size
        # Needing the most neurons is having the least redundancy, so the bounds of DR change sides.
        mirrored = {"": "", "_low": "_high", "_high": "_low"}[end]
        out["critical_mass" + end] = (dims, critical, {"units": "neurons", "long_name": "critical mass"})
        out["critical_fraction" + end] = (
            dims,
            share,
            {"units": "1", "long_name": "critical mass / layer size"},
        )
        out["dr" + mirrored] = (dims, 1 - share, {"units": "1", "long_name": "diffused redundancy"})
    out["full_score"] = full.mean("seed").assign_attrs(
        long_name=f"{values.name} of the full layer", units="1"
    )
    out["layer_size"] = (others, layer_size, {"units": "neurons", "long_name": "layer size"})
    out.attrs = {
        "score": str(values.name),
        "definition": "smallest measured size whose mean score over seeds >= delta * the full layer's",
        "seeds": n_seeds,
        "bootstrap": bootstrap,
        "confidence": confidence,
    }
    return out.isel(delta=0) if np.ndim(delta) == 0 else out


def _restored(results: xr.Dataset) -> xr.Dataset:
    """`results` with the dimensions `fraction` and `seed` back where `squeeze` or `isel` left one of them."""
    if not isinstance(results, xr.Dataset):
        raise InputError(
            f"got results of type {type(results).__name__}; give what sweep or cka returned, or "
            "xarray.open_zarr of a RESULTS folder"
        )
    lost = [d for d in ("fraction", "seed") if d not in results.dims and d in results.coords]
    return results.expand_dims(lost)


def score_of(results: xr.Dataset, score: str | None = None) -> xr.DataArray:
    """The score as (..., fraction, seed), fractions rising: `score`, or else `accuracy`, or else `cka`."""
    name = score or next((n for n in ("accuracy", "cka") if n in results), None)
    if name is None or name not in results:
        raise InputError(
            f"no {name or 'accuracy or cka'} in the results ({', '.join(map(str, results.data_vars))}): "
            "give what sweep or cka returned"
        )
    values = results[name]
    missing = [d for d in ("fraction", "seed") if d not in values.dims]
    if missing:
        raise InputError(
            f"{name} has no dimension {' and '.join(missing)}, only {', '.join(map(str, values.dims))}"
        )
    return values.sortby("fraction").transpose(..., "fraction", "seed")


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


def _critical_mass(
    table: np.ndarray, reference: np.ndarray, sizes: np.ndarray, deltas: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """f* under each weighting of the seeds: (draw, delta, ...), NaN where no size reaches delta.

    table (..., fraction, seed); reference (..., seed); sizes (..., fraction); weights (draw, seed).
    """
    mean = _weighted_mean(table, weights)  # (draw, ..., fraction)
    full = _weighted_mean(reference, weights)[..., None]  # (draw, ..., 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = mean / full
    reached = (
        ratio[:, None] >= deltas.reshape(-1, *[1] * (ratio.ndim - 1)) - _ROUNDING
    )  # (draw, delta, ..., fraction)
    first = reached.argmax(-1)
    every = np.broadcast_to(sizes, reached.shape)
    critical = np.take_along_axis(every, first[..., None], -1)[..., 0]
    return np.where(reached.any(-1), critical, np.nan)


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the last axis for every row of weights, missing values left out: (draw, ...)."""
    known = np.isfinite(values)
    total = np.moveaxis(np.where(known, values, 0.0) @ weights.T, -1, 0)
    count = np.moveaxis(known @ weights.T, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / count


def _resampled(
    table: np.ndarray,
    reference: np.ndarray,
    sizes: np.ndarray,
    deltas: np.ndarray,
    draws: np.ndarray,
    confidence: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of f* (delta, ...) under the draws (draw, seed), a few cells at a time.

    Few seeds have few different resamples, 126 of five: each is computed once.
    """
    cells = table.shape[:-2]
    flat = (table.reshape(-1, *table.shape[-2:]), reference.reshape(-1, reference.shape[-1]))
    every = np.broadcast_to(sizes, table.shape[:-1]).reshape(-1, table.shape[-2])
    different, which = np.unique(draws, axis=0, return_inverse=True)
    step = max(1, CELLS_AT_ONCE // (len(deltas) * max(len(draws), len(different) * table.shape[-2])))
    lows, highs = [], []
    for start in range(0, len(flat[0]), step):
        at = slice(start, start + step)
        mass = _critical_mass(flat[0][at], flat[1][at], every[at], deltas, different.astype(np.float64))
        low, high = _percentiles(mass[which.reshape(-1)], confidence)
        lows.append(low)
        highs.append(high)
    shape = (len(deltas), *cells)
    return np.concatenate(lows, 1).reshape(shape), np.concatenate(highs, 1).reshape(shape)


def _percentiles(draws: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper percentile over the first axis; a draw that never reached delta counts as beyond any
    size.
    """
    tail = (1 - confidence) / 2
    filled = np.where(np.isnan(draws), np.inf, draws)
    low, high = np.quantile(filled, [tail, 1 - tail], axis=0, method="inverted_cdf")
    return np.where(np.isinf(low), np.nan, low), np.where(np.isinf(high), np.nan, high)
