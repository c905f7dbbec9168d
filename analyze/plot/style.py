"""One look for every figure: colours, sizes, and how a figure is written.

Nothing here touches pyplot or any global style: a figure is an object, drawn and saved within `styled()`.
matplotlib comes with the extra `report`.
"""

import io
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.store.errors import InputError
from probecache.store.storage.disk_errors import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any common colour blindness, and by lightness in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
CHANCE = "#9aa4ad"  # what is no better than guessing
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
FORMATS = (".svg", ".png", ".pdf")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.fonttype": "none",  # text stays text: searchable, and editable in a vector program
    "pdf.fonttype": 42,
    "svg.hashsalt": "probecache",  # the same figure is the same file
    "savefig.dpi": 300,
    "text.parse_math": False,  # a name with $ signs is a name
    "axes.formatter.use_mathtext": False,
}
LEGEND_CHARACTERS = 84  # of all entries of a row, at the legend's size and a figure's least width


def styled() -> Any:
    """The context in which every figure is drawn and written; without matplotlib, one line says what to
    install."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("figures need matplotlib: pip install 'probecache[report]'") from None
    return matplotlib.rc_context(STYLE)


def axes_for(ax: "Axes | None", width: float = 4.2, height: float = 3.0) -> "Axes":
    """`ax`, or the axes of a new figure of that size in inches. A notebook shows either as a picture."""
    if ax is not None:
        return ax
    figure, made = panels(1, width=width, height=height)
    for shown in (figure, *made):
        shown._repr_png_ = partial(_png, figure)
    return made[0]


def _png(figure: "Figure") -> bytes:
    """What a notebook shows: figures that pyplot does not know have no picture of their own there."""
    picture = io.BytesIO()
    with styled():
        figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def panels(
    count: int, *, width: float = 3.5, height: float = 2.7, share: bool = True
) -> tuple["Figure", list[Any]]:
    """A figure with `count` axes in rows of at most three; share: the y axis. Sizes in inches per panel."""
    from matplotlib.figure import Figure

    with styled():
        across = min(count, 3)
        down = -(-count // across)
        figure = Figure(figsize=(max(width * across, 4.2), height * down + 0.3), layout="constrained")
        axes = list(figure.subplots(down, across, squeeze=False, sharey=share).flat)
        for spare in axes[count:]:
            spare.remove()
    return figure, axes[:count]


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dash of the index-th line: 8 colours, then the same with other dashes."""
    turn = index // len(COLOURS)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[(index + turn) % len(MARKERS)],
        "linestyle": DASHES[turn % len(DASHES)],
    }


def draw_band(ax: "Axes", x: Any, band: xr.Dataset, index: int, label: str | None) -> None:
    """A line with markers through `mean` and the interval from `low` to `high` behind it, over x (n,).

    Where nothing is known, nothing is drawn.
    """
    known = np.flatnonzero(np.isfinite(band["mean"].to_numpy()))
    if not len(known):
        return
    shape = look(index)
    x = np.asarray(x)[known]
    mean, low, high = (band[name].to_numpy()[known] for name in ("mean", "low", "high"))
    ax.plot(x, mean, label=label, markeredgecolor="white", mew=0.5, **shape)
    ax.fill_between(x, low, high, color=shape["color"], alpha=0.18, linewidth=0)


def log_fractions(ax: "Axes", fractions: np.ndarray) -> None:
    """Log x axis over fractions, with ticks that read as percentages."""
    ticks = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    ticks = [t for t in ticks if t >= fractions.min() * 0.95]
    if len(ticks) > 8:
        ticks = [t for t in ticks if f"{t:e}"[0] in "15"]
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{t * 100:g}%" for t in ticks], fontsize=7.5)
    ax.minorticks_off()
    ax.set_xlabel("neurons kept")


def legend_below(figure: "Figure", axes: list[Any]) -> None:
    """One legend below the figure, of the lines of all axes, each name once; none for one line without name.

    As many columns as the figure is wide enough for; the figure grows by the legend's rows, so that neither
    is cut off nor pressed together.
    """
    found = {n: line for ax in axes for line, n in zip(*ax.get_legend_handles_labels(), strict=True)}
    if not found:
        return
    width, height = figure.get_size_inches()
    longest = max(len(name) for name in found) + 6  # the line before the name
    room = LEGEND_CHARACTERS * width / 4.2 * 0.72
    columns = int(max(1, min(len(found), 5, room // longest)))
    rows = -(-len(found) // columns)
    figure.set_size_inches(max(width, min(longest * 0.062 + 0.3, 12)), height + 0.17 * rows)
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=columns, handlelength=2.2
    )


def save(figure: "Figure", path: str | Path) -> Path:
    """Write a figure; the suffix decides the format. The same figure gives the same bytes."""
    path = Path(path).expanduser()
    if path.suffix not in FORMATS:
        raise InputError(f"figure {path} ends in {path.suffix or 'nothing'}: use .svg, .png or .pdf")
    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[path.suffix]
    with styled(), warnings.catch_warnings(), writing(path):
        # a name in a script that the font lacks: boxes in PNG and PDF, and the name itself in SVG
        warnings.filterwarnings("ignore", "Glyph .* missing from", category=UserWarning)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata=dated)
    return path


def plain(name: object, most: int = 60) -> str:
    """A name as one line of text that every format can hold, in the middle cut to `most` characters."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(name).split()))
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"
