"""A store in a folder: a write is temporary file, fsync and rename, so it replaces an object whole or not."""

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError, ProbecacheError
from probecache.store.format.chunks import Pieces
from probecache.store.storage.writer_identity import alive, mark


class LocalFiles:
    """A folder of this machine. Symbolic links out of the folder are refused."""

    threads = min(4, os.cpu_count() or 1)

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(root)
        self._real = os.path.realpath(self.root)

    def _path(self, key: str) -> str:
        path = os.path.join(self._real, key) if key else self._real
        if os.path.realpath(path) != os.path.normpath(path):
            raise InputError(f"{self.url}/{key} leads out of the store by a link or '..': refused")
        return path

    def read(self, key: str) -> bytes | None:
        try:
            with open(self._path(key), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self.read(key) for key in keys]

    def read_range(self, key: str, start: int, out: Sequence[np.ndarray[Any, Any]]) -> int:
        descriptor = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if start < 0:
                start += os.fstat(descriptor).st_size
                if start < 0:
                    return 0
            views, done = [part.data for part in out if len(part)], 0
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
        finally:
            os.close(descriptor)

    def size(self, key: str) -> int | None:
        try:
            return os.stat(self._path(key)).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, items: Mapping[str, Pieces], then: Mapping[str, Pieces] | None = None) -> None:
        """All contents are synced together, then the names change in order; a journal keeps that order."""
        items = {**items, **(then or {})}
        paths = {key: self._path(key) for key in items}
        ending = f".{mark()}.tmp"
        descriptors: list[int] = []
        try:
            try:
                for key, path in paths.items():
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    descriptors.append(os.open(path + ending, flags, 0o666))
                    for piece in items[key]:
                        _write_all(descriptors[-1], piece)
                _sync(descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            for path in paths.values():
                os.replace(path + ending, path)
            _sync_folder(os.path.dirname(path))
        except OSError as error:
            raise _write_failed(error, f"{self.url}/{key}") from error
        finally:
            for path in list(paths.values())[: len(descriptors)]:
                _remove(path + ending)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            # complete before it is visible: link() fails if the name is taken
            temporary = f"{path}.{mark()}.tmp"
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                os.link(temporary, path)
            finally:
                _remove(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            raise _write_failed(error, f"{self.url}/{key}") from error
        return True

    def delete(self, key: str) -> None:
        _remove(self._path(key))

    def names(self, key: str) -> list[str]:
        try:
            return sorted(os.listdir(self._path(key)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def age(self, key: str) -> float | None:
        try:
            written = os.stat(self._path(key)).st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        probe = f"{self._path(key)}.{mark()}.tmp"  # the file server's clock, not ours
        with open(probe, "xb"):
            now = os.stat(probe).st_mtime
        _remove(probe)
        return now - written

    def sweep(self, key: str) -> None:
        now = time.time()
        for folder, _, names in os.walk(self._path(key)):
            for name in names:
                if not name.endswith(".tmp"):
                    continue
                path = os.path.join(folder, name)
                living = alive(name.removesuffix(".tmp").rsplit(".", 1)[-1])
                with contextlib.suppress(FileNotFoundError):
                    # of another machine: a day is longer than any write
                    if living is False or (living is None and now - os.stat(path).st_mtime > 86400):
                        _remove(path)


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


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return


def _write_failed(error: OSError, where: str) -> ProbecacheError:
    free = ""
    try:
        free = f", {shutil.disk_usage(os.path.dirname(error.filename or '/')).free >> 20} MiB free"
    except OSError:
        free = ""
    return ProbecacheError(
        f"cannot write {where}: {error.strerror or error}{free}; what was committed is kept, "
        "the same command continues once it can be written"
    )
