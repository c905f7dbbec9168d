"""Probes per second against scikit-learn, torch L-BFGS and himalaya, in one run on the same cores.

    python -m benchmarks.probes.fixed_tol --features DIR         about 30 minutes on two cores
    python -m benchmarks.probes.fixed_tol --features DIR --quick fewer fits per peer, small synthetic sets
    python -m benchmarks.probes.fixed_tol --device cuda --quick  synthetic, under 3 minutes on one H100

DIR holds train.npy, test.npy (samples, neurons), train_labels.npy, test_labels.npy; `--prefix`, for example
`cifar_{split}_penultimate`, names other files; `--flowers DIR` likewise. Without DIR features are synthetic.
Peers see the same standardised float32 columns. Our seconds hold moments, curvature, fits and scores, each
the median of up to three runs (ridge: of five). A peer's sum over the 20 fractions is interpolated on k where
not all were timed, and the record says from how many. Every peer's largest gap to the best objective found
stands beside its time: a fit that stops early is fast. The record is written anew after every case.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.probes.peers import (
    L2,
    columns,
    himalaya_seconds,
    penalised_entropy,
    sklearn_logistic,
    timed,
    torch_lbfgs,
)
from benchmarks.record import record
from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.tasks.task import Task

ALL, FIVE, THREE = list(range(20)), [0, 4, 9, 14, 19], [4, 9, 19]  # positions among the 20 fractions
FRACTIONS = np.arange(1, 21) / 20
RUNS, ENOUGH = 3, 60.0  # of ours, whose median counts; no further one after so many seconds


def synthetic(n: int, d: int, classes: int, spread: float, seed: int = 0) -> Task:
    """Correlated features with class means: `spread` is the noise in units of the distance of the means."""
    rng = np.random.default_rng(seed)
    rank = max(classes, d // 4)
    mixing = rng.normal(size=(rank, d)).astype(np.float32) * np.geomspace(1, 0.05, rank)[:, None]
    means = rng.normal(size=(classes, rank))
    parts = []
    for count in (n, max(1000, n // 5)):
        y = np.arange(count) % classes
        hidden = means[y] + spread * rng.normal(size=(count, rank))
        noise = 0.1 * rng.normal(size=(count, d)).astype(np.float32)
        parts += [np.maximum(hidden.astype(np.float32) @ mixing.astype(np.float32) + noise, 0), y]
    return Task(*parts, layer="synthetic")


def from_files(folder: Path, pattern: str) -> Task:
    def load(split: str) -> tuple[np.ndarray, np.ndarray]:
        labels = folder / f"{split}_labels.npy"
        if not labels.exists():
            labels = folder / (pattern.split("{split}")[0] + f"{split}_labels.npy")
        return np.load(folder / f"{pattern.format(split=split)}.npy"), np.load(labels).astype(np.int64)

    return Task(*load("train"), *load("test"), layer=pattern)


def logistic_case(
    name: str, task: Task, args: argparse.Namespace, peers: dict[str, list[int]], seeds: int = 1
) -> dict[str, Any]:
    """Our 20 probes of one seed, and per seed of several; each peer's fits on the chosen fractions."""
    d, y = task.n_neurons, task.train_labels
    ks = sizes(FRACTIONS, d)
    orders = np.stack([permutation(d, seed) for seed in range(max(seeds, 2))])
    # Warm the libraries up on rows that are not the task's.
    fit_block(
        synthetic(2000, 64, 10, 2.0), np.arange(64)[None], np.array([64]), np.array([L2]), device=args.device
    )
    runs: list[list[float]] = []
    while len(runs) < RUNS and sum(map(sum, runs)) < ENOUGH:
        prepared, shared = timed(lambda: task_moments(task, device=args.device))
        curved, _ = timed(lambda s=shared: s.curvature(L2))
        options: dict[str, Any] = {"device": args.device, "shared": shared}
        one, result = timed(lambda o=options: fit_block(task, orders[:1], ks, np.array([L2]), **o))
        runs.append([prepared, curved, one])
    prepared, curved, one = np.median(runs, axis=0).tolist()
    once = prepared + curved
    ours = result.objective[0, :, 0]
    out: dict[str, Any] = {
        "shape": [*task.train.shape, len(task.classes)],
        "moments_seconds": prepared,
        "curvature_seconds": curved,
        "one_seed_seconds": once + one,
        "runs": runs,
        "evaluations": result.n_iter[0, :, 0].tolist(),
        "converged": bool(result.converged.all()),
        "search_dtype": result.attrs["search_dtype"],
        "objective": ours.tolist(),
        "accuracy": result.accuracy[0, :, 0].tolist(),
        "peer_rows": "columns, seconds, objective, test accuracy",
        "peers": {},
    }
    if seeds > 1:
        many, _ = timed(lambda: fit_block(task, orders[:seeds], ks, np.array([L2]), **options))
        out["seeds"], out["seconds_per_seed"] = seeds, (once + many) / seeds
    print(name, {key: value for key, value in out.items() if "seconds" in key}, flush=True)
    makers = {
        "sklearn lbfgs 1e-8": sklearn_logistic("lbfgs", 1e-8),
        "sklearn lbfgs 1e-6": sklearn_logistic("lbfgs", 1e-6),
        "sklearn lbfgs 1e-4": sklearn_logistic("lbfgs", 1e-4),
        "sklearn newton-cholesky": sklearn_logistic("newton-cholesky", 1e-4),
        "torch lbfgs": torch_lbfgs(args.device),
    }
    best = ours.copy()
    for peer, positions in peers.items():
        rows = []
        for f in positions:
            x, test = columns(task, orders[0], int(ks[f]))
            seconds, (coef, intercept) = timed(lambda p=peer, x=x: makers[p](x, y))
            value = penalised_entropy(x, y, coef, intercept)
            best[f] = min(best[f], value)
            z = test @ coef.T + intercept
            guess = z.argmax(axis=1) if z.shape[1] > 1 else (z[:, 0] > 0).astype(int)
            accuracy = float(np.mean(guess == task.test_labels))
            rows.append([int(ks[f]), seconds, value, accuracy])
            print(f"{name}: {peer}: k={ks[f]} {seconds:.2f} s objective {value:.6f} accuracy {accuracy:.4f}")
        out["peers"][peer] = {"rows": rows}
    for peer, positions in peers.items():
        rows = out["peers"][peer]["rows"]
        spent = float(np.interp(ks, [row[0] for row in rows], [row[1] for row in rows]).sum())
        told = {
            "seconds_20": spent,
            "seconds_are": "timed" if len(rows) == 20 else f"interpolated, {len(rows)} of 20",
            "largest_gap": max(row[2] / best[f] - 1 for f, row in zip(positions, rows, strict=True)),
            "times_one_seed": spent / out["one_seed_seconds"],
        }
        if seeds > 1:
            told["times_many_seeds"] = spent / out["seconds_per_seed"]
        out["peers"][peer] |= told
        print(name, peer, told, flush=True)
    out["largest_gap"] = float(np.max(ours / best - 1))
    if "sklearn lbfgs 1e-8" in peers:
        out["largest_accuracy_difference"] = max(
            abs(result.accuracy[0, f, 0] - row[3])
            for f, row in zip(
                peers["sklearn lbfgs 1e-8"], out["peers"]["sklearn lbfgs 1e-8"]["rows"], strict=True
            )
        )
    return out


def ridge_case(task: Task, args: argparse.Namespace) -> dict[str, Any]:
    from sklearn.linear_model import RidgeClassifier

    d, y = task.n_neurons, task.train_labels
    ks, order = sizes(FRACTIONS, d), permutation(d, 0)
    chosen = FIVE if args.quick else ALL
    gram, shared = timed(lambda: task_moments(task, device=args.device))
    options: dict[str, Any] = {"probe": "ridge", "device": args.device, "shared": shared}
    orders = np.stack([permutation(d, seed) for seed in range(5)])
    told = options | {"return_predictions": True}
    runs, repeated = [], []
    for _ in range(5):
        one, result = timed(lambda: fit_block(task, order[None], ks, np.array([L2]), **told))
        five, _ = timed(lambda: fit_block(task, orders, ks, np.array([L2]), **options))
        runs.append(one)
        repeated.append(five)
    one, five = float(np.median(runs)), float(np.median(repeated))
    rows, himalaya, different = [], [], 0
    for f in chosen:
        x, test = columns(task, order, int(ks[f]))
        seconds, guess = timed(
            lambda x=x, test=test: RidgeClassifier(alpha=L2 * len(x)).fit(x, y).predict(test)
        )
        rows.append([int(ks[f]), seconds])
        different += int((guess != result.predictions[0, f, 0]).sum())
        himalaya.append([int(ks[f]), himalaya_seconds(x, y, test)])
        print(f"ridge: k={ks[f]} sklearn {seconds:.2f} s, himalaya {himalaya[-1][1]}", flush=True)
    spent = float(np.interp(ks, [r[0] for r in rows], [r[1] for r in rows]).sum())
    return {
        "gram_seconds": gram,
        "one_seed_seconds_after_gram": one,
        "five_seeds_seconds_after_gram": five,
        "sklearn": rows,
        "himalaya": himalaya,
        "sklearn_seconds_all_fractions": spent,
        "times_sklearn_after_gram": spent / one,
        "times_sklearn_five_seeds_with_gram": 5 * spent / (gram + five),
        "predictions_that_differ": different,
    }


def scaling(args: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Seconds of logistic probes against one size at a time: [size, probes, seconds]."""
    small = {"rows": 4000, "neurons": 128, "classes": 10, "probes": 20}
    axes = {
        "probes": [1, 10, 100, 1000, 10_000],
        "rows": [1000, 4000, 16_000, 64_000],
        "neurons": [32, 128, 512, 2048],
        "classes": [2, 10, 100],
    }
    out: dict[str, list[list[float]]] = {}
    for axis, values in axes.items():
        out[axis] = []
        for value in values:
            size = small | {axis: value}
            task = synthetic(size["rows"], size["neurons"], size["classes"], 2.0)
            per_seed = min(size["probes"], 20)
            seeds = size["probes"] // per_seed
            orders = np.stack([permutation(size["neurons"], seed) for seed in range(seeds)])
            ks = sizes(np.arange(1, per_seed + 1) / per_seed, size["neurons"])
            seconds, _ = timed(
                lambda t=task, o=orders, k=ks: fit_block(t, o, k, np.array([L2]), device=args.device)
            )
            out[axis].append([value, seeds * per_seed, seconds])
            print(f"scaling: {axis}={value}: {seeds * per_seed} probes in {seconds:.2f} s", flush=True)
    return out


def plot(curves: dict[str, list[list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(3.2 * len(curves), 3), constrained_layout=True)
    for axis, (name, rows) in zip(axes, curves.items(), strict=True):
        axis.loglog([row[0] for row in rows], [row[2] for row in rows], "o-")
        axis.set_xlabel(name)
        axis.set_ylabel("seconds")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--features", type=Path, help="folder of .npy files")
    parser.add_argument("--prefix", default="{split}", help="file names, with {split}")
    parser.add_argument("--flowers", type=Path, help="folder of Flowers102 features, named as train, test")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--few", action="store_true", help="five of lbfgs's 20 fits, the rest interpolated")
    parser.add_argument("--threads", type=int, help="of torch, numpy and scipy; default: their own")
    parser.add_argument("--cases", default="logistic,classes,separable,ridge,scaling")
    parser.add_argument("--out", type=Path, help="folder of the record and the plot (benchmarks/results)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
        threadpool_limits(args.threads)
    warnings.simplefilter("ignore")  # peers that stop early say so; their objective shows it
    cases = args.cases.split(",")
    gpu = args.device != "cpu"
    task = from_files(args.features, args.prefix) if args.features else synthetic(50_000, 1280, 10, 2.0)
    results: dict[str, Any] = {
        "features": args.prefix if args.features else "synthetic",
        "device": args.device,
        "threads": torch.get_num_threads(),
    }
    torch_only = {"torch lbfgs": THREE}
    few = (
        torch_only if gpu else {"sklearn lbfgs 1e-4": THREE, "sklearn lbfgs 1e-6": THREE, "torch lbfgs": [9]}
    )
    peers = {
        "sklearn lbfgs 1e-4": FIVE if args.quick or args.few else ALL,
        "sklearn lbfgs 1e-8": THREE,
        "sklearn newton-cholesky": [0, 2],  # its Hessian is (k c)^2: beyond k = 300 gigabytes and hours
        "torch lbfgs": THREE,
    }
    hundred = (50_000, 1280) if gpu or not args.quick else (10_000, 512)
    separable = (50_000, 512) if gpu or not args.quick else (10_000, 256)
    work: dict[str, Callable[[], Any]] = {
        "logistic": lambda: logistic_case("logistic", task, args, torch_only if gpu else peers, seeds=5),
        "ridge": lambda: ridge_case(task, args),
        "separable": lambda: logistic_case("separable", synthetic(*separable, 10, 0.5), args, few),
        "scaling": lambda: scaling(args),
        "classes": lambda: logistic_case("100 classes", synthetic(*hundred, 100, 2.0), args, few),
    }
    if args.flowers:
        work["flowers"] = lambda: logistic_case("flowers", from_files(args.flowers, "{split}"), args, few)
        cases.append("flowers")
    name = f"probes-{args.device.replace(':', '')}" + ("-quick" if args.quick else "")
    name += f"-threads-{args.threads}" if args.threads else ""
    for case in (case for case in work if case in cases):
        results[case] = work[case]()
        path = record(name, results, folder=args.out)
        if case == "scaling":
            plot(results["scaling"], path.with_suffix(".svg"))
        print(path, flush=True)


if __name__ == "__main__":
    main()
