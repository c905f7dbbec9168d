"""Every file of a folder or .tar is an image with a row, or counted, or the reason of a refusal."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.inventory import Inventory, image_suffixes, natural_order, walk
from probecache.extract.datasets.open import open_images
from probecache.extract.run import extract_features
from probecache.store.errors import InputError


def image(number=0, kind="PNG"):
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (12, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def fill(root, *names):
    """Files of these names; every image shows something of its own."""
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(image(number))
    return root


def pack(folder, path, inside="."):
    with tarfile.open(path, "w") as tar:
        tar.add(folder, inside)
    return path


@pytest.fixture(params=["folder", "tar", "tar with a top folder"])
def held(request, tmp_path):
    """A folder as it is, or as an archive; both have to be read alike."""

    def make(folder):
        if request.param == "folder":
            return folder
        return pack(folder, tmp_path / "data.tar", "." if request.param == "tar" else "data")

    return make


def read(data_dir, split="train", **choices):
    images = open_images("", data_dir, split, Choices(**choices))
    return images, [images.classes[i] if i >= 0 else None for i in images.labels]


@pytest.mark.parametrize(
    ("train", "test", "asked"),
    [
        ("train", "test", ("train", "test")),
        ("Train", "TEST", ("train", "test")),
        ("training_set", "test-images", ("train", "test")),
        ("train2017", "val2017", ("train", "validation")),
        ("seg_train", "seg_test", ("train", "test")),
        ("images/train", "images/valid", ("train", "val")),
        ("a/b/training", "a/b/eval", ("train", "validation")),
        ("trainval", "test", ("trainval", "test")),
    ],
)
def test_splits_share_no_row_under_any_spelling_and_depth(tmp_path, held, train, test, asked):
    names = [
        f"{split}/{label}/{i}.png" for split in (train, test) for label in ("cat", "dog") for i in range(2)
    ]
    data = held(fill(tmp_path / "photos", *names))
    rows = {}
    for split in asked:
        images, labels = read(data, split)
        assert labels == ["cat", "cat", "dog", "dog"]
        rows[split] = {np.asarray(images.read(row)[0]).tobytes() for row in range(4)}
        assert len(rows[split]) == 4
    assert not set.intersection(*rows.values())
    with pytest.raises(InputError, match="has no split 'day3'; it has:"):
        read(data, "day3")


def test_classes_above_splits(tmp_path, held):
    data = held(
        fill(tmp_path / "photos", "cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/test/4.png")
    )
    images, labels = read(data, "test")
    assert labels == ["cat", "dog"]
    assert images.names == ("cat/2.png", "dog/4.png") or images.names == ("data/cat/2.png", "data/dog/4.png")


def test_a_class_that_is_named_like_a_split_is_asked_for(tmp_path, held):
    data = held(fill(tmp_path / "photos", "bus/0.png", "car/1.png", "train/2.png"))
    with pytest.raises(InputError, match=r"'train' is named like a split but lies beside (bus, car|data)"):
        read(data)
    assert read(data, split_folders=False)[1] == ["bus", "car", "train"]
    images, labels = read(data, split_folders=True)
    assert labels == [None]
    assert images.inventory.left_out["images outside the split folders"][0] == 2


def test_inside_a_split_such_a_class_is_plain(tmp_path, held):
    names = [f"{split}/{label}/0.png" for split in ("train", "val") for label in ("bus", "train")]
    for split in ("train", "val"):
        assert read(held(fill(tmp_path / "photos", *names)), split)[1] == ["bus", "train"]


def test_two_folders_for_one_split_are_asked_for(tmp_path):
    root = fill(tmp_path, "train2014/cat/0.png", "train2017/cat/0.png", "val/cat/0.png")
    with pytest.raises(InputError, match="'train2014' and 'train2017' could both be split 'train'"):
        read(root)
    assert len(read(root, "train2017")[0]) == 1


def test_a_split_without_classes_is_unlabelled_though_the_other_has_them(tmp_path, held):
    data = held(fill(tmp_path / "photos", "train/cat/0.png", "train/dog/1.png", "test/2.png", "test/3.png"))
    assert read(data)[1] == ["cat", "dog"]
    images, labels = read(data, "test")
    assert labels == [None, None]
    assert "unlabelled" in images.inventory.lines()[-1]


def test_hidden_and_system_files_are_counted_and_no_rows(tmp_path, held):
    data = held(
        fill(
            tmp_path / "photos",
            "cat/0.png", "dog/1.png", "cat/.ipynb_checkpoints/0-checkpoint.png", "__MACOSX/cat/._0.png",
            "cat/._0.png", "cat/Thumbs.db", ".DS_Store", "dog/notes.txt", "dog/raw.HEIC", "dog/README",
        )
    )  # fmt: skip
    images, labels = read(data)
    assert labels == ["cat", "dog"]
    found = {reason: count for reason, (count, _) in images.inventory.left_out.items()}
    folders = data.is_dir()  # a hidden folder is one entry of a folder, and its files entries of a tar
    assert found.pop("hidden or system files") == 5
    assert found.pop(".heic images, which this Pillow cannot read") == 1
    assert found == {".txt files": 1, "files without a suffix": 1}
    assert folders or "photos" not in images.classes
    assert len(images.inventory.lines()) == 3
    assert len(images.inventory.lines(None)) == 4
    assert images.inventory.summary()["left_out"][".txt files"] == {
        "files": 1,
        "first": [next(n for n in images.inventory.left_out[".txt files"][1] if n.endswith("dog/notes.txt"))],
    }


def test_every_format_that_pillow_reads_is_an_image(tmp_path):
    for kind in (".jpg", ".JPEG", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jp2", ".tga"):
        assert kind.lower() in image_suffixes()
        (tmp_path / "cat").mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), "red").save(tmp_path / "cat" / f"a{kind}")
    images, _ = read(tmp_path)
    assert len(images) == 11
    assert all(images.read(row)[0].convert("RGB").getpixel((4, 4))[0] > 200 for row in range(11))
    assert not {".pdf", ".eps", ".h5", ".mpg"} & image_suffixes()


def test_folders_of_one_name_are_told_apart(tmp_path, held):
    names = ("animals/bass/0.png", "animals/crane/1.png", "instruments/bass/2.png")
    data = held(fill(tmp_path / "photos", *names))
    assert read(data)[1] == ["animals/bass", "animals/crane", "instruments/bass"]
    assert read(data, class_from="top")[1] == ["animals", "animals", "instruments"]
    assert read(data, class_from="leaf")[1] == ["bass", "crane", "bass"]
    with pytest.raises(InputError, match="class_from"):
        read(data, class_from="middle")


def test_whether_leaves_suffice_is_asked_of_all_splits(tmp_path):
    root = fill(tmp_path, "train/a/bass/0.png", "train/b/bass/1.png", "test/a/bass/2.png")
    assert read(root, "test")[1] == ["a/bass"]


def test_images_at_two_depths_are_asked_for_and_strays_counted(tmp_path, held):
    data = held(fill(tmp_path / "deep", "cat/0.png", "cat/kitten/1.png", "dog/2.png"))
    with pytest.raises(InputError, match=r"cat' and below it in '.*cat/kitten': say whether"):
        read(data)
    assert read(data, class_from="leaf")[1] == ["cat", "kitten", "dog"]
    assert read(data, class_from="top")[1][0] in ("cat", "data")
    stray = fill(tmp_path / "stray", "cat/0.png", "dog/1.png", "overview.png")
    images, labels = read(stray)
    assert labels == ["cat", "dog"]
    assert images.inventory.left_out == {"stray images beside the class folders": (1, ["overview.png"])}


def test_links_are_followed_but_not_upwards_nor_to_nowhere(tmp_path):
    root = fill(tmp_path / "photos", "cat/0.png", "dog/1.png")
    other = fill(tmp_path / "other", "2.png")
    (root / "eel").symlink_to(other)
    (root / "dog" / "up").symlink_to(root)
    (root / "dog" / "gone.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(root / "dog" / "pipe.png")
    os.link(root / "cat" / "0.png", root / "cat" / "same.png")
    images, labels = read(root)
    assert labels == ["cat", "cat", "dog", "eel"]
    found = {reason: names for reason, (_, names) in images.inventory.left_out.items()}
    assert found == {
        "links to a folder above them": ["dog/up"],
        "links to nowhere": ["dog/gone.png"],
        "no regular files": ["dog/pipe.png"],
    }


def test_many_links_end(tmp_path):
    folders = [tmp_path / f"f{i}" for i in range(6)]
    for folder in folders:
        folder.mkdir()
    for folder in folders:
        for other in folders:
            (folder / f"to_{other.name}").symlink_to(other)
    fill(tmp_path, "f0/a.png")
    inventory = Inventory("here")
    assert len(walk(tmp_path, inventory)) <= 8
    assert inventory.left_out


def test_names_that_differ_in_case_only_have_one_order():
    names = ["POLISH", "Polish", "polish", "a10", "A9", "a9"]
    for seed in range(5):
        mixed = [str(name) for name in np.random.default_rng(seed).permutation(names)]
        assert sorted(mixed, key=natural_order) == ["A9", "a9", "a10", "POLISH", "Polish", "polish"]


def test_classes_and_files_that_differ_in_case_only_have_one_order(tmp_path, held):
    classes = ["EEL", "Eel", "eel", "Polish", "polish"]  # a set of them has another order in every process
    paths = [f"{name}/{file}" for name in classes for file in ("b.png", "B.png", "a.PNG")]
    images, labels = read(held(fill(tmp_path / "photos", *paths)))
    ordered = sorted(paths, key=lambda path: (path.lower(), path))
    assert list(images.classes) == classes
    assert list(images.names) == ordered
    assert labels == [path.split("/")[0] for path in ordered]


def test_names_that_are_no_utf8(tmp_path, held):
    names = (b"cat/M\xfcnchen.png", b"caf\xe9/c.png", "cat/日本.png".encode())
    images, labels = read(held(fill(tmp_path / "photos", *(os.fsdecode(name) for name in names))))
    assert sorted(labels) == ["caf\\xe9", "cat", "cat"]
    assert any(name.endswith("cat/M\\xfcnchen.png") for name in images.names)
    "\n".join([*images.names, *images.classes]).encode()
    assert all(images.read(row)[0].size == (14, 12) for row in range(3))


def test_nothing_to_read_says_what_is_there(tmp_path):
    fill(tmp_path, "cat/notes.txt", ".cache/a.png")
    with pytest.raises(InputError, match=r"no images; .txt files: 1 left out, 'cat/notes.txt'; hidden"):
        read(tmp_path)


def test_one_folder_as_two_splits_is_said(tmp_path, caplog):
    root, out = fill(tmp_path / "one", "cat/0.png", "dog/1.png", "dog/notes.txt"), tmp_path / "s.zarr"
    options = {"data_dir": root, "out": out, "pretrained": False, "img_size": 32, "workers": 0}
    store = extract_features("test_resnet", split="train", **options)
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        ".txt files: 1 left out, 'dog/notes.txt'"
    ]
    assert store.report("train", "penultimate")["summary"]["inventory"] == {
        "left_out": {".txt files": {"files": 1, "first": ["dog/notes.txt"]}},
        "notes": [],
    }
    caplog.clear()
    extract_features("test_resnet", split="test", **options)
    assert "split 'train' of" in caplog.records[1].getMessage()
    assert "holds the same images" in caplog.records[1].getMessage()
    caplog.clear()
    fill(root, "eel/2.png")
    extract_features("test_resnet", split="other", **options)
    assert len(caplog.records) == 1


def test_contents_and_order_are_the_identity(tmp_path):
    root = fill(tmp_path / "one", "cat/0.png", "cat/1.png", "dog/2.png")
    first = read(root)[0].fingerprint()
    assert read(root)[0].fingerprint() == first
    assert read(pack(root, tmp_path / "one.tar"))[0].fingerprint() == first
    (root / "cat" / "1.png").write_bytes(image(7))
    changed = read(root)[0].fingerprint()
    assert changed["order"] == first["order"]
    assert changed["content"] != first["content"]
    (root / "dog" / "2.png").rename(root / "cat" / "2.png")
    assert read(root)[0].fingerprint()["order"] != first["order"]
