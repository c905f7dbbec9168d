"""Many binary targets of one store: seconds of a target among others, beside one alone and scikit-learn.

    python -m benchmarks.probes.targets              40 targets of 50,000 x 1,280 rows, 20 fractions, one seed
    python -m benchmarks.probes.targets --threads 1 --clock cpu      on a machine that others use too
    python -m benchmarks.probes.targets --quick      4 targets of 2,000 x 128

A sweep of one target pays for reading, moments and factors by itself; among others they are shared. Of
scikit-learn one target is fitted at three fractions and summed over all by interpolation on k.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import probecache as pc
from benchmarks.probes.machine import add_machine, settle_machine
from benchmarks.probes.peers import columns
from benchmarks.probes.tasks import synthetic
from benchmarks.record import record
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.tasks.load import load_task

FRACTIONS = np.arange(1, 21) / 20
RUNS = 3
L2 = {"ridge": 1e-2, "logistic": 1e-3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--targets", type=int, default=40)
    parser.add_argument("--quick", action="store_true")
    add_machine(parser)
    parser.add_argument("--out", type=Path, help="folder of the record (benchmarks/results)")
    args = parser.parse_args()
    count = 4 if args.quick else args.targets
    clock = settle_machine(args)
    with tempfile.TemporaryDirectory() as folder:
        store, names = make(Path(folder) / "s", count, args.quick)
        results: dict[str, Any] = {"shape": list(store.shape("train", "a")), "targets": count}
        results |= {"threads": torch.get_num_threads(), "clock": args.clock}
        for probe in L2:
            results[probe] = measure(store, names, probe, clock)
            print(probe, results[probe], flush=True)
    print(f"record: {record('targets', results, folder=args.out)}")


def make(path: Path, count: int, quick: bool) -> tuple[Any, list[str]]:
    """A store with `count` attributes: signs of noisy directions in feature space."""
    task = synthetic(*((2000, 128) if quick else (50_000, 1280)), 10, 2.0)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(task.n_neurons, count)) / task.scale[:, None]
    cut: np.ndarray | None = None
    names = [f"attr_{i:02d}" for i in range(count)]
    for split in ("train", "test"):
        x = getattr(task, split)
        store = pc.write_arrays(
            path, split=split, layer="a", activations=x, labels=getattr(task, f"{split}_labels")
        )
        values = (x - task.mean) @ directions
        values += values.std(axis=0) * rng.normal(size=values.shape)
        cut = np.median(values, axis=0) if cut is None else cut
        bits = (values > cut).astype(np.int64)
        pc.write_targets(path, split=split, targets=dict(zip(names, bits.T, strict=True)))
    return pc.open_store(store.path), names


def measure(store: Any, names: list[str], probe: str, clock: Callable[[], float]) -> dict[str, Any]:
    """Seconds of one target alone, of each among all, and of scikit-learn: medians of runs in turn."""
    plan = {"layer": "a", "fractions": FRACTIONS, "seeds": 1, "probe": probe, "l2": L2[probe]}
    runs: dict[str, list[float]] = {"alone": [], "all": [], "scikit-learn": []}
    for turn in range(RUNS):
        runs["alone"].append(seconds(store, plan, names[turn : turn + 1], clock))
        runs["all"].append(seconds(store, plan, names, clock))
        runs["scikit-learn"].append(scikit(store, names[turn], probe, clock))
    alone, peer = float(np.median(runs["alone"])), float(np.median(runs["scikit-learn"]))
    together = float(np.median(runs["all"])) / len(names)
    return {
        "runs": runs,
        "alone": alone,
        "each among all": together,
        "share": together / alone,
        "scikit-learn": peer,
        "times scikit-learn": peer / together,
    }


def seconds(store: Any, plan: dict[str, Any], targets: list[str], clock: Callable[[], float]) -> float:
    begun = clock()
    pc.sweep(store, target=targets, **plan)
    return clock() - begun


def scikit(store: Any, target: str, probe: str, clock: Callable[[], float]) -> float:
    from sklearn.linear_model import LogisticRegression, RidgeClassifier

    task = load_task(store, "a", "train", "test", target=target)
    order, ks = permutation(task.n_neurons, 0), sizes(FRACTIONS, task.n_neurons)
    at, spent = [0, len(ks) // 2, len(ks) - 1], []
    for f in at:
        x, test = columns(task, order, int(ks[f]))
        n = len(x)
        begun = clock()
        if probe == "ridge":
            model = RidgeClassifier(alpha=L2[probe] * n, solver="cholesky")
        else:
            model = LogisticRegression(C=1 / (L2[probe] * n), solver="newton-cg", tol=1e-4, max_iter=1000)
        model.fit(x, task.train_labels).score(test, task.test_labels)
        spent.append(clock() - begun)
    return float(np.interp(ks, ks[at], spent).sum())


if __name__ == "__main__":
    main()
