"""Decoding processes in places that are short of shared memory, and ones that die."""

import errno
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from probecache.extract.datasets import processes
from probecache.extract.datasets.open import open_images
from probecache.extract.datasets.preprocess import Overrides, resolve_preprocess
from probecache.extract.pipeline import loader
from probecache.store.errors import InputError, ProbecacheError


def loaded(photos, workers):
    images, preprocess = open_images("", photos), resolve_preprocess(nn.Identity(), Overrides(img_size=32))
    ranges = loader.batch_ranges([(0, len(images))], 9)
    found = list(loader.open_batches(images, preprocess, ranges, workers=workers))
    return torch.cat([batch.images for batch in found]), [len(batch.labels) for batch in found]


@pytest.mark.parametrize(
    ("free", "chunk", "shared"), [(None, 32, True), (1 << 20, 4, True), (1 << 10, 32, False)]
)
def test_little_shared_memory_changes_no_batch(photos, monkeypatch, free, chunk, shared):
    monkeypatch.setattr(loader, "_shared_memory", lambda: free)
    ahead = loader.plan_ahead(2, 4 * 3 * 32 * 32, free)
    assert (ahead.chunk, ahead.shared) == (chunk, shared)
    images, sizes = loaded(photos, 2)
    plain, plain_sizes = loaded(photos, 0)
    assert sizes == plain_sizes
    assert torch.equal(images, plain)


@pytest.mark.parametrize("workers", [1, 2, 7, 32])
@pytest.mark.parametrize("free", [1 << 12, 1 << 20, 64 << 20, 1 << 30])
@pytest.mark.parametrize("side", [32, 224, 518])
def test_what_is_planned_fits(workers, free, side):
    size = 4 * 3 * side * side
    ahead = loader.plan_ahead(workers, size, free)
    assert not ahead.shared or workers * (ahead.prefetch + 2) * ahead.chunk * size <= free // 2
    assert ahead.shared or workers * 4 * size > free // 2


def test_a_decoding_process_that_was_killed_is_said_in_one_line():
    def source():
        yield 0
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible\nthat")

    items = processes._reported(source())
    next(items)
    with pytest.raises(ProbecacheError, match=r"shared memory .*workers") as error:
        next(items)
    assert "\n" not in str(error.value)


def refused(*_, **__):
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_where_no_process_can_be_started_or_sent_the_data_one_line_says_so(monkeypatch):
    def daemon():
        raise AssertionError("daemonic processes are not allowed to have children")

    context = torch.multiprocessing.get_context("spawn")
    unsendable = DataLoader([lambda: 0], num_workers=1, multiprocessing_context=context)
    with pytest.raises(
        InputError, match=r"cannot be sent to decoding processes .*lambda.*workers 0"
    ) as error:
        processes.start(unsendable)
    assert "\n" not in str(error.value)
    for cause, words in ((refused, "Function not implemented"), (daemon, "daemonic")):
        monkeypatch.setattr(
            torch.multiprocessing, "get_context", lambda cause=cause: SimpleNamespace(Lock=cause)
        )
        with pytest.raises(ProbecacheError, match=f"can be started .*{words}.*workers 0"):
            processes.start(DataLoader([0], num_workers=1))
        assert list(processes.start(DataLoader([0])))


@pytest.mark.parametrize("kind", ["pixels", "normalised", "array"])
def test_a_data_set_that_fills_the_same_memory_again_gives_each_row_its_own(kind):
    pixels = torch.arange(12 * 3 * 64).reshape(12, 3, 8, 8).to(torch.uint8)
    given = pixels / 255 - 0.5 if kind == "normalised" else pixels
    place = torch.empty_like(given[0])

    class Reader(Dataset):
        def __len__(self):
            return len(given)

        def __getitem__(self, row):
            place.copy_(given[row])
            return place.numpy() if kind == "array" else place

    images = open_images(Reader(), None)
    preprocess = resolve_preprocess(nn.Identity(), Overrides(img_size=8))
    (batch,) = loader.open_batches(images, preprocess, [range(len(given))], workers=0)
    assert torch.equal(batch.images, given)
