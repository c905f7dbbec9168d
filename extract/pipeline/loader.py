"""Batches of uint8 images, decoded ahead by worker processes; boundaries depend on shards and batch size
alone."""

import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info

from probecache.extract.datasets.decode import MODES, from_array, to_mode
from probecache.extract.datasets.images import Images
from probecache.extract.datasets.preprocess import Preprocess
from probecache.extract.datasets.processes import start
from probecache.extract.datasets.read_errors import machines_fault, reason_of
from probecache.store.errors import InputError
from probecache.store.layout import FAILED, OK
from probecache.store.machine import usable_cores

_MIXED = (
    "the dataset gives pixels (uint8 or PIL images) and normalised floating point images: give one of them"
)
CHUNK = 32  # images that a process decodes before it hands them over


@dataclass(frozen=True)
class Batch:
    """Rows [start, start + n) of the data set (other rows where `open_batches` was given other rows).

    images (n, c, h, w), zeros where a row failed; labels int64 (n,); status uint8 (n,); `errors` maps a
    failed row to its reason. `refused` says what in the data ends the run, '' if nothing does. `fallbacks`
    counts images that Pillow decoded although another decoder was asked for.
    """

    start: int
    images: Tensor
    labels: np.ndarray
    status: np.ndarray
    errors: dict[int, str]
    refused: str = ""
    fallbacks: int = 0

    @property
    def stop(self) -> int:
        return self.start + len(self.labels)


def batch_ranges(shards: Sequence[tuple[int, int]], batch_size: int) -> list[range]:
    """Each shard cut from its first row on: a resumed run meets the same batches."""
    return [
        range(start, min(start + batch_size, last))
        for first, last in shards
        for start in range(first, last, batch_size)
    ]


def open_batches(
    images: Images,
    preprocess: Preprocess,
    ranges: Sequence[Sequence[int]],
    *,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Batch]:
    """Batches for `ranges`, in order. `workers` processes decode ahead; 0 decodes in this one.

    A process decodes CHUNK images at a time, so that small splits keep all of them busy and little shared
    memory is needed; with `pin`, chunks are gathered in pinned memory. A `TensorDataset` of uint8 images of
    the right size is sliced, without a copy.
    """
    ready = _in_memory(images, preprocess)
    if ready is not None or not ranges:
        return _slices(ready, images, ranges)
    ahead = plan_ahead(workers, 4 * math.prod(preprocess.input_size), _shared_memory())
    chunks = [rows[i : i + ahead.chunk] for rows in ranges for i in range(0, len(rows), ahead.chunk)]
    workers = min(workers, len(chunks))
    loader = DataLoader(
        _Rows(images, preprocess),
        batch_sampler=chunks,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_Collate(preprocess.input_size, ahead.shared),
        prefetch_factor=ahead.prefetch if workers else None,
        worker_init_fn=_ignore_interrupt,
        generator=torch.Generator(),  # it draws a seed: not from the caller's
    )
    # The processes start here, before the caller starts threads.
    return _join(_as_tensors(start(loader)), ranges, ahead.chunk, pin)


@dataclass(frozen=True)
class Ahead:
    """How far processes decode ahead: `chunk` images at a time, `prefetch` chunks for each process, handed
    over in shared memory, or else through a pipe, which copies them once more."""

    chunk: int
    prefetch: int
    shared: bool = True


def plan_ahead(workers: int, image_bytes: int, shared_memory: int | None) -> Ahead:
    """What fits into half of the shared memory there is (None: not limited); values do not depend on it.

    >>> plan_ahead(2, 4 * 3 * 224 * 224, None)
    Ahead(chunk=32, prefetch=4, shared=True)
    >>> plan_ahead(2, 4 * 3 * 518 * 518, 64 << 20)
    Ahead(chunk=1, prefetch=2, shared=True)
    """
    chunk, prefetch = CHUNK, 4
    while workers and shared_memory is not None:
        # Beside those that wait, each process fills a chunk, and the main one reads one of each.
        if workers * (prefetch + 2) * chunk * image_bytes <= shared_memory // 2:
            break
        if prefetch > 2:
            prefetch = 2
        elif chunk > 1:
            chunk //= 2
        else:
            return Ahead(CHUNK, 2, shared=False)
    return Ahead(chunk, prefetch)


def _shared_memory() -> int | None:
    """Bytes free in /dev/shm, where Linux keeps shared memory; None where there is no such place."""
    try:
        place = os.statvfs("/dev/shm")
    except OSError:
        return None
    return place.f_bavail * place.f_frsize


def _as_tensors(chunks: Iterator[Batch]) -> Iterator[Batch]:
    """Images that came through a pipe as arrays are tensors again."""
    for chunk in chunks:
        images: Any = chunk.images
        yield replace(chunk, images=torch.from_numpy(images)) if isinstance(images, np.ndarray) else chunk


def default_workers(device: str) -> int:
    """Processes that decode: as many as there are cores beside a GPU; a quarter of them where the CPU
    computes too."""
    return min(usable_cores(), 32) if device == "cuda" else max(1, usable_cores() // 4)


def _join(chunks: Iterator[Batch], ranges: Sequence[Sequence[int]], chunk: int, pin: bool) -> Iterator[Batch]:
    """Chunks put together to batches of the given rows."""
    for rows in ranges:
        parts = [next(chunks) for _ in range(0, len(rows), chunk)]
        dtype = _one_dtype(parts)
        if len(parts) == 1 and not pin:
            yield parts[0]
            continue
        shape = (len(rows), *parts[0].images.shape[1:])
        images = torch.empty(shape, dtype=dtype, pin_memory=pin)
        torch.cat([part.images.to(dtype) for part in parts], out=images)
        yield Batch(
            rows[0],
            images,
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.status for part in parts]),
            {row: reason for part in parts for row, reason in part.errors.items()},
            fallbacks=sum(part.fallbacks for part in parts),
        )


def _one_dtype(parts: Sequence[Batch]) -> torch.dtype:
    """What the images of a batch are; InputError where one was refused, or where they are of two kinds."""
    for part in parts:
        if part.refused:
            raise InputError(part.refused)
    kinds = {part.images.dtype for part in parts if (part.status == OK).any()}
    if len(kinds) > 1:
        raise InputError(_MIXED)
    return kinds.pop() if kinds else torch.uint8


def _ignore_interrupt(_: int) -> None:
    # Ctrl-C reaches every process of the terminal: the main one ends these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _in_memory(images: Images, preprocess: Preprocess) -> Tensor | None:
    if isinstance(images.source, TensorDataset):
        tensor = images.source.tensors[0]
        if tensor.dtype == torch.uint8 and tuple(tensor.shape[1:]) == preprocess.input_size:
            return tensor
    return None


def _slices(tensor: Tensor | None, images: Images, ranges: Sequence[Sequence[int]]) -> Iterator[Batch]:
    for rows in ranges:
        assert tensor is not None
        part = slice(rows.start, rows.stop) if isinstance(rows, range) else list(rows)
        labels = np.full(len(rows), -1, np.int64) if images.labels is None else images.labels[part]
        yield Batch(rows[0], tensor[part], labels, np.full(len(rows), OK, np.uint8), {})


class _Rows(Dataset[Any]):
    """Row number -> what reading that row gave."""

    def __init__(self, images: Images, preprocess: Preprocess) -> None:
        self.images = images
        self.transform: Callable[[Any], Tensor] = preprocess.transform()
        self.size = preprocess.input_size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> "_Item":
        known = -1 if self.images.labels is None else int(self.images.labels[row])
        try:
            before = self.images.decoder.fallbacks
            image, label = self.images.read(row)
            fallbacks = self.images.decoder.fallbacks - before
            return _Item(row, self._tensor(image), label, fallbacks=fallbacks)
        except InputError as error:  # as text: the exception of a process comes with its traceback
            return _Item(row, None, known, refused=str(error))
        except Exception as error:  # whatever a decoder throws, the row is the one that failed
            return _Item(row, None, known, reason_of(error), machines_fault(error, row))

    def _tensor(self, image: Any) -> Tensor:
        """uint8 pixels of the model's size, or the data set's own normalised image: a copy, since a data set
        may fill the same memory with its next item."""
        if isinstance(image, Tensor | np.ndarray):
            image = _plain(image)
            if image.is_floating_point():
                if tuple(image.shape) != self.size:
                    raise InputError(
                        f"the dataset gives normalised images of shape {tuple(image.shape)}, the model takes "
                        f"{self.size}; resize in the dataset's transform, or give PIL images"
                    )
                if not bool(torch.isfinite(image).all()):
                    raise ValueError("the image holds NaN or infinite values")
                return image.to(torch.float32, copy=True)
            if image.dtype not in (torch.uint8, torch.uint16):
                raise InputError(
                    f"the dataset gives images of {image.dtype}: give uint8 or uint16 pixels, or floating "
                    "point that is normalised"
                )
            if image.dtype == torch.uint8 and tuple(image.shape) == self.size:
                return image.clone()
            image = from_array(image.cpu().numpy())
        if self.size[0] not in MODES:
            raise InputError(f"the model takes {self.size[0]} channels: give tensors of shape {self.size}")
        return self.transform(to_mode(image, MODES[self.size[0]]))


def _plain(image: Tensor | np.ndarray) -> Tensor:
    """An image as a dense tensor on the host, of any strides and byte order; InputError for what hides a part
    of it."""
    if isinstance(image, Tensor):
        if image.layout != torch.strided or image.is_quantized:
            raise InputError(f"the dataset gives {image.layout} {image.dtype} images: give dense tensors")
        return image.detach().cpu()
    if isinstance(image, np.ma.MaskedArray) and np.ma.is_masked(image):
        raise InputError("the dataset gives masked arrays as images: fill them (.filled(value))")
    values = np.asarray(image)
    native = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.flags.writeable else native.copy())


@dataclass(frozen=True)
class _Item:
    """One row: its image or None, its label, why it failed, why the run has to end, and whether Pillow
    decoded it in another decoder's place (0 or 1)."""

    row: int
    image: Tensor | None
    label: int
    reason: str = ""
    refused: str = ""
    fallbacks: int = 0


class _Collate:
    def __init__(self, size: tuple[int, int, int], shared: bool = True) -> None:
        self.size, self.shared = size, shared

    def __call__(self, items: Sequence[_Item]) -> Batch:
        dtypes = {item.image.dtype for item in items if item.image is not None}
        refused = next((item.refused for item in items if item.refused), _MIXED if len(dtypes) > 1 else "")
        stacked = torch.empty(len(items), *self.size, dtype=next(iter(dtypes), torch.uint8))
        if get_worker_info() is not None and self.shared:
            # Filled in place: the batch goes to the main process without another copy.
            stacked.share_memory_()
        for slot, item in zip(stacked, items, strict=True):
            if item.image is None or refused:
                slot.zero_()
            else:
                slot.copy_(item.image)
        # torch hands tensors over in shared memory, and an array through the pipe.
        images: Any = stacked.numpy() if get_worker_info() is not None and not self.shared else stacked
        return Batch(
            items[0].row,
            images,
            np.array([item.label for item in items], np.int64),
            np.array([FAILED if item.image is None else OK for item in items], np.uint8),
            {item.row: item.reason for item in items if item.image is None},
            refused,
            sum(item.fallbacks for item in items),
        )
