"""Sweep: every probe of a plan, computed once, committed block by block to RESULTS."""

import hashlib
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import xarray as xr

from analyze.probes.block import pick_device
from analyze.probes.classweights import ClassWeight, check_named
from analyze.sweeps.blocks import Block, missing_blocks
from analyze.sweeps.cost import (
    LayerSize,
    Machine,
    Projection,
    check_fits,
    expected_seconds,
    product_rate,
    project,
    target_seconds,
)
from analyze.sweeps.grid import Grid
from analyze.sweeps.plan import SweepPlan
from analyze.sweeps.results import Results
from analyze.sweeps.run import Outcome, run_here, run_on
from analyze.sweeps.solvers import check_solver
from analyze.sweeps.worker import Job, layer_digest, working_memory
from analyze.task import load_labels, stays_on_disk
from store.errors import InputError, ProbecacheError, close_names
from store.layout import DTYPES
from store.subset import read_indices

if TYPE_CHECKING:
    from distributed import Client, Future

    from store.reader import Store

Progress = Callable[[int, int], None]  # probes done in this run, probes to do in it


def sweep(
    store: "Store | str | Path",
    *,
    layer: str | Iterable[str],
    train: str = "train",
    test: str = "test",
    fractions: Iterable[float],
    seeds: int | Iterable[int] = 5,
    method: str | Iterable[str] = "random",
    probe: str = "logistic",
    l2: float | str | Iterable[float] = 1e-4,
    client: "Client | None" = None,
    out: str | Path | None = None,
    solver: str = "auto",
    standardize: bool = True,
    l2_path: Iterable[float] | None = None,
    class_weight: ClassWeight = None,
    device: str = "auto",
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Probe every combination of layer, method, fraction, seed and l2, and return what each one scored.

    Dimensions (layer, method, fraction, seed, l2); variables `accuracy`, `objective`, `grad_norm`, `n_iter`,
    `converged`, `n_neurons`, `class_accuracy` (.., class), `permutation` (layer, seed, neuron), `state`.
    fractions: each in (0, 1]; k = max(1, round(fraction * d)). seeds: a count, or a list of seeds.
    l2="auto": each probe takes the best of `l2_path` (default 1e-6 to 10 in decades) by training rows that
    its fit does not see, and is fitted with it on all; the coordinate l2 is "auto", `chosen_l2` says which.
    class_weight: 'balanced', or class names with weights; the objective's mean is then a weighted mean.
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
        method,  # type: ignore[arg-type]
        probe,
        l2,  # type: ignore[arg-type]
        solver,
        standardize,
        l2_path,  # type: ignore[arg-type]
        class_weight,
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
) -> xr.Dataset:
    """`sweep` for a plan. block_seconds: how long a block should take (default: the cost model's choice)."""
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
        check_fits(project(blocks, sized.layers, machine, plan.probe), machine)
        # on a cluster each worker knows its own limit
        job = sized.job(device, machine.memory if client is None else memory_limit)
        resources = {"GPU": 1.0} if machine.device == "gpu" else None
        outcomes = (
            run_here(blocks, job, sized.store)
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


@dataclass(frozen=True)
class Sized:
    """A plan met with its store: checked names, sizes of the layers, the grid of RESULTS."""

    plan: SweepPlan
    store: "Store"
    layers: dict[str, LayerSize]
    grid: Grid
    digests: dict[str, str]

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree with RESULTS: the plan's settings, the store, and each layer's digest."""
        lists = {f"index:{file}": _digest(file) for file in _index_files(self.plan)}
        return self.plan.settings() | {"digests": self.digests | lists}

    def blocks(self, missing: np.ndarray, machine: Machine, target: float | None = None) -> list[Block]:
        def seconds(block: Block) -> float:
            return expected_seconds(block, self.layers[block.layer], machine, self.plan.probe)

        target = target_seconds(self.plan, self.layers, machine) if target is None else target
        return list(missing_blocks(self.plan, missing, seconds, target))

    def job(self, device: str, memory: int | None) -> Job:
        plan = self.plan
        return Job(
            os.path.abspath(self.store.path) if "://" not in str(self.store.path) else str(self.store.path),
            plan.train,
            plan.test,
            plan.probe,
            plan.solver,
            plan.standardize,
            device,
            memory,
            tuple(self.digests.items()),
            plan.class_weight,  # type: ignore[arg-type]
        )


def _index_files(plan: SweepPlan) -> list[str]:
    return [name.removeprefix("index:") for name in plan.method if name.startswith("index:")]


def _digest(file: str) -> str:
    """SHA-256 of a file of neuron numbers: a list that was edited is another method."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def size_up(plan: SweepPlan, store: "Store | str | Path") -> Sized:
    """Check the plan against the store, reading labels and shapes only."""
    if isinstance(store, str | Path):
        from store.reader import open_store

        store = open_store(store)
    for name in (plan.train, plan.test):
        if name not in store.splits:
            raise InputError(
                f"got split {name!r}; {store.path} has no such split: {close_names(name, store.splits)}"
            )
        for layer in plan.layer:
            if layer not in store.layers_of(name):
                there = close_names(layer, store.layers_of(name))
                raise InputError(f"got layer {layer!r}; split {name!r} has no such layer: {there}")
    labels = load_labels(store, plan.train, plan.test)
    check_named(plan.class_weight, labels.classes)
    layers = {}
    for layer in plan.layer:
        n, d = store.shape(plan.train, layer)
        itemsize = DTYPES[store.layer_info(plan.train, layer).spec.dtype].itemsize
        layers[layer] = LayerSize(n, store.shape(plan.test, layer)[0], d, len(labels.classes), itemsize)
    for file in _index_files(plan):
        for size in layers.values():
            read_indices(file, size.d)
    grid = Grid.of(plan, {name: size.d for name, size in layers.items()}, labels.classes)
    digests = {layer: layer_digest(store, layer, plan.train, plan.test) for layer in plan.layer}
    return Sized(plan, store, layers, grid, digests)


def machine_for(client: "Client | None", device: str, memory_limit: int | None) -> Machine:
    """The processes that will run the blocks. Workers are taken to be as fast as this machine's cores."""
    if client is None:
        return Machine(product_rate(), memory_limit or int(0.8 * psutil.virtual_memory().available))
    from analyze.sweeps.cluster import worker_table

    workers = worker_table(client)
    memory = memory_limit or min((w["memory_limit"] for w in workers if w["memory_limit"]), default=0)
    gpu = all("GPU" in w["resources"] for w in workers)
    rate = product_rate(threads=max(1, workers[0]["nthreads"]))
    return Machine(
        rate, memory or int(0.8 * psutil.virtual_memory().available), len(workers), "gpu" if gpu else "cpu"
    )


def check_there(solver: str, device: str, client: "Client | None") -> None:
    """InputError where the solver or the device that was asked for is not there: here, or on a worker."""
    for check, name in ((check_solver, solver), (pick_device, device)):
        if client is None:
            check(name)
        else:
            client.submit(check, name, pure=False).result()


def check_finite(sized: Sized) -> None:
    """InputError where a layer holds NaN or infinite values, by the moments that the store keeps."""
    for split in (sized.plan.train, sized.plan.test):
        for layer in sized.layers:
            count = sized.store.report(split, layer).get("nonfinite", 0)
            if count:
                raise InputError(
                    f"got {count:,} NaN or infinite values in layer {layer!r} of split {split!r} in "
                    f"{sized.store.path}; mark such rows as failed, or store the layer in a wider dtype"
                )


def shared_moments(
    sized: Sized, blocks: list[Block], machine: Machine, client: "Client"
) -> "dict[str, Future]":
    """The moments of each layer that is too large for a worker's memory, being summed up by all workers."""
    from analyze.sweeps.reduce import moments_on

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


def projection(plan: SweepPlan, store: "Store | str | Path", machine: Machine) -> tuple[Projection, Sized]:
    """What the whole plan costs, nothing being done yet: what `--dry-run` prints."""
    sized = size_up(plan, store)
    blocks = sized.blocks(np.ones(plan.shape, bool), machine)
    return project(blocks, sized.layers, machine, plan.probe), sized


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
