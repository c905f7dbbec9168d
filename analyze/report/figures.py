"""Figures for print: accuracy and CKA against the fraction of neurons, as SVG, PNG or PDF.

matplotlib comes with the extra `report`. Nothing here touches pyplot or any global style: a figure is an
object.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.analyze.findings.redundancy import full_scores, score_of
from probecache.analyze.findings.summary import pick_l2, seed_band
from probecache.store.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any common colour blindness, and by lightness in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
CHANCE = "#9aa4ad"  # what is no better than guessing
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.fonttype": "none",  # text stays text: searchable, and editable in a vector program
    "svg.hashsalt": "probecache",  # the same figure is the same file
    "savefig.dpi": 300,
}


def accuracy_figure(results: xr.Dataset, path: str | Path, *, l2: float | None = None) -> Path:
    """Accuracy against fraction (log x): mean over seeds with its 95% band, a line per selection, a panel per
    layer.

    `path` ends in .svg, .png or .pdf; PNG is 300 dots per inch. With several l2 the one with the best
    full-layer score is drawn, or `l2`. Returns the path.
    """
    return save(score_figure(results, "accuracy", "test accuracy", l2=l2), path)


def score_figure(results: xr.Dataset, score: str, label: str, *, l2: float | None = None) -> "Figure":
    """Any score with `fraction` and `seed` against the fraction, as a matplotlib figure."""
    values = score_of(pick_l2(results, l2), score)
    layers = [str(v) for v in values["layer"].values] if "layer" in values.dims else [""]
    selections = [str(v) for v in values["selection"].values] if "selection" in values.dims else [""]

    with styled():
        figure, axes = panels(len(layers))
        for i, (layer, axis) in enumerate(zip(layers, axes, strict=True)):
            panel = values.sel(layer=layer) if layer else values
            for j, selection in enumerate(selections):
                if selection and not values.sel({"selection": selection}).notnull().any():
                    continue  # asked for and never measured: no place in the legend
                curve = panel.sel({"selection": selection}) if selection else panel
                draw_band(axis, seed_band(curve), j, selection or None)
            full = full_scores(panel).mean()
            if np.isfinite(full):
                axis.axhline(float(full), color="#555555", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0,
                             label="full layer")  # fmt: skip
            log_fractions(axis, values["fraction"].to_numpy())
            axis.set_title(layer, loc="left", fontweight="bold")
            if i % columns_of(len(layers)) == 0:
                axis.set_ylabel(label)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 5), handlelength=2.2)
    return figure


def draw_band(axis: Any, band: xr.Dataset, index: int, label: str | None) -> None:
    """A line with markers through the means and its interval behind; `index` picks colour and marker."""
    known = band.isel(fraction=np.flatnonzero(np.isfinite(band["mean"])))
    colour = COLOURS[index % len(COLOURS)]
    x = known["fraction"]
    marker = MARKERS[index % len(MARKERS)]
    axis.plot(x, known["mean"], color=colour, marker=marker, label=label, markeredgecolor="white", mew=0.5)
    axis.fill_between(x, known["low"], known["high"], color=colour, alpha=0.18, linewidth=0)


def panels(count: int, *, width: float = 3.5, height: float = 2.7) -> tuple["Figure", list[Any]]:
    """A figure with `count` axes in rows of at most three, sharing the y axis; sizes in inches per panel."""
    from matplotlib.figure import Figure

    across = columns_of(count)
    down = -(-count // across)
    figure = Figure(figsize=(max(width * across, 4.2), height * down + 0.3), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def styled() -> Any:
    """The context in which every figure is drawn and written; without matplotlib, one line says what to
    install.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError("figures need matplotlib: pip install 'probecache[report]'") from None
    return matplotlib.rc_context(STYLE)


def columns_of(count: int) -> int:
    """Panels side by side."""
    return min(count, 3)


def log_fractions(axis: Any, fractions: np.ndarray) -> None:
    """Log x axis over fractions, with ticks that read as percentages."""
    ticks = [
        t for t in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if t >= fractions.min() * 0.95
    ]
    if len(ticks) > 8:
        ticks = [t for t in ticks if f"{t:e}"[0] in "15"]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{t * 100:g}%" for t in ticks], fontsize=7.5)
    axis.minorticks_off()
    axis.set_xlabel("neurons kept")


def save(figure: "Figure", path: str | Path) -> Path:
    """Write a figure; the suffix decides the format. The same figure gives the same bytes."""
    path = Path(path)
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise InputError(f"figure {path} ends in {path.suffix or 'nothing'}: use .svg, .png or .pdf")
    path.parent.mkdir(parents=True, exist_ok=True)
    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[path.suffix]
    with styled():
        figure.savefig(path, metadata=dated)
    return path
