"""Subset CKA from one Gram against computing it from the samples, on the same features, in one run.

    python -m benchmarks.similarity.speed FEATURES.npy

Takes 2 minutes on two cores with 10,000 x 1280 features. Expected: 1,000 subset-full values at least 10,000
times faster each than one direct value; all 1,000,000 pairs of 1,000 subsets in under a second.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.record import record
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.similarity.cka import cka_between, cka_with_full, nested_masks, products_squared
from probecache.analyze.similarity.gram import Gram


def direct(s: np.ndarray, x: np.ndarray, full_norm: float | None = None) -> float:
    """||S'X||_F^2 / (||S'S||_F ||X'X||_F) from centred float32 samples, as published functions do.

    Those are three products; `full_norm` saves the last one, for a caller who keeps ||X'X||_F.
    """
    own = np.linalg.norm(s.T @ s)
    return float(np.linalg.norm(s.T @ x) ** 2 / (own * (full_norm or np.linalg.norm(x.T @ x))))


def gram_of(x: np.ndarray) -> np.ndarray:
    """x'x in float64, from blocks of rows."""
    total = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), 8192):
        block = x[start : start + 8192].astype(np.float64)
        total += block.T @ block
    return total


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds of `repeats` runs, and the last outcome."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        outcome = work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("features", help=".npy file of (samples, neurons)")
    parser.add_argument("--subsets", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    x = np.load(arguments.features).astype(np.float32)
    x -= x.mean(0)
    n, d = x.shape
    fractions = np.geomspace(0.005, 1, 20)
    seeds = range(arguments.subsets // len(fractions))
    orders = np.stack([permutation(d, s) for s in seeds])
    counts = sizes(fractions, d)
    masks = nested_masks(orders, counts).reshape(-1, d)

    gram_seconds, products = timed(lambda: gram_of(x), 1)
    matrix = products_squared(Gram(n, products))
    full_norm = float(np.linalg.norm(x.T @ x))

    # Direct: one subset of every size; ours beside it each time, so that both meet the same machine.
    rows = []
    for i, k in enumerate(counts):
        subset = x[:, orders[0][:k]]
        seconds, value = timed(lambda s=subset: direct(s, x), 1)
        kept, _ = timed(lambda s=subset: direct(s, x, full_norm), 1)
        ours, values = timed(lambda: cka_with_full(matrix, masks), 1)
        error = abs(value - values.reshape(len(counts), -1)[i, 0])
        rows.append((seconds, kept, ours / len(masks), error))
    per_direct, per_kept, _, _ = np.mean(rows, axis=0)
    per_ours = float(np.median([row[2] for row in rows]))
    pair_seconds, pairs = timed(lambda: cka_between(matrix, masks), arguments.repeats)

    numbers = {
        "samples": n,
        "neurons": d,
        "subsets": len(masks),
        "direct_seconds_per_value": per_direct,
        "direct_seconds_per_value_full_norm_kept": per_kept,
        "gram_seconds_once": gram_seconds,
        "ours_seconds_per_value": per_ours,
        "ratio_after_gram": per_direct / per_ours,
        "ratio_after_gram_full_norm_kept": per_kept / per_ours,
        "ratio_with_gram": per_direct * len(masks) / (per_ours * len(masks) + gram_seconds),
        "all_pairs_seconds": pair_seconds,
        "pairs": int(pairs.size),
        "largest_difference": max(row[3] for row in rows),
    }
    for name, value in numbers.items():
        print(f"{name:28} {value:.6g}")
    print("written:", record("similarity", numbers))


if __name__ == "__main__":
    main()
