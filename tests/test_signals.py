"""SIGTERM, SIGUSR1, Ctrl-C twice and --max-hours end extract and sweep: one line, no child, commits kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import probecache as pc
from probecache.analyze.results.verify import verify_results
from probecache.extract.digits import write_digits
from probecache.store.verification.verify import verify

ROOT = Path(__file__).parents[1]
# a suite that runs in the background of a shell is born deaf to Ctrl-C
START = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
PATIENCE = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("signals")
    rng, y = np.random.default_rng(0), np.arange(400) % 3
    for split in ("train", "test"):
        x = rng.standard_normal((400, 24)).astype(np.float32) + y[:, None]
        pc.write_arrays(path / "s", split=split, layer="l", activations=x, labels=y)
    return path, write_digits(path / "digits")


def start(script, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-c", START + script, *map(str, arguments)]
    return subprocess.Popen(
        line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def sweep(path, out, *more):
    """A sweep on two workers whose blocks are many and slow."""
    script = (
        "import probecache.analyze.sweeps.resolved_plan as r, probecache as pc\n"
        "r.target_seconds = lambda *a: 0.0\n"
        "if __name__ == '__main__': pc.main(sys.argv[1:])\n"
    )
    arguments = ["sweep", path / "s", "--layer", "l", "--fractions", "0.5,1", "--seeds", "400"]
    process = start(script, *arguments, "--solver", "sklearn", "--workers", "2", "--out", out, *more)
    return process, lambda: next(out.glob("accuracy/c/**/0"), None) is not None


def extract(path, out, *more):
    """An extraction with two loader processes whose shards come slowly."""
    script = (
        "import time, probecache.store.writer as w, probecache as pc\n"
        "real = w.encode_layer\n"
        "w.encode_layer = lambda *a: (time.sleep(0.3), real(*a))[1]\n"
        "if __name__ == '__main__': pc.main(sys.argv[1:])\n"
    )
    arguments = ["extract", "--model", "test_resnet", "--data-dir", path / "digits", "--split", "train"]
    arguments += ["--no-pretrained", "--img-size", 32, "--batch-size", 16, "--workers", 2]
    arguments += ["--shard-rows", 16, "--out", out]
    process = start(script, *arguments, "--device", "cpu", "--layer", "penultimate", *more)
    return process, lambda: next(out.glob("train/penultimate/commit/c/*/0"), None) is not None


def good(out):
    if (out / "state").exists():
        return verify_results(str(out)) == []
    return not [damage for damage in verify(out) if damage.harmful]


@pytest.mark.slow
@pytest.mark.parametrize("work", [sweep, extract])
@pytest.mark.parametrize(
    ("numbers", "code", "says"),
    [
        ([signal.SIGTERM], 143, "stopped by SIGTERM"),
        ([signal.SIGUSR1], 138, "stopped by SIGUSR1"),
        ([signal.SIGINT, signal.SIGINT], 130, "interrupted"),
    ],
)
def test_a_signal_ends_a_run_in_one_line_with_no_child_left(folder, tmp_path, work, numbers, code, says):
    out = tmp_path / "out"
    process, begun = work(folder[0], out)
    try:
        end = time.monotonic() + PATIENCE
        while not begun():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "nothing was committed in time"
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.05)
        told = process.communicate(timeout=PATIENCE)[1]
    finally:
        process.kill()
    assert process.returncode == code, told
    lines = [line for line in told.splitlines() if line.startswith("probecache: ")]
    assert lines == [f"probecache: {says}; what was committed is kept, the same command continues"]
    assert "Traceback" not in told
    assert not psutil.wait_procs(children, timeout=20)[1]
    assert good(out)
    assert begun()
    assert not list(out.rglob("claim-*")) + list(out.parent.glob(".out.*"))


@pytest.mark.slow
@pytest.mark.parametrize("work", [sweep, extract])
def test_max_hours_end_a_run_as_a_signal_does(folder, tmp_path, work):
    out = tmp_path / "out"
    process, _ = work(folder[0], out, "--max-hours", "0.004")
    told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130, told
    assert "--max-hours are over; what was committed is kept, the same command continues" in told
    assert "Traceback" not in told
    assert not out.exists() or good(out)
