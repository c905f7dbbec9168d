"""Ridge probes of one task beside scikit-learn's RidgeClassifier, in turn in one process.

    python -m benchmarks.probes.ridge --store DIR/cifar10-128px.zarr
    python -m benchmarks.probes.ridge --store ... --threads 1 --clock cpu   on a machine that others use too
    python -m benchmarks.probes.ridge --quick                                  2,000 x 128, synthetic

20 fractions of one order, and of five. Ours: the task's moments, then fits and scores of the test rows. A
peer fits and predicts on standardised columns made before its clock starts, at five of the 20 fractions, and
its sum over all is interpolated on k; with five orders it would take five times as long. Medians of the runs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier

from benchmarks.probes.machine import add_machine, settle_machine
from benchmarks.probes.peers import columns
from benchmarks.probes.tasks import synthetic
from benchmarks.record import record
from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.tasks.load import load_task
from probecache.analyze.tasks.task import Task
from probecache.store.reader import open_store

FRACTIONS, AT, L2, RUNS = np.arange(1, 21) / 20, (0, 4, 9, 14, 19), 1e-4, 5


def turn(task: Task, clock: Callable[[], float]) -> dict[str, Any]:
    """Seconds of each piece of work, once; predictions that differ, of the fractions that peers fit."""
    ks = sizes(FRACTIONS, task.n_neurons)
    orders = np.stack([permutation(task.n_neurons, seed) for seed in range(5)])
    spent: dict[str, Any] = {}

    def took(name: str, work: Callable[[], Any]) -> Any:
        begun = clock()
        value = work()
        spent[name] = clock() - begun
        return value

    shared = took("moments", lambda: task_moments(task, device="cpu"))
    how: dict[str, Any] = {"probe": "ridge", "device": "cpu", "shared": shared}
    l2s = np.array([L2])
    took("one", lambda: fit_block(task, orders[:1], ks, l2s, **how))
    took("five", lambda: fit_block(task, orders, ks, l2s, **how))
    found = fit_block(task, orders[:1], ks, l2s, return_predictions=True, **how).predictions
    assert found is not None
    spent["differ"] = 0
    for f in AT:
        x, test = columns(task, orders[0], int(ks[f]))
        model = RidgeClassifier(alpha=L2 * len(x))
        guess = took(f"k {ks[f]}", lambda m=model, x=x, t=test: m.fit(x, task.train_labels).predict(t))
        spent["differ"] += int((guess != found[0, f, 0]).sum())
    spent["peer"] = float(np.interp(ks, ks[list(AT)], [spent[f"k {ks[f]}"] for f in AT]).sum())
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--store", type=Path, help="a store with a layer `penultimate`, splits train and test"
    )
    add_machine(parser)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="folder of the record (benchmarks/results)")
    args = parser.parse_args()
    clock = settle_machine(args)
    if args.quick or args.store is None:
        task = synthetic(*((2000, 128) if args.quick else (50_000, 1280)), 10, 2.0)
    else:
        task = load_task(open_store(args.store), "penultimate")
    runs = [turn(task, clock) for _ in range(1 + RUNS)][1:]  # the first warms up
    middle = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
    results = {
        "shape": [*task.train.shape, len(task.classes)],
        "threads": torch.get_num_threads(),
        "clock": args.clock,
        "runs": runs,
        "moments": middle["moments"],
        "one seed": middle["one"],
        "five seeds": middle["five"],
        "RidgeClassifier": middle["peer"],
        "times after moments": middle["peer"] / middle["one"],
        "times with moments, five seeds": 5 * middle["peer"] / (middle["moments"] + middle["five"]),
        "predictions": len(AT) * task.test.shape[0],
        "predictions that differ": runs[0]["differ"],
    }
    print(results)
    print(f"record: {record('ridge' + ('-quick' if args.quick else ''), results, folder=args.out)}")


if __name__ == "__main__":
    main()
