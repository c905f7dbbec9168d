"""Places that are narrower than most: terminals of few letters, home folders that no shell has put in."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    assert list(pc.open_store("~/f.zarr").splits) == ["train"]
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


@pytest.mark.parametrize("optimise", ["0", pytest.param("2", marks=pytest.mark.slow)])
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


def test_without_a_home_folder_and_a_passwd_entry(tmp_path, monkeypatch):
    def unknown(*_):
        raise KeyError("getpwuid(): uid not found: 54321")

    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        write("f.zarr") if split == "train" else pc.write_arrays(
            "f.zarr", split=split, layer="mine", activations=np.eye(8, dtype="f4"), labels=np.arange(8) % 2
        )
    results = pc.sweep(
        "f.zarr", layer="mine", train="train", test="test", fractions=[1.0], seeds=1, out="r.zarr"
    )
    assert results.sizes["fraction"] == 1
    for command in (
        lambda: write("~/g.zarr"),
        lambda: pc.extract_features("test_resnet", data_dir="~/photos", out="never.zarr"),
    ):
        with pytest.raises(pc.InputError, match="there is no such home folder here; give the whole path"):
            command()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.zarr", "r.zarr"]


@pytest.mark.slow
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_extract_sweep_and_report_in_a_terminal_of_20_columns(tmp_path, term):
    """A real terminal, ASCII, Python without assertions and docstrings: bars, tables and messages."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    for number in range(24):
        place = tmp_path / "photos" / ("caf\xe9" if number % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONOPTIMIZE": "2",
        "TERM": term,
        "HOME": "/nonexistent",
    }
    model = ["--model", "test_resnet", "--no-pretrained", "--img-size", "32", "-j", "1", "-b", "4"]
    rows = ["--train", "train", "--test", "train", "--fractions", "0.5,1", "--seeds", "2"]
    for command in (
        ["extract", *model, "--data-dir", "photos", "--split", "train", "--out", "s.zarr"],
        ["sweep", "s.zarr", "--layer", "penultimate", *rows, "--out", "r.zarr"],
        ["report", "r.zarr", "--out", "page"],
    ):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
        run = subprocess.Popen(
            [sys.executable, "-m", "probecache", *command],
            cwd=tmp_path,
            env=env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        said = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            said += part
        os.close(ours)
        assert run.wait(120) == 0, said[-400:]
        assert b"Error" not in said
        assert said.isascii()
    assert (tmp_path / "page" / "index.html").exists()


def test_what_is_no_store_is_refused_by_what_it_is(tmp_path):
    x, y = np.eye(8, dtype=np.float32), np.arange(8) % 2
    for split in ("train", "test"):
        pc.write_arrays(tmp_path / "s", split=split, layer="l", activations=x, labels=y)
    pc.sweep(tmp_path / "s", layer="l", fractions=[1], seeds=1, probe="ridge", out=tmp_path / "r")
    for call in (pc.open_store, lambda store: pc.sweep(store, layer="l", fractions=[1])):
        with pytest.raises(pc.InputError, match="got a ndarray for a store; give its path"):
            call(x)
        with pytest.raises(pc.NotAStore, match="holds RESULTS of a sweep, not a store"):
            call(tmp_path / "r")
