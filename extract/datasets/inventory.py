"""One look at a data set before its first image: what each file is, what is left out and why.

Nothing is decoded: a file is an image by its suffix, and whether it can be read is found out row by row.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from probecache.store.errors import InputError

LINES, EXAMPLES = 3, 3
# Formats that Pillow opens and that hold no picture to classify, or are passed on to another program.
_NO_PICTURES = frozenset(["BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MCIDAS", "MPEG", "WMF"])
# Pictures that Pillow opens only with a plugin, if at all: worth a word of their own.
_FOREIGN = frozenset(
    [
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".svg",
        ".raw",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".exr",
        ".hdr",
        ".fits",
        ".dcm",
    ]
)
_SYSTEM = frozenset(
    [
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "lost+found",
        "__pycache__",
        "paxheader",
    ]
) | {"system volume information"}
_VISITS = 8  # of one folder, by several links


@dataclass
class Inventory:
    """What was found at `where`: `left_out` maps a reason to count and first names; `notes` are sentences."""

    where: str
    left_out: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, name: str) -> None:
        count, examples = self.left_out.get(reason, (0, []))
        if count < EXAMPLES:
            examples.append(printable(name))
        self.left_out[reason] = count + 1, examples

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def lines(self, limit: int | None = LINES) -> list[str]:
        """A line per reason, the most frequent first, then the notes; those beyond `limit` are counted."""
        found = sorted(self.left_out.items(), key=lambda item: (-item[1][0], item[0]))
        lines = [f"{reason}: {n} left out, {_some(names, n)}" for reason, (n, names) in found]
        lines += self.notes
        if limit is None or len(lines) <= limit:
            return lines
        return [*lines[: limit - 1], f"and {len(lines) - limit + 1} lines more (--dry-run shows all)"]

    def summary(self) -> dict[str, Any]:
        """JSON values for the store."""
        return {
            "left_out": {
                reason: {"files": n, "first": names} for reason, (n, names) in self.left_out.items()
            },
            "notes": list(self.notes),
        }

    def nothing(self, what: str) -> InputError:
        """The error where no image is left, with what there is instead."""
        found = "; ".join(self.lines(2)) or "it is empty"
        if ".tar files" in self.left_out:
            found += "; a .tar is named itself, as --data-dir"
        return InputError(f"{self.where}: {what}; {found}")


def _some(names: list[str], count: int) -> str:
    return ", ".join(map(repr, names)) + (", ..." if count > len(names) else "")


def kind_of(path: str, inventory: Inventory) -> bool:
    """Whether a file is one of the images; if not, it is left out with its reason."""
    parts = path.split("/")
    if any(map(is_hidden, parts)):
        inventory.leave_out("hidden or system files", path)
        return False
    suffix = os.path.splitext(parts[-1])[1].lower()
    if suffix in image_suffixes():
        return True
    if suffix in _FOREIGN:
        inventory.leave_out(f"{suffix} images, which this Pillow cannot read", path)
    else:
        inventory.leave_out(
            f"{printable(suffix)} files" if len(suffix) > 1 else "files without a suffix", path
        )
    return False


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the pictures that the installed Pillow decodes: '.jpg', '.webp', '.tif', ..."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions()
    # Pillow opens .mpo, a JPEG of several frames, as it opens .jpg, and lists no reader of its own for it.
    readable = {*Image.OPEN, "MPO"} - _NO_PICTURES
    return frozenset(suffix for suffix, kind in known.items() if kind in readable)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's or an editor's: a leading dot, `__MACOSX`, `Thumbs.db`, ...

    >>> [is_hidden(n) for n in (".ipynb_checkpoints", "._a.png", "Thumbs.db", "cat")]
    [True, True, True, False]
    """
    return name.startswith((".", "PaxHeaders.")) or name.casefold() in _SYSTEM


def printable(name: str) -> str:
    r"""A name as text that can be stored: bytes that are no UTF-8 are escaped.

    >>> printable("caf\udce9")
    'caf\\xe9'
    """
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def natural_order(name: str) -> tuple[list[Any], str]:
    """timm's order, numbers by value and letters without case, with no ties: names that differ in case only.

    >>> sorted(["b10", "B9", "b9"], key=natural_order)
    ['B9', 'b9', 'b10']
    """
    pieces = re.split(r"(\d+)", name.lower())
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], name


def walk(root: Path, inventory: Inventory) -> list[str]:
    """Paths of the images below a folder, relative to it, '/'-separated; links are followed, not upwards.

    One scandir per folder and no stat of plain files: a million files take some seconds on a local disk.
    """
    images: list[str] = []
    visits: dict[tuple[int, int], int] = {}
    stack: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while stack:
        folder, above = stack.pop()
        place = _identity(root / folder)
        if place in above:
            inventory.leave_out("links to a folder above them", folder)
            continue
        visits[place] = visits.get(place, 0) + 1
        if visits[place] == 2 and visits[above[-1]] == 1:
            inventory.note(f"{printable(folder)!r} and another folder are one and the same, by a link")
        if visits[place] > _VISITS:
            inventory.leave_out(f"folders that {_VISITS} links show already", folder)
            continue
        for entry in _entries(root / folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if is_hidden(entry.name):
                inventory.leave_out("hidden or system files", path)
            elif entry.is_dir():
                stack.append((path, (*above, place)))
            elif entry.is_file():
                if kind_of(path, inventory):
                    images.append(path)
            else:
                reason = (
                    "links to nowhere"
                    if entry.is_symlink() and not os.path.exists(entry)
                    else "no regular files"
                )
                inventory.leave_out(reason, path)
    return images


def _identity(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise InputError(
            f"{printable(str(folder))!r} cannot be listed ({error.strerror}): its images would be missing; "
            "make it readable or move it away"
        ) from error


def unique_names(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Names as they are stored; InputError if two of them cannot be told apart."""
    stored = tuple(map(printable, names))
    if len(set(stored)) < len(stored):
        seen: set[str] = set()
        twice = next(name for name in stored if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"{where}: two samples are called {twice!r}; rename one of them")
    return stored
