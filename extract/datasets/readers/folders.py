"""A folder or a .tar of class folders: every image a row, in timm's order; a failure stays with its row."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.decoder import Encoded
from probecache.extract.datasets.images import Images, digest_content
from probecache.extract.datasets.inventory import Inventory, is_hidden, kind_of, printable, unique_names, walk
from probecache.extract.datasets.readers.tar import Member, Slices, read_members
from probecache.extract.datasets.splits import Sorted, sort_out
from probecache.store.errors import InputError, close_names


def open_folder(data_dir: str | Path | None, split: str, choices: Choices) -> Images:
    """The images below `data_dir` that belong to `split`.

    A folder or a .tar with splits in it, at any depth and under any common spelling, gives the images of that
    split alone; one without gives all of them. Classes are folders. Raises InputError where there is nothing
    to read, and where folders can be understood in two ways.
    """
    root = _root(data_dir)
    inventory = Inventory(f"--data-dir {printable(str(root))!r}")
    if root.is_file():
        return _open_tar(root, split, choices, inventory)
    paths = walk(root, inventory)
    found = _sorted(paths, split, choices, inventory)
    files = _Files(str(root), tuple(paths[row] for row in found.rows))
    content = digest_content(len(found.rows), files.read, files.size, how=choices.how)
    return _images(files, found, content, inventory)


def _sorted(paths: list[str], split: str, choices: Choices, inventory: Inventory) -> Sorted:
    if not paths:
        raise inventory.nothing("no images")
    return sort_out(paths, split, choices, inventory)


def _images(source: Any, found: Sorted, content: str, inventory: Inventory) -> Images:
    names = unique_names(found.names, inventory.where)
    labels = np.asarray(found.labels, np.int64)
    return Images(source, "", names, labels, found.classes, content, inventory)


@dataclass(frozen=True)
class _Files:
    """Files below a folder as a sequence; what cannot be read raises."""

    root: str
    paths: tuple[str, ...]

    def __getitem__(self, row: int) -> Encoded:
        return Encoded(os.path.join(self.root, self.paths[row]))

    def size(self, row: int) -> int:
        return os.path.getsize(os.path.join(self.root, self.paths[row]))

    def read(self, row: int) -> bytes:
        with open(os.path.join(self.root, self.paths[row]), "rb") as file:
            return file.read()


def _open_tar(path: Path, split: str, choices: Choices, inventory: Inventory) -> Images:
    files = _tar_images(path, inventory)
    found = _sorted([file.name for file in files], split, choices, inventory)
    places = np.array([(files[row].offset, files[row].size) for row in found.rows], np.int64).reshape(-1, 2)
    slices = Slices((str(path),), np.zeros(len(places), np.intp), places)
    content = digest_content(len(places), slices.read, slices.size, how=choices.how)
    return _images(SliceImages(slices), found, content, inventory)


@dataclass(frozen=True)
class SliceImages:
    """Files inside archives as a sequence; what cannot be read raises."""

    slices: Slices

    def __getitem__(self, row: int) -> Encoded:
        return Encoded(self.slices.read(row))


def _tar_images(path: Path, inventory: Inventory) -> list[Member]:
    """The images of an archive, each name once: of several files of one name the last, as unpacking has it.

    An archive within the archive counts as a folder of its name (ImageNet comes as a .tar of class .tars).
    """
    files: dict[str, Member] = {}
    for member in read_members(path, inventory):
        for file in _opened(path, member, inventory):
            if file.name in files:
                inventory.leave_out("files that a later one of the same name replaces", file.name)
            elif not kind_of(file.name, inventory):
                continue
            files[file.name] = file
    return list(files.values())


def _opened(path: Path, member: Member, inventory: Inventory) -> list[Member]:
    stem, suffix = os.path.splitext(member.name)
    if suffix.lower() != ".tar" or any(map(is_hidden, member.name.split("/"))):
        return [member]
    return [
        Member(f"{stem}/{inner.name}", inner.offset, inner.size)
        for inner in read_members(path, inventory, (member.offset, member.size))
    ]


def _root(data_dir: str | Path | None) -> Path:
    if data_dir is None or str(data_dir) == "":
        raise InputError(
            "no data given; name a folder or .tar of class folders with --data-dir, or a --dataset"
        )
    root = Path(data_dir).expanduser()
    if root.is_file() and root.suffix.lower() == ".tar":
        return root
    if root.is_file():
        raise InputError(
            f"--data-dir {printable(str(root))!r} is a file; a folder or uncompressed .tar of class "
            "folders is read: unpack an archive, or name the folder of an image"
        )
    if not root.is_dir():
        near = close_names(root.name, [p.name for p in root.parent.iterdir()]) if root.parent.is_dir() else ""
        raise InputError(
            f"--data-dir {printable(str(root))!r} is neither a folder nor a .tar file; "
            "name one of class folders" + (f", {printable(near)}" if near.startswith("close names") else "")
        )
    return root
