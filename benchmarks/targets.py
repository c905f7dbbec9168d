"""Many binary targets of one store: seconds of a target among others, beside one alone and scikit-learn.

    python -m benchmarks.targets              40 targets of 50,000 x 1,280 rows, 20 fractions, one seed
    python -m benchmarks.targets --quick      4 targets of 2,000 x 128

A sweep of one target pays for reading, moments and factors by itself; among others they are shared. Of
scikit-learn one target is fitted at three fractions and summed over all by interpolation on k.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import probecache as pc
from benchmarks.probe_peers import columns
from benchmarks.probes import synthetic
from benchmarks.record import record
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.tasks.task import load_task

FRACTIONS = np.arange(1, 21) / 20
L2 = {"ridge": 1e-2, "logistic": 1e-3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--targets", type=int, default=40)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="folder of the record (benchmarks/results)")
    args = parser.parse_args()
    count = 4 if args.quick else args.targets
    with tempfile.TemporaryDirectory() as folder:
        store, names = make(Path(folder) / "s", count, args.quick)
        results: dict[str, Any] = {"shape": list(store.shape("train", "a")), "targets": count}
        for probe in L2:
            results[probe] = measure(store, names, probe)
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


def measure(store: Any, names: list[str], probe: str) -> dict[str, Any]:
    """Seconds of one target alone, of each among all, and of scikit-learn."""
    plan = {"layer": "a", "fractions": FRACTIONS, "seeds": 1, "probe": probe, "l2": L2[probe]}
    alone = min(seconds(store, plan, names[:1]) for _ in range(2))
    together = seconds(store, plan, names) / len(names)
    peer = scikit(store, names[0], probe)
    return {
        "alone": alone,
        "each among all": together,
        "share": together / alone,
        "scikit-learn": peer,
        "times scikit-learn": peer / together,
    }


def seconds(store: Any, plan: dict[str, Any], targets: list[str]) -> float:
    begun = time.perf_counter()
    pc.sweep(store, target=targets, **plan)
    return time.perf_counter() - begun


def scikit(store: Any, target: str, probe: str) -> float:
    from sklearn.linear_model import LogisticRegression, RidgeClassifier

    task = load_task(store, "a", "train", "test", target=target)
    order, ks = permutation(task.n_neurons, 0), sizes(FRACTIONS, task.n_neurons)
    at, spent = [0, len(ks) // 2, len(ks) - 1], []
    for f in at:
        x, test = columns(task, order, int(ks[f]))
        n = len(x)
        begun = time.perf_counter()
        if probe == "ridge":
            model = RidgeClassifier(alpha=L2[probe] * n, solver="cholesky")
        else:
            model = LogisticRegression(C=1 / (L2[probe] * n), solver="newton-cg", tol=1e-4, max_iter=1000)
        model.fit(x, task.train_labels).score(test, task.test_labels)
        spent.append(time.perf_counter() - begun)
    return float(np.interp(ks, ks[at], spent).sum())


if __name__ == "__main__":
    main()
