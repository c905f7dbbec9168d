"""What is taken for what: true by predicted classes, from the predictions that RESULTS keep."""

from typing import Any

import numpy as np
import xarray as xr

from probecache.analyze.findings.summary import one_cell, pick_l2
from probecache.store.errors import InputError


def has_predictions(results: xr.Dataset) -> bool:
    """Whether results kept predictions of class targets, and the truth beside them."""
    kept = "predictions" in results and "truth" in results and "class" in results.coords
    return kept and bool((results["truth"] >= 0).any())


def of_classes(results: xr.Dataset) -> xr.Dataset:
    """Results of the targets that are classes: several labels and numbers have no class that is right."""
    if "target" not in results["truth"].dims:
        return results
    told = (results["truth"] >= 0).any([d for d in results["truth"].dims if d != "target"])
    return results.isel(target=np.flatnonzero(told))


def confusion_matrix(results: xr.Dataset, **at: Any) -> xr.DataArray:
    """Test samples by true class (rows) and predicted class (columns), int64.

    at: coordinates, by dimension; of the others the usual ones: the first target of classes, random, all
    shots, the largest fraction, the first seed, the best l2. Samples without either are left out.
    Raises InputError where the results kept no predictions: sweep with --save-predictions.
    """
    if not has_predictions(results):
        raise InputError("these results kept no predictions of classes: sweep with --save-predictions")
    results = pick_l2(results) if "l2" not in at else results
    results = results if "target" in at else of_classes(results)
    at = {"fraction": float(results["fraction"].max()), "seed": results["seed"].values.tolist()[0]} | at
    cell = one_cell(results.sel(seed=[at.pop("seed")]), (), **at)
    predicted = np.ravel(cell["predictions"].to_numpy()).astype(np.int64)
    truth = np.ravel(cell["truth"].to_numpy()).astype(np.int64)
    names = [str(v) for v in cell["class"].values]
    counts = np.zeros((len(names), len(names)), np.int64)
    known = (predicted >= 0) & (truth >= 0)
    np.add.at(counts, (truth[known], predicted[known]), 1)
    return xr.DataArray(counts, dims=("true", "predicted"), coords={"true": names, "predicted": names})
