"""Simulated power losses: what a disk may hold after one, built from a trace of a run's system calls.

A trace lists in order what a run did to files: contents written and synced, names made, moved and removed.
A loss at a random point leaves the names as they were at some moment between the last sync and that point (a
journal keeps their order), and each content that was not synced empty, as zeros, cut, or whole.
"""

import builtins
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from probecache.store.storage import local, replace_folder

Operation = tuple[Any, ...]


@contextmanager
def traced(folder: Path) -> Iterator[list[Operation]]:
    """The operations of this process below `folder`, while the context lasts."""
    done: list[Operation] = []
    inside = os.path.realpath(folder)
    files: dict[int, int] = {}  # descriptor -> number of the file that it made
    made = iter(range(1 << 40))

    def ours(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.realpath(os.path.dirname(path)).startswith(
            inside
        )

    def note(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*paths: Any, **options: Any) -> Any:
            out = call(*paths, **options)
            if "dir_fd" not in options and all(ours(p) for p in paths[:2] if not isinstance(p, int)):
                done.append((kind, *(os.fspath(p) for p in paths[:2] if not isinstance(p, int))))
            return out

        return noting

    def opening(path: Any, flags: int, *more: Any, **options: Any) -> int:
        descriptor = real_open(path, flags, *more, **options)
        if flags & os.O_CREAT and ours(path):
            files[descriptor] = next(made)
            done.append(("create", os.fspath(path), files[descriptor]))
        return descriptor

    def writing(descriptor: int, data: Any) -> int:
        n = real_write(descriptor, data)
        if descriptor in files:
            done.append(("write", files[descriptor], bytes(memoryview(data).cast("B")[:n])))
        return n

    def syncing(descriptor: int) -> None:
        real_sync(descriptor)
        done.append(("sync", files.get(descriptor)))

    def closing(descriptor: int) -> None:
        real_close(descriptor)
        files.pop(descriptor, None)

    class Claim:
        """What `open(path, "xb")` gives for claims, which are never synced."""

        def __init__(self, path: Any, mode: str) -> None:
            self.path, self.file = path, builtins.open(path, mode)  # noqa: SIM115
            self.number = next(made)
            done.append(("create", os.fspath(path), self.number))

        def __enter__(self) -> "Claim":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data)
            done.append(("write", self.number, data))

    real_open, real_write, real_sync, real_close = os.open, os.write, os.fsync, os.close
    real_exchange, real_rmtree = replace_folder._exchange, shutil.rmtree

    def exchanging(a: Path, b: Path) -> bool:
        out = real_exchange(a, b)
        if out:
            done.append(("exchange", os.fspath(a), os.fspath(b)))
        return out

    def removing(path: Any, *more: Any, **options: Any) -> None:
        real_rmtree(path, *more, **options)
        if ours(path):
            done.append(("rmtree", os.fspath(path)))

    with ExitStack() as stack:
        for name in ("replace", "rename", "unlink", "link", "mkdir", "rmdir"):
            stack.enter_context(mock.patch.object(os, name, note(name, getattr(os, name))))
        stack.enter_context(mock.patch.object(os, "open", opening))
        stack.enter_context(mock.patch.object(os, "write", writing))
        stack.enter_context(mock.patch.object(os, "fsync", syncing))
        stack.enter_context(mock.patch.object(os, "close", closing))
        stack.enter_context(mock.patch.object(local, "open", Claim, create=True))
        stack.enter_context(mock.patch.object(replace_folder, "_exchange", exchanging))
        stack.enter_context(mock.patch.object(shutil, "rmtree", removing))
        yield done


class Disk:
    """The names and contents of a folder, in memory; what a prefix of a trace leaves of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, int] = {}
        self.folders: set[str] = set()
        self.contents: dict[int, bytes] = {}
        for top, folders, names in os.walk(folder):
            self.folders |= {os.path.join(top, name) for name in folders}
            for name in names:
                number = -1 - len(self.contents)
                self.names[os.path.join(top, name)] = number
                self.contents[number] = Path(top, name).read_bytes()
        self.synced = set(self.contents)

    def apply(self, operation: Operation) -> None:
        kind, *rest = operation
        if kind == "create":
            self.names[rest[0]], self.contents[rest[1]] = rest[1], b""
        elif kind in ("replace", "rename"):
            self._move(*rest)
        elif kind == "link":
            self.names[rest[1]] = self.names[rest[0]]
        elif kind == "unlink":
            self.names.pop(rest[0], None)
        elif kind == "mkdir":
            self.folders.add(rest[0])
        elif kind == "rmdir":
            self.folders.discard(rest[0])
        elif kind == "rmtree":
            self.names = {k: v for k, v in self.names.items() if not k.startswith(f"{rest[0]}/")}
            self.folders = {k for k in self.folders if k != rest[0] and not k.startswith(f"{rest[0]}/")}
        elif kind == "exchange":
            self._move(rest[0], f"{rest[0]}//")
            self._move(rest[1], rest[0])
            self._move(f"{rest[0]}//", rest[1])

    def _move(self, a: str, b: str) -> None:
        if a in self.names:
            self.names[b] = self.names.pop(a)
            return
        inside = f"{a}/"
        self.names = {b + k[len(a) :] if k.startswith(inside) else k: v for k, v in self.names.items()}
        self.folders = {b + k[len(a) :] if k == a or k.startswith(inside) else k for k in self.folders}

    def write(self, target: Path, chance: random.Random) -> None:
        """This disk at `target`; each content that was not synced in one of the states it may have."""
        for name in sorted(self.folders):
            (target / os.path.relpath(name, self.folder)).mkdir(parents=True, exist_ok=True)
        for name, number in self.names.items():
            raw = self.contents[number]
            if number not in self.synced:
                raw = chance.choice([b"", bytes(len(raw)), raw[: len(raw) // 2], raw])
            file = target / os.path.relpath(name, self.folder)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(raw)
            os.utime(file, (time.time() - 60,) * 2)  # a machine takes longer than a moment to come back


def lose_power(before: Disk, trace: list[Operation], target: Path, chance: random.Random) -> None:
    """Write to `target` what may be left after a loss at a random point of `trace` (`before` is used up)."""
    at = chance.randrange(len(trace) + 1)
    last = max((i + 1 for i, op in enumerate(trace[:at]) if op[0] == "sync"), default=0)
    named = chance.randint(last, at)
    for i, operation in enumerate(trace[:at]):
        if operation[0] == "write":
            before.contents[operation[1]] = before.contents.get(operation[1], b"") + operation[2]
        elif operation[0] == "sync":
            before.synced.add(operation[1])
        elif i < named:
            if operation[0] == "create":
                before.contents.setdefault(operation[2], b"")
                before.names[operation[1]] = operation[2]
            else:
                before.apply(operation)
    before.write(target, chance)
