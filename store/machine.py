"""What this process may use of its machine, of which a batch system or a container may allow it a part."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
SHARE = 0.8  # of the memory that is left, where nobody says how much to take


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory() -> int:
    """Bytes that this process should take: 80% of what is free on the machine, or in its control groups."""
    left = [limit - used for limit, used in _limits(_GROUPS, _MEMBERSHIP)]
    return int(SHARE * max(0, min([psutil.virtual_memory().available, *left])))


def whole_memory() -> int:
    """Bytes that this process could have if it were alone: the machine's memory, or its control groups'."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits(_GROUPS, _MEMBERSHIP))])


def _limits(groups: Path, membership: Path) -> Iterator[tuple[int, int]]:
    """Limit and use, bytes, of each control group of this process that limits memory (Linux)."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for number, controllers, path in (line.split(":", 2) for line in lines):
        if number == "0":  # of version 2
            base, names = groups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = groups / "memory"
        else:
            continue
        own = base / path.lstrip("/")
        for group in (own, *own.parents):
            if not group.is_relative_to(base):
                break
            if (found := _limit(group, *names)) is not None:
                yield found


def _limit(group: Path, limit: str, usage: str, cached: str) -> tuple[int, int] | None:
    """A group's limit and use, without pages of files that it would drop; None where it has no limit."""
    try:
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / usage).read_text()) - int(counts.get(cached, 0))
        return int((group / limit).read_text()), used
    except (OSError, ValueError):  # no such group here, or the word "max"
        return None
