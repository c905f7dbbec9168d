"""Kills, races and a full disk: real processes against a real file system."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import probecache as pc
from probecache.store.verification.verify import verify

ROOT = Path(__file__).parents[2]


def faults(*arguments):
    command = [sys.executable, "-m", "benchmarks.store.faults", "--no-record", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def import_command(path, values, labels, *more):
    command = [sys.executable, "-m", "probecache", "import", str(path), "--split", "s", "--layer", "l"]
    command += ["--activations", str(values), "--labels", str(labels), "--shard-rows", "64", *more]
    return command


@pytest.fixture
def features(tmp_path):
    rng = np.random.default_rng(0)
    values, labels = rng.standard_normal((640, 300)).astype(np.float16), rng.integers(0, 5, 640)
    np.save(tmp_path / "X.npy", values)
    np.save(tmp_path / "y.npy", labels)
    return tmp_path / "X.npy", tmp_path / "y.npy", values


def test_killed_imports_end_with_the_same_bytes():
    told = faults("--kills", 8, "--flips", 0, "--no-extract")
    for count in ("'identical to an uninterrupted run': 8", "'good under verify': 8"):
        assert count in told
    for none in ("'committed shards rewritten': 0", "'litter left': 0"):
        assert none in told


@pytest.mark.slow
def test_50_kills_over_extraction_and_import_and_200_flips():
    told = faults("--kills", 50, "--flips", 200)
    assert told.count("'identical to an uninterrupted run': 25") == 2
    assert told.count("'committed shards rewritten': 0") == 2
    assert "'flips': 200, 'named': 200" in told


def test_ctrl_c_ends_with_one_line_and_the_same_command_continues(tmp_path, features):
    values, labels, expected = features
    command = import_command(tmp_path / "store", values, labels)
    # a suite that runs in the background of a shell is born deaf to it
    slow = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    slow += "import time, probecache.store.writer as w; real = w.encode_layer\n"
    slow += "w.encode_layer = lambda *a: (time.sleep(0.5), real(*a))[1]\n"
    slow += "import sys, probecache.__main__; probecache.__main__.main(sys.argv[1:])"
    process = subprocess.Popen(
        [command[0], "-c", slow, *command[3:]], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not list((tmp_path / "store").glob("s/l/commit/c/*/0")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(2)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert told.strip().count("\n") == 0
    assert "the same command continues" in told
    assert not list((tmp_path / "store").rglob("claim-*"))
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
    np.testing.assert_array_equal(pc.open_store(tmp_path / "store").matrix("s", "l"), expected)


def test_two_writers_racing_lose_nothing(tmp_path, features):
    """Both want every row: each is refused or does all; together they leave one whole store."""
    values, labels, expected = features
    for attempt in range(2):
        path = tmp_path / f"race{attempt}"
        command = import_command(path, values, labels)
        both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        told = [process.communicate(timeout=120)[1] for process in both]
        codes = sorted(process.returncode for process in both)
        assert codes in ([0, 0], [0, 2]), told
        if codes == [0, 2]:
            assert any("is being written by process" in line for line in told)
        np.testing.assert_array_equal(pc.open_store(path).matrix("s", "l"), expected)
        assert list(verify(path)) == []


def test_processes_with_their_own_rows_fill_one_split(tmp_path, features):
    values, labels, expected = features
    ranges = ["0:192", "192:448", "448:640"]
    running = [
        subprocess.Popen(import_command(tmp_path / "s", values, labels, "--rows", r), cwd=ROOT)
        for r in ranges
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    np.testing.assert_array_equal(pc.open_store(tmp_path / "s").matrix("s", "l"), expected)
    assert list(verify(tmp_path / "s")) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(small_disk, tmp_path, features):
    values, labels, expected = features
    big = np.concatenate([expected] * 4)
    np.save(values, big)
    np.save(labels, np.zeros(len(big), int))
    command = import_command(small_disk / "store", values, labels)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "No space left on device" in done.stderr
    assert "the same command continues" in done.stderr
    kept = len(list((small_disk / "store").glob("s/l/commit/c/*/0")))
    assert kept > 3
    assert {d.kind for d in verify(small_disk / "store")} <= {"unwritten"}
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
    np.testing.assert_array_equal(pc.open_store(small_disk / "store").matrix("s", "l"), big)
    assert list(verify(small_disk / "store")) == []
