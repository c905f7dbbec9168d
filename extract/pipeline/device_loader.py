"""A thread that moves decoded batches to the device ahead of the forward pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor

from probecache.extract.pipeline.loader import Batch
from probecache.extract.pipeline.timing import Timing

DEPTH = 2


@dataclass(frozen=True)
class LoadedBatch:
    """A batch with its images on the device; on CUDA `ready` is recorded once the copy is done."""

    batch: Batch
    images: Tensor
    ready: Any = None


class DeviceLoader:
    """Iterates over `LoadedBatch`, of which at most DEPTH wait. The source's errors are raised here.

    On CUDA batches are pinned and copied on a stream of their own, so that the copy hides behind the forward
    pass.
    """

    def __init__(
        self, batches: Iterator[Batch], device: torch.device, channels_last: bool, timing: Timing
    ) -> None:
        self._batches = batches
        self._device = device
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._timing = timing
        self._queue: Queue[LoadedBatch | BaseException | None] = Queue(DEPTH)
        self._stop = Event()
        self._thread = Thread(target=self._run, name="probecache-device-loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[LoadedBatch]:
        while True:
            with self._timing.wait("decode"):
                item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop the thread, and with it the processes that decode."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except Empty:
                self._thread.join(0.02)
        self._batches = iter(())

    def _run(self) -> None:
        try:
            with torch.no_grad():
                move = self._to_cuda() if self._device.type == "cuda" else self._to_device
                while not self._stop.is_set():
                    with self._timing.work("decode"):
                        batch = next(self._batches, None)
                    if batch is None:
                        break
                    with self._timing.work("copy"):
                        loaded = move(batch)
                    self._put(loaded)
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: LoadedBatch | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except Full:
                continue

    def _to_device(self, batch: Batch) -> LoadedBatch:
        if self._device.type == "cpu":
            # As they are: the forward pass puts them in order as it makes floats of them. Here it would be a
            # second pool of OpenMP threads, which spins beside the first.
            return LoadedBatch(batch, batch.images)
        return LoadedBatch(batch, batch.images.to(self._device, memory_format=self._format))

    def _to_cuda(self) -> Any:
        stream = torch.cuda.Stream(self._device)

        def move(batch: Batch) -> LoadedBatch:
            pinned = batch.images.pin_memory()
            with torch.cuda.stream(stream):
                images = pinned.to(self._device, non_blocking=True)
                images = images.contiguous(memory_format=self._format)
                ready = stream.record_event()
            # The caching host allocator keeps `pinned` alive until the copy that reads it is done.
            return LoadedBatch(batch, images, ready)

        return move
