"""Images in a fixed order, each with a label and a name: which reader is whose."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from probecache.extract.datasets.folders import KNOWN_SPLITS, open_folder
from probecache.extract.datasets.huggingface import open_hub
from probecache.extract.datasets.images import Images, names_by_label
from probecache.extract.datasets.webdataset import open_shards
from probecache.store.errors import InputError


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
    there (with timm's synonyms), else `data_dir` itself. 'wds/NAME' are WebDataset shards in `data_dir`,
    'hfds/NAME' and 'hfids/NAME' Hugging Face data sets, 'torch/NAME' torchvision's. A torch `Dataset` gives
    (image, label) per item, the image being a PIL image, a uint8 tensor (c, h, w), or a floating point tensor
    that is already normalised.

    Raises InputError where there is nothing to read.
    """
    if not isinstance(dataset, str):
        return _from_dataset(dataset)
    mode = "L" if channels == 1 else "RGB"
    prefix, _, _ = dataset.partition("/")
    if prefix == "":
        return open_folder(data_dir, split, mode)
    if prefix == "wds":
        return open_shards(dataset, data_dir, split, mode)
    if prefix in ("hfds", "hfids"):
        return open_hub(dataset, data_dir, split, mode, download=download)
    if prefix == "torch":
        return _open_torchvision(dataset, data_dir, split, download)
    if prefix == "tfds":
        raise InputError(
            f"dataset {dataset!r}: TensorFlow decodes for it, and one bad image ends its stream; convert it "
            "to shards (wds/NAME), or from Python give extract a torch Dataset over tfds.data_source(...)"
        )
    raise InputError(
        f"unknown dataset {dataset!r}; allowed: '' (folder or .tar), torch/NAME, wds/NAME, hfds/NAME, "
        "hfids/NAME, or a torch Dataset from Python"
    )


def _open_torchvision(spec: str, data_dir: str | Path | None, split: str, download: bool) -> Images:
    from timm.data import create_dataset, dataset_factory

    basic = getattr(dataset_factory, "_TORCH_BASIC_DS", {})
    # timm takes every split that it does not know for the test split.
    if spec.split("/", 2)[-1].lower() in basic and split not in KNOWN_SPLITS:
        raise InputError(f"dataset {spec!r} has no split {split!r}; allowed: train, test")
    root = None if data_dir is None else str(data_dir)
    try:
        made = create_dataset(spec, root=root, split=split, is_training=False, download=download)
    except Exception as error:
        where = f" in {root!r}" if root else ""
        reason = (str(error).strip() or "nothing found").split("\n")[0]
        raise InputError(
            f"dataset {spec!r}, split {split!r}{where} cannot be opened: {type(error).__name__}: {reason}"
        ) from error
    return _from_dataset(made, spec)


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
    named = names_by_label(classes) if classes else tuple(str(c) for c in getattr(dataset, "classes", ()))
    return Images(dataset, name, names, labels, named)


def _inside(path: str, root: Any) -> str:
    try:
        return Path(path).relative_to(root).as_posix()
    except (ValueError, TypeError):
        return path
