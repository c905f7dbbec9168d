"""Read files that a stranger may have put there: never wait, never hold more bytes than were allowed for."""

import errno
import os
import stat
from pathlib import Path

from probecache.store.errors import InputError

TEXT_BYTES = 64 << 20  # no list or configuration that is read whole is larger
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class OddFile(Exception):
    """What lies there is no file that may be read whole; the message goes on after its name."""


def open_regular(path: str | os.PathLike[str]) -> int:
    """A descriptor of a regular file, for reading. OddFile for a FIFO, socket, device or folder; OSError."""
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, a device without a driver
            raise OddFile("is a socket or device, not a file") from None
        raise
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise OddFile(f"is {_KINDS.get(kind, 'something else')}, not a file")
    return descriptor


def read_bounded(path: str | os.PathLike[str], most: int) -> bytes:
    """A file's bytes; OddFile if it is no regular file or holds more than `most`, before they are read."""
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > most:
            raise OddFile(f"has {size} bytes, at most {most} are possible")
        return file.read(size)


def read_text(path: str | os.PathLike[str], what: str, most: int = TEXT_BYTES) -> str:
    """The UTF-8 text of a small file that the caller named, such as a list or a configuration.

    `what` names it in the error, such as an option: InputError in one line if there is no such file, if it is
    no regular file, if it holds more than `most` bytes, or if it is no UTF-8. A byte order mark is dropped.
    """
    shown = os.fspath(path)
    try:
        return read_bounded(Path(path).expanduser(), most).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{what}: {shown!r} cannot be read: there is no such file") from None
    except OddFile as error:
        raise InputError(f"{what}: {shown!r} {error}: name a text file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{what}: {shown!r} is no UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{what}: {shown!r} cannot be read: {reason}") from None


def require_readable(path: str | os.PathLike[str], what: str) -> None:
    """InputError for a FIFO, socket or device that a library would wait for, or read without an end."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):
        return  # the reader says what is wrong with it
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{what}: {os.fspath(path)!r} is {_KINDS.get(kind, 'something else')}, not a file")
