"""A reduced store equals taking the columns by hand, and reads, verifies and resumes like any other."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from probecache.store.errors import InputError
from probecache.store.importing.arrays import write_arrays
from probecache.store.reader import open_store
from probecache.store.writing.subset import write_subset


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    for split, n in (("train", 70), ("test", 30)):
        status = np.ones(n, np.uint8)
        status[3] = 2
        for layer, d in (("blocks.3", 6), ("penultimate", 20)):
            write_arrays(
                tmp_path / "full.zarr",
                split=split,
                layer=layer,
                activations=rng.normal(size=(n, d)).astype(np.float16),
                labels=np.arange(n) % 3,
                samples=[f"{split}/{i}.jpg" for i in range(n)],
                class_names=["a", "b", "c"],
                status=status,
                shard_rows=32,
            )
    return open_store(tmp_path / "full.zarr")


def test_holds_the_columns_and_everything_about_the_rows(store, tmp_path):
    columns = np.array([7, 2, 19])
    made = write_subset(store, columns, tmp_path / "small.zarr", layer="penultimate")
    assert made.splits == store.splits
    assert made.layers == ["penultimate"]
    for split in store.splits:
        np.testing.assert_array_equal(
            made.matrix(split, "penultimate"), store.matrix(split, "penultimate")[:, columns]
        )
        assert made.matrix(split, "penultimate").dtype == np.float16
        for ours, theirs in zip(made.row_arrays(split), store.row_arrays(split), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert made.class_names(split) == ["a", "b", "c"]
    assert made.fingerprint == store.fingerprint
    attrs = made.layer_info("train", "penultimate").spec.attrs
    assert attrs["of"] == 20


def test_the_same_call_again_changes_nothing_and_other_columns_are_refused(store, tmp_path):
    out = tmp_path / "small.zarr"
    first = write_subset(store, np.array([1, 2]), out, layer="blocks.3")
    digest = first.digest("train", "blocks.3")
    assert write_subset(store, np.array([1, 2]), out, layer="blocks.3").digest("train", "blocks.3") == digest
    with pytest.raises(InputError, match="columns"):
        write_subset(store, np.array([1, 3]), out, layer="blocks.3")
    assert open_store(out).digest("train", "blocks.3") == digest


@pytest.mark.parametrize(
    ("columns", "layer", "says"),
    [
        ([0, 20], "penultimate", "names neuron 20; the layer has 0 to 19"),
        ([4, 4], "penultimate", "names neuron 4 twice"),
        ([0.5], "penultimate", "whole numbers"),
        ([0], None, "holds blocks.3, penultimate: name one with layer"),
        ([0], "blocks.9", "no layer"),
    ],
)
def test_wrong_input_writes_nothing(store, tmp_path, columns, layer, says):
    with pytest.raises(InputError, match=says):
        write_subset(store, np.array(columns), tmp_path / "small.zarr", layer=layer)
    assert not (tmp_path / "small.zarr").exists()


def test_a_split_whose_layer_is_narrower_stops_before_any_is_written(store, tmp_path):
    write_arrays(store.path, split="zoo", layer="blocks.3", activations=np.ones((4, 3), np.float16))
    with pytest.raises(InputError, match="names neuron 5; the layer has 0 to 2"):
        write_subset(store.path, np.array([0, 5]), tmp_path / "small.zarr", layer="blocks.3")
    assert not (tmp_path / "small.zarr").exists()


def test_onto_itself_is_refused(store):
    with pytest.raises(InputError, match="is the store that is read"):
        write_subset(store, np.array([0]), store.path, layer="penultimate")


def test_the_command(store, tmp_path):
    (tmp_path / "neurons.txt").write_text("# kept\n5\n0\n")
    line = ["subset", str(store.path), "--layer", "blocks.3", "--indices", str(tmp_path / "neurons.txt")]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "probecache", *line, "--out", str(tmp_path / "small.zarr")],
        cwd=root,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 6 neurons" in done.stdout
    np.testing.assert_array_equal(
        open_store(tmp_path / "small.zarr").matrix("test", "blocks.3"),
        store.matrix("test", "blocks.3")[:, [5, 0]],
    )
