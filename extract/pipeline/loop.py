"""The run loop: batches in, pooled rows out, with decoding, copies and writing beside the forward pass."""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from probecache.extract.backbone.features import Features
from probecache.extract.pipeline.device import Compute, PinnedRing
from probecache.extract.pipeline.device_loader import DeviceLoader
from probecache.extract.pipeline.loader import Batch
from probecache.extract.pipeline.shard_assembler import Rows, ShardAssembler, Write
from probecache.extract.pipeline.statistics import ShardStatistics
from probecache.extract.pipeline.timing import Timing
from probecache.store.errors import ProbecacheError
from probecache.store.layout import OK, Shard


class Forward:
    """images (n, c, h, w) -> pooled matrices of n rows each, `size` images at a time.

    Out of memory halves `size` and goes on. Where the batch's shape may show in the values (low precision,
    compiled code) a short batch is padded with blank images.
    """

    def __init__(self, features: Features, compute: Compute, size: int) -> None:
        self.features = features
        self.size = size
        self.compute = compute
        self.halved = 0
        self._pad = compute.amp_dtype != torch.float32 or compute.torchcompile is not None
        self._call: Callable[[Tensor], tuple[Tensor, ...]] = features
        if compute.torchcompile is not None:
            self._call = torch.compile(features, backend=compute.torchcompile)

    def __call__(
        self, images: Tensor, read: np.ndarray | None = None
    ) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Yield (offset, matrices) for consecutive pieces of the batch. read (n,): which of its rows are
        images; others, blank, lose nothing in the cast."""
        offset = 0
        while offset < len(images):
            piece = images[offset : offset + self.size]
            padded = self._padded(piece)
            self.features.counted = _counted(read, offset, len(piece), padded)
            try:
                outputs = self._call(padded)
                if self.compute.torchcompile is not None:
                    outputs = self.features.cast(outputs)
            except torch.OutOfMemoryError:
                self._halve()
                continue
            self.features.keep_losses()
            yield offset, tuple(output[: len(piece)] for output in outputs)
            offset += len(piece)

    def _padded(self, piece: Tensor) -> Tensor:
        if not self._pad or len(piece) == self.size:
            return piece
        # The same kind of tensor as the batches before it: another would be compiled for anew.
        with torch.inference_mode(piece.is_inference()):
            whole = piece.new_zeros((self.size, *piece.shape[1:]))
            if self.compute.channels_last:
                whole = whole.contiguous(memory_format=torch.channels_last)
            whole[: len(piece)] = piece
        return whole

    def _halve(self) -> None:
        if self.size == 1:
            raise ProbecacheError(
                f"out of memory on {self.compute.device} with one image at a time; use a smaller --img-size"
            )
        self.size //= 2
        self.halved += 1
        gc.collect()
        if self.compute.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"out of memory on {self.compute.device}: batch size halved to {self.size}", stacklevel=3
        )


def _counted(read: np.ndarray | None, offset: int, count: int, padded: Tensor) -> Tensor | None:
    """Numbers of the rows of a piece that are images; None where all of them are."""
    if count == len(padded) and (read is None or read[offset : offset + count].all()):
        return None
    rows = np.arange(count) if read is None else np.flatnonzero(read[offset : offset + count])
    return torch.from_numpy(rows).to(padded.device)


def run_loop(
    forward: Forward,
    features: Features,
    batches: Iterator[Batch],
    shards: Sequence[Shard],
    write: Write,
    timing: Timing,
    on_batch: Callable[[int], None],
) -> dict[int, str]:
    """Push `batches` through the backbone and hand every finished shard to `write`, in order; return the rows
    that could not be read, with their reasons.

    Memory is bounded by the queues: some batches of images, some of rows, two shards; on CUDA one more shard
    on the device, whose statistics are taken there. Any error ends the run after the shard that is being
    written.
    """
    compute = forward.compute
    names = [f.name for f in features.features]
    neurons = [f.neurons for f in features.features]
    loader = DeviceLoader(batches, compute.device, compute.channels_last, timing)
    assembler = ShardAssembler(shards, names, neurons, features.dtype, write, timing)
    finished = False
    try:
        with compute.precision():
            if compute.device.type == "cuda":
                ring = PinnedRing(forward.size, neurons, features.dtype, compute.device)
                statistics = ShardStatistics(
                    [(s.start, s.stop) for s in shards], names, neurons, features.dtype
                )
                _send_cuda(forward, ring, statistics, loader, assembler, timing, on_batch)
            else:
                _send_host(forward, loader, assembler, timing, on_batch)
        with timing.wait("write"):
            finished = True
            assembler.close()
        return assembler.failed
    finally:
        loader.close()
        if not finished:
            assembler.close(finish=False)


def _send_host(
    forward: Forward,
    loader: DeviceLoader,
    assembler: ShardAssembler,
    timing: Timing,
    on_batch: Callable[[int], None],
) -> None:
    for loaded in loader:
        with timing.wait("forward"), timing.work("forward"):
            pieces = [outputs for _, outputs in forward(loaded.images, loaded.batch.status == OK)]
            whole = pieces[0] if len(pieces) == 1 else tuple(torch.cat(p) for p in zip(*pieces, strict=True))
        with timing.wait("copy"):
            outputs = [output.cpu() for output in whole]
        with timing.wait("write"):
            assembler.put(Rows(loaded.batch, outputs, losses=_losses(forward, loaded.batch, assembler)))
        _count(loaded.batch, timing, on_batch)


def _send_cuda(
    forward: Forward,
    ring: PinnedRing,
    statistics: ShardStatistics,
    loader: DeviceLoader,
    assembler: ShardAssembler,
    timing: Timing,
    on_batch: Callable[[int], None],
) -> None:
    for loaded in loader:
        slot = ring.free_slot(timeout=0)
        while slot is None:
            # The ring is full either because the device is behind or because the writer is.
            with timing.wait("write" if assembler.busy else "forward"):
                slot = ring.free_slot(timeout=0.1) if ring.waits_for_device else ring.grow()
            if assembler.error is not None:
                raise assembler.error
        with timing.wait("forward"):
            stream = torch.cuda.current_stream()
            stream.wait_event(loaded.ready)
            loaded.images.record_stream(stream)
            started = torch.cuda.Event(enable_timing=True)
            started.record(stream)
            event, found = None, None
            for offset, outputs in forward(loaded.images, loaded.batch.status == OK):
                event = ring.put(slot, outputs, offset)
                found = statistics.add(loaded.batch, offset, outputs)
        with timing.wait("write"):
            give_back = lambda slot=slot: ring.give_back(slot)  # noqa: E731
            losses = _losses(forward, loaded.batch, assembler)
            assembler.put(Rows(loaded.batch, ring.buffers(slot), event, give_back, started, found, losses))
        _count(loaded.batch, timing, on_batch)


def _losses(forward: Forward, batch: Batch, assembler: ShardAssembler) -> dict[str, Tensor]:
    """What the cast lost of a shard, with its last batch."""
    return forward.features.take_losses() if assembler.ends_shard(batch) else {}


def _count(batch: Batch, timing: Timing, on_batch: Callable[[int], None]) -> None:
    timing.images += len(batch.labels)
    timing.fallbacks += batch.fallbacks
    on_batch(len(batch.labels))
