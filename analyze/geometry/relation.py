"""Does redundancy go with geometry? Rank correlations over layers, backbones and tasks."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from probecache.analyze.geometry.geometry import MEASURES
from probecache.store.errors import InputError


def relation(
    studies: Mapping[str, tuple[xr.Dataset, xr.DataArray]],
    *,
    per_neuron: bool = True,
    draws: int = 2000,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Spearman's correlation of each measure of geometry with DR, over all layers of all studies.

    studies: by name, what `geometry` returned, and DR along `layer`; layers that only one of the two has are
    left out, as are those without a DR. per_neuron: dimensions as shares of the layer, so that a wide layer
    is not redundant for being wide.

    Returns `rho`, `rho_low` and `rho_high` (percentiles over resampled whole studies, since the layers of
    one store are not independent; NaN for one study) along `measure`; `dr` and the measures along
    `point`, with the coordinates `study` and `layer`.
    """
    rows = []
    for name, (shape, dr) in studies.items():
        for layer in shape["layer"].values:
            if layer in dr["layer"].values and np.isfinite(dr.sel(layer=layer)):
                at = shape.sel(layer=layer)
                d = float(at["neurons"]) if per_neuron else 1.0
                values = [float(at[m]) / (1.0 if m == "isoscore" else d) for m in MEASURES]
                rows.append((name, str(layer), float(dr.sel(layer=layer)), *values))
    if len(rows) < 3:
        raise InputError(f"got {len(rows)} layers with both geometry and DR; a correlation needs 3")
    table = np.array([row[2:] for row in rows], np.float64)  # (point, 1 + measures)
    owner = np.array([row[0] for row in rows])
    names = list(dict.fromkeys(owner.tolist()))
    rho = _spearman(table)
    low = high = np.full(len(MEASURES), np.nan)
    if len(names) > 1:
        rng, members = np.random.default_rng(0), [np.flatnonzero(owner == n) for n in names]
        picks = (
            np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))])
            for _ in range(draws)
        )
        tail = (1 - confidence) / 2
        low, high = np.nanquantile([_spearman(table[p]) for p in picks], [tail, 1 - tail], axis=0)
    out = xr.Dataset(
        {"rho": ("measure", rho), "rho_low": ("measure", low), "rho_high": ("measure", high)},
        coords={
            "measure": list(MEASURES),
            "study": ("point", owner),
            "layer": ("point", [r[1] for r in rows]),
        },
    )
    for i, name in enumerate(("dr", *MEASURES)):
        out[name] = ("point", table[:, i])
    return out.assign_attrs(points=len(rows), studies=len(names), per_neuron=str(per_neuron))


def _spearman(table: np.ndarray) -> np.ndarray:
    """Correlation of the ranks of column 0 with those of each other column; NaN where one is constant."""
    from scipy.stats import rankdata

    ranks = rankdata(table, axis=0)
    ranks = ranks - ranks.mean(0)
    norms = np.sqrt((ranks**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranks[:, :1] * ranks[:, 1:]).sum(0) / (norms[0] * norms[1:])
