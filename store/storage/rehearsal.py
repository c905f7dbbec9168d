"""A store's files whose writes stay in memory: what a writer would refuse is refused, and nothing changes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from probecache.store.format.chunks import DOCUMENT_BYTES, BadChunk, Pieces
from probecache.store.storage.files import Files


class Rehearsal:
    """`files`, and over them the documents that were written here."""

    def __init__(self, files: Files) -> None:
        self._files, self._written = files, dict[str, bytes]()
        self.url, self.threads, self.lists_freely = files.url, files.threads, files.lists_freely

    def __getattr__(self, name: str) -> Any:
        if name not in ("read_range", "age"):
            raise AttributeError(f"a rehearsal has no {name!r}: it only reads, and keeps what is written")
        return getattr(self._files, name)

    def read(self, key: str, most: int = DOCUMENT_BYTES) -> bytes | None:
        return self._written[key] if key in self._written else self._files.read(key, most)

    def read_many(self, keys: Sequence[str], most: int = DOCUMENT_BYTES) -> list[bytes | BadChunk | None]:
        found = self._files.read_many(keys, most)
        return [self._written.get(key, raw) for key, raw in zip(keys, found, strict=True)]

    def read_heads(self, keys: Sequence[str], size: int) -> list[bytes | BadChunk | None]:
        return self._files.read_heads(keys, size)  # of commits, which nothing here writes

    def size(self, key: str) -> int | None:
        return len(self._written[key]) if key in self._written else self._files.size(key)

    def names(self, key: str) -> list[str]:
        below = f"{key}/" if key else ""
        new = {name[len(below) :].split("/")[0] for name in self._written if name.startswith(below)}
        return sorted(new.union(self._files.names(key)))

    def write(
        self,
        items: Mapping[str, Pieces],
        then: Mapping[str, Pieces] | None = None,
        guard: Callable[[], None] | None = None,
    ) -> None:
        for key, pieces in {**items, **(then or {})}.items():
            self._written[key] = b"".join(bytes(piece) for piece in pieces)
