"""scikit-learn's bundled handwritten digits as a folder of images: real data that needs no network."""

import os
import shutil
from pathlib import Path

from probecache.store.errors import InputError
from probecache.store.storage.disk_errors import writing

COUNT = 1797
TEST_SHARE = 0.25
SEED = 0


def write_digits(folder: str | Path) -> Path:
    """Write the 1,797 digits (8 x 8 pixels) as `folder/train/0..9/NNNN.png` and `folder/test/0..9/NNNN.png`.

    The split is stratified, 1,347 to 450, under a fixed seed; NNNN is the digit's number in scikit-learn's
    order. A folder that already holds them is left as it is; InputError for one that holds anything else.
    Returns the folder.
    """
    folder = Path(folder)
    if len(list(folder.glob("t*/[0-9]/*.png"))) == COUNT:
        return folder
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{folder} holds other files than the {COUNT:,} digits: name another folder, or remove it"
        )
    # Written beside its place and then renamed: a folder that is there is a whole one.
    half = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        with writing(half):
            _write_images(half)
            half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder


def _write_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(
        np.arange(COUNT), test_size=TEST_SHARE, stratify=digits.target, random_state=SEED
    )
    for split, rows in (("train", train), ("test", test)):
        for row in np.sort(rows):
            place = folder / split / str(digits.target[row])
            place.mkdir(parents=True, exist_ok=True)
            # Grey values run from 0 to 16.
            grey = (digits.images[row] * 255 / 16).round().astype(np.uint8)
            Image.fromarray(grey).save(place / f"{row:04d}.png")
