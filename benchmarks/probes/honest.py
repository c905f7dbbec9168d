"""How far from the minimum probes end, beside the tol that they were asked for, on tasks of many kinds.

    python -m benchmarks.probes.honest --stores DIR --threads 1         about 20 minutes

DIR holds stores cifar10*.zarr, flowers102*.zarr and pets37*.zarr with a layer `penultimate` and splits train
and test; a case whose store is not there is left out, and said to be.

Tasks of up to 20 classes tuned nothing but SLOW (cifar10, 6,000 rows); those of more chose BETWEEN and LINE,
all of `lbfgs/gap_estimate.py`. Fewer than two rows per neuron are fitted in kernel form (`kernel_newton.py`).

Each case is ten fractions of one order of the columns. The *gap* is relative to the least objective that any
of our runs found, one at tol 1e-8 among them, or scikit-learn's newton-cg in float64 on the narrowest sizes,
as many as --oracle says. Told of each tol: the largest and the median of gap / tol, the share above 1, and
how many of the ten said that they had converged.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.probes.gap import OURS
from benchmarks.probes.peers import columns
from benchmarks.probes.tasks import synthetic
from benchmarks.record import record
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.tasks.class_weights import weigh_classes
from probecache.analyze.tasks.load import load_task
from probecache.analyze.tasks.task import Task
from probecache.store.reader import open_store

FRACTIONS = np.arange(1, 11) / 10
BEST = 1e-8  # tol of the fits that gaps are measured against
SEED = 7  # of all that is drawn: what was tuned had 0

Make = Callable[[Path | None], Task | None]  # of the folder of the stores; None where a store is not there


def made(n: int, d: int, classes: int, spread: float, rare: float = 1.0, weigh: str | None = None) -> Make:
    """A synthetic task whose last class has `rare` times the rows of the first; weigh: its class weights."""

    def make(_: Path | None) -> Task:
        task = synthetic(n, d, classes, spread, SEED)
        kept = np.random.default_rng(SEED).random(n) < np.geomspace(1, rare, classes)[task.train_labels]
        kept[: 2 * classes] = True  # two rows of each at least
        x, y = task.train[kept], task.train_labels[kept]
        return weigh_classes(replace(task, train=x, train_labels=y, mean=None, scale=None), weigh)

    return make


def stored(name: str, rows: int | None = None, clusters: int = 0) -> Make:
    """Rows of both splits of a store; clusters: of k-means, in place of its classes."""

    def make(stores: Path | None) -> Task | None:
        found = sorted(stores.glob(f"{name}*.zarr")) if stores else []
        if not found:
            return None
        task = load_task(open_store(found[0]), "penultimate")
        x, y = np.concatenate([task.train, task.test]), np.concatenate([task.train_labels, task.test_labels])
        chosen = np.random.default_rng(SEED).permutation(len(x))[:rows]
        x, y = x[chosen], y[chosen]
        if clusters:
            from sklearn.cluster import MiniBatchKMeans

            means = MiniBatchKMeans(clusters, random_state=SEED, n_init=1)
            y = np.unique(means.fit_predict((x - task.mean) / task.scale), return_inverse=True)[1]
        return Task(x, y, x[:500], y[:500])

    return make


CASES: dict[str, tuple[Make, float]] = {  # what makes the task, and its penalty
    "two classes, soft": (made(6000, 512, 2, 1.0), 1e-5),
    "two classes, noise": (made(6000, 256, 2, 6.0), 1e-6),
    "5 classes, noise": (made(8000, 384, 5, 6.0), 1e-3),
    "10 classes, soft": (made(5000, 256, 10, 1.0), 1e-2),
    "10 classes, rare ones, balanced": (made(10_000, 256, 10, 1.5, 0.02, "balanced"), 1e-4),
    "20 classes, narrow": (made(1500, 64, 20, 1.0), 1e-5),
    "clusters 12": (stored("cifar10", 15_000, 12), 1e-5),
    "cifar10, 3,000 rows": (stored("cifar10", 3000), 1e-3),
    "cifar10, 6,000 rows": (stored("cifar10", 6000), 1e-6),
    "cifar10, 1,500 rows": (stored("cifar10", 1500), 1e-4),
    "few rows, noise": (made(600, 400, 5, 6.0), 1e-6),
    "few rows, rare classes": (made(1500, 800, 10, 1.5, 0.05), 10.0),
    "flowers102, 1,000 rows": (stored("flowers102", 1000), 1e-6),
    "pets37, 700 rows": (stored("pets37", 700), 1.0),
    "clusters 50": (stored("cifar10", 8000, 50), 1e-3),
    "clusters 100": (stored("cifar10", 12_000, 100), 1e-4),
    "flowers102, all rows": (stored("flowers102"), 1e-4),
    "pets37, all rows": (stored("pets37"), 1e-5),
    "40 classes, soft": (made(6000, 384, 40, 1.0), 1e-2),
    "100 classes, noise": (made(10_000, 256, 100, 4.0), 1e-6),
    "64 classes, rare ones": (made(12_000, 512, 64, 1.5, 0.02), 1e-4),
    "64 classes, rare ones, balanced": (made(12_000, 512, 64, 1.5, 0.02, "balanced"), 1e-3),
    "200 classes, few rows": (made(4000, 512, 200, 1.0), 1e-5),
    "500 classes": (made(8000, 256, 500, 1.5), 1e-3),
}


def run(task: Task, l2: float, oracle: int) -> dict[str, Any]:
    """Gaps of one task's sizes at each tol."""
    order, ks, told = permutation(task.n_neurons, SEED), sizes(FRACTIONS, task.n_neurons), []
    l2s = np.array([l2])
    runs = [fit_block(task, order[None], ks, l2s, tol=tol, device="cpu") for tol in (*OURS, BEST)]
    best = np.min([found.objective[0, :, 0] for found in runs], axis=0)
    exact = [minimum(task, order[:k], l2) for k in ks[:oracle].tolist()]
    below = (1 - np.array(exact) / best[:oracle]).tolist()
    best[:oracle] = np.minimum(best[:oracle], exact)
    for tol, found in zip(OURS, runs, strict=False):
        ratios = (found.objective[0, :, 0] / best - 1) / tol
        told.append({"tol": tol, "largest": float(ratios.max()), "median": float(np.median(ratios))})
        told[-1] |= {"above": float(np.mean(ratios > 1)), "converged": int(found.converged.sum())}
        told[-1] |= {"evaluations": int(found.n_iter.sum()), "ratios": ratios.tolist()}
    return {"shape": [*task.train.shape, len(task.classes)], "l2": l2, "tols": told, "newton_cg_below": below}


def minimum(task: Task, neurons: np.ndarray, l2: float) -> float:
    """As scikit-learn's newton-cg finds it, all in float64."""
    from sklearn.linear_model import LogisticRegression

    x, y = columns(task, neurons, len(neurons))[0].astype(np.float64), task.train_labels
    w = np.ones(len(y)) if task.weights is None else task.weights
    model = LogisticRegression(C=1 / (l2 * w.sum()), solver="newton-cg", tol=1e-9, max_iter=1000)
    chances = model.fit(x, y, sample_weight=w).predict_log_proba(x)[np.arange(len(y)), y]
    return float(-w @ chances / w.sum() + l2 / 2 * (model.coef_**2).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stores", type=Path, help="folder of the stores of features")
    parser.add_argument("--cases", default=";".join(CASES), help="names, with ; between them")
    parser.add_argument("--oracle", type=int, default=0, help="sizes that newton-cg fits too")
    parser.add_argument("--threads", type=int, help="of torch, numpy and scipy; default: their own")
    parser.add_argument("--out", type=Path, help="folder of the record (benchmarks/results)")
    parser.add_argument("--title", default="probes-honest", help="name of the record (%(default)s)")
    args = parser.parse_args()
    unknown = [name for name in args.cases.split(";") if name not in CASES]
    if unknown:
        parser.error(f"got case {unknown[0]!r}; allowed: {'; '.join(CASES)}")
    if args.threads:
        torch.set_num_threads(args.threads)
        threadpool_limits(args.threads)
    warnings.simplefilter("ignore")  # what has not converged is counted
    results: dict[str, Any] = {}
    for name in args.cases.split(";"):
        make, l2 = CASES[name]
        task = make(args.stores)
        if task is None:
            print(f"{name}: left out, no such store", flush=True)
            continue
        results[name] = run(task, l2, args.oracle)
        for told in results[name]["tols"]:
            print(name, {key: told[key] for key in told if key != "ratios"}, flush=True)
        if args.out:
            record(args.title, results, folder=args.out)


if __name__ == "__main__":
    main()
