"""A thread that gathers pooled rows into whole shards and writes them, off the forward path."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from probecache.extract.pipeline.loader import FAILED, Batch
from probecache.extract.pipeline.timing import Timing

DEPTH = 4
Write = Callable[[Any, Mapping[str, np.ndarray], np.ndarray, np.ndarray, Mapping[int, str]], None]


@dataclass(frozen=True)
class Rows:
    """Pooled rows of one batch. `outputs` are host tensors that are valid once `event` has happened; `done`
    is then called to free them."""

    batch: Batch
    outputs: Sequence[Tensor]
    event: Any = None
    done: Callable[[], None] | None = None
    started: Any = None


class Drain:
    """`put` rows in order of their shards; every full shard goes to `write(shard, activations, labels,
    status, reasons)`, the last being why rows failed.

    At most DEPTH batches and one shard are held. A failed write is raised by the next `put`, or by `close`.
    `failed` maps the rows that could not be read so far to their reasons.
    """

    def __init__(
        self,
        shards: Sequence[Any],
        names: Sequence[str],
        neurons: Sequence[int],
        dtype: torch.dtype,
        write: Write,
        timing: Timing,
    ) -> None:
        self._shards = list(shards)
        self._names = list(names)
        self._neurons = list(neurons)
        self._dtype = numpy_dtype(dtype)
        self._write = write
        self._timing = timing
        self._queue: Queue[Rows | None] = Queue(DEPTH)
        self.error: BaseException | None = None
        self.busy = False
        self.failed: dict[int, str] = {}
        self._thread = Thread(target=self._run, name="probecache-drain", daemon=True)
        self._thread.start()

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
        """Write what was put and end the thread; without `finish`, end after the shard being written."""
        while not finish:
            try:
                self._queue.get_nowait()
            except Empty:
                break
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.1)
                break
            except Full:
                continue
        self._thread.join()
        if finish and self.error is not None:
            raise self.error

    def _run(self) -> None:
        pending = iter(self._shards)
        shard, arrays = None, dict[str, np.ndarray]()
        labels, status = np.empty(0), np.empty(0)
        try:
            while (rows := self._queue.get()) is not None:
                if shard is None:
                    shard = next(pending)
                    arrays, labels, status = self._empty(shard.stop - shard.start)
                self._fill(rows, shard.start, arrays, labels, status)
                if rows.batch.stop == shard.stop:
                    self.busy = True
                    with self._timing.work("write"):
                        reasons = {row: why for row, why in self.failed.items() if row >= shard.start}
                        self._write(shard, arrays, labels, status, reasons)
                    self.busy, shard = False, None
        except BaseException as error:
            self.error, self.busy = error, False

    def _empty(self, count: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        arrays = {
            name: np.empty((count, n), self._dtype)
            for name, n in zip(self._names, self._neurons, strict=True)
        }
        return arrays, np.empty(count, np.int64), np.empty(count, np.uint8)

    def _fill(
        self, rows: Rows, first: int, arrays: Mapping[str, np.ndarray], labels: np.ndarray, status: np.ndarray
    ) -> None:
        batch = rows.batch
        if rows.event is not None:
            rows.event.synchronize()
            if rows.started is not None:
                self._timing.worked["forward"] += rows.started.elapsed_time(rows.event) / 1000
        part = slice(batch.start - first, batch.stop - first)
        failed = batch.status == FAILED
        with self._timing.work("write"):
            for name, output in zip(self._names, rows.outputs, strict=True):
                arrays[name][part] = to_numpy(output[: len(batch.labels)])
                if failed.any():
                    arrays[name][part][failed] = np.nan
            labels[part], status[part] = batch.labels, batch.status
            self.failed.update(batch.errors)
        if rows.done is not None:
            rows.done()


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """numpy's name for a stored dtype; bfloat16 is ml_dtypes' one."""
    if dtype == torch.bfloat16:
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(str(dtype).removeprefix("torch."))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A host tensor as numpy, without a copy."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
