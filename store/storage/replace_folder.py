"""Put a finished folder in the place of another, whole or not at all."""

import ctypes
import os
import shutil
from contextlib import suppress
from pathlib import Path

from probecache.store.errors import InputError

_AT_FDCWD, _EXCHANGE = -100, 2


def beside(path: Path, what: str) -> Path:
    """A hidden name next to `path`, for what is being made for it."""
    return path.parent / f".{path.name}.{what}"


def replace_folder(new: Path, path: Path) -> None:
    """Put `new`, a folder beside `path`, in its place; what was there is removed after.

    Where the system can exchange two names (Linux), there is no moment without a whole folder at `path`;
    elsewhere a kill between two renames leaves the old one at `beside(path, "old")`, which `recover_folder`
    puts back.
    """
    if not path.exists():
        new.rename(path)
    elif _exchange(new, path):
        _sync(path.parent)
        shutil.rmtree(new)
    else:
        old = beside(path, "old")
        path.rename(old)
        new.rename(path)
        _sync(path.parent)
        shutil.rmtree(old)
    _sync(path.parent)


def require_not_here(path: Path) -> None:
    """InputError where this process works in `path`: relative paths lead nowhere once it is replaced."""
    if Path.cwd().is_relative_to(os.path.realpath(path)):
        raise InputError(f"got the path {path}, where this command runs: run it from another folder")


def recover_folder(path: Path) -> None:
    """Finish or undo what a kill cut short: no litter is left, and `path` is there if it ever was."""
    old, new = beside(path, "old"), beside(path, "new")
    if not path.exists() and old.exists():
        old.rename(path)
    for litter in (old, new):
        if litter.exists():
            shutil.rmtree(litter)


def link_tree(source: Path, target: Path) -> None:
    """The files of a folder under another name, without copying them where the file system has links."""

    def link(a: str, b: str) -> str:
        try:
            os.link(a, b)
        except OSError:
            shutil.copy2(a, b)
        return b

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True, symlinks=True)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system has no such step."""
    with suppress(AttributeError, OSError):
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        return rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _EXCHANGE) == 0
    return False


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
