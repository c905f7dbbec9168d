"""From results over seeds to what is drawn and told: means, bands, and one l2."""

import numpy as np
import xarray as xr

from probecache.analyze.findings.redundancy import full_scores, score_of
from probecache.store.errors import InputError


def late_layer_last(results: xr.Dataset) -> xr.Dataset:
    """Results with `penultimate` as their last layer, wherever it was measured; others keep their order.

    A sweep that grew lists layers in the order in which they came.
    """
    names = [str(v) for v in results["layer"].values]
    if "penultimate" not in names or names[-1] == "penultimate":
        return results
    return results.isel(layer=sorted(range(len(names)), key=lambda i: names[i] == "penultimate"))


def one_task(results: xr.Dataset) -> xr.Dataset:
    """Results without the dimensions `target` and `shots`; InputError where there are several of one.

    What is drawn and told is about one target, learnt from one number of rows.
    """
    for dim in ("target", "shots"):
        if dim in results.dims:
            if results.sizes[dim] > 1:
                names = ", ".join(str(v) for v in results[dim].values)
                raise InputError(f"the results hold {dim} {names}: choose one, results.sel({dim}=...)")
            results = results.isel({dim: 0})
    return results


def pick_l2(results: xr.Dataset, l2: float | None = None) -> xr.Dataset:
    """Results of one task at one l2: the one asked for, else the one whose full-layer score, averaged over
    all, is highest.
    """
    results = one_task(results)
    if "l2" not in results.dims:
        return results
    known = results["l2"].to_numpy()
    if l2 is None:
        full = full_scores(score_of(results))
        mean = full.mean([d for d in full.dims if d != "l2"])
        return results.isel(l2=int(np.argmax(mean.fillna(-np.inf).to_numpy())))
    near = np.flatnonzero(np.isclose(known, l2, rtol=1e-6))
    if not len(near):
        raise InputError(f"l2 {l2:g} was not measured: the results hold {', '.join(f'{v:g}' for v in known)}")
    return results.isel(l2=int(near[0]))


def seed_band(values: xr.DataArray, confidence: float = 0.95) -> xr.Dataset:
    """Mean over seeds and its Student-t interval: `mean`, `low`, `high` over the other dimensions.

    With one seed, or where all seeds agree, the interval has no width.
    """
    from scipy.stats import t

    n = values.notnull().sum("seed")
    mean = values.mean("seed")
    spread = values.std("seed", ddof=1).fillna(0.0) if values.sizes["seed"] > 1 else mean * 0
    factor = n.copy(data=t.ppf(0.5 + confidence / 2, np.maximum(n.to_numpy() - 1, 1).astype(float)))
    half = (factor * spread / np.sqrt(n.where(n > 0))).where(n > 1, 0.0)
    return xr.Dataset({"mean": mean, "low": mean - half, "high": mean + half}).assign_attrs(
        confidence=confidence
    )
