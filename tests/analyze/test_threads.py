"""Threads on a machine that others use: what the user said holds, and what others do is seen."""

import subprocess
import sys
import time

import pytest
import torch

from probecache.analyze import threads
from probecache.analyze.threads import COUNTS, WAITING, Watch, describe, wait_asleep


def test_threads_sleep_unless_the_user_said_how_they_wait():
    environment: dict[str, str] = {}
    assert wait_asleep(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}
    for name in WAITING:
        said = {name: "1"}
        assert not wait_asleep(said)
        assert said == {name: "1"}


def test_a_process_that_keeps_a_core_busy_is_seen():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)  # its interpreter has started
        watch = Watch.start()
        time.sleep(1.0)
        assert watch.foreign() > 0.3  # of a core; less than one where others want it too
    finally:
        busy.kill()
        busy.wait()
    assert watch.foreign() is None  # looked at a moment ago


def test_own_work_is_not_taken_for_that_of_others(monkeypatch):
    looks = iter([(10.0, 4.0, 100.0), (19.0, 12.0, 110.0)])  # 9 s busy of 10, 8 of them ours
    monkeypatch.setattr(threads, "_times", lambda: next(looks))
    monkeypatch.setattr(threads.psutil, "cpu_count", lambda: 2)
    assert Watch.start().foreign() == pytest.approx(1.0 / 5.0)


def test_threads_follow_what_others_leave_and_what_the_user_said(monkeypatch):
    for name in COUNTS:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    try:
        watch = Watch(cores=4, chosen=False)
        monkeypatch.setattr(Watch, "foreign", lambda self: 2.2)
        assert watch.adjust() == 2
        assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert Watch.start().adjust() is None
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_dry_run_says_threads_and_waiting():
    environment = {"OMP_WAIT_POLICY": "PASSIVE"}
    line = describe(environment, seconds=0.3)
    assert line.startswith("threads: ")
    assert "OMP_WAIT_POLICY=PASSIVE" in line
    assert "as OMP_NUM_THREADS=1 says" in describe(environment | {"OMP_NUM_THREADS": "1"}, seconds=0.3)


def test_the_command_line_has_threads_sleep():
    code = (
        "import os, sys; from probecache.__main__ import main\ntry: main(['--version'])\nexcept SystemExit: "
    )
    code += "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {k: v for k, v in threads.os.environ.items() if k not in WAITING}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split("\n")[1].startswith("PASSIVE"), done.stderr
