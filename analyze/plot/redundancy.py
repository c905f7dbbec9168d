"""DR against delta or along a dimension, and the frontier of redundancy and score."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.analyze.findings.pareto import line_names
from probecache.analyze.findings.redundancy import redundancy
from probecache.analyze.plot.lines import label_axis, lines_of, positions_of, selected
from probecache.analyze.plot.style import CHANCE, axes_for, draw_band, look, plain, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DELTAS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)


def dr(
    results: xr.Dataset | str | Path, deltas: Sequence[float] = DELTAS, *, ax: "Axes | None" = None, **at: Any
) -> "Axes":
    """Diffused redundancy against delta with bootstrap intervals over seeds, a line for every other cell."""
    found = redundancy(selected(results, at), deltas)
    with styled():
        ax = axes_for(ax)
        for i, (label, mean) in enumerate(lines_of(found["dr"], "delta")):
            cell = {d: mean[d].item() for d in found["dr"].dims if d != "delta" and d in mean.coords}
            draw_band(ax, found["delta"], _band(found, cell), i, label or None)
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlabel("delta: share of the full score to keep")
        ax.set_ylabel("DR: share that can be dropped")
    return ax


def critical(found: xr.Dataset, x: str, *, ax: "Axes | None" = None) -> "Axes":
    """DR with its interval along a dimension of what `critical_mass` or `redundancy` returned: shots, l2,
    layer; a line for every other cell. Does redundancy grow with data?"""
    with styled():
        ax = axes_for(ax)
        for i, (label, mean) in enumerate(lines_of(found["dr"], x)):
            cell = {d: mean[d].item() for d in found["dr"].dims if d != x and d in mean.coords}
            draw_band(ax, positions_of(found[x], x), _band(found, cell), i, label or None)
        ax.set_ylim(-0.02, 1.02)
        label_axis(ax, found[x], x)
        ax.set_ylabel("DR: share that can be dropped")
    return ax


def _band(found: xr.Dataset, cell: dict[Hashable, Any]) -> xr.Dataset:
    here = found[["dr", "dr_low", "dr_high"]].sel(cell)
    ends = {"low": here["dr_low"].fillna(here["dr"]), "high": here["dr_high"].fillna(here["dr"])}
    return xr.Dataset({"mean": here["dr"], **ends})


def frontier(points: xr.Dataset, task: str | None = None, *, ax: "Axes | None" = None) -> "Axes":
    """Score at the critical mass against DR, a line per study and layer; filled markers lie on the frontier.

    points: what `pareto` returned. task: only the points of this task, within which they are compared. Layers
    at chance are grey, dotted and hollow, and the legend says so.
    """
    here = points if task is None else points.isel(point=np.flatnonzero(points["task"].values == task))
    names, every = line_names(here), list(dict.fromkeys(line_names(points)))
    with styled():
        ax = axes_for(ax)
        for name in dict.fromkeys(names):
            own = here.isel(point=[k for k, n in enumerate(names) if n == name])
            guesses = bool(own["at_chance"].any())
            shape = look(every.index(name))
            shape |= {"color": CHANCE, "linestyle": ":"} if guesses else {}
            ax.plot(own["dr"], own["score"], linewidth=0.8, mfc="white", label=plain(name), **shape)
            best = own.isel(point=np.flatnonzero(own["frontier"]))
            ax.plot(best["dr"], best["score"], **shape | {"linestyle": "none"})
        ax.set_xlabel("DR: share that can be dropped")
        ax.set_ylabel("score at the critical mass")
        if task:
            ax.set_title(plain(task), loc="left", fontweight="bold")
    return ax
