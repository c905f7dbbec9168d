"""One writer at a time: a lock file beside RESULTS that the system drops when its process dies."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from probecache.store.errors import InputError
from probecache.store.storage.disk_errors import writing
from probecache.store.storage.enclosing import require_outside
from probecache.store.storage.files import check_place
from probecache.store.storage.replace_folder import (
    beside,
    recover_folder,
    replace_folder,
    require_not_here,
)


def real_place(path: str | Path) -> Path:
    """Where a folder really lies: links followed, so that two names of one folder share its lock.

    InputError for a URL, a path that names no folder of its own, such as `/`, a ring of links, and a place
    inside a store or RESULTS.
    """
    if "://" in check_place(path):
        raise InputError(f"got {path}; allowed: a local folder, copy it to the object store after")
    place = Path(os.path.realpath(Path(path).expanduser()))
    if not place.name or place.is_symlink():
        raise InputError(f"got the path {path}: name a folder")
    require_outside(place)
    return place


def may_write(path: str | Path) -> bool:
    """Whether the file system lets this user write beside `path`: not on read-only media."""
    return os.access(real_place(path).parent, os.W_OK)


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
        except OSError as error:
            unlock(path, handle)
            raise InputError(
                f"{path} lies on a file system that locks no files ({error.strerror}); give another --out"
            ) from None
        try:
            # the last owner may have removed the file between our open and our lock: then lock the new one
            if os.stat(file).st_ino == os.fstat(handle).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
    except OSError:  # a full disk
        unlock(path, handle)
        raise
    return handle


def unlock(path: Path, handle: int) -> None:
    lock_file(path).unlink(missing_ok=True)
    os.close(handle)


@contextmanager
def replaced(out: str | Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """A new folder beside `out` to write into; at the end it takes `out`'s place in one step.

    check: raises where something else lies there; asked under the lock, and again before that step, since
    another command may have written there meanwhile. Where the block raises or the process dies before that
    step, `out` is as it was; what a killed one left is removed by the next. InputError while another process
    writes there.
    """
    place = real_place(out)
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = lock(place)
        try:
            require_not_here(place)
            recover_folder(place)
            check(place)
            made = beside(place, "new")
            made.mkdir()
            yield made
            check(place)
            replace_folder(made, place)
        finally:
            recover_folder(place)  # what was written in vain
            unlock(place, handle)
