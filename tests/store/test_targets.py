"""Targets beside `label`: written, matched by name, read, checked, grown and copied."""

import contextlib
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import probecache as pc
from probecache.store.claims import Claims
from probecache.store.targets import make_target
from probecache.store.verification.repair import repair
from probecache.store.verification.verify import verify
from probecache.store.writing.subset import write_subset
from probecache.store.writing.targets import TARGETS
from tests.store.dying import Killed, dead_marks, dying

N = 20
RNG = np.random.default_rng(0)
GIVEN = {
    "color": np.arange(N) % 3,
    "age": np.where(np.arange(N) == 4, np.nan, RNG.normal(size=N)),
    "where": RNG.normal(size=(N, 2)),
    "attributes": RNG.integers(0, 2, (N, 4)),
    "maker": np.array([None if i == 2 else "xyz"[i % 3] for i in range(N)], object),
}


def features(path, n=N, split="train", **more):
    x = np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32)[:n]
    names = [f"cat/{i}.png" for i in range(n)]
    return pc.write_arrays(
        path,
        split=split,
        layer="l",
        activations=x,
        labels=np.arange(n) % 2,
        samples=names,
        shard_rows=8,
        **more,
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    made = features(tmp_path_factory.mktemp("targets") / "s", class_names=["0", "1"])
    pc.write_targets(made, split="train", targets=GIVEN)
    return made.path


@pytest.fixture
def store(original, tmp_path):
    shutil.copytree(original, tmp_path / "s")
    return pc.open_store(tmp_path / "s")


def test_round_trip_and_plain_tools(store):
    assert store.targets("train") == ("label", "age", "attributes", "color", "maker", "where")
    assert store.layers == ["l"]
    expected = {
        "color": ("classes", GIVEN["color"], ("0", "1", "2")),
        "age": ("numbers", GIVEN["age"].reshape(-1, 1), ("age",)),
        "where": ("numbers", GIVEN["where"], ("0", "1")),
        "attributes": ("labels", GIVEN["attributes"], ("0", "1", "2", "3")),
        "maker": ("classes", np.where(np.arange(N) == 2, -1, np.arange(N) % 3), ("x", "y", "z")),
        "label": ("classes", np.arange(N) % 2, ("0", "1")),
    }
    plain, tree = zarr.open(store.path, mode="r"), xr.open_datatree(store.path, engine="zarr")
    ours = store["train"]
    for name, (kind, values, names) in expected.items():
        target = store.target("train", name)
        assert (target.name, target.kind, target.names) == (name, kind, names)
        np.testing.assert_array_equal(target, values)
        np.testing.assert_array_equal(plain[f"train/{name}"][:].reshape(values.shape), values)
        for found in (tree["train"][name], ours[name]):
            assert found.dims[0] == "sample"
            np.testing.assert_array_equal(found.values.reshape(values.shape), values)
    assert tree["train/maker"].attrs["names"] == ["x", "y", "z"]
    assert store.target("train", "age").labelled.tolist() == [i != 4 for i in range(N)]
    assert store.target("train", "maker").labelled.sum() == N - 1
    assert {store.target("train", n).values.dtype for n in expected} == {
        np.dtype(t) for t in ("i8", "f8", "i1")
    }
    assert list(verify(store.path)) == []


def test_matched_by_name_never_by_position(store):
    order = np.random.default_rng(3).permutation(N)[:15]
    frame = pd.DataFrame({"file": [f"cat/{i}.png" for i in order] + ["dog/1.png"], "size": [*order, 99]})
    done = pc.write_targets(store, split="train", targets=frame, key="file")
    expected = np.where(np.isin(np.arange(N), order), np.arange(N), -1)
    np.testing.assert_array_equal(store.target("train", "size"), expected)
    assert str(done).splitlines() == [
        "split train: 15 of 20 samples have a row; 1 of 16 rows name no sample here (the first: 'dog/1.png')",
        "  size: 100 classes, 15 rows labelled, 5 unlabelled",
    ]
    indexed = frame.set_index("file").rename(columns={"size": "again"})
    pc.write_targets(store, split="train", targets=indexed)
    np.testing.assert_array_equal(store.target("train", "again"), expected)
    named = {"third": frame["size"].to_numpy(), "sample": frame["file"].tolist()}
    pc.write_targets(store, split="train", targets=named)
    np.testing.assert_array_equal(store.target("train", "third"), expected)


def test_a_digest_changes_with_any_value_or_name(store):
    digests = {name: store.target_digest("train", name) for name in store.targets("train")}
    assert len(set(digests.values())) == len(digests)
    changed = GIVEN["color"].copy()
    changed[-1] = 0
    pc.write_targets(store, split="train", targets={"color": changed}, overwrite=True)
    assert store.target_digest("train", "color") != digests["color"]
    assert store.target_digest("train", "age") == digests["age"]


def test_written_again_is_the_same_and_other_values_are_refused(store):
    before = files_of(store.path)
    pc.write_targets(store, split="train", targets=GIVEN)
    changed = GIVEN["color"].copy()
    changed[13] = 0
    with pytest.raises(pc.FingerprintMismatch, match=r"'color'.*first in row 13: stored \[1\], given \[0\]"):
        pc.write_targets(store, split="train", targets={"new": GIVEN["age"], "color": changed})
    with pytest.raises(pc.FingerprintMismatch, match="stored are classes of 3"):
        pc.write_targets(store, split="train", targets={"color": GIVEN["age"]})
    assert files_of(store.path) == before
    pc.write_targets(store, split="train", targets={"color": GIVEN["age"]}, overwrite=True)
    np.testing.assert_array_equal(store.target("train", "color").values[:, 0], GIVEN["age"])
    assert list(verify(store.path)) == []


def test_a_split_that_grew_lacks_the_new_rows_until_the_same_command_runs(store):
    features(store.path, 30)
    grown = pc.open_store(store.path)
    with pytest.raises(pc.UnfinishedSplit, match=r"target 'age', rows 20:30 and perhaps more"):
        grown.target("train", "age")
    partial = pc.open_store(store.path, partial=True).target("train", "color")
    np.testing.assert_array_equal(partial, [*GIVEN["color"], *[-1] * 10])
    assert {d.piece for d in verify(store.path)} == {f"target {name}" for name in GIVEN}
    xr.open_datatree(store.path, engine="zarr").close()
    longer = {"color": [*GIVEN["color"], *[2] * 10]}
    pc.write_targets(grown, split="train", targets=longer)
    np.testing.assert_array_equal(grown.target("train", "color"), longer["color"])


@pytest.mark.parametrize("piece", ["color/c/0", "attributes/c/0/0", "color/zarr.json", "label/zarr.json"])
@pytest.mark.parametrize("how", ["flip", "lost"])
def test_damage_is_named_and_repaired(store, piece, how):
    whole = files_of(store.path)
    path = store.files.root / "train" / piece
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw) if how == "flip" else path.unlink()
    found = list(verify(store.path))
    assert found
    assert any(piece.split("/")[0] in d.piece for d in found), found
    repair(store.path)
    pc.write_targets(store.path, split="train", targets=GIVEN)
    assert list(verify(store.path)) == []
    assert files_of(store.path) == whole


def by_shard(monkeypatch):
    """Targets as they were written before their chunks were of many shards."""
    one = lambda split, kind, names: split.geometry  # noqa: E731
    monkeypatch.setattr("probecache.store.writing.targets.chunk_geometry", one)


@pytest.mark.parametrize("how", ["lost", "empty", "flipped"])
def test_the_same_call_writes_a_damaged_chunk_again(store, how):
    """It said that all rows were labelled, and left the damage."""
    chunk = store.files.root / "train/color/c/0"
    raw = chunk.read_bytes()
    chunk.unlink()
    if how != "lost":
        chunk.write_bytes(b"" if how == "empty" else raw[:-1] + bytes([raw[-1] ^ 1]))
    assert list(verify(store.path))
    pc.write_targets(store.path, split="train", targets=GIVEN)
    assert list(verify(store.path)) == []
    assert chunk.read_bytes() == raw


@pytest.mark.parametrize("piece", ["color/c/1", "attributes/c/2/0"])
def test_targets_with_a_chunk_for_each_shard_are_read_grown_and_mended(tmp_path, monkeypatch, piece):
    path = tmp_path / "s"
    features(path, class_names=["0", "1"])
    with monkeypatch.context() as then:
        by_shard(then)
        pc.write_targets(path, split="train", targets=GIVEN)
    whole = files_of(path)
    assert f"train/{piece}" in {str(name) for name in whole}
    raw = bytearray((path / "train" / piece).read_bytes())
    raw[len(raw) // 2] ^= 4
    (path / "train" / piece).write_bytes(raw)
    found = list(verify(path))
    assert [(d.kind, d.piece.split()[1]) for d in found] == [("target", piece.split("/")[0])]
    repair(path)
    pc.write_targets(path, split="train", targets=GIVEN)
    assert (files_of(path), list(verify(path))) == (whole, [])
    features(path, 30, class_names=["0", "1"])
    with pytest.raises(pc.UnfinishedSplit, match="target 'color', rows 20:24 and perhaps"):
        pc.open_store(path).target("train", "color")
    longer = {"color": [*GIVEN["color"], *[2] * 10]}
    pc.write_targets(path, split="train", targets=longer)
    np.testing.assert_array_equal(pc.open_store(path).target("train", "color"), longer["color"])
    other = {"color": np.arange(30) % 2 * 1.0}  # of another kind: in chunks of many shards
    pc.write_targets(path, split="train", targets=other, overwrite=True)
    np.testing.assert_array_equal(pc.open_store(path).target("train", "color").values[:, 0], other["color"])


def test_a_target_that_is_wide_lies_in_several_chunks(store):
    wide = np.random.default_rng(0).random((N, 300))
    with mock.patch("probecache.store.format.target_array.CHUNK_BYTES", 8 * 300 * 16):
        pc.write_targets(store, split="train", targets={"wide": wide})
    assert len(list((store.files.root / "train/wide/c").glob("*/0"))) == 2
    np.testing.assert_array_equal(store.target("train", "wide"), wide)
    np.testing.assert_array_equal(zarr.open_group(store.path, mode="r")["train/wide"][:], wide)
    assert list(verify(store.path)) == []


def test_a_target_and_a_layer_never_share_a_name(store):
    with pytest.raises(pc.InputError, match="has a layer of that name"):
        pc.write_targets(store, split="train", targets={"l": GIVEN["color"]})
    with pytest.raises(pc.InputError, match="has a target of that name"):
        pc.write_arrays(
            store.path,
            split="train",
            layer="color",
            activations=np.zeros((N, 2)),
            labels=np.arange(N) % 2,
            samples=[f"cat/{i}.png" for i in range(N)],
        )
    assert list(verify(store.path)) == []


BAD = [
    ({"a b": [0] * N}, "target 'a b' cannot be a name"),
    ({"label": [0] * N}, "the one that came with the data"),
    ({"a": [0] * 3}, "has 3 rows, split 'train' has 20"),
    ({"a": [-1, 1] * 10}, "is -1 'no' or unlabelled"),
    ({"a": [-2, 1] * 10}, "whole numbers from -2"),
    ({"a": [0.5, np.inf] * 10}, "10 infinite values"),
    ({"a": [1 + 2j] * N}, "holds complex128"),
    ({"a": np.array([1, "x"] * 10, object)}, "mixes int, str"),
    ({"a": np.zeros((N, 2, 2))}, "has shape"),
    ({"a": [[0, 2]] * N}, "labels are 0 or 1"),
    ({"a": [None] * N}, "every value is missing"),
    ({"sample": ["x"] * N, "a": [0] * N}, "'x' occurs twice, in rows 0 and 1"),
    ({"sample": ["x", "y"], "a": [0, 1]}, "no row names a sample"),
    ({"sample": ["x", None], "a": [0, 1]}, "row 1 holds None"),
    ({}, "no targets were given"),
    ([1, 2], "targets are a list"),
]


@pytest.mark.parametrize(("targets", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_targets_are_refused_and_change_nothing(store, targets, says):
    before = files_of(store.path)
    with pytest.raises(pc.InputError, match=says.replace("(", r"\(")):
        pc.write_targets(store, split="train", targets=targets)
    assert files_of(store.path) == before


def test_an_unknown_target_names_those_that_are_close(store):
    with pytest.raises(pc.InputError, match="close names: color"):
        store.target("train", "colour")


SEEN = [
    ([3, 1, 2**40, -1], None, "classes", [1, 0, 2, -1], ("1", "3", str(2**40))),
    ([True, False], None, "classes", [1, 0], ("False", "True")),
    (pd.Categorical(["b", "a", None], ["b", "a"]), None, "classes", [0, 1, -1], ("a", "b")),
    (
        pd.Series(["b", "a", None], dtype=pd.CategoricalDtype(["b", "a"])),
        None,
        "classes",
        [0, 1, -1],
        ("b", "a"),
    ),
    (pd.Series([1, None, 0], dtype="Int64"), None, "classes", [1, -1, 0], ("0", "1")),
    (pd.Series([1.0, None, 0.0]), "classes", "classes", [1, -1, 0], ("0", "1")),
    ([1, 2, 70], "numbers", "numbers", [[1], [2], [70]], ("t",)),
    (pd.DataFrame({"a": [1, 0], "b": [0, 0]}), None, "labels", [[1, 0], [0, 0]], ("a", "b")),
    (np.array([[1, np.nan], [0, 1]]), "labels", "labels", [[1, -1], [0, 1]], ("0", "1")),
]


@pytest.mark.parametrize(("values", "kind", "seen", "stored", "names"), SEEN)
def test_what_values_are_taken_for(tmp_path, values, kind, seen, stored, names):
    from probecache.store.importing.targets import _names

    target = make_target("t", values, kind, _names(values))
    if isinstance(values, pd.Categorical):
        names = target.names
    assert (target.kind, target.names) == (seen, names)
    np.testing.assert_array_equal(target, stored)
    assert not target.labelled[(np.asarray(stored) == -1).reshape(len(stored), -1).any(axis=1)].any()


def files_of(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()}


@pytest.mark.parametrize("case", ["new", "replaced", "grown"])
def test_killed_at_any_call_the_store_reads_and_the_same_call_completes_it(original, tmp_path, case):
    """At every sixth system call of the writing, until it ends by itself."""
    n = 30 if case == "grown" else N
    values = np.arange(n) % 3 if case != "replaced" else np.arange(n) % 2
    name = "other" if case == "new" else "color"
    shutil.copytree(original, tmp_path / "begin")
    if case == "grown":
        features(tmp_path / "begin", n)

    def label(path):
        pc.write_targets(path, split="train", targets={name: values}, overwrite=case == "replaced")

    shutil.copytree(tmp_path / "begin", tmp_path / "whole")
    label(tmp_path / "whole")
    whole = files_of(tmp_path / "whole")
    old = pc.open_store(tmp_path / "begin", partial=True)
    known = old.target("train", name).values if name in old.targets("train") else None
    for kill in range(0, 200, 6):
        path = tmp_path / f"k{kill}"
        shutil.copytree(tmp_path / "begin", path)
        done = False
        with contextlib.suppress(Killed), dead_marks(), dying(kill):
            label(path)
            done = True
        store = pc.open_store(path)
        assert store.matrix("train", "l").shape == (n, 3)
        try:
            found = store.target("train", name).values
            assert np.array_equal(found, values) or np.array_equal(found, known)
        except pc.UnfinishedSplit:
            assert case != "new"
        except pc.InputError:
            assert case == "new"
        xr.open_datatree(path, engine="zarr").close()
        label(path)
        assert files_of(path) == whole
        shutil.rmtree(path)
        if done:
            break
    assert 10 < kill < 199


def test_two_writers_of_targets_are_refused(store):
    claims = Claims(store.files, "train")
    claims.take([TARGETS])
    with pytest.raises(pc.InputError, match=r"the targets of split 'train' .* are being written by process"):
        pc.write_targets(store, split="train", targets={"other": GIVEN["color"]})
    claims.close()
    pc.write_targets(store, split="train", targets={"other": GIVEN["color"]})


def test_a_subset_keeps_the_targets(store, tmp_path):
    kept = write_subset(store, np.array([2, 0]), tmp_path / "kept")
    assert kept.targets("train") == store.targets("train")
    for name in kept.targets("train"):
        np.testing.assert_array_equal(kept.target("train", name), store.target("train", name))
        assert kept.target_digest("train", name) == store.target_digest("train", name)


def test_a_copy_of_the_store_reads_the_same(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "copy")
    copy = pc.open_store(tmp_path / "copy")
    assert copy.target_digest("train", "age") == store.target_digest("train", "age")


def test_info_names_the_targets(store, capsys):
    with pytest.raises(SystemExit):
        pc.main(["info", str(store.path)])
    told = capsys.readouterr().out
    assert "target color of train: classes (3)\n" in told
    assert "target attributes of train: labels (4)\n" in told


def test_any_flipped_bit_of_any_file_of_a_target_is_named(store):
    rng = np.random.default_rng(0)
    files = [p for name in GIVEN for p in (store.files.root / "train" / name).rglob("*") if p.is_file()]
    assert len(files) == len(GIVEN) * 2
    for path in files:
        raw = path.read_bytes()
        at, bit = rng.integers(len(raw)), rng.integers(8)
        path.write_bytes(raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :])
        name = path.relative_to(store.files.root / "train").parts[0]
        found = [str(damage) for damage in verify(store.path)]
        assert any(f"target {name}" in text or f"train/{name}/" in text for text in found), (path, found)
        path.write_bytes(raw)
    assert list(verify(store.path)) == []


def test_a_target_whose_document_is_damaged_is_said_to_be_that(tmp_path):
    path, y = tmp_path / "s", np.arange(12) % 2
    pc.write_arrays(path, split="a", layer="l", activations=np.eye(12, dtype=np.float32))
    pc.write_targets(path, split="a", targets={"even": y})
    (path / "a/even/zarr.json").write_bytes(b"x")
    with pytest.raises(
        pc.DamagedStore, match=r"even/zarr.json is not JSON.*repair drops it, then this writes"
    ):
        pc.write_targets(path, split="a", targets={"even": y})
    with pytest.raises(SystemExit, match="0"):
        pc.main(["repair", str(path)])
    pc.write_targets(path, split="a", targets={"even": y})
    assert (pc.open_store(path).target("a", "even").values == y).all()
    with pytest.raises(pc.InputError, match="has a layer of that name"):
        pc.write_targets(path, split="a", targets={"l": y})


@pytest.mark.parametrize(
    ("given", "values", "names"),
    [
        (pd.Categorical([30, 10, None]), [1, 0, -1], ("10", "30")),
        (pd.Categorical([30, 10, None], [30, 20, 10]), [0, 2, -1], ("30", "20", "10")),
        (
            pd.Categorical(["lo", "hi", "lo"], ["lo", "mid", "hi"], ordered=True),
            [0, 2, 0],
            ("lo", "mid", "hi"),
        ),
        (pd.Series(pd.Categorical([True, None, False])), [1, -1, 0], ("False", "True")),
        (pd.cut(pd.Series([0.5, 2.5, 1.5]), [0, 1, 2, 3]), [0, 2, 1], ("(0, 1]", "(1, 2]", "(2, 3]")),
        (np.array(["cat", "", "dog"]), [0, -1, 1], ("cat", "dog")),
        (np.array([[2], [0], [1]]), [2, 0, 1], ("0", "1", "2")),
        (np.array([["cat"], ["dog"], [None]], object), [0, 1, -1], ("cat", "dog")),
    ],
)
def test_categories_empty_texts_and_single_columns_are_classes(given, values, names):
    target = make_target("t", given)
    assert (target.kind, target.values.tolist(), target.names) == ("classes", values, names)


def test_categories_asked_for_as_numbers_are_their_numbers():
    target = make_target("t", pd.Categorical([30, 10, None]), "numbers")
    np.testing.assert_array_equal(target.values[:, 0], [30, 10, np.nan])


def test_rows_instead_of_columns_are_told_from_labels(store):
    with pytest.raises(pc.InputError, match=f"of {N} columns holds 2: .* classes are one column"):
        pc.write_targets(store, split="train", targets={"t": GIVEN["color"][None]})


def test_pandas_without_names_is_told_what_to_give(store):
    for given in ({"t": pd.Series(GIVEN["color"])}, pd.DataFrame({"t": GIVEN["color"]})):
        with pytest.raises(pc.InputError, match=r"give the names as key, or arrays \(.to_numpy\(\)\)"):
            pc.write_targets(store, split="train", targets=given)


def test_a_key_may_be_the_name_of_an_index(store):
    order = np.arange(N)[::-1]
    names = pd.Index([f"cat/{i}.png" for i in order], name="file")
    frame = pd.DataFrame({"t": GIVEN["color"][order]}, names)
    done = pc.write_targets(store, split="train", targets=frame, key="file")
    np.testing.assert_array_equal(done.targets[0].values, GIVEN["color"])
    with pytest.raises(pc.InputError, match="no key column 'files'"):
        pc.write_targets(store, split="train", targets=frame, key="files")


def test_classes_called_like_nothing_are_told(store, caplog):
    values = np.array(["cat", "nan", "N/A", "dog"] * (N // 4))
    pc.write_targets(store, split="train", targets={"t": values, "u": GIVEN["color"]})
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("target 't': 'N/A' and 'nan' is a class like the others")
    assert pc.open_store(store.path).target("train", "t").names == ("N/A", "cat", "dog", "nan")
