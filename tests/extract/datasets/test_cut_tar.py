"""A .tar that lost its end, or a header in its middle, is refused: tarfile reads it as a shorter one."""

import tarfile

import pytest

from probecache.extract.datasets.open import open_images
from probecache.extract.datasets.readers.tar import BLOCK
from probecache.store.errors import InputError


def headers(path):
    with tarfile.open(path) as tar:
        return [member.offset for member in tar.getmembers()], tar.offset


def damaged(content, offsets, end):
    middle = offsets[len(offsets) // 2]
    yield "cut inside a header", content[: middle + 100]
    yield "cut on a border", content[:middle]
    yield "cut before the end mark", content[:end]
    yield "a flipped byte in a header", content[:middle] + b"\xff" + content[middle + 1 :]
    yield "cut inside a file", content[: middle + BLOCK + 10]
    yield "nothing of it", b"hello"
    yield "two archives, one behind the other", content + content


@pytest.mark.parametrize("dataset", ["", "wds/photos.tar"])
def test_a_tar_that_is_not_whole_is_refused(photos_tar, tmp_path, dataset):
    content = photos_tar.read_bytes()
    other = tmp_path / "photos.tar"
    where = other if dataset == "" else tmp_path
    other.write_bytes(content)
    assert len(open_images(dataset, where, "train")) > 1
    for what, kept in damaged(content, *headers(photos_tar)):
        other.write_bytes(kept)
        with pytest.raises(InputError, match="must be a whole, uncompressed") as caught:
            pytest.fail(f"{what}: {len(open_images(dataset, where, 'train'))} images")
        assert "\n" not in str(caught.value)


def test_files_behind_the_last_image_do_not_matter(photos_tar, tmp_path):
    other = tmp_path / "photos.tar"
    other.write_bytes(photos_tar.read_bytes())
    (tmp_path / "notes.txt").write_text("x" * 3000)
    with tarfile.open(other, "a") as tar:
        tar.add(tmp_path / "notes.txt", "z" * 120 + "/notes.txt")  # a long name takes headers of its own
    assert open_images("", other, "train").names == open_images("", photos_tar, "train").names
