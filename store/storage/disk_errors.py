"""One line for what a file system refused: the path, the free space of its disk, what to do."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from probecache.store.errors import ProbecacheError

_CONTINUES = "what was committed is kept, the same command continues once"
_ADVICE = {
    errno.ENOSPC: f"make room on that disk: {_CONTINUES} there is room",
    errno.EDQUOT: f"your quota there is used up: {_CONTINUES} there is room",
    errno.EROFS: f"that file system is read-only: {_CONTINUES} it can be written, or name another folder",
    errno.EACCES: f"you may not write there: {_CONTINUES} it can be written, or name another folder",
    errno.EPERM: f"you may not write there: {_CONTINUES} it can be written, or name another folder",
    errno.EFBIG: f"raise the limit of file sizes (ulimit -f): {_CONTINUES} it is raised",
    errno.EMFILE: f"raise the limit of open files (ulimit -n): {_CONTINUES} it is raised",
    errno.ENFILE: f"the machine has too many open files: {_CONTINUES} some are closed",
    errno.ENAMETOOLONG: "that file system allows no name that long: use shorter names or another folder",
    errno.EISDIR: "a folder lies where a file belongs: move it away, then run the same command",
    errno.ENOTDIR: "a file lies where a folder belongs: move it away, then run the same command",
}


_NAMES = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR}


def write_failed(error: OSError, where: str, path: str) -> ProbecacheError:
    """The error for a write of `path` that failed; `where` names it in the message."""
    if error.errno in (errno.EISDIR, errno.ENOTDIR) and error.filename:
        where = path = str(error.filename)
    advice = _ADVICE.get(error.errno or 0, f"{_CONTINUES} it can be written")
    return ProbecacheError(f"cannot write {where}: {error.strerror or error}{_free(path)}; {advice}")


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """What a full disk, a read-only folder or a limit refuses meanwhile, in one line that names `path`.

    Other errors, such as a name that cannot be or a folder that does not exist, are the caller's.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE or error.errno in _NAMES:
            raise
        raise write_failed(error, os.fspath(path), os.path.abspath(path)) from error


def disk_refused(error: OSError) -> ProbecacheError | None:
    """The error for what a disk or a limit refused where nothing else has named it; None for other errors."""
    if error.errno not in _ADVICE or error.errno in _NAMES | {errno.EACCES, errno.EPERM}:
        return None  # who may not read is told so otherwise
    where = str(error.filename or os.getcwd())
    return write_failed(error, where, os.path.abspath(where))


def read_failed(error: OSError, where: str) -> ProbecacheError:
    """The error for a read that failed for another reason than that nothing is there."""
    return ProbecacheError(
        f"cannot read {where}: {error.strerror or error}; make it readable and run the same command"
    )


def _free(path: str) -> str:
    """How much room the disk of `path`, or of its nearest folder that exists, has left."""
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    try:
        free, files = shutil.disk_usage(path).free >> 20, os.statvfs(path)
    except OSError:
        return ""
    none_left = files.f_files > 0 and files.f_favail == 0
    return f" ({free} MiB{' but no inodes' if none_left else ''} free on the disk of {path})"
