"""What a sweep will cost before it runs: seconds and bytes of a block, from counted products and one timing.

The model counts, it does not simulate: each kind of probe says what its fits multiply and hold
(`analyze.probes.kind`); reading, the Gram matrix of a layer and scoring come on top. docs/sweeps.md compares
it with measured runs.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from probecache.analyze.probes.kind import Kind
from probecache.analyze.selections.subsets import sizes
from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.tasks.size import LayerSize
from probecache.store.errors import InputError
from probecache.store.words import duration, size_of

EFFICIENCY = (
    0.5  # share of the timed product rate that the solver reaches, softmax and memory traffic included
)
BLOCK_SECONDS = 30.0  # the longest that a block should take
# Bytes of an interpreter with torch, zarr, xarray and dask loaded: 820 MiB measured at the peak of sweeps of
# 21,000 and 52,000 rows of 512 neurons, extrapolated to none.
BASELINE = 832 * 2**20
SHARE = 0.2  # of one target's work that another costs which is fitted with it: 0.1 measured
BLOCKS_PER_WORKER = 4  # enough that the last one does not wait alone


@dataclass(frozen=True)
class Machine:
    """Where blocks run: float32 flop/s of one process, bytes that it may take, how many there are."""

    flops: float
    memory: int
    workers: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Projection:
    """What `--dry-run` prints. seconds: wall time of the run; memory: peak bytes of one process."""

    probes: int
    blocks: int
    read: int
    seconds: float
    memory: int
    worst: str  # the layer that sets the peak

    def __str__(self) -> str:
        blocks = f"{self.blocks:,} block" + "s" * (self.blocks != 1)
        return (
            f"{self.probes:,} probes in {blocks}, reading {size_of(self.read)}; "
            f"about {duration(self.seconds)}, {size_of(self.memory)} of memory per process "
            f"(layer {self.worst})"
        )


def expected_seconds(block: Block, size: LayerSize, machine: Machine, kind: Kind) -> float:
    """Expected seconds of a block in one process, loading the layer not counted."""
    ks = sizes(block.fractions, size.d).astype(float)
    penalties = block.penalties if kind.has_l2 else 1
    per_draw = kind.flops(size, ks, penalties)
    per_draw += penalties * 2 * size.test * float(ks.sum()) * size.classes  # scoring
    overhead = 5e-3 * len(block.fractions) * penalties
    tasks = 1 + SHARE * len(block.also)
    return tasks * block.draws * (per_draw / (machine.flops * EFFICIENCY) + overhead)


def layer_seconds(size: LayerSize, machine: Machine, kind: Kind, penalties: int = 0) -> float:
    """Expected seconds to read a layer, take its Gram matrix, and what else all blocks of it share."""
    products = 2.0 * size.train * size.d**2 + kind.shared_flops(size, penalties)
    return size.stored / 5e8 + products / (machine.flops * EFFICIENCY)


def block_bytes(fractions: int, l2s: int, size: LayerSize, kind: Kind) -> int:
    """Expected peak bytes of a process at work on one seed of a layer.

    Both matrices, train's columns in the seed's order, three d x d matrices in float64, and what the kind of
    probe holds beside them.
    """
    columns = size.loaded + size.train * size.d * 4
    return int(columns + 3 * 8 * (size.d + 1) ** 2 + kind.memory(size, fractions, l2s)) + BASELINE


def bytes_of(block: Block, size: LayerSize, kind: Kind) -> int:
    """`block_bytes` of a block: each of its targets has probes of its own."""
    return block_bytes(len(block.targets) * len(block.fractions), len(block.l2s), size, kind)


def target_seconds(plan: SweepPlan, layers: Mapping[str, LayerSize], machine: Machine) -> float:
    """How long a block should take: shorter than BLOCK_SECONDS where that keeps all workers busy."""
    whole = sum(
        expected_seconds(
            Block(name, selection, plan.fractions, plan.seeds, plan.l2, plan.l2_path or ()),
            size,
            machine,
            plan.kind,
        )
        for name, size in layers.items()
        for selection in plan.selection
        for _ in range(len(plan.target) * len(plan.shots))
    )
    return min(BLOCK_SECONDS, max(1.0, whole / (BLOCKS_PER_WORKER * machine.workers)))


def project(
    blocks: list[Block], layers: Mapping[str, LayerSize], machine: Machine, kind: Kind, streams: bool = True
) -> Projection:
    """What the blocks cost on the machine. streams: a layer that does not fit may stay on disk."""
    seconds = sum(expected_seconds(block, layers[block.layer], machine, kind) for block in blocks)
    read, peak, worst = 0, 0, "none"
    for name, size in layers.items():
        mine = [block for block in blocks if block.layer == name]
        if not mine:
            continue
        loads = min(machine.workers, len(mine))
        read += size.stored * loads
        penalties = max(block.penalties for block in mine)
        seconds += layer_seconds(size, machine, kind, penalties) * loads
        need = max(bytes_of(block, size, kind) for block in mine)
        if streams and kind.from_disk:
            need = min(need, max(machine.memory, need - 2 * size.loaded))
        if need > peak:
            peak, worst = need, name
    return Projection(
        sum(block.n_probes for block in blocks), len(blocks), read, seconds / machine.workers, peak, worst
    )


def check_fits(projection: Projection, machine: Machine) -> None:
    """InputError, naming the worst layer, where a process would need more memory than it may have."""
    if projection.memory > machine.memory:
        raise InputError(
            f"layer {projection.worst!r} needs {size_of(projection.memory)} in one process and "
            f"{size_of(machine.memory)} are allowed; raise --memory-limit, "
            "ask for fewer fractions or l2, or keep fewer neurons (probecache subset): probes hold matrices "
            "of (neurons x neurons), whatever the number of rows"
        )


@cache
def product_rate(device: str = "cpu", threads: int | None = None) -> float:
    """float32 flop/s of a (2048 x 1024) by (1024 x 128) product here, of one eight times as tall and wide on
    a GPU, which a small one does not fill: the median of five, in milliseconds."""
    import torch

    where = torch.device(device)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        times_larger = 8 if where.type == "cuda" else 1
        rows, columns = 2048 * times_larger, 128 * times_larger
        a, b = torch.ones(rows, 1024, device=where), torch.ones(1024, columns, device=where)
        times = []
        for _ in range(6):
            begun = time.perf_counter()
            (a @ b)[0, 0].item()
            times.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)
    return 2 * rows * 1024 * columns / float(np.median(times[1:]))
