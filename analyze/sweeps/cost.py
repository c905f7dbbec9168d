"""What a sweep will cost before it runs: seconds and bytes of a block, from counted products and one timing.

The model counts, it does not simulate: a logistic probe costs `EVALUATIONS` passes of two products of
(n x k) by (k x classes), a ridge probe two triangular solves, both beside one Gram matrix per layer and one
Cholesky factor per (seed, l2). docs/sweeps.md compares it with measured runs.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from probecache.analyze.probes.design.nested_matmul import FULL
from probecache.analyze.probes.optim.newton import CHUNK, PARAMETERS
from probecache.analyze.selections.subsets import sizes
from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.store.errors import InputError

# Of a logistic probe, at float32's price: what the measured 4.5 s a seed come to (Lite0 features of CIFAR-10,
# l2 = 1e-4; 17 by width, most of them in bfloat16, with factors and panels).
EVALUATIONS = 13
# Of one with fewer than two rows per neuron, in float32 throughout, the history's memory traffic included:
# 8.7 s a seed (Lite0 features of Flowers102, 1,020 rows, 102 classes).
SCARCE = 78
CURVATURE = (
    9  # classes d^3 products of one penalty's class Grams: 7.9 d rows for each class, half of a square
)
EFFICIENCY = (
    0.5  # share of the timed product rate that the solver reaches, softmax and memory traffic included
)
HISTORY = 100  # copies of a probe's weights that the solver holds at its peak: 98 counted
GRAM_LIMIT = 2**30  # bytes, as `probecache.analyze.probes.shared_state.prepare` sets without a memory limit
BLOCK_SECONDS = 30.0  # the longest that a block should take
# Bytes of an interpreter with torch, zarr, xarray and dask loaded: 820 MiB measured at the peak of sweeps of
# 21,000 and 52,000 rows of 512 neurons, extrapolated to none.
BASELINE = 832 * 2**20
BLOCKS_PER_WORKER = 4  # enough that the last one does not wait alone


@dataclass(frozen=True)
class LayerSize:
    """Rows of both splits, neurons d, classes, and bytes of a stored value."""

    train: int
    test: int
    d: int
    classes: int
    itemsize: int

    @property
    def stored(self) -> int:
        """Bytes to read from the store, without compression."""
        return (self.train + self.test) * self.d * self.itemsize

    @property
    def is_scarce(self) -> bool:
        """Fewer than two rows per neuron: the solver then makes no class Grams."""
        return self.train < 2 * self.d

    @property
    def loaded(self) -> int:
        """Bytes in memory: both matrices in float32."""
        return (self.train + self.test) * self.d * 4


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
        return (
            f"{self.probes:,} probes in {self.blocks:,} blocks, reading {human(self.read)}; "
            f"about {duration(self.seconds)}, {human(self.memory)} of memory per process (layer {self.worst})"
        )


def expected_seconds(block: Block, size: LayerSize, machine: Machine, probe: str) -> float:
    """Expected seconds of a block in one process, loading the layer not counted."""
    ks = sizes(block.fractions, size.d).astype(float)
    widest = float(ks.max())
    per_seed = block.penalties * widest**3 / 3  # Cholesky
    if probe == "logistic":
        evaluations = SCARCE if size.is_scarce else EVALUATIONS
        per_seed += block.penalties * evaluations * 4 * size.train * ks.sum() * size.classes
    else:
        per_seed += block.penalties * 6 * (ks**2).sum() * size.classes
    per_seed += block.penalties * 2 * size.test * ks.sum() * size.classes  # scoring
    overhead = 5e-3 * len(block.fractions) * block.penalties
    return block.draws * (per_seed / (machine.flops * EFFICIENCY) + overhead)


def layer_seconds(size: LayerSize, machine: Machine, penalties: int = 0) -> float:
    """Expected seconds to read a layer and take its Gram matrix; of logistic probes, the class Grams of so
    many penalties too."""
    products = 2 * size.train * size.d**2
    if not size.is_scarce:
        products += penalties * CURVATURE * size.classes * size.d**3
    return size.stored / 5e8 + products / (machine.flops * EFFICIENCY)


def block_bytes(fractions: int, l2s: int, size: LayerSize) -> int:
    """Expected peak bytes of a process at work on one seed of a layer.

    Both matrices, train's columns in the seed's order, three d x d matrices in float64; for each probe its
    weights, with the solver's history for those in lock step, or the Hessian of Newton's method; the class
    Grams of three widths and their factors.
    """
    square = (size.d + 1) ** 2
    probes = fractions * l2s
    in_step = min(probes, math.ceil(FULL / size.classes)) if size.is_scarce else probes
    weights = size.classes * (size.d + 1) * 4
    parameters = min(PARAMETERS, size.classes * (size.d + 1))
    work = max(HISTORY * in_step * weights, 16 * parameters**2 + 24 * CHUNK) + 4 * probes * weights
    each = 4 * size.classes * square
    grams = min(3 * l2s * each, max(GRAM_LIMIT // each, 0) * each) if not size.is_scarce else 0
    factors = 1.3 * l2s * each if grams else 4 * l2s * square
    columns = size.loaded + size.train * size.d * 4
    return int(columns + 3 * 8 * square + work + grams + factors) + BASELINE


def target_seconds(plan: SweepPlan, layers: Mapping[str, LayerSize], machine: Machine) -> float:
    """How long a block should take: shorter than BLOCK_SECONDS where that keeps all workers busy."""
    whole = sum(
        expected_seconds(
            Block(name, selection, plan.fractions, plan.seeds, plan.l2, plan.l2_path or ()),
            size,
            machine,
            plan.probe,
        )
        for name, size in layers.items()
        for selection in plan.selection
        for _ in range(len(plan.target) * len(plan.shots))
    )
    return min(BLOCK_SECONDS, max(1.0, whole / (BLOCKS_PER_WORKER * machine.workers)))


def project(
    blocks: list[Block], layers: Mapping[str, LayerSize], machine: Machine, probe: str, streams: bool = True
) -> Projection:
    """What the blocks cost on the machine. streams: a layer that does not fit may stay on disk."""
    seconds = sum(expected_seconds(block, layers[block.layer], machine, probe) for block in blocks)
    read, peak, worst = 0, 0, "none"
    for name, size in layers.items():
        mine = [block for block in blocks if block.layer == name]
        if not mine:
            continue
        loads = min(machine.workers, len(mine))
        read += size.stored * loads
        penalties = max(block.penalties for block in mine) if probe == "logistic" else 0
        seconds += layer_seconds(size, machine, penalties) * loads
        need = max(block_bytes(len(block.fractions), len(block.l2s), size) for block in mine)
        if streams:
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
            f"layer {projection.worst!r} needs {human(projection.memory)} in one process and "
            f"{human(machine.memory)} are allowed; raise --memory-limit, or ask for fewer fractions or l2"
        )


@cache
def product_rate(device: str = "cpu", threads: int | None = None) -> float:
    """float32 flop/s of a (2048 x 1024) by (1024 x 128) product here: the median of five, in milliseconds."""
    import torch

    where = torch.device(device)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        a, b = torch.ones(2048, 1024, device=where), torch.ones(1024, 128, device=where)
        times = []
        for _ in range(6):
            begun = time.perf_counter()
            (a @ b)[0, 0].item()
            times.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)
    return 2 * 2048 * 1024 * 128 / float(np.median(times[1:]))


def human(count: float) -> str:
    """Bytes for a person.

    >>> human(20 * 2**30), human(1500)
    ('20.0 GiB', '1.5 KiB')
    """
    power = min(4, int(math.log(max(count, 1), 1024)))
    return f"{count / 1024**power:.{0 if power == 0 else 1}f} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}"


def duration(seconds: float) -> str:
    """Seconds for a person.

    >>> duration(3), duration(200), duration(9000)
    ('3 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
