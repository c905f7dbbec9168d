"""Time to a gap: our probes at several tols beside scikit-learn's solvers at theirs, in one process in turn.

    python -m benchmarks.probes.gap --stores DIR                    all cases: about 12 minutes on two cores
    python -m benchmarks.probes.gap --stores DIR --cases flowers102,pets37 --threads 1 --clock cpu
    python -m benchmarks.probes.gap --quick                         small synthetic cases, 2 minutes

DIR holds stores cifar10*.zarr, flowers102*.zarr and pets37*.zarr with a layer `penultimate` and splits train
and test; a case whose store is not there is left out, and said to be.

Each case is 20 fractions of one order of the columns. *Gap* is relative to the best objective that anyone
found. Ours: moments, curvature, fits and scores of all 20, the median of the runs. A peer fits some of the 20
(their standardised columns made before the clock starts), and its sum over all is interpolated on k; its gap
is the largest of those. Each of our points stands beside the fastest peer that reaches our gap at those
fractions, or beside the closest one where none does: the ratio is then a lower bound, and `reached` false.
A peer that took longer than --patience for one fit is not asked for a smaller tol. Along a path of penalties
it fits them all, the largest first, each from the solution of the one before (scikit-learn's warm_start).
"""

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.probes.machine import add_machine, settle_machine
from benchmarks.probes.peers import columns, fit_path, penalised_entropy, torch_lbfgs
from benchmarks.probes.tasks import synthetic
from benchmarks.record import record
from probecache.analyze.probes.fit import fit_block
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.tasks.load import load_task
from probecache.analyze.tasks.task import Task
from probecache.store.reader import open_store

FRACTIONS = np.arange(1, 21) / 20
OURS = (1e-2, 1e-3, 1e-4, 5e-6)
PEERS = {
    "newton-cg": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-7),
    "lbfgs": (1e-2, 1e-3, 1e-4, 1e-6, 1e-8),
    "newton-cholesky": (1e-2, 1e-4),
    "torch lbfgs": (1e-3, 1e-5),
}
LARGE = {
    "newton-cg": (1e-2, 1e-3, 1e-4, 1e-5, 1e-7),
    "lbfgs": (1e-3, 1e-4, 1e-6, 1e-8),
    "torch lbfgs": (1e-5, 1e-7),
}
WARM = {"newton-cg": (1e-3, 1e-5, 1e-7), "lbfgs": (1e-4, 1e-6)}  # of a path: each fits all its penalties
CHOLESKY = 2500  # parameters up to which newton-cholesky is asked: its Hessian is their square
BEST = 1e-7  # tol of the fit that gaps and accuracies are measured against
ENOUGH = 30.0  # seconds of ours at a tol after which there is no further run


@dataclass(frozen=True)
class Case:
    """What makes a task, or nothing where its store is not there; the penalties that are fitted together; the
    solvers that stand beside us and their tols."""

    make: Callable[[argparse.Namespace], Task | None]
    l2s: tuple[float, ...] = (1e-4,)
    peers: dict[str, tuple[float, ...]] = field(default_factory=lambda: PEERS)


def stored(name: str, rows: int | None = None) -> Callable[[argparse.Namespace], Task | None]:
    """The task of the store called so, or of `rows` of its training rows, drawn with seed 0."""

    def make(args: argparse.Namespace) -> Task | None:
        found = sorted(args.stores.glob(f"{name}*.zarr")) if args.stores else []
        if not found:
            return None
        task = load_task(open_store(found[0]), "penultimate")
        if rows is None:
            return task
        chosen = np.sort(np.random.default_rng(0).permutation(len(task.train_labels))[:rows])
        return Task(task.train[chosen], task.train_labels[chosen], task.test, task.test_labels, task.classes)

    return make


def made(
    n: int, d: int, classes: int, spread: float, quick: tuple[int, int] = (2000, 128)
) -> Callable[[argparse.Namespace], Task]:
    """A synthetic task, or a smaller one where the run is quick."""
    return lambda args: synthetic(*(quick if args.quick else (n, d)), classes, spread)


CASES = {
    "cifar10": Case(stored("cifar10"), peers=LARGE),
    "cifar10, 8,000 rows": Case(stored("cifar10", 8000), (1e-3,), LARGE),
    "flowers102": Case(stored("flowers102")),
    "pets37": Case(stored("pets37")),
    "hundred hard": Case(made(20_000, 1280, 100, 2.0), peers=LARGE),
    "hundred separable": Case(made(50_000, 1280, 100, 0.5), peers=LARGE),
    "thousand classes": Case(made(12_811, 384, 1000, 2.0, (3000, 64)), peers=LARGE),
    "two classes": Case(made(20_000, 512, 2, 2.0)),
    "path of 45": Case(stored("cifar10", 8000), tuple(np.geomspace(1e-6, 10, 45).tolist()), WARM),
}


def named_cases(parser: argparse.ArgumentParser, text: str) -> list[str]:
    """Names with ; between them, or the parser's error."""
    names = [name.strip() for name in text.split(";")]
    unknown = [name for name in names if name not in CASES]
    if unknown:
        parser.error(f"got case {unknown[0]!r}; allowed: {'; '.join(CASES)}")
    return names


def ours(
    task: Task, order: np.ndarray, case: Case, tol: float, clock: Callable[[], float], times: int = 1
) -> dict[str, Any]:
    """Seconds, evaluations, objectives (f, p) and accuracies of all fractions and penalties at a tol."""
    ks, runs = sizes(FRACTIONS, task.n_neurons), []
    while len(runs) < times and sum(runs) < ENOUGH:
        begun = clock()
        found = fit_block(task, order[None], ks, np.array(case.l2s), tol=tol, device="cpu")
        runs.append(clock() - begun)
    return {
        "tol": tol,
        "seconds": float(np.median(runs)),
        "runs": runs,
        "evaluations": found.n_iter[0].sum(axis=1).tolist(),
        "converged": bool(found.converged.all()),
        "objective": found.objective[0].tolist(),
        "accuracy": found.accuracy[0].tolist(),
    }


def fit_peer(
    how: tuple[str, float],
    x: np.ndarray,
    y: np.ndarray,
    test: np.ndarray,
    truth: np.ndarray,
    l2: float,
    clock: Callable[[], float],
) -> list[float]:
    """Seconds, objective and test accuracy of one solver at one tol."""
    from sklearn.linear_model import LogisticRegression

    if how[0] == "torch lbfgs":
        begun = clock()
        coef, intercept = torch_lbfgs("cpu", l2, how[1])(x, y)
        seconds = clock() - begun
    else:
        model = LogisticRegression(C=1 / (l2 * len(x)), solver=how[0], tol=how[1], max_iter=10_000)
        begun = clock()
        model.fit(x, y)
        seconds = clock() - begun
        coef, intercept = model.coef_, model.intercept_
    z = test @ coef.T + intercept
    found = z.argmax(axis=1) if z.shape[1] > 1 else (z[:, 0] > 0).astype(int)
    return [seconds, penalised_entropy(x, y, coef, intercept, l2), float(np.mean(found == truth))]


def peer(
    name: tuple[str, str],
    task: Task,
    order: np.ndarray,
    case: Case,
    how: tuple[str, float],
    at: list[tuple[int, int]],
    clock: Callable[[], float],
    kept: dict[str, list[float]],
    keep: Callable[[], None],
) -> dict[str, Any]:
    """Fits of one solver at one tol, at positions (fraction, penalty); name: of the case and the clock.

    kept: fits that were made before, by what was fitted; new ones are added, and keep() is called.
    """
    ks, rows = sizes(FRACTIONS, task.n_neurons), []
    for f, p in at:
        key = json.dumps([*name, *how, f, p])
        if key not in kept and len(case.l2s) > 2:
            along = fit_path(how, task, order, int(ks[f]), case.l2s, clock)
            kept.update({json.dumps([*name, *how, f, q]): one for q, one in enumerate(along)})
            keep()
        elif key not in kept:
            x, test = columns(task, order, int(ks[f]))
            kept[key] = fit_peer(how, x, task.train_labels, test, task.test_labels, case.l2s[p], clock)
            keep()
        rows.append([f, p, *kept[key]])
    each = []
    for p in sorted({p for _, p in at}):
        mine = [row for row in rows if row[1] == p]
        each.append(np.interp(ks, [ks[row[0]] for row in mine], [row[2] for row in mine]).sum())
    spent = float(np.mean(each)) * len(case.l2s)
    return {"solver": how[0], "tol": how[1], "seconds": spent, "rows": rows}


def run(
    name: str, case: Case, task: Task, args: argparse.Namespace, clock: Callable[[], float]
) -> dict[str, Any]:
    """One case: our points, the peers' points, gaps and ratios."""
    order = permutation(task.n_neurons, 0)
    last = len(FRACTIONS) - 1
    middle = [0, len(case.l2s) // 2, len(case.l2s) - 1] if len(case.l2s) > 2 else [0]
    at = [(f, p) for p in middle for f in ([0, last // 2, last] if len(middle) == 1 else [0, last])]
    peers = fit_peers(name, case, task, args, clock, at)
    if args.peers_only:
        return {}
    points = [ours(task, order, case, tol, clock, args.runs) for tol in OURS]
    ks = sizes(FRACTIONS, task.n_neurons)
    exact = fit_block(task, order[None], ks, np.array(case.l2s), tol=BEST, device="cpu")
    best = np.minimum(np.min([point["objective"] for point in points], axis=0), exact.objective[0])
    for found in peers:
        for f, p, _, value, _ in found["rows"]:
            best[f, p] = min(best[f, p], value)
    for found in peers:
        found["gap"] = max(value / best[f, p] - 1 for f, p, _, value, _ in found["rows"])
    for point in points:
        gaps = np.array(point["objective"]) / best - 1
        point["gap"], point["gap_at_peers"] = float(gaps.max()), float(max(gaps[f, p] for f, p in at))
        short = np.abs(np.array(point["accuracy"]) - exact.accuracy[0])
        point["accuracy_off"] = float(short.max())
        point["peer"] = beside(point, peers)
        told = {key: point[key] for key in ("tol", "seconds", "gap", "accuracy_off", "peer")}
        print(name, told, flush=True)
    return {
        "shape": [*task.train.shape, len(task.classes)],
        "l2": list(case.l2s),
        "ours": points,
        "peers": peers,
        "converged_accuracy": exact.accuracy[0].tolist(),
    }


def fit_peers(
    name: str,
    case: Case,
    task: Task,
    args: argparse.Namespace,
    clock: Callable[[], float],
    at: list[tuple[int, int]],
) -> list[dict[str, Any]]:
    """Every solver at every tol, as far as patience goes; fits that --fits holds are not made again."""
    kept: dict[str, list[float]] = {}

    def keep() -> None:
        if args.fits:
            kept.update(json.loads(args.fits.read_text()) if args.fits.exists() else {})
            args.fits.write_text(json.dumps(kept, indent=0))

    keep()
    peers: list[dict[str, Any]] = []
    order = permutation(task.n_neurons, 0)
    for solver, tols in case.peers.items():
        if solver == "newton-cholesky" and len(task.classes) * task.n_neurons > CHOLESKY:
            continue
        if solver == "torch lbfgs" and len(task.classes) == 2:  # two weight vectors: another penalty
            continue
        for tol in tols:
            found = peer((name, args.clock), task, order, case, (solver, tol), at, clock, kept, keep)
            peers.append(found)
            print(f"{name}: {solver} {tol:g}: {found['seconds']:.2f} s for all, {found['rows']}", flush=True)
            if max(row[2] for row in found["rows"]) > args.patience:
                break
    return peers


def beside(point: dict[str, Any], peers: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest peer whose gap is no larger than ours, or the closest where there is none."""
    able = [found for found in peers if found["gap"] <= max(point["gap_at_peers"], 1e-6)]
    chosen = min(able, key=lambda found: found["seconds"]) if able else min(peers, key=lambda p: p["gap"])
    return {
        "solver": chosen["solver"],
        "tol": chosen["tol"],
        "seconds": chosen["seconds"],
        "gap": chosen["gap"],
        "times": chosen["seconds"] / point["seconds"],
        "reached": bool(able),
    }


def plot(results: dict[str, Any], path: Path) -> None:
    """Seconds against gap, a panel per case."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    cases = {name: found for name, found in results.items() if isinstance(found, dict) and "ours" in found}
    figure, axes = pyplot.subplots(
        1, len(cases), figsize=(3.1 * len(cases), 3), constrained_layout=True, squeeze=False
    )
    for axis, (name, found) in zip(axes[0], cases.items(), strict=True):
        for solver in ("probecache", *PEERS):
            points = found["ours"] if solver == "probecache" else found["peers"]
            mine = [p for p in points if solver == "probecache" or p["solver"] == solver]
            if mine:
                gaps = [max(p["gap"], 1e-7) for p in mine]
                axis.loglog(gaps, [p["seconds"] for p in mine], "o-", label=solver)
        axis.set(title=name, xlabel="largest gap", ylabel="seconds, 20 fractions")
        axis.invert_xaxis()
    axes[0][0].legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stores", type=Path, help="folder of the stores of features")
    parser.add_argument("--cases", default=";".join(CASES), help="names, with ; between them")
    add_machine(parser)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds of one fit of a peer")
    parser.add_argument("--runs", type=int, default=3, help="of ours at each tol, whose median counts")
    parser.add_argument("--fits", type=Path, help="JSON file that keeps the peers' fits for another run")
    parser.add_argument("--peers-only", action="store_true", help="make the peers' fits, for --fits")
    parser.add_argument("--quick", action="store_true", help="small synthetic cases, no stores")
    parser.add_argument("--title", default="probes-gap", help="of the record, for another kind of processor")
    parser.add_argument("--out", type=Path, help="folder of the record and the plot (benchmarks/results)")
    args = parser.parse_args()
    names = named_cases(parser, args.cases)
    clock = settle_machine(args)
    if args.quick:
        args.stores = None
    warnings.simplefilter("ignore")  # peers that stop early say so; their objective shows it
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "clock": args.clock}
    # Warm the libraries up on rows that are no case's.
    ours(synthetic(2000, 64, 10, 2.0), np.arange(64), Case(lambda _: None), 1e-3, clock)
    for name in names:
        task = CASES[name].make(args)
        if task is None:
            print(f"{name}: left out, no such store", flush=True)
            continue
        results[name] = run(name, CASES[name], task, args, clock)
        if args.peers_only:
            continue
        title = args.title + ("-quick" if args.quick else "")
        path = record(title + (f"-threads-{args.threads}" if args.threads else ""), results, folder=args.out)
        plot(results, path.with_suffix(".svg"))
        print(path, flush=True)


if __name__ == "__main__":
    main()
