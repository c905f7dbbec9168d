"""Benchmark records say what was measured, where, and with which versions."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.record import alternate, record

ROOT = Path(__file__).parent.parent


def test_record_holds_machine_versions_and_results(tmp_path):
    path = record("sample", {"ratio": 2.0}, folder=tmp_path)
    entry = json.loads(path.read_text())
    assert entry["results"] == {"ratio": 2.0}
    assert entry["machine"]["cores"] >= 1
    assert {"python", "torch", "zarr"} <= set(entry["versions"])
    assert entry["date"] in path.name


def test_alternate_runs_in_turn_and_drops_the_warmup():
    order: list[str] = []
    seconds = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, runs=2, warmup=1)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_readme_and_docs_say_what_the_records_say():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tables", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
