"""What `probecache critical` prints: a line per cell and delta, and what it took."""

import numpy as np
import xarray as xr


def tell_critical(found: xr.Dataset) -> str:
    """The table of a Dataset that `critical_mass` returned, and how many probes it rests on."""
    dims = [str(d) for d in found["critical_mass"].dims if d != "delta"]
    lines = [f"{'delta':>6} {'full':>7} {'critical mass':>14} {'95% interval':>14} {'DR':>6}  interval"]
    stacked = found.stack(cell=dims) if dims else found.expand_dims("cell")
    for i in range(stacked.sizes["cell"]):
        cell = stacked.isel(cell=i)
        name = ", ".join(str(cell[d].item()) for d in dims)
        for delta in found["delta"].values:
            at = cell.sel(delta=delta)
            low, high = float(at["critical_mass_low"]), float(at["critical_mass_high"])
            known = not np.isnan(low)
            span = f"{low:.0f} to {high:.0f}" if known else "one seed"
            dr = f"{float(at['dr_low']):.3f} to {float(at['dr_high']):.3f}" if known else ""
            lines.append(
                f"{delta:6g} {float(at['full_score']):7.4f} {float(at['critical_mass']):14.0f} {span:>14} "
                f"{float(at['dr']):6.3f}  {dr:14}  {name}".rstrip()
            )
    probed, grid = int(found.attrs["n_probes"]), int(found.attrs["n_grid"])
    what = "subsets" if found.attrs["probe"] == "none" else "probes"
    step = f"{100 * found.attrs['precision']:g}% of the layer"
    lines.append(f"{probed:,} {what}; a grid in steps of {step} takes {grid:,} ({probed / grid:.0%})")
    return "\n".join(lines)
