"""Folders whose names can mean two things: asked for, or said; never mixed into classes without a word."""

import os

import pytest
from PIL import Image

from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.open import open_images
from probecache.store.errors import InputError


def folder(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 5), (number, 2 * number, 9)).save(root / name)
    return root


def read(data_dir, split="train", **choices):
    images = open_images("", data_dir, split, Choices(**choices))
    return images, [images.classes[i] if i >= 0 else None for i in images.labels]


def crossed(*outer, inner=("cat", "dog")):
    return [f"{top}/{label}/{top}{label}.png" for top in outer for label in inner]


@pytest.mark.parametrize(
    ("train", "test", "split"),
    [
        ("Train ", "Test", "test"),
        ("01_train", "02_test", "test"),
        ("1. training", "2. testing", "test"),
        ("images_train", "images_val", "val"),
        ("dataset-train", "dataset-holdout", "holdout"),
        ("train", "held_out", "holdout"),
        ("train", "unlabeled", "unlabeled"),
        ("trn", "dev", "val"),
    ],
)
def test_more_spellings_of_splits(tmp_path, train, test, split):
    data = folder(tmp_path, *crossed(train, test))
    for name, asked in ((train, "train"), (test, split)):
        images, labels = read(data, asked)
        assert labels == ["cat", "dog"]
        assert images.names == (f"cat/{name}cat.png", f"dog/{name}dog.png")


@pytest.mark.parametrize("names", [("trainA", "trainB", "testA", "testB"), ("train_real", "test_real")])
def test_a_split_and_more_in_one_name_is_asked_for(tmp_path, names):
    data = folder(tmp_path, *(f"{name}/{name}.png" for name in names))
    with pytest.raises(InputError, match="like a split and more: move them to train/"):
        read(data)
    assert sorted(read(data, split_folders=False)[1]) == sorted(names)


@pytest.mark.parametrize("names", [("fold1", "fold2", "fold3"), ("seen", "unseen"), ("support", "query")])
def test_folders_of_the_same_classes_are_asked_for(tmp_path, names):
    data = folder(tmp_path, *crossed(*names))
    with pytest.raises(
        InputError, match=f"each hold the same classes, 2 of them: read one .split {min(names)}"
    ):
        read(data)
    assert read(data, names[0])[1] == ["cat", "dog"]
    assert len(read(data, class_from="leaf")[0]) == 2 * len(names)
    assert set(read(data, class_from="path")[1]) == {f"{n}/{c}" for n in names for c in ("cat", "dog")}


def test_a_fold_that_lacks_one_class_of_many_is_one_all_the_same(tmp_path):
    classes = [f"c{i}" for i in range(8)]
    names = [f"{fold}/{c}/0.png" for fold in ("f1", "f2") for c in classes if (fold, c) != ("f2", "c3")]
    with pytest.raises(InputError, match="each hold the same classes, 8 of them"):
        read(folder(tmp_path, *names))


def test_a_few_shared_names_are_classes_of_their_own(tmp_path):
    names = ["animals/bass/0.png", "animals/cat/1.png", "instruments/bass/2.png", "instruments/drum/3.png"]
    assert read(folder(tmp_path, *names))[1] == [
        "animals/bass",
        "animals/cat",
        "instruments/bass",
        "instruments/drum",
    ]


def test_a_folder_called_images_is_no_class_and_masks_beside_it_are_asked_for(tmp_path):
    data = folder(tmp_path, "train/images/0.png", "train/images/1.png", "val/images/2.png", "val/masks/3.png")
    images, labels = read(data)
    assert labels == [None, None]
    assert "the folder 'images' is taken for no class" in images.inventory.lines(None)[0]
    assert read(data, class_from="leaf")[1] == ["images", "images"]
    with pytest.raises(InputError, match="the folders 'images', 'masks' are named like parts of a data set"):
        read(data, "val")
    assert read(data, "val", class_from="leaf")[1] == ["images", "masks"]


def test_classes_that_look_alike_are_said(tmp_path):
    images, labels = read(folder(tmp_path, "Cat/0.png", "cat/1.png", "dog /2.png", "dog/3.png"))
    assert len(set(labels)) == 4
    assert [line for line in images.inventory.notes if "are 2 classes: they differ in case, blanks" in line]
    assert len(images.inventory.notes) == 2


def test_a_folder_that_a_link_shows_again_is_said(tmp_path):
    data = folder(tmp_path, "real/cat/0.png", "real/dog/1.png")
    os.symlink(data / "real" / "cat", data / "real" / "tiger")
    images, _ = read(data)
    assert len(images) == 3
    assert [line for line in images.inventory.notes if "are one and the same, by a link" in line]


@pytest.mark.parametrize("name", ["photos.tar.gz", "photos.zip", "cat.png"])
def test_a_file_that_is_no_tar_is_told_what_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(
        InputError, match=r"is a file; a folder or uncompressed .tar of class folders is read"
    ):
        read(tmp_path / name)


def test_a_jpeg_of_several_frames_is_an_image(tmp_path):
    Image.new("RGB", (8, 8), "red").save(
        tmp_path / "a.mpo", save_all=True, append_images=[Image.new("RGB", (8, 8))]
    )
    images, _ = read(tmp_path)
    assert images.names == ("a.mpo",)
    assert images.read(0)[0].convert("RGB").getpixel((4, 4))[0] > 200


def test_a_folder_called_images_inside_every_class_is_no_class(tmp_path):
    """As tiny ImageNet has it, whose validation images lie in no class folder."""
    data = folder(tmp_path, "train/n1/images/0.png", "train/n2/images/1.png", "val/images/2.png")
    images, labels = read(data)
    assert labels == ["n1", "n2"]
    assert any("'images' inside others are taken for no classes" in note for note in images.inventory.notes)
    assert read(data, "val")[1] == [None]
    assert read(data, class_from="path")[1] == ["n1/images", "n2/images"]
    mixed = folder(tmp_path / "mixed", "n1/images/0.png", "n2/1.png")
    with pytest.raises(InputError, match="images lie in 'n1/images' and not so in other class folders"):
        read(mixed)


@pytest.mark.parametrize(
    "names", [("Images/a/0.png", "Images/b/1.png", "Annotation/a/2.png"), ("a/img/0.png", "a/gt/1.png")]
)
def test_parts_of_a_data_set_around_or_inside_its_classes_are_asked_for(tmp_path, names):
    data = folder(tmp_path, *names)
    with pytest.raises(InputError, match="are named like parts of a data set"):
        read(data)
    assert len(read(data, class_from="leaf")[0]) == len(names)


def test_two_data_sets_below_one_folder_are_asked_for(tmp_path):
    data = folder(tmp_path, "cifar/train/cat/0.png", "cifar/test/cat/1.png", "pets/train/dog/2.png")
    with pytest.raises(
        InputError, match="'train' lies in 2 folders, 'cifar', 'pets', and has folders inside"
    ):
        read(data)
    assert read(data, class_from="leaf")[1] == ["cat", "dog"]
    assert read(data / "cifar")[1] == ["cat"]


def test_images_named_like_masks_of_others_are_said(tmp_path):
    names = ["a/1.png", "a/1_mask.png", "a/1_mask_1.png", "a/paper mask.png"]
    images, _ = read(folder(tmp_path, *names))
    assert len(images) == 4
    assert [n for n in images.inventory.notes if n.startswith("2 images are named like the mask of another")]


def test_a_split_in_a_folder_of_its_own_name_is_one_split(tmp_path):
    data = folder(tmp_path, "train/train/cat/0.png", "train/train/dog/1.png", "test1/test/2.png")
    images, labels = read(data)
    assert (labels, images.names) == (["cat", "dog"], ("cat/0.png", "dog/1.png"))
    assert "the folder 'train/train' is taken for split 'train'" in images.inventory.notes
    assert read(data, "test")[1] == [None]


def test_splits_inside_a_split_are_asked_for(tmp_path):
    names = ["train/train/cat/0.png", "train/val/cat/1.png", "test/cat/2.png"]
    data = folder(tmp_path, *names)
    with pytest.raises(
        InputError, match="split 'train' holds folders that are named like splits, 'train', 'val'"
    ):
        read(data)
    assert read(data / "train", "val")[1] == ["cat"]
    assert read(data, class_from="leaf")[1] == ["cat", "cat"]
