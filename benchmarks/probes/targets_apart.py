"""Several targets beyond two classes over the same rows: what each costs among others, beside one alone.

    python -m benchmarks.probes.targets_apart              8 targets of 20,000 x 768 rows, 10 fractions
    python -m benchmarks.probes.targets_apart --quick      3 targets of 1,000 x 64

Processor time of one thread. Beside the sweeps the one product that a second target of ten classes would
widen: microseconds a column of a product of 200 columns (ten classes at 20 fractions), and of one of 400.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import probecache as pc
from benchmarks.record import record

FRACTIONS = np.arange(1, 11) / 10
PATH: dict[str, Any] = {"l2": "auto", "val": "val", "l2_path": [1e-3, 1e-2]}
# what it is called: (the target's name, what the sweep is asked for)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ridge, ten classes": ("ten", {"probe": "ridge", "l2": 1e-2}),
    "ridge, numbers": ("size", {"probe": "ridge", "l2": 1e-2}),
    "ridge, each lacks other rows": ("gaps", {"probe": "ridge", "l2": 1e-2}),
    "ridge, ten classes, --val": ("ten", {"probe": "ridge", **PATH}),
    "ridge, ten classes, --val --refit train+val": ("ten", {"probe": "ridge", "refit": "train+val", **PATH}),
    "ridge, ten classes, --control shuffled": ("ten", {"probe": "ridge", "l2": 1e-2, "control": "shuffled"}),
    "ridge, ten classes, --shots 16": ("ten", {"probe": "ridge", "l2": 1e-2, "shots": 16}),
    "logistic, two classes, --val": ("two", PATH),
    "logistic, two classes, --control shuffled": ("two", {"l2": 1e-3, "control": "shuffled"}),
    "logistic, each lacks other rows": ("gaps", {"l2": 1e-3}),
    "logistic, ten classes": ("ten", {"l2": 1e-3}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="folder of the record (benchmarks/results)")
    args = parser.parse_args()
    n, d, count = (1000, 64, 3) if args.quick else (20_000, 768, 8)
    torch.set_num_threads(1)
    threadpool_limits(1)
    results: dict[str, Any] = {"shape": [n, d], "targets": count, "threads": 1, "clock": "cpu"}
    results["microseconds a column"] = {str(columns): product(d, columns) for columns in (200, 400)}
    with tempfile.TemporaryDirectory() as folder:
        store = make(Path(folder) / "s", n, d, count)
        spent(store, ["ten_0"], CASES["ridge, ten classes"][1])  # what is loaded once
        results["cases"] = {}
        for name, (stem, how) in CASES.items():
            targets = [f"{stem}_{i}" for i in range(count)]
            alone = float(np.median([spent(store, targets[i : i + 1], how) for i in range(3)]))
            each = spent(store, targets, how) / count
            results["cases"][name] = {"alone": alone, "each among all": each, "share": each / alone}
            print(name, results["cases"][name], flush=True)
    print(f"record: {record('targets-apart', results, folder=args.out)}")


def make(path: Path, n: int, d: int, count: int) -> Any:
    """Classes, two classes with and without gaps, and numbers, all of noisy directions of the features."""
    rng = np.random.default_rng(0)
    mixing, directions = rng.normal(size=(64, d)), rng.normal(size=(count, 64, 10))
    for split, rows in (("train", n), ("val", n // 10), ("test", n // 5)):
        base = rng.normal(size=(rows, 64))
        x = base @ mixing + 2 * rng.normal(size=(rows, d))
        pc.write_arrays(path, split=split, layer="a", activations=x.astype(np.float16))
        targets: dict[str, Any] = {}
        for i in range(count):
            scores = base @ directions[i] + 4 * rng.normal(size=(rows, 10))
            two = (scores[:, 0] > 0).astype(np.int64)
            targets |= {f"ten_{i}": scores.argmax(axis=1), f"two_{i}": two, f"size_{i}": scores[:, 0]}
            targets[f"gaps_{i}"] = np.where(rng.random(rows) < 0.05, -1, two)
        pc.write_targets(path, split=split, targets=targets)
    return pc.open_store(path)


def spent(store: Any, targets: list[str], how: dict[str, Any]) -> float:
    begun = time.process_time()
    pc.sweep(store, layer="a", target=targets, fractions=FRACTIONS, seeds=1, **how)
    return time.process_time() - begun


def product(d: int, columns: int, rows: int = 8192) -> float:
    """Microseconds a column of a product in bfloat16, median of 15."""
    x = torch.randn(rows, d).bfloat16()
    w, times = torch.randn(d, columns).bfloat16(), []
    for _ in range(15):
        begun = time.process_time()
        x @ w
        times.append(time.process_time() - begun)
    return 1e6 * float(np.median(times)) / columns


if __name__ == "__main__":
    main()
