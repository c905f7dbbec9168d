"""A target as one array beside `label`, whose document is its commit.

    STORE/train/color/zarr.json     kind, names, and for each chunk the rows and the crc32c that are there
    STORE/train/color/c/0 ...       chunks of many shards, as of `label`; of one in format 1 and of streams

The document is written after the chunks that it vouches for, so a target is there with all its committed rows
or not at all. It follows from its own attributes and the split's geometry, byte for byte.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probecache.store.errors import InputError
from probecache.store.fingerprint import digest
from probecache.store.format import chunks, metadata
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Split
from probecache.store.layout import MAX_CHUNK_BYTES, Geometry, Shard, check_name

Array = np.ndarray[Any, Any]
Commit = tuple[int, int]  # rows and crc32c of a chunk; (0, 0): not there
CHUNK_BYTES = 16 << 20  # of a chunk of several shards at most
KINDS: dict[str, np.dtype[Any]] = {
    "classes": np.dtype("<i8"),
    "labels": np.dtype("i1"),
    "numbers": np.dtype("<f8"),
}
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*")


def check_target_name(name: object) -> str:
    """`name`, if a target may have it: that of a group, without the comma and '=' that command lines need."""
    if name == "label":
        raise InputError(
            "target 'label' is the one that came with the data: write these under another name (`probecache "
            "target ... --name NAME=label`)"
        )
    if name == "":
        raise InputError(
            "a column has no name, as an index has that pandas wrote: name the columns to take (`probecache "
            "target ... --name`), or write the table without its index"
        )
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
        raise InputError(
            f"target {name!r:.80} cannot be a name: use letters, digits and _ . + @ - (`probecache target "
            "... --name NAME=COLUMN`)"
        )
    return check_name(name, "target")


@dataclass(frozen=True)
class TargetArray:
    """What a target's document says.

    names     of the classes, the labels, or the columns of numbers
    geometry  its chunks: their rows are those of one or several of the split's shards
    """

    split: str
    name: str
    kind: str
    names: tuple[str, ...]
    geometry: Geometry
    commits: tuple[Commit, ...]

    def __post_init__(self) -> None:
        check_target_name(self.name)
        if self.kind not in KINDS or not all(isinstance(n, str) for n in self.names):
            raise InputError(f"target {self.name!r} is of kind {self.kind!r:.40}: allowed {', '.join(KINDS)}")
        if self.kind != "classes" and not self.names:
            raise InputError(f"target {self.name!r} has no columns: name at least one")
        if self.geometry.shard_rows * self.width * KINDS[self.kind].itemsize > MAX_CHUNK_BYTES:
            raise InputError(
                f"target {self.name!r} has {self.width} columns: too many for shards of "
                f"{self.geometry.shard_rows} rows; write it as several targets"
            )

    @property
    def key(self) -> str:
        return f"{self.split}/{self.name}"

    @property
    def width(self) -> int:
        """Columns: 1 for classes."""
        return 1 if self.kind == "classes" else len(self.names)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk and its crc32c."""
        return self.geometry.shard_rows * self.width * KINDS[self.kind].itemsize + 4

    @property
    def _flat(self) -> bool:
        return self.kind != "labels" and self.width == 1

    @property
    def fill(self) -> float:
        """What an unlabelled row holds."""
        return np.nan if self.kind == "numbers" else -1

    def chunk_key(self, shard: Shard) -> str:
        return f"{self.key}/c/{shard.index}" + ("" if self._flat else "/0")

    def document(self) -> dict[str, Any]:
        n, rows = self.geometry.n_samples, self.geometry.shard_rows
        column = "label" if self.kind == "labels" else "column"
        shape, chunk, dimensions = [n], [rows], ["sample"]
        if not self._flat:
            shape = [n, self.width]
            chunk = [rows, self.width]
            dimensions = ["sample", f"{self.name}_{column}"]
        attributes: dict[str, Any] = {
            "kind": self.kind,
            "names": list(self.names),
            "probecache": {"commit": [list(c) for c in self.commits]},
        }
        attributes["probecache"]["checksum"] = digest(self.name, attributes)
        kind = KINDS[self.kind].name
        return metadata.array_document(shape, chunk, kind, dimensions, attributes)

    def encode(self, values: Array) -> tuple[bytes, Commit]:
        """The chunk of its `values` (rows,) or (rows, width), and its commit."""
        rows = np.asarray(values).reshape(len(values), self.width)
        chunk = np.full((self.geometry.shard_rows, self.width), self.fill, KINDS[self.kind])
        chunk[: len(rows)] = rows
        raw, crc = chunks.sealed(chunk.tobytes())
        return raw, (len(rows), crc)

    def decode(self, raw: bytes | BadChunk | None, commit: Commit) -> Array:
        """The committed rows of a chunk (rows, width); BadChunk if they are not what was committed."""
        rows, crc = commit
        if not rows:
            return np.empty((0, self.width), KINDS[self.kind])
        kind = KINDS[self.kind]
        payload, found = chunks.unsealed(raw, self.chunk_bytes - 4)
        if found != crc:
            raise BadChunk("it is not the one that was committed")
        values = np.frombuffer(payload, kind).reshape(-1, self.width)[:rows]
        if self.kind != "numbers" and rows:
            most = len(self.names) - 1 if self.kind == "classes" else 1
            if values.min() < -1 or values.max() > most:
                raise BadChunk(f"it holds values outside -1 to {most}")
        return values


def chunk_geometry(split: Split, kind: str, names: tuple[str, ...]) -> Geometry:
    """The chunks of a new target: of as many shards as those of `label`, or fewer where it is wide."""
    width = 1 if kind == "classes" else len(names)
    rows, shards = split.geometry.shard_rows, max(1, split.row_shards)
    while shards > 1 and shards * rows * width * KINDS[kind].itemsize > CHUNK_BYTES:
        shards //= 2
    return Geometry(split.geometry.n_samples, shards * rows)


def parse_target_array(document: dict[str, Any], split: str, geometry: Geometry, name: str) -> TargetArray:
    """A target's description from its document, in a split that may have grown since.

    ValueError unless the document follows from it.
    """
    try:
        attributes = document["attributes"]
        commits = tuple((int(rows), int(crc)) for rows, crc in attributes["probecache"]["commit"])
        rows_of_a_chunk = document["chunk_grid"]["configuration"]["chunk_shape"][0]
        if rows_of_a_chunk % geometry.shard_rows:
            raise ValueError("its chunks are not of whole shards")
        then = Geometry(document["shape"][0], rows_of_a_chunk)
        target = TargetArray(split, name, attributes["kind"], tuple(attributes["names"]), then, commits)
        placed = list(zip(then.shards(), commits, strict=True))
        good = all(0 <= rows <= s.rows for s, (rows, _) in placed) and target.document() == document
    except (KeyError, TypeError, ValueError, IndexError):
        good = False
    if not good or then.n_samples > geometry.n_samples:
        raise ValueError("it was changed: it does not fit its checksum")
    now = Geometry(geometry.n_samples, rows_of_a_chunk)
    return replace(target, geometry=now, commits=commits + ((0, 0),) * (now.n_shards - len(commits)))
