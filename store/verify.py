"""Read every byte of a store and name each piece that is missing or is not what was committed."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.catalog import Layer, Split
from probecache.store.damage import Damage, settled
from probecache.store.errors import DamagedStore, InputError, NotAStore, ProbecacheError
from probecache.store.format import chunks, metadata, moments
from probecache.store.format.chunks import BadChunk
from probecache.store.layout import FAILED, OK, ROW_ARRAYS, Shard
from probecache.store.reading import commits
from probecache.store.reading.read_matrix import read_matrix
from probecache.store.reading.read_rows import decode_rows
from probecache.store.reading.targets import read_chunks
from probecache.store.storage.files import Files, open_files
from probecache.store.verify_index import verify_indexes

Array = np.ndarray[Any, Any]


def verify(path: str) -> Iterator[Damage]:
    """Each damaged piece of the store at `path`, in order; none: every byte is what was written.

    Checked: documents byte for byte, every checksum, that each chunk is the one its commit names and lies
    in its own place, that failed rows are NaN and others are counted where they are not finite, that the
    moments follow from the data. What a living writer is changing is no damage but of kind "unwritten".
    Memory: one shard. NotAStore if nothing of a store is there.
    """
    files = open_files(path)
    yield from settled(files, None, list(_root(files)), lambda: list(_root(files)))
    root = _good_root(files)
    for name in catalog.children(files, ""):

        def documents(name: str = name) -> list[Damage]:
            return list(_split_documents(files, root, name))

        yield from settled(files, name, documents(), documents)
        try:
            split = catalog.read_split(files, name)
            if root is not None:
                catalog.require_own(files, root, split)
        except ProbecacheError:
            continue
        status: dict[int, Array] = {}
        yield from _rows(files, split, status)
        yield from _indexes(files, split)
        if split.streaming:
            yield Damage("unwritten", name, None, None, None, "stream", "was not finished")
        for target in catalog.target_names(files, split):

            def of_target(split: Split = split, target: str = target) -> list[Damage]:
                return list(_target(files, catalog.read_split(files, split.name), target))

            yield from settled(files, name, of_target(), of_target)
        for child in catalog.layer_names(files, split):

            def of_layer(split: Split = split, child: str = child) -> list[Damage]:
                return list(_layer_documents(files, catalog.read_split(files, split.name), child))

            yield from settled(files, name, of_layer(), of_layer)
            try:
                layer = catalog.read_layer(files, catalog.read_split(files, name), child)
            except ProbecacheError:
                continue
            yield from _layer(files, layer, status)


def _split_documents(files: Files, root: dict[str, Any] | None, name: str) -> Iterator[Damage]:
    try:
        split = catalog.read_split(files, name)
        if root is not None:
            catalog.require_own(files, root, split)
    except ProbecacheError as error:
        yield _document(name, None, f"{name}/zarr.json", error)
        return
    yield from _group(files, name, name, None, split.attributes(), split.arrays())


def _layer_documents(files: Files, split: Split, child: str) -> Iterator[Damage]:
    try:
        layer = catalog.read_layer(files, split, child)
    except ProbecacheError as error:
        yield _document(split.name, child, f"{split.name}/{child}/zarr.json", error)
        return
    yield from _group(files, layer.key, split.name, child, layer.attributes(), layer.arrays())


def verify_shard(files: Files, split: str, index: int) -> list[Damage]:
    """What is damaged or missing of one shard of a split now: its rows, and its part of each layer."""
    now = catalog.read_split(files, split)
    if index >= now.geometry.n_shards:
        return []
    s, status = now.geometry.shard(index), dict[int, Array]()
    found = _shard_rows(files, now, s, commits.read_commits(files, now, [s])[0], status, _held(files, now))
    for child in catalog.layer_names(files, now):
        try:
            layer = catalog.read_layer(files, now, child)
        except ProbecacheError:  # its document is damaged, and is named by itself
            continue
        committed = commits.read_commits(files, layer, [s])[0]
        found += _shard(files, layer, s, committed, status.get(index))[1]
    return found


def _root(files: Files) -> Iterator[Damage]:
    try:
        expected = catalog.root_document(files)
    except (NotAStore, DamagedStore) as error:
        if not any(_is_split(files, name) for name in catalog.children(files, "")):
            raise
        yield _document(None, None, "zarr.json", error)
        return
    raw = files.read_many(["zarr.json"])[0]
    listed = catalog.copies(files)
    for key in sorted(listed):
        split, _, child = key.partition("/")
        group = listed[key].get("node_type") == "group"
        target = not group and child and "/" not in child and child not in (*ROW_ARRAYS, "commit")
        if (group or target) and not catalog.has_document(files, key):
            layer = child if group and child else None
            why = f"the {'group' if group else 'target'}'s document is missing"
            yield Damage("document", split, layer, None, None, f"{key}/zarr.json", why)
    if raw != metadata.render(expected):
        yield Damage("document", None, None, None, None, "zarr.json", "its consolidated metadata do not fit")


def _good_root(files: Files) -> dict[str, Any] | None:
    try:
        return catalog.read_root(files)
    except ProbecacheError:
        return None


def _is_split(files: Files, name: str) -> bool:
    try:
        catalog.read_split(files, name)
    except ProbecacheError:
        return False
    return True


def _document(split: str | None, layer: str | None, piece: str, error: Exception) -> Damage:
    return Damage("document", split, layer, None, None, piece, str(error))


def _group(
    files: Files,
    key: str,
    split: str,
    layer: str | None,
    attributes: dict[str, Any],
    arrays: dict[str, dict[str, Any]],
) -> Iterator[Damage]:
    """A group's document and its arrays' documents, byte for byte."""
    documents = {f"{key}/zarr.json": metadata.group_document(attributes)}
    documents |= {f"{key}/{name}/zarr.json": document for name, document in arrays.items()}
    for where, raw in zip(documents, files.read_many(list(documents)), strict=True):
        if raw != metadata.render(documents[where]):
            why = "is missing" if raw is None else "is not what follows from its group"
            yield Damage("document", split, layer, None, None, where, why)


def _rows(files: Files, split: Split, status: dict[int, Array]) -> Iterator[Damage]:
    """Labels, identity and status, shard by shard; leaves each good shard's status in `status`."""
    shards, held = list(split.geometry.shards()), _held(files, split)
    for s, committed in zip(shards, commits.read_commits(files, split, shards), strict=True):

        def again(index: int = s.index) -> list[Damage]:
            now = catalog.read_split(files, split.name)
            shard = now.geometry.shard(index)
            return _shard_rows(
                files, now, shard, commits.read_commits(files, now, [shard])[0], status, _held(files, now)
            )

        yield from settled(files, split.name, _shard_rows(files, split, s, committed, status, held), again)


def _indexes(files: Files, split: Split) -> Iterator[Damage]:
    """What follows from a finished split's commits against what its shards say: indexes, row arrays."""

    def look() -> list[Damage]:
        now = catalog.read_split(files, split.name)
        return list(verify_indexes(files, now))

    if split.packed and not split.streaming:
        yield from settled(files, split.name, look(), look)


def _held(files: Files, split: Split) -> dict[str, set[str]]:
    """For each layer, the shards that it may have a commit of: a dropped commit leaves its folder."""
    return {n: set(files.names(f"{split.name}/{n}/commit/c")) for n in catalog.layer_names(files, split)}


def _shard_rows(
    files: Files,
    split: Split,
    s: Shard,
    committed: tuple[int, Array] | BadChunk,
    status: dict[int, Array],
    held: dict[str, set[str]],
) -> list[Damage]:
    """What is wrong with a shard's rows, whose status is left in `status`; `held`: what layers may hold."""

    def damage(piece: str, why: str, kind: str = "rows", start: int = s.start) -> Damage:
        return Damage(kind, split.name, None, s.index, (start, s.stop), piece, why)

    status.pop(s.index, None)
    if isinstance(committed, BadChunk):
        return [damage("commit", str(committed))]
    found = []
    if committed[0] < s.rows:
        found.append(damage("rows", "not written", "unwritten", s.start + committed[0]))
    if not committed[0]:
        folders = [n for n, there in held.items() if str(s.index) in there]
        if any(files.size(f"{split.name}/{n}/commit/c/{s.index}/0") is not None for n in folders):
            return [damage("commit", "is missing, but layers hold these rows")]
        return found
    try:
        labels, _, status[s.index] = decode_rows(files, split, s, committed)
    except BadChunk as error:
        piece, _, why = str(error).partition(": ")
        return [*found, damage(piece, why)]
    named = len(split.class_names) or np.iinfo(np.int64).max  # a data set may name no classes
    beyond = int(np.count_nonzero((labels < -1) | (labels >= named)))
    if beyond and not split.streaming:  # whose classes are known at its end
        found.append(damage("label", f"{beyond} labels are outside the {len(split.class_names)} class names"))
    return found


def _target(files: Files, split: Split, name: str) -> Iterator[Damage]:
    """A target's document, byte for byte, and its chunks."""
    document = f"{split.name}/{name}/zarr.json"
    try:
        target = catalog.read_target(files, split, name)
    except ProbecacheError as error:
        yield _document(split.name, None, document, error)
        return
    if files.read_many([document])[0] != metadata.render(target.document()):
        yield Damage("document", split.name, None, None, None, document, "does not fit its split's size")
    for s, values in zip(target.geometry.shards(), read_chunks(files, target), strict=True):
        where = split.name, None, s.index, (s.start, s.stop), f"target {name}"
        if isinstance(values, BadChunk):
            yield Damage("target", *where, str(values))
        elif len(values) < s.rows:
            lacking = s.start + len(values), s.stop
            yield Damage("unwritten", split.name, None, s.index, lacking, f"target {name}", "not written")


def _layer(files: Files, layer: Layer, status: dict[int, Array]) -> Iterator[Damage]:
    shards, whole = list(layer.geometry.shards()), True
    total: Array | None = None
    parts: list[Array | None] = [None]

    def fresh() -> Layer:
        return catalog.read_layer(files, catalog.read_split(files, layer.split), layer.spec.name)

    for s, committed in zip(shards, commits.read_commits(files, layer, shards), strict=True):

        def again(index: int = s.index) -> list[Damage]:
            now = fresh()
            shard = now.geometry.shard(index)
            rows = catalog.read_split(files, layer.split)
            _shard_rows(files, rows, shard, commits.read_commits(files, rows, [shard])[0], status, {})
            committed = commits.read_commits(files, now, [shard])[0]
            parts[0], found = _shard(files, now, shard, committed, status.get(index))
            return found

        parts[0], found = _shard(files, layer, s, committed, status.get(s.index))
        yield from settled(files, layer.split, found, again)
        if parts[0] is None:
            whole = False
        else:
            total = parts[0] if total is None else moments.merge(total, parts[0])
    if not whole or total is None:
        return

    def once_more() -> list[Damage]:
        now = fresh()
        merged = commits.merged_moments(files, now)
        return [] if merged is None else list(_merged(files, now, merged[0]))

    yield from settled(files, layer.split, list(_merged(files, layer, total)), once_more)


def _shard(
    files: Files, layer: Layer, s: Shard, committed: tuple[int, Array] | BadChunk, status: Array | None
) -> tuple[Array | None, list[Damage]]:
    """A shard's stored moments, None if not all of them are there, and what is wrong with the shard."""
    if isinstance(committed, BadChunk):
        return None, [_shard_damage(layer, s, "commit", str(committed))]
    rows, crcs = committed
    found: list[Damage] = []
    if rows < s.rows:
        finished = layer.complete == layer.geometry.n_samples
        kind, why = ("shard", "its commit is missing") if finished else ("unwritten", "not written")
        lacking = s.start + rows, s.stop
        found.append(Damage(kind, layer.split, layer.spec.name, s.index, lacking, "activations", why))
        if not rows:
            return None, found
    part = None
    try:
        part = commits.read_partial(files, layer, s, int(crcs[0]))
    except BadChunk as error:
        found.append(_shard_damage(layer, s, "partial", str(error).removeprefix("partial: ")))
    try:
        values = read_matrix(files, layer, [(s, rows, crcs)], (s.start, s.start + rows), None)
    except (DamagedStore, InputError) as error:  # InputError: a link in its place
        why = error.why if isinstance(error, DamagedStore) else str(error)
        found.append(_shard_damage(layer, s, "activations", why))
        return None, found
    if part is None or status is None or len(status) < rows:
        return None, found
    ok = status[:rows] == OK
    if not np.isnan(values[status[:rows] == FAILED].astype(np.float32)).all():
        found.append(_shard_damage(layer, s, "activations", "rows marked failed hold values"))
    again = moments.partial(values if ok.all() else values[ok])
    again[8] = part[8]  # of values that are not there any more
    scale = np.maximum(np.abs(np.nan_to_num(part, posinf=0, neginf=0)).max(axis=1, keepdims=True), 1e-30)
    with np.errstate(invalid="ignore"):  # inf - inf, where a neuron has no finite value
        same = (again == part) | (np.abs(again - part) <= 1e-5 * scale)
    if not same.all():
        names = [metadata.STATISTICS[i] for i in np.flatnonzero(~same.all(axis=1))]
        found.append(_shard_damage(layer, s, "partial", f"{', '.join(names)} do not agree with the data"))
    return (part if rows == s.rows else None), found


def _shard_damage(layer: Layer, s: Shard, piece: str, why: str) -> Damage:
    return Damage("shard", layer.split, layer.spec.name, s.index, (s.start, s.stop), piece, why)


def _merged(files: Files, layer: Layer, total: Array) -> Iterator[Damage]:
    """The layer's moments and counts against those that its shards give."""

    def damage(piece: str, why: str) -> Damage:
        return Damage("moments", layer.split, layer.spec.name, None, None, piece, why)

    if layer.complete != layer.geometry.n_samples:
        yield damage("moments", "every shard is written but the run did not finish")
        return
    for name, values in moments.summary(total).items():
        raw = files.read_many([f"{layer.key}/{name}/c/0"], values.nbytes + 4)[0]
        if raw is None:
            yield damage(name, "its file is missing")
        elif raw != chunks.sealed(values.astype("<f8").tobytes())[0]:
            yield damage(name, "does not agree with the shards")
    for row, name in ((6, "nonfinite"), (7, "saturated"), (8, "underflow"))[: layer.n_statistics - 6]:
        if layer.report.get(name) != int(total[row].sum()):
            yield damage(name, f"{int(total[row].sum())} {name} values, reported {layer.report.get(name)}")
