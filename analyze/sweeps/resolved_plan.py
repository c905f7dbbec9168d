"""A plan met with its store: names checked, layers sized, blocks cut, cost told; nothing is computed yet."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probecache.analyze.metrics import get_metric
from probecache.analyze.probes.fit import pick_device
from probecache.analyze.probes.kind import claims
from probecache.analyze.results.grid import Grid, packed
from probecache.analyze.sweeps.blocks import Block, missing_blocks
from probecache.analyze.sweeps.cost import (
    Machine,
    Projection,
    bytes_of,
    expected_seconds,
    product_rate,
    project,
    target_seconds,
)
from probecache.analyze.sweeps.job import Job, layer_digest, target_digest, used_splits
from probecache.analyze.sweeps.own_code import own_parts
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.sweeps.solvers import check_solver
from probecache.analyze.tasks.class_weights import check_named
from probecache.analyze.tasks.groups import load_groups
from probecache.analyze.tasks.labels import Labels, check_both, load_labels, splits_of
from probecache.analyze.tasks.shots import ALL, shot_rows
from probecache.analyze.tasks.size import LayerSize
from probecache.store.choose import choose, require_splits
from probecache.store.errors import InputError
from probecache.store.layout import DTYPES, OK
from probecache.store.machine import usable_memory
from probecache.store.writing.subset import read_indices

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
    kinds: dict[str, str]  # of each target: classes, labels, numbers
    alike: tuple[tuple[str, ...], ...] = ()  # targets over the same rows that are fitted together
    rows_differ: bool = False  # whether the targets label different rows

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree with RESULTS: the plan's settings, each layer's digest, the user's own code."""
        lists = {f"index:{file}": _digest(file) for file in _index_files(self.plan)}
        return self.plan.settings() | {"digests": self.digests | lists | own_parts(self.plan)}

    @property
    def about(self) -> dict[str, str]:
        """What was swept, for people: path of the store, backbone and data set where it names them."""
        data = self.store.split_info(splits_of(self.plan.train)[0]).data
        said = {"backbone": self.store.fingerprint.backbone.get("model"), "data_set": data.get("dataset")}
        return {"store": str(self.store.path)} | {name: str(value) for name, value in said.items() if value}

    @property
    def left_out(self) -> list[str]:
        """A line for each target that usable rows lack, with how many in each split."""
        lines = []
        for target in self.plan.target:
            counts = []
            for split in dict.fromkeys(s for union in used_splits(self.plan) for s in splits_of(union)):
                usable = np.asarray(self.store.status(split)) == OK
                lack = int((usable & ~self.store.target(split, target).labelled).sum())
                if lack:
                    counts.append(f"{lack:,} of {int(usable.sum()):,} rows of {split}")
            if counts:
                lines.append(f"target {target!r}: unlabelled and left out: {', '.join(counts)}")
        return lines

    def blocks(self, missing: np.ndarray, machine: Machine, target: float | None = None) -> list[Block]:
        def seconds(block: Block) -> float:
            return expected_seconds(block, self.layers[block.layer], machine, self.plan.kind)

        target = target_seconds(self.plan, self.layers, machine) if target is None else target
        found = []
        waiting = list(missing_blocks(self.plan, missing, seconds, target, self.alike))[::-1]
        while waiting:
            block = waiting.pop()
            if block.also and bytes_of(block, self.layers[block.layer], self.plan.kind) > machine.memory:
                waiting += block.halves()[::-1]
            else:
                found.append(block)
        return found

    def job(self, device: str, memory: int | None) -> Job:
        path = str(self.store.path)
        metrics = tuple(get_metric(name) for name in self.plan.metric)
        return Job(
            path if "://" in path else os.path.abspath(path),
            self.plan,
            self.plan.kind,
            metrics,
            device,
            memory,
            tuple(self.digests.items()),
            self.rows_differ,
        )


def _index_files(plan: SweepPlan) -> list[str]:
    return [name.removeprefix("index:") for name in plan.selection if name.startswith("index:")]


def _digest(file: str) -> str:
    """SHA-256 of a file of neuron numbers: a list that was edited is another selection."""
    return hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest()


def size_up(plan: SweepPlan, store: "Store | str | Path") -> Sized:
    """Check the plan against the store, reading labels and shapes only; globs become names."""
    from probecache.store.reader import open_store

    store = open_store(store)
    used = used_splits(plan)
    splits = [split for union in used for split in splits_of(union)]
    require_splits(store, splits)
    plan = _named(plan, store, splits)
    labels = {target: _labels(plan, store, target) for target in plan.target}
    layers = {}
    for layer in plan.layer:
        rows = [sum(store.shape(split, layer)[0] for split in splits_of(union)) for union in used]
        d = store.shape(splits[0], layer)[1]
        itemsize = DTYPES[store.layer_info(splits[0], layer).spec.dtype].itemsize
        outputs = max(len(found.classes) for found in labels.values())
        layers[layer] = LayerSize(rows[0] + sum(rows[2:]), rows[1], d, outputs, itemsize)
    for file in _index_files(plan):
        for size in layers.values():
            read_indices(file, size.d)
    grid = _grid(plan, store, {name: size.d for name, size in layers.items()}, labels)
    digests = {layer: layer_digest(store, layer, *used) for layer in plan.layer}
    digests |= {
        f"target:{name}": target_digest(store, name, *used) for name in plan.target if name != "label"
    }
    kinds = {name: found.kind for name, found in labels.items()}
    labelled = {name: _rows_of(plan, store, name, found) for name, found in labels.items()}
    differ = len({own[0] for own in labelled.values()}) > 1
    return Sized(plan, store, layers, grid, digests, kinds, _alike(plan, labels, labelled), differ)


def _rows_of(plan: SweepPlan, store: "Store", name: str, found: Labels) -> tuple[bytes, ...]:
    """Which rows of each split a target labels: of train, test, and of what chooses l2."""
    masks = [found.train_keep, found.test_keep]
    if plan.val is not None:
        chooser = load_labels(store, plan.train, plan.val, name)
        masks += [chooser.train_keep, chooser.test_keep]
    return tuple(np.packbits(mask).tobytes() for mask in masks)


def _alike(
    plan: SweepPlan, labels: dict[str, Labels], rows: dict[str, tuple[bytes, ...]]
) -> tuple[tuple[str, ...], ...]:
    """Targets of one kind and as many classes that label the same rows, for kinds and plans that can fit them
    together. Shots and held-out rows are drawn by class, class weights make a Gram matrix of their own."""
    apart = plan.shots != ("all",) or plan.class_weight or (plan.l2_path and plan.val is None)
    if apart or plan.solver not in ("auto", "torch") or not claims(plan.kind, "fit_several"):
        return ()
    any_kind = claims(plan.kind, "fits_any_together")
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, found in labels.items():
        if any_kind or (found.kind == "classes" and len(found.classes) == 2):
            groups.setdefault((rows[name], found.kind, len(found.classes)), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def _named(plan: SweepPlan, store: "Store", splits: list[str]) -> SweepPlan:
    """The plan with each glob of layers and targets as the names that all its splits have."""
    return replace(
        plan,
        layer=tuple(choose(store, "layer", plan.layer, splits)),
        target=tuple(choose(store, "target", plan.target, splits)),
    )


def _labels(plan: SweepPlan, store: "Store", target: str) -> Labels:
    """What the probes of a target are fitted on and scored by, checked against the plan."""
    union = plan.train if plan.refit == "train" else f"{plan.train}+{plan.val}"
    found = load_labels(store, union, plan.test, target)
    kind = plan.kind
    if found.kind not in kind.targets:
        raise InputError(
            f"got target {target!r}, which is {found.kind}, for a {kind.name} probe, which predicts "
            f"{' or '.join(kind.targets)}; use another --probe, such as ridge"
            + (
                "; classes that came as numbers are written with --kind classes"
                if found.kind == "numbers"
                else ""
            )
        )
    if found.kind == "classes":
        check_named(plan.class_weight, found.classes)
    elif plan.class_weight is not None:
        raise InputError(
            f"got class_weight for target {target!r}, which is {found.kind}; only classes have it"
        )
    for name in plan.metric:
        metric = get_metric(name)
        if found.kind not in metric.kinds:
            raise InputError(
                f"got metric {name!r} for target {target!r}, which is {found.kind}; it is for "
                f"{' and '.join(metric.kinds)}"
                + ("; sweep each kind by itself" if len(plan.target) > 1 else "")
            )
        if (metric.probabilities and not kind.probabilities) or (metric.across and claims(kind, "votes")):
            lacks = "probabilities" if metric.probabilities else "scores that rank samples"
            raise InputError(
                f"got metric {name!r} for a {kind.name} probe, which has no {lacks}; leave it out, or use "
                "another --probe, such as logistic"
            )
    # refused here rather than in every block
    check_both(found, target)
    fewest = int(getattr(kind, "fewest_rows", 1))
    for shots in plan.shots:
        rows = shot_rows(found.train, shots, 0, found.classes if found.kind == "classes" else ()).sum()
        if rows < fewest:
            few = f"{rows} training rows of target {target!r}" + (f", shots {shots}" if shots != ALL else "")
            raise InputError(f"got {few}, for a {kind.name} probe; needed: {fewest} or more")
    return found


def _grid(plan: SweepPlan, store: "Store", neurons: dict[str, int], labels: dict[str, Labels]) -> Grid:
    """The grid of RESULTS; with the test samples and what is right for them, where predictions are kept."""
    scored = plan.save_predictions == "scores"
    names = {t: found.classes if found.kind != "numbers" or scored else () for t, found in labels.items()}
    grid = Grid.of(plan, neurons, names)
    r2 = ("r2",) if "numbers" in {found.kind for found in labels.values()} else ()
    grid = replace(grid, metrics=tuple(dict.fromkeys((*plan.metric, *r2))))
    if plan.save_predictions is None:
        return grid
    other = [name for name, found in labels.items() if found.kind != "classes"]
    if other and not scored:
        raise InputError(
            f"got save_predictions for target {other[0]!r}, which is {labels[other[0]].kind}; predictions "
            "are of classes: keep scores (--save-predictions=scores)"
        )
    samples = tuple(str(name) for split in splits_of(plan.test) for name in store.samples(split))
    truth = []
    for found in labels.values():
        whole = np.full(len(found.test_keep), -1, np.int32)
        if found.kind == "classes":
            whole[found.test_keep] = found.test
        truth.append(packed(whole))
    groups = () if plan.groups is None else tuple(load_groups(store, plan.test, plan.groups))
    kept = ("scores",) if scored else ()
    return replace(grid, samples=samples, truth=tuple(truth), scores=kept, groups=groups)


def check_finite(sized: Sized) -> None:
    """InputError where a layer holds NaN or infinite values, by the moments that the store keeps."""
    for split in (part for union in used_splits(sized.plan) for part in splits_of(union)):
        for layer in sized.layers:
            count = sized.store.report(split, layer).get("nonfinite", 0)
            if count:
                raise InputError(
                    f"got {count:,} NaN or infinite values in layer {layer!r} of split {split!r} in "
                    f"{sized.store.path}; write them anew, such rows marked as failed (status of "
                    "write_arrays) or left out, or, where they overflowed, in a wider dtype"
                )


def projection(sized: Sized, machine: Machine, missing: np.ndarray | None = None) -> Projection:
    """What the missing probes cost, by default all of the plan: what `--dry-run` prints."""
    everything = np.ones(sized.plan.shape, bool)
    blocks = sized.blocks(everything if missing is None else missing, machine)
    return project(blocks, sized.layers, machine, sized.plan.kind)


def machine_for(client: "Client | None", device: str, memory_limit: int | None) -> Machine:
    """The processes that will run the blocks. Workers are taken to be as fast as this machine's cores."""
    if client is None:
        where = pick_device(device)
        if where.type == "cuda":
            import torch

            free = torch.cuda.mem_get_info(where)[0]
            return Machine(product_rate(str(where)), memory_limit or int(0.8 * free), device=str(where))
        return Machine(product_rate(), memory_limit or usable_memory())
    from probecache.analyze.sweeps.cluster.start import worker_table

    workers = worker_table(client)
    memory = memory_limit or min((w["memory_limit"] for w in workers if w["memory_limit"]), default=0)
    gpu = all("GPU" in w["resources"] for w in workers)
    rate = product_rate(threads=max(1, workers[0]["nthreads"]))
    return Machine(rate, memory or usable_memory(), len(workers), "gpu" if gpu else "cpu")


def check_there(solver: str, device: str, client: "Client | None") -> None:
    """InputError where the solver or the device that was asked for is not there: here, or on every worker of
    those that answer."""
    if client is not None:
        from probecache.analyze.sweeps.cluster.start import ask, check_client

        check_client(client)
    for check, name in ((check_solver, solver), (pick_device, device)):
        if client is None:
            check(name)
            continue
        answers = ask(client, check, name).values()
        lacking = [a for a in answers if isinstance(a, Exception) and not isinstance(a, OSError)]
        if lacking and all(isinstance(answer, Exception) for answer in answers):
            raise lacking[0]
