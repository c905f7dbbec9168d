"""Archives: links, repeated names, archives within; headers that lie are refused at once."""

import io
import struct
import tarfile
import time

import numpy as np
import pytest

from probecache.extract.datasets.open import open_images
from probecache.store.errors import InputError
from tests.extract.datasets.test_inventory import fill, image, pack


def add(tar, name, content=b"", kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), kind, link
    tar.addfile(member, io.BytesIO(content))


def pixels(images):
    return {name: np.asarray(images.read(row)[0]).tobytes() for row, name in enumerate(images.names)}


def test_links_are_the_images_that_they_name(tmp_path):
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "cat/early.png", kind=tarfile.SYMTYPE, link="../dog/1.png")  # its file comes later
        add(tar, "cat/0.png", image(0))
        add(tar, "dog/1.png", image(1))
        add(tar, "dog/hard.png", kind=tarfile.LNKTYPE, link="cat/0.png")
        add(tar, "dog/soft.png", kind=tarfile.SYMTYPE, link="hard.png")
        add(tar, "dog/gone.png", kind=tarfile.SYMTYPE, link="nothing.png")
        add(tar, "dog/round.png", kind=tarfile.SYMTYPE, link="round.png")
        add(tar, "eel", kind=tarfile.SYMTYPE, link="cat")
        add(tar, "dog/pipe.png", kind=tarfile.FIFOTYPE)
        add(tar, "../out.png", image(3))
    images = open_images("", path)
    found = pixels(images)
    assert list(found) == ["cat/0.png", "cat/early.png", "dog/1.png", "dog/hard.png", "dog/soft.png"]
    assert found["cat/early.png"] == found["dog/1.png"]
    assert found["dog/hard.png"] == found["dog/soft.png"] == found["cat/0.png"]
    left = {reason: names for reason, (_, names) in images.inventory.left_out.items()}
    assert left == {
        "links to nowhere": ["dog/gone.png", "dog/round.png"],
        "links to folders inside the archive": ["eel"],
        "no regular files": ["dog/pipe.png"],
        "names that point out of the archive": ["../out.png"],
    }


def test_of_one_name_the_last_counts_as_in_unpacking(tmp_path):
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "cat/0.png", image(0))
        add(tar, "./cat/0.png", image(5))
        add(tar, "dog/0.png", image(1))
    images = open_images("", path)
    assert len(images) == 2
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert pixels(images) == pixels(open_images("", tmp_path / "unpacked"))
    assert "files that a later one of the same name replaces" in images.inventory.left_out


def test_an_archive_of_class_archives(tmp_path):
    for name in ("n01", "n02"):
        pack(fill(tmp_path / name, f"{name}_1.png", f"{name}_2.png"), tmp_path / f"{name}.tar")
    path = tmp_path / "all.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("n01", "n02"):
            tar.add(tmp_path / f"{name}.tar", f"{name}.tar")
    images = open_images("", path)
    assert images.classes == ("n01", "n02")
    assert images.names == ("n01/n01_1.png", "n01/n01_2.png", "n02/n02_1.png", "n02/n02_2.png")
    assert pixels(images)["n02/n02_2.png"] == pixels(open_images("", tmp_path / "n02"))["n02_2.png"]


def header(size_field, kind=b"0", name=b"cat/0.png"):
    """512 bytes of a ustar header with any 12 bytes for its size, and the right checksum."""
    raw = bytearray(512)
    raw[: len(name)] = name
    raw[100:108], raw[108:116], raw[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    raw[124:136] = size_field
    raw[136:148] = b"00000000000\0"
    raw[156:157] = kind
    raw[257:265] = b"ustar\x0000"
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


TERABYTE = b"\x80\0\0\0" + struct.pack(">Q", 1 << 40)
NEGATIVE = b"\xff" * 4 + struct.pack(">q", -(1 << 40))
BACKWARDS = b"\xff" * 4 + struct.pack(">q", -512)


@pytest.mark.parametrize("dataset", ["", "wds/x"])
@pytest.mark.parametrize("kind", [b"0", b"1", b"2", b"5", b"L", b"K", b"x", b"g", b"S", b"7", b"Z"])
@pytest.mark.parametrize("size", [TERABYTE, NEGATIVE, BACKWARDS, b"7" * 12])
def test_headers_that_claim_what_cannot_be_are_refused_at_once(tmp_path, dataset, kind, size):
    path = tmp_path / "train.tar"
    good = header(b"00000000005\0") + b"hello".ljust(512, b"\0")
    path.write_bytes(good + header(size, kind) + bytes(512) + bytes(1024))
    start = time.monotonic()
    with pytest.raises(InputError, match=r"train\.tar|archive") as caught:
        open_images(dataset, path, "train")
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)


def test_a_size_in_an_extended_header_is_not_believed_either(tmp_path):
    for size in (1 << 40, -512, -(1 << 40)):
        record = f" size={size}\n"
        length = len(record) + 2
        content = f"{length}{record}".encode()
        path = tmp_path / "train.tar"
        head = header(b"%011o\0" % len(content), b"x") + content.ljust(512, b"\0")
        path.write_bytes(head + header(b"00000000005\0") + b"hello".ljust(512, b"\0") + bytes(1024))
        start = time.monotonic()
        with pytest.raises(InputError):
            open_images("", path)
        assert time.monotonic() - start < 5


def test_a_thousand_headers_before_a_file_end(tmp_path):
    path = tmp_path / "train.tar"
    name = b"a".ljust(512, b"\0")
    path.write_bytes((header(b"00000000001\0", b"L") + name) * 3000 + bytes(1024))
    with pytest.raises(InputError, match="whole, uncompressed"):
        open_images("", path)


def test_a_sparse_file_of_terabytes_is_empty(tmp_path):
    path = tmp_path / "train.tar"
    with open(path, "wb") as file:
        file.truncate(3 << 40)
    with pytest.raises(InputError, match="no images"):
        open_images("", path)
