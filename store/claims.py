"""One writer per shard, with no coordinator: whoever creates a shard's claim writes it.

A claim is a small object that can be created once (a link, or a conditional put). It names its writer, so
that the claim of a dead one can be taken over: on the same machine the process is looked up, elsewhere the
writer's lease has to be older than LEASE seconds. The lease is renewed where the work goes on (`renew`), not
by a thread: a loop that hangs does not look alive, and processes may be forked.

A clock may lie and a writer may sleep through its lease, so being taken for dead is made harmless instead:
each claim has a token, one more than that of the claim it replaced, which its commits carry; and a writer
looks at its claim at the last moment before it replaces anything (`require`).

Claims and leases lie inside the split's `commit` array folder, where zarr looks for nothing but chunks.
"""

import contextlib
import math
import re
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from probecache.store.errors import InputError, ProbecacheError
from probecache.store.format.chunks import BadChunk
from probecache.store.storage.files import Files, read_piece
from probecache.store.storage.writer_identity import alive, is_mark, mark, number

LEASE = 600.0
BEAT = 60.0
_GRACE = 2.0  # a claim that cannot be read may be one that is being written, where there are no links
_PAUSE = 0.1
_CLAIM = re.compile(r"claim-([0-9]{1,7})")
_MOST = 1024
_AT_ONCE = 1024  # claims that are made together


@dataclass(frozen=True)
class Holder:
    """Who a claim names: the writer's mark, its machine, the claim's token."""

    mark: str
    host: str
    token: int

    def __str__(self) -> str:
        return f"process {number(self.mark)} on {self.host}"


class LostClaim(ProbecacheError):
    """Another writer took this one's shard over."""


class Claims:
    """The claims of one writer on shards of one split. `close` gives them back."""

    def __init__(self, files: Files, split: str) -> None:
        self.files, self.split = files, split
        self.mark = mark()
        self.held: set[int] = set()
        self.tokens: dict[int, int] = {}
        self._beaten = -math.inf

    def take(self, shards: Iterable[int], above: Mapping[int, int] | None = None) -> None:
        """Claim all of `shards`, or none: InputError names the living writer that holds one of them.

        above  the tokens of the shards' commits: a claim's token is larger where a claim was replaced
        """
        self._beat()
        try:
            todo = sorted(shards)
            for index in todo:
                self.tokens[index] = max(self.tokens.get(index, 0), (above or {}).get(index, 0))
            for at in range(0, len(todo), _AT_ONCE):
                some = todo[at : at + _AT_ONCE]
                made = self.files.create_many({_claim(self.split, i): self._text(i) for i in some})
                self.held.update(i for i, mine in zip(some, made, strict=True) if mine)
                for index in [i for i, mine in zip(some, made, strict=True) if not mine]:
                    self._take_over(index)
                self.renew()
        except BaseException:
            self.close()
            raise

    def _take_over(self, index: int) -> None:
        """Claim a shard that has a claim, if that one's writer is dead."""
        for attempt in range(100):
            self._remove_if_dead(index, patient=attempt < 1.5 * _GRACE / _PAUSE)
            if self.files.create(_claim(self.split, index), self._text(index)):
                self.held.add(index)
                return
        raise ProbecacheError(
            f"{self.files.url}/{_claim(self.split, index)} comes back whenever it is removed: "
            "look what makes it, and run the same command again"
        )

    def require(self, index: int) -> None:
        """LostClaim unless the claim on a shard is still this writer's."""
        raw = read_piece(self.files, _claim(self.split, index), _MOST)
        if raw == self._text(index):
            return
        now = _parsed(raw)
        self.held.discard(index)
        raise LostClaim(
            f"shard {index} of split {self.split!r} in {self.files.url} is no longer this writer's: it gave "
            f"no sign of life for too long and {now or 'another one'} took over. Nothing of it was changed; "
            "run the same command again"
        )

    def _text(self, index: int) -> bytes:
        return f"{self.mark} {socket.gethostname()} {self.tokens[index]}".encode()

    def _remove_if_dead(self, index: int, patient: bool = True) -> None:
        key = _claim(self.split, index)
        raw = read_piece(self.files, key, _MOST)
        if raw is None:
            return
        holder = _parsed(raw)
        if holder is None:
            age = self.files.age(key) if patient else None
            if age is not None and abs(age) < _GRACE:
                time.sleep(_PAUSE)
                return
        elif why := _sign(self.files, self.split, holder.mark):
            raise InputError(
                f"shard {index} of split {self.split!r} in {self.files.url} is being written by {holder} "
                f"({why}); a shard has one writer: wait for it, or give each "
                "writer its own rows (--rows a:b)"
            )
        else:
            self.tokens[index] = max(self.tokens.get(index, 0), holder.token + 1)
        if _same(read_piece(self.files, key, _MOST), raw):
            self.files.delete(key)

    def sweep(self) -> None:
        """Remove what dead writers left: claims, on shards that they finished too, and leases."""
        names = self.files.names(f"{self.split}/commit")
        claimed = [int(found[1]) for name in names if (found := _CLAIM.fullmatch(name))]
        raws = self.files.read_many([_claim(self.split, index) for index in claimed], _MOST)
        signs: dict[str, str] = {}  # of each writer, however many claims it left
        dead = []
        for index, raw in zip(claimed, raws, strict=True):
            holder = _parsed(raw)
            if holder is None:
                with contextlib.suppress(InputError):  # it became a living writer's
                    self._remove_if_dead(index)
                continue
            if holder.mark not in signs:
                signs[holder.mark] = _sign(self.files, self.split, holder.mark)
            if not signs[holder.mark]:
                self.tokens[index] = max(self.tokens.get(index, 0), holder.token + 1)
                dead.append((_claim(self.split, index), raw))
        now = self.files.read_many([key for key, _ in dead], _MOST)
        self.files.delete_many(
            [key for (key, raw), again in zip(dead, now, strict=True) if _same(again, raw)]
        )
        for name in self.files.names(f"{self.split}/commit"):
            owner = name.removeprefix("lease-")
            if owner in (name, self.mark) or name.endswith(".tmp") or _sign(self.files, self.split, owner):
                continue
            with contextlib.suppress(ProbecacheError):  # a folder of this name is in nobody's way
                self.files.delete(f"{self.split}/commit/{name}")

    def release(self, index: int) -> None:
        """Give a claim back, if it is still this writer's."""
        self.held.discard(index)
        key = _claim(self.split, index)
        if read_piece(self.files, key, _MOST) == self._text(index):
            self.files.delete(key)

    def close(self) -> None:
        """Give back every claim and the lease."""
        held, self.held = sorted(self.held), set()
        keys = [_claim(self.split, index) for index in held]
        raws = self.files.read_many(keys, _MOST)
        mine = [key for i, key, raw in zip(held, keys, raws, strict=True) if raw == self._text(i)]
        lease = [_lease(self.split, self.mark)] if self._beaten > -math.inf else []
        self.files.delete_many([*mine, *lease])
        self._beaten = -math.inf

    def renew(self) -> None:
        """A sign of life for other machines, at most one every BEAT seconds."""
        if time.monotonic() - self._beaten >= BEAT:
            with contextlib.suppress(ProbecacheError):  # a missed beat is made up by the next one
                self._beat()

    def _beat(self) -> None:
        self._beaten = time.monotonic()
        self.files.write({_lease(self.split, self.mark): [b"alive"]})


def being_written(files: Files, split: str, shard: int | None = None) -> Holder | None:
    """The living writer that has claimed a shard of a split, or None; shard None: any writer of the split."""
    if shard is not None:
        holder = _parsed(read_piece(files, _claim(split, shard), _MOST))
        return holder if holder is not None and _sign(files, split, holder.mark) else None
    for name in files.names(f"{split}/commit"):
        owner = name.removeprefix("lease-")
        if owner != name and _sign(files, split, owner):
            return Holder(owner, "a machine that writes here", 0)
    return None


def _claim(split: str, index: int) -> str:
    return f"{split}/commit/claim-{index}"


def _lease(split: str, owner: str) -> str:
    return f"{split}/commit/lease-{owner}"


def _parsed(raw: bytes | BadChunk | None) -> Holder | None:
    """What a claim says; None if it is none: cut, zeros, a folder, of another kind."""
    if not isinstance(raw, bytes):
        return None
    owner, _, rest = raw.decode(errors="replace").partition(" ")
    host, _, token = rest.partition(" ")
    if not is_mark(owner):
        return None
    return Holder(owner, f"{host!a:.80}".strip("'"), int(token) if re.fullmatch(r"[0-9]{1,9}", token) else 0)


def _same(a: bytes | BadChunk | None, b: bytes | BadChunk | None) -> bool:
    return a == b or (isinstance(a, BadChunk) and isinstance(b, BadChunk))


def _sign(files: Files, split: str, owner: str) -> str:
    """A sign of life of a claim's owner; empty if it is dead."""
    if not is_mark(owner):
        return ""
    known = alive(owner)
    if known is not None:
        return "alive" if known else ""
    age = files.age(_lease(split, owner))
    if age is None or abs(age) > LEASE:  # a sign from beyond now: the file server's clock was set back
        return ""
    return f"last sign {max(age, 0):.0f} s ago; the claim of a dead writer lapses after {LEASE:.0f} s"
