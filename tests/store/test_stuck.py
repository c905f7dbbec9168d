"""Nothing stays stuck: whatever lies in a file's place is named, mended, and the same command goes on."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import probecache as pc
from probecache.store.verification.repair import repair
from probecache.store.verification.verify import verify

ROOT = Path(__file__).parents[2]
ROWS = 20
VALUES = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
LABELS = np.arange(ROWS) % 4


def write(path):
    for layer in ("a", "b"):
        pc.write_arrays(path, split="t", layer=layer, activations=VALUES, labels=LABELS, shard_rows=8)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("stuck") / "s"
    write(path)
    return path


FILES = [
    "zarr.json",
    "t/zarr.json",
    "t/label/zarr.json",
    "t/commit/zarr.json",
    "t/label/c/0",
    "t/sample/c/0",
    "t/status/c/0",
    "t/commit/c/0/0",
    "t/commit/rows/1",
    "t/commit/index",
    "t/a/zarr.json",
    "t/a/activations/zarr.json",
    "t/a/activations/c/1/0",
    "t/a/commit/c/1/0",
    "t/a/commit/index",
    "t/a/mean/c/0",
]
HARMS = {
    "cut": lambda f, raw: f.write_bytes(raw[: len(raw) // 2]),
    "empty": lambda f, raw: f.write_bytes(b""),
    "zeros": lambda f, raw: f.write_bytes(bytes(len(raw))),
    "longer": lambda f, raw: f.write_bytes(raw + b"x"),
    "missing": lambda f, raw: None,
    "foreign": lambda f, raw: f.write_bytes(b"\x93NUMPY" + os.urandom(len(raw))),
    "a FIFO": lambda f, raw: os.mkfifo(f),
    "a folder": lambda f, raw: f.mkdir(),
    "huge": lambda f, raw: (f.write_bytes(raw), os.truncate(f, 1 << 40)),
    "a link out": lambda f, raw: f.symlink_to("/etc/hostname"),
    "a link to nowhere": lambda f, raw: f.symlink_to("nowhere"),
}


# all of them take a minute: every file and every harm are in each run, each pair in the slow ones
PAIRS = [
    pytest.param(file, harm, marks=[pytest.mark.slow] if (i + 3 * j) % 4 else [])
    for i, file in enumerate(FILES)
    for j, harm in enumerate(HARMS)
]


@pytest.mark.parametrize(("file", "harm"), PAIRS)
def test_a_piece_in_any_state_is_named_mended_and_written_again(original, tmp_path, file, harm):
    path = tmp_path / "s"
    shutil.copytree(original, path)
    raw = (path / file).read_bytes()
    (path / file).unlink()
    HARMS[harm](path / file, raw)
    named = [d for d in verify(path) if d.harmful]
    assert named
    assert all("\n" not in str(d) for d in named)
    repair(path)
    assert not [d for d in verify(path) if d.harmful]
    write(path)
    assert list(verify(path)) == []
    store = pc.open_store(path)
    for layer in ("a", "b"):
        np.testing.assert_array_equal(store.matrix("t", layer), VALUES)
    np.testing.assert_array_equal(store.labels("t"), LABELS)
    assert not (path / file).is_symlink()


@pytest.mark.parametrize("key", ["t/a/activations/c/1", "t/commit/rows", "t/label"])
def test_a_file_in_a_folders_place_is_named_with_what_to_do(original, tmp_path, key):
    path = tmp_path / "s"
    shutil.copytree(original, path)
    shutil.rmtree(path / key)
    (path / key).write_text("mine")
    assert [d for d in verify(path) if d.harmful]
    with pytest.raises(pc.ProbecacheError, match=rf"{key}.*a file lies where a folder belongs: move it away"):
        repair(path) and write(path)
    assert (path / key).read_text() == "mine"
    (path / key).unlink()
    repair(path)
    write(path)
    assert list(verify(path)) == []


def test_two_damages_one_behind_the_other_are_both_mended(original, tmp_path):
    path = tmp_path / "s"
    shutil.copytree(original, path)
    shard = path / "t/a/activations/c/2/0"
    raw = bytearray(shard.read_bytes())
    raw[10] ^= 1
    shard.write_bytes(raw)
    (path / "t/a/zarr.json").write_bytes(b"{}")
    found = repair(path)
    assert {(d.kind, d.shard) for d in found} >= {("document", None), ("shard", 2)}
    assert not [d for d in verify(path) if d.harmful]
    write(path)
    assert list(verify(path)) == []


def test_repair_that_cannot_mend_says_so_and_mends_the_rest(original, tmp_path):
    path = tmp_path / "s"
    shutil.copytree(original, path)
    # the layer's document, and the only copy of it
    (path / "t/a/zarr.json").write_bytes(b"{}")
    (path / "zarr.json").write_bytes(b"")
    (path / "t/b/activations/c/1/0").write_bytes(b"")
    command = [sys.executable, "-m", "probecache", "repair", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "stay damaged" in done.stderr
    assert "mended" not in done.stdout + done.stderr
    left = [d for d in verify(path) if d.harmful]
    assert {d.layer for d in left} == {"a"}
    shutil.rmtree(path / "t/a")  # as it says
    write(path)
    assert list(verify(path)) == []


WRITER = """
import sys, time, numpy as np, probecache as pc
from probecache.store.fingerprint import Fingerprint
from probecache.store.layout import LayerSpec, SplitSpec
from probecache.store.writer import open_split_writer
path, n, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
spec = SplitSpec("t", n, [LayerSpec("l", 4, "float32")], ["x"], Fingerprint({"m": 1}), shard_rows=8)
writer = open_split_writer(path, spec)
values = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
print("open", flush=True)
for s in writer.pending():
    names = [str(i) for i in range(s.start, s.stop)]
    writer.write(s, {"l": values[s.start:s.stop]}, np.zeros(s.rows, int), names)
    time.sleep(pause)
writer.finish()
"""


def start(path, n, pause):
    command = [sys.executable, "-c", WRITER, str(path), str(n), str(pause)]
    writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with writer.stdout:
        assert writer.stdout.readline() == "open\n"
    return writer


def test_verify_read_and_repair_beside_a_living_writer_see_no_damage(tmp_path):
    """Round after round of growth, each of which opens the last shard again, while all three go on."""
    path = tmp_path / "s"
    start(path, 20, 0).wait()
    rounds = 0
    for n in (37, 54, 71, 88):
        writer = start(path, n, 0.05)
        store = pc.open_store(path, partial=True)
        while writer.poll() is None:
            assert not [d for d in verify(path) if d.harmful]
            assert repair(path) == []
            got = store.matrix("t", "l")
            there = ~np.isnan(got).any(axis=1)
            expected = np.arange(got.size, dtype=np.float32).reshape(got.shape)
            np.testing.assert_array_equal(got[there], expected[there])
            assert (store.labels("t")[store.status("t") == 1] == 0).all()
            rounds += 1
        assert writer.returncode == 0
        assert list(verify(path)) == []
        assert pc.open_store(path).shape("t", "l") == (n, 4)
    assert rounds > 4


def test_damage_under_a_living_writers_claim_is_its_business(tmp_path):
    path = tmp_path / "s"
    start(path, 20, 0).wait()
    writer = start(path, 40, 60)  # it holds the last, partial shard
    try:
        shard = path / "t/l/activations/c/2/0"
        raw = bytearray(shard.read_bytes())
        raw[5] ^= 1
        shard.write_bytes(raw)
        assert [(d.kind, d.shard) for d in verify(path)] == [("unwritten", 2)]
        assert repair(path) == []
        assert (path / "t/l/commit/c/2/0").exists()
        with pytest.raises(pc.UnfinishedSplit, match=r"shard 2 is being written by process \d+ on"):
            pc.open_store(path).matrix("t", "l")
        np.testing.assert_array_equal(
            pc.open_store(path).matrix("t", "l", rows=(0, 16)), np.arange(64.0).reshape(16, 4)
        )
    finally:
        writer.kill()
        writer.wait()
    begun = time.monotonic()
    assert [(d.kind, d.shard) for d in verify(path)] == [("shard", 2)]
    assert time.monotonic() - begun < 1.5
    repair(path)
    start(path, 40, 0).wait()
    assert list(verify(path)) == []
