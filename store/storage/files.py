"""Bytes in and out of a store: a local folder, or any fsspec URL (`s3://bucket/features.zarr`).

Keys are '/'-separated paths below the store. A write replaces the whole object or nothing: locally by
temporary file, fsync and rename; an object store's put is atomic already.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from probecache.store.errors import InputError
from probecache.store.format.chunks import DOCUMENT_BYTES, BadChunk, Pieces
from probecache.store.storage.local import LocalFiles
from probecache.store.storage.remote import RemoteFiles

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")  # of two letters at least: c:/data is a drive


class Files(Protocol):
    """What a store needs of a file system.

    url           names it in messages
    threads       how many reads help
    lists_freely  a listing costs nothing to speak of, so what a summary says is checked against one
    """

    url: str
    threads: int
    lists_freely: bool

    def read(self, key: str, most: int = DOCUMENT_BYTES) -> bytes | None:
        """The whole object, or None if there is none.

        BadChunk, without waiting or taking memory, if it is no file or holds more than `most` bytes.
        """

    def read_many(self, keys: Sequence[str], most: int = DOCUMENT_BYTES) -> list[bytes | BadChunk | None]:
        """`read` of each, its BadChunk in its place."""

    def read_heads(self, keys: Sequence[str], size: int) -> list[bytes | BadChunk | None]:
        """The first `size` bytes of each object, all of it if it has fewer; else as `read_many`."""

    def read_range(self, key: str, start: int, out: Sequence[np.ndarray[Any, Any]]) -> int:
        """Fill the uint8 arrays `out` from byte `start` on (negative: from the end); the bytes read.

        FileNotFoundError if there is no such object, BadChunk if it is no file.
        """

    def size(self, key: str) -> int | None: ...

    def write(
        self,
        items: Mapping[str, Pieces],
        then: Mapping[str, Pieces] | None = None,
        guard: Callable[[], None] | None = None,
    ) -> None:
        """Replace each object by its pieces; durable on return.

        `then` are replaced after all of `items` are: a commit is never there before what it vouches for.
        `guard` is called at the last moment before anything is replaced; what it raises ends the write.
        """

    def create(self, key: str, data: bytes) -> bool:
        """Write only if there is no such object; whether it was written."""

    def create_many(self, items: Mapping[str, bytes]) -> list[bool]:
        """`create` of each, at once where a request is a round trip; whether each was written."""

    def delete(self, key: str) -> None: ...

    def delete_many(self, keys: Sequence[str]) -> None:
        """`delete` of each, at once where a request is a round trip."""

    def names(self, key: str) -> list[str]:
        """Names directly below a folder; empty if there is none."""

    def age(self, key: str) -> float | None:
        """Seconds since the object was written, by the file system's own clock."""

    def sweep(self, key: str) -> None:
        """Remove unfinished writes of dead processes below `key`."""


def read_piece(files: Files, key: str, most: int = DOCUMENT_BYTES) -> bytes | BadChunk | None:
    """`files.read` of one object, its BadChunk as a value: what is in its place is damage to be told."""
    return files.read_many([key], most)[0]


def check_place(path: str | os.PathLike[str]) -> str:
    """`path` as a text, if it may name a place: a folder, or a URL of two slashes with a bucket or host.

    InputError for nothing, control characters, `s3:/x` (a folder of that name would be made), and credentials
    or a signature in a URL, which are not shown: they would stay in messages and in what RESULTS say of it.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text.strip() or not text.isprintable():
        raise InputError(f"got the path {text!r:.80}: name a folder or a URL")
    scheme, mark, rest = text.partition(":/")
    if not mark or not _SCHEME.fullmatch(scheme):
        return text
    if not rest.startswith("/"):
        raise InputError(
            f"got {text!r:.80}: a URL has two slashes, {scheme}://{rest:.60}; a folder of that name is "
            f"./{text:.60}"
        )
    place = rest[1:]
    if scheme == "file":
        if not place.startswith("/"):
            raise InputError(f"got {text!r:.80}: give the whole path, such as file:///data/features.zarr")
        return text
    host = place.split("/", 1)[0]
    if "@" in host or (scheme in ("http", "https") and set("?#") & set(place)):
        raise InputError(
            f"got a {scheme}:// URL with credentials or a signature in it: give them by the environment or "
            "by fsspec's configuration (docs/store.md); a URL stays in messages and in what RESULTS say"
        )
    if not host:
        example = f"{scheme}://NAME/features.zarr"
        raise InputError(f"got {text!r:.80}: name the bucket or host, and a folder in it: {example}")
    return text


def open_files(path: str | os.PathLike[str]) -> Files:
    """A file system rooted at `path`: a local folder, `~` being the home folder, or a URL if it has a
    scheme. InputError where it may name none (`check_place`).
    """
    text = check_place(path)
    if text.startswith("~"):
        text = os.path.expanduser(text)
        if text.startswith("~"):
            raise InputError(f"{text!r}: there is no such home folder here; give the whole path")
    if "://" not in text:
        return LocalFiles(Path(text))
    if text.startswith("file://"):
        return LocalFiles(Path(text[len("file://") :]))
    return RemoteFiles(text)
