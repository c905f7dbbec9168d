"""The front door: public names, exit codes, one-line errors, and packages that are really ours."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import probecache as pc
import probecache.__main__

ROOT = Path(__file__).parent.parent
DEMO = ["extract", "extract", "sweep", "sweep", "redundancy", "redundancy", "report"]


def run(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "probecache", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_public_surface_is_frozen():
    assert pc.__all__ == [
        "DamagedStore",
        "FingerprintMismatch",
        "FittedProbe",
        "InputError",
        "LogisticProbe",
        "NotAStore",
        "ProbecacheError",
        "RidgeProbe",
        "RidgeRegressor",
        "Store",
        "UnfinishedSplit",
        "attribution",
        "cka",
        "compare",
        "concat",
        "critical_mass",
        "extract_features",
        "fit_probe",
        "geometry",
        "import_features",
        "load_probe",
        "main",
        "open_results",
        "open_store",
        "open_writer",
        "redundancy",
        "register_metric",
        "register_probe",
        "similarity",
        "sweep",
        "tidy",
        "write_arrays",
        "write_targets",
    ]
    assert all(callable(getattr(pc, name)) for name in pc.__all__)


def test_importing_the_front_door_imports_nothing_heavy():
    heavy = ["torch", "timm", "zarr", "xarray", "dask", "sklearn", "typer"]
    done = run(code=f"import sys, probecache; print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="open_store"):
        _ = pc.no_such_name


def test_a_users_own_modules_are_neither_run_nor_in_the_way(tmp_path):
    """Every second research repository has an analyze.py; ours is probecache.analyze."""
    for name in ("store", "extract", "analyze"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the user module was executed')")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import probecache, probecache.__main__, probecache.extract.run, probecache.analyze.sweeps.sweep
probecache.open_store, probecache.sweep
print(sorted(m for m in sys.modules if m in ("store", "extract", "analyze")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_no_arguments_print_the_commands():
    done = run()
    assert done.returncode == 0
    for command in ("layers", "extract", "import", "info", "verify", "sweep", "report", "demo"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["info"], ["info", "store", "--no-such-flag"], ["info", "no/such/store.zarr"]],
    ids=["command", "argument", "flag", "store"],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""


def test_a_wrong_flag_names_the_commands_own_help_and_a_list_how_it_is_written():
    assert "(see probecache sweep --help)" in run("sweep", "s", "--no-such-flag").stderr
    done = run("sweep", "s", "--layer", "a", "--fractions", "0.1", "1")
    assert "a list is one word, such as 0.1,1 (see probecache sweep --help)" in done.stderr


def test_debug_shows_the_traceback():
    done = run("info", "no/such/store.zarr", "--debug")
    assert "Traceback" in done.stderr


def test_version():
    assert run("--version").stdout.strip() == f"probecache {pc.__version__}"


def test_analysis_never_imports_the_backbone(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        x, y = rng.normal(size=(60, 8)), np.arange(60) % 3
        pc.write_arrays(tmp_path / "s.zarr", split=split, layer="mine", activations=x, labels=y)
    line = ["sweep", str(tmp_path / "s.zarr"), "--layer", "mine", "--fractions", "0.5,1", "--seeds", "1"]
    code = f"""
import sys, probecache.__main__
try:
    probecache.__main__.main({[*line, "--out", str(tmp_path / "r.zarr")]!r})
except SystemExit as stop:
    assert stop.code == 0, stop.code
heavy = ("timm", "torchvision", "probecache.extract.backbone.load", "probecache.extract.run")
print(sorted(m for m in sys.modules if m in heavy))
"""
    done = run(code=code)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr
    assert (tmp_path / "r.zarr").is_dir()


def test_the_demos_commands_keep_a_path_with_a_space_whole(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(
        "subprocess.run", lambda words, check: ran.append(words) or subprocess.CompletedProcess(words, 0)
    )
    out = tmp_path / "my demo"
    probecache.__main__.demo(out)
    commands = [words[3:] for words in ran]
    assert [words[0] for words in commands] == DEMO
    paths = [word for words in commands for word in words if str(tmp_path) in word]
    assert len(paths) >= len(commands)
    assert all(path.startswith(str(out)) for path in paths)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ probecache ")]
    assert [shlex.split(line)[2:] for line in printed] == commands


def test_a_reader_that_stops_early_is_no_error(tmp_path):
    for i in range(8):
        x, y = np.ones((1500, 2)), np.arange(1500)
        pc.write_arrays(tmp_path / "s", split="t", layer=f"l{i}", activations=x, labels=y)
    command = f"{sys.executable} -u -m probecache info {tmp_path / 's'} --json"
    line = f"{command} | head -c 1 > /dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")
