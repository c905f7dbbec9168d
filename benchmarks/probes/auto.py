"""What l2 "auto" costs, as a multiple of one penalty, and whether it chooses as fits of all penalties would.

    python -m benchmarks.probes.auto --stores DIR --threads 1 --clock cpu          about 5 minutes
    python -m benchmarks.probes.auto --stores DIR --cases "two classes" --oracle   and all fits to tol

20 fractions of one order of the columns, moments and scores included, at the default tol and path. One
penalty is 1e-4, the default of a sweep, and the one that most sizes chose. --oracle fits every penalty of the
path by itself on the rows that choose, and counts the sizes that would choose another and the rows that this
costs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.probes.gap import CASES, FRACTIONS, named_cases
from benchmarks.probes.machine import add_machine, settle_machine
from benchmarks.record import record
from probecache.analyze.probes.fit import fit_block, fit_request
from probecache.analyze.probes.kind import ProbeRequest
from probecache.analyze.probes.l2_choice.select_l2 import L2_PATH, best_penalty, fit_chosen, hold_out
from probecache.analyze.probes.registry import get_kind
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.tasks.task import Task

DEFAULT = 1e-4
NAMES = ("cifar10, 8,000 rows", "cifar10", "flowers102", "pets37", "two classes")


def run(task: Task, clock: Callable[[], float], oracle: bool) -> dict[str, Any]:
    """Seconds and evaluations of l2 auto and of one penalty; what was chosen."""
    order, ks = permutation(task.n_neurons, 0)[None], sizes(FRACTIONS, task.n_neurons)
    path, counted = np.array(L2_PATH), []

    def fit(part: Task, request: ProbeRequest, shared: Any) -> Any:
        found = fit_request(part, request, shared)
        counted.append([len(part.train_labels), request.l2s.tolist(), len(request.sizes), request.tol])
        counted[-1].append(int(found.n_iter.sum()))
        return found

    begun = clock()
    found, chosen = fit_chosen(
        task, ProbeRequest(get_kind("logistic"), order, ks, path, device="cpu"), fit=fit
    )
    told: dict[str, Any] = {"auto": clock() - begun, "converged": bool(found.converged.all())}
    values, counts = np.unique(chosen, return_counts=True)
    told |= {"chosen": chosen[0, :, 0].tolist(), "fits": counted, "one": {}}
    for l2 in {DEFAULT, float(values[counts.argmax()])}:
        begun = clock()
        fit_block(task, order, ks, np.array([l2]), device="cpu")
        told["one"][f"{l2:g}"] = clock() - begun
    told["times"] = {name: told["auto"] / seconds for name, seconds in told["one"].items()}
    if oracle:
        held, begun = hold_out(task, device="cpu"), clock()
        scores = [
            fit_block(held.task, order, ks, path[i : i + 1], shared=held.shared, device="cpu").score
            for i in range(len(path))
        ]
        told["all"] = clock() - begun
        full = np.concatenate(scores, 2)
        told["differ"] = int((best_penalty(full, path) != chosen[..., 0]).sum())
        taken = np.take_along_axis(full, np.searchsorted(path, chosen), axis=2)[..., 0]
        told["rows_lost"] = round(float((full.max(axis=2) - taken).max() * len(held.task.test_labels)))
        told["rows"] = len(held.task.test_labels)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stores", type=Path, help="folder of cifar10*.zarr, flowers102*.zarr, pets37*.zarr")
    parser.add_argument("--cases", default="; ".join(NAMES), help="of benchmarks.probes.gap, separated by ;")
    add_machine(parser)
    parser.add_argument("--oracle", action="store_true", help="fit every penalty to tol beside it")
    parser.add_argument("--out", type=Path, help="folder of the record (benchmarks/results)")
    args = parser.parse_args()
    names = named_cases(parser, args.cases)
    clock = settle_machine(args)
    args.quick = False
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "clock": args.clock}
    for name in names:
        task = CASES[name].make(args)
        if task is None:
            print(f"{name}: left out, no such store", flush=True)
            continue
        results[name] = told = run(task, clock, args.oracle)
        print(name, {key: value for key, value in told.items() if key not in ("fits", "chosen")}, flush=True)
    print(record("probes-auto", results, folder=args.out), flush=True)


if __name__ == "__main__":
    main()
