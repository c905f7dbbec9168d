"""The command line as a user meets it: layers named alike everywhere, help, completion, typos."""

import inspect
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import probecache as pc
from probecache.__main__ import _run
from probecache.analyze import commands as analyze
from probecache.extract import commands as extract
from probecache.store import commands as store_commands
from tests import running

LAYERS = ("a", "b", "blocks.1", "blocks.2")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("line") / "s.zarr"
    for split in ("train", "test"):
        y = np.arange(60) % 3
        for layer in LAYERS:
            x = rng.normal(size=(60, 8)).astype(np.float32)
            x[:, :3] += 3 * np.eye(3)[y]
            pc.write_arrays(path, split=split, layer=layer, activations=x, labels=y)
    return str(path)


@pytest.fixture
def run(capsys):
    return partial(running.run, capsys)


GIVEN = {
    "comma": ["a,blocks.1"],
    "spaces": ["a, blocks.1"],
    "repeated": ["a", "blocks.1"],
    "globs": ["a*", "*.1"],
    "twice": ["a,a", "blocks.[1]"],
}


@pytest.mark.parametrize("words", GIVEN.values(), ids=GIVEN)
def test_several_layers_of_a_sweep(store, run, tmp_path, words):
    flag = "--layer" if len(words) == 1 else "--layers"
    given = [part for word in words for part in (flag, word)]
    out = tmp_path / "r.zarr"
    code, said, err = run("sweep", store, *given, "--fractions", "1", "--seeds", "1", "--out", out)
    assert code == 0, err
    assert pc.open_results(out)["layer"].values.tolist() == ["a", "blocks.1"]
    assert "(2 probes," in said  # globs count as what they mean


@pytest.mark.parametrize("words", GIVEN.values(), ids=GIVEN)
def test_several_layers_of_cka_and_critical(store, run, tmp_path, words):
    for flag, command in (("--layers", "cka"), ("--layer", "critical")):
        given = [part for word in words for part in (flag, word)]
        more = ["--fractions", "0.5,1"] if command == "cka" else ["--score", "cka", "--precision", "0.5"]
        out = [] if command == "critical" else ["--out", tmp_path / flag]
        code, said, err = run(command, store, *given, *more, "--seeds", "2", *out)
        assert code == 0, err
        if command == "critical":
            assert [line.split()[-1] for line in said.splitlines()[1:3]] == ["a", "blocks.1"]
            continue
        for layer in ("a", "blocks.1"):
            assert pc.open_results(tmp_path / flag / layer).attrs["layer"] == layer


def test_fit_takes_a_glob_that_means_one_layer(store, run, tmp_path):
    code, said, err = run("fit", store, "--layers", "*.2", "--out", tmp_path / "p.safetensors")
    assert code == 0, err
    assert pc.load_probe(tmp_path / "p.safetensors").provenance["layer"] == "blocks.2"
    for words in (["--layer", "a,b"], ["--layer", "blocks.*"]):
        code, said, err = run("fit", store, *words, "--out", tmp_path / "q.safetensors")
        assert (code, said) == (2, "")
        assert "takes one" in err
    assert not (tmp_path / "q.safetensors").exists()


def test_a_name_with_a_comma_stays_whole(run, tmp_path):
    x, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    for split in ("train", "test"):
        for layer in ("a,b", "a", "b"):
            pc.write_arrays(tmp_path / "s.zarr", split=split, layer=layer, activations=x, labels=y)
    line = ["sweep", tmp_path / "s.zarr", "--fractions", "1", "--seeds", "1", "--layer", "a,b"]
    code, _, err = run(*line, "--out", tmp_path / "r.zarr")
    assert code == 0, err
    assert pc.open_results(tmp_path / "r.zarr")["layer"].values.tolist() == ["a,b"]


COMMANDS = [name for part in (extract, store_commands, analyze) for name in part.COMMANDS]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_short_and_long_help_are_one(run, command):
    short, long = (run(*([command] if command else []), flag) for flag in ("-h", "--help"))
    assert short == long
    assert short[0] == 0
    assert short[1].startswith(f"Usage: probecache {command}")
    assert "-h, --help" in short[1]


@pytest.mark.parametrize(
    "command", ["layers", "extract", "import", "subset", "sweep", "fit", "predict", "cka", "redundancy"]
)
def test_the_flag_for_layers_has_both_spellings(run, command):
    _, said, _ = run(command, "--help")
    assert "--layer, --layers" in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_and_installed(run, monkeypatch, tmp_path, shell):
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, shell))
    monkeypatch.setenv("HOME", str(tmp_path))
    code, said, err = run("--show-completion")
    assert (code, err) == (0, "")
    assert f"_PROBECACHE_COMPLETE=complete_{shell}" in said
    code, said, err = run("--install-completion")
    assert (code, err) == (0, "")
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert f"_PROBECACHE_COMPLETE=complete_{shell}" in written


def test_what_completion_answers(run, monkeypatch):
    monkeypatch.setenv("_PROBECACHE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "probecache cri")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert run()[1].split() == ["critical"]
    monkeypatch.setenv("COMP_WORDS", "probecache sweep --la")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert run()[1].split() == ["--layer", "--layers"]


TYPOS = {
    "sweep without a layer": ["sweep", "STORE", "--fractions", "1", "--out", "r"],
    "sweep layer": ["sweep", "STORE", "--layer", "blocks1", "--fractions", "1", "--out", "r"],
    "sweep glob": ["sweep", "STORE", "--layer", "x*", "--fractions", "1", "--out", "r"],
    "sweep split": ["sweep", "STORE", "--layer", "a", "--train", "trian", "--fractions", "1", "--out", "r"],
    "sweep union": ["sweep", "STORE", "--layer", "a", "--train", "train+vla", "--fractions", "1"],
    "sweep target": ["sweep", "STORE", "--layer", "a", "--target", "lable", "--fractions", "1"],
    "cka": ["cka", "STORE", "--layer", "blocks1"],
    "critical": ["critical", "STORE", "--layers", "a,blocks1"],
    "critical target": ["critical", "STORE", "--layer", "a", "--target", "lable"],
    "fit": ["fit", "STORE", "--layer", "blocks1", "--out", "p.safetensors"],
    "fit target": ["fit", "STORE", "--layer", "a", "--target", "lable", "--out", "p.safetensors"],
    "predict": ["predict", "p.safetensors", "STORE", "--split", "tset", "--out", "x.csv"],
}


def test_typos_are_answered_before_torch_is_imported(store, tmp_path):
    """One process for all: what it has imported at its end, none of the commands needed."""
    lines = [[store if word == "STORE" else word for word in words] for words in TYPOS.values()]
    code = f"""
import sys
from probecache.__main__ import _run, main
from probecache.analyze import commands as analyze
from probecache.extract import commands as extract
from probecache.store import commands as store_commands
for line in {lines!r}:
    try:
        main(line)
    except SystemExit as stop:
        print(stop.code)
print([m for m in ("torch", "xarray", "dask", "sklearn", "pandas", "timm") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split("\n")[:-1] == ["2"] * len(lines) + ["[]"], done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(lines), done.stderr
    for line, words in zip(said, TYPOS.values(), strict=True):
        assert "close names" in line or "allowed" in line or "matches none" in line, (words, line)
    assert not list(tmp_path.iterdir())


def _extract(_, folder, **more):
    from torch import nn

    from probecache.extract.digits import write_digits

    images = folder / "digits"
    if not images.exists():
        write_digits(images)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    options = {
        "img_size": 8,
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bilinear",
        "crop_pct": 1,
    }
    where = {"data_dir": images, "split": "test", "limit": 20, "batch_size": 8, "workers": 0}
    return pc.extract_features(model, layers=["1"], out=folder / "f.zarr", **where, **options, **more)


def _cka(store, _, **more):
    return pc.cka(pc.open_store(store), layer="a", split="test", fractions=1.0, **more)


def _sweep(store, _, **more):
    return pc.sweep(store, layer=["a", "b"], fractions=[0.5, 1], seeds=2, probe="ridge", l2=0.1, **more)


def _critical(store, _, **more):
    return pc.critical_mass(
        store, layer="a", precision=0.2, seeds=2, delta=[0.5, 0.9], probe="ridge", l2=0.1, **more
    )


def _attribution(store, _, **more):
    return pc.attribution(store, layer="a", groups=3, **more)


def _geometry(store, _, **more):
    return pc.geometry(store, ["a", "b"], "test", **more)


def _write_arrays(_, folder, **more):
    what = {"split": "s", "layer": "l", "activations": np.eye(9, dtype=np.float32), "shard_rows": 4}
    return pc.write_arrays(folder / "f.zarr", **what, **more)


def _import_features(_, folder, **more):
    np.save(folder / "x.npy", np.eye(9, dtype=np.float32))
    what = {"split": "s", "layer": "l", "activations": folder / "x.npy", "shard_rows": 4}
    return pc.import_features(folder / "f.zarr", **what, **more)


CALLS = {
    "extract_features": _extract,
    "sweep": _sweep,
    "cka": _cka,
    "critical_mass": _critical,
    "attribution": _attribution,
    "geometry": _geometry,
    "write_arrays": _write_arrays,
    "import_features": _import_features,
}


@pytest.mark.parametrize("name", CALLS)
def test_progress_means_the_same_in_every_function(store, tmp_path, capsys, name):
    """Told (done, total), which only grow and end together; a bar on stderr; silence; else refused."""
    call, heard = CALLS[name], []
    with pytest.raises(pc.InputError, match="progress=7"):
        call(store, tmp_path, progress=7)
    assert not (tmp_path / "f.zarr").exists()
    (tmp_path / "told").mkdir()
    call(store, tmp_path / "told", progress=lambda done, total: heard.append((done, total)))
    assert heard
    assert heard == sorted(heard)
    assert len(set(heard)) == len(heard)
    assert heard[-1][0] == heard[-1][1] > 0
    capsys.readouterr()
    for silent in (None, False):
        folder = tmp_path / str(silent)
        folder.mkdir()
        call(store, folder, progress=silent)
    assert capsys.readouterr() == ("", "")
    (tmp_path / "bar").mkdir()
    call(store, tmp_path / "bar", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "━" in err or "100%" in err
    takes = "progress" in inspect.signature(getattr(pc, name)).parameters  # or hands it on
    assert ("(done, total)" if takes else "progress, ...") in getattr(pc, name).__doc__


def test_findings_take_globs_of_layers_and_cka_writes_all_layers_or_none(store, tmp_path, capsys):
    out, run = tmp_path / "r.zarr", lambda *words: _run([str(word) for word in words], False)
    plan = ["--fractions", "0.5,1", "--seeds", "2", "--probe", "ridge", "--l2", "0.1", "--save-predictions"]
    assert (
        run("sweep", store, "--layer", "a,b", "--train", "train", "--test", "test", *plan, "--out", out) == 0
    )
    capsys.readouterr()
    assert run("redundancy", out, "--layer", "[a]") == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("0.9")]
    assert len(rows) == 1
    assert run("redundancy", out, "--layer", "*", "--keep", "0.5") == 2
    assert "got 2 layers for --keep" in capsys.readouterr().err
    assert run("redundancy", out, "--layer", "x*") == 2
    assert "got layer 'x*'" in capsys.readouterr().err
    assert run("compare", out, out, "--layer", "*") == 0
    assert run("compare", out, out, "--layer", "x*") == 2
    folder = tmp_path / "cka"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "mine.txt").write_text("kept")
    assert run("cka", store, "--layer", "a,b", "--fractions", "1", "--seeds", "2", "--out", folder) == 2
    assert not (folder / "a").exists()
    (folder / "b" / "mine.txt").unlink()
    (folder / "b").rmdir()
    assert run("cka", store, "--layer", "a,b", "--fractions", "1", "--seeds", "2", "--out", folder) == 0
    assert {p.name for p in folder.iterdir()} == {"a", "b"}
