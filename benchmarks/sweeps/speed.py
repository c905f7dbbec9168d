"""Probes per second of a sweep against workers and block size, beside one Dask task per scikit-learn fit.

    python -m benchmarks.sweeps.speed --features DIR --rows 10000          # about 5 minutes on two cores

DIR holds NAME_train_LAYER.npy, NAME_test_LAYER.npy and NAME_{train,test}_labels.npy. The peer is the sweep
that people write by hand: the standardised matrix scattered to the workers, one task per LogisticRegression
(lbfgs, tol 1e-4). It runs on every fourth fraction of one seed; probes per second are of what each one ran.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from distributed import Client

import probecache as pc
from benchmarks.record import record
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.sweeps.cluster.start import connect
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.sweeps.sweep import Running, run_plan
from probecache.store.reader import Store

FRACTIONS = np.linspace(0.05, 1, 20)
L2 = 1e-4


def build_store(features: Path, path: Path, layers: list[str], rows: int | None) -> Store:
    """`rows` random training rows (all test rows) of each layer's .npy files as a store at `path`."""
    for split in ("train", "test"):
        labels = np.load(next(features.glob(f"*_{split}_labels.npy"))).astype(np.int64)
        kept = np.arange(len(labels))
        if split == "train" and rows is not None and rows < len(labels):
            kept = np.sort(np.random.default_rng(0).permutation(len(labels))[:rows])
        for layer in layers:
            matrix = np.load(next(features.glob(f"*_{split}_{layer}.npy")), mmap_mode="r")[kept]
            store = pc.write_arrays(path, split=split, layer=layer, activations=matrix, labels=labels[kept])
    return store


def fit_one(data: tuple[np.ndarray, ...], columns: np.ndarray) -> float:
    """The peer's task: one scikit-learn fit and its test accuracy."""
    from sklearn.linear_model import LogisticRegression

    x, y, test, test_labels = data
    model = LogisticRegression(C=1 / (L2 * len(x)), tol=1e-4, max_iter=1000)
    return float(model.fit(x[:, columns], y).score(test[:, columns], test_labels))


def peer(client: Client, store: Store, layer: str) -> tuple[float, list[float]]:
    """Seconds and accuracies of one task per fit, the matrix scattered to every worker."""
    x, test = (store.matrix(split, layer, dtype="float32") for split in ("train", "test"))
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1
    data = ((x - mean) / scale, store.labels("train"), (test - mean) / scale, store.labels("test"))
    order = permutation(x.shape[1], 0)
    begun = time.perf_counter()
    held = client.scatter(data, broadcast=True)
    futures = [client.submit(fit_one, held, order[:k]) for k in sizes(FRACTIONS[3::4], x.shape[1])]
    accuracies = client.gather(futures)
    return time.perf_counter() - begun, accuracies


def ours(store: Store, layer: str, seeds: int, client: Client | None, block_seconds: float | None) -> dict:
    """One sweep: probes per second, blocks' share of the workers' time, mean accuracy."""
    plan = SweepPlan(layer, FRACTIONS, seeds=seeds, l2=L2)
    begun = time.perf_counter()
    results = run_plan(plan, store, Running(client, block_seconds=block_seconds))
    wall = time.perf_counter() - begun
    return {
        "probes": plan.n_probes,
        "seconds": round(wall, 2),
        "probes_per_second": round(plan.n_probes / wall, 3),
        "busy_seconds": round(float(results["seconds"].sum()), 2),
        "accuracy": [round(float(a), 4) for a in results["accuracy"].sel(seed=0).values.ravel()],
    }


SIZES = {"one seed per block": 0.0, "all seeds in a block": 1e9, "auto": None}


def main() -> None:
    parser = argparse.ArgumentParser(description="Probes per second of sweeps.")
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--layer", default="penultimate")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    cases: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = build_store(options.features, Path(folder) / "s", [options.layer], options.rows)
        for workers in [0, *options.workers]:  # 0: in this process, without Dask
            with connect(workers=workers or None) as client:
                for name, size in SIZES.items():
                    runs = [
                        ours(store, options.layer, options.seeds, client, size) for _ in range(options.runs)
                    ]
                    runs.sort(key=lambda run: run["seconds"])
                    case = cases[f"{workers} workers, {name}"] = runs[len(runs) // 2]
                    print(f"{workers} workers, {name}: {case['probes_per_second']} probes/s", flush=True)
                if workers == max(options.workers):
                    seconds, accuracies = peer(client, store, options.layer)
    rate = len(accuracies) / seconds
    best = cases[f"{max(options.workers)} workers, auto"]
    gap = float(np.abs(np.array(best["accuracy"][3::4]) - accuracies).max())
    ratio = round(best["probes_per_second"] / rate, 1)
    print(
        f"one Dask task per scikit-learn fit: {rate:.3g} probes/s; ratio {ratio}, accuracies within {gap:.4f}"
    )
    one_by_one = {
        "workers": max(options.workers),
        "probes": len(accuracies),
        "seconds": round(seconds, 2),
        "probes_per_second": round(rate, 4),
        "accuracy": [round(a, 4) for a in accuracies],
    }
    found = {
        "rows": options.rows,
        "layer": options.layer,
        "seeds": options.seeds,
        "runs": options.runs,
        "cases": cases,
        "one Dask task per scikit-learn fit": one_by_one,
        "ratio": ratio,
        "largest accuracy difference": round(gap, 4),
    }
    print(record("sweep" if options.runs >= 3 else "sweep-quick", found))


if __name__ == "__main__":
    main()
