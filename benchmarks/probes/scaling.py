"""How the seconds of logistic probes grow with probes, rows, neurons and classes, one of them at a time.

    python -m benchmarks.probes.scaling                          a few minutes on one core
    python -m benchmarks.probes.scaling --threads 1 --clock cpu  on a machine that others use too
    python -m benchmarks.probes.scaling --quick                  the two smallest of each

Synthetic features; 4,000 rows, 128 neurons, 10 classes and 20 probes of one seed where the axis says nothing
else (further probes are further seeds). Seconds hold moments, curvature, fits and scores. Beside the record
stands a figure.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.probes.machine import add_machine, settle_machine
from benchmarks.probes.tasks import synthetic
from benchmarks.record import record
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.selections.subsets import permutation, sizes

L2, SPREAD = 1e-4, 2.0
USUAL = {"rows": 4000, "neurons": 128, "classes": 10, "probes": 20}
AXES = {
    "probes": (1, 10, 100, 1000, 10_000),
    "rows": (1000, 4000, 16_000, 64_000),
    "neurons": (32, 128, 512, 2048),
    "classes": (2, 10, 100),
}


def seconds(size: dict[str, int], clock: Callable[[], float]) -> float:
    """Of all probes of one synthetic task."""
    task = synthetic(size["rows"], size["neurons"], size["classes"], SPREAD)
    per_seed = min(size["probes"], 20)
    seeds = size["probes"] // per_seed
    orders = np.stack([permutation(task.n_neurons, seed) for seed in range(seeds)])
    ks = sizes(np.arange(1, per_seed + 1) / per_seed, task.n_neurons)
    begun = clock()
    fit_block(task, orders, ks, np.array([L2]), device="cpu")
    return clock() - begun


def plot(curves: dict[str, list[list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(3.2 * len(curves), 3), constrained_layout=True)
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        axis.loglog(*zip(*points, strict=True), "o-")
        axis.set_xlabel(name)
        axis.set_ylabel("seconds")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_machine(parser)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="folder of the record and the figure (benchmarks/results)")
    args = parser.parse_args()
    clock = settle_machine(args)
    seconds(USUAL, clock)  # warm the libraries up
    curves: dict[str, list[list[float]]] = {}
    for axis, values in AXES.items():
        curves[axis] = []
        for value in values[: 2 if args.quick else None]:
            curves[axis].append([value, seconds(USUAL | {axis: value}, clock)])
            print(f"{axis} = {value:,}: {curves[axis][-1][1]:.2f} s", flush=True)
    results = {"usual": USUAL, "threads": torch.get_num_threads(), "clock": args.clock, "seconds": curves}
    path = record("probes-scaling" + ("-quick" if args.quick else ""), results, folder=args.out)
    plot(curves, path.with_suffix(".svg"))
    print(f"record: {path}")


if __name__ == "__main__":
    main()
