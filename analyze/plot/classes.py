"""How evenly a probe serves the classes, and whether its probabilities mean what they say."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.analyze.findings.classes import class_effects
from probecache.analyze.findings.reliability import reliability
from probecache.analyze.findings.summary import one_cell, pick_l2
from probecache.analyze.plot.style import COLOURS, axes_for, draw_band, log_fractions, styled
from probecache.analyze.results.join import as_results
from probecache.store.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPREAD = {"gini": "Gini index", "coefficient_of_variation": "coefficient of variation"}


def class_spread(results: xr.Dataset | str | Path, *, ax: "Axes | None" = None, **at: Any) -> "Axes":
    """Gini index and coefficient of variation of the class accuracies against the share of neurons kept.

    Of other dimensions with several values, the first is taken, and the best l2, unless `at` chooses.
    """
    cell = one_cell(pick_l2(as_results(results)), keep=("fraction", "seed", "class"), **at)
    effects = class_effects(cell).squeeze(drop=True)
    fractions = np.ravel(cell.sortby("fraction")["fraction"])
    with styled():
        ax = axes_for(ax)
        for i, (name, label) in enumerate(SPREAD.items()):
            ends = {"mean": "", "low": "_low", "high": "_high"}
            band = xr.Dataset({to: ("fraction", np.ravel(effects[name + end])) for to, end in ends.items()})
            draw_band(ax, fractions, band, i, label)
        log_fractions(ax, fractions)
        ax.set_ylim(bottom=0, auto=None)  # a panel that shares the axis may reach higher
        ax.set_ylabel("spread over classes")
    return ax


def calibration(
    probabilities: np.ndarray | xr.Dataset,
    truth: np.ndarray | None = None,
    *,
    bins: int = 10,
    ax: "Axes | None" = None,
    **at: Any,
) -> "Axes":
    """Share of right predictions against the probability that the probe gave them, in equal bins.

    probabilities: (n, classes) with truth: int (n,); or RESULTS that kept scores, of which one cell is drawn,
    at the coordinates `at`. On the diagonal the probe's probabilities are right; bars show how many
    samples a bin holds.
    """
    if isinstance(probabilities, xr.Dataset):
        found = reliability(probabilities, bins=bins, **at)
        count, mean = found["count"].to_numpy(), [found[n].to_numpy() for n in ("confidence", "accuracy")]
    else:
        count, mean = _binned(np.asarray(probabilities, np.float64), np.asarray(truth), bins)
    filled = count > 0
    with styled():
        ax = axes_for(ax, width=3.6, height=3.2)
        ax.bar(
            (np.arange(bins) + 0.5) / bins,
            count / count.sum(),
            width=1 / bins,
            color="#d9dee3",
            label="share of samples",
        )
        ax.plot([0, 1], [0, 1], color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
        x, y = (values[filled] for values in mean)
        ax.plot(x, y, color=COLOURS[0], marker="o", label="share that is right")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.02)
        ax.set_xlabel("probability of the predicted class")
        ax.set_ylabel("share")
        ax.legend(loc="upper left")
    return ax


def _binned(probabilities: np.ndarray, truth: np.ndarray, bins: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Samples of each bin, their mean probability, and the share that is right; NaN in an empty bin."""
    if probabilities.ndim != 2 or truth.shape != probabilities.shape[:1] or not len(truth):
        raise InputError(
            f"got probabilities {probabilities.shape} and truth {truth.shape}; needed: (n, classes) and (n,)"
        )
    sure, right = probabilities.max(1), probabilities.argmax(1) == truth
    at = np.minimum((sure * bins).astype(int), bins - 1)
    count = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        return count, [np.bincount(at, v, bins) / count for v in (sure, right)]
