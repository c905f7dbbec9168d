"""What single neurons do for a probe."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from probecache.analyze.plot.style import COLOURS, axes_for, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def attribution(found: xr.Dataset, *, ax: "Axes | None" = None) -> "Axes":
    """What `attribution` found, ranked: the change of the score without each neuron or group.

    Above zero, the score is better without it. The legend has the shares of both sides.
    """
    change = np.sort(found["score_change"].to_numpy())[::-1]
    rank = np.arange(1, len(change) + 1) / len(change)
    sides = {
        "degrading": (change > 0, COLOURS[1]),
        "helping": (change < 0, COLOURS[0]),
    }
    with styled():
        ax = axes_for(ax)
        for name, (side, colour) in sides.items():
            label = f"{name}: {side.mean():.0%}"
            ax.fill_between(
                rank, 0, np.where(side, change, 0), color=colour, alpha=0.8, step="mid", label=label
            )
        ax.axhline(0, color="#555555", linewidth=0.8)
        ax.set_xlabel("neurons, most degrading first" if (found["removed"] == 1).all() else "groups")
        ax.set_ylabel(f"change of {found.attrs.get('metric', 'the score')} without it")
        ax.xaxis.set_major_formatter("{x:.0%}")
        ax.legend(loc="upper right")
    return ax
