"""All 20 fractions in one batch against RAPIDS cuML, one fit at a time, on one GPU and the same features.

    python -m benchmarks.probes.cuml --features DIR

DIR holds train.npy, test.npy (samples, neurons), train_labels.npy, test_labels.npy; `--prefix`, for example
`cifar_{split}_penultimate`, names other files.

cuML's LogisticRegression (qn) gets float32 columns that lie on the device; its time is that of `fit` alone,
ours includes copying the matrix there and scoring the test rows. Objectives of both in float64, the same way.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# cuML first: torch brings an older nvJitLink, and the first one that is loaded serves both.
import cuml
import cupy
import numpy as np
import torch
from cuml.linear_model import LogisticRegression

from benchmarks.probes.peers import L2
from benchmarks.probes.tasks import FRACTIONS, from_files
from benchmarks.record import record
from probecache.analyze.probes.fit import fit_block, task_moments
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.tasks.task import Task

ORDER_OF_FITS = [19, 0, 9, 4, 14]  # the whole range first, where time is short


class Judge:
    """Objective and test accuracy of any weights, in float64 on the device."""

    def __init__(self, task: Task) -> None:
        def standard(matrix: Any) -> torch.Tensor:
            return torch.from_numpy((matrix.astype(np.float64) - task.mean) / task.scale).cuda()

        self.train, self.test = standard(task.train), standard(task.test)
        self.labels, self.truth = (torch.from_numpy(y).cuda() for y in (task.train_labels, task.test_labels))

    def columns(self, columns: np.ndarray) -> torch.Tensor:
        """float32 (n, k), contiguous."""
        return self.train[:, torch.from_numpy(columns).cuda()].float().contiguous()

    def __call__(self, coef: np.ndarray, intercept: np.ndarray, columns: np.ndarray) -> list[float]:
        w, b = (torch.from_numpy(np.asarray(a, np.float64)).cuda() for a in (coef, intercept))
        at = torch.from_numpy(columns).cuda()
        entropy = torch.nn.functional.cross_entropy(self.train[:, at] @ w.T + b, self.labels)
        right = (self.test[:, at] @ w.T + b).argmax(dim=1) == self.truth
        return [float(entropy + L2 / 2 * (w**2).sum()), float(right.double().mean())]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    torch.cuda.synchronize()
    begun = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return time.perf_counter() - begun, result


def cuml_fit(judge: Judge, columns: np.ndarray, tol: float) -> list[float]:
    """[k, seconds, iterations, objective, accuracy]."""
    x, y = cupy.asarray(judge.columns(columns)), cupy.asarray(judge.labels.int())
    model = LogisticRegression(C=1 / (L2 * len(x)), tol=tol, max_iter=1000, solver="qn", output_type="cupy")
    seconds, _ = timed(lambda: model.fit(x, y))
    coef, intercept = cupy.asnumpy(model.coef_), cupy.asnumpy(model.intercept_)
    return [len(columns), seconds, int(np.max(model.n_iter_)), *judge(coef, intercept, columns)]


def run(task: Task, limit: float) -> dict[str, Any]:
    judge = Judge(task)
    ks = sizes(FRACTIONS, task.n_neurons)
    orders = np.stack([permutation(task.n_neurons, seed) for seed in range(5)])
    l2 = np.array([L2])
    fit_block(task, orders[:1], ks, l2, device="cuda")  # warm the libraries up
    moments, shared = timed(lambda: task_moments(task, device="cuda"))
    curvature, _ = timed(lambda: shared.curvature(L2))
    options: dict[str, Any] = {"device": "cuda", "shared": shared}
    ones = [timed(lambda: fit_block(task, orders[:1], ks, l2, return_coef=True, **options)) for _ in range(3)]
    five, _ = timed(lambda: fit_block(task, orders, ks, l2, **options))
    fit = ones[0][1]
    out: dict[str, Any] = {
        "shape": list(task.train.shape),
        "l2": L2,
        "moments_seconds": moments,
        "curvature_seconds": curvature,
        "batch_of_20_seconds_after_moments": [seconds for seconds, _ in ones],
        "five_seeds_seconds_after_moments": five,
        "converged": bool(fit.converged.all()),
        "ours": [
            [int(k), *judge(fit.coef[0, i, 0][:, :k], fit.intercept[0, i, 0], orders[0, :k])]
            for i, k in enumerate(ks)
        ],
        "cuml": cuml.__version__,
    }
    cuml_fit(judge, orders[0, : ks[0]], 1e-4)  # warm up
    ours = moments + curvature + statistics.median(out["batch_of_20_seconds_after_moments"])
    end = time.perf_counter() + limit
    for tol in (1e-6, 1e-4):
        rows = out[f"cuml_tol_{tol:.0e}"] = []
        for i in ORDER_OF_FITS + sorted(set(range(len(ks))) - set(ORDER_OF_FITS)):
            if time.perf_counter() < end:
                rows.append(cuml_fit(judge, orders[0, : ks[i]], tol))
        if len(rows) == len(ks):
            out[f"cuml_tol_{tol:.0e}_over_ours"] = sum(row[1] for row in rows) / ours
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="folder of .npy files")
    parser.add_argument("--prefix", default="{split}", help="file names, with {split}")
    parser.add_argument("--seconds", type=float, default=120, help="start no cuML fit after this time")
    parser.add_argument("--out", type=Path, help="folder of the record (default: benchmarks/results)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(record("probes-cuml", run(from_files(args.features, args.prefix), args.seconds), folder=args.out))


if __name__ == "__main__":
    main()
