"""Scores along one dimension of RESULTS: against fractions, shots, l2 or layers, a line for all else."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.analyze.findings.score import full_scores, score_of
from probecache.analyze.findings.summary import bounds_of, seed_band
from probecache.analyze.plot.style import axes_for, draw_band, log_fractions, plain, styled
from probecache.analyze.results.join import as_results
from probecache.store.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = ("fraction", "shots", "l2", "layer")
MOST = 40  # lines


def curves(
    results: xr.Dataset | str | Path, score: str | None = None, *, ax: "Axes | None" = None, **at: Any
) -> "Axes":
    """Score against the share of neurons kept, on a log axis: mean over seeds with its 95% interval."""
    results = as_results(results)
    ax = scores(results, "fraction", score, ax=ax, **at)
    values = score_of(selected(results, at), score)
    if np.isclose(values["fraction"][-1], 1.0):
        whole = full_scores(values).mean()
        if np.isfinite(whole) and all(
            values.sizes[d] == 1 for d in ("target", "layer", "shots", "l2") if d in values.dims
        ):
            dash: dict[str, Any] = {
                "color": "#555555",
                "linewidth": 0.8,
                "linestyle": (0, (4, 3)),
                "zorder": 0,
            }
            ax.axhline(float(whole), label="full layer", **dash)
    return ax


def learning_curve(
    results: xr.Dataset | str | Path, score: str | None = None, *, ax: "Axes | None" = None, **at: Any
) -> "Axes":
    """Score of the largest subset (the full layer where it was measured) against shots, training rows per
    class; "all" comes last."""
    return scores(results, "shots", score, ax=ax, **at)


def profile(
    results: xr.Dataset | str | Path, score: str | None = None, *, ax: "Axes | None" = None, **at: Any
) -> "Axes":
    """Score of the largest subset of each layer, in the order of the results."""
    return scores(results, "layer", score, ax=ax, **at)


def scores(
    results: xr.Dataset | str | Path, x: str, score: str | None = None, *, ax: "Axes | None" = None, **at: Any
) -> "Axes":
    """A score along `x`, one of fraction, shots, l2 and layer; a line with its interval for every other cell.

    results: of a sweep, or their path. at: coordinates to keep, by dimension: layer="penultimate",
    selection=["random", "pca"]. Unless x is the fraction, the largest fraction is drawn, or the one given
    as `fraction`. The legend names what differs between the lines. Returns the axes, so that you can
    finish the figure.
    """
    results = as_results(results)
    if x not in AXES:
        raise InputError(f"got x {x!r}; allowed: {', '.join(AXES)}")
    if x != "fraction" and "fraction" not in at and "fraction" in results.dims:
        at = {"fraction": [float(results["fraction"].max())], **at}
    values = score_of(selected(results, at), score)
    if x not in values.dims:
        raise InputError(f"the results have no dimension {x}, only {', '.join(map(str, values.dims))}")
    within = bounds_of(str(values.name))
    with styled():
        ax = axes_for(ax)
        count = 0
        for label, line in lines_of(values, x):
            if not line.notnull().any():
                continue  # asked for and never measured: no place in the legend
            if count == MOST:
                raise InputError(
                    f"got more than {MOST} lines in one figure; keep fewer, as in layer='penultimate'"
                )
            draw_band(ax, positions_of(line[x], x), seed_band(line, within=within), count, label or None)
            count += 1
        label_axis(ax, values[x], x)
        ax.set_ylabel(str(values.name).replace("_", " "))
    return ax


def lines_of(values: xr.DataArray, x: str) -> list[tuple[str, xr.DataArray]]:
    """(what tells it from the others, (x, seed)) for every cell of the dimensions beside x and seed."""
    others = [str(d) for d in values.dims if d not in (x, "seed")]
    found = []
    for cell in itertools.product(*(range(values.sizes[d]) for d in others)):
        where = dict(zip(others, cell, strict=True))
        words = [_word(d, values[d].values[i]) for d, i in where.items() if values.sizes[d] > 1]
        found.append((", ".join(words), values.isel(where)))
    return found


def selected(results: xr.Dataset | str | Path, at: Mapping[str, Any]) -> xr.Dataset:
    """Results at some coordinates, every dimension kept."""
    results = as_results(results)
    for name, wanted in at.items():
        if name not in results.dims:
            raise InputError(f"got {name}={wanted!r}; these results have {', '.join(map(str, results.dims))}")
        listed = list(wanted) if isinstance(wanted, list | tuple | np.ndarray) else [wanted]
        known = results[name].values.tolist()
        missing = [v for v in listed if v not in known]
        if missing:
            raise InputError(f"got {name} {missing[0]!r}; the results hold {', '.join(map(str, known[:20]))}")
        results = results.isel({name: [known.index(v) for v in listed]})
    return results


def _word(dim: str, value: Any) -> str:
    if dim in ("layer", "selection", "target"):
        return plain(value)
    return f"{dim} {value:g}" if isinstance(value, float | np.floating) else f"{dim} {value}"


def positions_of(coordinate: xr.DataArray, x: str) -> np.ndarray:
    numeric = coordinate.dtype.kind in "iuf" and x != "layer"
    return coordinate.to_numpy() if numeric else np.arange(coordinate.size)


def label_axis(ax: "Axes", coordinate: xr.DataArray, x: str) -> None:
    if x == "fraction":
        log_fractions(ax, coordinate.to_numpy())
        return
    ax.set_xlabel({"shots": "training rows per class", "l2": "l2", "layer": ""}[x])
    if x == "l2" and coordinate.dtype.kind == "f" and (coordinate > 0).all():
        ax.set_xscale("log")
        return
    names = [plain(v, 24) for v in coordinate.values]
    tilted: dict[str, Any] = (
        {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 5 else {}
    )
    ax.set_xticks(range(len(names)), names, **tilted)
