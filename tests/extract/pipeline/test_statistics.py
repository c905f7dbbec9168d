"""Statistics of a shard taken where its rows were computed, beside those that the store takes of its own."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import probecache as pc
from probecache.extract.pipeline.loader import Batch
from probecache.extract.pipeline.statistics import ShardStatistics, shard_statistics
from probecache.store.fingerprint import Fingerprint
from probecache.store.format.moments import partial
from probecache.store.layout import FAILED, OK, LayerSpec, SplitSpec
from probecache.store.verification.verify import verify
from probecache.store.writer import open_split_writer
from probecache.store.writing.cast import numpy_of

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def rows(dtype, n=700, d=13):
    x = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (n, d))).to(dtype)
    x[:, 0] = 1.5
    x[:, 1] *= x[:, 1] > 3
    x[:, 2] += 300
    return x


def odd(dtype):
    x, limit = rows(dtype), torch.finfo(dtype).max
    x[3, 3], x[4, 4], x[5, 5], x[6, 6] = torch.nan, torch.inf, -torch.inf, limit
    x[:, 7] = torch.nan
    return x


def by_definition(x):
    """float64 throughout, as numpy says it."""
    values, limit = x.double().numpy(), torch.finfo(x.dtype).max
    finite = np.ma.masked_invalid(values)
    return np.stack(
        [
            finite.count(0),
            finite.mean(0).filled(0),
            (finite.var(0) * finite.count(0)).filled(0),
            finite.min(0).filled(np.inf),
            finite.max(0).filled(-np.inf),
            (values == 0).sum(0),
            (~np.isfinite(values)).sum(0),
            (np.abs(values) >= limit).sum(0),
            np.zeros(values.shape[1]),
        ]
    )


def test_of_no_rows_they_are_those_of_nothing():
    nothing = torch.empty(0, 5, dtype=torch.float16)
    np.testing.assert_array_equal(shard_statistics(nothing), partial(numpy_of(nothing)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [rows, odd])
def test_they_are_what_numpy_says(monkeypatch, dtype, make):
    monkeypatch.setattr("probecache.extract.pipeline.statistics.AT_ONCE", 700 * 5)  # columns in three parts
    x = make(dtype)
    np.testing.assert_allclose(shard_statistics(x).numpy(), by_definition(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_they_are_what_the_store_takes(dtype):
    x = rows(dtype)
    np.testing.assert_allclose(shard_statistics(x).numpy(), partial(numpy_of(x)), rtol=1e-5)


def batch(start, n, failed=()):
    status = np.full(n, OK, np.uint8)
    status[list(failed)] = FAILED
    return Batch(start, torch.empty(0), np.zeros(n, np.int64), status, {})


def test_batches_and_their_pieces_make_shards_and_failed_rows_do_not_count():
    x = {"a": rows(torch.float32, 50, 4), "b": rows(torch.float32, 50, 6)}
    taken = ShardStatistics([(0, 30), (30, 50)], ["a", "b"], [4, 6], torch.float32)
    found = []
    for start, stop, failed in ((0, 16, (2,)), (16, 30, ()), (30, 46, (0, 15)), (46, 50, (3,))):
        given = batch(start, stop - start, failed)
        for offset in (0, 5):  # after running out of memory a batch comes in pieces
            end = start + (5 if offset == 0 and stop - start > 5 else stop - start)
            if start + offset < end:
                found.append(taken.add(given, offset, [v[start + offset : end] for v in x.values()]))
    first, second = (wait() for wait in found if wait is not None)
    left = {0: np.setdiff1d(np.arange(30), [2]), 1: np.setdiff1d(np.arange(30, 50), [30, 45, 49])}
    for name, values in x.items():
        for statistics, chosen in ((first, left[0]), (second, left[1])):
            expected = by_definition(values[torch.from_numpy(chosen)])
            np.testing.assert_allclose(statistics[name], expected, rtol=1e-12, atol=1e-12)


def test_a_store_written_with_known_statistics_is_the_same_and_verifies(tmp_path):
    x, labels = numpy_of(rows(torch.float16, 60, 4)), np.zeros(60, np.int64)
    status = np.full(60, OK, np.uint8)
    status[[1, 40]] = FAILED
    stores = []
    for known in (False, True):
        with open_split_writer(
            tmp_path / f"{known}.zarr",
            SplitSpec(
                split="train",
                n_samples=60,
                layers=[LayerSpec("a", 4, "float16")],
                class_names=["one"],
                fingerprint=Fingerprint({}),
                shard_rows=32,
            ),
        ) as writer:
            for shard in writer.pending():
                here = slice(shard.start, shard.stop)
                ok = status[here] == OK
                statistics = {"a": shard_statistics(torch.from_numpy(x[here][ok])).numpy()}
                writer.write(
                    shard,
                    {"a": x[here]},
                    labels[here],
                    [str(i) for i in range(shard.start, shard.stop)],
                    status[here],
                    statistics if known else None,
                )
            stores.append(writer.finish())
    taken, given = (store.moments("train", "a") for store in stores)
    assert not list(verify(str(tmp_path / "True.zarr")))
    for name in ("mean", "variance", "minimum", "maximum"):
        np.testing.assert_allclose(given[name], taken[name], rtol=1e-5)


def test_known_statistics_refuse_what_the_stored_dtype_does_not_hold(tmp_path):
    x = np.full((4, 2), np.inf, np.float16)
    with open_split_writer(
        tmp_path / "s.zarr",
        SplitSpec(
            split="train",
            n_samples=4,
            layers=[LayerSpec("a", 2, "float16")],
            class_names=["one"],
            fingerprint=Fingerprint({}),
        ),
    ) as writer:
        (shard,) = writer.pending()
        known = {"a": shard_statistics(torch.from_numpy(x)).numpy()}
        with pytest.raises(pc.ProbecacheError, match="8 non-finite and 8 values"):
            writer.write(shard, {"a": x}, np.zeros(4, np.int64), list("abcd"), None, known)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_slow_disk_does_not_hold_the_device_up(tmp_path, monkeypatch):
    """The ring grows beside a third shard, and the moments of the device are those of the rows."""
    import time

    from probecache.extract.pipeline.device import PinnedRing
    from probecache.store.writer import SplitWriter

    write, grow, grown = SplitWriter.write, PinnedRing.grow, []

    def slow(self, shard, **arrays):
        time.sleep(0.3)
        return write(self, shard, **arrays)

    monkeypatch.setattr(SplitWriter, "write", slow)
    monkeypatch.setattr(PinnedRing, "grow", lambda self: grown.append(1) or grow(self))
    pixels = torch.randint(0, 256, (4096, 3, 64, 64), dtype=torch.uint8)
    store = pc.extract_features(
        "resnet18",
        TensorDataset(pixels, torch.zeros(4096).long()),
        out=tmp_path / "s.zarr",
        pretrained=False,
        img_size=64,
        batch_size=32,
        shard_rows=1024,
        device="cuda",
    )
    assert grown
    assert not list(verify(str(tmp_path / "s.zarr")))
    matrix = store.matrix("train", "penultimate", dtype=np.float64)
    np.testing.assert_allclose(store.moments("train", "penultimate")["mean"], matrix.mean(axis=0), rtol=1e-6)
