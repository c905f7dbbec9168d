"""A .tar read to its very end, by its headers alone: where each file lies, links followed, nothing unpacked.

tarfile takes a header that is cut short or damaged for the end of the archive: all files behind it would be
missing without a word. It also believes sizes: a negative one makes it go round for ever, a terabyte is
allocated.
"""

import io
import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from probecache.extract.datasets.inventory import Inventory, printable
from probecache.store.errors import InputError

BLOCK = 512
MAX_FILE = 1 << 31  # bytes of one image, label or archive within an archive that are read into memory
BEHIND = 1 << 20  # bytes behind the end mark, where tar writes zeros up to a whole record
_LINKS = 40


@dataclass(frozen=True)
class Member:
    """A file inside a .tar: its name, the first byte of its content, and how many there are."""

    name: str
    offset: int
    size: int


def read_members(path: Path, inventory: Inventory, part: tuple[int, int] | None = None) -> Iterator[Member]:
    """Files of an uncompressed .tar in its order; a link is the file that it names.

    part  (offset, size) of an archive within the archive; offsets of its files are those in the outer one

    InputError for an archive that is not whole. What has no content of its own (links to nowhere, devices,
    sparse files) is counted in `inventory`.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, size = part or (0, size)
            window = file if part is None else io.BufferedReader(_Window(file, start, size))
            for member in _members(window, size, inventory):
                yield replace(member, offset=start + member.offset)
    except InputError:
        raise
    except (tarfile.TarError, OSError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise InputError(
            f"{printable(str(path))!r} cannot be read ({printable(str(error)) or type(error).__name__}); it "
            "must be a whole, uncompressed .tar on a disk"
        ) from error


def _members(file: BinaryIO, size: int, inventory: Inventory) -> Iterator[Member]:
    known: dict[str, Member] = {}
    links: list[tuple[str, str]] = []
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_bounded(size)) as tar:
        end = 0
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else all headers pile up in memory
            beyond = member.offset_data + member.size > size and not member.issparse()
            if tar.offset <= end or beyond or member.size < 0:
                raise tarfile.ReadError(
                    f"the header of {printable(member.name)!r} at byte {member.offset} claims {member.size} "
                    f"bytes; the file has {size}"
                )
            end = tar.offset
            if member.isdir():
                continue
            name = _inside(member.name)
            if name is None:
                inventory.leave_out("names that point out of the archive", member.name)
            elif member.issparse():
                inventory.leave_out("sparse files inside the archive", name)
            elif member.isreg():
                known[name] = Member(name, member.offset_data, member.size)
                yield known[name]
            elif member.islnk() or member.issym():
                to = member.linkname if member.islnk() else _beside(name, member.linkname)
                links.append((name, _inside(to) or ""))
                if links[-1][1] in known:
                    found = known[links[-1][1]]
                    known[name] = Member(name, found.offset, found.size)
                    links.pop()
                    yield known[name]
            else:
                inventory.leave_out("no regular files", name)
        _require_end(tar)
    yield from _follow(known, links, inventory)


def _follow(known: dict[str, Member], links: list[tuple[str, str]], inventory: Inventory) -> Iterator[Member]:
    """Links whose file lies behind them in the archive."""
    targets = dict(links)
    for name, _ in links:
        to, steps = name, 0
        while to in targets and to not in known and steps < _LINKS:
            to, steps = targets[to], steps + 1
        if to in known:
            yield Member(name, known[to].offset, known[to].size)
        else:
            inside = any(other.startswith(f"{to}/") for other in known)
            inventory.leave_out("links to folders inside the archive" if inside else "links to nowhere", name)


class _Window(io.RawIOBase):
    """`size` bytes of a file from `start` on, as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        content = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _bounded(limit: int) -> type[tarfile.TarInfo]:
    """Headers whose size cannot be that of a part of the file are refused before anything believes them."""

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: Any, encoding: str, errors: str) -> "Header":
            header = super().frombuf(buf, encoding, errors)
            if not 0 <= header.size <= limit and not header.isdir():
                raise InputError(
                    f"a header of the archive, {printable(header.name)!r}, claims {header.size} bytes in a "
                    f"file of {limit}: it must be a whole, uncompressed .tar on a disk"
                )
            return header

    return Header


def _require_end(tar: tarfile.TarFile) -> None:
    """tarfile.ReadError unless an archive whose members were all passed over stops at its end mark."""
    assert tar.fileobj is not None  # it was opened for reading
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError(f"no end of archive at byte {tar.offset}: cut short, or a damaged header")
    if tar.fileobj.read(BEHIND).strip(b"\0"):
        raise tarfile.ReadError(
            f"there is more behind the end of the archive, byte {tar.offset}: several archives in one file, "
            "of which only the first would be read?"
        )


def _inside(name: str) -> str | None:
    """A member's name as it would be unpacked, or None if it points out of the folder.

    >>> _inside("./cat//a.png"), _inside("/cat/a.png"), _inside("../a.png")
    ('cat/a.png', 'cat/a.png', None)
    """
    clean = posixpath.normpath(name.lstrip("/"))
    return None if clean in (".", "..") or clean.startswith("../") else clean


def _beside(name: str, link: str) -> str:
    return link if link.startswith("/") else posixpath.join(posixpath.dirname(name), link)


@dataclass(frozen=True)
class Slices:
    """Contents of files inside .tar files by row: `places[row]` = (offset, size) in `paths[archive[row]]`."""

    paths: tuple[str, ...]
    archive: np.ndarray
    places: np.ndarray

    def size(self, row: int) -> int:
        return int(self.places[row, 1])

    def read(self, row: int) -> bytes:
        """The bytes of one file; ValueError if they are too many for an image or missing."""
        offset, size = (int(v) for v in self.places[row])
        if size > MAX_FILE:
            raise ValueError(f"a file of {size} bytes is no image; at most {MAX_FILE} are read")
        with open(self.paths[self.archive[row]], "rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise ValueError("the archive has become shorter")
        return content
