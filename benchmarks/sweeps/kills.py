"""10,000 probes through two Dask workers, with a `kill -9` of a worker and of the client in between.

    python -m benchmarks.sweeps.kills --features DIR                  # all rows
    python -m benchmarks.sweeps.kills --features DIR --rows 10000     # a stated part of the rows

DIR holds NAME_{train,test}_LAYER.npy and NAME_{train,test}_labels.npy. 5 layers x 20 fractions x 20 seeds x
5 l2 by the command `probecache sweep --workers 2`. A worker is killed once a fifth is done, the client once
half is, then the same command is given again. Checked: every probe is there once, none that was done is
computed again, and `--check` (layer, seed) groups of 100 probes equal a run in this process.

Scheduler overhead is measured on the second life of the client, which nothing disturbs, from Dask's own task
stream: the workers' time between one block's end and the next one's start, and the processor time of the
client's process, which holds Dask's scheduler and writes RESULTS, both as shares of what the cores have.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr
import zarr
from distributed import Client

from benchmarks.record import record
from benchmarks.sweeps.speed import build_store
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.analyze.sweeps.sweep import run_plan

LAYERS = ["blocks.3", "blocks.4", "blocks.5", "blocks.6", "penultimate"]
FRACTIONS = tuple(np.linspace(0.05, 1, 20).round(2))
L2S = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass
class Run:
    """One life of the client: seconds, and processor seconds of its process (Dask's scheduler too)."""

    process: subprocess.Popen
    begun: float
    seconds: float = 0.0
    processor: float = 0.0

    def sample(self) -> bool:
        """Note the process's times; whether it lives."""
        if self.process.poll() is None:
            times = psutil.Process(self.process.pid).cpu_times()
            self.seconds, self.processor = time.monotonic() - self.begun, times.user + times.system
            return True
        return False


def start(store: Path, plan: SweepPlan, out: Path, workers: int, log: Path) -> Run:
    line = [
        sys.executable,
        "-m",
        "probecache",
        "sweep",
        str(store),
        "--workers",
        str(workers),
        "--out",
        str(out),
    ]
    for layer in plan.layer:
        line += ["--layer", layer]
    line += ["--fractions", ",".join(map(str, plan.fractions)), "--l2", ",".join(map(str, plan.l2))]
    line += ["--seeds", str(len(plan.seeds))]
    with log.open("a") as sink:
        return Run(subprocess.Popen(line, stdout=sink, stderr=sink), time.monotonic())


def states(out: Path) -> np.ndarray:
    """`state` of RESULTS as it is now; empty before it is laid out."""
    try:
        return np.asarray(zarr.open_array(out / "state", mode="r")[:])
    except FileNotFoundError:
        return np.zeros(0)


def worker_pids(client: int) -> list[int]:
    """Processes of a client that hold a Dask worker: the nannies' children, by far its largest."""
    children = psutil.Process(client).children(recursive=True)
    return [child.pid for child in children if child.memory_info().rss > 150 * 2**20]


def follow(run: Run, out: Path, until: float) -> bool:
    """Wait for a share of the probes to be done; False where the run ended before."""
    while run.sample():
        done = states(out)
        if done.size and (done == 1).mean() >= until:
            return True
        time.sleep(1)
    return False


class Stream:
    """The blocks that a client's scheduler ran: when each began and ended, on which worker."""

    def __init__(self, log: Path, lives: int) -> None:
        """log: of the command, which prints the dashboard's address once in each of its lives."""
        while len(links := re.findall(r"dashboard: (\S+)/status", log.read_text())) < lives:
            time.sleep(0.2)
        with urllib.request.urlopen(f"{links[-1]}/json/identity.json") as answer:
            self._client = Client(json.load(answer)["address"], set_as_default=False)
        self._tasks: dict[str, dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        found = self._client.get_task_stream(start="60s")
        self._tasks |= {str(task["key"]): task for task in found if str(task["key"]).startswith("block-")}

    def close(self) -> None:
        self._client.close()

    def idle(self) -> dict[str, float]:
        """Blocks seen; the workers' share of time between two blocks, and the longest of these gaps."""
        spans = defaultdict(list)
        for task in self._tasks.values():
            times = [(part["start"], part["stop"]) for part in task["startstops"]]
            spans[task["worker"]].append((times[0][0], times[-1][1]))
        total, gaps = 0.0, []
        for held in map(sorted, spans.values()):
            total += held[-1][1] - held[0][0]
            gaps += [after[0] - before[1] for before, after in pairwise(held)]
        return {"blocks": len(self._tasks), "share": sum(gaps) / total, "longest": max(gaps, default=0.0)}


def watch(run: Run, log: Path, lives: int) -> tuple[Stream, float]:
    """Follow a run to its end: its blocks, and the share of one core that its process took meanwhile."""
    stream = Stream(log, lives)
    run.sample()
    begun = (run.seconds, run.processor)
    read = time.monotonic()
    while run.sample():
        if time.monotonic() > read + 10:
            with suppress(OSError, TimeoutError):  # the scheduler ends before its process does
                stream.read()
            read = time.monotonic()
        time.sleep(1)
    stream.close()
    return stream, (run.processor - begun[1]) / (run.seconds - begun[0])


def check(results: xr.Dataset, plan: SweepPlan, store: Path, groups: int) -> dict[str, float]:
    """Largest differences to a run in this process, over `groups` (layer, seed) groups."""
    objective, accuracy, count = 0.0, 0.0, 0
    for i in range(groups):
        layer, seed = plan.layer[i % len(plan.layer)], plan.seeds[-1 - i % len(plan.seeds)]
        here = run_plan(SweepPlan(layer, plan.fractions, seeds=[seed], l2=plan.l2), store)
        there = results.sel({"layer": [layer], "seed": [seed]})
        difference = np.abs(here["objective"].values / there["objective"].values - 1)
        objective = max(objective, float(difference.max()))
        accuracy = max(accuracy, float(np.abs(here["accuracy"].values - there["accuracy"].values).max()))
        count += here["accuracy"].size
    return {"probes": count, "objective": objective, "accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description="A large sweep with kills.")
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=None, help="training rows (default: all)")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--check", type=int, default=5, help="(layer, seed) groups to compare")
    options = parser.parse_args()
    plan = SweepPlan(options.layers, FRACTIONS, seeds=options.seeds, l2=L2S)
    with tempfile.TemporaryDirectory() as folder:
        path, out, log = (Path(folder) / name for name in ("store", "results", "log"))
        build_store(options.features, path, options.layers, options.rows)
        begun = time.monotonic()
        first = start(path, plan, out, options.workers, log)
        assert follow(first, out, 0.2), log.read_text()
        victim = worker_pids(first.process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        print(f"killed worker {victim} at {(states(out) == 1).mean():.0%}", flush=True)
        assert follow(first, out, 0.5), log.read_text()
        orphans = worker_pids(first.process.pid)
        first.process.kill()
        first.process.wait()
        time.sleep(5)
        left = [pid for pid in orphans if psutil.pid_exists(pid)]
        before = xr.open_zarr(out).load()
        kept = before["state"].values == 1
        print(f"killed the client at {kept.mean():.0%}; workers left behind: {len(left)}", flush=True)
        second = start(path, plan, out, options.workers, log)
        stream, processor = watch(second, log, lives=2)
        wall = time.monotonic() - begun
        assert second.process.returncode == 0, log.read_text()
        results = xr.open_zarr(out).load()
        again = int((results["seconds"].values[kept] != before["seconds"].values[kept]).sum())
        lived, idle = first.seconds + second.seconds, stream.idle()
        cores = len(os.sched_getaffinity(0))
        found = {
            "rows": options.rows or "all",
            "probes": plan.n_probes,
            "workers": options.workers,
            "present": int((results["state"] == 1).sum()),
            "done before the client was killed": int(kept.sum()),
            "of these computed again": again,
            "workers left behind by the killed client": len(left),
            "wall seconds": round(wall, 1),
            "probes per second": round(plan.n_probes / wall, 2),
            "converged": float(results["converged"].mean()),
            "share of the workers' time in blocks": round(
                float(results["seconds"].sum()) / (lived * options.workers), 4
            ),
            "overhead": {
                "blocks": idle["blocks"],
                "workers idle between blocks": round(idle["share"], 5),
                "longest gap, seconds": round(idle["longest"], 4),
                "client and scheduler, share of the cores": round(processor / cores, 5),
                "together": round(idle["share"] + processor / cores, 5),
            },
            "largest differences to this process": check(results, plan, path, options.check),
        }
    for name, value in found.items():
        print(f"{name}: {value}")
    print(record("sweep-kills" if plan.n_probes >= 10_000 else "sweep-kills-quick", found))


if __name__ == "__main__":
    main()
