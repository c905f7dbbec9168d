"""write_arrays and what plain tools read from its store."""

import functools

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray as xr
import zarr

import probecache as pc
from probecache.store.fingerprint import Fingerprint
from probecache.store.importing.formats.open import open_matrix
from probecache.store.layout import LayerSpec, SplitSpec
from probecache.store.verification.verify import verify
from probecache.store.writer import open_split_writer


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
    with pytest.raises(pc.ProbecacheError, match="store as dtype bfloat16 or float32"):
        write(activations=values * 1e6, dtype="float16")
    store = write(activations=values * 1e6, dtype="float32")
    np.testing.assert_array_equal(store.matrix("s", "l"), values * np.float32(1e6))
    assert list(verify(tmp_path / "a")) == []
    with pytest.raises(pc.FingerprintMismatch, match="dtype"):  # now it has rows
        write(activations=values, dtype="float16")


def test_a_living_writers_empty_layer_is_not_made_anew(tmp_path, features):
    values, labels = features
    first = open_split_writer(
        tmp_path / "a",
        SplitSpec(
            split="s",
            n_samples=1000,
            layers=[LayerSpec("l", 37, "float16")],
            class_names=[str(i) for i in range(10)],
            fingerprint=Fingerprint(backbone={"source": "arrays"}),
        ),
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


def tree(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def store_of(path, values, labels=None, **options):
    labels = np.arange(len(values)) % 2 if labels is None else labels
    options = {"split": "s", "layer": "l", "shard_rows": 8, **options}
    return pc.write_arrays(path, activations=values, labels=labels, **options)


@pytest.mark.parametrize(
    ("kept", "change", "says"),
    [
        ("float16", lambda x: x * 1e-10, "too small for float16 and became 0, and 6 of 6 neurons"),
        ("bfloat16", lambda x: x.astype(np.float64) * 1e-60, "too small for bfloat16"),
        ("float32", lambda x: x.astype(np.float64) * 1e-60, "too small for float32"),
        ("float16", lambda x: x * 1e6, "beyond float16's 65504"),
        ("float32", lambda x: x.astype(np.float64) * 1e60, "beyond what float32 holds"),
        ("bfloat16", lambda x: x.astype(np.float64) * 1e60, "beyond what bfloat16 holds"),
    ],
)
def test_values_that_the_dtype_does_not_hold_are_refused_before_anything_is_made(
    tmp_path, kept, change, says
):
    good = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    bad = good.astype(np.float64)
    bad[30:] = change(good[30:])  # far from the first shard
    with pytest.raises(pc.ProbecacheError, match=says.replace("float16's", "float16.s")):
        store_of(tmp_path / "new", bad, dtype=kept)
    assert not (tmp_path / "new").exists()
    store_of(tmp_path / "old", good[:20], dtype=kept)
    before = tree(tmp_path / "old")
    with pytest.raises(pc.ProbecacheError):
        store_of(tmp_path / "old", bad, dtype=kept)
    assert tree(tmp_path / "old") == before
    store_of(tmp_path / "new", bad, dtype=kept, allow_saturated=True)
    assert list(verify(tmp_path / "new")) == []


def test_small_tails_are_counted_and_allowed(tmp_path):
    """GELU's: some values of a neuron vanish in float16, the neuron does not."""
    x = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32) * 3
    gelu = x * 0.5 * (1 + np.tanh(0.8 * (x + 0.045 * x**3)))
    gelu = np.where(x < -5, -1e-9, gelu).astype(np.float32)
    store = store_of(tmp_path / "s", gelu, dtype="float16", shard_rows=64)
    expected = int(((gelu != 0) & (gelu.astype(np.float16) == 0)).sum())
    assert expected > 5
    assert store.report("s", "l")["underflow"] == expected
    assert list(verify(tmp_path / "s")) == []


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "uint16", "int64"])
@pytest.mark.parametrize("order", ["Fortran", "big-endian", "strided", "read-only", "reversed"])
def test_arrays_in_any_order_of_memory_are_right_twice(tmp_path, kind, order):
    values = np.random.default_rng(0).integers(0, 100, (30, 6)).astype(kind)
    given = {
        "Fortran": lambda: np.asfortranarray(values),
        "big-endian": lambda: values.astype(values.dtype.newbyteorder(">")),
        "strided": lambda: np.repeat(np.repeat(values, 2, axis=0), 3, axis=1)[::2, ::3],
        "read-only": lambda: np.frombuffer(values.tobytes(), values.dtype).reshape(values.shape),
        "reversed": lambda: values[::-1, ::-1].copy()[::-1, ::-1],
    }[order]()
    for _ in range(2):
        store = store_of(tmp_path / "s", given)
    assert store.matrix("s", "l").dtype == (kind if kind in ("float16", "float32") else "float32")
    np.testing.assert_array_equal(store.matrix("s", "l"), values.astype(np.float32))
    np.save(tmp_path / "X.npy", given)
    store = store_of(tmp_path / "s", np.load(tmp_path / "X.npy", mmap_mode="r"))
    assert list(verify(tmp_path / "s")) == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.ma.masked_greater(np.arange(12.0).reshape(4, 3), 5), "masked array with masked values"),
        (np.ones((4, 3), complex), "are complex128"),
        (np.ones((4, 3), "V2"), "as numpy saves bfloat16"),
        (np.full((4, 3), "1.5"), "activations"),
    ],
)
def test_arrays_that_are_not_plain_numbers_are_refused(tmp_path, values, says):
    with pytest.raises(pc.InputError, match=says):
        store_of(tmp_path / "s", values)
    assert not (tmp_path / "s").exists()


def test_a_masked_array_that_masks_nothing_is_its_values(tmp_path):
    values = np.ma.masked_array(np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(store_of(tmp_path / "s", values).matrix("s", "l"), values.data)


def test_text_labels_become_classes(tmp_path):
    values = np.ones((4, 3), np.float32)
    store = store_of(tmp_path / "s", values, np.array(["dog", "cat", "dog", "ant"]))
    assert store.class_names("s") == ["ant", "cat", "dog"]
    assert store.labels("s").tolist() == [2, 1, 2, 0]
    store = store_of(tmp_path / "s", values, ["dog", "cat", "dog", "ant"], layer="other")
    assert store.layers == ["l", "other"]
    names = ["dog", "cat", "ant", "bee"]
    store = store_of(tmp_path / "t", values, ["dog", "cat", "dog", "ant"], class_names=names)
    assert store.labels("s").tolist() == [0, 1, 0, 2]
    with pytest.raises(pc.InputError, match="'eel', which is no class"):
        store_of(tmp_path / "u", values, ["dog", "eel", "dog", "ant"], class_names=names)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([3.7, 1, 0, 2], "labels are float64"),
        (["dog", 1, None, "cat"], "mixes"),
        ([-2, 0, 1, 0], "labels go down to -2"),
        (np.ma.masked_less(np.arange(4), 2), "masked array: write -1"),
    ],
)
def test_labels_that_say_no_class_are_refused(tmp_path, labels, says):
    labels = np.array(labels, dtype=object) if isinstance(labels, list) and "dog" in labels else labels
    with pytest.raises(pc.InputError, match=says):
        store_of(tmp_path / "s", np.ones((4, 3), np.float32), labels)
    assert not (tmp_path / "s").exists()


def test_rows_take_what_columns_take(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    store = store_of(tmp_path / "s", values)
    for rows in ([3, 17], [17, 3], [49, 0, 0, 8, 7], np.array([8]), range(2, 40, 5), [], np.arange(50)[::-1]):
        np.testing.assert_array_equal(store.matrix("s", "l", rows=rows), values[list(rows)])
        got = store.matrix("s", "l", columns=[5, 1], rows=rows, dtype="float64")
        np.testing.assert_array_equal(got, values[list(rows)][:, [5, 1]])
    np.testing.assert_array_equal(store.matrix("s", "l", rows=(3, 17)), values[3:17])
    np.testing.assert_array_equal(store.matrix("s", "l", rows=slice(3, 17)), values[3:17])
    for rows in ([3, 50], [-1], [[1, 2]], [1.5], [True] * 50, (1, 2, 3), "ab"):
        with pytest.raises(pc.InputError, match="rows"):
            store.matrix("s", "l", rows=rows)


def test_layers_that_an_older_version_wrote_without_underflow_go_on(tmp_path, monkeypatch):
    from probecache.store.format.groups import Layer

    values = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    made = Layer.__init__

    def old(self, *arguments, **options):
        made(self, *arguments, **{**options, **({} if len(arguments) > 6 else {"n_statistics": 8})})

    with monkeypatch.context() as patch:
        patch.setattr(Layer, "__init__", old)
        store_of(tmp_path / "s", values[:20])
    assert b'"statistics"' not in (tmp_path / "s/s/l/zarr.json").read_bytes()
    assert list(verify(tmp_path / "s")) == []
    store = store_of(tmp_path / "s", values)
    np.testing.assert_array_equal(store.matrix("s", "l"), values)
    assert set(store.report("s", "l")) == {"nonfinite", "saturated"}
    assert list(verify(tmp_path / "s")) == []


def test_values_that_probes_refuse_are_said_when_they_are_written(tmp_path, features, caplog):
    values = features[0].copy()
    store = pc.write_arrays(tmp_path / "a", split="s", layer="l", activations=values)
    assert not caplog.records
    values[[3, 5], 7] = np.nan
    store = pc.write_arrays(tmp_path / "a", split="s", layer="m", activations=values)
    assert np.array_equal(store.matrix("s", "m"), values, equal_nan=True)
    (record,) = caplog.records
    assert "layer 'm' of split 's': 2 values are NaN or infinite" in record.getMessage()


def test_what_the_dtype_rounds_is_said_once_unless_it_was_asked_for(tmp_path, caplog):
    x = np.random.default_rng(0).normal(size=(40, 3))
    half = x.astype(np.float16)
    pc.write_arrays(tmp_path / "s", split="s", layer="exact", activations=half.astype(np.float64))
    pc.write_arrays(tmp_path / "s", split="s", layer="asked", activations=x, dtype="float16")
    with pc.open_writer(tmp_path / "s", split="t", layers={"l": 3}, dtype="float32") as stream:
        stream.append({"l": x})
    assert not caplog.records
    pc.write_arrays(tmp_path / "s", split="s", layer="taken", activations=x, shard_rows=None)
    with pc.open_writer(tmp_path / "s", split="u", layers={"l": 3, "m": 3}) as stream:
        stream.append({"l": half, "m": half})  # the first batch decides
        stream.append({"l": x.astype(np.float32), "m": half})
        stream.append({"l": x.astype(np.float32), "m": half})
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(" values")[0] for line in told] == [
        "layer 'taken' of split 's': float64",
        "layer 'l': float32",
    ]
    assert "rounded to float32, by up to 5e-08 of a value; give dtype='float32'" in told[0]
    assert "rounded to float16, by up to 0.0005 of a value" in told[1]


def test_labels_of_pandas_own_types(tmp_path):
    x = np.ones((3, 2), np.float32)
    given = {
        "nullable": (pd.array([1, None, 0], dtype="Int64"), [1, -1, 0], ["0", "1"]),
        "categories": (pd.Categorical([30, 10, None], [30, 20, 10]), [0, 2, -1], ["30", "20", "10"]),
        "empty": (np.array(["cat", "", "dog"]), [0, -1, 1], ["cat", "dog"]),
    }
    for split, (labels, values, names) in given.items():
        store = pc.write_arrays(tmp_path / split, split="s", layer="l", activations=x, labels=labels)
        assert (store.labels("s").tolist(), list(store.class_names("s"))) == (values, names)


def test_activations_of_pandas_nullable_types(tmp_path):
    frame = pd.DataFrame({"a": [1.5, None], "b": [2, 3]}).convert_dtypes()
    stored = pc.write_arrays(tmp_path / "s", split="s", layer="l", activations=frame).matrix("s", "l")
    np.testing.assert_array_equal(stored, np.array([[1.5, 2], [np.nan, 3]], np.float32))


@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_sparse_activations_are_refused_in_one_line(tmp_path, kind):
    with pytest.raises(pc.InputError, match=r"of scipy: make it dense \(.toarray\(\)\)"):
        pc.write_arrays(tmp_path / "s", split="s", layer="l", activations=kind(np.eye(3)))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("status", [[1] * 5, [1, 2, 1], [1, 0, 1, 1], [[1, 1, 1, 1]], 1])
def test_states_that_are_no_state_of_each_row_are_refused(tmp_path, status):
    more = {"activations": np.ones((4, 3)), "labels": [0, 1, 0, 1], "dtype": "float16"}
    with pytest.raises(pc.InputError, match=r"use \(4,\) of 1 \(ok\) or 2 \(failed\), one per row"):
        pc.write_arrays(tmp_path / "s", split="s", layer="l", status=status, **more)
    assert not (tmp_path / "s").exists()
