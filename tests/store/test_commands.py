"""import and info from the command line: what they print, and one line with exit code 2 for wrong input."""

import json
import re

import numpy as np
import pandas as pd
import pytest

import probecache as pc
from tests.running import run


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "X.npy", np.arange(60, dtype=np.float32).reshape(20, 3))
    np.save(tmp_path / "y.npy", np.arange(20) % 2)
    np.save(tmp_path / "short.npy", np.arange(19) % 2)
    np.save(tmp_path / "cube.npy", np.zeros((2, 3, 4)))
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "ids.txt").write_text("".join(f"cat/{i}.png\n" for i in range(20)))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


def command(files, activations="X.npy", labels="y.npy", split="train", layer="l"):
    names = ["import", files / "s", "--split", split, "--layer", layer]
    return [*names, "--activations", files / activations, "--labels", files / labels]


def test_names_of_rows_come_from_a_column_as_labels_do(files, capsys):
    names = [f"cat/{i}.png" for i in range(20)]
    np.savez(files / "s.npz", paths=names, numbers=np.arange(20), holes=np.full(20, np.nan))
    pd.DataFrame({"sample": names, "label": "cat"}).to_csv(files / "s.csv", index=False)
    for at, (given, want) in enumerate(
        {"s.npz:paths": names[3], "s.npz:numbers": "3", "s.csv": names[3]}.items()
    ):
        line = command(files)
        line[1] = files / f"store{at}"
        assert run(capsys, *line, "--samples", files / given)[0] == 0
        assert pc.open_store(line[1]).samples("train")[3] == want
    for given, says in {"s.npz:path": "paths", "s.npz:holes": "row 0 of .* is nan: name every row"}.items():
        code, _, error = run(capsys, *command(files), "--samples", files / given)
        assert code == 2
        assert re.search(says, error)
    assert not (files / "s").exists()


def test_import_and_info(files, capsys):
    more = ["--samples", files / "ids.txt", "--class-names", files / "classes.txt", "--dtype", "bfloat16"]
    code, out, _ = run(capsys, *command(files), *more)
    assert (code, out.strip()) == (0, f"{files / 's'}: split train, layer l: 20 samples x 3 neurons")
    store = pc.open_store(files / "s")
    assert store.samples("train")[3] == "cat/3.png"
    assert store.class_names("train") == ["cat", "dog"]
    code, out, _ = run(capsys, "info", files / "s", "--json")
    layer = json.loads(out)["splits"]["train"]["layers"]["l"]
    assert (layer["dtype"], layer["rows_written"], layer["finished"]) == ("bfloat16", 20, True)
    code, out, _ = run(capsys, "info", files / "s")
    assert code == 0
    assert "finished" in out
    assert "backbone: source = arrays" in out


@pytest.mark.parametrize(
    ("changed", "more", "says"),
    [
        ({"activations": "none.npy"}, [], "--activations: no file"),
        ({"activations": "text.npy"}, [], "is not a .npy file of numbers"),
        ({"activations": "cube.npy"}, [], "activations have shape (2, 3, 4)"),
        ({"labels": "short.npy"}, [], "labels are int64 (19,): use (20,) integers"),
        ({"labels": "X.npy"}, [], "holds labels (20, 3): use (samples,)"),
        ({"split": "a/b"}, [], "split 'a/b' cannot be a name"),
        ({"layer": "label"}, [], "layer 'label' has a name that stores keep"),
        ({}, ["--dtype", "float64"], "dtype 'float64' of layer 'l': allowed float16, bfloat16, float32"),
        ({}, ["--compression", "lz4"], "compression 'lz4': allowed none or zstd"),
        ({}, ["--rows", "3"], "--rows '3': write a:b"),
        ({}, ["--rows", "0:²"], "--rows '0:²': write a:b"),
        ({}, ["--rows", "0:7", "--shard-rows", "4"], "rows 0:7 cut through a shard of 4 rows"),
        ({}, ["--shard-rows", "0"], "a shard holds 1 to 2**24 rows, not 0"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(files, capsys, changed, more, says):
    code, out, err = run(capsys, *command(files, **changed), *more)
    assert (code, out) == (2, "")
    assert err.strip().count("\n") == 0
    assert says in err


def test_another_origin_is_refused_with_the_difference(files, capsys):
    run(capsys, *command(files))
    np.save(files / "X.npy", np.zeros((20, 4), np.float32))
    code, _, err = run(capsys, *command(files))
    assert code == 2
    assert "neurons: stored 3, asked 4" in err
    changed = np.arange(60, dtype=np.float32).reshape(20, 3)
    changed[7, 1] += 1
    np.save(files / "X.npy", changed)
    code, _, err = run(capsys, *command(files))
    assert code == 2
    assert "holds other values than those given, first in row 7" in err


def test_what_is_no_store_is_named_for_what_it_is(files, capsys):
    run(capsys, *command(files))
    (files / "empty").mkdir()
    for where, says in [
        ("X.npy", "is a file: name the top folder"),
        ("nothing", "does not exist: name"),
        ("empty", "is an empty folder: name"),
        ("s/train", "is a part of a store"),
        ("s/train/l", "is a part of a store"),
    ]:
        for name in ("info", "verify", "repair"):
            code, _, err = run(capsys, name, files / where)
            assert code == 2
            assert says in err
            assert err.count("\n") == 1


def test_a_notebook_shows_splits_layers_and_names_as_text(files):
    for split, rows in (("train", 20), ("test", 12)):
        x, y = np.load(files / "X.npy")[:rows], np.load(files / "y.npy")[:rows]
        store = pc.write_arrays(files / "<b>s", split=split, layer="late", activations=x, labels=y)
    shown = store._repr_html_()
    for cell in ("train", "late", "20", "12", "finished"):
        assert f"<td>{cell}</td>" in shown
    assert "&lt;b&gt;s" in shown
    assert "<b>s" not in shown


def test_a_damaged_store_is_shown_with_what_is_wrong(files):
    store = pc.write_arrays(
        files / "s", split="a", layer="l", activations=np.zeros((4, 2)), labels=np.zeros(4, int)
    )
    (files / "s" / "a" / "l" / "zarr.json").write_text("{")
    assert "zarr.json" in pc.open_store(store.path)._repr_html_()
