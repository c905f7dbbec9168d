"""Moments of a layer as a Dask reduction over row blocks, for layers larger than a worker's memory.

Each task reads one range of rows and sums  p p'  and  p y'  of the standardised rows p = (1, x) in float64;
sums are added in a tree, so that no process ever holds more than `FAN_IN` of them. The float32 products are
those of 2048 rows each, as in the single pass of `probecache.analyze.probes.design.gram`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from probecache.analyze.probes.design.gram import Moments, class_targets
from probecache.analyze.tasks.matrix import stored_moments

if TYPE_CHECKING:
    from distributed import Client, Future

    from probecache.store.reader import Store

RANGE_ROWS = 2**17  # of one task: 512 MiB of 2048 float16 neurons, a second or two of work
PRODUCT_ROWS = 2048
FAN_IN = 8


@dataclass(frozen=True)
class Standardised:
    """A layer's rows in units of `mean` and `scale` (d,); each worker reads its own."""

    store: "Store"
    split: str
    layer: str
    mean: np.ndarray
    scale: np.ndarray

    def rows(self, start: int, stop: int) -> np.ndarray:
        block = self.store.matrix(self.split, self.layer, rows=(start, stop), dtype="float32")
        return (block - self.mean) / self.scale


@dataclass(frozen=True)
class Sums:
    """Over some rows: gram (1 + d, 1 + d), cross (1 + d, t), square (t,), float64, and the count of rows."""

    gram: np.ndarray
    cross: np.ndarray
    square: np.ndarray
    count: int


def moments_on(
    client: "Client",
    store: "Store",
    split: str,
    layer: str,
    labels: np.ndarray,
    standardize: bool = True,
    rows: int = RANGE_ROWS,
) -> "Future":
    """The `Moments` of a layer's usable rows, computed by a cluster's workers from their own reads.

    labels: int (n,) over all rows of the split, classes from 0, -1 where a row is not to be used.
    Columns are standardised by the moments that the store keeps, unless `standardize` is False.
    """
    mean, scale = stored_moments(store, split, layer)
    if not standardize:
        scale = np.ones_like(scale)  # centred all the same, as by `task_panels.units`
    source, classes = Standardised(store, split, layer, mean, scale), int(labels.max()) + 1
    parts = []
    for start in range(0, len(labels), rows):
        given = (source, start, labels[start : start + rows], classes)
        parts.append(client.submit(sum_rows, *given, pure=False, retries=2))
    while len(parts) > 1:
        groups = [parts[i : i + FAN_IN] for i in range(0, len(parts), FAN_IN)]
        parts = [client.submit(add, group, pure=False, retries=2) for group in groups]
    return client.submit(finish, parts[0], pure=False, retries=2)


def sum_rows(source: Standardised, first: int, labels: np.ndarray, classes: int) -> Sums:
    """The sums over the rows from `first` on that have a label of 0 or more."""
    width, outputs = 1 + len(source.mean), 1 if classes == 2 else classes
    gram = np.zeros((width, width))
    cross, square = np.zeros((width, outputs)), np.zeros(outputs)
    for at in range(0, len(labels), PRODUCT_ROWS):
        here = labels[at : at + PRODUCT_ROWS]
        kept = here >= 0
        block = source.rows(first + at, first + at + len(here))[kept]
        y = class_targets(torch.from_numpy(here[kept].astype(np.int64)), classes).numpy()
        panel = np.ones((len(block), width), np.float32)
        panel[:, 1:] = block
        gram += panel.T @ panel
        cross += panel.T @ y
        square += np.square(y, dtype=np.float64).sum(axis=0)
    return Sums(gram, cross, square, int((labels >= 0).sum()))


def finish(whole: Sums) -> Moments:
    """Means over the rows from sums over them."""
    gram, cross, square = (torch.from_numpy(a / whole.count) for a in (whole.gram, whole.cross, whole.square))
    return Moments(gram, cross, square, float(whole.count))


def add(parts: Sequence[Sums]) -> Sums:
    """The sums over the rows of all parts."""
    gram, cross, square = parts[0].gram.copy(), parts[0].cross.copy(), parts[0].square.copy()
    for part in parts[1:]:
        gram += part.gram
        cross += part.cross
        square += part.square
    return Sums(gram, cross, square, sum(part.count for part in parts))
