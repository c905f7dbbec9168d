"""CKA of random subsets with the full layer, and of two subsets of one size."""

from typing import TYPE_CHECKING

import xarray as xr

from probecache.analyze.findings.summary import bounds_of, seed_band
from probecache.analyze.plot.style import axes_for, draw_band, log_fractions, plain, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {
    "cka": "with the full layer",
    "cka_debiased": "with the full layer, debiased",
    "cka_pair": "two subsets of one size",
}


def similarity(found: xr.Dataset, *, ax: "Axes | None" = None) -> "Axes":
    """Linear CKA of what `cka` returned against the share of neurons kept: means and 95% intervals."""
    with styled():
        ax = axes_for(ax, width=4.5)
        for i, (name, label) in enumerate(LABELS.items()):
            values = found[name].rename(pair="seed") if "pair" in found[name].dims else found[name]
            if values.sizes["seed"]:
                draw_band(ax, found["fraction"], seed_band(values, within=bounds_of(name)), i, label)
        log_fractions(ax, found["fraction"].to_numpy())
        ax.set_ylim(min(0.0, float(ax.dataLim.y0)), 1.03)  # debiased CKA may be below 0
        ax.set_ylabel("linear CKA")
        ax.set_title(plain(found.attrs.get("layer", "")), loc="left", fontweight="bold")
    return ax
