"""One writer at a time: a lock file beside RESULTS that the system drops when its process dies."""

import fcntl
import os
from pathlib import Path

from probecache.store.errors import InputError


def lock_file(path: Path) -> Path:
    return path.parent / f".{path.name}.lock"


def lock(path: Path) -> int:
    """An exclusive lock, as a descriptor; InputError, with its owner, where another process has it."""
    file = lock_file(path)
    while True:
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        handle = os.open(file, flags, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 100, 0).decode(errors="replace")
            os.close(handle)
            raise InputError(
                f"{path} is being written by {owner}; wait for it, or give another --out"
            ) from None
        try:
            # the last owner may have removed the file between our open and our lock: then lock the new one
            if os.stat(file).st_ino == os.fstat(handle).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
    return handle


def unlock(path: Path, handle: int) -> None:
    lock_file(path).unlink(missing_ok=True)
    os.close(handle)
