"""Centred Gram matrices in float64, streamed from row blocks: all that the similarity measures read.

    C = sum_i (x_i - m)(x_i - m)'        P = sum_i (x_i - m)^2 ((x_i - m)^2)'        G = sum_i (x_i - m)(y_i
    - n)'

C serves every subset of columns of a layer, P the debiased CKA, G two layers or two backbones over the same
samples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from probecache.analyze.similarity.measures import Products
from probecache.store.errors import InputError
from probecache.store.layout import OK
from probecache.store.machine import whole_memory


class FeatureStore(Protocol):
    """The part of `probecache.store.reader.Store` that the analysis of similarity reads."""

    path: str

    def shape(self, split: str, layer: str) -> tuple[int, int]: ...
    def status(self, split: str) -> np.ndarray: ...
    def samples(self, split: str) -> np.ndarray: ...
    def digest(self, split: str, layer: str) -> str: ...
    def blocks(self, split: str, layer: str, *, rows: int = 8192) -> Iterator[tuple[int, np.ndarray]]: ...


@dataclass(frozen=True)
class Gram:
    """Centred Gram of one layer: `products` (d, d) and, for debiased CKA, `squares` (d, d), float64; n
    rows.
    """

    n: int
    products: np.ndarray
    squares: np.ndarray | None = None


def centred_gram(
    store: FeatureStore,
    split: str,
    layer: str,
    *,
    squares: bool = False,
    rows: int = 8192,
    told: Callable[[int, int], None] | None = None,
) -> Gram:
    """C, and P with `squares`, over the samples of a split that did not fail.

    One pass for the mean, one for the products: P is a sum of fourth powers, where a shift applied afterwards
    would cancel most digits. Memory: one row block and the (d, d) matrices.
    told: called with (done, n) samples after each block of the second pass.
    """
    d = store.shape(split, layer)[1]
    _require_room(d, 2 if squares else 1, f"layer {layer!r} of split {split!r} in {store.path}")
    n, mean = column_means(store, split, layer, rows=rows)
    products = np.zeros((d, d))
    fourth = np.zeros((d, d)) if squares else None
    done = 0
    for x in good_rows(store, split, layer, rows):
        x = x - mean
        products += x.T @ x
        if fourth is not None:
            x *= x
            fourth += x.T @ x
        done += len(x)
        if told is not None:
            told(done, n)
    return Gram(n, products, fourth)


def _require_room(d: int, matrices: int, where: str) -> None:
    size, there = 8 * matrices * d * d, whole_memory()
    if size > there:
        raise InputError(
            f"{where} has {d:,} neurons, and this holds {matrices} of (neurons x neurons) in float64: "
            f"{size / 2**30:.0f} GiB, more than this machine's {there / 2**30:.0f}; keep fewer neurons "
            "(probecache subset), or pool the layer"
        )


def cross_products(
    store: FeatureStore,
    layer: str,
    other: FeatureStore,
    other_layer: str,
    split: str,
    *,
    squares: bool = False,
    rotated: bool = False,
    rows: int = 8192,
) -> Products:
    """X'X, Y'Y and X'Y of two layers, of one store or of two that hold the same samples in the same order.

    A sample counts where neither store marks it failed. rotated: for measures that ignore rotations, a layer
    with more neurons than samples is rotated into the few columns that hold all of it.
    Raises InputError where the samples differ, or where the matrices are larger than the memory.
    """
    good = shared_rows(store, other, split)
    if good.sum() < 4:
        raise InputError(f"{store.path} and {other.path} share {good.sum()} usable samples; 4 are needed")
    x_mean = _mean_over(store, split, layer, good, rows)
    y_mean = _mean_over(other, split, other_layer, good, rows)
    if rotated and max(len(x_mean), len(y_mean)) > good.sum():
        x = _turned(store, split, layer, good, x_mean, rows)
        y = _turned(other, split, other_layer, good, y_mean, rows)
        found, more = _zeros(_shapes(x.shape[1], y.shape[1])), _zeros(_shapes(x.shape[1], y.shape[1]))
        _add(found, x, y)
        _add(more, x**2, y**2)
        return Products(len(x), *found, more if squares else None)
    wide = max(len(x_mean), len(y_mean))
    _require_room(wide, 6, f"layer {layer!r} or {other_layer!r} of split {split!r} in {store.path}")
    shapes = _shapes(len(x_mean), len(y_mean))
    plain = _zeros(shapes)
    fourth = _zeros(shapes)
    pairs = zip(
        store.blocks(split, layer, rows=rows), other.blocks(split, other_layer, rows=rows), strict=True
    )
    for (start, a), (_, b) in pairs:
        keep = good[start : start + len(a)]
        x, y = a[keep].astype(np.float64) - x_mean, b[keep].astype(np.float64) - y_mean
        _add(plain, x, y)
        if squares:
            _add(fourth, x**2, y**2)
    xx, yy, xy = plain
    return Products(int(good.sum()), xx, yy, xy, fourth if squares else None)


def _turned(
    store: FeatureStore, split: str, layer: str, good: np.ndarray, mean: np.ndarray, rows: int
) -> np.ndarray:
    """The centred rows of a layer, (n, d); of more neurons than rows, (n, n) with the same products x x'."""
    parts = [
        a[good[start : start + len(a)]].astype(np.float64) - mean
        for start, a in store.blocks(split, layer, rows=rows)
    ]
    x = np.concatenate(parts)
    if x.shape[1] <= len(x):
        return x
    values, vectors = np.linalg.eigh(x @ x.T)
    return vectors * np.sqrt(np.clip(values, 0, None))


def _shapes(d: int, e: int) -> list[tuple[int, int]]:
    return [(d, d), (e, e), (d, e)]


def _zeros(shapes: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    xx, yy, xy = (np.zeros(shape) for shape in shapes)
    return xx, yy, xy


def _add(totals: tuple[np.ndarray, ...], x: np.ndarray, y: np.ndarray) -> None:
    for total, (left, right) in zip(totals, ((x, x), (y, y), (x, y)), strict=True):
        total += left.T @ right


def shared_rows(store: FeatureStore, other: FeatureStore, split: str) -> np.ndarray:
    """Which rows of a split both stores hold without failure, bool (n,); the samples must be the same."""
    mine, theirs = store.samples(split), other.samples(split)
    if len(mine) != len(theirs):
        raise InputError(
            f"{store.path} has {len(mine)} samples in {split}, {other.path} has {len(theirs)}: "
            "similarity compares the same samples; extract both from the same data"
        )
    differ = np.flatnonzero(mine != theirs)
    if len(differ):
        row = int(differ[0])
        raise InputError(
            f"sample {row} of {split} is {mine[row]} in {store.path} and {theirs[row]} in {other.path}: "
            "similarity compares the same samples in the same order; extract both from the same data"
        )
    if store is not other and all(name == str(i) for i, name in enumerate(mine.tolist())):
        _require_like_labels(store, other, split)
    return (store.status(split) == OK) & (other.status(split) == OK)


def _require_like_labels(store: Any, other: Any, split: str) -> None:
    """InputError where rows that are only numbered, which says nothing of them, have other classes."""
    if not all(hasattr(one, "class_names") for one in (store, other)):
        return
    names = store.class_names(split)
    mine, theirs = (np.asarray(one.labels(split)) for one in (store, other))
    differ = np.flatnonzero((mine != theirs) & (mine >= 0) & (theirs >= 0))
    if names == other.class_names(split) and len(differ):
        row = int(differ[0])
        raise InputError(
            f"the samples of {split} are only numbered, and {row} is {names[mine[row]]!r} in {store.path}, "
            f"{names[theirs[row]]!r} in {other.path}: similarity compares the same samples in one order, "
            "best of names that both give them (samples)"
        )


def column_means(store: FeatureStore, split: str, layer: str, *, rows: int = 8192) -> tuple[int, np.ndarray]:
    """Number of samples that did not fail, and their mean per neuron, float64 (d,)."""
    good = store.status(split) == 1
    n = int(good.sum())
    if n < 4:
        raise InputError(f"{store.path} has {n} usable samples in {split}: similarity needs at least 4")
    return n, _mean_over(store, split, layer, good, rows)


def good_rows(store: FeatureStore, split: str, layer: str, rows: int = 8192) -> Iterator[np.ndarray]:
    """Row blocks of a layer in float64, failed samples left out."""
    good = store.status(split) == 1
    for start, x in store.blocks(split, layer, rows=rows):
        yield x[good[start : start + len(x)]].astype(np.float64)


def _mean_over(store: FeatureStore, split: str, layer: str, good: np.ndarray, rows: int) -> np.ndarray:
    total = np.zeros(store.shape(split, layer)[1])
    for start, x in store.blocks(split, layer, rows=rows):
        total += x[good[start : start + len(x)]].astype(np.float64).sum(0)
    if not np.isfinite(total).all():
        neuron = int(np.flatnonzero(~np.isfinite(total))[0])
        raise InputError(
            f"layer {layer!r} of split {split!r} in {store.path} holds NaN or infinite values, first in "
            f"neuron {neuron}: write them anew, such rows marked as failed (status of write_arrays) or "
            "left out, or, where they overflowed, in a wider dtype"
        )
    return total / good.sum()
