"""The digest of what a data set holds: which changes it sees, and what it is compared with."""

import hashlib
import tarfile

import numpy as np
import pytest
from PIL import Image

import probecache as pc
from probecache.extract.datasets import images as module
from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.images import content_asked, digest_content
from probecache.extract.datasets.open import open_images
from probecache.store.errors import FingerprintMismatch, InputError


def bmp(path, value):
    """Pictures that all have the same size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for number in range(60):
        bmp(tmp_path / "photos" / "ab"[number % 2] / f"{number:03}.bmp", number)
    return tmp_path / "photos"


def content(data, **choices):
    return open_images("", data, choices=Choices(**choices)).content


def packed(folder, path):
    with tarfile.open(path, "w") as tar:
        tar.add(folder, ".")
    return path


def test_every_file_counts_and_the_digest_is_by_its_definition(folder):
    files = sorted(folder.rglob("*.bmp"))
    parts = b"".join(hashlib.blake2b(file.read_bytes(), digest_size=16).digest() for file in files)
    before = content(folder)
    assert before == f"all:{hashlib.blake2b(parts, digest_size=16).hexdigest()}"
    for file in files[::7]:
        kept = file.read_bytes()
        bmp(file, 200)
        assert len(file.read_bytes()) == len(kept)
        assert content(folder) != before
        file.write_bytes(kept)
    assert content(folder) == before


def test_a_folder_and_its_tar_hold_the_same(folder, tmp_path):
    assert content(folder) == content(packed(folder, tmp_path / "p.tar"))


def test_beyond_the_limits_sizes_of_all_and_bytes_of_some(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ALL_BYTES", 100)
    monkeypatch.setattr(module, "SOME_ROWS", 3)
    tar = tmp_path / "p.tar"
    before = content(folder)
    assert before.startswith("some:")
    assert content(packed(folder, tar)) == before
    unseen, size = folder / "b" / "005.bmp", (folder / "b" / "005.bmp").read_bytes()
    bmp(unseen, 99)  # of the same size and not among the three: what `--content all` is for
    assert content(folder) == before
    assert content(folder, content="all") not in (before, f"all:{before[5:]}")
    unseen.write_bytes(size + b"\0")
    assert content(folder) != before
    assert content(packed(folder, tar)) != before


def test_rows_in_runs_are_rows_in_order(monkeypatch):
    values = [bytes([i % 251]) * (i % 7) for i in range(1000)]
    one = digest_content(1000, values.__getitem__, lambda row: len(values[row]))
    monkeypatch.setattr(module, "_RUN", 7)
    assert digest_content(1000, values.__getitem__, lambda row: len(values[row])) == one
    assert digest_content(1000, values[::-1].__getitem__, lambda row: len(values[::-1][row])) != one


def test_what_cannot_be_read_counts_as_such():
    def read(row):
        if row == 3:
            raise OSError("gone")
        return b"x"

    whole = digest_content(5, lambda row: b"x", lambda row: 1)
    assert digest_content(5, read, lambda row: 1) != whole


@pytest.mark.parametrize(
    ("asked", "stored", "how"),
    [
        ("auto", None, "auto"),
        ("all", None, "all"),
        ("auto", "all:12", "all"),
        ("auto", "some:12", "auto"),
        ("auto", "12", "some"),
        ("all", "all:12", "all"),
    ],
)
def test_a_split_is_digested_as_it_was_begun(asked, stored, how):
    assert content_asked(asked, stored) == how


def test_all_that_is_asked_for_too_late_is_refused():
    with pytest.raises(InputError, match="content all: the split was begun with a digest of less"):
        content_asked("all", "some:12")
    with pytest.raises(InputError, match="unknown content 'most'; allowed: auto, all"):
        pc.extract_features("test_resnet", content="most", out="never.zarr")


def test_splits_of_before_go_on_and_see_what_they_saw(folder, tmp_path, monkeypatch):
    options = {
        "pretrained": False,
        "img_size": 32,
        "workers": 0,
        "data_dir": folder,
        "out": tmp_path / "s.zarr",
    }
    old = open_images("", folder, choices=Choices(digested="some")).content
    assert ":" not in old
    monkeypatch.setattr("probecache.extract.prepare.content_asked", lambda *_: "some")
    store = pc.extract_features("test_resnet", layers=["penultimate"], **options)
    assert store.split_info("train").data["content"] == old
    monkeypatch.undo()
    store = pc.extract_features("test_resnet", layers=["penultimate", "layer1"], **options)
    assert store.split_info("train").data["content"] == old
    bmp(folder / "a" / "000.bmp", 250)
    with pytest.raises(FingerprintMismatch, match="content"):
        pc.extract_features("test_resnet", layers=["layer2"], **options)
