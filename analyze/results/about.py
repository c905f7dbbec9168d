"""What `probecache info` says about RESULTS: what was swept, how much of it is there, whether it is whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from probecache.analyze.results.check import DONE, FAILED, check
from probecache.analyze.results.mend import readable
from probecache.analyze.results.saved import check_saved, is_saved
from probecache.analyze.results.verify import verify_results
from probecache.store.errors import DamagedStore

_SHOWN = 12  # values of a dimension that a line names
_SETTINGS = ("probe", "train", "test", "standardize", "tol", "solver", "device", "store", "versions")


def describe_results(path: str) -> dict[str, Any]:
    """RESULTS as JSON values: dimensions, targets, metrics, probes by state, settings, damages.

    What `cka` or `compare` wrote has attributes and damages alone. Rows of predictions and scores are not
    read: `probecache verify` does. InputError where the path holds no RESULTS of this format, DamagedStore
    where not even their grid can be read.
    """
    if is_saved(Path(path)):
        attributes, damages = check_saved(Path(path))
        plain = {k: v for k, v in attributes.items() if k != "results"}
        return {"path": path, "kind": "saved", "attributes": plain, "damages": list(map(str, damages))}
    _, _, lost = readable(Path(path))
    if lost:
        raise DamagedStore("; ".join(verify_results(path)))
    found = check(path)
    grid, attributes = found.grid, found.attributes
    settings = json.loads(attributes["settings"])
    state, converged = found.values["state"], found.values["converged"].astype(bool)
    done = (state == DONE) & ~found.lost
    targets = json.loads(attributes.get("targets", "{}"))
    kept = [name for name, there in (("predictions", grid.samples), ("scores", grid.scores)) if there]
    dims = ("target", "layer", "selection", "shots", "fraction", "seed", "l2")
    return {
        "path": path,
        "kind": "sweep",
        "dimensions": {dim: list(getattr(grid, dim)) for dim in dims},
        "neurons": dict(zip(grid.layer, grid.neurons, strict=True)),
        "targets": {
            name: {"kind": targets.get(name, {}).get("kind", "unknown"), "names": list(names)}
            for name, names in zip(grid.target, grid.names, strict=True)
        },
        "metrics": list(dict.fromkeys(["accuracy", *grid.metrics])),
        "kept": kept + (["groups"] if grid.groups else []),
        "probes": {
            "planned": int(np.prod(grid.shape)),
            "done": int(done.sum()),
            "failed": int((state == FAILED).sum()),
            "not_converged": int((done & ~converged).sum()),
        },
        "settings": {name: attributes[name] for name in _SETTINGS if name in attributes}
        | {k: settings[k] for k in ("control", "val", "refit", "class_weight") if settings.get(k)},
        "failures": [failure["error"] for failure in json.loads(attributes.get("failures", "[]"))],
        "damages": list(map(str, found.damages)),
    }


def lines_of(about: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = [about["path"]]
    if about["kind"] == "saved":
        lines += [f"{name}: {value}" for name, value in about["attributes"].items()]
    else:
        probes = about["probes"]
        share = f"{probes['done']:,} of {probes['planned']:,} done"
        rest = [f"{probes[k]:,} {k.replace('_', ' ')}" for k in ("failed", "not_converged") if probes[k]]
        lines.append(f"probes: {', '.join([share, *rest])}")
        for name, of in about["targets"].items():
            names = f" ({_listed(of['names'])})" if of["names"] else ""
            lines.append(f"target {name}: {of['kind']}{names}")
        for dim, values in about["dimensions"].items():
            if dim == "layer":
                values = [f"{layer} ({about['neurons'][layer]:,} neurons)" for layer in values]
            if dim != "target":
                lines.append(f"{dim}: {_listed(values)}")
        lines.append(f"metrics: {', '.join(about['metrics'])}")
        if about["kept"]:
            lines.append(f"kept: {', '.join(about['kept'])}")
        lines += [f"{name}: {value}" for name, value in about["settings"].items()]
        lines += [f"failed: {error}" for error in dict.fromkeys(about["failures"])]
    lines += [f"damaged: {damage}" for damage in about["damages"]]
    whole = "every seal and checksum fits" if about["kind"] == "saved" else "the seals of all probes fit"
    return lines if about["damages"] else [*lines, whole]


def _listed(values: list[Any]) -> str:
    texts = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
    more = len(texts) - _SHOWN
    return ", ".join(texts) if more <= 0 else f"{', '.join(texts[:_SHOWN])} and {more:,} more"
