"""Hugging Face data sets: `hfds/NAME` by row, `hfids/NAME` as a stream, or a loaded `datasets.Dataset`.

NAME is a data set of the hub or a local folder. Images are taken undecoded, so that they are decoded as every
other image is and one that cannot be costs its own row. What a stream cannot do without an index it does by
passing over rows: it is read in its own order, without shuffling, by one process.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from probecache.extract.backbone.hub import hub_access
from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.decoder import Encoded
from probecache.extract.datasets.images import Images, digest_content
from probecache.extract.datasets.inventory import Inventory
from probecache.extract.datasets.labels import labels_from_text, to_label, to_labels
from probecache.extract.datasets.readers.torch_dataset import IMAGE_KEYS, LABEL_KEYS, find_column
from probecache.store.errors import InputError, first_line

_FILES = ("string", "large_string", "binary", "large_binary")
STREAM_ROWS = 16  # whose bytes stand for the content of a stream


def open_hub(
    spec: str, data_dir: str | Path | None, split: str, choices: Choices, *, download: bool = False
) -> Images:
    """The rows of `split`, identified by their numbers; `data_dir` is the cache of the package `datasets`.

    Raises InputError where the package or the data set is missing, where it is not plain which columns hold
    image and label, and for a stream whose length nobody knows.
    """
    prefix, _, name = spec.partition("/")
    cache = None if data_dir is None else str(Path(data_dir).expanduser())
    try:
        import datasets

        with nullcontext() if Path(name).exists() else hub_access():
            if prefix == "hfds":
                table = datasets.load_dataset(name, split=split, cache_dir=cache)
            else:
                builder = datasets.load_dataset_builder(name, cache_dir=cache)
                if download:
                    builder.download_and_prepare()
    except ImportError as error:
        raise InputError(
            f"dataset {spec!r} needs another package: {error}; pip install 'probecache[hf]'"
        ) from error
    except Exception as error:
        reason = first_line(error, "nothing found")
        raise InputError(
            f"dataset {spec!r}, split {split!r}, cannot be opened: {type(error).__name__}: {reason}"
        ) from error
    return (
        open_table(table, spec, choices)
        if prefix == "hfds"
        else _open_stream(builder, spec, split, download, choices)
    )


def is_table(dataset: Any) -> bool:
    """Whether this is a `datasets.Dataset` whose rows are as they were stored."""
    ours = type(dataset).__module__ == "datasets.arrow_dataset" and type(dataset).__name__ == "Dataset"
    return ours and dataset.format["type"] is None


def open_table(table: Any, spec: str, choices: Choices) -> Images:
    """The rows of a `datasets.Dataset`."""
    where = f"dataset {spec!r}"
    inventory = Inventory(where)
    image, label = _columns(table.features, choices, where)
    _require_files(table.features[image], image, where)
    labels, classes = _labels(table, label, where)
    if label is None:
        inventory.note(f"no label column is read: all {len(table)} rows are unlabelled (-1)")
    if not len(table):
        raise inventory.nothing("no rows")
    rows = _Rows(_undecoded(table.select_columns([image]), image), image)
    content = digest_content(len(table), rows.content, how=choices.how, total=rows.table.data.nbytes)
    return Images(rows, spec, tuple(map(str, range(len(table)))), labels, classes, content, inventory)


def _open_stream(builder: Any, spec: str, split: str, download: bool, choices: Choices) -> Images:
    where = f"dataset {spec!r}, split {split!r},"
    splits = builder.info.splits or {}
    if split not in splits and splits:
        raise InputError(f"{where} cannot be opened: it has the splits {', '.join(splits)}")
    count = getattr(splits.get(split), "num_examples", None)
    if not count:
        name = spec.removeprefix("hfids/")
        raise InputError(
            f"{where} cannot be opened: the length of the stream is not recorded; use hfds/{name}"
        )
    rows = _rows_of(builder, split, download)
    features: Any = builder.info.features or rows.features or next(iter(rows.take(1)), {})
    image, label = _columns(features, choices, where)
    names = _class_names(features, label)
    source = _Stream(builder, split, download, count, (image, label), names, where)
    # A stream is read from its front: all of it would be the extraction's own pass.
    content = digest_content(min(count, STREAM_ROWS), source.content, how="some")
    numbers = tuple(map(str, range(count)))
    return Images(source, spec, numbers, None, names, content, Inventory(where), sequential=True)


def _columns(features: Any, choices: Choices, where: str) -> tuple[str, str | None]:
    """Columns of the image and of the label. A name that is usual decides, else a type that only one has."""
    columns = list(features)
    kinds = {column: type(features[column]).__name__ for column in columns}
    image = find_column(columns, choices.input_key, IMAGE_KEYS, where, "image", "--input-key")
    image = image or _only(columns, kinds, "Image")
    if image is None:
        raise InputError(
            f"{where} has no plain column for the image: name one of {', '.join(columns)} with --input-key"
        )
    label = find_column(columns, choices.target_key, LABEL_KEYS, where, "label", "--target-key")
    others = [column for column in columns if column != image]
    if label is None and choices.target_key is None:
        label = _only(others, kinds, "ClassLabel")
        if label is None and others:
            raise InputError(
                f"{where} has no plain column for the label: name one of {', '.join(others)} with "
                "--target-key, or none"
            )
    return image, label


def _require_files(feature: Any, column: str, where: str) -> None:
    """InputError for a column that holds no image files: numbers would be rounded to pixels."""
    kind = type(feature).__name__
    text = str(getattr(feature, "dtype", ""))
    struct = isinstance(feature, dict) and {"bytes", "path"} >= set(feature)
    if kind == "Image" or struct or (kind == "Value" and text in _FILES):
        return
    raise InputError(
        f"{where}: its column {column!r} is {kind}, not images, their bytes or paths: cast it to "
        "datasets.Image(), or from Python give the data set with_format('numpy')"
    )


def _only(columns: Sequence[str], kinds: dict[str, str], kind: str) -> str | None:
    found = [column for column in columns if kinds[column] == kind]
    return found[0] if len(found) == 1 else None


def _class_names(features: Any, label: str | None) -> tuple[str, ...]:
    return tuple(getattr(features[label], "names", None) or ()) if label is not None else ()


def _labels(table: Any, column: str | None, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The label column, read without the images."""
    if column is None:
        return np.full(len(table), -1, np.int64), ()
    values = list(table.select_columns([column])[:][column])
    names = _class_names(table.features, column)
    if any(isinstance(value, str) for value in values):
        return labels_from_text(values, where)
    return to_labels(values, where, names), names


def _undecoded(rows: Any, column: str) -> Any:
    from datasets import Image

    return rows.cast_column(column, Image(decode=False))


def _rows_of(builder: Any, split: str, download: bool) -> Any:
    if download:
        return builder.as_dataset(split=split).to_iterable_dataset()
    return builder.as_streaming_dataset(split=split)


def _content(image: Any) -> bytes:
    """The bytes of an undecoded image; none where a row has none."""
    if image is None or (not image.get("bytes") and not image.get("path")):
        return b""
    return image.get("bytes") or Path(image["path"]).read_bytes()


class _Rows:
    """A table as a sequence of image files; what cannot be read raises."""

    def __init__(self, table: Any, column: str) -> None:
        self.table = table
        self.column = column

    def content(self, row: int) -> bytes:
        return _content(self.table[row][self.column])

    def __getitem__(self, row: int) -> Encoded:
        return Encoded(self.content(row))


class _Stream:
    """A stream as a sequence of (image file, label): fast for rows in order, correct for any."""

    def __init__(
        self,
        builder: Any,
        split: str,
        download: bool,
        count: int,
        columns: tuple[str, str | None],
        classes: tuple[str, ...],
        where: str,
    ) -> None:
        self.builder, self.split, self.download, self.count = builder, split, download, count
        self.columns, self.classes, self.where = columns, classes, where
        self._rest: Iterator[Any] | None = None
        self._next = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rest": None, "_next": 0}

    def __getitem__(self, row: int) -> tuple[Encoded, int]:
        item = self._item(row)
        label = None if self.columns[1] is None else item.get(self.columns[1])
        number = to_label(label, f"{self.where} row {row}: its label", self.classes)
        return Encoded(_content(item[self.columns[0]])), number

    def content(self, row: int) -> bytes:
        return _content(self._item(row)[self.columns[0]])

    def _item(self, row: int) -> Any:
        if self._rest is None or row < self._next:
            rows = _undecoded(_rows_of(self.builder, self.split, self.download), self.columns[0])
            self._rest, self._next = iter(rows.skip(row)), row
        item = next(islice(self._rest, row - self._next, None), None)
        self._next = row + 1
        if item is None:
            raise InputError(
                f"the stream ended before row {row}; {self.count} rows are recorded: repair the data set's "
                "metadata, or use hfds/NAME, which counts"
            )
        return item
