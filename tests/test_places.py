"""Places that are narrower than most: terminals of few letters, home folders that no shell has put in."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import probecache as pc
from probecache.__main__ import _home

ROOT = Path(__file__).parents[1]


def write(out, **options):
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype("f4")
    return pc.write_arrays(
        out, split="train", layer="mine", activations=rows, labels=np.arange(40) % 2, **options
    )


def test_the_home_folder_is_where_the_tilde_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Path(write("~/f.zarr").path) == tmp_path / "f.zarr"
    assert pc.open_store("~/f.zarr").splits == ["train"] or pc.open_store("~/f.zarr").splits == ("train",)
    assert not (tmp_path / "~").exists()
    assert _home("--out=~/g.zarr") == f"--out={tmp_path}/g.zarr"
    assert _home("~/g.zarr") == f"{tmp_path}/g.zarr"
    assert [_home(a) for a in ("a~/b", "--x=y~", "-~/z")] == ["a~/b", "--x=y~", "-~/z"]
    with pytest.raises(pc.InputError, match="no such home folder"):
        write("~nobody-of-that-name/f.zarr")


@pytest.mark.parametrize("name", ["a b.zarr", "50%20.zarr", "a#b?.zarr", "f=1&x.zarr"])
def test_signs_in_a_path_are_part_of_its_name(name, tmp_path):
    store = write(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert store.matrix("train", "mine").shape == (40, 8)


@pytest.mark.parametrize("optimise", ["0", "2"])
def test_letters_that_a_terminal_lacks_end_no_command(tmp_path, optimise):
    write(tmp_path / "f.zarr", class_names=["caf\xe9", "\u732b"], samples=[f"\u732b/{i}" for i in range(40)])
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
        "COLUMNS": "20",
        "HOME": "/nonexistent",
        "PYTHONOPTIMIZE": optimise,
    }
    for arguments in (["info", "f.zarr"], ["verify", "f.zarr"], ["info", "\u732b.zarr"]):
        done = subprocess.run(
            [sys.executable, "-m", "probecache", *arguments],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == (2 if "\u732b.zarr" in arguments else 0), done.stderr
        assert b"Error" not in done.stderr
