"""A store on an object store: the same bytes and promises over fsspec (`s3://bucket/features.zarr`).

A put replaces an object whole, so nothing is torn. Claims need a put that fails where the object exists:
S3 and its kin have it (If-None-Match).
"""

import errno
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np

from probecache.store.errors import InputError, ProbecacheError, first_line
from probecache.store.format.chunks import DOCUMENT_BYTES, BadChunk, Pieces, joined
from probecache.store.storage.writer_identity import mark

Result = TypeVar("Result")
_AT_ONCE = 4096  # objects of one call: what is on its way is held in memory


class RemoteFiles:
    """Objects below a URL. Reads of many keys or panels go out together: a round trip is what costs."""

    threads = 16
    lists_freely = False

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        try:
            # listings must be those of now: other processes write
            self.fs, self.root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            raise InputError(
                f"{url}: {first_line(error)} (pip install 'probecache[s3]' for s3:// URLs)"
            ) from None
        except Exception as error:  # of any driver: an unknown scheme, a host that does not answer
            reason = first_line(error)
            raise InputError(f"{url}: {reason:.200}; is the URL right, and can it be reached?") from None

    def _path(self, key: str) -> str:
        if ".." in key.split("/"):
            raise InputError(f"{self.url}/{key} leads out of the store: refused")
        return f"{self.root}/{key}" if key else self.root

    def _try(self, work: Callable[[], Result], key: str) -> Result:
        """`work()`, with errors other than a missing object in one line that names the object."""
        try:
            return work()
        except (FileNotFoundError, FileExistsError, ProbecacheError):
            raise
        except Exception as error:
            reason = first_line(error)
            raise ProbecacheError(f"{self.url}/{key}: {type(error).__name__}: {reason:.200}") from error

    def read(self, key: str, most: int = DOCUMENT_BYTES) -> bytes | None:
        found = self.read_many([key], most)[0]
        if isinstance(found, BadChunk):
            raise found
        return found

    def read_many(self, keys: Sequence[str], most: int = DOCUMENT_BYTES) -> list[bytes | BadChunk | None]:
        # one byte more than may be there: an object that is larger is never held
        return self._first(keys, most + 1, most)

    def read_heads(self, keys: Sequence[str], size: int) -> list[bytes | BadChunk | None]:
        return self._first(keys, size, size)

    def _first(self, keys: Sequence[str], size: int, most: int) -> list[bytes | BadChunk | None]:
        """The first `size` bytes of each object, a BadChunk where they are more than `most`."""
        out: list[bytes | BadChunk | None] = []
        for at in range(0, len(keys), _AT_ONCE):
            some = keys[at : at + _AT_ONCE]
            paths = [self._path(key) for key in some]
            found = self._try(
                partial(self.fs.cat_ranges, paths, [0] * len(some), [size] * len(some), on_error="return"),
                some[0],
            )
            out += [self._object(key, value, most) for key, value in zip(some, found, strict=True)]
        return out

    def _object(self, key: str, value: Any, most: int) -> bytes | BadChunk | None:
        if isinstance(value, FileNotFoundError | IsADirectoryError):
            return None
        if isinstance(value, OSError) and value.errno == errno.EINVAL:
            return b""  # an empty object has no first byte to ask for
        if isinstance(value, Exception):
            reason = first_line(value)
            raise ProbecacheError(f"{self.url}/{key}: {type(value).__name__}: {reason:.200}") from value
        return BadChunk(f"it has more than {most} bytes") if len(value) > most else bytes(value)

    def read_range(self, key: str, start: int, out: Sequence[np.ndarray[Any, Any]]) -> int:
        total = sum(len(part) for part in out)
        end = None if start < 0 else start + total
        raw = self._try(lambda: self.fs.cat_file(self._path(key), start=start, end=end), key)
        data, at = np.frombuffer(raw, np.uint8), 0
        for part in out:
            piece = data[at : at + len(part)]
            part[: len(piece)] = piece
            at += len(piece)
        return at

    def size(self, key: str) -> int | None:
        try:
            found = self._try(lambda: self.fs.info(self._path(key)), key)
        except FileNotFoundError:
            return None
        return int(found["size"]) if found["type"] == "file" else None

    def write(
        self,
        items: Mapping[str, Pieces],
        then: Mapping[str, Pieces] | None = None,
        guard: Callable[[], None] | None = None,
    ) -> None:
        for step in (items, then or {}):  # puts of one step go out together, in no order
            if step:
                if guard is not None:
                    guard()
                data = {self._path(key): joined(pieces) for key, pieces in step.items()}
                self._put(partial(self.fs.pipe, data), next(iter(step)))

    def _put(self, work: Callable[[], object], key: str) -> None:
        """A put needs no folder, so that what is not found is the bucket: InputError."""
        try:
            self._try(work, key)
        except FileNotFoundError as error:
            raise InputError(f"{self.url}: {first_line(error)}; make the bucket, or name another") from None

    def create(self, key: str, data: bytes) -> bool:
        try:
            self._put(lambda: self.fs.pipe_file(self._path(key), data, mode="create"), key)
        except FileExistsError:
            return False
        return True

    def create_many(self, items: Mapping[str, bytes]) -> list[bool]:
        with ThreadPoolExecutor(2 * self.threads) as pool:
            return list(pool.map(self.create, items, items.values()))

    def delete_many(self, keys: Sequence[str]) -> None:
        with ThreadPoolExecutor(2 * self.threads) as pool:
            list(pool.map(self.delete, keys))

    def delete(self, key: str) -> None:
        try:
            self._try(lambda: self.fs.rm_file(self._path(key)), key)
        except FileNotFoundError:
            return

    def names(self, key: str) -> list[str]:
        try:
            found = self._try(lambda: self.fs.ls(self._path(key), detail=False, refresh=True), key)
        except FileNotFoundError:
            return []
        own = self._path(key)
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in found if path.rstrip("/") != own})

    def age(self, key: str) -> float | None:
        try:
            written = self._try(lambda: self.fs.modified(self._path(key)), key)
        except FileNotFoundError:
            return None
        probe = f"{key}.{mark()}.tmp"  # the server's clock, not ours
        self.write({probe: [b""]})
        try:
            now = self._try(lambda: self.fs.modified(self._path(probe)), probe)
        finally:
            self.delete(probe)
        return float((now - written).total_seconds())

    def sweep(self, key: str) -> None:
        """Nothing: a put that did not end leaves no object."""
