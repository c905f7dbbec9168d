"""The cores that this process may run on."""

import os


def usable_cores() -> int:
    """How many: a batch system, a container or `taskset` may leave a process some of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
