"""Subset CKA from one Gram matrix, on the host, beside each value computed from samples on a device.

    python -m benchmarks.similarity.device --device cuda
    python -m benchmarks.similarity.device --device cpu --quick

Ours counts everything: reading the store, the Gram matrix in float64, 1,000 values. The device's is float32,
one value at a time, the full layer's own norm kept; it is timed on one subset of every size.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import probecache as pc
from benchmarks.probes.peers import timed
from benchmarks.probes.tasks import synthetic
from benchmarks.record import record
from probecache.analyze.selections.subsets import permutation, sizes

FRACTIONS = np.arange(1, 21) / 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="folder of the record (benchmarks/results)")
    args = parser.parse_args()
    n, d, seeds = (600, 32, 2) if args.quick else (10_000, 1280, 50)
    task = synthetic(n, d, 10, 2.0)
    with tempfile.TemporaryDirectory() as folder:
        store = pc.write_arrays(
            f"{folder}/s", split="train", layer="a", activations=task.train, labels=task.train_labels
        )
        begun = time.perf_counter()
        found = pc.cka(store, layer="a", split="train", fractions=FRACTIONS.tolist(), seeds=seeds)
        ours = time.perf_counter() - begun
    x = torch.from_numpy(task.train - task.train.mean(0)).to(args.device)
    whole = torch.linalg.norm(x.T @ x)
    order, spent, error = permutation(d, 0), [], 0.0
    for f, k in enumerate(sizes(FRACTIONS, d)):
        columns = x[:, torch.from_numpy(order[:k]).to(args.device)]
        direct = lambda s=columns: float(  # noqa: E731
            torch.linalg.norm(s.T @ x) ** 2 / (torch.linalg.norm(s.T @ s) * whole)
        )
        timed(direct)
        seconds, value = timed(direct)
        spent.append(seconds)
        error = max(error, abs(value - float(found.cka.sel(seed=0).isel(fraction=f))))
    results = {
        "device": args.device,
        "shape": [n, d],
        "values": seeds * len(FRACTIONS),
        "our seconds, reading and the Gram matrix included": ours,
        "seconds of one value on the device": float(np.mean(spent)),
        "times": float(np.mean(spent)) * seeds * len(FRACTIONS) / ours,
        "largest difference": error,
    }
    print(results, flush=True)
    print(f"record: {record(f'similarity-device-{args.device}', results, folder=args.out)}")


if __name__ == "__main__":
    main()
