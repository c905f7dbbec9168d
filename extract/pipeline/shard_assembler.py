"""Two threads off the forward path: one gathers pooled rows into whole shards, the other writes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probecache.extract.pipeline.loader import Batch
from probecache.extract.pipeline.timing import Timing
from probecache.store.layout import DTYPES, FAILED, Shard
from probecache.store.writing.cast import numpy_of

DEPTH = 4


@dataclass(frozen=True)
class Rows:
    """Pooled rows of one batch. `outputs` are host tensors that are valid once `event` has happened; `done`
    is then called to free them. With the last batch of a shard `statistics` gives those of all of it, and
    `losses` holds, by layer, what the cast lost."""

    batch: Batch
    outputs: Sequence[Tensor]
    event: Any = None
    done: Callable[[], None] | None = None
    started: Any = None
    statistics: Callable[[], Mapping[str, np.ndarray]] | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class GatheredShard:
    """A shard's rows, and why some could not be read. statistics: of each layer, where a device took them.
    losses: what the cast lost (`count_losses`), of each layer that was cast."""

    shard: Shard
    activations: dict[str, np.ndarray]
    labels: np.ndarray
    status: np.ndarray
    reasons: dict[int, str]
    statistics: Mapping[str, np.ndarray] | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)


Write = Callable[[GatheredShard], None]


class ShardAssembler:
    """`put` rows in order of their shards; every full shard goes to `write`.

    At most DEPTH batches and two shards are held, one that is gathered and one that is written. A failed
    write is raised by the next `put`, or by `close`. `failed` maps the rows that could not be read so far to
    their reasons.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        names: Sequence[str],
        neurons: Sequence[int],
        dtype: torch.dtype,
        write: Write,
        timing: Timing,
    ) -> None:
        self._shards = list(shards)
        self._stops = {shard.stop for shard in shards}
        self._names = list(names)
        self._neurons = list(neurons)
        self._dtype = DTYPES[str(dtype).removeprefix("torch.")]
        self._write = write
        self._timing = timing
        self._queue: Queue[Rows | None] = Queue(DEPTH)
        # The writer takes a shard out when it is written: until then the next one is not handed over.
        self._whole: Queue[GatheredShard | None] = Queue(1)
        self.error: BaseException | None = None
        self.busy = False
        self.failed: dict[int, str] = {}
        self._threads = [
            Thread(target=work, name=f"probecache-{name}", daemon=True)
            for name, work in (("shard-assembler", self._gather), ("write", self._write_all))
        ]
        for thread in self._threads:
            thread.start()

    def ends_shard(self, batch: Batch) -> bool:
        """Whether a batch is the last of its shard: none holds rows of two."""
        return batch.stop in self._stops

    def put(self, rows: Rows) -> None:
        while True:
            if self.error is not None:
                raise self.error
            try:
                self._queue.put(rows, timeout=0.1)
                return
            except Full:
                continue

    def close(self, finish: bool = True) -> None:
        """Write what was put and end the threads; without `finish`, end after the shard being written."""
        while not finish:
            try:
                self._queue.get_nowait()
            except Empty:
                break
        while self._threads[0].is_alive():
            try:
                self._queue.put(None, timeout=0.1)
                break
            except Full:
                continue
        for thread in self._threads:
            thread.join()
        if finish and self.error is not None:
            raise self.error

    def _gather(self) -> None:
        pending = iter(self._shards)
        full: GatheredShard | None = None
        try:
            while (rows := self._queue.get()) is not None:
                if full is None:
                    full = self._empty(next(pending))
                self._fill(rows, full)
                if rows.batch.stop == full.shard.stop:
                    first = full.shard.start
                    full.reasons = {row: why for row, why in self.failed.items() if row >= first}
                    full.statistics = rows.statistics() if rows.statistics is not None else None
                    full.losses = {name: found.cpu() for name, found in rows.losses.items()}
                    self._hand_over(full)
                    full = None
        except BaseException as error:
            self.error = self.error or error
        finally:
            self._hand_over(None)

    def _hand_over(self, full: GatheredShard | None) -> None:
        """Wait until the writer has written the shard before."""
        self.busy = True
        self._whole.join()
        self.busy = False
        self._whole.put(full)

    def _write_all(self) -> None:
        while (full := self._whole.get()) is not None:
            try:
                if self.error is None:
                    with self._timing.work("write"):
                        self._write(full)
            except BaseException as error:
                self.error = error
            del full
            self._whole.task_done()
        self._whole.task_done()

    def _empty(self, shard: Shard) -> GatheredShard:
        count = shard.stop - shard.start
        arrays = {
            name: np.empty((count, n), self._dtype)
            for name, n in zip(self._names, self._neurons, strict=True)
        }
        return GatheredShard(shard, arrays, np.empty(count, np.int64), np.empty(count, np.uint8), {})

    def _fill(self, rows: Rows, full: GatheredShard) -> None:
        batch, first = rows.batch, full.shard.start
        if rows.event is not None:
            rows.event.synchronize()
            if rows.started is not None:
                self._timing.add("forward", rows.started.elapsed_time(rows.event) / 1000)
        part = slice(batch.start - first, batch.stop - first)
        failed = batch.status == FAILED
        with self._timing.work("write"):
            for name, output in zip(self._names, rows.outputs, strict=True):
                full.activations[name][part] = numpy_of(output[: len(batch.labels)])
                if failed.any():
                    full.activations[name][part][failed] = np.nan
            full.labels[part], full.status[part] = batch.labels, batch.status
            self.failed.update(batch.errors)
        if rows.done is not None:
            rows.done()
