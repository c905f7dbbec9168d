"""The redundancy-performance frontier: how much of a layer can go, at what score, over layers, backbones
and tasks.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from probecache.analyze.findings.chance_level import at_chance
from probecache.analyze.findings.redundancy import redundancy
from probecache.analyze.findings.score import score_of
from probecache.analyze.findings.summary import pick_l2, usual_task

DELTAS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0)
BOUNDS = ("dr", "dr_low", "dr_high", "critical_mass")


def pareto(
    studies: Mapping[str, xr.Dataset],
    *,
    deltas: Sequence[float] = DELTAS,
    task_of: Mapping[str, str] | None = None,
    selection: str = "random",
) -> xr.Dataset:
    """For each study, layer and delta: DR, and the mean score at the critical mass; and which points no
    other beats.

    A point is on the frontier of its task where no other point of that task has both at least its DR and at
    least its score, and more of one. `studies` maps a name to RESULTS; `task_of` maps the name to its task,
    by default all are one task. Points that never reach delta are left out. Points of a layer at chance
    (`chance_level`) are there, but neither on the frontier nor a rival of those that are: a layer
    that knows nothing loses nothing, and has a DR near 1.

    Returns a Dataset along `point`: `dr` (with `dr_low`, `dr_high`), `score`, `critical_mass`, `at_chance`
    and `frontier` (bool), with the coordinates `study`, `task`, `layer`, `delta`.
    """
    rows = []
    for name, task, results in _by_target(studies, task_of or {}):
        results = pick_l2(results)
        if "selection" in results.dims:
            results = results.sel(
                {
                    "selection": [
                        selection if selection in results["selection"] else results["selection"].values[0]
                    ]
                }
            )
        found, chance = redundancy(results, deltas), at_chance(results)
        mean = score_of(results).mean("seed")
        layers = found["layer"].values if "layer" in found.dims else [""]
        for layer in layers:
            part = found.sel(layer=layer) if layer else found
            curve = mean.sel(layer=layer) if layer else mean
            curve = curve.squeeze([d for d in curve.dims if d != "fraction"], drop=True)
            part = part.isel({"selection": 0}) if "selection" in part.dims else part
            guesses = bool((chance.sel(layer=layer) if layer else chance).squeeze())
            for delta in deltas:
                cell = part.sel(delta=delta)
                if np.isfinite(cell["critical_mass"]):
                    score = float(curve.sel(fraction=cell["critical_fraction"], method="nearest"))
                    bounds = [float(cell[v]) for v in BOUNDS]
                    rows.append((name, task, str(layer), float(delta), score, *bounds, guesses))
    names = ("study", "task", "layer", "delta", "score", *BOUNDS, "at_chance")
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    out = xr.Dataset({n: ("point", np.asarray(c)) for n, c in zip(names, columns, strict=True)})
    out["at_chance"] = out["at_chance"].astype(bool)
    out["frontier"] = (
        "point",
        frontier(
            out["dr"].to_numpy(),
            out["score"].to_numpy(),
            out["task"].to_numpy(),
            ~out["at_chance"].to_numpy(),
        ),
    )
    out["dr"].attrs = {"long_name": "diffused redundancy", "units": "1"}
    out["score"].attrs = {"long_name": "mean score at the critical mass", "units": "1"}
    return out.set_coords(["study", "task", "layer", "delta"])


def _by_target(
    studies: Mapping[str, xr.Dataset], task_of: Mapping[str, str]
) -> Iterator[tuple[str, str, xr.Dataset]]:
    """(study, task, results of one target and one number of shots): every target is a task of its own."""
    for name, results in studies.items():
        task = task_of.get(name, "")
        targets = [str(v) for v in np.ravel(results["target"])] if "target" in results.coords else [""]
        for i, target in enumerate(targets):
            one = results.isel(target=i) if "target" in results.dims else results
            words = [w for w in (task, target if len(targets) > 1 else "") if w]
            yield name, ": ".join(words), usual_task(one)


def legible(points: xr.Dataset, most: int = 8) -> xr.Dataset:
    """`points` whole, or, where a task has more than `most` lines, of each study's late layer alone.

    The late layer is `penultimate`, else the last one named.
    """
    lines = {(str(t), n) for t, n in zip(points["task"].values, line_names(points), strict=True)}
    counts = [sum(task == t for t, _ in lines) for task in {t for t, _ in lines}]
    if max(counts, default=0) <= most:
        return points
    late: dict[str, str] = {}
    for study, layer in zip(points["study"].values, points["layer"].values, strict=True):
        if late.get(study) != "penultimate":
            late[study] = str(layer)
    kept = [late[s] == n for s, n in zip(points["study"].values, points["layer"].values, strict=True)]
    return points.isel(point=np.flatnonzero(kept))


def line_names(points: xr.Dataset) -> list[str]:
    """The line that each point belongs to: study and layer, without the task that both share, and whether it
    is at chance.
    """
    parts = zip(*(points[n].values for n in ("study", "task", "layer", "at_chance")), strict=True)
    return [
        f"{str(study).removesuffix(f' / {task}')} / {layer}{' (at chance)' if guesses else ''}"
        for study, task, layer, guesses in parts
    ]


def frontier(x: np.ndarray, y: np.ndarray, group: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which points no other of their group beats in both x and y (more is better), bool (n,).

    Points where `counts` is False neither beat others nor are on the frontier.
    """
    at_least = (x[None] >= x[:, None]) & (y[None] >= y[:, None])
    more = (x[None] > x[:, None]) | (y[None] > y[:, None])
    rivals = counts[None] & (group[None] == group[:, None])
    return counts & ~(at_least & more & rivals).any(1)
