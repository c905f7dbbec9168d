"""RESULTS of 10^4 to 10^6 probes: what a block's commit costs, opening, and growth.

    python -m benchmarks.store.scale_results                     # up to 10^6 probes, every one written
    python -m benchmarks.store.scale_results --probes 10000      # one size

20 fractions, 5 penalties, 50 seeds and 10 classes to a layer and selection; 10^6 probes are 200 of these.
Values are random numbers, committed block by block as a sweep does, with fsync. Growth adds a selection
or a fraction: chunks that are there are linked.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import probecache as pc
from benchmarks.record import record
from probecache.analyze.results.grid import Grid
from probecache.analyze.results.write import Results
from probecache.analyze.sweeps.blocks import Block

FRACTIONS = tuple(np.linspace(0.05, 1, 20).round(2).tolist())
L2 = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
SEEDS, CLASSES, NEURONS = 50, 10, 256
CELL = len(FRACTIONS) * len(L2) * SEEDS  # probes of a layer and selection


def grid_of(probes: int) -> Grid:
    cells = -(-probes // CELL)
    layers = tuple(f"layer{i}" for i in range(-(-cells // 5)))
    selections = ("random", "pca", "pca-least", "variance", "first")[: min(cells, 5)]
    names = tuple(f"class {i}" for i in range(CLASSES))
    axes = (("label",), layers, selections, ("all",), FRACTIONS, tuple(range(SEEDS)), L2)
    return Grid(*axes, (NEURONS,) * len(layers), (names,))


def values_of(block: Block, chance: np.random.Generator) -> dict[str, Any]:
    shape = len(block.seeds), len(block.fractions), len(block.l2s)
    scores = {n: chance.random(shape) for n in ("accuracy", "objective", "grad_norm", "seconds")}
    more = {"n_iter": np.full(shape, 20), "converged": np.ones(shape, bool)}
    return {**scores, **more, "class_accuracy": chance.random((*shape, CLASSES))}


def measure(probes: int, folder: Path) -> dict[str, Any]:
    chance, grid, path = np.random.default_rng(0), grid_of(probes), folder / "r"
    settings: dict[str, Any] = {"probe": "ridge", "train": "train", "test": "test", "standardize": True}
    settings |= {"tol": 5e-6, "digests": dict.fromkeys(grid.layer, "0")}
    start = time.perf_counter(), time.process_time()
    commits: list[float] = []
    used: list[float] = []
    with Results(path, grid, settings) as results:
        made = time.perf_counter() - start[0], time.process_time() - start[1]
        for layer in grid.layer:
            for selection in grid.selection:
                for at in range(0, SEEDS, 10):
                    block = Block(layer, selection, FRACTIONS, tuple(range(at, at + 10)), L2)
                    values, begun = values_of(block, chance), (time.perf_counter(), time.process_time())
                    results.commit(block, values)
                    commits.append(time.perf_counter() - begun[0])
                    used.append(time.process_time() - begun[1])
    found: dict[str, Any] = {
        "probes": int(np.prod(grid.shape)),
        "files": sum(p.is_file() for p in path.rglob("*")),
        "megabytes": round(sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 1e6, 1),
        "made, seconds": round(made[0], 2),
        "commit, milliseconds": _milliseconds(commits),
        "commit, processor milliseconds": _milliseconds(used),
        "last tenth of the commits, processor milliseconds": _milliseconds(used[-len(used) // 10 :]),
    }
    found |= timed("opened", lambda: pc.open_results(path))
    found |= timed("opened and every score read", lambda: pc.open_results(path)["accuracy"].values)
    for what, larger in (
        ("grown by a selection", replace(grid, selection=(*grid.selection, "greedy"))),
        ("grown by a fraction", replace(grid, fraction=(0.01, *FRACTIONS))),
    ):
        shutil.copytree(path, folder / "grown")
        before = {p.stat().st_ino for p in (folder / "grown").rglob("c/**/*") if p.is_file()}

        def grow(larger: Grid = larger) -> None:
            with Results(folder / "grown", larger, settings):
                pass

        found |= timed(what, grow)
        after = [p.stat() for p in (folder / "grown").rglob("c/**/*") if p.is_file()]
        new = sum(s.st_size for s in after if s.st_ino not in before)
        found[f"{what}, megabytes written"] = round(new / 1e6, 1)
        shutil.rmtree(folder / "grown")
    shutil.rmtree(path)
    return found


def timed(what: str, work: Any) -> dict[str, float]:
    start, used = time.perf_counter(), time.process_time()
    work()
    return {
        f"{what}, seconds": round(time.perf_counter() - start, 2),
        f"{what}, processor seconds": round(time.process_time() - used, 2),
    }


def _milliseconds(seconds: list[float]) -> float:
    return round(1000 * statistics.median(seconds), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--probes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    found = []
    for probes in arguments.probes:
        found.append(measure(probes, folder))
        print(found[-1], flush=True)
    shutil.rmtree(folder)
    if not arguments.no_record:
        print(record("scale-results", {"sizes": found}))


if __name__ == "__main__":
    main()
