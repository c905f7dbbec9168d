"""What is read off the results of one store, and of all of them together, as plain JSON numbers."""

import numpy as np
import xarray as xr

from benchmarks.study.stores import Study
from probecache.analyze.findings.claims import findings
from probecache.analyze.findings.redundancy import redundancy
from probecache.analyze.findings.summary import late_layer_last, usual_task
from probecache.analyze.geometry.geometry import MEASURES
from probecache.analyze.geometry.relation import relation

CUTS = (0.005, 0.25, 0.5)  # what the paper's successors keep


def outline(study: Study, results: xr.Dataset, similarity: xr.Dataset) -> dict[str, object]:
    """The numbers of one store for the tables, and its findings."""
    results = usual_task(late_layer_last(results))
    layer = str(results["layer"].values[-1])
    found = redundancy(results, [0.9, 0.95]).sel({"selection": "random"}).squeeze(drop=True)
    main = found.sel(layer=layer) if "layer" in found.dims else found
    curves = results["accuracy"].sel(layer=layer).mean("seed").isel(l2=0, drop=True)
    near = curves.sel(fraction=0.2, method="nearest")
    at = similarity.sel(fraction=0.2, method="nearest")
    done = results["accuracy"].notnull()
    return {
        "image_size": study.image_size,
        "layer": layer,
        "neurons": int(main["layer_size"]),
        "full_accuracy": float(main["full_score"]),
        "accuracy_at_20%": float(near.sel({"selection": "random"})),
        "fraction": float(near["fraction"]),
        "methods_at_20%": {str(m): _plain(near.sel({"selection": m})) for m in near["selection"].values},
        "critical_mass": {str(float(d)): float(main["critical_mass"].sel(delta=d)) for d in (0.9, 0.95)},
        "dr": {str(float(d)): float(main["dr"].sel(delta=d)) for d in (0.9, 0.95)},
        "dr_interval_0.9": [float(main["dr_low"].sel(delta=0.9)), float(main["dr_high"].sel(delta=0.9))],
        "dr_of_layers": {
            str(name): _plain(redundancy(results.sel(layer=name), 0.9)["dr"].sel({"selection": "random"}))
            for name in results["layer"].values
        },
        "cka_at_20%": float(at["cka"].mean()),
        "cka_dr_0.9": float(redundancy(similarity, 0.9)["dr"]),
        "probes": int(done.sum()),
        "probes_not_converged": int((done & (results["converged"].astype(int) == 0)).sum()),
        "seconds": float(results.attrs.get("seconds", np.nan)),
        "findings": [
            {"topic": f.topic, "text": f.text, "claim": f.claim, "agrees": f.agrees}
            for f in findings(results)
        ],
    }


def extras(
    mass: xr.Dataset, neurons: xr.Dataset, shape: xr.Dataset, results: xr.Dataset
) -> dict[str, object]:
    """What the study has beyond the paper's: f* to 1%, the successors' cuts, degrading neurons, geometry."""
    late = usual_task(late_layer_last(results)).isel(layer=-1, l2=0)
    curve = late["accuracy"].sel({"selection": "random"}).mean("seed")
    full = float(curve.sel(fraction=1.0))
    return {
        "critical": {
            str(float(d)): {
                "neurons": float(mass["critical_mass"].sel(delta=d)),
                "interval": [float(mass[f"critical_mass_{end}"].sel(delta=d)) for end in ("low", "high")],
                "dr": float(mass["dr"].sel(delta=d)),
                "dr_interval": [float(mass[f"dr_{end}"].sel(delta=d)) for end in ("low", "high")],
            }
            for d in mass["delta"].values
        },
        "critical_probes": [int(mass.attrs["n_probes"]), int(mass.attrs["n_grid"])],
        "kept_at": {str(cut): float(curve.sel(fraction=cut)) / full for cut in CUTS},
        "neurons_alone": {
            name: float(neurons[name])
            for name in ("full_score", "degrading_share", "helping_share", "degrading_beyond_noise")
        }
        | {"loss_degrading_share": float((neurons["loss_change"] < 0).mean())},
        "geometry": {
            str(layer): {m: float(shape[m].sel(layer=layer)) for m in (*MEASURES, "neurons")}
            for layer in shape["layer"].values
        },
    }


def few_rows(mass: xr.Dataset) -> dict[str, dict[str, object]]:
    """The critical mass and DR at each number of training rows per class, with their intervals."""
    out: dict[str, dict[str, object]] = {}
    for shots in mass["shots"].values:
        at = mass.sel(shots=shots, delta=0.9)
        out[str(shots)] = {
            "full_accuracy": float(at["full_score"]),
            "neurons": float(at["critical_mass"]),
            "dr": float(at["dr"]),
            "dr_interval": [float(at["dr_low"]), float(at["dr_high"])],
        }
    return out


def related(studies: dict[str, tuple[xr.Dataset, xr.Dataset]]) -> dict[str, object]:
    """Rank correlation of geometry with DR over all layers of all stores, with its interval."""
    drs = {
        name: (shape, redundancy(usual_task(results), 0.9)["dr"].sel({"selection": "random"}).isel(l2=0))
        for name, (shape, results) in studies.items()
    }
    if sum(int(np.isfinite(dr).sum()) for _, dr in drs.values()) < 3:
        return {}
    found = relation(drs)
    rows = {
        str(m): [float(found[v].sel(measure=m)) for v in ("rho", "rho_low", "rho_high")] for m in MEASURES
    }
    return {"layers": found.attrs["points"], "stores": found.attrs["studies"], "rho": rows}


def _plain(value: xr.DataArray) -> float | None:
    """A JSON number; None where nothing was measured."""
    number = float(value.squeeze())
    return number if np.isfinite(number) else None
