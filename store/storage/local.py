"""A store in a folder: a write is temporary file, fsync and rename, so it replaces an object whole or not."""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError
from probecache.store.format.chunks import DOCUMENT_BYTES, BadChunk, Pieces
from probecache.store.machine import usable_cores
from probecache.store.storage.disk_errors import read_failed, write_failed
from probecache.store.storage.safe_read import OddFile, open_regular, read_bounded
from probecache.store.storage.writer_identity import alive, is_mark, mark

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_DAY = 86400.0
_NOTHING = (FileNotFoundError, NotADirectoryError)


class LocalFiles:
    """A folder of this machine. Symbolic links out of the folder are refused."""

    threads = min(4, usable_cores())
    lists_freely = True

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(root)
        self._real = os.path.realpath(self.root)

    def _path(self, key: str) -> str:
        """Where an object lies. It may be a link itself: that is replaced or removed, never followed."""
        path = os.path.join(self._real, key) if key else self._real
        folder = os.path.dirname(path) if key else path
        if os.path.realpath(folder) != os.path.normpath(folder) or os.path.basename(path) == "..":
            raise InputError(f"{self.url}/{key} leads out of the store by a link or '..': refused")
        return path

    def _no_link(self, key: str) -> str:
        path = self._path(key)
        if os.path.islink(path) and key:
            raise InputError(f"{self.url}/{key} leads out of the store by a link: refused")
        return path

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        """What lies at `key` but is no file is a BadChunk; what cannot be read is said in one line."""
        try:
            yield
        except OddFile as error:
            raise BadChunk(f"it {error}") from None
        except _NOTHING:
            raise
        except OSError as error:
            raise read_failed(error, f"{self.url}/{key}") from error

    def read(self, key: str, most: int = DOCUMENT_BYTES) -> bytes | None:
        path = self._path(key)
        if os.path.islink(path):
            raise BadChunk("it is a link, not a file")
        try:
            with self._reading(key):
                return read_bounded(path, most)
        except _NOTHING:
            return None

    def read_many(self, keys: Sequence[str], most: int = DOCUMENT_BYTES) -> list[bytes | BadChunk | None]:
        found: list[bytes | BadChunk | None] = []
        for key in keys:
            try:
                found.append(self.read(key, most))
            except BadChunk as error:
                found.append(error)
        return found

    def read_heads(self, keys: Sequence[str], size: int) -> list[bytes | BadChunk | None]:
        found: list[bytes | BadChunk | None] = []
        for key in keys:
            head = np.empty(size, np.uint8)
            try:
                if os.path.islink(self._path(key)):
                    raise BadChunk("it is a link, not a file")
                found.append(head[: self.read_range(key, 0, [head])].tobytes())
            except BadChunk as error:
                found.append(error)
            except _NOTHING:
                found.append(None)
        return found

    def read_range(self, key: str, start: int, out: Sequence[np.ndarray[Any, Any]]) -> int:
        with self._reading(key):
            descriptor = open_regular(self._no_link(key))
            try:
                return _read_into(descriptor, start, [part.data for part in out if len(part)])
            finally:
                os.close(descriptor)

    def size(self, key: str) -> int | None:
        try:
            with self._reading(key):
                found = os.stat(self._no_link(key))
        except _NOTHING:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def write(
        self,
        items: Mapping[str, Pieces],
        then: Mapping[str, Pieces] | None = None,
        guard: Callable[[], None] | None = None,
    ) -> None:
        """All contents are synced together, then the names change in order; a journal keeps that order."""
        items = {**items, **(then or {})}
        paths = {key: self._path(key) for key in items}
        ending = f".{mark()}.tmp"
        descriptors: list[int] = []
        key, path = next(iter(paths.items()), ("", self._real))
        try:
            try:
                for key, path in paths.items():
                    _make_folder(os.path.dirname(path))
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    descriptors.append(os.open(path + ending, flags, 0o666))
                    for piece in items[key]:
                        _write_all(descriptors[-1], piece)
                _sync(descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            if guard is not None:
                guard()
            for path in paths.values():
                _replace(path + ending, path)
            _sync_folder(os.path.dirname(path))
        except OSError as error:
            raise write_failed(error, f"{self.url}/{key}", path) from error
        finally:
            for path in list(paths.values())[: len(descriptors)]:
                _remove(path + ending)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        temporary = f"{path}.{mark()}.tmp"
        try:
            _make_folder(os.path.dirname(path))
            # complete before it is visible: link() fails if the name is taken
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                try:
                    os.link(temporary, path)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    # no hard links here: created once all the same, but seen before it is whole
                    with open(path, "xb") as file:
                        file.write(data)
            finally:
                _remove(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            raise write_failed(error, f"{self.url}/{key}", path) from error
        return True

    def create_many(self, items: Mapping[str, bytes]) -> list[bool]:
        return [self.create(key, data) for key, data in items.items()]

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            _remove(path)
        except OSError as error:
            raise write_failed(error, f"{self.url}/{key}", path) from error

    def names(self, key: str) -> list[str]:
        try:
            with self._reading(key):
                return sorted(os.listdir(self._no_link(key)))
        except _NOTHING:
            return []

    def age(self, key: str) -> float | None:
        path = self._path(key)
        try:
            written = os.lstat(path).st_mtime
        except _NOTHING:
            return None
        except OSError as error:
            raise read_failed(error, f"{self.url}/{key}") from error
        return self._now(path) - written

    def _now(self, beside: str | None = None) -> float:
        """The time by the file server's clock, not by ours, which may be set wrong."""
        probe = f"{beside or os.path.join(self._real, 'now')}.{mark()}.tmp"
        try:
            with open(probe, "xb"):
                return os.stat(probe).st_mtime
        except OSError:  # one who may only read
            return time.time()
        finally:
            with contextlib.suppress(OSError):
                _remove(probe)

    def sweep(self, key: str) -> None:
        now: float | None = None
        for folder, _, names in os.walk(self._path(key)):
            for name in names:
                path, owner = os.path.join(folder, name), name.removesuffix(".tmp").rsplit(".", 1)[-1]
                if not name.endswith(".tmp") or not is_mark(owner):  # a user's own
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if alive(owner) is False:
                        _remove(path)
                    elif alive(owner) is None:  # of another machine: a day is longer than any write
                        now = self._now() if now is None else now
                        if now - os.stat(path).st_mtime > _DAY:
                            _remove(path)


def _read_into(descriptor: int, start: int, views: list[memoryview]) -> int:
    if start < 0:
        start += os.fstat(descriptor).st_size
        if start < 0:
            return 0
    done = 0
    while views:
        got = os.preadv(descriptor, views, start + done)
        if got == 0:
            break
        done += got
        while views and got >= len(views[0]):
            got -= len(views.pop(0))
        if got:
            views[0] = views[0][got:]
    return done


def _write_all(descriptor: int, piece: bytes | np.ndarray[Any, Any]) -> None:
    view = memoryview(piece) if isinstance(piece, bytes) else piece.reshape(-1).view(np.uint8).data
    while view:
        view = view[os.write(descriptor, view) :]


def _sync(descriptors: Sequence[int]) -> None:
    """fsync all at once: the journal then commits once, not once per file."""
    if len(descriptors) == 1:
        os.fsync(descriptors[0])
        return
    with ThreadPoolExecutor(min(len(descriptors), 16)) as pool:
        list(pool.map(os.fsync, descriptors))


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(path: str) -> None:
    """The folder, made as needed; NotADirectoryError names a file that lies where a folder belongs."""
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        place = path
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), place) from None


def _replace(source: str, path: str) -> None:
    try:
        os.replace(source, path)
    except IsADirectoryError:
        _remove(path)
        os.replace(source, path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except _NOTHING:
        return
    except (IsADirectoryError, PermissionError):  # which of the two a folder raises differs by system
        if not os.path.isdir(path):
            raise
        try:
            os.rmdir(path)  # an empty folder in a file's place; what it holds is the user's
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path) from None
