"""Time to a gap on one device: ours at several tols beside its peers there, one by one or from threads.

    python -m benchmarks.probes_device --device cuda
    python -m benchmarks.probes_device --device cpu --quick      the same calls on small tasks: a rehearsal

Peers: torch's L-BFGS in float32; scikit-learn's LogisticRegression on torch arrays of the device, where its
release takes them; cuML's, from several threads, where it is installed. Each fits some of the 20 fractions,
and its sum over all is interpolated on k. A peer that is not here is named with the reason.
"""

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.probe_peers import L2, columns, penalised_entropy, timed, torch_lbfgs
from benchmarks.probes import synthetic
from benchmarks.record import record
from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.tasks.task import Task

FRACTIONS = np.arange(1, 21) / 20
TOLS = (1e-2, 1e-3, 1e-4, 5e-6)
THREADS = 4  # of cuML, which releases the GIL since 26.02
# name -> (rows, neurons, classes, spread) on a GPU, and in a rehearsal
CASES = {
    "ten classes": ((50_000, 1280, 10, 2.0), (1500, 64, 10, 2.0)),
    "hundred classes": ((50_000, 1280, 100, 2.0), (1500, 64, 30, 2.0)),
    "few rows": ((1_020, 1280, 102, 1.0), (200, 128, 20, 1.0)),
}
Fit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=100, help="start no peer's fit after this time")
    parser.add_argument("--out", type=Path, help="folder of the record (benchmarks/results)")
    args = parser.parse_args()
    stop = time.perf_counter() + args.seconds
    results: dict[str, Any] = {"device": args.device, "quick": args.quick}
    for name, shapes in CASES.items():
        results[name] = case(synthetic(*shapes[args.quick]), args.device, stop)
        print(name, results[name]["ours"], results[name]["peers"], flush=True)
        print(f"record: {record(f'probes-device-{args.device}', results, folder=args.out)}", flush=True)


def case(task: Task, device: str, stop: float) -> dict[str, Any]:
    """Our points, and each peer's summed seconds, gap and ratio to our fastest point of no larger gap."""
    order, ks = permutation(task.n_neurons, 0), sizes(FRACTIONS, task.n_neurons)
    fit_block(task, order[None], ks, np.array([L2]), device=device)  # warm the libraries up
    points = []
    for tol in TOLS:
        options = {"device": device, "tol": tol}
        seconds, found = timed(
            lambda o=options: fit_block(
                task, order[None], ks, np.array([L2]), shared=task_moments(task, device=device), **o
            )
        )
        points.append({"tol": tol, "seconds": seconds, "objective": found.objective[0, :, 0].tolist()})
    best = np.min([point["objective"] for point in points], axis=0)
    peers = {}
    for name, (fit, why) in available(device).items():
        peers[name] = {"left out": why} if fit is None else _peer(task, order, ks, fit, best, stop, name)
    for found in peers.values():  # a peer may be the best of all
        for at, value in found.get("objective", {}).items():
            best[at] = min(best[at], value)
    for point in points:
        point["gap"] = float((np.array(point.pop("objective")) / best - 1).max())
    for found in peers.values():
        if "objective" in found:
            found["gap"] = max(value / best[at] - 1 for at, value in found.pop("objective").items())
            like = [p["seconds"] for p in points if p["gap"] <= max(found["gap"], 1e-6)]
            found["times"] = found["seconds"] / min(like) if like else None
    return {"shape": [*task.train.shape, len(task.classes)], "ours": points, "peers": peers}


def _peer(
    task: Task, order: np.ndarray, ks: np.ndarray, fit: Fit, best: np.ndarray, stop: float, name: str
) -> dict[str, Any]:
    """A peer's fits at three fractions, interpolated; cuML's run side by side."""
    at = [0, len(ks) // 2, len(ks) - 1]
    data = [columns(task, order, int(ks[f]))[0] for f in at]
    if time.perf_counter() > stop:
        return {"left out": "no time was left"}
    objective, seconds = {}, []
    for f, x in zip(at, data, strict=True):
        spent, (coef, intercept) = timed(lambda x=x: fit(x, task.train_labels))
        seconds.append(spent)
        objective[f] = penalised_entropy(x, task.train_labels, coef, intercept)
    total = float(np.interp(ks, ks[at], seconds).sum())
    found: dict[str, Any] = {"seconds": total, "one by one": total, "objective": objective}
    if name == "cuml":  # the same three from threads: how much of a fit's time they share
        with ThreadPoolExecutor(THREADS) as pool:
            together, _ = timed(lambda: list(pool.map(lambda x: fit(x, task.train_labels), data)))
        found["seconds"] = total * min(1.0, together / sum(seconds))
    return found


def available(device: str) -> dict[str, tuple[Fit | None, str]]:
    """Each peer's fit, or why it is not here."""
    return {"torch L-BFGS": (torch_lbfgs(device), ""), "scikit-learn": _sklearn(device), "cuml": _cuml()}


def _sklearn(device: str) -> tuple[Fit | None, str]:
    from sklearn import __version__, config_context
    from sklearn.linear_model import LogisticRegression

    if os.environ.get("SCIPY_ARRAY_API") != "1":
        return None, "SCIPY_ARRAY_API=1 is not set"

    def fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with config_context(array_api_dispatch=True):
            model = LogisticRegression(C=1 / (L2 * len(x)), tol=1e-4, max_iter=5000)
            model.fit(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device))
        return tuple(np.asarray(torch.as_tensor(a).cpu()) for a in (model.coef_, model.intercept_))  # type: ignore[return-value]

    try:
        rng = np.random.default_rng(0)
        fit(rng.normal(size=(30, 3)).astype(np.float32), np.arange(30) % 3)
    except Exception as error:  # a release whose solvers take numpy alone raises anything
        return None, f"scikit-learn {__version__}: {type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return fit, ""


def _cuml() -> tuple[Fit | None, str]:
    from probecache.analyze.sweeps.solvers import cuml

    if why := cuml.unavailable():
        return None, why

    def fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = cuml.fit_logistic(x, y, L2)
        return found.coef, found.intercept

    return fit, ""


if __name__ == "__main__":
    main()
