"""A sweep with two worker processes on one device beside one process: the same numbers, and the time of each.

python -m benchmarks.sweeps.device --device cuda
python -m benchmarks.sweeps.device --device cpu --quick
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from distributed import Client, LocalCluster

import probecache as pc
from benchmarks.probes.tasks import synthetic
from benchmarks.record import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="folder of the record (benchmarks/results)")
    args = parser.parse_args()
    task = synthetic(*((600, 32, 4, 1.0) if args.quick else (20_000, 1024, 20, 2.0)))
    plan = {"layer": "a", "fractions": [0.1, 0.5, 1.0], "seeds": 4, "device": args.device}
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            rows, labels = getattr(task, split), getattr(task, f"{split}_labels")
            store = pc.write_arrays(f"{folder}/s", split=split, layer="a", activations=rows, labels=labels)
        begun = time.perf_counter()
        alone = pc.sweep(store, **plan)
        one = time.perf_counter() - begun
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            begun = time.perf_counter()
            shared = pc.sweep(store, client=client, **plan)
            two = time.perf_counter() - begun
    results = {
        "device": args.device,
        "one process": one,
        "two processes": two,
        "largest difference": float(np.abs(alone.accuracy - shared.accuracy).max()),
    }
    print(results, flush=True)
    print(f"record: {record(f'sweep-device-{args.device}', results, folder=args.out)}")


if __name__ == "__main__":
    main()
