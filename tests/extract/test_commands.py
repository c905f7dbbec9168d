"""What a user of the command line sees."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from probecache.extract import dry_run
from probecache.extract.commands import as_timm
from probecache.extract.digits import write_digits
from probecache.store.errors import InputError, ProbecacheError
from tests.running import run

ROOT = Path(__file__).parents[2]
MODEL = ["--model", "test_resnet", "--no-pretrained"]


def test_layers(capsys):
    code, out, _ = run(
        capsys, "layers", "-m", "vit_tiny_patch16_224", "--layers", "blocks.-1", "--pool", "cls+avg"
    )
    assert code == 0
    assert out.splitlines()[1].split() == ["blocks.11", "tokens", "197x192", "cls+avg", "384", "768"]
    code, out, _ = run(capsys, "layers", "-m", "test_resnet")
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "layer1",
        "layer2",
        "layer3",
        "layer4",
        "penultimate",
    ]
    code, more, _ = run(capsys, "layers", "-m", "test_resnet", "--all")
    assert code == 0
    assert len(more.splitlines()) > len(out.splitlines())


def test_extract_and_verify(capsys, photos_tar, tmp_path):
    out = tmp_path / "s.zarr"
    code, said, bar = run(
        capsys, "extract", *MODEL, "--data-dir", photos_tar, "--out", out, "--layers", "layer?"
    )
    assert code == 0
    assert "split 'train', layer1, layer2, layer3, layer4" in said
    assert "img/s" in bar
    assert "forward" in bar
    code, said, _ = run(capsys, "verify", out, "--recompute", "5")
    assert code == 0
    assert len(re.findall(r"layer\d: 5 rows computed again agree", said)) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--model", "resnet19"], "close names"),
        (["--layers", "layer9"], "close names: layer4"),
        (["--data-dir", "nowhere"], "neither a folder nor a .tar"),
        (["--rows", "5"], "--rows '5': write a:b"),
        (["--rows", "1:5"], "whole|multiples|cut"),
        (["--batch-size", "many"], "--batch-size"),
        (["--batch-size", "²"], "--batch-size takes a whole number"),
        (["--model-kwargs", "x"], "NAME=VALUE"),
        (["--pool", "cls"], "no class token"),
        (["--split", "a/b"], "cannot be a name"),
        (["--nonsense"], "nonsense"),
        (["--torchcompile", "inductr"], "unknown --torchcompile 'inductr'; close names: inductor"),
        (["--devices", "0"], "--devices"),
        (["--model", "local-dir:nowhere", "--pretrained"], "Config file not found"),
        (["--model", "resnet18.no_such_tag", "--pretrained"], "Invalid pretrained tag"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(capsys, photos, tmp_path, change, words):
    code, out, err = run(
        capsys,
        "extract",
        *MODEL,
        "--data-dir",
        photos,
        "--out",
        tmp_path / "s.zarr",
        "--layers",
        "layer4",
        *change,
    )
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert re.search(words, err)
    assert not (tmp_path / "s.zarr").exists()


def test_flags_as_timm_takes_them(capsys, photos, tmp_path):
    """Several values behind one flag, and --torchcompile without one."""
    places = "--data-dir", photos, "--layers", "layer1", "--dry-run"
    mean, std = (["--mean", "0.5", "0.4", "0.3"], ["--std", "0.2", "0.2", "0.1"])
    code, _, err = run(capsys, "extract", *MODEL, "--out", tmp_path / "s", *mean, *std, *places)
    assert (code, err) == (0, "")
    code, _, err = run(capsys, "extract", *MODEL, "--out", tmp_path / "s", *mean[:3], *places)
    assert code == 2
    assert "--mean" in err
    code, _, err = run(
        capsys, "layers", "-m", "test_resnet", "--model-kwargs", "num_classes=5", "stem_width=8"
    )
    assert (code, err) == (0, "")
    assert as_timm(["-m", "x", "--torchcompile"]) == ["-m", "x", "--torchcompile", "inductor"]
    assert as_timm(["--torchcompile", "eager"]) == ["--torchcompile", "eager"]


def test_a_path_that_is_not_a_store(capsys, photos, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = run(capsys, "extract", *MODEL, "--data-dir", photos, "--out", tmp_path)
    assert code == 2
    assert "not" in err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_dry_run_writes_nothing(capsys, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "SECONDS", 0.5)
    out = tmp_path / "s.zarr"
    code, said, _ = run(
        capsys,
        "extract",
        *MODEL,
        "--data-dir",
        photos,
        "--out",
        out,
        "--pool",
        "avg",
        "--layers",
        "layer1",
        "--layers",
        "penultimate",
        "--shard-rows",
        "10",
        "--dry-run",
    )
    assert code == 0
    assert "24 rows in 3 shards" in said
    assert re.search(r"layer1 +avg +32 neurons +1.5 KiB", said)
    stages = re.search(r"images/s: (.*)", said)[1]
    rates = {name: float(rate.replace(",", "")) for name, rate in re.findall(r"(\w+) ([\d,]+\.\d)", stages)}
    assert list(rates) == ["decode", "copy", "forward", "write"]
    limit = min(rates, key=rates.get)
    near = [s for s, rate in rates.items() if s != limit and rate < dry_run.NEAR * rates[limit]]
    beside = f" (near it: {', '.join(near)})" if near else ""
    assert f"the limit is {limit}{beside}: " in said
    assert "enough" in said
    assert list(tmp_path.iterdir()) == []


def test_unreadable_images_set_the_exit_code(capsys, tmp_path):
    folder = write_digits(tmp_path / "digits")
    (sorted((folder / "test/4").iterdir())[0]).write_bytes(b"no image")
    arguments = [
        "extract",
        *MODEL,
        "--img-size",
        "32",
        "--data-dir",
        folder,
        "--split",
        "test",
        "--out",
        tmp_path / "s.zarr",
    ]
    code, _, err = run(capsys, *arguments)
    assert code == 1
    assert "1 of 450 images of split 'test' could not be read" in err
    code, _, _ = run(capsys, *arguments, "--allow-failed")
    assert code == 0


def test_help_imports_no_torch():
    code = (
        "import sys, probecache.__main__\n"
        "try: probecache.__main__.main(['extract', '--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.endswith("False\n")


def test_digits_are_written_once_and_alike(tmp_path, digits):
    again = write_digits(tmp_path / "digits")
    files = sorted(p.relative_to(again) for p in again.rglob("*.png"))
    assert files == sorted(p.relative_to(digits) for p in digits.rglob("*.png"))
    assert all((again / f).read_bytes() == (digits / f).read_bytes() for f in files[::100])
    before = (again / files[0]).stat().st_mtime_ns
    assert write_digits(again) == again
    assert (again / files[0]).stat().st_mtime_ns == before


def test_a_folder_of_ones_own_is_not_replaced_by_digits(tmp_path, monkeypatch):
    mine = tmp_path / "digits" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(InputError, match="holds other files than the 1,797 digits"):
        write_digits(mine.parent)
    assert mine.read_text() == "mine"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(ProbecacheError, match="No space left"):
        write_digits(tmp_path / "more")
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_dry_run_tells_what_is_left_and_refuses_what_the_run_would(capsys, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "SECONDS", 0.1)
    out = tmp_path / "s.zarr"
    plain = ["extract", *MODEL, "--data-dir", photos, "--out", out, "--layers", "layer1"]
    shards = [*plain, "--shard-rows", "10"]
    assert run(capsys, *shards, "--rows", "0:10")[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "14 of these rows are left for this run" in run(capsys, *shards, "--dry-run")[1]
    assert "4 of these rows are left" in run(capsys, *shards, "--rows", "20:24", "--dry-run")[1]
    assert "are left" not in run(capsys, *shards, "--layers", "layer2", "--dry-run")[1]
    for other in (["--rows", "3:24"], ["--dtype", "float32"], ["--crop-pct", "0.5"], ["--shard-rows", "12"]):
        refused = run(capsys, *shards, *other)
        assert refused[0] == 2
        assert run(capsys, *shards, *other, "--dry-run") == refused
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert run(capsys, *plain)[0] == 0
    code, said, _ = run(capsys, *plain, "--dry-run")
    assert (code, said.splitlines()[-1]) == (0, "nothing is left to compute: the store holds all of it")
