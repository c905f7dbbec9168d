"""Unequal effects: what dropping neurons costs each class.

With per-class accuracies a_1..a_c at one fraction:

    Gini = sum_ij |a_i - a_j| / (2 c^2 mean(a))        coefficient of variation = std(a) / mean(a)

both 0 where all classes do equally well (Nanda et al. 2023, section 5). Computed per seed, then averaged.
"""

import numpy as np
import xarray as xr

from probecache.analyze.findings.summary import seed_band
from probecache.store.errors import InputError

SHARE = (0.0, 1.0)  # what an accuracy, and a Gini index, can be


def class_effects(results: xr.Dataset, *, confidence: float = 0.95) -> xr.Dataset:
    """Per-class accuracy against fraction, its spread, the worst class, and what each class loses.

    Returns, over the results' other dimensions and `fraction`: `gini`, `coefficient_of_variation`,
    `worst_accuracy` (of whichever class is worst for that seed), and with a `class` dimension
    `class_accuracy` and `loss` = the class's accuracy on the full layer minus that at the fraction, paired
    by seed. Each is the mean over seeds, with Student-t bounds `_low` and `_high`.

    Raises InputError for results without `class_accuracy` or without fraction 1.
    """
    if "class_accuracy" not in results:
        raise InputError("the results have no class_accuracy: give what sweep returned for classes")
    accuracy = results["class_accuracy"].sortby("fraction")
    if not np.isclose(accuracy["fraction"][-1], 1.0):
        raise InputError("the results lack fraction 1.0: what a class loses is counted from the full layer")
    accuracy = accuracy.astype(np.float64)
    full = accuracy.isel(fraction=-1, drop=True)
    if "selection" in full.dims and "random" in full["selection"]:
        full = full.sel({"selection": "random"}, drop=True)
    measures = {
        "class_accuracy": (accuracy, "accuracy of the class", SHARE),
        "loss": (full - accuracy, "accuracy lost by the class", (-1.0, 1.0)),
        "gini": (gini(accuracy), "Gini index of the class accuracies", SHARE),
        "coefficient_of_variation": (
            accuracy.std("class") / accuracy.mean("class"),
            "coefficient of variation of the class accuracies",
            (0.0, np.inf),
        ),
        "worst_accuracy": (accuracy.min("class"), "accuracy of the worst class", SHARE),
    }
    out = xr.Dataset()
    for name, (values, label, within) in measures.items():
        band = seed_band(values, confidence, within=within)
        for part, end in (("mean", ""), ("low", "_low"), ("high", "_high")):
            out[name + end] = band[part].assign_attrs(long_name=label, units="1")
    return out.assign_attrs(confidence=confidence, seeds=accuracy.sizes["seed"])


def gini(values: xr.DataArray) -> xr.DataArray:
    """Gini index over the dimension `class`: from the sorted values, sum_i (2 i - c - 1) a_(i) / (c
    sum(a)).

    A class without a value, of which the test split has no sample, is left out.
    """
    rising = np.sort(values.transpose(..., "class").to_numpy(), axis=-1)  # NaN comes last
    c = np.isfinite(rising).sum(-1, keepdims=True)
    weights = 2 * np.arange(1, rising.shape[-1] + 1) - c - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        index = np.nansum(rising * weights, -1) / (c[..., 0] * np.nansum(rising, -1))
    return values.isel({"class": 0}, drop=True).transpose(*_without(values, "class")).copy(data=index)


def hardest_hit(effects: xr.Dataset, fraction: float, count: int = 5) -> xr.Dataset:
    """The `count` classes that lose most at the measured fraction nearest to `fraction`, largest loss first.

    `effects` is what `class_effects` returned, reduced to one layer, selection and l2.
    """
    at = effects[["loss", "loss_low", "loss_high", "class_accuracy"]].sel(fraction=fraction, method="nearest")
    extra = [str(d) for d in at["loss"].dims if d != "class"]
    if extra:
        raise InputError(f"the class effects still have {', '.join(extra)}: select one of each first")
    order = np.argsort(-at["loss"].fillna(-np.inf).to_numpy(), kind="stable")[:count]
    return at.isel({"class": order})


def _without(values: xr.DataArray, dim: str) -> list[str]:
    return [str(d) for d in values.dims if d != dim]
