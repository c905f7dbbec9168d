"""Sweep: every probe of a plan, computed once, committed block by block to RESULTS."""

import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from probecache.analyze.arguments import memory_bytes
from probecache.analyze.metrics import get_metric
from probecache.analyze.metrics.own import OwnFunction
from probecache.analyze.results.check import DONE
from probecache.analyze.results.lock import may_write
from probecache.analyze.results.write import Results, missing_in, read_grid
from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.cluster.installation import versions
from probecache.analyze.sweeps.cost import Machine, check_fits, project
from probecache.analyze.sweeps.execute import Deadline, Outcome, run_here
from probecache.analyze.sweeps.job import working_memory
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.sweeps.resolved_plan import Sized, check_finite, check_there, machine_for, size_up
from probecache.analyze.sweeps.signature import show_plan
from probecache.analyze.sweeps.task_cache import Cache
from probecache.analyze.tasks.labels import load_labels, splits_of
from probecache.analyze.tasks.load import stays_on_disk
from probecache.store.errors import InputError, ProbecacheError
from probecache.store.progress import Progress, reporting
from probecache.store.torch_defaults import plain_torch

if TYPE_CHECKING:
    from distributed import Client, Future

    from probecache.store.reader import Store

Told = Callable[[int, int], None]  # probes done in this run, probes to do in it


@show_plan
def sweep(
    store: "Store | str | Path",
    *,
    layer: str | Iterable[str],
    fractions: Iterable[float],
    client: "Client | None" = None,
    out: str | Path | None = None,
    device: str = "auto",
    memory_limit: int | str | None = None,
    progress: Progress = None,
    **plan: Any,
) -> xr.Dataset:
    """Fit a probe for every combination of target, layer, selection, shots, fraction, seed and l2.

    Parameters
    ----------
    store
        An open store, or its path.
    layer, fractions
        Names or globs of layers; shares of the neurons, each in (0, 1]: k = max(1, round(fraction * d)).
    client
        A Dask client whose workers compute the blocks. None: this process computes them, in order.
    out
        A folder for RESULTS. If it exists, only what is missing is computed. None: results stay in memory.
    device, memory_limit
        'auto', 'cpu', 'cuda' or 'cuda:N'; bytes per process, or "4GiB" (default: 80% of what is free, or a
        Dask worker's own limit).
    progress
        True: a bar on stderr. A function: called with (done, total) probes of this run, after each block.
        False or None: silent.
    train, test : str
        Splits, or unions such as "train+val".
    target : str or list of str
        What to predict: names or globs.
    seeds : int or list of int
        How many seeds, or which.
    selection : str or list of str
        How neurons are picked: random, first, variance, variance-least, greedy, greedy-worst, pca, pca-least,
        randproj or index:FILE.
    shots : "all", int, float or list of them
        Training rows per class, or shares of them, drawn by the seed.
    probe : str
        The kind of probe: logistic, ridge, knn, sgd, or one that was registered.
    l2 : float, list of float or "auto"
        Penalties. "auto": each probe takes the best of `l2_path` by training rows that its fit does not see,
        or by the split `val`, and is then fitted on all rows; `chosen_l2` says which.
    l2_path, val, refit : list of float, str, str
        With l2="auto": the penalties (None: 1e-6 to 10 in decades), the split that chooses, and what the
        final fit uses, "train" or "train+val".
    solver, standardize : str, bool
        What fits the probes; whether columns are divided by the training rows' standard deviation.
    tol : float
        The relative gap of the objective at which a logistic probe stops.
    metric : str or list of str
        Metrics to add to accuracy.
    save_predictions, groups : bool or "scores", str
        Whether predictions, or scores too, are kept for each test sample; with them, a target that says
        which test samples belong together.
    class_weight : None, "balanced" or {class: weight}
        With weights, the mean over rows becomes a weighted mean.
    control : None, "shuffled" or "random"
        Control labels in place of the real ones.

    Returns
    -------
    xarray.Dataset
        Dimensions (target, layer, selection, shots, fraction, seed, l2), always all seven; variables
        `accuracy`, `objective`, `grad_norm`, `n_iter`, `converged`, `n_neurons`, one per metric,
        `class_accuracy` (.., class), `predictions` and `scores` where kept, `permutation` (layer, seed,
        neuron), `state`.

    Raises
    ------
    InputError
        For wrong input, before anything is written.
    FingerprintMismatch
        If `out` holds a sweep of another store or with other settings.
    ProbecacheError
        If all blocks fail (InputError if the input was wrong for each). A single block that fails three
        times leaves NaN, `state` 2, its error in the attribute `failures`, and a RuntimeWarning.

    Examples
    --------
    >>> results = pc.sweep("features.zarr", layer="late", fractions=[0.5, 1], seeds=2, l2=1e-2)
    >>> results["accuracy"].sel(layer="late", fraction=1).shape  # target, selection, shots, seed, l2
    (1, 1, 1, 2, 1)
    """
    asked = SweepPlan.from_mapping({"layer": layer, "fractions": fractions} | plan, "sweep()")
    limit = memory_bytes(memory_limit)
    if out is not None and not isinstance(out, str | os.PathLike):
        raise InputError(f"got out {out!r}; needed: the path of a folder")
    with reporting(progress) as told:
        return run_plan(asked, store, Running(client, out, device, limit, told))


@dataclass(frozen=True)
class Running:
    """How a plan is computed: on what, into what, for how long, and who is told.

    block_seconds: how long a block should take (default: the cost model's choice). cache: layers that stay in
    this process for the next plan. seconds: after which the run ends, whole blocks committed. tell: takes a
    line for the user, of what was damaged and which workers are set aside.
    """

    client: "Client | None" = None
    out: str | Path | None = None
    device: str = "auto"
    memory_limit: int | None = None
    progress: Told | None = None
    block_seconds: float | None = None
    cache: Cache | None = None
    seconds: float | None = None
    tell: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Ran:
    """What a run gave: the plan's results, how many blocks it had to do, which of them failed, and how many
    probes it left to do because its time was over.
    """

    results: xr.Dataset
    blocks: int
    failed: tuple[Outcome, ...]
    left: int

    @property
    def failures(self) -> str:
        """The failed blocks in one line, or an empty text."""
        if not self.failed:
            return ""
        first = self.failed[0]
        return f"{len(self.failed)} of {self.blocks} blocks failed; first {first.block}: {first.error}"


def run_plan(plan: SweepPlan, store: "Store | str | Path", how: Running | None = None) -> xr.Dataset:
    """`sweep` for a plan; lines for the user become warnings."""
    how = replace(how or Running(), tell=lambda line: warnings.warn(line, RuntimeWarning, stacklevel=4))
    ran = execute(size_up(plan, store), how)
    if ran.failed:
        warnings.warn(ran.failures, RuntimeWarning, stacklevel=3)
    return ran.results


@plain_torch()
def execute(sized: Sized, how: Running) -> Ran:
    """Compute what is missing of a plan. Whatever is refused is refused before anything is written."""
    plan, client, out = sized.plan, how.client, how.out
    check_there(plan.solver, how.device, client)
    check_finite(sized)
    machine = machine_for(client, how.device, how.memory_limit)
    deadline, begun = Deadline(how.seconds), time.perf_counter()
    wanted = missing_in(out, sized.grid, sized.settings)
    if plan.train != plan.test and (both := set(splits_of(plan.train)) & set(splits_of(plan.test))):
        how.tell(f"split {', '.join(sorted(both))} is in train {plan.train!r} and in test {plan.test!r}")
    if out is not None and not wanted.any() and not may_write(out):  # nothing is left, and nothing to write
        return Ran(read_grid(out, sized.grid), 0, (), 0)
    planned = project(sized.blocks(wanted, machine, how.block_seconds), sized.layers, machine, plan.kind)
    check_fits(planned, machine)
    temporary = tempfile.TemporaryDirectory() if out is None else nullcontext(str(out))
    with (
        temporary as folder,
        Results(
            Path(folder) / "results.zarr" if out is None else out, sized.grid, sized.settings, sized.about
        ) as results,
    ):
        if results.damages:
            how.tell(
                f"{out} is damaged: {results.damages[0]}, {len(results.damages)} pieces in all; "
                "exactly those are computed again"
            )
        losses = [name for name in plan.metric if not get_metric(name).higher_is_better]
        results.describe(
            {"targets": _targets(results, sized)} | ({"losses": ", ".join(losses)} if losses else {})
        )
        blocks = sized.blocks(results.missing(sized.grid), machine, how.block_seconds)
        # on a cluster each worker knows its own limit
        job = sized.job(how.device, machine.memory if client is None else how.memory_limit)
        if client is None:
            outcomes = run_here(blocks, job, sized.store, how.cache, deadline)
        else:
            from probecache.analyze.sweeps.cluster.execute import run_on

            resources = {"GPU": 1.0} if machine.device == "gpu" else None
            moments = shared_moments(sized, blocks, machine, client)
            outcomes = run_on(client, blocks, job, resources, moments, deadline, how.tell)
        failed = _collect(outcomes, results, blocks, how.progress)
        if blocks:
            results.settle()
            before = float(results.attributes().get("seconds", 0))
            results.describe({"seconds": before + time.perf_counter() - begun})
        if failed and len(failed) == len(blocks):
            kind = InputError if all(outcome.wrong_input for outcome in failed) else ProbecacheError
            raise kind(f"all {len(failed)} blocks failed; the first, {failed[0].block}: {failed[0].error}")
        left = int(results.missing(sized.grid).sum()) - sum(outcome.block.n_probes for outcome in failed)
        found = results.read(sized.grid)
        for line in _without_number(found, plan.metric):
            how.tell(line)
        return Ran(found, len(blocks), tuple(failed), left)


def _without_number(results: xr.Dataset, metrics: Sequence[str]) -> Iterator[str]:
    """A line for each metric of the user's own that gave NaN or infinities where probes were fitted."""
    done = results["state"].values == DONE
    for name in metrics:
        if isinstance(get_metric(name).function, OwnFunction):
            wrong = int((done & ~np.isfinite(results[name].values)).sum())
            if wrong:
                yield f"metric {name!r} gave NaN or an infinite number for {wrong:,} of {done.sum():,} probes"


def _targets(results: Results, sized: Sized) -> str:
    """What each target of RESULTS is, and the names of its classes, labels or columns, as JSON."""
    there = json.loads(results.attributes().get("targets", "{}"))
    names = dict(zip(sized.grid.target, sized.grid.names, strict=True))
    return json.dumps(there | {t: {"kind": sized.kinds[t], "names": names[t]} for t in sized.grid.target})


def shared_moments(
    sized: Sized, blocks: list[Block], machine: Machine, client: "Client"
) -> "dict[str, Future]":
    """The moments of each layer that is too large for a worker's memory, being summed up by all workers."""
    from probecache.analyze.sweeps.cluster.moments import moments_on

    plan, limit = sized.plan, working_memory(machine.memory)
    large = {b.layer for b in blocks if stays_on_disk(sized.layers[b.layer].loaded, limit)}
    redrawn = plan.control is not None or plan.val is not None or "+" in plan.train
    # the shared pass takes no weights, and serves the labels that came with the rows of one split
    if not large or plan.class_weight is not None or redrawn or "label" not in plan.target:
        return {}
    found = load_labels(sized.store, plan.train, plan.test)
    labels = np.full(len(found.train_keep), -1, np.int32)
    labels[found.train_keep] = found.train
    return {
        layer: moments_on(client, sized.store, plan.train, layer, labels, plan.standardize)
        for layer in sorted(large)
    }


def _collect(
    outcomes: Iterable[Outcome], results: Results, blocks: list[Block], progress: Told | None
) -> list[Outcome]:
    """Commit outcomes as they come; the failed ones."""
    done, total = 0, sum(block.n_probes for block in blocks)
    failed: list[Outcome] = []
    # what ran earlier is in the attributes: a resumed sweep names both machines, and both installations
    apart = {"solver": ", ", "device": ", ", "versions": "; "}
    known = results.attributes()
    ran = {name: set(known[name].split(mark)) for name, mark in apart.items() if name in known}
    for outcome in outcomes:
        if outcome.values is None:
            for one in outcome.block.apart():
                results.fail(one, outcome.error)
            failed.append(outcome)
        else:
            attrs = {"versions": versions()} | outcome.values.pop("attrs")
            for i, one in enumerate(outcome.block.apart()):
                results.commit(one, {name: values[i] for name, values in outcome.values.items()})
            seen = {name: ran.get(name, set()) | {str(attrs[name])} for name in apart if name in attrs}
            if seen != ran:
                ran = seen
                results.describe({name: apart[name].join(sorted(values)) for name, values in ran.items()})
        done += outcome.block.n_probes
        if progress is not None:
            progress(done, total)
    return failed
