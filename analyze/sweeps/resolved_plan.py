"""A plan met with its store: names checked, layers sized, blocks cut, cost told; nothing is computed yet."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from probecache.analyze.probes.fit import pick_device
from probecache.analyze.results.grid import Grid
from probecache.analyze.sweeps.blocks import Block, missing_blocks
from probecache.analyze.sweeps.cost import (
    Machine,
    Projection,
    expected_seconds,
    product_rate,
    project,
    target_seconds,
)
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.sweeps.solvers import check_solver
from probecache.analyze.sweeps.worker import Job, layer_digest
from probecache.analyze.tasks.class_weights import check_named
from probecache.analyze.tasks.labels import load_labels
from probecache.analyze.tasks.size import LayerSize
from probecache.store.errors import InputError, close_names
from probecache.store.layout import DTYPES
from probecache.store.subset import read_indices

if TYPE_CHECKING:
    from distributed import Client

    from probecache.store.reader import Store


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
            return expected_seconds(block, self.layers[block.layer], machine, self.plan.kind)

        target = target_seconds(self.plan, self.layers, machine) if target is None else target
        return list(missing_blocks(self.plan, missing, seconds, target))

    def job(self, device: str, memory: int | None) -> Job:
        plan = self.plan
        return Job(
            os.path.abspath(self.store.path) if "://" not in str(self.store.path) else str(self.store.path),
            plan.train,
            plan.test,
            plan.kind,
            plan.solver,
            plan.standardize,
            device,
            memory,
            tuple(self.digests.items()),
            plan.class_weight,  # type: ignore[arg-type]
            plan.tol,
        )


def _index_files(plan: SweepPlan) -> list[str]:
    return [name.removeprefix("index:") for name in plan.selection if name.startswith("index:")]


def _digest(file: str) -> str:
    """SHA-256 of a file of neuron numbers: a list that was edited is another selection."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def size_up(plan: SweepPlan, store: "Store | str | Path") -> Sized:
    """Check the plan against the store, reading labels and shapes only."""
    if isinstance(store, str | Path):
        from probecache.store.reader import open_store

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


def projection(plan: SweepPlan, store: "Store | str | Path", machine: Machine) -> tuple[Projection, Sized]:
    """What the whole plan costs, nothing being done yet: what `--dry-run` prints."""
    sized = size_up(plan, store)
    blocks = sized.blocks(np.ones(plan.shape, bool), machine)
    return project(blocks, sized.layers, machine, plan.kind), sized


def machine_for(client: "Client | None", device: str, memory_limit: int | None) -> Machine:
    """The processes that will run the blocks. Workers are taken to be as fast as this machine's cores."""
    if client is None:
        return Machine(product_rate(), memory_limit or int(0.8 * psutil.virtual_memory().available))
    from probecache.analyze.sweeps.cluster import worker_table

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
