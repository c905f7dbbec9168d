"""What a shard holds against its commit: rows, values, a target's chunks, the moments of all."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.errors import DamagedStore, InputError, ProbecacheError
from probecache.store.format import chunks, metadata, moments
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer, Split, commit_key, commits_key
from probecache.store.layout import FAILED, OK, Shard
from probecache.store.reading import commits
from probecache.store.reading.commits import Raw
from probecache.store.reading.read_matrix import read_matrix
from probecache.store.reading.read_rows import decode_rows
from probecache.store.reading.targets import read_chunks
from probecache.store.storage.files import Files, read_piece
from probecache.store.verification.damage import OUTGROWN, Damage
from probecache.store.verification.documents import damaged_document

Array = np.ndarray[Any, Any]


def held_shards(files: Files, split: Split) -> dict[str, set[str]]:
    """For each layer, the shards that it may have a commit of: a dropped commit leaves its folder."""
    return {n: set(files.names(commits_key(split.name, n))) for n in catalog.layer_names(files, split)}


def _holds(files: Files, split: Split, name: str, s: Shard) -> bool:
    """Whether a layer has a commit of a shard's rows, good or not; not one of a growth that was given up."""
    try:
        found = commits.read_commits(files, catalog.read_layer(files, split, name), [s])[0]
    except ProbecacheError:  # its document is damaged, and is named by itself
        return files.size(commit_key(split.name, name, s.index)) is not None
    return isinstance(found, BadChunk) or found[0] > 0


def verify_rows(
    files: Files,
    split: Split,
    s: Shard,
    committed: tuple[int, Array] | BadChunk,
    status: dict[int, Array],
    held: dict[str, set[str]],
    raw: Raw = None,
) -> list[Damage]:
    """What is wrong with a shard's rows, whose status is left in `status`.

    held  what layers may hold; raw: the object that holds the rows, where it is known
    """

    def damage(piece: str, why: str, kind: str = "rows", start: int = s.start) -> Damage:
        return Damage(kind, split.name, None, s.index, (start, s.stop), piece, why)

    status.pop(s.index, None)
    if isinstance(committed, BadChunk):
        return [damage("commit", str(committed))]
    found = []
    if committed[0] < s.rows:
        found.append(damage("rows", "not written", "unwritten", s.start + committed[0]))
    if not committed[0]:
        if any(_holds(files, split, n, s) for n, there in held.items() if str(s.index) in there):
            return [damage("commit", "is missing, but layers hold these rows")]
        return found
    try:
        labels, _, status[s.index] = decode_rows(files, split, s, committed, raw)
    except BadChunk as error:
        piece, _, why = str(error).partition(": ")
        return [*found, damage(piece, why)]
    named = len(split.class_names) or np.iinfo(np.int64).max  # a data set may name no classes
    beyond = int(np.count_nonzero((labels < -1) | (labels >= named)))
    if beyond and not split.streaming:  # whose classes are known at its end
        found.append(damage("label", f"{beyond} labels are outside the {len(split.class_names)} class names"))
    return found


def verify_target(files: Files, split: Split, name: str) -> Iterator[Damage]:
    """A target's document, byte for byte, and its chunks."""
    document = f"{split.name}/{name}/zarr.json"
    try:
        target = catalog.read_target(files, split, name)
    except ProbecacheError as error:
        yield damaged_document(split.name, None, document, error)
        return
    if read_piece(files, document) != metadata.render(target.document()):
        yield Damage("document", split.name, None, None, None, document, OUTGROWN)
    for s, values in zip(target.geometry.shards(), read_chunks(files, target), strict=True):
        first = s.start // split.geometry.shard_rows  # of the shards that the chunk holds
        where = split.name, None, first, (s.start, s.stop), f"target {name}"
        if isinstance(values, BadChunk):
            yield Damage("target", *where, str(values))
        elif len(values) < s.rows:
            lacking = s.start + len(values), s.stop
            yield Damage("unwritten", split.name, None, first, lacking, f"target {name}", "not written")


def verify_values(
    files: Files,
    layer: Layer,
    s: Shard,
    committed: tuple[int, Array] | BadChunk,
    status: Array | None,
    raw: Raw = None,
) -> tuple[Array | None, list[Damage]]:
    """A shard's stored moments, None if not all of them are there, and what is wrong with the shard.

    raw  the object that holds the moments, where it is known
    """
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
        part = commits.read_partial(files, layer, s, int(crcs[0]), raw)
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
    again[moments.UNDERFLOW] = part[moments.UNDERFLOW]  # of values that are not there any more
    scale = np.maximum(np.abs(np.nan_to_num(part, posinf=0, neginf=0)).max(axis=1, keepdims=True), 1e-30)
    with np.errstate(invalid="ignore"):  # inf - inf, where a neuron has no finite value
        same = (again == part) | (np.abs(again - part) <= 1e-5 * scale)
    if not same.all():
        names = [metadata.STATISTICS[i] for i in np.flatnonzero(~same.all(axis=1))]
        found.append(_shard_damage(layer, s, "partial", f"{', '.join(names)} do not agree with the data"))
    return (part if rows == s.rows else None), found


def _shard_damage(layer: Layer, s: Shard, piece: str, why: str) -> Damage:
    return Damage("shard", layer.split, layer.spec.name, s.index, (s.start, s.stop), piece, why)


def verify_moments(files: Files, layer: Layer, total: Array) -> Iterator[Damage]:
    """The layer's moments and counts against those that its shards give."""

    def damage(piece: str, why: str) -> Damage:
        return Damage("moments", layer.split, layer.spec.name, None, None, piece, why)

    if layer.complete != layer.geometry.n_samples:
        yield damage("moments", "every shard is written but the run did not finish")
        return
    for name, values in moments.summary(total).items():
        raw = read_piece(files, f"{layer.key}/{name}/c/0", values.nbytes + 4)
        if raw is None:
            yield damage(name, "its file is missing")
        elif raw != chunks.sealed(values.astype("<f8").tobytes())[0]:
            yield damage(name, "does not agree with the shards")
    for name, count in moments.counts(total, layer.n_statistics).items():
        if layer.report.get(name) != count:
            yield damage(name, f"{count} {name} values, reported {layer.report.get(name)}")
