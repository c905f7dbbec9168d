"""One writer per shard, with no coordinator: whoever creates a shard's claim writes it.

A claim is a small object that can be created once (a link, or a conditional put). It names its writer, so
that the claim of a dead one can be taken over: on the same machine the process is looked up, elsewhere the
writer's lease has to be older than LEASE seconds. The lease is renewed where the work goes on (`renew`), not
by a thread: a loop that hangs does not look alive, and processes may be forked.

Claims and leases lie inside the split's `commit` array folder, where zarr looks for nothing but chunks.
"""

import contextlib
import socket
import time
from collections.abc import Iterable

from probecache.store.errors import InputError, ProbecacheError
from probecache.store.storage.files import Files
from probecache.store.storage.writer_identity import alive, mark, number

LEASE = 600.0
BEAT = 60.0


class Claims:
    """The claims of one writer on shards of one split. `close` gives them back."""

    def __init__(self, files: Files, split: str) -> None:
        self.files, self.split = files, split
        self.mark = mark()
        self.held: set[int] = set()
        self._beaten = 0.0

    def _claim(self, index: int) -> str:
        return f"{self.split}/commit/claim-{index}"

    def _lease(self, owner: str) -> str:
        return f"{self.split}/commit/lease-{owner}"

    def take(self, shards: Iterable[int]) -> None:
        """Claim all of `shards`, or none: InputError names the living writer that holds one of them."""
        self._beat()
        claim = f"{self.mark} {socket.gethostname()}".encode()
        try:
            for index in sorted(shards):
                while not self.files.create(self._claim(index), claim):
                    self._remove_if_dead(index)
                self.held.add(index)
        except BaseException:
            self.close()
            raise

    def _remove_if_dead(self, index: int) -> None:
        key = self._claim(index)
        raw = self.files.read(key)
        if raw is None:
            return
        owner, _, host = raw.decode(errors="replace").partition(" ")
        why = self._sign(owner)
        if why:
            raise InputError(
                f"shard {index} of split {self.split!r} in {self.files.url} is being written by process "
                f"{number(owner)} on {host} ({why}); a shard has one writer: wait for it, or give each "
                "writer its own rows (--rows a:b)"
            )
        if self.files.read(key) == raw:
            self.files.delete(key)

    def _sign(self, owner: str) -> str:
        """A sign of life of a claim's owner; empty if it is dead."""
        known = alive(owner)
        if known is not None:
            return "alive" if known else ""
        age = self.files.age(self._lease(owner))
        if age is None or age > LEASE:
            return ""
        return f"last sign {age:.0f} s ago; the claim of a dead writer lapses after {LEASE:.0f} s"

    def sweep(self) -> None:
        """Remove what dead writers left: claims, on shards that they finished too, and leases."""
        for name in self.files.names(f"{self.split}/commit"):
            index = name.removeprefix("claim-")
            if index != name and index.isdigit():
                with contextlib.suppress(InputError):  # a living writer's
                    self._remove_if_dead(int(index))
        for name in self.files.names(f"{self.split}/commit"):
            owner = name.removeprefix("lease-")
            if owner not in (name, self.mark) and not name.endswith(".tmp") and not self._sign(owner):
                self.files.delete(self._lease(owner))

    def release(self, index: int) -> None:
        self.held.discard(index)
        self.files.delete(self._claim(index))

    def close(self) -> None:
        """Give back every claim and the lease."""
        for index in sorted(self.held):
            self.release(index)
        self.files.delete(self._lease(self.mark))

    def renew(self) -> None:
        """A sign of life for other machines, at most one every BEAT seconds."""
        if time.monotonic() - self._beaten >= BEAT:
            with contextlib.suppress(ProbecacheError):  # a missed beat is made up by the next one
                self._beat()

    def _beat(self) -> None:
        self._beaten = time.monotonic()
        self.files.write({self._lease(self.mark): [b"alive"]})
