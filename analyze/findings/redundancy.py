"""Critical mass and diffused redundancy (DR) of a layer, from measured scores.

For a layer g of |g| neurons, a score T and a tolerance delta in (0, 1]:

    f*  = the smallest f such that  mean over subsets m with |m| = f  of  T(m * g) / T(g)  >=  delta
    DR  = 1 - f* / |g|

(Nanda et al., Diffused Redundancy in Pre-trained Representations, NeurIPS 2023, section 2). f* is the
critical mass.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from probecache.analyze.findings.score import (
    full_scores,
    neurons_of,
    require_more_is_better,
    restored,
    score_of,
)
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
    delta; its critical mass and DR are then NaN. So they are where T(g) is not above 0, as an R2 may be: a
    share of it means nothing.

    Parameters
    ----------
    results : Dataset, str or Path
        What `sweep` or `cka` returned, or its folder: a score with the dimensions `fraction` and `seed`, and
        any others.
    delta : float or list of float
        Share of the full layer's score to keep, in (0, 1]; a sequence gives a `delta` dimension.
    score : str or None
        Name of a score variable where higher is better. None: `accuracy`, and `r2` for targets that are
        numbers; else `cka`.
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
        For a delta outside (0, 1], for results without a score or without fraction 1, and for a score
        where lower is better.

    Examples
    --------
    >>> pc.redundancy("results.zarr", delta=0.9)["critical_mass"].sel(layer="late").size
    1
    """
    results = restored(as_results(results))
    values = score_of(results, score)
    require_more_is_better(str(values.name), str(results.attrs.get("losses", "")))
    deltas = np.array(check_deltas(delta))
    if isinstance(confidence, str) or not 0 < confidence < 1:
        raise InputError(f"confidence {confidence} is outside (0, 1): give a coverage such as 0.95")
    if not isinstance(bootstrap, int | np.integer) or bootstrap < 0:
        raise InputError(f"got bootstrap {bootstrap!r}; allowed: a count of resamples, 0 for no intervals")

    others = tuple(str(d) for d in values.dims if d not in ("fraction", "seed"))
    full = full_scores(values)
    table = values.to_numpy().astype(np.float64)  # (..., fraction, seed)
    reference = full.broadcast_like(values.isel(fraction=0)).transpose(*others, "seed").to_numpy()
    sizes = neurons_of(results, values).to_numpy()  # (..., fraction)
    layer_size = sizes[..., -1]

    n_seeds = table.shape[-1]
    mass = _critical_mass(table, reference, sizes, deltas, np.ones((1, n_seeds)))[0]  # (delta, ...)
    ends = {"": mass}
    if bootstrap:
        low = high = np.full_like(mass, np.nan)
        if n_seeds > 1:
            draws = np.random.default_rng(seed).multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), bootstrap)
            low, high = _resampled(table, reference, sizes, deltas, draws, confidence)
        ends |= {"_low": low, "_high": high}

    out = critical_dataset(deltas, others, ends, layer_size)
    out = out.assign_coords({d: values[d] for d in others if d in values.coords})
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


def check_deltas(delta: float | Sequence[float]) -> tuple[float, ...]:
    """`delta` as a tuple, each in (0, 1] and once; else InputError."""
    try:
        given = np.atleast_1d(np.asarray(delta, np.float64))
    except (TypeError, ValueError):
        given = np.empty(0)
    if given.size == 0 or given.ndim > 1 or not ((given > 0) & (given <= 1)).all():
        raise InputError(f"got delta {delta}; allowed: shares of the full score in (0, 1], such as 0.9")
    return tuple(dict.fromkeys(given.tolist()))


def critical_dataset(
    deltas: Sequence[float] | np.ndarray,
    others: tuple[str, ...],
    ends: Mapping[str, np.ndarray],
    layer_size: np.ndarray | int,
) -> xr.Dataset:
    """`critical_mass`, `critical_fraction` and `dr` along delta and the dimensions `others`.

    ends  f* in neurons (delta, ...), under "" and, for the ends of its interval, "_low" and "_high"
    """
    dims = ("delta", *others)
    out = xr.Dataset(
        coords={"delta": ("delta", list(deltas), {"long_name": "share of the full score to keep"})}
    )
    for end, mass in ends.items():
        share = mass / layer_size
        # Needing the most neurons is having the least redundancy, so the bounds of DR change sides.
        mirrored = {"": "", "_low": "_high", "_high": "_low"}[end]
        about = {"units": "1", "long_name": "critical mass / layer size"}
        out["critical_mass" + end] = (dims, mass, {"units": "neurons", "long_name": "critical mass"})
        out["critical_fraction" + end] = (dims, share, about)
        out["dr" + mirrored] = (dims, 1 - share, {"units": "1", "long_name": "diffused redundancy"})
    return out


def _critical_mass(
    table: np.ndarray, reference: np.ndarray, sizes: np.ndarray, deltas: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """f* under each weighting of the seeds: (draw, delta, ...), NaN where no size reaches delta.

    table (..., fraction, seed); reference (..., seed); sizes (..., fraction); weights (draw, seed).
    """
    mean = _weighted_mean(table, weights)  # (draw, ..., fraction)
    full = _weighted_mean(reference, weights)[..., None]  # (draw, ..., 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = mean / np.where(full > 0, full, np.nan)
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
