"""Where images come from: order, names, labels, and every way in which there may be none."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset
from torchvision.datasets import ImageFolder

from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.open import open_images
from probecache.extract.datasets.preprocess import Preprocess
from probecache.extract.pipeline.loader import batch_ranges, open_batches
from probecache.store.errors import InputError
from probecache.store.layout import FAILED, OK

SMALL = Preprocess((3, 32, 32), "bilinear", 1.0, "center", (0.5,) * 3, (0.5,) * 3)


class Odd(Dataset):
    """Images in all the forms that a data set may give; the fourth cannot be read."""

    def __len__(self):
        return 6

    def __getitem__(self, row):
        if row == 3:
            raise OSError("truncated")
        grey = np.full((32, 32, 3), row, np.uint8)
        forms = [
            Image.fromarray(grey),
            torch.full((3, 32, 32), row, dtype=torch.uint8),
            torch.full((3, 64, 64), row, dtype=torch.uint8),
            None,
            torch.full((3, 32, 32), row, dtype=torch.uint8).numpy(),
            Image.fromarray(grey),
        ]
        return forms[row], row % 2


def test_folder_tar_and_image_folder_agree(photos, photos_tar):
    folder = open_images("", photos, "train")
    for other in (open_images("", photos_tar, "train"), open_images(ImageFolder(photos))):
        assert other.names == folder.names
        assert other.classes == folder.classes == ("cat", "dog", "eel")
        assert np.array_equal(other.labels, folder.labels)
        assert other.order() == folder.order()
        for row in (0, 13):
            assert np.array_equal(np.asarray(other.read(row)[0]), np.asarray(folder.read(row)[0]))
            assert other.read(row)[1] == folder.read(row)[1]


def test_split_folders(digits):
    train, test = (open_images("", digits, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1347, 450)
    assert train.classes == tuple("0123456789")
    assert train.order() != test.order()
    with pytest.raises(InputError, match=r"no split 'val'; it has: test, train"):
        open_images("", digits, "val")


@pytest.mark.parametrize("workers", [0, 2])
def test_every_form_of_item_and_a_failure(workers):
    images = open_images(Odd())
    assert images.names == tuple("012345")
    batches = list(open_batches(images, SMALL, batch_ranges([(0, 6)], 4), workers=workers))
    status = np.concatenate([b.status for b in batches])
    assert list(status) == [OK, OK, OK, FAILED, OK, OK]
    pixels = torch.cat([b.images for b in batches])
    assert pixels.dtype == torch.uint8
    assert [int(p.float().mean()) for p in pixels] == [0, 1, 2, 0, 4, 5]
    assert list(np.concatenate([b.labels for b in batches])) == [0, 1, 0, -1, 0, 1]
    assert batches[0].errors == {3: "OSError: truncated"}


def test_boundaries_start_anew_in_every_shard():
    assert batch_ranges([(0, 5), (8, 10)], 2) == [range(2), range(2, 4), range(4, 5), range(8, 10)]


def test_images_in_memory_are_sliced():
    pixels = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    images = open_images(TensorDataset(pixels, torch.arange(9)))
    batches = list(open_batches(images, SMALL, batch_ranges([(0, 9)], 4)))
    assert [b.images.data_ptr() for b in batches] == [pixels[i].data_ptr() for i in (0, 4, 8)]
    assert torch.equal(torch.cat([b.images for b in batches]), pixels)
    assert list(np.concatenate([b.labels for b in batches])) == list(range(9))


def test_normalised_items_pass_unchanged_and_must_fit():
    good = TensorDataset(torch.randn(2, 3, 32, 32))
    (batch,) = open_batches(open_images(good), SMALL, [range(2)])
    assert torch.equal(batch.images, good.tensors[0])
    wrong = open_images(TensorDataset(torch.randn(2, 3, 16, 16)))
    with pytest.raises(InputError, match=r"\(3, 16, 16\)"):
        list(open_batches(wrong, SMALL, [range(2)]))


def test_what_is_not_there_is_said_in_one_line(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    for dataset, data_dir, words in [
        ("", None, "data_dir"),
        ("", photos.parent / "nothing", "neither a folder nor a .tar"),
        ("", tmp_path / "empty", "no images; it is empty"),
        ("torch/nonsense", tmp_path, "Unknown torchvision dataset"),
        ("torch/cifar10", tmp_path, "not found"),
        ("torch/cifar10", tmp_path, "cifar10"),
        ("nonsense/x", tmp_path, "unknown dataset"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            open_images(dataset, data_dir, "train")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no split 'nope'"):
        open_images("torch/cifar10", tmp_path, "nope")


def test_data_without_an_order_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(3, 8, 8), 0

    with pytest.raises(InputError, match="no fixed order"):
        open_images(Stream())
    with pytest.raises(InputError, match="empty"):
        open_images(TensorDataset(torch.zeros(0, 3, 8, 8)))


def test_preprocessing_is_timms(photos):
    from timm.data import create_transform

    for mode in ("center", "squash", "border"):
        own = Preprocess((3, 40, 40), "bicubic", 0.9, mode, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
        theirs = create_transform(
            (3, 40, 40), interpolation="bicubic", crop_pct=0.9, crop_mode=mode, mean=own.mean, std=own.std
        )
        image = Image.open(photos / "eel/5.png").convert("RGB")
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (own.mean, own.std))
        assert torch.allclose((own.transform()(image) / 255 - mean) / std, theirs(image), atol=1e-6)


def test_images_can_be_sent_to_other_processes(photos_tar):
    images = open_images("", photos_tar, "train")
    assert pickle.loads(pickle.dumps(images)).names == images.names


@pytest.mark.parametrize(
    ("dataset", "options", "words"),
    [
        ("", {"input_key": "image"}, "input_key 'image' has no meaning here: a folder or .tar"),
        ("", {"target_key": "label"}, "target_key 'label' has no meaning here"),
        ("wds/x", {"class_from": "leaf"}, "class_from 'leaf' has no meaning here: it is for folders"),
        ("hfds/x", {"split_folders": False}, "split_folders False has no meaning here"),
        (TensorDataset(torch.zeros(2, 3, 8, 8)), {}, "data_dir .* has no meaning here: a Dataset is given"),
    ],
)
def test_choices_that_decide_nothing_are_refused(photos, dataset, options, words):
    with pytest.raises(InputError, match=words):
        open_images(dataset, photos, "train", Choices(**options))
