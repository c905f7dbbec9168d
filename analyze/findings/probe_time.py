"""What a smaller subset saves in time: the probe on all neurons and the one on the subset, each fitted alone.

RESULTS hold `seconds`, but those are a batch's time divided by its probes, which shared one Gram matrix and
each pass over the rows: they say what a sweep costs, not what one probe does.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
import xarray as xr

from probecache.analyze.findings.summary import pick_l2
from probecache.analyze.probes.block_result import BlockResult
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.sweeps.job import layer_digest
from probecache.analyze.tasks.load import load_task
from probecache.analyze.tasks.task import Task
from probecache.store.errors import InputError
from probecache.store.reader import Store


def probe_time(
    results: xr.Dataset, subset: xr.Dataset, store: Store, *, runs: int = 5, device: str = "auto"
) -> xr.Dataset:
    """Wall time of the full layer's probe and of `subset`'s, in turn, `runs` times after one that warms up.

    results: what `sweep` returned; probe, l2, splits, standardisation and class weights are theirs, the
    solver is torch. subset: what `efficient_subset` found in them. store: the one that was swept.

    Timed is `fit_block` with one probe: standardising, the Gram matrix of its own columns, fitting, scoring
    the test rows. Not timed: reading the store, picking the columns (a store of the subset has them side by
    side: `probecache subset`), and the choice of an l2 that is "auto".

    Returns a Dataset along `width` ("full", "subset") and `run`: `seconds` (width, run), `median_seconds`,
    `n_neurons`, `n_iter` and `accuracy` (width), and `time_share`, the median over the runs of the subset's
    seconds divided by the full layer's of the same run. Its attributes say what was measured on what.

    InputError for fewer than 1 run, for results that do not say how they were made, and for a store whose
    rows are not those of the results.
    """
    if runs < 1:
        raise InputError(f"got {runs} runs; allowed: 1 or more")
    layer, settings = subset.attrs["layer"], _settings(results)
    train, test = settings["train"], settings["test"]
    if layer_digest(store, layer, train, test) != settings["digests"].get(layer):
        raise InputError(
            f"{store.path} holds other rows of layer {layer!r} than those of the results: give the store "
            "that was swept"
        )
    whole = load_task(store, layer, train, test)
    tasks = {"full": whole, "subset": _columns(whole, subset["neuron"].to_numpy())}
    l2s = _penalties(results, subset)
    weights = settings.get("class_weight")
    options: dict[str, Any] = {
        "probe": settings["probe"],
        "standardize": settings["standardize"],
        "class_weight": dict(weights) if isinstance(weights, list) else weights,
        "device": device,
    }
    seconds: dict[str, list[float]] = {width: [] for width in tasks}
    fits: dict[str, BlockResult] = {}
    for run in range(runs + 1):
        for width, task in tasks.items():
            d = task.n_neurons
            start = perf_counter()
            fits[width] = fit_block(task, np.arange(d)[None], np.array([d]), l2s[width], **options)
            taken = perf_counter() - start
            if run:
                seconds[width].append(taken)
    pairs = zip(seconds["subset"], seconds["full"], strict=True)
    return xr.Dataset(
        {
            "seconds": (("width", "run"), list(seconds.values()), {"units": "s"}),
            "median_seconds": ("width", [statistics.median(s) for s in seconds.values()], {"units": "s"}),
            "n_neurons": ("width", [task.n_neurons for task in tasks.values()]),
            "n_iter": ("width", [int(fit.n_iter.item()) for fit in fits.values()]),
            "accuracy": ("width", [float(fit.accuracy.item()) for fit in fits.values()]),
            "time_share": statistics.median(part / full for part, full in pairs),
        },
        coords={"width": list(tasks)},
        attrs={
            "measured": "standardise, Gram matrix, fit and score, without reading the store",
            "threads": torch.get_num_threads(),
            "train_samples": whole.train.shape[0],
            "test_samples": whole.test.shape[0],
            "layer": layer,
            "probe": settings["probe"],
            **fits["full"].attrs,
        },
    )


def _settings(results: xr.Dataset) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(results.attrs.get("settings", "{}"))
    if not {"probe", "train", "test", "standardize", "digests"} <= found.keys():
        raise InputError("the results do not say how their probes were fitted: give what sweep returned")
    return found


def _columns(task: Task, neurons: np.ndarray) -> Task:
    """The task as a store of these neurons alone would give it; its rows are in memory."""
    return replace(
        task,
        train=task.train[:, neurons],  # type: ignore[index]
        test=task.test[:, neurons],  # type: ignore[index]
        mean=task.mean[neurons],
        scale=task.scale[neurons],
    )


def _penalties(results: xr.Dataset, subset: xr.Dataset) -> dict[str, np.ndarray]:
    """The l2 that each of the two was fitted with, float64 (1,)."""
    picked = pick_l2(results)
    l2 = picked["l2"].item()
    if l2 != "auto":
        return dict.fromkeys(("full", "subset"), np.array([l2], np.float64))
    chosen = picked["chosen_l2"].sel({"selection": "random", "seed": int(subset["seed"])})
    if "layer" in chosen.dims:
        chosen = chosen.sel(layer=subset.attrs["layer"])
    at = {"full": 1.0, "subset": float(subset["fraction"])}
    return {width: chosen.sel(fraction=fraction).to_numpy().reshape(1) for width, fraction in at.items()}
