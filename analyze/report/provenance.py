"""What made the numbers, for a reader who wants to make them again."""

import json

import xarray as xr

from probecache.analyze.findings.score import score_of

FIRST = ("backbone", "model", "data_set", "dataset", "data", "store", "train", "test", "probe")
LEFT_OUT = frozenset(("settings", "failures"))


def provenance(results: xr.Dataset) -> dict[str, str]:
    """Backbone, data and store first, then the size of the sweep and every other attribute, as text."""
    attrs = {str(k): v for k, v in results.attrs.items() if k not in LEFT_OUT}
    score = score_of(results)
    swept = {"probes": f"{int(score.notnull().sum()):,}"}
    for dim in ("target", "layer", "selection", "shots", "seed", "l2"):
        if dim in results.coords:
            swept[dim] = ", ".join(
                f"{v:g}" if isinstance(v, float) else str(v) for v in results[dim].values.tolist()
            )
    fractions = results["fraction"].values
    swept["fraction"] = f"{len(fractions)}, {fractions.min():g} to {fractions.max():g}"
    ordered = {k: _text(k, attrs[k]) for k in FIRST if k in attrs}
    ordered |= swept | {k: _text(k, v) for k, v in attrs.items() if k not in ordered}
    return {name: value for name, value in ordered.items() if value}


def _text(name: str, value: object) -> str:
    if name == "seconds":
        return f"{float(value):.1f}"  # type: ignore[arg-type]
    return value if isinstance(value, str) else json.dumps(value, default=str)
