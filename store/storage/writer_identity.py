"""Who wrote this, and is it still alive? A mark that another process of the same machine can check."""

import contextlib
import hashlib
import os
import re
import socket
import uuid
from functools import cache
from pathlib import Path

import psutil

_MARK = re.compile(r"([0-9a-f]{12})-(\d{1,9})-(\d{1,15})-[0-9a-f]{8}")


@cache
def _here() -> str:
    """This machine, boot and process namespace: where a process id means something."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=6).hexdigest()


def _started(pid: int) -> int | None:
    """When a process began, None if it does not run (or only waits to be buried).

    On Linux in ticks since boot: psutil's time of day moves with the wall clock, and a living writer would
    look dead after the clock was set.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time() * 100)
    except psutil.Error:
        return None


def mark() -> str:
    """A new mark of this process: place, process id, its start time, eight random digits."""
    pid = os.getpid()
    return f"{_here()}-{pid}-{_started(pid) or 0}-{uuid.uuid4().hex[:8]}"


def alive(mark: str) -> bool | None:
    """Whether the process that made `mark` runs; None if it is of another machine, or no mark."""
    found = _MARK.fullmatch(mark)
    if not found or found[1] != _here():
        return None
    return _started(int(found[2])) == int(found[3])


def is_mark(text: str) -> bool:
    """Whether a text could be a mark at all."""
    return _MARK.fullmatch(text) is not None


def number(mark: str) -> str:
    """The process id in a mark, for messages."""
    found = _MARK.fullmatch(mark)
    return found[2] if found else "?"
