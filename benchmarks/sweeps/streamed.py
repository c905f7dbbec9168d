"""A layer of 20 GB swept within 4 GiB of memory, beside small layers of the same kind.

    python -m benchmarks.sweeps.streamed --gib 18.7           # 20 GB, deleted afterwards: 13 minutes
    python -m benchmarks.sweeps.streamed --gib 1.5 --memory 2GiB --small-gib 0.1 0.4

Synthetic features (float16, --neurons wide, ten classes: class means and noise) are written shard by shard,
then swept by `probecache sweep --memory-limit` in a process whose resident memory, interpreter and libraries
included, is sampled every 50 ms beside the kernel's own record of its peak; the store is read by calls, not
mapped, so the page cache is not in it. `peak_over_limit` must stay below 1.

Two small cases under the same limit: one that fits in memory, and one that is just too large and is read in
row blocks like the large one. Times are those of the blocks in the worker, per row, and, should the cases
need different numbers of evaluations, per row and evaluation of the objective.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import xarray as xr

from benchmarks.record import record
from probecache.analyze.arguments import memory_bytes
from probecache.analyze.sweeps.job import working_memory
from probecache.analyze.tasks.load import stays_on_disk
from probecache.store.fingerprint import Fingerprint
from probecache.store.layout import OK, LayerSpec, SplitSpec
from probecache.store.writer import open_split_writer

CLASSES = 10
TEST_ROWS = 10_000


def write(path: Path, rows: int, neurons: int) -> None:
    """A store of `rows` training and TEST_ROWS test rows: 8 blocks of noise, shifted anew in every shard."""
    random = np.random.default_rng(0)
    means = random.normal(size=(CLASSES, neurons)).astype(np.float32) * 0.15
    noise = random.normal(size=(8192, neurons)).astype(np.float32)
    for split, count in (("train", rows), ("test", TEST_ROWS)):
        writer = open_split_writer(
            path,
            SplitSpec(
                split=split,
                n_samples=count,
                layers=[LayerSpec("synthetic", neurons, "float16", {})],
                class_names=[str(c) for c in range(CLASSES)],
                fingerprint=Fingerprint({"synthetic": 0}, {}, {split: {"rows": count}}),
            ),
        )
        for shard in writer.pending():
            size = shard.stop - shard.start
            labels = random.integers(0, CLASSES, size)
            shifted = np.roll(noise, (int(random.integers(8192)), int(random.integers(neurons))), (0, 1))
            values = (shifted[:size] + means[labels]).astype(np.float16)
            writer.write(
                shard,
                activations={"synthetic": values},
                labels=labels,
                samples=[str(i) for i in range(shard.start, shard.stop)],
                status=np.full(size, OK, np.uint8),
            )
        writer.finish()


def sweep(store: Path, out: Path, options: argparse.Namespace, memory: str) -> dict[str, float]:
    """Run the command; its seconds, evaluations and peak resident memory, its children's included."""
    line = [
        sys.executable,
        "-m",
        "probecache",
        "sweep",
        str(store),
        "--layer",
        "synthetic",
        "--out",
        str(out),
    ]
    line += ["--fractions", options.fractions, "--seeds", str(options.seeds), "--l2", "1e-2"]
    line += ["--probe", options.probe, "--memory-limit", memory]
    begun = time.monotonic()
    process = psutil.Popen(line, stdout=subprocess.DEVNULL)
    peak, ended = 0, 0
    while not ended:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in family))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"the sweep ended with exit code {code}")
    peak = max(peak, 1024 * usage.ru_maxrss)  # in KiB: no peak between two samples escapes it
    results = xr.open_zarr(out)
    return {
        "wall_seconds": time.monotonic() - begun,
        "seconds": float(results["seconds"].sum()),
        "evaluations": int(results["n_iter"].max()),
        "accuracy": float(results["accuracy"].mean()),
        "peak_gib": peak / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A sweep of a layer larger than memory.")
    parser.add_argument("--gib", type=float, default=20.0)
    parser.add_argument("--small-gib", type=float, nargs=2, default=[0.5, 1.0], metavar=("HELD", "STREAMED"))
    parser.add_argument("--neurons", type=int, default=512)
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--fractions", default="0.1,0.5,1")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--probe", default="logistic")
    parser.add_argument("--folder", type=Path, default=None, help="where the store goes (default: temporary)")
    options = parser.parse_args()
    limit = memory_bytes(options.memory)
    held, streamed = options.small_gib
    cases = {"small, in memory": held, "small, streamed": streamed, "large, streamed": options.gib}
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, size in cases.items():
            rows = int(size * 2**30 / (2 * options.neurons))
            loaded = 4 * (rows + TEST_ROWS) * options.neurons
            if stays_on_disk(loaded, working_memory(limit)) != name.endswith("streamed"):
                raise SystemExit(
                    f"{name}: {size} GiB are not, under --memory {options.memory}; choose others"
                )
            path = Path(folder) / "store"
            begun = time.monotonic()
            write(path, rows, options.neurons)
            print(f"{name}: {size} GiB written in {time.monotonic() - begun:.0f} s", flush=True)
            case = sweep(path, Path(folder) / "results", options, options.memory)
            case |= {
                "peak_over_limit": case["peak_gib"] * 2**30 / limit,
                "rows": rows,
                "gib": size,
                "microseconds_per_row": 1e6 * case["seconds"] / rows,
            }
            case["microseconds_per_row_and_evaluation"] = case["microseconds_per_row"] / case["evaluations"]
            found[name] = {key: round(value, 4) for key, value in case.items()}
            print(f"{name}: {found[name]}", flush=True)
            for made in (path, Path(folder) / "results"):
                shutil.rmtree(made)
    large = found["large, streamed"]
    ratios = {
        f"large over {name}": {
            key: round(large[key] / found[name][key], 3)
            for key in ("microseconds_per_row", "microseconds_per_row_and_evaluation")
        }
        for name in ("small, in memory", "small, streamed")
    }
    settings = {"memory": options.memory, "neurons": options.neurons, "probe": options.probe}
    settings |= {"fractions": options.fractions, "seeds": options.seeds}
    print(ratios)
    name = "sweep-streamed" if options.gib * 2**30 >= 20e9 else "sweep-streamed-quick"
    print(record(name, {**settings, "cases": found, "ratios": ratios}))


if __name__ == "__main__":
    main()
