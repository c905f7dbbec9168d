"""What each reader makes of inputs that fail elsewhere: probecache, timm, torchvision and datasets.

    python -m benchmarks.extract.inputs

Prints for each input and reader the rows, the classes and the mean grey of the first images; the table of
docs/extract.md was written from it.
"""

import contextlib
import io
import os
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SEEN = 3  # images per input whose mean is printed


def main() -> None:
    warnings.simplefilter("ignore")
    readers = {"probecache": ours, "timm": by_timm, "torchvision": by_torchvision, "datasets": by_datasets}
    with tempfile.TemporaryDirectory() as folder:
        for what, data, split in inputs(Path(folder)):
            for name, read in readers.items():
                try:
                    with contextlib.redirect_stdout(io.StringIO()):
                        found = read(data, split)
                except Exception as error:  # a reader's refusal is what is looked for
                    found = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
                print(f"{what:<30} {name:<12} {found}".replace(folder, "..."), flush=True)


def inputs(root: Path) -> Iterator[tuple[str, Path, str]]:
    """(what is odd about it, folder or .tar, split)."""
    yield "a class called train", images(root / "a", "bus/0.png", "car/1.png", "train/2.png"), "train"
    yield (
        "Training_Set, Test_Set",
        images(root / "b", "Training_Set/cat/0.png", "Test_Set/cat/1.png"),
        "train",
    )
    splits = images(root / "c", "train/cat/0.png", "train/dog/1.png", "test/cat/2.png")
    yield "a .tar of splits", packed(splits), "test"
    (root / "d" / "cat").mkdir(parents=True)
    for kind in ("jpg", "webp", "bmp", "tif", "gif"):
        Image.new("RGB", (9, 9), "red").save(root / "d" / "cat" / f"x.{kind}")
    yield "jpg, webp, bmp, tif, gif", root / "d", "train"
    hidden = ("cat/.ipynb_checkpoints/0.png", "__MACOSX/cat/._0.png")
    yield "hidden folders", images(root / "e", "cat/0.png", "dog/1.png", *hidden), "train"
    yield "folders of one name", images(root / "f", "animals/bass/0.png", "instruments/bass/1.png"), "train"
    yield "an image beside classes", images(root / "g", "cat/0.png", "dog/1.png", "over.png"), "train"
    yield "a name that is no UTF-8", images(root / "h", b"cat/M\xfcnchen.png", "dog/0.png"), "train"
    (images(root / "i", "cat/0.png", "dog/1.png") / "dog" / "up").symlink_to(root / "i")
    yield "a link to a folder above", root / "i", "train"
    (images(root / "j", "cat/0.png", "dog/1.png") / "dog" / "gone.png").symlink_to(root / "nothing")
    yield "a link to nowhere", root / "j", "train"
    os.link(images(root / "k", "cat/0.png") / "cat" / "0.png", root / "k" / "cat" / "1.png")
    yield "a hard link in a .tar", packed(root / "k"), "train"
    ramp = np.arange(400).reshape(20, 20)
    for name, values in (
        ("l/a/0.png", (ramp * 160).astype(np.uint16)),
        ("m/a/0.tif", (ramp / 399).astype("f4")),
    ):
        (root / name).parent.mkdir(parents=True)
        Image.fromarray(values).save(root / name)
    yield "16-bit grey", root / "l", "train"
    yield "floating point, 0 to 1", root / "m", "train"
    (images(root / "n", "cat/0.png", "cat/1.png") / "cat" / "0.png").write_bytes(b"")
    yield "an empty file", root / "n", "train"


def images(root: Path, *names: str | bytes) -> Path:
    """A folder of small images that all differ."""
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        with open(path, "wb") as file:
            Image.fromarray(pixels).save(file, "PNG")
    return root


def packed(folder: Path) -> Path:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        tar.add(folder, ".")
    return path


def described(count: int, classes: Sequence[str] | None, read: Callable[[int], Any], more: str = "") -> str:
    means = []
    for row in range(min(count, SEEN)):
        try:
            means.append(f"{np.asarray(read(row)).mean():.0f}")
        except Exception as error:
            means.append(type(error).__name__)
    return f"{count} rows, classes {classes}, means {', '.join(means)}{more}"


def ours(data: Path, split: str) -> str:
    from probecache.extract.datasets.decode import to_mode
    from probecache.extract.datasets.open import open_images

    found = open_images("", data, split)
    more = "".join(f"; {line}" for line in found.inventory.lines())
    return described(len(found), list(found.classes), lambda row: to_mode(found.read(row)[0], "RGB"), more)


def by_timm(data: Path, split: str) -> str:
    from timm.data import create_dataset

    found = create_dataset("", root=str(data), split=split, is_training=False)
    classes = getattr(found.reader, "class_to_idx", None) or found.reader.class_name_to_idx
    return described(len(found), sorted(classes), lambda row: found[row][0].convert("RGB"))


def by_torchvision(data: Path, split: str) -> str:
    from torchvision.datasets import ImageFolder

    found = ImageFolder(data / split if (data / split).is_dir() else data)
    return described(len(found), found.classes, lambda row: found[row][0])


def by_datasets(data: Path, split: str) -> str:
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        found = datasets.load_dataset("imagefolder", data_dir=str(data), split=split, cache_dir=cache)
        names = getattr(found.features.get("label"), "names", None)
        return described(len(found), names, lambda row: found[row]["image"].convert("RGB"))


if __name__ == "__main__":
    main()
