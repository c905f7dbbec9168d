"""WebDataset shards: timm's order and labels where all is well, rows that stay in place where it is not."""

import gc
import io
import json
import re
import tarfile
import warnings

import numpy as np
import pytest
from PIL import Image

from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.open import open_images
from probecache.extract.run import extract_features
from probecache.store.errors import InputError, ProbecacheError
from probecache.store.layout import FAILED

SIZES = (7, 5, 8)
MARK = b"\xef\xbb\xbf"  # what editors put before UTF-8


def png(number):
    out = io.BytesIO()
    generator = np.random.default_rng(number)
    Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_shards(root, sizes=SIZES, broken=(), info=True):
    """train-0000.tar and so on: images, labels, a JSON side file; the images in `broken` are cut short."""
    root.mkdir()
    number = 0
    for shard, size in enumerate(sizes):
        with tarfile.open(root / f"train-{shard:04d}.tar", "w") as tar:
            for _ in range(size):
                image = png(number)
                add(tar, f"{number:05d}.cls", str(number % 3).encode())
                add(tar, f"{number:05d}.png", image[:90] if number in broken else image)
                add(tar, f"{number:05d}.json", json.dumps({"fine": number % 4}).encode())
                number += 1
    if info:
        split = {
            "name": "train",
            "num_samples": number,
            "filenames": [f"train-{i:04d}.tar" for i in range(len(sizes))],
            "shard_lengths": list(sizes),
        }
        (root / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    return root


def test_order_labels_and_pixels_are_timms(tmp_path):
    pytest.importorskip("webdataset", reason="the package webdataset, which timm's reader needs, is missing")
    from timm.data import create_dataset

    root = write_shards(tmp_path / "shards")
    images = open_images("wds/x", root, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves the last shard open
        theirs = list(create_dataset("wds/x", root=str(root), split="train", is_training=False))
        gc.collect()
    assert len(images) == len(theirs) == 20
    for row, (image, label) in enumerate(theirs):
        mine, mine_label = images.read(row)
        assert np.array_equal(np.asarray(mine), np.asarray(image))
        assert mine_label == label == images.labels[row]


def test_rows_are_named_by_shard_and_key_however_the_shards_are_found(tmp_path):
    root = write_shards(tmp_path / "shards")
    bare = write_shards(tmp_path / "bare", info=False)
    names = [f"train-0000.tar/{i:05d}" for i in range(7)]
    for images in (
        open_images("wds/x", root, "train"),
        open_images("wds/x", bare, "train"),
        open_images("wds/train-*.tar", bare, "any"),
        open_images("wds/train-{0000..0002}.tar", bare, "any"),
    ):
        assert len(images) == 20
        assert list(images.names[:7]) == names
        assert len(set(images.names)) == 20
    assert list(open_images("wds/x", bare / "train-0000.tar").names) == names
    info = json.loads((root / "_info.json").read_text())
    info["splits"]["train"]["alt_label"] = "fine"
    (root / "_info.json").write_text(json.dumps(info))
    assert list(open_images("wds/x", root, "train").labels) == [i % 4 for i in range(20)]


def test_an_unreadable_image_keeps_its_row_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    good = write_shards(tmp_path / "good")
    bad = write_shards(tmp_path / "bad", broken=(3, 11))
    options = {"pretrained": False, "device": "cpu", "shard_rows": 4, "batch_size": 4, "workers": 2}
    whole = extract_features("test_resnet", "wds/x", data_dir=good, out=tmp_path / "good.zarr", **options)
    out = tmp_path / "bad.zarr"
    extract_features(
        "test_resnet", "wds/x", data_dir=bad, out=out, rows=(8, 12), allow_failed=True, **options
    )
    with pytest.raises(ProbecacheError, match=r"2 of 20 images .* first 'train-0000.tar/00003'"):
        extract_features("test_resnet", "wds/x", data_dir=bad, out=out, **options)
    store = extract_features("test_resnet", "wds/x", data_dir=bad, out=out, allow_failed=True, **options)
    status = store.status("train")
    assert list(np.flatnonzero(status == FAILED)) == [3, 11]
    rows = status != FAILED
    assert np.array_equal(
        store.matrix("train", "penultimate")[rows], whole.matrix("train", "penultimate")[rows]
    )
    assert list(store.samples("train")) == list(whole.samples("train"))
    assert np.array_equal(store.labels("train"), whole.labels("train"))


def test_samples_without_a_label_or_an_image(tmp_path):
    path = tmp_path / "train.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "a.jpeg", png(0))
        add(tar, "b.cls", b"1")
        add(tar, "b.txt", b"a caption")
        add(tar, "c.seg.png", png(1))
        add(tar, "c.png", png(2))
        add(tar, "c.cls", b"2\n")
    images = open_images("wds/x", tmp_path, "train")
    assert list(images.labels) == [-1, 1, 2]
    assert np.array_equal(np.asarray(images.read(2)[0]), np.asarray(Image.open(io.BytesIO(png(2)))))
    assert images.read(0)[0].size == (48, 40)
    with pytest.raises(ValueError, match="empty, or missing"):
        images.read(1)


def test_what_cannot_be_read_by_row_is_said_in_one_line(tmp_path):
    root = write_shards(tmp_path / "shards")
    cut = write_shards(tmp_path / "cut", info=False)
    content = (cut / "train-0001.tar").read_bytes()
    (cut / "train-0001.tar").write_bytes(content[: len(content) // 2 + 100])
    fewer = write_shards(tmp_path / "fewer")
    (fewer / "train-0001.tar").write_bytes((fewer / "train-0000.tar").read_bytes())
    worded = tmp_path / "worded.tar"
    with tarfile.open(worded, "w") as tar:
        for name, label in (("a", b"cat"), ("b", b"1")):
            add(tar, f"{name}.cls", label)
            add(tar, f"{name}.png", png(0))
    gz = tmp_path / "z.tar"
    with tarfile.open(gz, "w:gz") as tar:
        add(tar, "a.png", png(0))
    for spec, data_dir, split, words in [
        ("wds/x", None, "train", "needs data_dir"),
        ("wds/x", "https://example.org/shards", "train", "fetch them first"),
        ("wds/x", tmp_path / "nothing", "train", "neither a folder"),
        ("wds/x", root, "test", "its info file has the splits train"),
        ("wds/x", cut, "test", "train-0000.tar, train-0001.tar, train-0002.tar"),
        ("wds/no-*.tar", cut, "train", "no shard 'no-*.tar'"),
        ("wds/x", cut, "train", "whole, uncompressed .tar"),
        ("wds/x", fewer, "train", "says 20 samples for split 'train', the 3 shards"),
        ("wds/x", worded, "train", "label 'cat' is not a whole number, but others are numbers"),
        ("wds/x", gz, "train", "uncompressed"),
        ("tfds/mnist", root, "train", "tfds.data_source"),
    ]:
        with pytest.raises(InputError, match=re.escape(words)) as caught:
            open_images(spec, data_dir, split)
        assert "\n" not in str(caught.value)


def shard(path, *files):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name, content in files:
            add(tar, name, content)
    return path


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a.png", "b.png", "a.cls", "b.cls"), "sample 'a': its files are not neighbours"),
        (("IMG.001.png", "IMG.002.png"), "sample 'IMG': its images are .001.png, .002.png"),
        (("photo.v2.png", "photo.cls"), "sample 'photo': its images are .v2.png"),
        (("a.png", "a.PNG"), "'a.PNG' twice"),
    ],
)
def test_names_that_make_other_samples_than_meant_are_refused(tmp_path, names, words):
    path = shard(
        tmp_path / "train.tar", *((n, b"1" if n.endswith("cls") else png(i)) for i, n in enumerate(names))
    )
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        open_images("wds/x", path)
    assert "\n" not in str(caught.value)


def test_what_is_no_sample_is_counted_and_names_are_printable(tmp_path):
    path = shard(
        tmp_path / "train.tar",
        ("._0.png", b"apple"), ("0.png", png(0)), ("0.seg.png", png(9)), ("0.jpg", png(1)),
        ("README", b"text"), ("M\xfcnchen.tif", png(2)), ("2.cls", b"1"),
    )  # fmt: skip
    images = open_images("wds/x", path)
    assert images.names == ("train.tar/0", "train.tar/M\\xfcnchen", "train.tar/2")
    assert np.array_equal(np.asarray(images.read(0)[0]), np.asarray(Image.open(io.BytesIO(png(1)))))
    left = {reason: names for reason, (_, names) in images.inventory.left_out.items()}
    assert left == {
        "hidden or system files": ["._0.png"],
        "files without a suffix": ["README"],
        "samples without an image (their rows are marked failed)": ["train.tar/2"],
    }
    assert images.inventory.notes == [
        "samples hold several images: of jpg, png, jpg is taken",
        "2 of 3 samples have no label: they are unlabelled (-1)",
    ]


def test_labels_as_text_become_classes_and_marks_of_editors_are_no_part_of_them(tmp_path):
    texts = (MARK + b"dog\r\n", b"cat", b" dog \n")
    files = [pair for i, text in enumerate(texts) for pair in ((f"{i}.cls", text), (f"{i}.png", png(i)))]
    images = open_images("wds/x", shard(tmp_path / "train.tar", *files))
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [1, 0, 1]
    files = [
        (f"{i}.{k}", c)
        for i, t in enumerate((MARK + b"2\r\n", b"-1"))
        for k, c in (("cls", t), ("png", png(i)))
    ]
    assert open_images("wds/x", shard(tmp_path / "n.tar", *files)).labels.tolist() == [2, -1]
    for bad in (b"3.7", b"1_0", b"\xff\xfe1\0", b"x" * (2 << 20)):
        with pytest.raises(InputError, match="label"):
            open_images(
                "wds/x", shard(tmp_path / "b.tar", ("0.cls", bad), ("0.png", png(0)), ("1.cls", b"1"))
            )


def test_an_info_file_with_a_byte_order_mark(tmp_path):
    root = write_shards(tmp_path / "shards")
    (root / "_info.json").write_bytes(MARK + (root / "_info.json").read_bytes())
    assert len(open_images("wds/x", root, "train")) == 20
    (root / "_info.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is no info file"):
        open_images("wds/x", root, "train")


def test_other_images_under_the_same_keys_are_other_data(tmp_path):
    first, second = (
        open_images("wds/x", shard(tmp_path / f"{i}" / "train.tar", ("0.png", png(i)), ("0.cls", b"0")))
        for i in range(2)
        if (tmp_path / f"{i}").mkdir() is None
    )
    assert first.order() == second.order()
    assert first.content != second.content


def test_samples_without_a_label_are_said_and_other_files_can_be_named(tmp_path):
    files = [(f"{i}.{kind}", content) for i in range(2) for kind, content in _sample(i).items()]
    path = shard(tmp_path / "train.tar", *files)
    images = open_images("wds/x", path)
    assert list(images.labels) == [-1, -1]
    assert [
        n for n in images.inventory.notes if "2 of 2 samples have no label" in n and "img, json.FIELD" in n
    ]

    def labels(**choices):
        found = open_images("wds/x", path, choices=Choices(**choices))
        return list(found.labels), found.classes

    assert labels(target_key="json.label") == ([3, 4], ())
    assert labels(target_key="txt") == ([1, 0], ("ant", "bee"))
    assert labels(target_key="none") == ([-1, -1], ())
    read = open_images("wds/x", path, choices=Choices(input_key="img")).read(1)[0]
    assert np.array_equal(np.asarray(read), np.asarray(Image.open(io.BytesIO(png(11)))))
    for key, words in (
        ("tag", "no files of kind 'tag' (target_key); its samples hold img, json, png, txt"),
        ("json.nope", "sample '0': its .json has no field 'nope'"),
        ("img", "is neither a whole number nor text"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            labels(target_key=key)


def _sample(number):
    label = json.dumps({"label": number + 3}).encode()
    return {
        "png": png(number),
        "img": png(10 + number),
        "json": label,
        "txt": b"bee" if number == 0 else b"ant",
    }


def test_a_shard_that_a_range_names_and_the_folder_lacks_is_refused(tmp_path):
    root = write_shards(tmp_path / "shards", info=False)
    (root / "train-0001.tar").unlink()
    with pytest.raises(
        InputError, match=r"1 of the 3 shards of .* are not in .*, the first 'train-0001.tar'"
    ):
        open_images("wds/train-{0000..0002}.tar", root)


@pytest.mark.parametrize(("label", "words"), [(bytes(8), "neither a whole"), (b"0 1 1", "is a list of 3")])
def test_labels_that_are_numbers_in_other_forms_are_refused(tmp_path, label, words):
    path = shard(tmp_path / "train.tar", ("0.png", png(0)), ("0.cls", label))
    with pytest.raises(InputError, match=words):
        open_images("wds/x", path)
