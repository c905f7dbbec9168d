"""What may name a store: odd paths and URLs are refused in one line, and secrets in them are never shown."""

import numpy as np
import pytest

import probecache as pc
from probecache.store.storage.files import check_place
from probecache.store.storage.remote import RemoteFiles

ODD = {
    "s3://": "name the bucket or host",
    "s3:///features.zarr": "name the bucket or host",
    "http://": "name the bucket or host",
    "memory://": "name the bucket or host",
    "s3:/bucket/features.zarr": "a URL has two slashes, s3://bucket/features.zarr",
    "file:/data/features.zarr": "a URL has two slashes",
    "file://": "give the whole path",
    "file://features.zarr": "give the whole path",
    "": "name a folder or a URL",
    " ": "name a folder or a URL",
    "a\nb": "name a folder or a URL",
    "a\0b": "name a folder or a URL",
    "s3://KEY:hunter2@bucket/features.zarr": "credentials or a signature",
    "https://me:hunter2@127.0.0.1:9/features.zarr": "credentials or a signature",
    "ftp://me:hunter2@127.0.0.1:9/features.zarr": "credentials or a signature",
    "https://127.0.0.1:9/features.zarr?X-Amz-Signature=hunter2": "credentials or a signature",
    "nonsense://bucket/features.zarr": "is the URL right",
    "ftp://127.0.0.1:9/features.zarr": "is the URL right",
}


@pytest.mark.parametrize("place", ODD, ids=lambda place: repr(place)[:40])
def test_odd_places_are_refused_in_one_line_that_shows_no_secret(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    values = {"split": "s", "layer": "l", "activations": np.ones((2, 1), np.float32), "labels": [0, 0]}
    for work in (lambda: pc.open_store(place), lambda: pc.write_arrays(place, **values)):
        with pytest.raises(pc.InputError) as caught:
            work()
        assert ODD[place] in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "place",
    [
        "a",
        "features.zarr",
        "results",
        "./s3:/x",
        "c:/data",
        "~/x",
        "memory://x",
        "s3://bucket/x@2",
        "a b.zarr",
    ],
)
def test_other_places_pass(place):
    assert check_place(place) == place


def test_results_of_a_sweep_take_no_odd_place_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32), np.arange(30) % 2
    for split in ("train", "test"):
        pc.write_arrays("s", split=split, layer="l", activations=x, labels=y)
    for place, says in (
        ("s3:/r", "two slashes"),
        ("s3://b/r", "a local folder"),
        ("s3://K:hunter2@b/r", "cred"),
    ):
        with pytest.raises(pc.InputError, match=says) as caught:
            pc.sweep("s", layer="l", fractions=[1], probe="ridge", out=place)
        assert "hunter2" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_store_in_memory_is_written_and_read_through_fsspec():
    values = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    store = pc.write_arrays(
        "memory://box/s", split="s", layer="l", activations=values, labels=np.zeros(90, int), shard_rows=4
    )
    np.testing.assert_array_equal(pc.open_store("memory://box/s").matrix("s", "l"), values)
    assert store.path == "memory://box/s"


def test_asking_an_age_leaves_nothing_behind(monkeypatch):
    files = RemoteFiles("memory://box/age")
    files.write({"claim": [b"mine"]})
    modified = files.fs.modified

    def broken(path):
        if path.endswith(".tmp"):
            raise OSError("the server went away")
        return modified(path)

    monkeypatch.setattr(files.fs, "modified", broken)
    with pytest.raises(pc.ProbecacheError, match="the server went away"):
        files.age("claim")
    assert files.names("") == ["claim"]
