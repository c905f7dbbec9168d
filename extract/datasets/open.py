"""Images in a fixed order, each with a label and a name: which reader is whose."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.decoder import Decoder
from probecache.extract.datasets.images import Images
from probecache.extract.datasets.readers.folders import open_folder
from probecache.extract.datasets.readers.huggingface import is_table, open_hub, open_table
from probecache.extract.datasets.readers.torch_dataset import open_dataset
from probecache.extract.datasets.readers.webdataset import open_shards
from probecache.store.errors import InputError, first_line

_TIMM_SPLITS = frozenset(
    ["train", "training", "val", "valid", "validation", "eval", "evaluation", "test", "testing"]
)


def open_images(
    dataset: "str | Dataset[Any]",
    data_dir: str | Path | None = None,
    split: str = "train",
    choices: Choices = Choices(),
    *,
    download: bool = False,
    in_process: bool = True,
    decoder: str = "pillow",
) -> Images:
    """The images of `split`, all of them looked at but none decoded, except a few of a torch Dataset.

    dataset: '' is a folder or a .tar of class folders at `data_dir`, with splits in it or without. 'wds/NAME'
    are WebDataset shards in `data_dir`, 'hfds/NAME' and 'hfids/NAME' Hugging Face data sets, 'torch/NAME'
    torchvision's. A torch `Dataset` gives (image, label) per item, or a mapping, the image being a PIL image,
    an array or tensor of uint8 or uint16 (c, h, w), or a floating point tensor that is already normalised; a
    `datasets.Dataset` is read as hfds/ is. `choices` decide what the data leave open; `in_process`
    False lets a process of its own read a torch Dataset's first items. `decoder` decodes the files of all but
    torch Datasets, which decode for themselves.

    Raises InputError where there is nothing to read, or it can be read in two ways, and for a `decoder`
    that is not there or has nothing to decode.
    """
    made = Decoder(decoder)
    _require_meaning(dataset, data_dir, choices)
    decodes = dataset.startswith("torch/") if isinstance(dataset, str) else not is_table(dataset)
    if decodes and decoder != "pillow":
        name = dataset if isinstance(dataset, str) else type(dataset).__name__
        raise InputError(
            f"--decoder {decoder}: {name} is a torch Dataset, which decodes for itself; leave it out"
        )
    return replace(_open(dataset, data_dir, split, choices, download, in_process), decoder=made)


def _require_meaning(dataset: "str | Dataset[Any]", data_dir: str | Path | None, choices: Choices) -> None:
    """InputError for choices that this kind of data set does not know: they would decide nothing."""
    if isinstance(dataset, str) and dataset == "":
        asked: dict[str, Any] = {"--input-key": choices.input_key, "--target-key": choices.target_key}
        what = "a folder or .tar of class folders has no columns"
    else:
        asked = {
            "--split-folders": choices.split_folders,
            "--class-from": None if choices.class_from == "auto" else choices.class_from,
        }
        what = "it is for folders and .tar files of class folders"
        if not isinstance(dataset, str):
            asked["--data-dir"] = data_dir
            what = "a Dataset is given, which knows its own images"
    for option, value in asked.items():
        if value is not None:
            raise InputError(f"{option} {value!r} has no meaning here: {what}; leave it out")


def _open(
    dataset: "str | Dataset[Any]",
    data_dir: str | Path | None,
    split: str,
    choices: Choices,
    download: bool,
    in_process: bool,
) -> Images:
    if not isinstance(dataset, str):
        if is_table(dataset):
            return open_table(dataset, "datasets.Dataset", choices)
        return open_dataset(dataset, None, choices, in_process=in_process)
    prefix, _, _ = dataset.partition("/")
    if prefix == "":
        return open_folder(data_dir, split, choices)
    if prefix == "wds":
        return open_shards(dataset, data_dir, split, choices)
    if prefix in ("hfds", "hfids"):
        return open_hub(dataset, data_dir, split, choices, download=download)
    if prefix == "torch":
        made = _make_torchvision(dataset, data_dir, split, download)
        return open_dataset(made, dataset, choices, in_process=in_process)
    if prefix == "tfds":
        raise InputError(
            f"dataset {dataset!r}: TensorFlow decodes for it, and one bad image ends its stream; convert it "
            "to shards (wds/NAME), or from Python give extract a torch Dataset over tfds.data_source(...)"
        )
    raise InputError(
        f"unknown dataset {dataset!r}; allowed: '' (folder or .tar), torch/NAME, wds/NAME, hfds/NAME, "
        "hfids/NAME, or a torch Dataset from Python; a folder goes to --data-dir"
    )


def _make_torchvision(spec: str, data_dir: str | Path | None, split: str, download: bool) -> Any:
    from timm.data import create_dataset, dataset_factory

    basic = getattr(dataset_factory, "_TORCH_BASIC_DS", {})
    # timm takes every split that it does not know for the test split.
    if spec.split("/", 2)[-1].lower() in basic and split not in _TIMM_SPLITS:
        raise InputError(f"dataset {spec!r} has no split {split!r}; allowed: train, test")
    root = None if data_dir is None else str(Path(data_dir).expanduser())
    try:
        return create_dataset(spec, root=root, split=split, is_training=False, download=download)
    except Exception as error:
        where = f" in {root!r}" if root else ""
        reason = first_line(error, "nothing found")
        raise InputError(
            f"dataset {spec!r}, split {split!r}{where} cannot be opened: {type(error).__name__}: {reason}"
        ) from error
