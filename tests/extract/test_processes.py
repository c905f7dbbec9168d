"""Several processes, and processes that are killed: the same bytes as one that was never interrupted."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from probecache.__main__ import main
from probecache.extract.distributed import Place, find_place, spawn
from probecache.extract.run import extract_features
from probecache.store.errors import InputError, ProbecacheError, UnfinishedSplit
from probecache.store.reader import open_store

ROOT = Path(__file__).parents[2]
MODEL = "test_resnet"


def command(data, out, *more):
    options = ["--model", MODEL, "--no-pretrained", "--data-dir", data, "--out", out, "--shard-rows", "64"]
    return [
        sys.executable,
        "-m",
        "probecache",
        "extract",
        *map(str, options),
        "--img-size",
        "64",
        "--batch-size",
        "16",
        *more,
    ]


def start(arguments, **environment):
    pipe = subprocess.PIPE
    return subprocess.Popen(
        arguments, cwd=ROOT, env={**os.environ, **environment}, stdout=pipe, stderr=pipe, text=True
    )


def straight(data, out, **options):
    return extract_features(
        MODEL, data_dir=data, out=out, pretrained=False, shard_rows=64, img_size=64, batch_size=16, **options
    )


def same(store, expected):
    assert np.array_equal(store.matrix("train", "penultimate"), expected.matrix("train", "penultimate"))
    assert np.array_equal(store.labels("train"), expected.labels("train"))
    assert list(store.samples("train")) == list(expected.samples("train"))
    assert store.digest("train", "penultimate") == expected.digest("train", "penultimate")


def committed(out):
    try:
        matrix = open_store(out, partial=True).matrix("train", "penultimate")
        return int(np.isfinite(matrix).all(1).sum())
    except ProbecacheError:
        return 0


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_killed_and_continued(digits, tmp_path, how):
    out = tmp_path / "s.zarr"
    process = start(command(digits, out, "--limit", "500"))
    while process.poll() is None and committed(out) < 64:
        time.sleep(0.01)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    done = committed(out)
    assert done >= 64
    if how == signal.SIGINT and process.returncode == 130:
        assert "interrupted" in errors
        assert "Traceback" not in errors
    store = straight(digits, out, limit=500)
    if done < 500:
        assert store.report("train", "penultimate")["summary"]["images"] <= 500 - done // 64 * 64
    same(store, straight(digits, tmp_path / "straight.zarr", limit=500))


def test_two_ranks_own_whole_shards(digits, tmp_path):
    out = tmp_path / "s.zarr"
    ranks = [
        start(command(digits, out, "--limit", "300"), RANK=str(r), WORLD_SIZE="2", LOCAL_RANK=str(r))
        for r in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    same(open_store(out), straight(digits, tmp_path / "straight.zarr", limit=300))


def test_one_rank_alone_leaves_an_unfinished_split(digits, tmp_path):
    out = tmp_path / "s.zarr"
    straight(digits, out, limit=300, place=Place(1, 2))
    with pytest.raises(UnfinishedSplit):
        open_store(out).matrix("train", "penultimate")
    straight(digits, out, limit=300, place=Place(0, 2))
    same(open_store(out), straight(digits, tmp_path / "straight.zarr", limit=300))


@pytest.mark.slow
def test_devices_starts_processes(digits, tmp_path):
    out = tmp_path / "s.zarr"
    process = start(command(digits, out, "--limit", "300", "--devices", "2", "--device", "cpu"))
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert "penultimate" in output
    same(open_store(out), straight(digits, tmp_path / "straight.zarr", limit=300, device="cpu"))
    bad = start(command(digits / "nowhere", tmp_path / "bad.zarr", "--devices", "2"))
    _, errors = bad.communicate(timeout=180)
    assert bad.returncode == 2, errors


def test_places():
    assert find_place({}) == Place(0, 1, 0)
    assert find_place(
        {"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "1"}
    ) == Place(5, 6, 1)
    # What sbatch gives to the script itself, srun's numbers for such a script, a shell of salloc's.
    batch = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4"}
    for number in ({}, {"SLURM_STEP_ID": "4294967291"}, {"SLURM_STEPID": "4294967290"}):
        assert find_place({**batch, "SLURM_STEP_NUM_TASKS": "4", **number}) == Place()
    with pytest.raises(InputError, match="whole numbers"):
        find_place({"RANK": "x", "WORLD_SIZE": "2"})
    with pytest.raises(InputError, match="outside"):
        find_place({"RANK": "2", "WORLD_SIZE": "2"})
    with pytest.raises(InputError, match="devices"):
        spawn(0, print, {})


class _GoesOnce:
    """An argument that only the first process can be given."""

    sent = 0

    def __reduce__(self):
        _GoesOnce.sent += 1
        if _GoesOnce.sent > 1:
            raise OSError("no more processes")
        return int, (60,)


def _sleep(place, seconds):
    time.sleep(seconds)


def test_a_process_that_cannot_start_ends_those_before_it():
    with pytest.raises(OSError, match="no more processes"):
        spawn(2, _sleep, {"seconds": _GoesOnce()})
    end = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.1)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("n_samples", [1, 7, 64, 65, 1000])
@pytest.mark.parametrize("world", [1, 2, 3, 16])
def test_ranges_cover_every_row_once(n_samples, world):
    ranges = [Place(rank, world).rows(n_samples, 8) for rank in range(world)]
    rows = [row for part in ranges if part for row in range(*part)]
    assert rows == list(range(n_samples))
    assert all(part[0] % 8 == 0 for part in ranges if part)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["with rows", "without"])
def test_more_processes_than_shards_each_end_well(digits, tmp_path, first):
    """Two processes as torchrun starts them, one shard: the one without rows waits for the store."""
    out = tmp_path / "out.zarr"
    arguments = command(digits, out, "--limit", "60", "--device", "cpu")
    order = [1, 0] if first == "with rows" else [0, 1]
    processes = []
    for rank in order:
        env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        processes.append(
            subprocess.Popen(
                arguments, cwd=ROOT, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    for process in processes:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
    assert open_store(out).matrix("train", "penultimate").shape[0] == 60


def test_a_part_says_that_it_is_one(digits, tmp_path, capsys):
    out = tmp_path / "out.zarr"
    arguments = command(digits, out, "--limit", "128", "--device", "cpu", "--rows", "0:64")
    with pytest.raises(SystemExit) as ended:
        main(arguments[arguments.index("extract") :])
    assert not ended.value.code
    assert "64 of 128 rows are still to be written, from row 64 on" in capsys.readouterr().err
