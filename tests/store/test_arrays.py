"""write_arrays and what plain tools read from its store."""

import functools

import numpy as np
import pytest
import xarray as xr
import zarr

import probecache as pc
from probecache.store.fingerprint import Fingerprint
from probecache.store.importing.formats.open import open_matrix
from probecache.store.layout import LayerSpec
from probecache.store.verify import verify
from probecache.store.writer import open_writer


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    values = np.maximum(rng.standard_normal((1000, 37)), 0).astype(np.float32)
    return values, rng.integers(0, 10, 1000)


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_round_trip_and_plain_tools(tmp_path, features, dtype, compression):
    values, labels = features
    path = tmp_path / "a.zarr"
    store = pc.write_arrays(
        path,
        split="train",
        layer="blocks.5",
        activations=values,
        labels=labels,
        dtype=dtype,
        compression=compression,
        shard_rows=256,
    )
    stored = store.matrix("train", "blocks.5")
    expected = values.astype(stored.dtype)
    np.testing.assert_array_equal(stored, expected)
    np.testing.assert_array_equal(store.labels("train"), labels)
    raw = expected.view(np.uint16) if dtype == "bfloat16" else expected
    np.testing.assert_array_equal(zarr.open(str(path), mode="r")["train/blocks.5/activations"][:], raw)
    tree = xr.open_datatree(path, engine="zarr")
    np.testing.assert_array_equal(tree["train/blocks.5/activations"], raw)
    np.testing.assert_array_equal(tree["train/label"], labels)
    assert tree["train/sample"].values.tolist() == [str(i) for i in range(1000)]
    assert tree["train"].attrs["class_names"] == [str(i) for i in range(10)]
    wide = expected.astype(np.float64)
    moments = store.moments("train", "blocks.5")
    np.testing.assert_allclose(moments["mean"], wide.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moments["variance"], wide.var(0), rtol=1e-5)
    np.testing.assert_array_equal(moments["zeros"], (wide == 0).mean(0))
    np.testing.assert_array_equal(moments["minimum"], wide.min(0))
    np.testing.assert_array_equal(moments["maximum"], wide.max(0))
    lazy = store["train"]["blocks.5/activations"]
    assert lazy.chunks[0] == (256, 256, 256, 232)
    np.testing.assert_array_equal(lazy.values, expected)


def test_reads_of_rows_and_columns(tmp_path, features):
    values, labels = features
    store = pc.write_arrays(
        tmp_path / "a", split="s", layer="l", activations=values, labels=labels, shard_rows=96
    )
    np.testing.assert_array_equal(
        store.matrix("s", "l", columns=[5, 1, 5], rows=(90, 300)), values[90:300, [5, 1, 5]]
    )
    blocks = list(store.blocks("s", "l", columns=[3], rows=300))
    assert [start for start, _ in blocks] == [0, 300, 600, 900]
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), values[:, [3]])
    assert store.tensor("s", "l").shape == (1000, 37)


def test_a_split_grows_and_takes_another_layer(tmp_path, features):
    values, labels = features
    arguments = {"path": tmp_path / "a", "split": "s", "labels": labels[:700]}
    pc.write_arrays(**arguments, layer="one", activations=values[:700], shard_rows=256)
    untouched = (tmp_path / "a/s/one/activations/c/1/0").stat().st_mtime_ns
    arguments["labels"] = labels
    store = pc.write_arrays(**arguments, layer="one", activations=values)
    np.testing.assert_array_equal(store.matrix("s", "one"), values)
    assert (tmp_path / "a/s/one/activations/c/1/0").stat().st_mtime_ns == untouched
    store = pc.write_arrays(**arguments, layer="two", activations=-values)
    np.testing.assert_array_equal(store.matrix("s", "two"), -values)
    assert store.layers == ["one", "two"]
    arguments["labels"] = np.where(np.arange(1000) == 3, 9 - labels[3], labels)
    with pytest.raises(pc.FingerprintMismatch, match=r"row 3 of split 's'.*label"):
        pc.write_arrays(**arguments, layer="three", activations=values)


def documents(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("zarr.json")}


def test_what_is_refused_leaves_the_store_as_it_was(tmp_path, features):
    values, labels = features
    path = tmp_path / "a.zarr"
    write = functools.partial(pc.write_arrays, path, split="s", shard_rows=400)
    write(layer="l", activations=values, labels=labels)
    before = documents(path)
    other = labels.copy()
    other[700] += 1
    with pytest.raises(pc.FingerprintMismatch, match=r"row 700 .* label"):
        write(layer="more", activations=values, labels=other)
    with pytest.raises(pc.FingerprintMismatch, match=r"row 0 .* sample"):
        write(layer="more", activations=values, labels=labels, samples=[f"x{i}" for i in range(1000)])
    with pytest.raises(pc.InputError, match="3 class names for labels up to 9: name every class"):
        write(split="t", layer="l", activations=values, labels=labels, class_names=list("abc"))
    assert documents(path) == before
    assert pc.open_store(path).layers == ["l"]


def test_what_the_error_advises_works(tmp_path, features):
    """float16 overflows: the message says --dtype float32, and nothing of the first try stands in its way."""
    values, labels = features
    write = functools.partial(
        pc.write_arrays, tmp_path / "a", split="s", layer="l", labels=labels, shard_rows=400
    )
    with pytest.raises(pc.ProbecacheError, match="store as --dtype bfloat16 or float32"):
        write(activations=values * 1e6, dtype="float16")
    store = write(activations=values * 1e6, dtype="float32")
    np.testing.assert_array_equal(store.matrix("s", "l"), values * np.float32(1e6))
    assert list(verify(tmp_path / "a")) == []
    with pytest.raises(pc.FingerprintMismatch, match="dtype"):  # now it has rows
        write(activations=values, dtype="float16")


def test_a_living_writers_empty_layer_is_not_made_anew(tmp_path, features):
    values, labels = features
    first = open_writer(
        tmp_path / "a",
        split="s",
        n_samples=1000,
        layers=[LayerSpec("l", 37, "float16")],
        class_names=[str(i) for i in range(10)],
        fingerprint=Fingerprint(backbone={"source": "arrays"}),
    )
    write = functools.partial(pc.write_arrays, tmp_path / "a", split="s", layer="l", labels=labels)
    with first, pytest.raises(pc.FingerprintMismatch, match="dtype"):
        write(activations=values, dtype="float32")
    assert write(activations=values, dtype="float32").matrix("s", "l").dtype == np.float32


def test_what_numpy_does_not_take_is_said(tmp_path):
    torch = pytest.importorskip("torch")
    for activations in (torch.ones(4, 2).to_sparse(), [[1, 2], [3]], "text"):
        with pytest.raises(pc.InputError, match=r"activations is (no array|<U4)"):
            pc.write_arrays(
                tmp_path / "a", split="s", layer="l", activations=activations, labels=[0, 1, 0, 1]
            )
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("labels", [np.array([0, 10**6]), np.array([0, 2**63], np.uint64)])
def test_labels_that_number_no_classes_are_refused(tmp_path, labels):
    """Each class up to the largest gets a name: hashes for labels would have filled the memory."""
    with pytest.raises(pc.InputError, match="number the classes from 0"):
        pc.write_arrays(tmp_path / "a", split="s", layer="l", activations=np.ones((2, 3)), labels=labels)
    assert not (tmp_path / "a").exists()


def test_an_npz_is_said_to_be_one(tmp_path, features):
    np.savez(tmp_path / "x.npz", first=features[0], second=features[1])
    with pytest.raises(pc.InputError, match=r"has 2 arrays \(first, second\): name one"):
        open_matrix(str(tmp_path / "x.npz"), "--activations")
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(pc.InputError, match="of another format") as caught:
        open_matrix(str(tmp_path / "text.npy"), "--activations")
    assert "allow_pickle" not in str(caught.value)
