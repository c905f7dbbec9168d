"""Stores and results of the documented form, made in memory: the measures need no disk to be checked."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from probecache.analyze.selections.subsets import permutation, sizes


class MemoryStore:
    """What `store.reader.Store` offers to the similarity measures, from {(split, layer): matrix}."""

    def __init__(self, layers, *, path="memory.zarr", samples=None, failed=(), labels=None):
        self.layers_ = {key: np.asarray(x) for key, x in layers.items()}
        self.path = path
        n = len(next(iter(self.layers_.values())))
        self._samples = np.asarray(samples if samples is not None else [f"image-{i}" for i in range(n)])
        self._status = np.ones(n, dtype=np.uint8)
        self._status[list(failed)] = 2
        self._labels = labels

    def shape(self, split, layer):
        return self.layers_[split, layer].shape

    def digest(self, split, layer):
        return f"digest-of-{split}-{layer}"

    def status(self, split):
        return self._status

    def samples(self, split):
        return self._samples

    def labels(self, split):
        return self._labels

    def matrix(self, split, layer, columns=None, rows=None, dtype=None):
        x = self.layers_[split, layer]
        x = x if rows is None else x[rows]
        x = x if columns is None else x[:, columns]
        return x if dtype is None else x.astype(dtype)

    def blocks(self, split, layer, columns=None, rows=8192, prefetch=2) -> Iterator[tuple[int, np.ndarray]]:
        x = self.layers_[split, layer]
        for start in range(0, len(x), rows):
            yield start, x[start : start + rows]


def features(n=200, d=12, seed=0, rank=4):
    """Correlated, non-negative, uncentred features, like pooled activations."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) + 0.5 * rng.normal(size=(n, d))
    return np.maximum(mixed + 0.5, 0).astype(np.float32)


FRACTIONS = (0.05, 0.1, 0.2, 0.5, 1.0)


def synthetic_results(
    *,
    layers=("penultimate",),
    selections=("random", "pca"),
    fractions=FRACTIONS,
    n_seeds=5,
    l2s=(1e-4,),
    d=40,
    n_classes=4,
    seed=0,
):
    """RESULTS as docs/design.md describes it: accuracy rises with the fraction, pca sooner than random."""
    rng = np.random.default_rng(seed)
    shape = (1, len(layers), len(selections), 1, len(fractions), n_seeds, len(l2s))
    dims = ("target", "layer", "selection", "shots", "fraction", "seed", "l2")
    speed = {"random": 1.0, "pca": 3.0, "pca-least": 0.3, "randproj": 1.0, "first": 0.9}
    f = np.asarray(fractions)
    base = np.stack([1 - 0.6 * np.exp(-12 * speed.get(m, 1.0) * f) for m in selections])[
        None, None, :, None, :, None, None
    ]
    depth = np.linspace(0.7, 0.9, len(layers)).reshape(1, -1, 1, 1, 1, 1, 1)
    noise = rng.normal(size=shape) * 0.01 * (1 - f[:, None, None])
    accuracy = np.clip(base * depth + noise, 0, 1)
    ease = np.linspace(1.05, 0.8, n_classes)
    per_class = np.clip(accuracy[..., None] ** (1 / ease), 0, 1)
    k = np.broadcast_to(sizes(fractions, d)[:, None, None], shape)
    out = xr.Dataset(
        {
            "accuracy": (dims, per_class.mean(-1)),
            "class_accuracy": ((*dims, "class"), per_class),
            "n_neurons": (dims, k.copy()),
            "n_iter": (dims, np.full(shape, 20)),
            "objective": (dims, 1 - accuracy),
            "grad_norm": (dims, np.full(shape, 1e-5)),
            "converged": (dims, np.ones(shape, dtype=bool)),
            "seconds": (dims, np.full(shape, 0.01) * k),
            "permutation": (
                ("layer", "seed", "neuron"),
                np.stack([np.stack([permutation(d, s) for s in range(n_seeds)])] * len(layers)),
            ),
        },
        coords={
            "target": ["label"],
            "layer": list(layers),
            "selection": list(selections),
            "shots": ["all"],
            "fraction": list(fractions),
            "seed": list(range(n_seeds)),
            "l2": list(l2s),
            "class": [f"class {c}" for c in range(n_classes)],
        },
        attrs={
            "probe": "logistic",
            "solver": "torch",
            "device": "cpu",
            "store": "memory.zarr",
            "standardize": True,
        },
    )
    return out
