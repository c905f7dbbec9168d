"""A .tar read to its very end.

tarfile takes a header that is cut short or damaged for the end of the archive: all files behind it would be
missing without a word.
"""

import tarfile
from pathlib import Path

BLOCK = 512


def require_end(tar: tarfile.TarFile) -> None:
    """tarfile.ReadError unless an archive whose members were all passed over stops at its end mark."""
    assert tar.fileobj is not None  # it was opened for reading
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError(f"no end of archive at byte {tar.offset}: cut short, or a damaged header")


def require_whole(path: Path, start: int) -> None:
    """tarfile.ReadError unless the members from byte `start` on, a border of blocks, lead to the end mark."""
    with open(path, "rb") as file:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while tar.next() is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else all headers pile up in memory
            require_end(tar)
