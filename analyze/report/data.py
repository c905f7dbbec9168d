"""What the page draws and tells, as plain JSON values: numbers from results, no layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from probecache.analyze.findings.claims import findings
from probecache.analyze.findings.classes import class_effects, hardest_hit
from probecache.analyze.findings.confusion import confusion_matrix, has_predictions
from probecache.analyze.findings.pareto import legible, pareto
from probecache.analyze.findings.redundancy import redundancy
from probecache.analyze.findings.reliability import has_probabilities, reliability
from probecache.analyze.findings.score import score_names, score_of
from probecache.analyze.findings.summary import bounds_of, late_layer_last, one_cell, pick_l2, seed_band
from probecache.analyze.plot.redundancy import DELTAS
from probecache.analyze.report.provenance import provenance

POINT = ("study", "task", "layer", "delta", "dr", "score", "critical_mass", "frontier", "at_chance")
CELLS = ("target", "layer", "selection", "shots", "l2")
CONFUSED = 60  # classes that a confusion matrix on the page may have


@dataclass(frozen=True)
class Study:
    """One RESULTS of a report, with what was found about the same features beside it."""

    name: str
    task: str
    slug: str
    results: xr.Dataset
    similarity: xr.Dataset | None = None
    attribution: xr.Dataset | None = None


def build_payload(studies: Sequence[Study], *, delta: float = 0.9) -> dict[str, Any]:
    """Everything that the page shows. Missing values are None, so that the JSON is strict."""
    points = legible(pareto({s.name: s.results for s in studies}, task_of={s.name: s.task for s in studies}))
    return {
        "delta": delta,
        "deltas": list(DELTAS),
        "studies": [_study(study, delta) for study in studies],
        "pareto": {
            name: numbers(points[name])
            if points[name].dtype.kind in "fiub"
            else [str(v) for v in points[name].values]
            for name in POINT
        },
    }


def _study(study: Study, delta: float) -> dict[str, Any]:
    results = late_layer_last(study.results)
    best = pick_l2(results)
    at = redundancy(results, delta)
    sizes = results["n_neurons"].sortby("fraction")
    sizes = sizes.max([d for d in sizes.dims if d not in ("layer", "fraction")]).transpose(
        "layer", "fraction"
    )
    return {
        "name": study.name,
        "task": study.task,
        "coords": {dim: _coordinate(results, dim) for dim in CELLS},
        "best_l2": int(np.flatnonzero(results["l2"].values == best["l2"].values.item())[0]),
        "fraction": numbers(results["fraction"].sortby("fraction")),
        "n": [numbers(row) for row in sizes],
        "scores": {name: _curves(results, name) for name in score_names(results)},
        "dr": _dr(results),
        "at": {
            key: numbers(at[key].broadcast_like(at["dr"]).transpose(*CELLS))
            for key in ("full_score", "critical_mass", "critical_mass_low", "critical_mass_high")
        }
        | {key: numbers(at[key].transpose(*CELLS)) for key in ("dr", "dr_low", "dr_high")},
        "classes": _all_classes(best),
        "confusion": _confusions(best),
        "calibration": _calibrations(best),
        "cka": _cka(study.similarity),
        "attribution": _attribution(study.attribution),
        "findings": [
            {"topic": f.topic, "text": f.text, "claim": f.claim, "agrees": f.agrees}
            for f in findings(results, delta=delta)
        ],
        "provenance": provenance(results),
    }


def _coordinate(results: xr.Dataset, dim: str) -> list[str]:
    return [f"{v:g}" if isinstance(v, float) else str(v) for v in results[dim].values.tolist()]


def _curves(results: xr.Dataset, name: str) -> dict[str, Any]:
    """Mean and interval over (target, layer, selection, shots, l2, fraction), flat in that order.

    Without an interval, as with one seed, `low` and `high` are None: the page then draws none.
    """
    band = seed_band(score_of(results, name), within=bounds_of(name)).transpose(*CELLS, "fraction")
    out: dict[str, Any] = {"mean": numbers(band["mean"]), "low": None, "high": None}
    if results.sizes["seed"] > 1:
        out |= {"low": numbers(band["low"]), "high": numbers(band["high"])}
    return out


def _dr(results: xr.Dataset) -> dict[str, Any]:
    """DR and its interval over (delta, target, layer, selection, shots, l2), flat in that order."""
    grid = redundancy(results, DELTAS)
    return {key: numbers(grid[key].transpose("delta", *CELLS)) for key in ("dr", "dr_low", "dr_high")}


def _all_classes(results: xr.Dataset) -> list[dict[str, Any] | None]:
    """Of each layer: what random subsets cost the classes of the first target."""
    if "class_accuracy" not in results or results.sizes["class"] < 3 or "random" not in results["selection"]:
        return []
    return [
        _classes(one_cell(results, ("fraction", "seed"), layer=layer))
        for layer in results["layer"].values.tolist()
    ]


def _classes(cell: xr.Dataset, count: int = 10) -> dict[str, Any] | None:
    if not cell["class_accuracy"].notnull().any() or not np.isclose(float(cell["fraction"].max()), 1):
        return None
    effects = class_effects(cell).squeeze([d for d in CELLS if d in cell["class_accuracy"].dims], drop=True)
    worst = hardest_hit(effects, 0.1, count)
    spread = {
        name + end: numbers(effects[name + end])
        for name in ("gini", "coefficient_of_variation", "worst_accuracy")
        for end in ("", "_low", "_high")
    }
    shown = [
        int(i) for i in np.argsort(-effects["loss"].sel(fraction=0.1, method="nearest").fillna(-1).to_numpy())
    ]
    return {
        **spread,
        "at": number(worst["fraction"]),
        "hardest": {
            "class": [str(c) for c in worst["class"].values],
            **{key: numbers(worst[key]) for key in ("loss", "loss_low", "loss_high", "class_accuracy")},
        },
        # One line per class, hardest hit first; all of them while they can be told apart.
        "names": [str(effects["class"].values[i]) for i in shown[:40]],
        "accuracy": [numbers(effects["class_accuracy"].isel({"class": i})) for i in shown[:40]],
    }


def _confusions(results: xr.Dataset) -> list[dict[str, Any] | None]:
    """Of each layer: true by predicted classes of the full layer, where predictions were kept."""
    if not has_predictions(results) or results.sizes["class"] > CONFUSED:
        return []
    out: list[dict[str, Any] | None] = []
    for layer in results["layer"].values.tolist():
        counts = confusion_matrix(results, layer=layer)
        names = [str(v) for v in counts["predicted"].values]
        out.append({"names": names, "counts": [numbers(row) for row in counts]})
    return out


def _calibrations(results: xr.Dataset) -> list[list[dict[str, Any]]]:
    """Of each layer: right predictions by probability, of the full layer and of about a fifth of it."""
    if not has_probabilities(results):
        return []
    fractions = results["fraction"].sortby("fraction")
    fifth = fractions.sel(fraction=0.2, method="nearest")
    at = list(dict.fromkeys([float(fractions[-1]), float(fifth)]))
    return [
        [
            {
                "fraction": fraction,
                "ece": number(found["ece"]),
                **{key: numbers(found[key]) for key in ("confidence", "accuracy", "low", "high", "count")},
            }
            for fraction in at
            for found in [reliability(results, layer=layer, fraction=fraction)]
        ]
        for layer in results["layer"].values.tolist()
    ]


def _cka(similarity: xr.Dataset | None) -> dict[str, Any] | None:
    if similarity is None:
        return None
    out: dict[str, Any] = {"fraction": numbers(similarity["fraction"])}
    out["layer"] = str(similarity.attrs.get("layer", ""))
    for name in ("cka", "cka_debiased"):
        band = seed_band(similarity[name], within=bounds_of(name))
        out[name] = {key: numbers(band[key]) for key in ("mean", "low", "high")}
    pair = similarity["cka_pair"].rename(pair="seed")
    if pair.sizes["seed"]:
        out["cka_pair"] = {
            "mean": numbers(pair.mean("seed")),
            "low": numbers(pair.min("seed")),
            "high": numbers(pair.max("seed")),
        }
    return out


def _attribution(found: xr.Dataset | None) -> dict[str, Any] | None:
    """The change of the score without each neuron or group, and what a point is called."""
    if found is None:
        return None
    single = bool((found["removed"] == 1).all())
    names = (
        [f"neuron {n}" for n in found["neuron"].values]
        if single
        else [f"group {i}" for i in range(found.sizes["group"])]
    )
    words = {key: str(found.attrs.get(key, "")) for key in ("layer", "probe", "metric")}
    return {"change": numbers(found["score_change"]), "names": names, **words}


def numbers(values: xr.DataArray) -> list[Any]:
    """A flat list of JSON numbers or booleans, None where a value is missing; five digits are drawn."""
    array = np.asarray(values.values).ravel()
    if array.dtype.kind == "b":
        return [bool(v) for v in array]
    array = array.astype(np.float64)
    return [
        float(f"{v:.5g}") if known else None
        for v, known in zip(array.tolist(), np.isfinite(array).tolist(), strict=True)
    ]


def number(value: xr.DataArray) -> float | None:
    """One JSON number, None where it is missing."""
    return numbers(value)[0]
