"""What a batch system or a container leaves of a machine."""

import os

import pytest

from probecache.store import machine

GIB = 2**30


def group(folder, limit, usage, cached, names=("memory.max", "memory.current", "inactive_file")):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon {usage - cached}\n{names[2]} {cached}\n")


@pytest.fixture
def usable(tmp_path, monkeypatch):
    """Bytes of 100 GiB that are free, for a process of these groups."""
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(
        machine.psutil, "virtual_memory", lambda: type("", (), {"available": 100 * GIB, "total": 120 * GIB})
    )

    def found(membership):
        (tmp_path / "membership").write_text(membership)
        return machine.usable_memory()

    return found


def test_the_tightest_group_counts_and_what_it_would_drop_is_left(usable, tmp_path):
    groups = tmp_path / "groups"
    group(groups, "max", 50 * GIB, 0)
    group(groups / "job", 8 * GIB, 6 * GIB, 4 * GIB)  # 6 GiB left
    group(groups / "job" / "step", 20 * GIB, GIB, 0)
    assert usable("0::/job/step\n") == int(0.8 * 6 * GIB)
    assert machine.whole_memory() == 8 * GIB
    assert usable("0::/\n") == int(0.8 * 100 * GIB)
    assert machine.whole_memory() == 120 * GIB
    assert usable("") == int(0.8 * 100 * GIB)


def test_version_1_and_a_path_of_the_host_that_a_container_does_not_have(usable, tmp_path):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    group(tmp_path / "groups" / "memory", 4 * GIB, 5 * GIB, GIB, names)
    assert usable("4:cpu,memory:/docker/abc\n0::/\n") == 0
    group(tmp_path / "groups" / "memory", 2**63 - 4096, GIB, 0, names)  # no limit
    assert usable("4:memory:/docker/abc\n1:cpu:/x\n") == int(0.8 * 100 * GIB)


def test_a_system_without_groups(usable, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "nowhere")
    assert machine.usable_memory() == int(0.8 * 100 * GIB)


def test_the_cores_that_are_left(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4}, raising=False)
    assert machine.usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1
