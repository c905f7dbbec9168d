"""Critical mass to a stated precision, with an interval, from a tenth of the probes that a grid would take.

f* = the smallest size on a grid whose score, averaged over the seeds' subsets, is at least delta times the
full layer's: what `redundancy` finds in a sweep of all those sizes. `critical.search` finds it with few of
them, and says what is done about curves that do not rise everywhere.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.analyze.arguments import memory_bytes
from probecache.analyze.findings.critical.cells import cells_of, combine
from probecache.analyze.findings.critical.measure import Measure, Probes, Similarity
from probecache.analyze.findings.critical.search import Search
from probecache.analyze.findings.redundancy import check_deltas, critical_dataset
from probecache.analyze.findings.score import require_more_is_better
from probecache.analyze.metrics import METRICS
from probecache.analyze.selections.subsets import check_seeds, sizes
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.sweeps.signature import show_plan
from probecache.store.errors import InputError, close_names
from probecache.store.progress import Progress, reporting
from probecache.store.reader import Store, open_store

if TYPE_CHECKING:
    from distributed import Client

CELLS = ("target", "layer", "selection", "shots", "l2")  # a list of any of these is a dimension of the answer
SIMILARITIES = ("cka", "cka_debiased")
PROJECTIONS = ("pca", "pca-least", "randproj")
COARSEST = 0.5


@show_plan
def critical_mass(
    store: Store | str | Path,
    *,
    layer: str | Sequence[str],
    train: str = "train",
    test: str = "test",
    delta: float | Sequence[float] = 0.9,
    precision: float = 0.01,
    seeds: int | Sequence[int] = 5,
    probe: str = "logistic",
    l2: float | Sequence[float] | str = 1e-4,
    score: str | None = None,
    out: str | Path | None = None,
    client: "Client | None" = None,
    device: str = "auto",
    memory_limit: int | str | None = None,
    confidence: float = 0.95,
    progress: Progress = None,
    **plan: Any,
) -> xr.Dataset:
    """The smallest subset size that keeps delta of the full layer's score, by adaptive search.

    Parameters
    ----------
    store : Store, str or Path
    layer, train, test : str or list of str, str, str
        Several layers are searched one after the other.
    delta : float or list of float
        Shares of the full score to keep, each in (0, 1]; always a dimension of the answer.
    precision : float
        Step of the grid of sizes, as a share of the layer, in (0, 0.5]; where that is less than one neuron,
        one neuron. Every size of the grid can be the answer, few are measured.
    seeds : int or list of int
        A count, or a list. All of them are measured around the crossing, one where it is looked for.
    probe, l2 : str; float, list of float or "auto"
        As in `sweep`.
    score : str or None
        A metric, of which more is better. None: the `metric` that is given, else accuracy, and r2 of numbers.
        "cka" and "cka_debiased": the similarity of subsets of `test`'s columns to the full layer, without
        probes.
    out : str, Path or None
        Folder of RESULTS, made or continued; what is measured there already is not measured again. With CKA
        there is nothing to write.
    client, device, memory_limit
        As in `sweep`.
    confidence : float
        Of the interval over seeds.
    progress : bool, function or None
        True: a bar on stderr. A function: called with (done, total) probes, of which the total grows as the
        search goes on. False or None: silent.
    selection, target, shots, metric, solver, standardize, tol, class_weight, control : see `sweep`
        What else a plan has.
    l2_path, val, refit, save_predictions, groups : see `sweep`
        Likewise.

    Returns
    -------
    xarray.Dataset
        Along `delta`, and along each of target, layer, selection, shots and l2 that was given as a list:
        `critical_mass` (neurons), `critical_fraction` and `dr`, each with `_low` and `_high`: from the sizes
        at which the Student-t interval over seeds of the margin, score - delta * full score, first holds 0
        and first lies above it. NaN with one seed, or a selection that draws nothing. `full_score`,
        `layer_size` (neurons). Attributes: `n_probes`, which the answer rests on; `n_grid`, those of all
        sizes and seeds.

    Raises
    ------
    InputError
        For wrong input, before anything is written, and for a full layer whose score is not above 0.
    ProbecacheError
        Where a probe failed.

    Examples
    --------
    >>> found = pc.critical_mass("features.zarr", layer="late", delta=[0.5, 0.9], precision=0.25, seeds=2)
    >>> found["critical_mass"].dims
    ('delta',)
    """
    store = open_store(store)
    limit = memory_bytes(memory_limit)
    if isinstance(precision, str) or not 0 < precision <= COARSEST:
        raise InputError(f"got precision {precision}; allowed: above 0, up to {COARSEST} of the layer")
    if not 0 < confidence < 1:
        raise InputError(f"got confidence {confidence}; allowed: a coverage in (0, 1), such as 0.95")
    deltas, seed_list = check_deltas(delta), check_seeds(seeds)
    score, plan = _measured(score, plan)
    cells, dims = cells_of({"layer": layer, "l2": l2} | {n: plan.pop(n) for n in CELLS if n in plan})
    with _place(out) as place, reporting(progress) as told:
        told = None if told is None else _joined(told)

        def measure_of(cell: dict[str, Any]) -> Measure:
            if score in SIMILARITIES:
                return Similarity(store, test, str(cell["layer"]), score)
            if cell.get("selection") in PROJECTIONS:
                raise InputError(
                    f"got selection {cell['selection']!r}, which keeps no neurons; allowed: one that picks "
                    "them, such as random"
                )
            asked = {"fractions": (1.0,), "seeds": seed_list, "train": train, "test": test, "probe": probe}
            one = SweepPlan.from_mapping(asked | cell | plan, "critical_mass")
            return Probes(one, store, score, place, client, device, limit, told)

        measures = [measure_of(cell) for cell in cells]  # what is wrong is refused before the first probe
        searches, parts = [], []
        for cell, measure in zip(cells, measures, strict=True):
            size = store.shape(test.split("+")[0], str(cell["layer"]))[1]
            fractions, ks = grid_sizes(size, precision)
            search = measure.search(len(ks), seed_list, deltas, confidence)
            _run(search, measure, fractions, seed_list, str(cell["layer"]))
            searches.append(search)
            parts.append(_answer(search, ks))
    whole = combine(parts, cells, dims)
    return whole.assign_attrs(
        n_probes=sum(search.n_measured for search in searches),
        n_grid=sum(search.n_grid for search in searches),
        score=", ".join(dict.fromkeys(measure.score for measure in measures)),
        precision=precision,
        seeds=len(seed_list),
        confidence=confidence,
        definition="smallest size on the grid whose mean score over seeds >= delta * the full layer's",
        store=str(store.path),
        train=train,
        test=test,
        probe="none" if score in SIMILARITIES else probe,
    )


@contextmanager
def _place(out: str | Path | None) -> Iterator[Path]:
    """RESULTS of the search: `out`, or a folder that is gone with the context."""
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "results.zarr"


def _run(
    search: Search, measure: Measure, fractions: Sequence[float], seeds: Sequence[int], layer: str
) -> None:
    """Measure what the search asks for until it has found its crossings; InputError for a full score of 0."""
    for at, drawn in search.batches():
        search.record(at, drawn, measure([fractions[j - 1] for j in at], [seeds[s] for s in drawn]))
        if not search.scores[-1, 0] > 0:
            raise InputError(
                f"got {measure.score} {search.scores[-1, 0]:g} of the full layer {layer!r}; "
                "a share of it means something only where it is above 0"
            )


def _joined(told: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Sweeps that follow each other as one: what is done and what is known to be needed only grow."""
    before = last = (0, 0)

    def then(done: int, total: int) -> None:
        nonlocal before, last
        if done <= last[0] or total != last[1]:  # the next sweep has begun
            before = (before[0] + last[0], before[1] + last[1])
        last = (done, total)
        told(before[0] + done, before[1] + total)

    return then


def grid_sizes(d: int, precision: float) -> tuple[list[float], np.ndarray]:
    """Fractions and neurons of every size in steps of `precision` of d neurons, rising, ending with all.

    >>> grid_sizes(8, 0.01)[1].tolist(), grid_sizes(1280, 0.25)[1].tolist()
    ([1, 2, 3, 4, 5, 6, 7, 8], [320, 640, 960, 1280])
    """
    if precision * d < 1:
        ks = np.arange(1, d + 1)
        return [float(f"{k / d:.12g}") for k in ks], ks
    steps = [float(f"{i * precision:.12g}") for i in range(1, math.ceil(1 / precision - 1e-9))]
    return [*steps, 1.0], sizes([*steps, 1.0], d)


def _measured(score: str | None, plan: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """What is searched by, None for the usual score, and the plan with it among its metrics."""
    given = plan.get("metric") or []
    names = [given] if isinstance(given, str) else list(given)
    if score is None and len(names) > 1:
        raise InputError(f"got metrics {', '.join(names)}; name the one to search by with score=")
    score = score or (str(names[0]) if names else None)
    if score in (None, "accuracy", *SIMILARITIES):
        return score, plan
    if score not in METRICS:
        raise InputError(f"got score {score!r}; {close_names(score, [*METRICS, *SIMILARITIES])}")
    require_more_is_better(score)
    return score, plan | {"metric": tuple(dict.fromkeys((*names, score)))}


def _answer(search: Search, ks: np.ndarray) -> xr.Dataset:
    """One cell's Dataset along delta."""
    found = [search.crossing(delta) for delta in search.deltas]

    def neurons(positions: list[int | None]) -> np.ndarray:
        return np.array([np.nan if j is None else float(ks[j - 1]) for j in positions])

    ends = {
        "": neurons([f.at for f in found]),
        "_low": neurons([f.low for f in found]),
        "_high": neurons([f.high for f in found]),
    }
    out = critical_dataset(search.deltas, (), ends, int(ks[-1]))
    out["full_score"] = float(search.scores[-1].mean())
    out["layer_size"] = ((), int(ks[-1]), {"units": "neurons"})
    return out
