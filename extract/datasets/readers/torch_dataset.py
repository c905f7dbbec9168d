"""torch Datasets: names, labels and classes where they are sure before reading, else from the items."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.images import ALL, Images, names_by_label, spread
from probecache.extract.datasets.inventory import Inventory, printable
from probecache.extract.datasets.labels import to_label, to_labels
from probecache.extract.datasets.look import LOOK_ROWS, VARIES, look_at, note_range
from probecache.store.errors import InputError, first_line
from probecache.store.machine import usable_cores

IMAGE_KEYS = ("image", "img", "images", "pixel_values", "picture", "photo", "jpg", "png")
LABEL_KEYS = ("label", "labels", "target", "targets", "class", "cls", "class_id", "category", "y")
PIECE = 64 << 20  # bytes of pixels that are digested in one go
_LIKE_LABELS = ("label", "class", "target", "categor")
_KEPT_BESIDE = ("index", "idx", "id", "row", "number", "width", "height", "size", "frame", "time", "length")


@dataclass(frozen=True)
class _Known:
    """What a data set says of its items without reading one; None where only reading tells."""

    names: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    pixels: Tensor | None = None  # (m, ...), all images as they are in memory, of which
    rows: Sequence[int] | None = None  # these are the items; None: all of them


def open_dataset(dataset: Any, spec: str | None, choices: Choices, *, in_process: bool = True) -> Images:
    """The items of a torch Dataset in their order: (image, label), the image alone, or a mapping of them.

    Labels are those of the items: `targets` are believed only where torch or torchvision themselves read
    items, and then through the target transform. Some items are read here: in this process, or in one of
    its own, so that what a data set opens on its first read is not shared between processes. Raises
    InputError for labels that are no classes.
    """
    name = spec or f"{type(dataset).__module__}.{type(dataset).__qualname__}"
    if isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    ):
        raise InputError(f"dataset {name} has no fixed order; give one with __len__ and __getitem__")
    count = _count(dataset, name)
    if count == 0:
        raise InputError(f"dataset {name} is empty")
    inventory = Inventory(f"dataset {name}")
    known = _describe(dataset, inventory.where)
    source = (
        dataset
        if type(dataset) is TensorDataset
        else _Items(dataset, inventory.where, known.classes, choices)
    )
    names = known.names or tuple(map(str, range(count)))
    if known.pixels is not None:
        content = _digest_pixels(known.pixels, known.rows or range(count))
        if known.pixels.is_floating_point():
            some = known.pixels[spread(len(known.pixels), LOOK_ROWS)]
            note_range(float(some.min()), float(some.max()), inventory)
    else:
        rows = range(count) if choices.how == "all" else spread(count, LOOK_ROWS)
        content = look_at(source, rows, inventory, in_process)
        if choices.how == "all" and content != VARIES:
            content = f"{ALL}{content}"
    return Images(source, name, names, known.labels, known.classes, content, inventory)


def _count(dataset: Any, name: str) -> int:
    """len(dataset). InputError where it has none, or where it holds data sets or columns instead of items."""
    if isinstance(dataset, Mapping):
        keys = ", ".join(map(str, list(dataset)[:5]))
        raise InputError(
            f"dataset {name} is a mapping of {keys}: give one of them, or a torch Dataset of items"
        )
    try:
        return len(dataset)
    except Exception as error:  # whatever the caller's __len__ throws; a class instead of an instance
        reason = first_line(error)
        raise InputError(
            f"dataset {name} has no length ({type(error).__name__}: {reason:.120}); give one with "
            "__len__ and __getitem__"
        ) from error


def _describe(dataset: Any, where: str) -> _Known:
    if type(dataset) is Subset:
        return _subset(dataset, where)
    if type(dataset) is ConcatDataset:
        return _joined(dataset, where)
    if type(dataset) is TensorDataset:
        images, *others = dataset.tensors
        labels = to_labels(others[0], where) if others else np.full(len(images), -1, np.int64)
        return _Known(labels=labels, pixels=images)
    count = len(dataset)
    names = _static(dataset, "samples")
    if isinstance(names, list) and len(names) == count and isinstance(names[0], tuple | list):
        root = getattr(dataset, "root", "")
        known = _Known(names=tuple(printable(_inside(str(entry[0]), root)) for entry in names))
    else:
        known = _Known()
    classes = _static(dataset, "class_to_idx")
    listed = _static(dataset, "classes")
    listed = listed.tolist() if isinstance(listed, np.ndarray) else listed
    named = names_by_label(classes) if isinstance(classes, Mapping) else ()
    if not named and isinstance(listed, list | tuple):
        named = tuple(str(c) for c in listed)
    transform, joint = getattr(dataset, "target_transform", None), getattr(dataset, "transforms", None)
    targets = _static(dataset, "targets")
    if hasattr(targets, "__len__") and len(targets) == count:
        if not _torchvision_reads(dataset):
            if transform is None:
                _require_one_each(targets, where)
        elif _is_whole(targets) and type(joint).__name__ in ("NoneType", "StandardTransform"):
            if transform is None:
                return replace(known, labels=to_labels(targets, where, named), classes=named)
            values = targets.tolist() if isinstance(targets, Tensor | np.ndarray) else targets
            return replace(known, labels=to_labels([transform(value) for value in values], where))
    return replace(known, classes=() if transform else named)


def _subset(dataset: Any, where: str) -> _Known:
    base, rows = _describe(dataset.dataset, where), [int(i) for i in dataset.indices]
    count = len(dataset.dataset)
    outside = [row for row in rows if not -count <= row < count]
    if outside:
        raise InputError(f"{where}: its index {outside[0]} lies outside the {count} items that it is of")
    whole = base.names or tuple(map(str, range(count)))
    return _Known(
        tuple(whole[row] for row in rows),
        None if base.labels is None else base.labels[rows],
        base.classes,
        base.pixels,
        None if base.pixels is None else [row if base.rows is None else base.rows[row] for row in rows],
    )


def _joined(dataset: Any, where: str) -> _Known:
    parts = [_describe(part, where) for part in dataset.datasets]
    names = [
        f"{number}/{name}"
        for number, (part, data) in enumerate(zip(parts, dataset.datasets, strict=True))
        for name in part.names or map(str, range(len(data)))
    ]
    kinds = {part.classes for part in parts}
    if len(kinds) > 1:
        raise InputError(
            f"{where} joins data sets whose classes differ, so that one number means two classes: give them "
            "target transforms to the numbers of one list"
        )
    labels = [part.labels for part in parts if part.labels is not None]
    whole = np.concatenate(labels) if len(labels) == len(parts) else None
    return _Known(tuple(names), whole, parts[0].classes if parts else ())


def _torchvision_reads(dataset: Any) -> bool:
    return str(getattr(type(dataset).__getitem__, "__module__", "")).startswith("torchvision.datasets")


def _is_whole(targets: Any) -> bool:
    """Whether these are whole numbers, one per item."""
    if isinstance(targets, Tensor):
        return targets.ndim == 1 and not targets.is_floating_point()
    if isinstance(targets, np.ndarray):
        return targets.ndim == 1 and targets.dtype.kind in "iu"
    return isinstance(targets, list | tuple) and all(isinstance(target, int) for target in targets)


def _static(dataset: Any, name: str) -> Any:
    """An attribute of the data set's own; None where it is missing or handed through from another one."""
    found = inspect.getattr_static(dataset, name, None)
    return None if found is None else getattr(dataset, name, None)


def _require_one_each(targets: Any, where: str) -> None:
    """`targets` of which some are no class contradict items that are; neither is to be preferred."""
    first = targets[:LOOK_ROWS] if isinstance(targets, Sequence | Tensor | np.ndarray) else ()
    for row, target in enumerate(first):
        if not isinstance(target, str | bytes) and np.ndim(target) > 0 and len(target) > 1:
            to_label(target, f"{where}: its `targets` at {row}")


def _inside(path: str, root: Any) -> str:
    try:
        return Path(path).relative_to(root).as_posix()
    except (ValueError, TypeError):
        return path


@dataclass(frozen=True)
class _Items:
    """A data set as a sequence of (image, label), whatever its items look like."""

    dataset: Any
    where: str
    classes: tuple[str, ...]
    choices: Choices

    def __getitem__(self, row: int) -> tuple[Any, int]:
        image, label = self._parts(self.dataset[row], row)
        if isinstance(image, list | tuple) and len(image) == 1:
            image = image[0]
        if (
            isinstance(image, list | tuple | str | bytes | Mapping)
            or image is None
            or np.ndim(_size(image)) == 0
        ):
            raise InputError(
                f"{self.where}, item {row}: its image is a {type(image).__name__}: give a PIL image or tensor"
            )
        return image, to_label(label, f"{self.where}, item {row}: its label", self.classes)

    def _parts(self, item: Any, row: int) -> tuple[Any, Any]:
        if hasattr(item, "_fields") and self._named(item):
            item = item._asdict()
        if isinstance(item, Mapping):
            where = f"{self.where}, item {row}"
            image = find_column(list(item), self.choices.input_key, IMAGE_KEYS, where, "image", "--input-key")
            if image is None:
                raise InputError(
                    f"{where}: no image among {', '.join(map(str, item))}: name it with --input-key"
                )
            label = find_column(
                list(item), self.choices.target_key, LABEL_KEYS, where, "label", "--target-key"
            )
            near = [str(k) for k in item if k != image and _may_be_label(str(k).lower(), item[k])]
            if label is None and near and self.choices.target_key is None:
                raise InputError(
                    f"{where}: is {' or '.join(near)} the label? name it with --target-key, or none"
                )
            return item[image], None if label is None else item[label]
        if isinstance(item, tuple | list):
            return self._at(item, self.choices.input_key, 0, row), self._label(item, row)
        return item, None

    def _named(self, item: Any) -> bool:
        """Whether the fields of a named tuple say which of them is the image."""
        return self.choices.input_key in item._fields or any(f.lower() in IMAGE_KEYS for f in item._fields)

    def _label(self, item: Sequence[Any], row: int) -> Any:
        if self.choices.target_key == "none":
            return None
        more = [at for at in range(2, len(item)) if _is_class(item[at])]
        if self.choices.target_key is None and more and _is_class(item[1]):
            raise InputError(
                f"{self.where}, item {row}: which of its {len(item)} parts is the label, 1 or {more[0]} "
                "(counted from 0)? name it with --target-key, or none"
            )
        return self._at(item, self.choices.target_key, 1, row) if len(item) > 1 else None

    def _at(self, item: Sequence[Any], key: str | None, usual: int, row: int) -> Any:
        if key is None:
            return item[usual]
        if not key.isdecimal() or int(key) >= len(item):
            raise InputError(
                f"{self.where}, item {row}: it is a tuple of {len(item)} and has no part {key!r}; parts are "
                "counted from 0"
            )
        return item[int(key)]


def _may_be_label(name: str, value: Any) -> bool:
    """Whether an entry beside the image is called like a label, or is a whole number and no bookkeeping."""
    kept = any(word in name.split("_") for word in _KEPT_BESIDE)
    return any(word in name for word in _LIKE_LABELS) or (_is_class(value) and not kept)


def _is_class(value: Any) -> bool:
    """Whether this is one whole number."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.ndim == 0 and not np.issubdtype(np.asarray(value).dtype, np.inexact)
    return isinstance(value, int)


def _size(image: Any) -> Any:
    """(height, width, ...) of anything that is an image; a number for what is none."""
    return getattr(image, "size", 0) if hasattr(image, "convert") else getattr(image, "shape", 0) or 0


def find_column(
    columns: Sequence[str], asked: str | None, usual: Sequence[str], where: str, what: str, option: str
) -> str | None:
    """The column asked for, else the first of the usual names; None if there is none, or 'none' was asked."""
    if asked is not None:
        if asked in columns:
            return asked
        if asked == "none":
            return None
        raise InputError(
            f"{where} has no column {asked!r} for the {what} ({option}); it has: {', '.join(columns)}"
        )
    lower = {str(column).lower(): column for column in columns}
    found = [lower[name] for name in usual if name in lower]
    if len(found) > 1:
        raise InputError(
            f"{where} has {len(found)} columns that may be the {what}, {', '.join(map(repr, found))}: name "
            f"one with {option}"
        )
    return found[0] if found else None


def _digest_pixels(pixels: Tensor, rows: Sequence[int]) -> str:
    """Over every value of these rows; where there are several pieces, over their digests.

    The pieces are digested side by side: one thread takes longer for 15 GB than a GPU for the forward pass.
    """
    head = f"{pixels.dtype} {tuple(pixels.shape[1:])}".encode()
    step = max(1, PIECE // max(1, pixels[0].numel() * pixels.element_size()))

    def piece(start: int) -> bytes:
        chosen = rows[start : start + step]
        index = slice(chosen.start, chosen.stop) if isinstance(chosen, range) else list(chosen)
        part = pixels[index].detach().cpu().contiguous().reshape(-1)
        return _blake(head, part.view(torch.uint8).numpy().data)

    with ThreadPoolExecutor(usable_cores()) as pool:
        pieces = list(pool.map(piece, range(0, len(rows), step)))
    return (pieces[0] if len(pieces) == 1 else _blake(head, *pieces)).hex()


def _blake(*parts: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
