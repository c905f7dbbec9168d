"""Read every byte of a store and name each piece that is missing or is not what was committed."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.errors import ProbecacheError
from probecache.store.format import moments
from probecache.store.format.groups import Layer, Split
from probecache.store.reading import commits
from probecache.store.reading.commits import Committed
from probecache.store.storage.files import Files, open_files
from probecache.store.verification.damage import Damage, settled
from probecache.store.verification.documents import (
    good_root,
    verify_layer_documents,
    verify_root,
    verify_split_documents,
)
from probecache.store.verification.indexes import some_layer_is_whole, verify_index
from probecache.store.verification.shards import (
    held_shards,
    verify_moments,
    verify_rows,
    verify_target,
    verify_values,
)

Array = np.ndarray[Any, Any]


def verify(path: str) -> Iterator[Damage]:
    """Each damaged piece of the store at `path`, in order; none: every byte is what was written.

    Checked: documents byte for byte, every checksum, that each chunk is the one its commit names and lies
    in its own place, that failed rows are NaN and others are counted where they are not finite, that the
    moments follow from the data. What a living writer is changing is no damage but of kind "unwritten".
    Memory: one shard. NotAStore if nothing of a store is there.
    """
    files = open_files(path)
    yield from settled(files, None, list(verify_root(files)), lambda: list(verify_root(files)))
    root = good_root(files)
    for name in catalog.children(files, ""):

        def documents(name: str = name) -> list[Damage]:
            return list(verify_split_documents(files, root, name))

        yield from settled(files, name, documents(), documents)
        try:
            split = catalog.read_split(files, name)
            if root is not None:
                catalog.require_own(files, root, split)
        except ProbecacheError:
            continue
        status: dict[int, Array] = {}
        known: list[Committed] = []
        yield from _rows(files, split, status, known)
        indexed = split.packed and not split.streaming and some_layer_is_whole(files, split)
        if indexed:
            yield from _index(files, split, known)
        if split.streaming:
            yield Damage("unwritten", name, None, None, None, "stream", "was not finished")
        for target in catalog.target_names(files, split):

            def of_target(split: Split = split, target: str = target) -> list[Damage]:
                return list(verify_target(files, catalog.read_split(files, split.name), target))

            yield from settled(files, name, of_target(), of_target)
        for child in catalog.layer_names(files, split):

            def of_layer(split: Split = split, child: str = child) -> list[Damage]:
                return list(verify_layer_documents(files, catalog.read_split(files, split.name), child))

            yield from settled(files, name, of_layer(), of_layer)
            try:
                layer = catalog.read_layer(files, catalog.read_split(files, name), child)
            except ProbecacheError:
                continue
            known = []
            yield from _layer(files, layer, status, known)
            if indexed and layer.complete == layer.geometry.n_samples:
                yield from _index(files, layer, known)


def verify_shard(files: Files, split: str, index: int) -> list[Damage]:
    """What is damaged or missing of one shard of a split now: its rows, and its part of each layer."""
    now = catalog.read_split(files, split)
    if index >= now.geometry.n_shards:
        return []
    s, status = now.geometry.shard(index), dict[int, Array]()
    found = verify_rows(
        files, now, s, commits.read_commits(files, now, [s])[0], status, held_shards(files, now)
    )
    for child in catalog.layer_names(files, now):
        try:
            layer = catalog.read_layer(files, now, child)
        except ProbecacheError:  # its document is damaged, and is named by itself
            continue
        committed = commits.read_commits(files, layer, [s])[0]
        found += verify_values(files, layer, s, committed, status.get(index))[1]
    return found


def _rows(files: Files, split: Split, status: dict[int, Array], known: list[Committed]) -> Iterator[Damage]:
    """Labels, identity and status, shard by shard; leaves each good shard's status in `status`.

    And in `known` what the commits say.
    """
    shards, held = list(split.geometry.shards()), held_shards(files, split)
    for s, (committed, raw) in zip(shards, commits.read_objects(files, split, shards), strict=True):

        def again(index: int = s.index) -> list[Damage]:
            now = catalog.read_split(files, split.name)
            shard = now.geometry.shard(index)
            return verify_rows(
                files,
                now,
                shard,
                commits.read_commits(files, now, [shard])[0],
                status,
                held_shards(files, now),
            )

        known.append(committed)
        found = verify_rows(files, split, s, committed, status, held, raw)
        yield from settled(files, split.name, found, again)


def _index(files: Files, owner: Split | Layer, known: list[Committed]) -> Iterator[Damage]:
    """What follows from a whole owner's commits against what its shards say: index, row arrays."""

    def again() -> list[Damage]:
        now: Split | Layer = catalog.read_split(
            files, owner.name if isinstance(owner, Split) else owner.split
        )
        if isinstance(owner, Layer) and isinstance(now, Split):
            now = catalog.read_layer(files, now, owner.spec.name)
            if now.complete < now.geometry.n_samples:
                return []
        return list(verify_index(files, now))

    split = owner.name if isinstance(owner, Split) else owner.split
    yield from settled(files, split, list(verify_index(files, owner, known)), again)


def _layer(files: Files, layer: Layer, status: dict[int, Array], known: list[Committed]) -> Iterator[Damage]:
    shards, whole = list(layer.geometry.shards()), True
    total: Array | None = None
    part: Array | None = None

    def fresh() -> Layer:
        return catalog.read_layer(files, catalog.read_split(files, layer.split), layer.spec.name)

    for s, (committed, raw) in zip(shards, commits.read_objects(files, layer, shards), strict=True):

        def again(index: int = s.index) -> list[Damage]:
            nonlocal part
            now = fresh()
            shard = now.geometry.shard(index)
            rows = catalog.read_split(files, layer.split)
            verify_rows(files, rows, shard, commits.read_commits(files, rows, [shard])[0], status, {})
            committed = commits.read_commits(files, now, [shard])[0]
            part, found = verify_values(files, now, shard, committed, status.get(index))
            return found

        known.append(committed)
        part, found = verify_values(files, layer, s, committed, status.get(s.index), raw)
        yield from settled(files, layer.split, found, again)
        if part is None:
            whole = False
        else:
            total = part if total is None else moments.merge(total, part)
    if not whole or total is None:
        return

    def once_more() -> list[Damage]:
        now = fresh()
        merged = commits.merged_moments(files, now)
        return [] if merged is None else list(verify_moments(files, now, merged[0]))

    yield from settled(files, layer.split, list(verify_moments(files, layer, total)), once_more)
