"""Streams: batches of any size end as write_arrays would have written them; killed, they go on."""

import contextlib
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import probecache as pc
from probecache.store.verification.verify import verify

ROOT = Path(__file__).parents[3]
N, R = 45, 8
RNG = np.random.default_rng(0)
A = RNG.normal(size=(N, 3)).astype(np.float32)
B = RNG.normal(size=(N, 5)).astype(np.float16)
Y = np.arange(N) % 3
NAMES = [f"text{i // 4}" for i in range(N)]  # tokens: rows share a sample
PLACE = np.arange(N) % 4
LAYERS = {"a": 3, "b": 5}


def files_of(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()}


def but_commits(path):
    return {name: raw for name, raw in files_of(path).items() if "/commit/" not in name}


def open_stream(path, **more):
    return pc.open_writer(path, split="train", layers=LAYERS, columns=["position"], shard_rows=R, **more)


def append(stream, start, stop, where=None):
    at = slice(start, stop)
    values, columns = {"a": A[at], "b": B[at]}, {"position": PLACE[at]}
    stream.append(values, labels=Y[at], samples=NAMES[at], columns=columns, start=where)


def expected(path, n=N):
    """The same store by write_arrays, a layer at a time, and write_targets."""
    for layer, values in (("a", A), ("b", B)):
        pc.write_arrays(
            path,
            split="train",
            layer=layer,
            activations=values[:n],
            labels=Y[:n],
            samples=NAMES[:n],
            shard_rows=R,
        )
    pc.write_targets(path, split="train", targets={"position": PLACE[:n]}, kinds="numbers")
    return files_of(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return expected(tmp_path_factory.mktemp("stream") / "s")


@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=30), known=st.booleans())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_batches_of_any_size_give_the_bytes_of_write_arrays(tmp_path_factory, whole, sizes, known):
    path, at = tmp_path_factory.mktemp("any") / "s", 0
    with open_stream(path, n_samples=N if known else None) as stream:
        assert (stream.done, stream.position) == (0, 0)
        for size in [*sizes, N]:
            append(stream, at, min(at + size, N))
            at = min(at + size, N)
            assert stream.position == at
    assert files_of(path) == whole
    assert list(verify(path)) == []


@pytest.mark.parametrize("n", [1, 7, 8, 9, 16, 17])
def test_any_length(tmp_path, n):
    with open_stream(tmp_path / "s") as stream:
        append(stream, 0, n)
    assert files_of(tmp_path / "s") == expected(tmp_path / "e", n)


def break_off(path, rows, **more):
    """A stream that is left by an error after `rows` rows."""
    with contextlib.suppress(KeyError), open_stream(path, **more) as stream:
        append(stream, stream.position, rows)
        raise KeyError


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("how", ["position", "again", "start"])
def test_a_broken_stream_goes_on(tmp_path, whole, known, how):
    path, n = tmp_path / "s", N if known else None
    break_off(path, 20, n_samples=n)
    with pytest.raises(pc.UnfinishedSplit, match="is being streamed and was not finished"):
        pc.open_store(path).matrix("train", "a")
    assert [d.kind for d in verify(path) if d.piece == "stream"] == ["unwritten"]
    xr.open_datatree(path, engine="zarr").close()
    before = {p: p.stat().st_mtime_ns for p in path.rglob("activations/c/*/0")}
    assert len(before) == 4
    with open_stream(path, n_samples=n) as stream:
        assert (stream.done, stream.position) == (16, 16)
        if how == "position":
            append(stream, stream.position, N)
        elif how == "start":
            append(stream, 5, N, where=5)
        else:
            for at in range(0, N, 7):
                append(stream, at, min(at + 7, N))
    assert files_of(path) == whole
    assert {p: p.stat().st_mtime_ns for p in before} == before
    with open_stream(path) as stream:  # whole already: the same rows change nothing
        assert stream.done == N
        append(stream, 0, N)
    assert files_of(path) == whole


def test_other_rows_are_refused_and_change_nothing(tmp_path):
    path = tmp_path / "s"
    break_off(path, 20)
    before = files_of(path)
    with open_stream(path) as stream:
        append(stream, 0, 3)
        with pytest.raises(pc.FingerprintMismatch, match="label of row 3"):
            stream.append({"a": A[3:5], "b": B[3:5]}, [1, 1], NAMES[3:5], columns={"position": PLACE[3:5]})
        with pytest.raises(pc.FingerprintMismatch, match="layer 'a' of row 4"):
            stream.append({"a": A[[3, 9]], "b": B[3:5]}, Y[3:5], NAMES[3:5], {"position": PLACE[3:5]}, 3)
        with pytest.raises(pc.InputError, match="rows between would be missing"):
            append(stream, 20, 30, where=20)
        stream.close()
    assert files_of(path) == before


def test_rows_that_are_all_alike_have_to_say_where_they_belong(tmp_path):
    def stream():
        return pc.open_writer(tmp_path / "s", split="t", layers={"z": 2}, shard_rows=4)

    with contextlib.suppress(KeyError), stream() as first:
        first.append({"z": np.zeros((9, 2))})
        raise KeyError
    with stream() as second:
        with pytest.raises(pc.InputError, match=r"start=8 to go on"):
            second.append({"z": np.zeros((2, 2))})
        second.append({"z": np.zeros((2, 2))}, start=8)
    assert pc.open_store(tmp_path / "s").shape("t", "z") == (10, 2)


def test_dtypes_are_the_first_batchs_or_those_asked_for(tmp_path):
    layers = dict.fromkeys("abdef", 2)
    x = torch.arange(6.0).reshape(3, 2)
    given = {"a": x.half(), "b": x.bfloat16(), "d": x, "e": x.double().numpy(), "f": x.numpy()}
    with pc.open_writer(tmp_path / "s", split="t", layers=layers, dtype={"f": "float16"}) as stream:
        stream.append(given)
    store = pc.open_store(tmp_path / "s")
    stored = {name: store.layer_info("t", name).spec.dtype for name in layers}
    assert stored == dict(zip("abdef", ["float16", "bfloat16", "float32", "float32", "float16"], strict=True))
    for name in layers:
        np.testing.assert_array_equal(store.matrix("t", name).astype(float), x)
    assert store.labels("t").tolist() == [-1] * 3
    assert store.samples("t").tolist() == ["0", "1", "2"]
    assert store.class_names("t") == []


def test_another_layer_for_the_same_rows(tmp_path):
    expected(tmp_path / "s")
    with pc.open_writer(tmp_path / "s", split="train", layers={"new": 1}) as stream:
        stream.append({"new": np.arange(20)[:, None]})
        stream.append({"new": np.arange(20, N)[:, None]})
    store = pc.open_store(tmp_path / "s")
    np.testing.assert_array_equal(store.matrix("train", "new")[:, 0], np.arange(N))
    np.testing.assert_array_equal(store.labels("train"), Y)
    assert store.samples("train").tolist() == NAMES
    assert list(verify(store.path)) == []
    stream = pc.open_writer(tmp_path / "s", split="train", layers={"d": 1})
    with pytest.raises(pc.InputError, match="beyond the 45"):
        stream.append({"d": np.zeros((N + 1, 1))})


BAD = [
    ({"activations": {"a": A}}, "a batch holds a: give one array for each of a, b"),
    ({"activations": A}, "a batch holds ndarray"),
    ({"activations": {"a": A, "b": B[:3]}}, "layer 'b' has shape (3, 5), not (45, 5)"),
    ({"activations": {"a": A[:, :2], "b": B}}, "layer 'a' has shape (45, 2), not (45, 3)"),
    ({"activations": {"a": A.astype(str), "b": B}}, "layer 'a' is <U"),
    ({"labels": Y[:3]}, "labels are int64 (3,)"),
    ({"labels": Y * 0.5}, "labels are float64"),
    ({"labels": Y - 2}, "-1 where there is none"),
    ({"samples": NAMES[:3]}, "3 samples for 45 rows"),
    ({"columns": None}, "columns are none, not position"),
    ({"columns": {"position": PLACE[:2]}}, "column 'position' has shape (2,)"),
    ({"start": 3}, "the batch starts at row 3, the next is 0"),
]


@pytest.mark.parametrize(("changed", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_batches_are_refused_and_leave_the_stream_as_it_was(tmp_path, whole, changed, says):
    good = {"activations": {"a": A, "b": B}, "labels": Y, "samples": NAMES, "columns": {"position": PLACE}}
    with open_stream(tmp_path / "s") as stream:
        with pytest.raises(pc.InputError) as told:
            stream.append(**(good | changed))
        assert says in str(told.value)
        stream.append(**good)
    assert files_of(tmp_path / "s") == whole


def test_what_cannot_be_a_stream_is_refused(tmp_path):
    for bad, says in (
        ({"layers": {}}, "name at least one"),
        ({"layers": {"a/b": 3}}, "cannot be a name"),
        ({"layers": {"a": 0}}, "has 0 neurons"),
        ({"layers": {"a": 3}, "dtype": "int8"}, "dtype 'int8'"),
        ({"layers": {"a": 3}, "dtype": {"b": "float16"}}, "none of a"),
        ({"layers": {"a": 3}, "n_samples": 0}, "1 to 2\\*\\*48"),
        ({"layers": {"a": 3}, "columns": ["a"]}, "is a layer's name"),
    ):
        with pytest.raises(pc.InputError, match=says):
            pc.open_writer(tmp_path / "s", split="t", **bad)
    assert not (tmp_path / "s").exists()
    with pytest.raises(pc.InputError, match="without a row"), open_stream(tmp_path / "s"):
        pass
    stream = open_stream(tmp_path / "s", n_samples=N)
    append(stream, 0, 20)
    with pytest.raises(pc.UnfinishedSplit, match="ended after 20 of 45 rows"):
        stream.finish()
    stream.close()


def test_one_stream_of_a_split_at_a_time(tmp_path, whole):
    with open_stream(tmp_path / "s") as first:
        early = open_stream(tmp_path / "s")  # before there is a row
        append(first, 0, 9)
        with pytest.raises(
            pc.InputError, match=r"the stream of split 'train' .* is being written by process"
        ):
            open_stream(tmp_path / "s")
        with pytest.raises(pc.InputError, match=r"is not the stored one|holds other|other values|is being"):
            early.append({"a": A + 1, "b": B}, Y, NAMES, {"position": PLACE})
        append(first, 9, N)
    assert files_of(tmp_path / "s") == whole


def test_a_stream_that_failed_says_so_and_another_dtype_may_be_tried(tmp_path):
    def stream(dtype):
        return pc.open_writer(tmp_path / "s", split="t", layers={"a": 1}, dtype=dtype, shard_rows=4)

    large = {"a": np.full((6, 1), 1e9)}

    def ignoring(first):
        with first:
            with contextlib.suppress(pc.ProbecacheError):
                first.append(large)
            with pytest.raises(pc.InputError, match="has ended"):
                first.append(large)

    with pytest.raises(pc.UnfinishedSplit, match="failed before its end"):
        ignoring(stream("float16"))
    with stream("bfloat16") as second:
        second.append(large)
    assert pc.open_store(tmp_path / "s").matrix("t", "a").astype(float).max() == pytest.approx(1e9, rel=0.01)


@pytest.mark.parametrize(
    ("values", "dtype", "says"),
    [
        (np.full((6, 2), 1e-9, np.float32), "float16", "too small for float16 and became 0"),
        (np.full((6, 2), 1e39), "bfloat16", "beyond what bfloat16 holds"),
        (np.full((6, 2), 1e300), None, "beyond what float32 holds"),
    ],
)
def test_what_the_stored_dtype_loses_is_refused_as_write_arrays_does(tmp_path, values, dtype, says):
    def stream(path, **more):
        with pc.open_writer(tmp_path / path, split="t", layers={"a": 2}, dtype=dtype, **more) as writer:
            for part in np.array_split(values, 3):
                writer.append({"a": part})
        return pc.open_store(tmp_path / path)

    more = {"split": "t", "layer": "a", "activations": values, "dtype": dtype}
    with pytest.raises(pc.ProbecacheError, match=says):
        pc.write_arrays(tmp_path / "refused", **more)
    with pytest.raises(pc.ProbecacheError, match=says):
        stream("s")
    whole = pc.write_arrays(tmp_path / "w", **more, allow_saturated=True)
    assert stream("a", allow_saturated=True).report("t", "a") == whole.report("t", "a")


def test_batches_of_several_dtypes_are_stored_as_the_first(tmp_path):
    given = [
        torch.tensor([[1.0]]).bfloat16(),
        np.array([[2.5]], np.float16),
        np.array([[300]], np.int16),
        np.array([[0.25]]),
    ]
    with pc.open_writer(tmp_path / "s", split="t", layers={"a": 1}) as stream:
        for batch in given:
            stream.append({"a": batch})
    found = pc.open_store(tmp_path / "s").matrix("t", "a")
    assert found.dtype.name == "bfloat16"
    assert found.astype(float).ravel().tolist() == [1, 2.5, 300, 0.25]


KILLED = """
    import os, sys, numpy as np, probecache as pc
    from probecache.store.storage import local
    left, real = int(sys.argv[2]), os.replace
    def dying(*a):
        global left
        left -= 1
        if left < 0: os.kill(os.getpid(), 9)
        real(*a)
    os.replace = dying
    x = np.arange(90, dtype=np.float32).reshape(30, 3)
    with pc.open_writer(sys.argv[1], split="t", layers={"a": 3}, columns=["p"], shard_rows=8) as stream:
        for i in range(stream.position, 30, 5):
            at = slice(i, min(i + 5, 30))
            stream.append({"a": x[at]}, labels=np.arange(30)[at] % 2, columns={"p": np.arange(30)[at]})
"""


def test_a_stream_killed_by_sigkill_goes_on_to_the_same_bytes(tmp_path):
    def run(path, kill):
        code = [sys.executable, "-c", textwrap.dedent(KILLED), str(path), str(kill)]
        return subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run(tmp_path / "whole", 10**6).returncode == 0
    for kill in (3, 14, 30, 40):
        path = tmp_path / f"k{kill}"
        assert run(path, kill).returncode == -9
        done = run(path, 10**6)
        assert done.returncode == 0, done.stderr
        assert but_commits(path) == but_commits(
            tmp_path / "whole"
        )  # which say how often a claim was taken over
        assert list(verify(path)) == []


@pytest.mark.parametrize(
    ("labels", "stored"),
    [
        ([0, None, 1], [0, -1, 1]),
        (pd.array([0, None, 1], dtype="Int64"), [0, -1, 1]),
        (np.array([True, False, True]), [1, 0, 1]),
        ([torch.tensor(2), torch.tensor(0), torch.tensor(1)], [2, 0, 1]),
    ],
)
def test_labels_as_write_arrays_takes_them(tmp_path, labels, stored):
    with pc.open_writer(tmp_path / "s", split="t", layers={"l": np.int64(2)}) as stream:
        stream.append({"l": np.ones((3, 2), np.float32)}, labels=labels)
    assert pc.open_store(tmp_path / "s").labels("t").tolist() == stored


def test_texts_in_a_stream_are_told_what_to_give(tmp_path):
    with pc.open_writer(tmp_path / "s", split="t", layers={"l": 2}) as stream:
        with pytest.raises(pc.InputError, match="give their numbers, and the names as class_names"):
            stream.append({"l": np.ones((2, 2), np.float32)}, labels=["cat", "dog"])
        stream.append({"l": np.ones((2, 2), np.float32)}, labels=[0, 1])


def test_a_split_is_not_called_like_a_union(tmp_path):
    with pytest.raises(pc.InputError, match=r"\+ joins splits \(train a\+b\): name it with _ or -"):
        pc.open_writer(tmp_path / "s", split="a+b", layers={"l": 2})
    with pytest.raises(pc.InputError, match="joins splits"):
        pc.write_arrays(tmp_path / "s", split="a+b", layer="l", activations=np.eye(2))
    assert not (tmp_path / "s").exists()
