"""The rehearsal of the GPU check: each part runs on the CPU, so that no typo waits for a lent machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check import TESTS

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_each_part_runs_on_a_cpu_and_leaves_its_record(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_check",
        "--device",
        "cpu",
        "--quick",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    (record,) = tmp_path.glob("gpu-check-cpu-*.json")
    found = json.loads(record.read_text())["results"]
    ended = {name: part.get("ended", part) for name, part in found.items() if isinstance(part, dict)}
    assert ended.keys() == {"tests", "probes", "extract", "sweep", "cka", "decoded", "suite"}
    assert set(ended.values()) <= {"done", "no test here"}, ended
    (probes,) = tmp_path.glob("probes-device-cpu-*.json")
    cases = json.loads(probes.read_text())["results"]
    assert all(point["gap"] >= 0 for point in cases["ten classes"]["ours"])
    peers = cases["ten classes"]["peers"]
    assert all(peer["gap"] >= 0 for peer in peers if "gap" in peer)
    assert any("gap" in peer for peer in peers if peer["peer"].startswith("torch L-BFGS"))
    assert len(list(tmp_path.iterdir())) <= 7


def test_every_test_marked_gpu_is_in_a_folder_that_the_check_runs():
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text() and path.name != "test_gpu_check.py"
    }
    assert marked
    assert all(any(path.startswith(folder + "/") for folder in TESTS) for path in marked), marked


def test_parts_that_could_end_too_late_do_not_begin(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--seconds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (record,) = tmp_path.iterdir()
    found = json.loads(record.read_text())["results"]
    assert all("were left" in part["left out"] for part in found.values() if isinstance(part, dict))
