"""Per-neuron statistics of a shard on the device that computed it, so that no host pass over it is needed."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from probecache.extract.pipeline.loader import Batch
from probecache.extract.pipeline.shard_assembler import GatheredShard
from probecache.store.format.metadata import STATISTICS
from probecache.store.format.moments import UNDERFLOW, partial
from probecache.store.layout import FAILED, OK

AT_ONCE = 2**25  # values that are held as float64


def shard_statistics(rows: Tensor) -> Tensor:
    """float64 (9, neurons), as `store.format.moments.partial` gives for rows (n, neurons) of a stored dtype.

    Of each neuron's finite values: count, mean, sum of squared deviations, minimum, maximum, zeros; then the
    values that are NaN or infinite, those at the dtype's limit or beyond, and 0 for those lost in a cast:
    these rows do not show them.
    """
    limit = torch.finfo(rows.dtype).max
    out = torch.zeros(len(STATISTICS), rows.shape[1], dtype=torch.float64, device=rows.device)
    step = max(1, AT_ONCE // max(1, len(rows)))
    for start in range(0, rows.shape[1], step):
        x = rows[:, start : start + step].double()
        if not len(x):  # no row of a shard could be read, and nothing has a minimum
            out[3, start : start + step], out[4, start : start + step] = torch.inf, -torch.inf
            continue
        finite = torch.isfinite(x)
        count = finite.sum(dim=0)
        mean = x.where(finite, 0).sum(dim=0) / count.clamp(min=1)
        parts = (
            count,
            mean,
            (x - mean).where(finite, 0).square().sum(dim=0),
            x.where(finite, torch.inf).amin(dim=0),
            x.where(finite, -torch.inf).amax(dim=0),
            (x == 0).sum(dim=0),
            len(x) - count,
            (x.abs() >= limit).sum(dim=0),
        )
        for row, part in enumerate(parts):
            out[row, start : start + step] = part
    return out


def gathered_statistics(full: GatheredShard) -> dict[str, np.ndarray]:
    """float64 (9, neurons) of each layer of a shard, taken here where no device took them, with the values
    that became 0 in the cast (`underflow`), which the stored rows do not show."""
    read = full.status == OK
    found = {}
    for name in full.shard.layers:
        if full.statistics is None:
            rows = full.activations[name]
            found[name] = partial(rows if read.all() else rows[read])
        else:
            found[name] = full.statistics[name].copy()
        if name in full.losses:
            found[name][UNDERFLOW] = full.losses[name][0].numpy()
    return found


class ShardStatistics:
    """`add` the outputs of a batch; the last one of a shard gives a function that waits for its statistics.

    A shard's rows stay on the device until then: rows that failed do not count.
    """

    def __init__(
        self,
        shards: Sequence[tuple[int, int]],
        names: Sequence[str],
        neurons: Sequence[int],
        dtype: torch.dtype,
    ) -> None:
        self._shards = list(shards)
        self._names, self._neurons, self._dtype = list(names), list(neurons), dtype
        self._held: list[Tensor] = []
        self._failed: list[int] = []

    def add(
        self, batch: Batch, offset: int, outputs: Sequence[Tensor]
    ) -> Callable[[], Mapping[str, np.ndarray]] | None:
        """outputs: of the batch's rows from `offset` on."""
        first, stop = self._shards[0]
        if not self._held:
            self._held = [
                torch.empty(stop - first, n, dtype=self._dtype, device=output.device)
                for n, output in zip(self._neurons, outputs, strict=True)
            ]
        at = batch.start - first + offset
        for whole, output in zip(self._held, outputs, strict=True):
            whole[at : at + len(output)].copy_(output)
        end = at + len(outputs[0])
        if end == batch.stop - first:
            self._failed += (np.flatnonzero(batch.status == FAILED) + batch.start - first).tolist()
        return self._finish(stop - first) if end == stop - first else None

    def _finish(self, rows: int) -> Callable[[], Mapping[str, np.ndarray]]:
        keep = None
        if self._failed:
            keep = torch.from_numpy(np.setdiff1d(np.arange(rows), self._failed)).to(self._held[0].device)
        found = [shard_statistics(rows if keep is None else rows[keep]) for rows in self._held]
        self._held, self._failed = [], []
        self._shards.pop(0)
        there, done = found, None
        if found[0].is_cuda:
            there = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in found]
            for pinned, table in zip(there, found, strict=True):
                pinned.copy_(table, non_blocking=True)
            done = torch.cuda.Event()
            done.record()

        def wait() -> Mapping[str, np.ndarray]:
            if done is not None:
                done.synchronize()
            return {name: table.numpy() for name, table in zip(self._names, there, strict=True)}

        return wait
