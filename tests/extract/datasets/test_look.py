"""Items of a torch Dataset: any array is read right or refused, and a data set must hold still."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.open import open_images
from probecache.extract.datasets.preprocess import Preprocess
from probecache.extract.pipeline.loader import open_batches
from probecache.store.errors import InputError

COUNT = 12
PREPROCESS = Preprocess((3, 10, 10), "bilinear", 1.0, "center", (0.0,) * 3, (1.0,) * 3)


class Made(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return COUNT

    def __getitem__(self, row):
        return self.item(row)


def pixels(row):
    return np.random.default_rng(row).integers(0, 256, (3, 10, 10), dtype=np.uint8)


def picture(row):
    return Image.fromarray(pixels(row).transpose(1, 2, 0))


def batch(dataset, **choices):
    images = open_images(dataset, choices=Choices(**choices))
    return next(iter(open_batches(images, PREPROCESS, [range(COUNT)])))


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x,
        lambda x: x.astype(">u2") * 256,
        lambda x: np.asfortranarray(x),
        lambda x: x[:, ::-1, ::-1].copy()[:, ::-1, ::-1],
        lambda x: np.ma.masked_array(x, mask=False),
        lambda x: np.asarray(Image.fromarray(x.transpose(1, 2, 0))),
        lambda x: torch.tensor(x.transpose(1, 2, 0).copy()).permute(2, 0, 1),
        lambda x: torch.tensor(x.astype("f4")).requires_grad_(),
        lambda x: torch.tensor(x).bfloat16(),
        lambda x: x.astype(">f8"),
    ],
)
def test_an_array_of_any_strides_and_order_is_the_same_image(given):
    made = batch(Made(lambda row: (given(pixels(row)), row)))
    assert made.status.tolist() == [1] * COUNT
    assert np.array_equal(made.images.float(), [pixels(row) for row in range(COUNT)])
    assert made.labels.tolist() == list(range(COUNT))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (lambda x: torch.tensor(x).float().to_sparse(), "torch.sparse_coo torch.float32 images: give dense"),
        (lambda x: np.ma.masked_array(x, mask=x > 250), "gives masked arrays as images: fill them"),
        (lambda x: x > 99, "images of torch.bool: give uint8"),
        (lambda x: x.astype("i8"), "images of torch.int64: give uint8"),
    ],
)
def test_what_hides_or_rounds_pixels_is_refused(given, why):
    with pytest.raises(InputError, match=why):
        batch(Made(lambda row: (given(pixels(row)), row)))


def test_an_image_that_is_not_finite_is_a_failed_row():
    values = {3: np.nan, 7: np.inf}
    made = batch(Made(lambda row: (np.full((3, 10, 10), values.get(row, -0.5), "f4"), row)))
    assert np.flatnonzero(made.status == 2).tolist() == [3, 7]
    assert made.errors[3] == "ValueError: the image holds NaN or infinite values"


@pytest.mark.parametrize("how", ["at each item", "at each pass", "the label alone"])
def test_a_data_set_that_shuffles_is_refused(how):
    order = list(range(COUNT))
    dice = random.Random(0)

    def item(row):
        if how == "at each item" or (how == "at each pass" and row == 0):
            dice.shuffle(order)
        return (
            (picture(row), dice.random() < 0.5)
            if how == "the label alone"
            else (picture(order[row]), order[row])
        )

    with pytest.raises(
        InputError, match="an item read twice had two labels, so that its rows have no fixed order"
    ):
        batch(Made(item))


def test_a_random_transform_of_any_item_is_said():
    dice = random.Random(0)
    images = open_images(Made(lambda row: (picture(dice.randrange(10**6) if row else 0), row)))
    assert images.content == "varies"
    assert "contents are not compared" in images.inventory.notes[0]


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_floating_point_that_does_not_look_normalised_is_said(scale):
    plain = torch.rand(COUNT, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    for data in (
        Made(lambda row: (plain[row] * scale, row)),
        TensorDataset(plain * scale, torch.arange(COUNT)),
    ):
        assert (
            "are taken as normalised, and go to the model as they are" in open_images(data).inventory.notes[0]
        )
        assert open_images(Subset(data, [2, 1])).inventory.notes
    assert open_images(Made(lambda row: (plain[row] - 0.5, row))).inventory.notes == []


def test_several_columns_that_may_be_the_label_are_asked_for():
    def of(**labels):
        return Made(lambda row: {"image": picture(row), **{key: row % n for key, n in labels.items()}})

    with pytest.raises(InputError, match="has 2 columns that may be the label, 'label', 'target': name one"):
        batch(of(label=2, target=3))
    with pytest.raises(InputError, match="is coarse_label or fine_label the label"):
        batch(of(coarse_label=2, fine_label=4))
    assert batch(of(coarse_label=2, fine_label=4), target_key="fine_label").labels.max() == 3
    assert batch(of(coarse_label=2, fine_label=4), target_key="none").labels.max() == -1
    assert batch(of(index=9)).labels.max() == -1
    with pytest.raises(InputError, match="has 2 columns that may be the image, 'image', 'img'"):
        batch(of(label=2, img=7))


def test_an_index_outside_and_labels_in_a_column():
    data = TensorDataset(
        torch.stack([torch.tensor(pixels(row)) for row in range(COUNT)]), torch.arange(COUNT)[:, None]
    )
    assert batch(data).labels.tolist() == list(range(COUNT))
    with pytest.raises(InputError, match="its index 12 lies outside the 12 items that it is of"):
        open_images(Subset(data, [0, COUNT]))
