"""Sweep: every probe of a plan, computed once, committed block by block to RESULTS."""

import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from probecache.analyze.probes.kind import TOL
from probecache.analyze.results.write import Results
from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.cost import Machine, check_fits, project
from probecache.analyze.sweeps.execute import Outcome, run_here, run_on
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.sweeps.resolved_plan import Sized, check_finite, check_there, machine_for, size_up
from probecache.analyze.sweeps.worker import Cache, working_memory
from probecache.analyze.tasks.class_weights import ClassWeight
from probecache.analyze.tasks.labels import load_labels
from probecache.analyze.tasks.task import stays_on_disk
from probecache.store.errors import InputError, ProbecacheError

if TYPE_CHECKING:
    from distributed import Client, Future

    from probecache.store.reader import Store

Progress = Callable[[int, int], None]  # probes done in this run, probes to do in it


def sweep(
    store: "Store | str | Path",
    *,
    layer: str | Iterable[str],
    train: str = "train",
    test: str = "test",
    fractions: Iterable[float],
    seeds: int | Iterable[int] = 5,
    selection: str | Iterable[str] = "random",
    probe: str = "logistic",
    l2: float | str | Iterable[float] = 1e-4,
    client: "Client | None" = None,
    out: str | Path | None = None,
    solver: str = "auto",
    standardize: bool = True,
    l2_path: Iterable[float] | None = None,
    class_weight: ClassWeight = None,
    tol: float = TOL,
    device: str = "auto",
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Probe every combination of layer, selection, fraction, seed and l2, and return what each one scored.

    Dimensions (target, layer, selection, shots, fraction, seed, l2), always all seven; variables `accuracy`,
    `objective`, `grad_norm`, `n_iter`, `converged`, `n_neurons`, `class_accuracy` (.., class), `permutation`
    (layer, seed, neuron), `state`.
    fractions: each in (0, 1]; k = max(1, round(fraction * d)). seeds: a count, or a list of seeds.
    l2="auto": each probe takes the best of `l2_path` (default 1e-6 to 10 in decades) by training rows that
    its fit does not see, and is fitted with it on all; the coordinate l2 is "auto", `chosen_l2` says which.
    class_weight: 'balanced', or class names with weights; the objective's mean is then a weighted mean.
    tol: the relative gap of the objective at which a logistic probe has converged.
    client: a Dask client whose workers compute the blocks; None computes the same blocks here, in order.
    out: a folder for RESULTS; where it exists, only what is missing is computed and the rest is kept.
    memory_limit: bytes per process (default: 80% of what is free, or a Dask worker's own limit).
    progress: called with (done, total) probes of this run, after each block.
    Raises InputError for wrong input, before anything is written; FingerprintMismatch where `out` holds a
    sweep of another store or with other settings. A block that fails three times leaves NaN and `state` 2
    behind, its error in the attribute `failures`, and a RuntimeWarning; if all fail, ProbecacheError, or
    InputError where the input was wrong for each.
    """
    plan = SweepPlan(
        layer,  # type: ignore[arg-type]
        fractions,  # type: ignore[arg-type]
        train,
        test,
        seeds,  # type: ignore[arg-type]
        selection,  # type: ignore[arg-type]
        probe,
        l2,  # type: ignore[arg-type]
        solver,
        standardize,
        l2_path,  # type: ignore[arg-type]
        class_weight,
        tol,
    )
    return run_plan(
        plan, store, client=client, out=out, device=device, memory_limit=memory_limit, progress=progress
    )


def run_plan(
    plan: SweepPlan,
    store: "Store | str | Path",
    *,
    client: "Client | None" = None,
    out: str | Path | None = None,
    device: str = "auto",
    memory_limit: int | None = None,
    progress: Progress | None = None,
    block_seconds: float | None = None,
    cache: Cache | None = None,
) -> xr.Dataset:
    """`sweep` for a plan. block_seconds: how long a block should take (default: the cost model's choice).
    cache: layers that stay in this process for the next plan.
    """
    sized = size_up(plan, store)
    check_there(plan.solver, device, client)
    check_finite(sized)
    machine = machine_for(client, device, memory_limit)
    temporary = tempfile.TemporaryDirectory() if out is None else nullcontext(str(out))
    begun = time.perf_counter()
    with (
        temporary as folder,
        Results(Path(folder) / "results.zarr" if out is None else out, sized.grid, sized.settings) as results,
    ):
        blocks = sized.blocks(results.missing(sized.grid), machine, block_seconds)
        check_fits(project(blocks, sized.layers, machine, plan.kind), machine)
        # on a cluster each worker knows its own limit
        job = sized.job(device, machine.memory if client is None else memory_limit)
        resources = {"GPU": 1.0} if machine.device == "gpu" else None
        outcomes = (
            run_here(blocks, job, sized.store, cache)
            if client is None
            else run_on(client, blocks, job, resources, shared_moments(sized, blocks, machine, client))
        )
        failed = _collect(outcomes, results, blocks, progress)
        if blocks:
            results.settle()
            results.describe({"versions": versions()})
            before = float(results.attributes().get("seconds", 0))
            results.describe({"seconds": before + time.perf_counter() - begun})
        if failed and len(failed) == len(blocks):
            kind = InputError if all(outcome.wrong_input for outcome in failed) else ProbecacheError
            raise kind(f"all {len(failed)} blocks failed; the first, {failed[0].block}: {failed[0].error}")
        if failed:
            warnings.warn(
                f"{len(failed)} of {len(blocks)} blocks failed; first {failed[0].block}: {failed[0].error}",
                RuntimeWarning,
                stacklevel=3,
            )
        return results.read(sized.grid)


def shared_moments(
    sized: Sized, blocks: list[Block], machine: Machine, client: "Client"
) -> "dict[str, Future]":
    """The moments of each layer that is too large for a worker's memory, being summed up by all workers."""
    from probecache.analyze.sweeps.distributed_moments import moments_on

    plan, limit = sized.plan, working_memory(machine.memory)
    large = {b.layer for b in blocks if stays_on_disk(sized.layers[b.layer].loaded, limit)}
    if not large or plan.class_weight is not None:  # the shared pass takes no weights
        return {}
    found = load_labels(sized.store, plan.train, plan.test)
    labels = np.full(len(found.train_keep), -1, np.int32)
    labels[found.train_keep] = found.train
    return {
        layer: moments_on(client, sized.store, plan.train, layer, labels, plan.standardize)
        for layer in sorted(large)
    }


def versions() -> str:
    """What computed the numbers: name and version of each library that decides them."""
    names = ("probecache", "torch", "numpy", "scikit-learn", "distributed", "zarr", "xarray")
    found = []
    for name in names:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join([f"python {platform.python_version()}", *found])


def _collect(
    outcomes: Iterable[Outcome], results: Results, blocks: list[Block], progress: Progress | None
) -> list[Outcome]:
    """Commit outcomes as they come; the failed ones."""
    done, total = 0, sum(block.n_probes for block in blocks)
    failed: list[Outcome] = []
    # what ran earlier is in the attributes: a resumed sweep names both machines
    ran = {k: set(v.split(", ")) for k, v in results.attributes().items() if k in ("solver", "device")}
    for outcome in outcomes:
        if outcome.values is None:
            results.fail(outcome.block, outcome.error)
            failed.append(outcome)
        else:
            attrs = {
                name: value
                for name, value in outcome.values.pop("attrs").items()
                if name in ("solver", "device")
            }
            results.commit(outcome.block, outcome.values)
            seen = {name: ran.get(name, set()) | {str(value)} for name, value in attrs.items()}
            if seen != ran:
                ran = seen
                results.describe({name: ", ".join(sorted(values)) for name, values in ran.items()})
        done += outcome.block.n_probes
        if progress is not None:
            progress(done, total)
    return failed
