"""Moments of a layer as a Dask reduction over row blocks, for layers larger than a worker's memory.

Each task reads one range of rows and sums  p p'  and  p y'  of the standardised rows p = (1, x) in float64;
sums are added in a tree, so that no process ever holds more than `FAN_IN` of them. The float32 products are
those of 2048 rows each, as in the single pass of `analyze.moments`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from analyze.moments import Moments
from analyze.task import OK

if TYPE_CHECKING:
    from distributed import Client, Future

    from store.reader import Store

RANGE_ROWS = 2**17  # of one task: 512 MiB of 2048 float16 neurons, a second or two of work
PRODUCT_ROWS = 2048
FAN_IN = 8


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
    targets: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    rows: int = RANGE_ROWS,
) -> Moments:
    """The moments of a layer's usable rows, computed by a cluster's workers from their own reads.

    targets: float32 (n, t) over all rows of the split, those that failed included; mean, scale: float32 (d,).
    """
    n = store.shape(split, layer)[0]
    parts = []
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        part = client.submit(
            sum_rows,
            store,
            split,
            layer,
            start,
            stop,
            targets[start:stop],
            mean,
            scale,
            pure=False,
            retries=2,
        )
        parts.append(part)
    whole = _tree(client, parts).result()
    gram, cross, square = (torch.from_numpy(a / whole.count) for a in (whole.gram, whole.cross, whole.square))
    return Moments(gram, cross, square, float(whole.count))


def sum_rows(
    store: "Store",
    split: str,
    layer: str,
    start: int,
    stop: int,
    targets: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
) -> Sums:
    """The sums over rows start to stop, those that failed left out."""
    keep = store.status(split)[start:stop] == OK
    width = 1 + len(mean)
    gram = np.zeros((width, width))
    cross, square = np.zeros((width, targets.shape[1])), np.zeros(targets.shape[1])
    for at in range(start, stop, PRODUCT_ROWS):
        end = min(at + PRODUCT_ROWS, stop)
        kept = keep[at - start : end - start]
        block = store.matrix(split, layer, rows=(at, end), dtype="float32")[kept]
        y = targets[at - start : end - start][kept]
        panel = np.ones((len(block), width), np.float32)
        panel[:, 1:] = (block - mean) / scale
        gram += panel.T @ panel
        cross += panel.T @ y
        square += np.square(y, dtype=np.float64).sum(axis=0)
    return Sums(gram, cross, square, int(keep.sum()))


def add(parts: Sequence[Sums]) -> Sums:
    """The sums over the rows of all parts."""
    return Sums(
        sum(part.gram for part in parts),  # type: ignore[arg-type]
        sum(part.cross for part in parts),  # type: ignore[arg-type]
        sum(part.square for part in parts),  # type: ignore[arg-type]
        sum(part.count for part in parts),
    )


def _tree(client: "Client", parts: "list[Future]") -> "Future":
    while len(parts) > 1:
        groups = [parts[i : i + FAN_IN] for i in range(0, len(parts), FAN_IN)]
        parts = [client.submit(add, group, pure=False, retries=2) for group in groups]
    return parts[0]
