"""One writer per shard, with no coordinator: whoever creates a shard's claim writes it.

A claim is a small object that can be created once (O_EXCL link, or a conditional put). It names its
writer, so that
the claim of a dead writer can be taken over: on the same machine the process is looked up, elsewhere the
writer's
lease, renewed every minute, has to be older than LEASE seconds.

Claims and leases lie inside the split's `commit` array folder, where zarr looks for nothing but chunks.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from store.errors import InputError
from store.files import Files

LEASE = 600.0
BEAT = 60.0


@cache
def _here() -> str:
    """This machine, boot and process namespace: where a process id means something."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


class Claims:
    """The claims of one writer on shards of one split. `close` (or leaving the context) gives them back."""

    def __init__(self, files: Files, split: str) -> None:
        self.files, self.split = files, split
        self.token = uuid.uuid4().hex[:12]
        self.held: set[int] = set()
        self._stop = threading.Event()
        process = psutil.Process()
        self._me = {
            "token": self.token,
            "host": socket.gethostname(),
            "here": _here(),
            "pid": process.pid,
            "started": process.create_time(),
        }
        self._beating: threading.Thread | None = None

    def _claim(self, index: int) -> str:
        return f"{self.split}/commit/claim-{index}"

    def _lease(self, token: str) -> str:
        return f"{self.split}/commit/lease-{token}"

    def take(self, shards: Iterable[int]) -> None:
        """Claim all of `shards`, or none: InputError names the living writer that holds one of them."""
        self._renew()
        data = json.dumps(self._me).encode()
        try:
            for index in sorted(shards):
                while not self.files.create(self._claim(index), data):
                    self._remove_if_dead(index)
                self.held.add(index)
        except BaseException:
            self.close()
            raise
        if self._beating is None:
            self._beating = threading.Thread(target=self._beat, name="probecache-lease", daemon=True)
            self._beating.start()

    def _remove_if_dead(self, index: int) -> None:
        key = self._claim(index)
        raw = self.files.read(key)
        if raw is None:
            return
        owner = _parse(raw)
        alive, why = self._alive(owner)
        if alive:
            raise InputError(
                f"shard {index} of split {self.split!r} in {self.files.url} is being written by process "
                f"{owner.get('pid')} on {owner.get('host')} ({why}); a shard has one writer: wait for it, "
                "or give each writer its own rows (--rows a:b)"
            )
        if self.files.read(key) == raw:
            self.files.delete(key)
            self.files.delete(self._lease(str(owner.get("token"))))

    def _alive(self, owner: dict[str, Any]) -> tuple[bool, str]:
        if owner.get("here") == _here():
            try:
                started = psutil.Process(int(owner["pid"])).create_time()
            except (psutil.Error, KeyError, ValueError):
                return False, ""
            return abs(started - float(owner.get("started", 0))) < 1, "alive"
        age = self.files.age(self._lease(str(owner.get("token"))))
        if age is None or age > LEASE:
            return False, ""
        return True, f"last sign {age:.0f} s ago; the claim of a dead writer lapses after {LEASE:.0f} s"

    def release(self, index: int) -> None:
        self.held.discard(index)
        self.files.delete(self._claim(index))

    def close(self) -> None:
        """Give back every claim and the lease."""
        self._stop.set()
        for index in sorted(self.held):
            self.release(index)
        self.files.delete(self._lease(self.token))

    def _renew(self) -> None:
        self.files.write({self._lease(self.token): [f"{time.time()}".encode()]})

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with contextlib.suppress(Exception):  # a missed beat is made up by the next one
                self._renew()


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(raw)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}
