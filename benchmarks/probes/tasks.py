"""The tasks that benchmarks of probes share: made up, or from files of arrays."""

from pathlib import Path

import numpy as np

from probecache.analyze.tasks.task import Task

FRACTIONS = np.arange(1, 21) / 20


def synthetic(n: int, d: int, classes: int, spread: float, seed: int = 0) -> Task:
    """Correlated features with class means: `spread` is the noise in units of the distance of the means."""
    rng = np.random.default_rng(seed)
    rank = max(classes, d // 4)
    mixing = rng.normal(size=(rank, d)).astype(np.float32) * np.geomspace(1, 0.05, rank)[:, None]
    means = rng.normal(size=(classes, rank))
    parts = []
    for count in (n, max(1000, n // 5)):
        y = np.arange(count) % classes
        hidden = means[y] + spread * rng.normal(size=(count, rank))
        noise = 0.1 * rng.normal(size=(count, d)).astype(np.float32)
        parts += [np.maximum(hidden.astype(np.float32) @ mixing.astype(np.float32) + noise, 0), y]
    return Task(*parts, layer="synthetic")


def from_files(folder: Path, pattern: str) -> Task:
    """`pattern` names .npy files in the folder, with {split}; labels are `{split}_labels.npy`, or the same
    behind what stands before {split} in the pattern."""

    def load(split: str) -> tuple[np.ndarray, np.ndarray]:
        labels = folder / f"{split}_labels.npy"
        if not labels.exists():
            labels = folder / (pattern.split("{split}")[0] + f"{split}_labels.npy")
        return np.load(folder / f"{pattern.format(split=split)}.npy"), np.load(labels).astype(np.int64)

    return Task(*load("train"), *load("test"), layer=pattern)
