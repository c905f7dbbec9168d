"""A full disk, a read-only one, a limit of file sizes: commands name the path, the room, and what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import probecache as pc

ROOT = Path(__file__).parents[1]
# all commands in one process, each under the limit: what it says, one line for each
SCRIPT = """
import contextlib, io, json, resource, signal, sys
from probecache.__main__ import main
commands, limit = json.loads(sys.argv[1]), int(sys.argv[2])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
for name, arguments in commands.items():
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
            code = 0
        except SystemExit as error:
            code = error.code
    print(json.dumps([name, code, said.getvalue()]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source")
    rng, y = np.random.default_rng(0), np.arange(300) % 3
    x = (rng.normal(size=(300, 40)) + y[:, None] * 0.4).astype(np.float32)
    for split in ("train", "test"):
        store = pc.write_arrays(path / "s", split=split, layer="l", activations=x, labels=y, shard_rows=64)
    for name, l2 in (("r", 1e-4), ("other", 1e-2)):
        plan = {"layer": "l", "fractions": [0.5, 1], "seeds": 2, "probe": "ridge", "l2": l2}
        pc.sweep(store, **plan, save_predictions=True, out=path / name)
    pc.fit_probe(store, layer="l", train="train", l2=1e-2).save(path / "p.safetensors")
    np.save(path / "X.npy", x)
    np.save(path / "y.npy", y)
    np.savetxt(path / "i.txt", [1, 2, 3], fmt="%d")
    shutil.copytree(path / "s", path / "damaged")
    (path / "damaged/train/l/activations/c/0/0").write_bytes(b"")
    names = store.samples("train")
    (path / "t.csv").write_text("sample,color\n" + "".join(f"{n},{i % 2}\n" for i, n in enumerate(names)))
    return path


def on_the_disk(source, base):
    """What commands find there that change a store or RESULTS."""
    for name in ("s", "damaged", "r"):
        shutil.copytree(source / name, base / f"old-{name}")


def commands_into(source, base):
    s, sweep = source / "s", ["--fractions", "0.5,1", "--seeds", "2", "--layer", "l"]
    data = ["--activations", source / "X.npy", "--labels", source / "y.npy"]
    lines = {
        "import": ["import", base / "s2", "--split", "s", "--layer", "l", *data],
        "subset": ["subset", s, "--indices", source / "i.txt", "--layer", "l", "--out", base / "o"],
        "sweep": ["sweep", s, *sweep, "--probe", "ridge", "--out", base / "r"],
        "cka": ["cka", s, "--layer", "l", "--split", "train", "--fractions", "0.5,1", "--out", base / "c"],
        "report": ["report", source / "r", "--out", base / "report"],
        "fit": [
            "fit",
            s,
            "--layer",
            "l",
            "--train",
            "train",
            "--l2",
            "0.01",
            "--out",
            base / "p.safetensors",
        ],
        "predict": ["predict", source / "p.safetensors", s, "--split", "test", "--out", base / "y.csv"],
        "target": ["target", base / "old-s", "--split", "train", "--from", source / "t.csv"],
        "repair": ["repair", base / "old-damaged"],
        "growth": ["sweep", s, *sweep, "--l2", "1", "--probe", "ridge", "--out", base / "old-r"],
        "predictions": ["sweep", s, *sweep, "--save-predictions", "scores", "--out", base / "r2"],
        "critical": ["critical", s, "--layer", "l", "--delta", "0.9", "--seeds", "2", "--out", base / "k"],
        "compare": ["compare", source / "r", source / "other", "--out", base / "cmp"],
        "compare.csv": ["compare", source / "r", source / "other", "--out", base / "cmp.csv"],
        "code": ["online-code", s, "--layer", "l", "--shares", "0.1,1", "--out", base / "code.csv"],
        "import more": ["import", base / "old-s", "--split", "s", "--layer", "l", *data],
    }
    lines["growth"] += ["--save-predictions", "classes"]
    return {name: list(map(str, line)) for name, line in lines.items()}


def said(commands, limit=0):
    import json

    line = [sys.executable, "-c", SCRIPT, json.dumps(commands), str(limit)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(found) for found in done.stdout.splitlines()]


def check(found, base, advice):
    assert len(found) == 16
    for name, code, told in found:
        lines = [line for line in told.splitlines() if line.startswith("probecache: ")]
        assert code == 1, (name, told)
        assert len(lines) == 1, (name, told)
        assert str(base) in lines[0], name
        assert "MiB free on the disk of" in lines[0] or "MiB but no inodes free" in lines[0], name
        assert advice in lines[0], name
        assert "Traceback" not in told


@pytest.mark.slow
def test_a_limit_of_file_sizes(source, tmp_path):
    on_the_disk(source, tmp_path)
    check(
        said(commands_into(source, tmp_path), limit=100),
        tmp_path,
        "raise the limit of file sizes (ulimit -f)",
    )
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".tmp", ".partial"))]


@pytest.mark.parametrize("harm", ["full", pytest.param("read-only", marks=pytest.mark.slow)])
def test_a_disk_that_is_full_or_read_only(source, tmp_path, harm):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        on_the_disk(source, folder)
        if harm == "full":
            with pytest.raises(OSError, match="No space"):
                (folder / "fill").write_bytes(bytes(16 << 20))
            advice = "make room on that disk"
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            advice = "that file system is read-only"
        check(said(commands_into(source, folder)), folder, advice)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
