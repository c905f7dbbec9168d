"""Small real inputs: a folder of digits, a folder of coloured noise, a tar of it."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from probecache.extract.digits import write_digits


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits") / "digits")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """24 colour images of odd sizes in three classes, as PNG; file names repeat across classes."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog", "eel"):
        (root / name).mkdir()
        for i in range(8):
            height, width = generator.integers(40, 90, 2)
            smooth = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
            image = Image.fromarray(smooth).resize((int(width), int(height)), Image.Resampling.BICUBIC)
            image.save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def photos_tar(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("tar") / "photos.tar"
    with tarfile.open(path, "w") as archive:
        for file in sorted(photos.rglob("*.png")):
            archive.add(file, file.relative_to(photos))
    return path
