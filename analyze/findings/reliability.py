"""Whether a probe's probabilities mean what they say, from the scores that RESULTS keep."""

from typing import Any

import numpy as np
import xarray as xr

from probecache.analyze.comparison.intervals import wilson
from probecache.analyze.findings.confusion import of_classes
from probecache.analyze.findings.summary import one_cell, pick_l2
from probecache.analyze.probes.registry import known_claims
from probecache.store.errors import InputError

BINS = 15  # as the metric `ece`


def has_probabilities(results: xr.Dataset) -> bool:
    """Whether results kept scores of class targets that are logits, and the truth beside them."""
    kept = "scores" in results and "truth" in results and "class" in results.coords
    kept = kept and bool((results["truth"] >= 0).any())
    return kept and known_claims(str(results.attrs.get("probe", "logistic")), "probabilities")


def reliability(results: xr.Dataset, *, bins: int = BINS, **at: Any) -> xr.Dataset:
    """How often the predicted class is right, by the probability that the probe gave it.

    ece = sum over bins of  count / n * |accuracy - confidence|

    Bins (lower, upper] of equal width, `bins` of them, along `bin`: `confidence` and `accuracy`, means of the
    test samples whose predicted class has such a probability, NaN in an empty bin; `low` and `high`, Wilson's
    95% interval of the accuracy; `count`. `ece` is what the metric of that name gives with 15 bins.

    at: coordinates, by dimension; of the others the usual ones: the first target of classes, random, all
    shots, the largest fraction, the first seed, the best l2. Samples without scores or a label are left out.
    Raises InputError where the results kept no scores, or scores that are no logits.
    """
    if not has_probabilities(results):
        raise InputError(
            "these results kept no scores that are logits of classes: sweep with --save-predictions scores"
        )
    results = pick_l2(results) if "l2" not in at else results
    results = results if "target" in at else of_classes(results)
    at = {"fraction": float(results["fraction"].max()), "seed": results["seed"].values.tolist()[0]} | at
    cell = one_cell(results[["scores", "truth"]].sel(seed=[at.pop("seed")]), (), **at)
    scores = cell["scores"].transpose(..., "class", "sample").to_numpy()
    scores = scores.reshape(-1, scores.shape[-1]).astype(np.float64)  # (class, sample): all else is one
    scores = scores[~np.isnan(scores).all(1)]  # of a target with fewer classes than another
    truth = np.ravel(cell["truth"].to_numpy()).astype(np.int64)
    known = np.isfinite(scores).all(0) & (truth >= 0)
    scores, truth = scores[:, known], truth[known]
    odds = np.exp(scores - scores.max(0, initial=-np.inf))
    sure, right = odds.max(0, initial=0) / odds.sum(0), odds.argmax(0) == truth
    where = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], sure, side="left")
    count = np.bincount(where, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        confidence, accuracy = (np.bincount(where, v, bins) / count for v in (sure, right))
    low, high = wilson(accuracy, np.maximum(count, 1))
    columns = {"confidence": confidence, "accuracy": accuracy, "low": low, "high": high, "count": count}
    out = xr.Dataset({name: ("bin", values) for name, values in columns.items()})
    out["ece"] = float(np.nansum(count * np.abs(accuracy - confidence)) / max(len(truth), 1))
    return out
