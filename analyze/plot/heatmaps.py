"""Two dimensions at once: layers by fractions, and what is taken for what."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.analyze.findings.score import full_scores, score_of
from probecache.analyze.findings.summary import one_cell, pick_l2
from probecache.analyze.plot.style import axes_for, plain, styled
from probecache.analyze.results.join import as_results
from probecache.store.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 40  # classes whose names still fit beside a matrix
NUMBERED = 12


def layers(results: xr.Dataset | str | Path, *, ax: "Axes | None" = None, **at: Any) -> "Axes":
    """Share of each layer's own full score that random subsets keep: layers by fractions, lighter is more.

    Of other dimensions with several values, the first is taken, and the best l2, unless `at` chooses.
    """
    values = score_of(one_cell(pick_l2(as_results(results)), keep=("layer", "fraction", "seed"), **at))
    full = full_scores(values).mean("seed")
    kept = (values.mean("seed") / full.where(full > 0)).squeeze(drop=True)
    kept = kept.expand_dims([d for d in ("layer", "fraction") if d not in kept.dims])
    kept = kept.transpose("layer", "fraction")
    with styled():
        ax = axes_for(ax, width=6.5, height=0.9 + 0.32 * kept.sizes["layer"])
        image = ax.imshow(kept, cmap="cividis", vmax=1, aspect="auto")
        ax.grid(False)
        names = [plain(v, 40) for v in values["layer"].to_numpy().reshape(-1)]
        ax.set_yticks(range(len(names)), names)
        percent = [f"{100 * f:.3g}%" for f in np.ravel(values["fraction"])]
        ax.set_xticks(range(len(percent)), percent, fontsize=7, rotation=60)
        ax.set_xlabel("neurons kept")
        ax.figure.colorbar(image, ax=ax, label="share of full score", format="{x:.0%}")
    return ax


def confusion(counts: xr.DataArray, *, ax: "Axes | None" = None) -> "Axes":
    """Of each true class (rows), the share of samples by predicted class (columns): what `confusion_matrix`
    counted. Names up to 40 classes, numbers up to 12."""
    if counts.dims != ("true", "predicted"):
        raise InputError(
            f"got dimensions {', '.join(map(str, counts.dims))}; give what confusion_matrix returned"
        )
    names = [plain(v, 24) for v in counts["predicted"].values]
    with np.errstate(invalid="ignore"):
        share = counts.to_numpy() / counts.to_numpy().sum(1, keepdims=True)
    size = float(np.clip(0.26 * len(names) + 1.6, 3.0, 9.0))
    with styled():
        ax = axes_for(ax, width=size + 0.9, height=size)
        image = ax.imshow(share, cmap="cividis", vmin=0, vmax=1)
        ax.grid(False)
        if len(names) <= NAMED:
            small: dict[str, Any] = {"fontsize": 7 if len(names) > 12 else 8}
            ax.set_xticks(range(len(names)), names, rotation=90, **small)
            ax.set_yticks(range(len(names)), names, **small)
        if len(names) <= NUMBERED:
            for i, j in np.argwhere(np.isfinite(share)):
                colour = "white" if share[i, j] < 0.6 else "black"
                text = f"{100 * share[i, j]:.0f}"
                ax.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
        ax.set_xlabel("predicted")
        ax.set_ylabel("true")
        ax.figure.colorbar(image, ax=ax, label="share of the true class", format="{x:.0%}", shrink=0.8)
    return ax
