"""A sweep on a machine that others use too: beside none, one and two foreign processes that keep a core busy.

    python -m benchmarks.probes.busy                  about 5 minutes on two quiet cores
    python -m benchmarks.probes.busy --rows 2000      a small one, 2 minutes

`probecache sweep` of synthetic features, in a process of its own with nothing said about threads, in turn
beside as many processes that do nothing but count. Seconds are the sweep's own, without Python's imports;
those of the whole command stand beside them. Bars: the medians beside one and two are at most 1.6 and 2.5
times the quiet one on two cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.probes.tasks import synthetic
from benchmarks.record import record
from probecache.analyze.threads import COUNTS, WAITING
from probecache.store.importing.arrays import write_arrays

FOREIGN = (0, 1, 2)
BARS = {1: 1.6, 2: 2.5}
SPIN = "while True: pass"
SETTLE = 1.0  # seconds between the start of foreign processes and ours


def one(store: Path, out: Path, foreign: int) -> tuple[float, float]:
    """Seconds of a sweep and of its whole command, beside so many busy processes."""
    import probecache

    environ = {name: value for name, value in os.environ.items() if name not in (*COUNTS, *WAITING)}
    command = [sys.executable, "-m", "probecache", "sweep", str(store), "--layer", "a", "--seeds", "1"]
    command += ["--fractions", ",".join(f"{i / 20:g}" for i in range(1, 21)), "--out", str(out)]
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(foreign)]
    try:
        time.sleep(SETTLE)
        begun = time.perf_counter()
        subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        whole = time.perf_counter() - begun
    finally:
        for other in others:
            other.kill()
            other.wait()
    return float(probecache.open_results(out).attrs["seconds"]), whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="training rows of 512 neurons, 10 classes")
    parser.add_argument("--runs", type=int, default=5, help="of each, in turn; their median counts")
    parser.add_argument("--out", type=Path, help="folder of the record (benchmarks/results)")
    args = parser.parse_args()
    seconds: dict[int, list[float]] = {foreign: [] for foreign in FOREIGN}
    whole: dict[int, list[float]] = {foreign: [] for foreign in FOREIGN}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        store, task = Path(folder) / "store.zarr", synthetic(args.rows, 512, 10, 2.0)
        parts = {"train": (task.train, task.train_labels), "test": (task.test, task.test_labels)}
        for split, (rows, labels) in parts.items():
            write_arrays(store, split=split, layer="a", activations=np.asarray(rows), labels=labels)
        for run in range(args.runs):
            for foreign in FOREIGN:
                mine, all_of_it = one(store, Path(folder) / f"{run}-{foreign}.zarr", foreign)
                seconds[foreign].append(mine)
                whole[foreign].append(all_of_it)
                print(f"{foreign} foreign: {mine:.2f} s, {all_of_it:.2f} s with imports", flush=True)
    medians = {foreign: statistics.median(values) for foreign, values in seconds.items()}
    times = {foreign: medians[foreign] / medians[0] for foreign in BARS}
    for foreign, bar in BARS.items():
        print(f"{foreign} foreign: {times[foreign]:.2f} times the quiet seconds (bar {bar})")
    results: dict[str, Any] = {
        "shape": [*task.train.shape, len(task.classes)],
        "load_before": load,
        "seconds": seconds,
        "with_imports": whole,
        "times": times,
    }
    print(record("busy", results, folder=args.out))


if __name__ == "__main__":
    main()
