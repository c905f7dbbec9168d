"""Hugging Face data sets, through timm's readers: `hfds/NAME` by row, `hfids/NAME` as a stream.

NAME is a data set of the hub or a local folder. What a stream cannot do without an index it does by passing
over rows: it is read in its own order, without shuffling, by one process.
"""

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from probecache.extract.datasets.images import Images, names_by_label
from probecache.store.errors import InputError


def open_hub(spec: str, data_dir: str | Path | None, split: str, mode: str, *, download: bool) -> Images:
    """The rows of `split`, identified by their numbers; `data_dir` is the cache of the package `datasets`.

    Raises InputError where the package or the data set is missing, and for a stream whose length nobody
    knows.
    """
    from timm.data import create_dataset

    streamed = spec.startswith("hfids/")
    options: dict[str, Any] = {"download": download} if streamed else {}
    try:
        root = None if data_dir is None else str(data_dir)
        reader = create_dataset(spec, root=root, split=split, is_training=False, **options).reader
        count = len(reader)
    except ImportError as error:
        raise InputError(
            f"dataset {spec!r} needs another package: {error}; pip install 'probecache[hf]'"
        ) from error
    except Exception as error:
        reason = (str(error).strip() or "nothing found").split("\n")[0]
        if "length is unknown" in reason:
            reason = f"the length of the stream is not recorded; use hfds/{spec.removeprefix('hfids/')}"
        raise InputError(
            f"dataset {spec!r}, split {split!r}, cannot be opened: {type(error).__name__}: {reason}"
        ) from error
    source: Any = _Stream(reader, count, mode) if streamed else _Rows(reader, mode)
    labels = None if streamed else _labels(reader)
    names = tuple(map(str, range(count)))
    return Images(source, spec, names, labels, names_by_label(reader.class_to_idx), sequential=streamed)


class _Rows:
    """timm's `hfds` reader as a sequence of (PIL image, label); what cannot be read raises."""

    def __init__(self, reader: Any, mode: str) -> None:
        self.reader = reader
        self.mode = mode

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        stream, label, *_ = self.reader[row]
        return _decode(stream, self.mode), label


class _Stream:
    """A stream as a sequence of (PIL image, label): fast for rows in order, correct for any.

    Images are taken undecoded, so that one that cannot be decoded costs its own row and not the stream.
    """

    def __init__(self, reader: Any, count: int, mode: str) -> None:
        self.reader = reader
        self.count = count
        self.mode = mode
        self._rest: Iterator[Any] | None = None
        self._next = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rest": None, "_next": 0}

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        if self._rest is None or row < self._next:
            self._rest, self._next = iter(self._open(row)), row
        item = next(islice(self._rest, row - self._next, None), None)
        self._next = row + 1
        if item is None:
            raise InputError(
                f"the stream ended before row {row}; {self.count} rows are recorded: repair the data set's "
                "metadata, or use hfds/NAME, which counts"
            )
        image = item[self.reader.input_key]
        content = image.get("bytes") or Path(image["path"]).read_bytes()
        return _decode(io.BytesIO(content), self.mode), item.get(self.reader.target_key)

    def _open(self, first: int) -> Any:
        from datasets import Image

        builder, split = self.reader.builder, self.reader.split
        rows = (
            builder.as_dataset(split=split).to_iterable_dataset()
            if self.reader.download
            else builder.as_streaming_dataset(split=split)
        )
        return rows.cast_column(self.reader.input_key, Image(decode=False)).skip(first)


def _decode(stream: Any, mode: str) -> Any:
    from PIL import Image

    with stream, Image.open(stream) as image:
        return image.convert(mode)


def _labels(reader: Any) -> np.ndarray | None:
    """The label column, read without the images; None where it holds other than whole numbers."""
    if reader.label_key not in reader.dataset.column_names:
        columns = ", ".join(reader.dataset.column_names)
        raise InputError(f"the data set has no column {reader.label_key!r}; it has: {columns}")
    labels = reader.dataset.select_columns([reader.label_key])[:][reader.label_key]
    whole = all(isinstance(label, int) for label in labels)
    return np.asarray(labels, dtype=np.int64) if whole else None
