"""What the page draws and tells, as plain JSON values: numbers from results, no layout."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from probecache.analyze.findings.claims import findings
from probecache.analyze.findings.classes import class_effects, hardest_hit
from probecache.analyze.findings.pareto import legible, pareto
from probecache.analyze.findings.redundancy import redundancy, score_of
from probecache.analyze.findings.summary import late_layer_last, pick_l2, seed_band

DELTAS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
POINT = ("study", "task", "layer", "delta", "dr", "score", "critical_mass", "frontier", "at_chance")


def build_payload(
    studies: Mapping[str, xr.Dataset],
    similarities: Mapping[str, xr.Dataset],
    *,
    delta: float = 0.9,
    tasks: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Everything that the page shows. Missing values are None, so that the JSON is strict."""
    points = legible(pareto(studies, task_of=tasks or dict.fromkeys(studies, "")))
    return {
        "delta": delta,
        "studies": [
            _study(name, results, similarities.get(name), delta) for name, results in studies.items()
        ],
        "pareto": {
            name: numbers(points[name])
            if points[name].dtype.kind in "fiub"
            else [str(v) for v in points[name].values]
            for name in POINT
        },
    }


def _study(name: str, results: xr.Dataset, similarity: xr.Dataset | None, delta: float) -> dict[str, Any]:
    results = late_layer_last(pick_l2(results))
    grid = redundancy(results, DELTAS)
    at = redundancy(results, delta)
    layers = []
    for layer in results["layer"].values:
        part = results.sel(layer=layer)
        sizes = part["n_neurons"].max([d for d in part["n_neurons"].dims if d != "fraction"])
        layers.append(
            {
                "name": str(layer),
                "neurons": int(sizes.max()),
                "fraction": numbers(part["fraction"]),
                "n": numbers(sizes),
                "full": number(at["full_score"].sel(layer=layer)),
                "selections": [
                    _curve(part, grid, at, layer, selection) for selection in part["selection"].values
                ],
                "classes": _classes(part),
                "cka": _cka(similarity, str(layer)),
            }
        )
    return {
        "name": name,
        "layers": layers,
        "deltas": list(DELTAS),
        "findings": [
            {"topic": f.topic, "text": f.text, "claim": f.claim, "agrees": f.agrees}
            for f in findings(results, delta=delta)
        ],
        "provenance": provenance(results),
    }


def _curve(part: xr.Dataset, grid: xr.Dataset, at: xr.Dataset, layer: Any, selection: Any) -> dict[str, Any]:
    band = seed_band(score_of(part).sel({"selection": selection}))
    cell = {"layer": layer, "selection": selection}
    return {
        "name": str(selection),
        **{key: numbers(band[key]) for key in ("mean", "low", "high")},
        "dr_grid": {key: numbers(grid[key].sel(cell)) for key in ("dr", "dr_low", "dr_high")},
        **{
            key: number(at[key].sel(cell))
            for key in map(str, at.data_vars)
            if key.startswith(("dr", "critical_mass"))
        },
    }


def _classes(part: xr.Dataset, count: int = 10) -> dict[str, Any] | None:
    if "class_accuracy" not in part or part.sizes["class"] < 3 or "random" not in part["selection"]:
        return None
    effects = class_effects(part).sel({"selection": "random"})
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


def _cka(similarity: xr.Dataset | None, layer: str) -> dict[str, Any] | None:
    if similarity is None or similarity.attrs.get("layer") != layer:
        return None
    out: dict[str, Any] = {"fraction": numbers(similarity["fraction"])}
    for name in ("cka", "cka_debiased"):
        band = seed_band(similarity[name])
        out[name] = {key: numbers(band[key]) for key in ("mean", "low", "high")}
    pair = similarity["cka_pair"].rename(pair="seed")
    if pair.sizes["seed"]:
        out["cka_pair"] = {
            "mean": numbers(pair.mean("seed")),
            "low": numbers(pair.min("seed")),
            "high": numbers(pair.max("seed")),
        }
    found = redundancy(similarity, 0.9)
    out["dr"], out["critical_mass"] = number(found["dr"]), number(found["critical_mass"])
    return out


def provenance(results: xr.Dataset) -> dict[str, str]:
    """What made the numbers: the results' attributes and the size of the sweep, as text."""
    score = score_of(results)
    out = {
        "probes": f"{int(score.notnull().sum()):,}",
        "seeds": ", ".join(str(s) for s in results["seed"].values),
        "l2": _penalty(results["l2"].item()) if "l2" in results.coords else "",
    }
    for name, value in results.attrs.items():
        if name == "seconds":
            out["seconds"] = f"{float(value):.1f}"
        elif name not in ("settings", "failures"):
            out[str(name)] = value if isinstance(value, str) else json.dumps(value, default=str)
    return {name: value for name, value in out.items() if value}


def _penalty(l2: float | str) -> str:
    """An l2 as text; a sweep that chose its own has the coordinate "auto"."""
    return l2 if isinstance(l2, str) else f"{l2:g}"


def numbers(values: xr.DataArray) -> Sequence[Any]:
    """A flat list of JSON numbers or booleans, None where a value is missing."""
    array = np.asarray(values.values).ravel()
    if array.dtype.kind == "b":
        return [bool(v) for v in array]
    return [round(float(v), 6) if np.isfinite(v) else None for v in array.astype(np.float64)]


def number(value: xr.DataArray) -> float | None:
    """One JSON number, None where it is missing."""
    return numbers(value)[0]
