"""Time to a gap on one device: ours at several tols beside its peers there, each at several tols of its own.

    python -m benchmarks.probes.device --device cuda
    python -m benchmarks.probes.device --device cuda --features FILE.npz
    python -m benchmarks.probes.device --device cpu --quick      the same calls on small tasks: a rehearsal

Peers: torch's L-BFGS in float32; scikit-learn's LogisticRegression on torch arrays of the device, where its
release takes them; cuML's, where it is installed, also from several threads. Their standardised float32
columns lie on the device before the clock starts; ours counts from rows in host memory to scores. A peer fits
some of the 20 fractions, and its sum over all is interpolated on k. For each of our points the fastest peer
counts that comes as near the minimum. A peer that is not here is named with the reason. FILE.npz holds train,
test as whole numbers, step (the value of 1 of each neuron), train_labels, test_labels.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.probes.peers import L2, timed
from benchmarks.probes.tasks import synthetic
from benchmarks.record import record
from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.probes.optim.multinomial import Batch
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.tasks.task import Task

FRACTIONS = np.arange(1, 21) / 20
TOLS = (1e-2, 1e-3, 1e-4, 5e-6)
RUNS = 3  # of ours, whose median counts
THREADS = 4  # of cuML, which releases the GIL since 26.02
AT = (1, 9, 19)  # positions among the fractions that peers fit
# name -> (rows, neurons, classes, spread) on a GPU, and in a rehearsal
CASES = {
    "ten classes": ((50_000, 1280, 10, 8.0), (1500, 64, 10, 2.0)),
    "hundred classes": ((50_000, 1280, 100, 6.0), (1500, 64, 30, 2.0)),
    "few rows": ((1_020, 1280, 102, 1.0), (200, 128, 20, 1.0)),
    "thousand classes": ((12_811, 384, 1000, 2.0), (900, 48, 60, 2.0)),
}
Fit = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--features", type=Path, help="rows of the case of ten classes")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=25, help="of each case: start no peer's fit after")
    parser.add_argument("--out", type=Path, help="folder of the record (benchmarks/results)")
    args = parser.parse_args()
    results: dict[str, Any] = {"device": args.device, "quick": args.quick}
    for name, shapes in CASES.items():
        file = args.features if name == "ten classes" else None
        task = synthetic(*shapes[args.quick]) if file is None else from_file(file)
        results[name] = case(task, args.device, args.seconds) | {
            "features": file.stem if file else "synthetic"
        }
        for point in results[name]["ours"]:
            print(name, {key: value for key, value in point.items() if key != "evaluations"}, flush=True)
        print(f"record: {record(f'probes-device-{args.device}', results, folder=args.out)}", flush=True)


def from_file(path: Path) -> Task:
    with np.load(path) as file:
        rows = [file[split].astype(np.float32) * file["step"] for split in ("train", "test")]
        labels = [file[f"{split}_labels"].astype(np.int64) for split in ("train", "test")]
    return Task(rows[0], labels[0], rows[1], labels[1], layer=path.stem)


def case(task: Task, device: str, seconds: float) -> dict[str, Any]:
    """Our points with gap and ratio to the fastest peer of no larger gap, and the peers' points."""
    order, ks, l2 = permutation(task.n_neurons, 0), sizes(FRACTIONS, task.n_neurons), np.array([L2])
    fit_block(task, order[None], ks, l2, device=device)  # warm the libraries up
    points = []
    for tol in TOLS:
        runs = []
        for _ in range(RUNS):
            prepared, shared = timed(lambda: task_moments(task, device=device))
            curved, _ = timed(lambda s=shared: s.curvature(L2))
            fitted, found = timed(
                lambda s=shared, t=tol: fit_block(task, order[None], ks, l2, shared=s, device=device, tol=t)
            )
            runs.append([prepared, curved, fitted])
        parts = np.median(runs, axis=0).tolist()
        points.append(
            {
                "tol": tol,
                "seconds": float(np.median(np.sum(runs, axis=1))),
                "moments, curvature, fits": parts,
                "evaluations": found.n_iter[0, :, 0].tolist(),
                "converged": bool(found.converged.all()),
                "accuracy": float(found.accuracy[0, -1, 0]),
                "objective": found.objective[0, :, 0],
            }
        )
    searches = {}
    for dtype in (torch.bfloat16, torch.float32) if device != "cpu" else ():
        with mock.patch("probecache.analyze.probes.kinds.logistic.search_dtype", lambda *_, d=dtype: d):
            spent, found = timed(lambda: fit_block(task, order[None], ks, l2, shared=shared, device=device))
        searches[str(dtype).removeprefix("torch.")] = {
            "fit seconds": spent,
            "evaluations": found.n_iter[0, :, 0].tolist(),
        }
    waits = _waits(lambda: fit_block(task, order[None], ks, l2, shared=shared, device=device))
    best = np.min([point["objective"] for point in points], axis=0)
    peers = _peers(task, order, ks, device, time.perf_counter() + seconds)
    for found in peers:  # a peer may be the best of all
        for at, value in found.get("objective", {}).items():
            best[at] = min(best[at], value)
    for found in peers:
        if "objective" in found:
            found["gap"] = max(value / best[at] - 1 for at, value in found.pop("objective").items())
    for point in points:
        point["gap"] = float((point.pop("objective") / best - 1).max())
        near = [p for p in peers if "gap" in p and p["gap"] <= max(point["gap"], 1e-7)]
        fastest = min(near, key=lambda p: p["seconds"], default=None)
        if fastest is not None:
            point["fastest peer"] = fastest["peer"]
            point["times"] = fastest["seconds"] / point["seconds"]
    return {
        "shape": [*task.train.shape, len(task.classes)],
        "ours": points,
        "peers": peers,
        "search": searches,
        "waits": waits,
    }


def _waits(fit: Callable[[], Any]) -> dict[str, int]:
    """How often a fit evaluates all that is left of its probes, and how often it waits for the device."""
    if not torch.cuda.is_available():
        return {}
    with mock.patch.object(Batch, "evaluate", autospec=True, side_effect=Batch.evaluate) as evaluate:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                fit()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits = sum("synchronizing" in str(warning.message) for warning in told)
    return {"evaluations in lock step": evaluate.call_count, "waits": waits}


def _peers(task: Task, order: np.ndarray, ks: np.ndarray, device: str, stop: float) -> list[dict[str, Any]]:
    mean, scale = (torch.from_numpy(a).to(device) for a in (task.mean, task.scale))
    x = (torch.from_numpy(task.train).to(device) - mean) / scale
    y = torch.from_numpy(task.train_labels).to(device)
    columns = {f: x[:, torch.from_numpy(order[: ks[f]]).to(device)].contiguous() for f in AT}
    out = []
    for name, (fit, why) in available(device).items():
        if fit is None:
            out.append({"peer": name, "left out": why})
            continue
        some = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:2000].to(device)
        fit(x[some, :50].contiguous(), y[some])  # warm up
        if time.perf_counter() > stop:
            out.append({"peer": name, "left out": "no time was left"})
            continue
        out.append(_peer(name, fit, columns, y, ks))
        print(out[-1]["peer"], {int(ks[f]): round(s, 3) for f, s in zip(AT, out[-1]["timed"], strict=True)})
    return out


def _peer(name: str, fit: Fit, columns: dict[int, Tensor], y: Tensor, ks: np.ndarray) -> dict[str, Any]:
    """A peer's fits at three fractions, interpolated; cuML's run side by side."""
    objective, seconds = {}, []
    for f, x in columns.items():
        spent, (coef, intercept) = timed(lambda x=x: fit(x, y))
        seconds.append(spent)
        objective[f] = penalised(x, y, coef, intercept)
    total = float(np.interp(ks, ks[list(columns)], seconds).sum())
    found: dict[str, Any] = {"peer": name, "seconds": total, "timed": seconds, "objective": objective}
    if name.startswith("cuml"):  # the same three from threads: how much of a fit's time they share
        with ThreadPoolExecutor(THREADS) as pool:
            together, _ = timed(lambda: list(pool.map(lambda x: fit(x, y), columns.values())))
        found |= {"one by one": total, "seconds": total * min(1.0, together / sum(seconds))}
    return found


def penalised(x: Tensor, y: Tensor, coef: Tensor, intercept: Tensor) -> float:
    """The penalised mean cross-entropy in float64."""
    w = coef.double()
    logits = torch.cat([part.double() @ w.T + intercept.double() for part in x.split(8192)])
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    entropy = torch.nn.functional.cross_entropy(logits, y)
    return float(entropy + L2 / 2 * w.square().sum())


def available(device: str) -> dict[str, tuple[Fit | None, str]]:
    """Each peer's fit at each of its tols, or why it is not here."""
    out: dict[str, tuple[Fit | None, str]] = {}
    for tol in (1e-3, 1e-4, 1e-5):
        out[f"torch L-BFGS, gradient {tol:.0e}"] = (torch_lbfgs(tol), "")
    why = no_array_api(device)
    for tol in (1e-2, 1e-3, 1e-4, 1e-6):
        out[f"scikit-learn on torch arrays, {tol:.0e}"] = (None if why else sklearn(tol), why)
    from probecache.analyze.sweeps.solvers import cuml

    why = cuml.unavailable()
    for tol in (1e-4, 1e-6):
        out[f"cuml qn, {tol:.0e}"] = (None if why else cuml_qn(tol), why)
    return out


def torch_lbfgs(tol: float) -> Fit:
    def fit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1, device=x.device)
        torch.nn.init.zeros_(layer.weight)
        optimiser = torch.optim.LBFGS(
            layer.parameters(), max_iter=1000, tolerance_grad=tol, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(layer(x), y) + L2 / 2 * layer.weight.square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        return layer.weight.detach(), layer.bias.detach()

    return fit


def sklearn(tol: float) -> Fit:
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegression

    def fit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with config_context(array_api_dispatch=True):
            model = LogisticRegression(C=1 / (L2 * len(x)), tol=tol, max_iter=2000).fit(x, y)
        return torch.as_tensor(model.coef_), torch.as_tensor(model.intercept_)

    return fit


def no_array_api(device: str) -> str:
    """Why scikit-learn does not fit torch arrays of the device, or ''."""
    from sklearn import __version__

    if os.environ.get("SCIPY_ARRAY_API") != "1":
        return "SCIPY_ARRAY_API=1 is not set"
    try:
        found, _ = sklearn(1e-4)(torch.randn(30, 3, device=device), torch.arange(30, device=device) % 3)
    except Exception as error:  # a release whose solvers take numpy alone raises anything
        return f"scikit-learn {__version__}: {type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return "" if found.device.type == device.split(":")[0] else "it moved the arrays to the CPU"


def cuml_qn(tol: float) -> Fit:
    import cupy
    from cuml.linear_model import LogisticRegression

    from probecache.analyze.sweeps.solvers.cuml import options

    def fit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        model = LogisticRegression(**options(len(x), L2) | {"tol": tol})
        model.fit(cupy.asarray(x), cupy.asarray(y.int()))
        return tuple(torch.as_tensor(a, device=x.device) for a in (model.coef_, model.intercept_))  # type: ignore[return-value]

    return fit


if __name__ == "__main__":
    main()
