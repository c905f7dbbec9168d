"""From results over seeds to what is drawn and told: means, bands, and one l2."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from probecache.analyze.findings.score import full_scores, score_of
from probecache.store.errors import InputError


def late_layer_last(results: xr.Dataset) -> xr.Dataset:
    """Results with `penultimate` as their last layer, wherever it was measured; others keep their order.

    A sweep that grew lists layers in the order in which they came.
    """
    names = [str(v) for v in results["layer"].values]
    if "penultimate" not in names or names[-1] == "penultimate":
        return results
    return results.isel(layer=sorted(range(len(names)), key=lambda i: names[i] == "penultimate"))


def usual_task(results: xr.Dataset) -> xr.Dataset:
    """Results of one target and one number of shots, without those dimensions: the target "label", else the
    first; all rows, else the most shots that were asked for last.

    What sentences and frontiers are about; the other targets and shots have sentences of their own.
    """
    for dim, usual, other in (("target", "label", 0), ("shots", "all", -1)):
        if dim in results.dims:
            names = [str(v) for v in results[dim].values]
            results = results.isel({dim: names.index(usual) if usual in names else other})
    return with_own_classes(results)


def with_own_classes(results: xr.Dataset) -> xr.Dataset:
    """Results of one target with that target's class names, where RESULTS of several only count classes."""
    if "class" not in results.coords or "target" not in results.coords or results["target"].size != 1:
        return results
    told = json.loads(results.attrs.get("targets", "{}")).get(str(results["target"].values.item()), {})
    names = told.get("names", [])
    if not 0 < len(names) <= results.sizes["class"]:
        return results
    own = np.array(names, dtype=np.dtypes.StringDType())
    return results.isel({"class": slice(len(names))}).assign_coords({"class": own})


def pick_l2(results: xr.Dataset, l2: float | None = None) -> xr.Dataset:
    """Results at one l2: the one asked for, else the one whose full-layer score, averaged over all, is
    highest.
    """
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


def seed_band(
    values: xr.DataArray, confidence: float = 0.95, *, within: tuple[float, float] = (-np.inf, np.inf)
) -> xr.Dataset:
    """Mean over seeds and its Student-t interval: `mean`, `low`, `high` over the other dimensions.

    With one seed, or where all seeds agree, the interval has no width. within: the score's range; Student's t
    knows of none, and an accuracy above 1 is no upper end of anything.
    """
    from scipy.special import stdtrit  # Student's t, without the second that scipy.stats takes

    # numpy throughout: a report asks a thousand times, and aligning coordinates costs more than the sums
    x = values.transpose("seed", ...).to_numpy().astype(np.float64)
    there = ~np.isnan(x)
    n = there.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, x, 0).sum(axis=0) / n
        squares = np.where(there, (x - mean) ** 2, 0).sum(axis=0)
        half = stdtrit(np.maximum(n - 1, 1).astype(float), 0.5 + confidence / 2) * np.sqrt(
            squares / (n - 1) / n
        )
    half = np.where((n > 1) & np.isfinite(half), half, 0.0)
    parts = {"mean": mean, "low": np.clip(mean - half, *within), "high": np.clip(mean + half, *within)}
    like = values.isel(seed=0, drop=True).drop_attrs()
    band = {name: like.copy(data=part).rename(None) for name, part in parts.items()}
    return xr.Dataset(band, attrs={"confidence": confidence})


_SHARES = {
    *("accuracy", "class_accuracy", "balanced_accuracy", "top5_accuracy", "exact_match", "macro_f1"),
    *("auroc", "average_precision", "ece", "cka", "cka_pair"),
}


def bounds_of(score: str) -> tuple[float, float]:
    """The range of a score: no interval is drawn or told beyond it. (-inf, inf) for a user's own metric."""
    ranges = {"log_loss": (0, np.inf), "mae": (0, np.inf), "r2": (-np.inf, 1), "spearman": (-1, 1)}
    return (0, 1) if score in _SHARES else ranges.get(score, (-np.inf, np.inf))


def one_cell(results: xr.Dataset, keep: Sequence[str], **at: Any) -> xr.Dataset:
    """Results at one coordinate of every dimension but `keep` and class, neuron, sample, which stay whole.

    at: coordinates asked for, by dimension; of the others the target "label", the selection "random", "all"
    shots, else the first. Dimensions stay, of length one. InputError for a coordinate that was not measured.
    """
    preferred = {"target": "label", "selection": "random", "shots": "all"} | at
    for dim in [
        str(d) for d in results.dims if d not in (*keep, "class", "neuron", "sample", "seed", "pair")
    ]:
        known = results[dim].values.tolist() if dim in results.coords else list(range(results.sizes[dim]))
        if dim in at and at[dim] not in known:
            raise InputError(f"got {dim} {at[dim]!r}; the results hold {', '.join(map(str, known[:20]))}")
        wanted = preferred.get(dim)
        results = results.isel({dim: [known.index(wanted) if wanted in known else 0]})
    return with_own_classes(results)
