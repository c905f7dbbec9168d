"""Write targets whose values are known: chunks first, the document that vouches for them last."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.claims import Claims
from probecache.store.errors import DamagedStore, FingerprintMismatch, InputError
from probecache.store.format import metadata
from probecache.store.format.chunks import BadChunk, Pieces
from probecache.store.format.groups import Split
from probecache.store.format.target_array import (
    Commit,
    TargetArray,
    check_target_name,
    chunk_geometry,
)
from probecache.store.reading.targets import read_chunks
from probecache.store.storage.files import Files
from probecache.store.targets import Target
from probecache.store.writing.create import metadata_changed

Array = np.ndarray[Any, Any]
TARGETS = 1 << 20  # beyond every shard's number: the claim of whoever writes a split's targets
_AT_ONCE = 256  # files of one write: each is open until all are synced


def store_targets(files: Files, name: str, targets: Sequence[Target], overwrite: bool = False) -> None:
    """Store `targets`, whose rows are those of split `name`; nothing is written unless all of them can be.

    Killed at any point, the split reads as before and the same call completes it. FingerprintMismatch if a
    stored target of the same name holds other values or names, unless `overwrite`.
    """
    if not targets:
        return
    split = catalog.read_split(files, name)
    n, layers = split.geometry.n_samples, catalog.layer_names(files, split)
    for target in targets:
        check_target_name(target.name)
        if target.name in layers:
            try:
                catalog.read_layer(files, split, target.name)
            except DamagedStore as error:  # of a target, it may be
                todo = "probecache repair drops it, then this writes it again"
                raise DamagedStore(f"{error} ({todo})") from None
            raise InputError(
                f"target {target.name!r}: split {name!r} in {files.url} has a layer of that name"
            )
        if len(target) != n:
            raise InputError(f"target {target.name!r} has {len(target)} rows, split {name!r} has {n}")
    with _only_writer(files, name) as claims:
        there = set(catalog.target_names(files, split))
        plans = []
        for target in targets:
            stored = catalog.read_target(files, split, target.name) if target.name in there else None
            plans.append(_plan(files, split, target, stored, overwrite))
        for array, _, begun in plans:
            if begun is not None:  # what is about to be replaced is vouched for no longer
                files.write({f"{array.key}/zarr.json": [metadata.render(begun.document())]})
        _write(files, {key: pieces for _, chunks, _ in plans for key, pieces in chunks.items()})
        claims.require(TARGETS)
        _write(files, {f"{a.key}/zarr.json": [metadata.render(a.document())] for a, _, _ in plans})
        grown = catalog.read_split(files, name)
        if grown != split:  # by another writer meanwhile: documents of its size
            arrays = [catalog.read_target(files, grown, t.name) for t in targets]
            _write(files, {f"{a.key}/zarr.json": [metadata.render(a.document())] for a in arrays})
        metadata_changed(files)


Plan = tuple[TargetArray, dict[str, Pieces], TargetArray | None]


def _plan(files: Files, split: Split, target: Target, stored: TargetArray | None, overwrite: bool) -> Plan:
    """The array as it will be, the chunks to write, and the array as it is while they are written."""
    geometry, kept = chunk_geometry(split, target.kind, target.names), dict[int, Commit]()
    damaged: set[int] = set()
    if stored is not None and any(rows for rows, _ in stored.commits):
        if (stored.kind, stored.names) == (target.kind, target.names):
            geometry, kept = stored.geometry, dict(enumerate(stored.commits))
            damaged = {i for i, v in enumerate(read_chunks(files, stored)) if isinstance(v, BadChunk)}
        elif not overwrite:
            raise _other_kind(files, stored, target)
    shards = list(geometry.shards())
    absent = ((0, 0),) * len(shards)
    bare = TargetArray(split.name, target.name, target.kind, target.names, geometry, absent)
    kept = {i: kept.get(i, (0, 0)) for i in range(len(shards))}
    chunks: dict[str, Pieces] = {}
    commits = []
    for i, shard in enumerate(shards):
        raw, commit = bare.encode(target.values[shard.start : shard.stop])
        rows = kept[i][0]
        if rows and bare.encode(target.values[shard.start : shard.start + rows])[1] != kept[i]:
            if not overwrite:
                assert stored is not None
                raise _other_values(files, stored, target)
            rows = 0
        if rows < shard.rows or i in damaged:
            kept[i] = 0, 0
            chunks[bare.chunk_key(shard)] = [raw]
        commits.append(commit)
    begun = None if stored is None or not chunks else replace(bare, commits=tuple(kept.values()))
    return replace(bare, commits=tuple(commits)), chunks, begun


def _other_kind(files: Files, stored: TargetArray, target: Target) -> FingerprintMismatch:
    def words(kind: str, names: Sequence[str]) -> str:
        return f"{kind} of {len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"

    return FingerprintMismatch(
        f"target {target.name!r} of split {stored.split!r} in {files.url}: stored are "
        f"{words(stored.kind, stored.names):.150}, given {words(target.kind, target.names):.150} "
        "(use another name, or replace it: --replace)"
    )


def _other_values(files: Files, stored: TargetArray, target: Target) -> FingerprintMismatch:
    """Names the first row that differs, where the stored chunks can be read."""
    where = ""
    for shard, values in zip(stored.geometry.shards(), read_chunks(files, stored), strict=True):
        if isinstance(values, BadChunk):
            continue
        given = target.values[shard.start : shard.start + len(values)].reshape(len(values), -1)
        alike = (values == given) | (np.isnan(values) & np.isnan(given))
        rows = np.flatnonzero(~alike.all(axis=1))
        if len(rows):
            old, new = values[rows[0]].tolist(), given[rows[0]].tolist()
            where = f", first in row {shard.start + rows[0]}: stored {old!r:.80}, given {new!r:.80}"
            break
    return FingerprintMismatch(
        f"target {target.name!r} of split {stored.split!r} in {files.url} holds other values{where} "
        "(use another name, or replace it: --replace)"
    )


def _write(files: Files, items: Mapping[str, Pieces]) -> None:
    keys = list(items)
    for at in range(0, len(keys), _AT_ONCE):
        files.write({key: items[key] for key in keys[at : at + _AT_ONCE]})


@contextmanager
def _only_writer(files: Files, split: str) -> Iterator[Claims]:
    """One writer of a split's targets at a time: InputError names the living one."""
    claims = Claims(files, split)
    files.sweep("")
    claims.sweep()
    try:
        claims.take([TARGETS])
    except InputError as error:
        told = str(error).replace(f"shard {TARGETS}", "the targets", 1).replace(" is being", " are being", 1)
        raise InputError(told) from None
    try:
        yield claims
    finally:
        claims.close()
