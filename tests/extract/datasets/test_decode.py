"""The same pixels through every reader, whatever a picture's mode; and rows that fail, one or all of them."""

import errno
import io
import os
import tarfile
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from probecache.extract.datasets.decode import from_array, to_mode
from probecache.extract.datasets.open import open_images
from probecache.extract.datasets.preprocess import Preprocess
from probecache.extract.pipeline.loader import batch_ranges, open_batches
from probecache.extract.run import extract_features
from probecache.store.errors import InputError, ProbecacheError
from probecache.store.layout import FAILED, OK
from tests.extract.datasets.test_webdataset import add

SIZE = 16
SMALL = Preprocess((3, SIZE, SIZE), "bilinear", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
RAMP = np.add.outer(np.arange(SIZE) * 9, np.arange(SIZE) * 7)
COLOUR = np.stack([RAMP, RAMP.T, 255 - RAMP], -1).astype(np.uint8)


def pictures():
    rgb = Image.fromarray(COLOUR)
    kinds = {mode: rgb.convert(mode) for mode in ("RGB", "L", "1", "LA", "RGBA", "CMYK", "P")}
    kinds["palette with transparency"] = rgb.quantize(16)
    kinds["palette with transparency"].info["transparency"] = bytes(range(0, 160, 10))
    kinds["16 bit"] = Image.fromarray((RAMP * 257).astype(np.uint16))
    kinds["16 bit, pgm"] = Image.fromarray((RAMP * 257).astype(np.int32))
    kinds["float 0 to 1"] = Image.fromarray((RAMP / 255).astype(np.float32))
    kinds["float 0 to 255"] = Image.fromarray(RAMP.astype(np.float32))
    kinds["float depth"] = Image.fromarray((RAMP * 9.0).astype(np.float32))
    return kinds


FILES = {"CMYK": "TIFF", "16 bit, pgm": "PPM", "LA": "PNG"} | dict.fromkeys(
    ("float 0 to 1", "float 0 to 255", "float depth"), "TIFF"
)


def encoded():
    files = {}
    for name, picture in pictures().items():
        out = io.BytesIO()
        picture.save(out, FILES.get(name, "PNG"))
        files[name] = out.getvalue()
    return files


class Opened(Dataset):
    """Pictures as Image.open gives them, not decoded yet."""

    def __init__(self, contents):
        self.contents = contents

    def __len__(self):
        return len(self.contents)

    def __getitem__(self, row):
        return Image.open(io.BytesIO(self.contents[row])), 0


def every_reader(contents, tmp_path):
    """The same files by folder, tar, shards, torch Dataset and, where it is installed, `datasets`."""
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for row, content in enumerate(contents):
        (tmp_path / "photos" / "a" / f"{row}.png").write_bytes(content)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar, tarfile.open(tmp_path / "s.tar", "w") as shard:
        for row, content in enumerate(contents):
            add(tar, f"a/{row}.png", content)
            add(shard, f"{row:05d}.png", content)
            add(shard, f"{row:05d}.cls", b"0")
    yield "folder", open_images("", tmp_path / "photos")
    yield "tar", open_images("", tmp_path / "photos.tar")
    yield "shards", open_images("wds/s.tar", tmp_path)
    yield "torch", open_images(Opened(contents))
    try:
        import datasets
    except ImportError:
        return
    table = {"image": [{"bytes": c, "path": None} for c in contents], "label": [0] * len(contents)}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    yield "datasets", open_images(datasets.Dataset.from_dict(table, features=features))


def decoded(images):
    batches = list(open_batches(images, SMALL, batch_ranges([(0, len(images))], 5)))
    return torch.cat([b.images for b in batches]), np.concatenate([b.status for b in batches])


def test_every_mode_gives_the_same_pixels_through_every_reader(tmp_path):
    files = encoded()
    by_reader = {name: decoded(images) for name, images in every_reader(list(files.values()), tmp_path)}
    assert len(by_reader) >= 4
    first, status = by_reader["folder"]
    for pixels, states in by_reader.values():
        assert torch.equal(pixels, first)
        assert np.array_equal(states, status)
    assert [name for name, state in zip(files, status, strict=True) if state == FAILED] == ["float depth"]
    grey = np.repeat(RAMP[None], 3, 0).astype(np.uint8)
    for name, row in zip(files, first.numpy(), strict=True):
        want = {"RGB": COLOUR, "RGBA": COLOUR}.get(name)
        if want is not None:
            assert np.array_equal(row, want.transpose(2, 0, 1))
        elif name.startswith(("16 bit", "float 0")):  # scaled, not clipped to white
            assert np.array_equal(row, grey), name
        elif name != "float depth":
            with Image.open(io.BytesIO(files[name])) as picture, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's about transparency
                assert np.array_equal(row, np.asarray(picture.convert("RGB")).transpose(2, 0, 1)), name


def test_values_without_a_range_are_not_guessed():
    for values in (RAMP * -1.0, RAMP * 300.0, np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match="has no known range"):
            to_mode(Image.fromarray(values.astype(np.float32)), "RGB")
    with pytest.raises(ValueError, match="32-bit integers from 0 to"):
        to_mode(Image.fromarray((RAMP * 257).astype(np.int32)), "RGB")
    with pytest.raises(ValueError, match="LAB"):
        to_mode(Image.new("LAB", (4, 4)), "RGB")
    assert to_mode(Image.fromarray(COLOUR), "L").mode == "L"


def test_arrays_of_either_order_but_none_that_could_be_both():
    assert np.array_equal(np.asarray(from_array(COLOUR)), COLOUR)
    assert np.array_equal(np.asarray(from_array(COLOUR.transpose(2, 0, 1))), COLOUR)
    assert from_array(COLOUR[..., 0]).mode == from_array(COLOUR[..., :1]).mode == "L"
    assert np.array_equal(np.asarray(from_array(COLOUR.astype(np.uint16) * 257)), COLOUR)
    for shape in ((3, 16, 3), (2, 16, 16), (1, 3, 16, 16)):
        with pytest.raises(ValueError, match=r"give .*channels, h, w"):
            from_array(np.zeros(shape, np.uint8))


def test_exif_does_not_turn_an_image_as_in_timm(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    (tmp_path / "a").mkdir()
    Image.fromarray(COLOUR).save(tmp_path / "a" / "0.png", exif=exif)
    assert np.array_equal(decoded(open_images("", tmp_path))[0][0], COLOUR.transpose(2, 0, 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_bombs_truncated_and_empty_files_are_failed_rows_in_whole_batches(tmp_path, workers):
    good = encoded()["RGB"]
    bomb = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(bomb, "PNG")
    bad = [bomb.getvalue(), good[:60], b"", b"not an image", good[:-30]]
    contents = [*bad, *bad[:2], good]
    for name, images in every_reader(contents, tmp_path):
        batches = list(open_batches(images, SMALL, batch_ranges([(0, 8)], 3), workers=workers))
        status = np.concatenate([b.status for b in batches])
        assert list(status) == [FAILED] * 7 + [OK], name
        reasons = {row: reason for b in batches for row, reason in b.errors.items()}
        assert sorted(reasons) == list(range(7))
        assert "DecompressionBomb" in reasons[0]
        assert all(reason and "\n" not in reason for reason in reasons.values())


class Blinking(Dataset):
    """Images of which one cannot be opened for as long as the machine has no more files."""

    def __init__(self, number):
        self.error = OSError(number, os.strerror(number))

    def __len__(self):
        return 6

    def __getitem__(self, row):
        if row == 4 and self.error is not None:
            raise self.error
        return torch.full((3, SIZE, SIZE), row, dtype=torch.uint8), row % 2


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.ESTALE])
@pytest.mark.parametrize("content", ["all", "auto"])
def test_a_machine_without_files_fails_no_image_for_good(tmp_path, monkeypatch, number, content):
    images = Blinking(number)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    more = {"layers": ["1"], "out": tmp_path / "s", "mean": 0.5, "std": 0.5, "device": "cpu", "workers": 0}
    with pytest.raises(InputError, match=r"image 4 cannot be read now .*the same command continues"):
        extract_features(model, images, content=content, **more)
    images.error = None
    store = extract_features(model, images, content=content, **more)
    assert (store.status("train") == OK).all()


class Floats(Dataset):
    """Normalised images, of which whole chunks cannot be read."""

    def __init__(self, bad, pixels=()):
        self.bad, self.pixels = set(bad), set(pixels)

    def __len__(self):
        return 70

    def __getitem__(self, row):
        if row in self.bad:
            raise OSError("gone")
        if row in self.pixels:
            return torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), 0
        return torch.full((3, SIZE, SIZE), row / 7), 0


def test_normalised_images_keep_their_values_beside_chunks_that_fail():
    batch = next(open_batches(open_images(Floats(range(33))), SMALL, [range(70)]))
    assert list(batch.status) == [FAILED] * 33 + [OK] * 37
    assert batch.images.dtype == torch.float32
    assert torch.equal(batch.images[33:, 0, 0, 0], torch.arange(33, 70) / 7)


@pytest.mark.parametrize("pixels", [[40], [2], [69]])
@pytest.mark.parametrize("workers", [0, 1])
def test_pixels_and_normalised_images_are_not_mixed(pixels, workers):
    batches = open_batches(open_images(Floats([], pixels)), SMALL, [range(70)], workers=workers)
    with pytest.raises(InputError, match="give one of them") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


def test_whole_numbers_that_are_no_pixels_are_refused():
    data = TensorDataset(torch.zeros(4, 3, SIZE, SIZE, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match=r"torch.int64: give uint8 or uint16"):
        list(open_batches(open_images(data), SMALL, [range(4)]))


def test_an_extraction_of_nothing_but_failures_says_so(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "photos" / "a" / f"{i}.png").write_bytes(b"")
    options = {"data_dir": tmp_path / "photos", "out": tmp_path / "s.zarr", "pretrained": False, "workers": 0}
    with pytest.raises(
        ProbecacheError, match=r"none of the images .* 'a/0.png': ValueError|UnidentifiedImage"
    ):
        extract_features("test_resnet", **options)
    store = extract_features("test_resnet", **options, allow_failed=True)
    assert (store.status("train") == FAILED).all()
