"""Labels are those of the items, whatever a data set's attributes say; other contents are other data."""

import os
from collections import namedtuple
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.labels import labels_from_text, to_label
from probecache.extract.datasets.open import open_images
from probecache.extract.run import extract_features
from probecache.store.errors import FingerprintMismatch, InputError

PIXELS = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Items(Dataset):
    """Any labels, as (image, label) or as a mapping; attributes as given."""

    first: int

    def __init__(self, labels, keys=None, **attributes):
        self.given, self.keys = labels, keys
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self):
        return len(self.given)

    def __getitem__(self, row):
        image = Image.fromarray(PIXELS[row].permute(1, 2, 0).numpy())
        if self.keys:
            return dict(zip(self.keys, (image, self.given[row]), strict=True))
        return image, self.given[row]


class Through(Dataset):
    """A wrapper that orders items anew and hands its data set's attributes through."""

    def __init__(self, base, order):
        self.base, self.order = base, order

    def __len__(self):
        return len(self.order)

    def __getitem__(self, row):
        return self.base[self.order[row]]

    def __getattr__(self, name):
        if name.startswith("__") or name in ("base", "order"):
            raise AttributeError(name)
        return getattr(self.base, name)


def items_labels(dataset, **choices):
    """As extraction reads them, which has to be as the definition has it: item by item."""
    images = open_images(dataset, choices=Choices(**choices))
    return images, [images.read(row)[1] for row in range(len(images))]


def test_transforms_and_wrappers_are_honoured(photos):
    plain = ImageFolder(photos)
    coarse = ImageFolder(photos, target_transform=lambda label: label // 2)
    for data in (
        plain,
        coarse,
        Subset(coarse, [0, 9, 17]),
        Subset(Subset(plain, range(2, 20)), [5, 3, 17]),
        ConcatDataset([plain, Subset(plain, [3, 20])]),
        Through(plain, [20, 3, 11, 0]),
        Through(coarse, list(range(24))[::-1]),
    ):
        images, labels = items_labels(data)
        assert labels == [data[row][1] for row in range(len(data))]
        assert len(set(images.names)) == len(data)
        if images.classes:
            assert [images.classes[i] for i in labels] == [
                plain.classes[data[r][1]] for r in range(len(data))
            ]
    assert items_labels(coarse)[0].classes == ()  # other labels than those that its names are for
    assert items_labels(Subset(plain, [9, 0]))[0].names == ("dog/1.png", "cat/0.png")


def test_joined_data_sets_of_other_classes_are_refused(photos, digits):
    with pytest.raises(InputError, match="one number means two classes"):
        open_images(ConcatDataset([ImageFolder(photos), ImageFolder(digits / "train")]))


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ([1, 0, 2], [1, 0, 2]),
        ([True, False, True], [1, 0, 1]),
        ([1.0, 0.0, 2.0], [1, 0, 2]),
        (list(torch.tensor([1, 0, 2])), [1, 0, 2]),
        (list(torch.tensor([[1], [0], [2]])), [1, 0, 2]),
        (np.array([1, 0, 2], np.uint8), [1, 0, 2]),
        (np.array([1, 0, 2], np.float32), [1, 0, 2]),
        ([None, 0, -1], [-1, 0, -1]),
    ],
)
def test_whole_numbers_of_any_type_are_labels(given, stored):
    assert items_labels(Items(given))[1] == stored
    assert items_labels(Items(given, ("img", "target")))[1] == stored


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([3.7, 0.2], "is 3.7, no whole number"),
        (list(torch.tensor([3.5, 0.2])), "is 3.5"),
        ([float("nan"), 0.0], "is nan"),
        (["cat", "dog"], "attribute `classes`"),
        (list(np.eye(2)), "one-hot, 2 numbers"),
        ([[0, 1, 1], [1, 1, 0]], "a list of 3: for several labels"),
        ([{"boxes": []}] * 2, "of type dict"),
        ([-2, 0], "is -2: classes are numbered from 0"),
        ([2**40, 0], "numbered from 0"),
    ],
)
def test_all_else_is_refused_before_a_store_is_made(given, words, tmp_path):
    out = tmp_path / "s.zarr"
    with pytest.raises(InputError, match=words) as caught:
        extract_features("test_resnet", Items(given), out=out, pretrained=False, workers=0)
    assert "\n" not in str(caught.value)
    assert "item 0" in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_that_no_look_beforehand_met_ends_the_run_in_one_line(tmp_path, workers):
    odd = [0.0] * 40
    odd[1] = 0.5
    options = {"out": tmp_path / "s.zarr", "pretrained": False, "workers": workers, "img_size": 32}
    with pytest.raises(InputError, match=r"item 1: its label is 0.5") as caught:
        extract_features("test_resnet", Items(odd), **options)
    assert "\n" not in str(caught.value)


def test_names_become_classes_where_their_order_is_given():
    images, labels = items_labels(Items(["dog", "cat", "dog"], classes=["cat", "dog"]))
    assert (labels, images.classes) == ([1, 0, 1], ("cat", "dog"))
    with pytest.raises(InputError, match="the data set's classes are 'cat', 'dog'"):
        open_images(Items(["dog", "cow"], classes=["cat", "dog"]))
    with pytest.raises(InputError, match="is 2: classes are numbered from 0, and the data set names 2"):
        open_images(Items([0, 2], classes=["cat", "dog"]))


def test_targets_that_contradict_the_items_are_refused():
    with pytest.raises(InputError, match="its `targets` at 0 is one-hot"):
        open_images(Items([0, 1, 2], targets=torch.eye(3)))
    assert items_labels(Items([0, 1, 2], targets=[2, 2, 2]))[1] == [0, 1, 2]


def test_columns_are_found_or_asked_for():
    data = Items([1, 0], ("scan", "diagnosis"))
    with pytest.raises(InputError, match="no image among scan, diagnosis: name it with input_key"):
        open_images(data)
    with pytest.raises(InputError, match="is diagnosis the label"):
        open_images(data, choices=Choices(input_key="scan"))
    assert items_labels(data, input_key="scan", target_key="diagnosis")[1] == [1, 0]
    with pytest.raises(InputError, match="no column 'label'"):
        open_images(data, choices=Choices(input_key="scan", target_key="label"))


def test_text_is_all_numbers_or_all_names():
    assert labels_from_text(["3", None, "0"], "here")[0].tolist() == [3, -1, 0]
    labels, classes = labels_from_text(["dog", "cat", None, "dog"], "here")
    assert (labels.tolist(), classes) == ([1, 0, -1, 1], ("cat", "dog"))
    for mixed in (["1", "cat"], ["3.7", "1"], ["0.5", "0.7"]):
        with pytest.raises(InputError, match="is not a whole number"):
            labels_from_text(mixed, "here")
    assert to_label(b"cat", "it", ("cat",)) == 0


class Pictures(Items):
    """Other pictures of the same size."""

    def __getitem__(self, row):
        image, label = super().__getitem__(row)
        return image.rotate(90), label


def test_other_data_of_the_same_size_are_refused(photos, tmp_path):
    folder, labels = ImageFolder(photos), torch.arange(8) % 2
    tensors, whole = TensorDataset(PIXELS[:8], labels), TensorDataset(PIXELS, torch.arange(40) % 2)
    changed = PIXELS[:8].clone()
    changed[5, 2, 15, 15] += 1
    pairs = [
        (Subset(folder, [0, 1, 8, 9]), Subset(folder, [2, 3, 10, 11])),
        (tensors, TensorDataset(changed, labels)),
        (tensors, TensorDataset(PIXELS[:8].flip(0), labels)),
        (Subset(whole, range(8)), Subset(whole, range(8, 16))),
        (Subset(whole, range(8)), Subset(whole, [1, 0, 3, 2, 5, 4, 7, 6])),
        (Items([0, 1] * 4), Items([1, 0] * 4)),
        (Items([0, 1] * 4), Through(Items([0, 1] * 4), [2, 3, 0, 1, 4, 5, 6, 7])),
    ]
    for first, second in pairs:
        prints = [open_images(data).fingerprint() for data in (first, first, second)]
        assert prints[0] == prints[1]
        assert {**prints[0], "dataset": ""} != {**prints[2], "dataset": ""}
    options = {"out": tmp_path / "s.zarr", "pretrained": False, "workers": 0, "img_size": 32}
    extract_features("test_resnet", Items([0, 1] * 4), **options)
    extract_features("test_resnet", Items([0, 1] * 4), **options)
    Pictures.__qualname__, Pictures.__module__ = Items.__qualname__, Items.__module__
    with pytest.raises(FingerprintMismatch, match="content"):
        extract_features("test_resnet", Pictures([0, 1] * 4), **options)


def test_items_that_differ_each_time_are_said_and_not_compared():
    class Random(Items):
        def __getitem__(self, row):
            return torch.rand(3, 16, 16), 0

    class Tensors(Items):
        def __getitem__(self, row):
            return PIXELS[row + self.first], 0

    prints = [open_images(Tensors([0] * 4, first=first)).content for first in (0, 0, 4)]
    assert prints[0] == prints[1] != prints[2]
    images = open_images(Random([0] * 4))
    assert images.content == "varies"
    assert any("read twice gave two images" in line for line in images.inventory.lines())


def test_the_look_beforehand_leaves_this_process_alone():
    class Counting(Items):
        def __getitem__(self, row):
            self.pids = [*getattr(self, "pids", []), os.getpid()]
            return super().__getitem__(row)

    data = Counting([0] * 50)
    ours = open_images(data, in_process=False).content
    assert not hasattr(data, "pids")
    assert open_images(data).content == ours
    assert len(data.pids) == 40  # 32 items, eight of them twice


def test_pixels_in_several_pieces_have_a_digest_of_their_own_order(monkeypatch):
    from probecache.extract.datasets.readers import torch_dataset

    pixels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)

    def content(images):
        labelled = TensorDataset(images, torch.zeros(len(images)).long())
        return torch_dataset.open_dataset(labelled, None, Choices()).content

    whole = content(pixels)
    monkeypatch.setattr(torch_dataset, "PIECE", 3 * 8 * 8 * 10)
    pieces = content(pixels)
    assert pieces == content(pixels.clone()) != whole
    for change in (pixels.flip(0), torch.cat([pixels[10:20], pixels[:10], pixels[20:]])):
        assert content(change) != pieces
    one = pixels.clone()
    one[25, 1, 2, 3] ^= 1
    assert content(one) != pieces


class Parts(Items):
    """Items that are made of the row and its label, in any order."""

    make: Callable[..., object]

    def __getitem__(self, row):
        return self.make(super().__getitem__(row)[0], self.given[row], row)


Named = namedtuple("Named", ["label", "image"])


def test_the_label_among_several_numbers_is_asked_for():
    data = Parts([1, 0, 1], make=lambda image, label, row: (image, row, label))
    with pytest.raises(InputError, match=r"which of its 3 parts is the label, 1 or 2 .*target_key"):
        open_images(data)
    assert items_labels(data, target_key="2")[1] == [1, 0, 1]
    assert items_labels(data, target_key="none")[1] == [-1, -1, -1]
    assert items_labels(data, target_key="1")[1] == [0, 1, 2]
    with pytest.raises(InputError, match="a tuple of 3 and has no part 'label'"):
        open_images(data, choices=Choices(target_key="label"))
    path = Parts([1, 0, 1], make=lambda image, label, row: (image, label, f"{row}.png"))
    assert items_labels(path)[1] == [1, 0, 1]
    first = Parts([1, 0, 1], make=lambda image, label, row: (row, label, image))
    assert items_labels(first, input_key="2", target_key="1")[1] == [1, 0, 1]


def test_named_tuples_are_read_by_their_names():
    assert items_labels(Parts([1, 0, 1], make=lambda image, label, row: Named(label, image)))[1] == [1, 0, 1]


class NoLength(Items):
    def __len__(self):
        raise TypeError("streamed")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"train": Items([0])}, "is a mapping of train: give one of them"),
        (NoLength([0]), "has no length .TypeError: streamed"),
        (Items, "has no length"),
    ],
)
def test_what_is_no_sequence_of_items_is_refused(data, words):
    with pytest.raises(InputError, match=words) as caught:
        open_images(data)
    assert "\n" not in str(caught.value)


def test_classes_may_be_an_array():
    images, labels = items_labels(Items([1, 0], classes=np.array(["cat", "dog"])))
    assert (labels, images.classes) == ([1, 0], ("cat", "dog"))


@pytest.mark.parametrize(
    ("key", "asked"), [("lbl", True), ("species", True), ("index", False), ("image_id", False)]
)
def test_a_whole_number_beside_the_image_is_a_label_or_is_asked_for(key, asked):
    data = Items([1, 0], keys=("image", key))
    if asked:
        with pytest.raises(InputError, match=f"is {key} the label\\? name it with target_key, or none"):
            open_images(data)
        assert items_labels(data, target_key=key)[1] == [1, 0]
        assert items_labels(data, target_key="none")[1] == [-1, -1]
    else:
        assert items_labels(data)[1] == [-1, -1]
