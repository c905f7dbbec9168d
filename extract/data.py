"""Images in a fixed order, each with a label and a name: folders, tars, timm's dataset specs, torch datasets.

timm's own datasets put the next image in the place of one that they cannot read; here files are read through
timm's readers, and a failure stays with its row.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from store.errors import InputError, close_names

SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "eval", "evaluation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Images:
    """A finite, ordered set of images.

    `names` (n,) identify the samples inside the data set; `labels` int64 (n,), or None where reading an image
    is what tells its label; `classes` are the names of the labels, () if the data set has none.
    """

    source: Any
    spec: str
    names: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int) -> tuple[Any, int]:
        """(image, label): the image a PIL image in RGB or a tensor, as the source gives it."""
        item = self.source[row]
        image, label = (item[0], item[1]) if isinstance(item, tuple | list) and len(item) > 1 else (item, -1)
        if isinstance(image, tuple | list):
            image = image[0]
        return image, -1 if label is None else int(label)

    def close(self) -> None:
        """Close what reading in this process has opened; reading again opens it again."""
        if isinstance(self.source, _Files):
            self.source.close()

    def order(self) -> str:
        """sha256 of names and labels in their order: the identity of the rows."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()

    def fingerprint(self) -> dict[str, Any]:
        return {"dataset": self.spec, "samples": len(self), "order": self.order()}


class _Files:
    """timm's reader as a sequence of (PIL image, label); what cannot be read raises."""

    def __init__(self, reader: Any, mode: str) -> None:
        self.reader = reader
        self.mode = mode

    def __getitem__(self, row: int) -> tuple[Any, int]:
        from PIL import Image

        stream, label, *_ = self.reader[row]
        with stream, Image.open(stream) as image:
            return image.convert(self.mode), label

    def close(self) -> None:
        state = getattr(self.reader, "tar_state", None)  # timm keeps archives open
        for archive in state.values() if isinstance(state, dict) else [state]:
            if archive is not None and archive.tf is not None:
                archive.tf.close()
                archive.reset()


def open_images(
    dataset: "str | Dataset[Any]",
    data_dir: str | Path | None = None,
    split: str = "train",
    *,
    download: bool = False,
    channels: int = 3,
) -> Images:
    """The images of `split`.

    dataset: '' is a folder or a .tar of class folders at `data_dir`; for a folder, `data_dir/split` if it is
    there (with timm's synonyms), else `data_dir` itself. 'torch/NAME', 'hfds/NAME' and the like are timm's
    specs. A torch `Dataset` gives (image, label) per item, the image being a PIL image, a uint8 tensor (c, h,
    w), or a floating point tensor that is already normalised.

    Raises InputError where there is nothing to read.
    """
    if not isinstance(dataset, str):
        return _from_dataset(dataset)
    prefix, _, _ = dataset.partition("/")
    if prefix not in ("", "torch", "hfds"):
        raise InputError(
            f"dataset {dataset!r} cannot be read row by row; allowed: '' (folder or .tar), torch/NAME, "
            "hfds/NAME, or a torch Dataset from Python"
        )
    if prefix == "":
        _check_folder(data_dir, split)
    if prefix == "torch":
        _check_torch_split(dataset, split)
    from timm.data import create_dataset

    try:
        made = create_dataset(
            dataset,
            root=None if data_dir is None else str(data_dir),
            split=split,
            is_training=False,
            download=download,
            input_img_mode="L" if channels == 1 else "RGB",
        )
    except ImportError as error:
        raise InputError(
            f"dataset {dataset!r} needs another package: {error}; pip install 'probecache[hf]'"
        ) from error
    except Exception as error:
        where = f" in {str(data_dir)!r}" if data_dir else ""
        reason = (str(error).strip() or "nothing found").split("\n")[0]
        raise InputError(
            f"dataset {dataset!r}, split {split!r}{where} cannot be opened: {type(error).__name__}: {reason}"
        ) from error
    reader = getattr(made, "reader", None)
    return _from_dataset(made, dataset) if reader is None else _from_reader(reader, dataset, channels)


def _from_reader(reader: Any, spec: str, channels: int) -> Images:
    classes = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None) or {}
    targets = getattr(reader, "targets", None)
    if targets is None and spec == "":
        targets = [target for _, target in reader.samples]
    labels = None if targets is None else np.asarray(targets, dtype=np.int64)
    # A Hugging Face data set would have to touch every row to tell its path: its rows go by number.
    names = tuple(reader.filenames()) if spec == "" else tuple(str(i) for i in range(len(reader)))
    if not names:
        raise InputError(f"dataset {spec!r} is empty")
    return Images(_Files(reader, "L" if channels == 1 else "RGB"), spec, names, labels, _ordered(classes))


def _from_dataset(dataset: Any, spec: str | None = None) -> Images:
    name = spec or f"{type(dataset).__module__}.{type(dataset).__qualname__}"
    if isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    ):
        raise InputError(f"dataset {name} has no fixed order; give one with __len__ and __getitem__")
    count = len(dataset)
    if count == 0:
        raise InputError(f"dataset {name} is empty")
    targets = dataset.tensors[1] if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1 else None
    targets = getattr(dataset, "targets", None) if targets is None else targets
    labels = None
    if targets is not None and len(targets) == count:
        labels = np.asarray(torch.as_tensor(targets).cpu().numpy(), dtype=np.int64)
    files = getattr(dataset, "samples", None)
    if isinstance(files, list) and len(files) == count and isinstance(files[0], tuple | list):
        root = getattr(dataset, "root", "")
        names = tuple(_inside(str(entry[0]), root) for entry in files)
    else:
        names = tuple(str(i) for i in range(count))
    classes = getattr(dataset, "class_to_idx", None)
    named = _ordered(classes) if classes else tuple(str(c) for c in getattr(dataset, "classes", ()))
    return Images(dataset, name, names, labels, named)


def _ordered(classes: dict[str, int]) -> tuple[str, ...]:
    """Names by label number; a number that no name has is named by itself."""
    if not classes:
        return ()
    named = {number: name for name, number in classes.items()}
    return tuple(str(named.get(i, i)) for i in range(max(named) + 1))


def _inside(path: str, root: Any) -> str:
    try:
        return Path(path).relative_to(root).as_posix()
    except (ValueError, TypeError):
        return path


def _check_folder(data_dir: str | Path | None, split: str) -> None:
    if data_dir is None or str(data_dir) == "":
        raise InputError(
            "no data given; name a folder or .tar of class folders with --data-dir, or a --dataset"
        )
    root = Path(data_dir)
    if root.is_file() and root.suffix == ".tar":
        return
    if not root.is_dir():
        near = close_names(root.name, [p.name for p in root.parent.iterdir()]) if root.parent.is_dir() else ""
        raise InputError(
            f"--data-dir {str(root)!r} is neither a folder nor a .tar file" + (f"; {near}" if near else "")
        )
    known = {name for names in SPLITS.values() for name in names}
    splits = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name in known)
    same = next((names for names in SPLITS.values() if split in names), (split,))
    # timm would read all splits as one here.
    if splits and not (root / split).is_dir() and not set(same) & set(splits):
        raise InputError(f"--data-dir {str(root)!r} has no split {split!r}; it has: {', '.join(splits)}")


def _check_torch_split(spec: str, split: str) -> None:
    from timm.data import dataset_factory

    basic = getattr(dataset_factory, "_TORCH_BASIC_DS", {})
    known = {name for names in SPLITS.values() for name in names}
    # timm takes every split that it does not know for the test split.
    if spec.split("/", 2)[-1].lower() in basic and split not in known:
        raise InputError(f"dataset {spec!r} has no split {split!r}; allowed: train, test")


def class_names(images: Images, labels: Sequence[int] | None = None) -> list[str]:
    """Names of the labels, numbers where the data set names none."""
    if images.classes or images.labels is None:
        return list(images.classes)
    return [str(i) for i in range(int(images.labels.max(initial=-1)) + 1)]
