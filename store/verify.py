"""Read every byte of a store and name each piece that is missing or is not what was committed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.catalog import Layer, Split
from probecache.store.errors import DamagedStore, NotAStore, ProbecacheError
from probecache.store.format import chunks, metadata, moments
from probecache.store.format.chunks import BadChunk
from probecache.store.layout import FAILED, OK, ROW_ARRAYS, Shard
from probecache.store.reading import commits
from probecache.store.reading.read_matrix import read_matrix
from probecache.store.reading.read_rows import decode_rows
from probecache.store.reading.targets import read_chunks
from probecache.store.storage.files import Files, open_files

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Damage:
    """One damaged or missing piece. None: not of one split, layer or shard but of what holds them.

    kind  document   a zarr.json; `piece` is its path
          rows       labels, identity or status of a shard
          shard      activations, moments or commit of a shard of a layer
          target     a shard of a target other than `label`; `piece` names it
          moments    a layer's merged moments or counts
          unwritten  a shard that no writer has committed
    """

    kind: str
    split: str | None
    layer: str | None
    shard: int | None
    rows: tuple[int, int] | None
    piece: str
    why: str

    def __str__(self) -> str:
        parts = [f"split {self.split}" if self.split else "", f"layer {self.layer}" if self.layer else ""]
        parts += [f"shard {self.shard}" if self.shard is not None else ""]
        parts += [f"rows {self.rows[0]}:{self.rows[1]}" if self.rows else "", f"{self.piece}: {self.why}"]
        return ", ".join(part for part in parts if part)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def verify(path: str) -> Iterator[Damage]:
    """Each damaged piece of the store at `path`, in order; none: every byte is what was written.

    Checked: documents byte for byte, every checksum, that each chunk is the one its commit names and lies
    in its
    own place, that failed rows are NaN and others are counted where they are not finite, that the moments
    follow
    from the data. Memory: one shard. NotAStore if nothing of a store is there.
    """
    files = open_files(path)
    yield from _root(files)
    root = _good_root(files)
    for name in catalog.children(files, ""):
        try:
            split = catalog.read_split(files, name)
            if root is not None:
                catalog.require_own(files, root, split)
        except ProbecacheError as error:
            yield _document(name, None, f"{name}/zarr.json", error)
            continue
        yield from _group(files, name, name, None, split.attributes(), split.arrays())
        status: dict[int, Array] = {}
        yield from _rows(files, split, status)
        if split.streaming:
            yield Damage("unwritten", name, None, None, None, "stream", "was not finished")
        for target in catalog.target_names(files, split):
            yield from _target(files, split, target)
        for child in catalog.layer_names(files, split):
            try:
                layer = catalog.read_layer(files, split, child)
            except ProbecacheError as error:
                yield _document(name, child, f"{name}/{child}/zarr.json", error)
                continue
            yield from _group(files, layer.key, name, child, layer.attributes(), layer.arrays())
            yield from _layer(files, layer, status)


def _root(files: Files) -> Iterator[Damage]:
    try:
        expected = catalog.root_document(files)
    except (NotAStore, DamagedStore) as error:
        if not any(_is_split(files, name) for name in catalog.children(files, "")):
            raise
        yield _document(None, None, "zarr.json", error)
        return
    raw = files.read("zarr.json")
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
    shards = list(split.geometry.shards())
    for s, committed in zip(shards, commits.read_commits(files, split, shards), strict=True):
        span = s.start, s.stop
        if isinstance(committed, BadChunk):
            yield Damage("rows", split.name, None, s.index, span, "commit", str(committed))
        elif committed[0] < s.rows:
            lacking = s.start + committed[0], s.stop
            yield Damage("unwritten", split.name, None, s.index, lacking, "rows", "not written")
        if isinstance(committed, BadChunk) or not committed[0]:
            continue
        try:
            labels, _, status[s.index] = decode_rows(files, split, s, committed)
        except BadChunk as error:
            piece, _, why = str(error).partition(": ")
            yield Damage("rows", split.name, None, s.index, span, piece, why)
            continue
        beyond = int(np.count_nonzero((labels < -1) | (labels >= len(split.class_names))))
        if beyond and not split.streaming:  # whose classes are known at its end
            why = f"{beyond} labels are outside the {len(split.class_names)} class names"
            yield Damage("rows", split.name, None, s.index, span, "label", why)


def _target(files: Files, split: Split, name: str) -> Iterator[Damage]:
    """A target's document, byte for byte, and its chunks."""
    document = f"{split.name}/{name}/zarr.json"
    try:
        target = catalog.read_target(files, split, name)
    except ProbecacheError as error:
        yield _document(split.name, None, document, error)
        return
    if files.read(document) != metadata.render(target.document()):
        yield Damage("document", split.name, None, None, None, document, "does not fit its split's size")
    for s, values in zip(split.geometry.shards(), read_chunks(files, target), strict=True):
        where = split.name, None, s.index, (s.start, s.stop), f"target {name}"
        if isinstance(values, BadChunk):
            yield Damage("target", *where, str(values))
        elif len(values) < s.rows:
            lacking = s.start + len(values), s.stop
            yield Damage("unwritten", split.name, None, s.index, lacking, f"target {name}", "not written")


def _layer(files: Files, layer: Layer, status: dict[int, Array]) -> Iterator[Damage]:
    shards, whole = list(layer.geometry.shards()), True
    total: Array | None = None
    finished = layer.complete == layer.geometry.n_samples
    for s, committed in zip(shards, commits.read_commits(files, layer, shards), strict=True):
        if isinstance(committed, BadChunk):
            whole = False
            yield _shard_damage(layer, s, "commit", str(committed))
            continue
        if committed[0] < s.rows:
            whole = False
            lacking = s.start + committed[0], s.stop
            kind, why = ("shard", "its commit is missing") if finished else ("unwritten", "not written")
            yield Damage(kind, layer.split, layer.spec.name, s.index, lacking, "activations", why)
        if committed[0]:
            part, found = _shard(files, layer, s, committed, status.get(s.index))
            yield from found
            if part is None:
                whole = False
            else:
                total = part if total is None else moments.merge(total, part)
    if whole and total is not None:
        yield from _merged(files, layer, total, finished)


def _shard(
    files: Files, layer: Layer, s: Shard, committed: tuple[int, Array], status: Array | None
) -> tuple[Array | None, list[Damage]]:
    """A shard's stored moments, None if they are damaged, and what is wrong with the shard."""
    rows, crcs = committed
    found: list[Damage] = []
    part = None
    try:
        part = commits.read_partial(files, layer, s, int(crcs[0]))
    except BadChunk as error:
        found.append(_shard_damage(layer, s, "partial", str(error).removeprefix("partial: ")))
    try:
        values = read_matrix(files, layer, [(s, rows, crcs)], (s.start, s.start + rows), None)
    except DamagedStore as error:
        found.append(_shard_damage(layer, s, "activations", error.why))
        return None, found
    if part is None or status is None:
        return None, found
    ok = status[:rows] == OK
    if not np.isnan(values[status[:rows] == FAILED].astype(np.float32)).all():
        found.append(_shard_damage(layer, s, "activations", "rows marked failed hold values"))
    again = moments.partial(values if ok.all() else values[ok])
    scale = np.maximum(np.abs(np.nan_to_num(part, posinf=0, neginf=0)).max(axis=1, keepdims=True), 1e-30)
    with np.errstate(invalid="ignore"):  # inf - inf, where a neuron has no finite value
        same = (again == part) | (np.abs(again - part) <= 1e-5 * scale)
    if not same.all():
        names = [metadata.STATISTICS[i] for i in np.flatnonzero(~same.all(axis=1))]
        found.append(_shard_damage(layer, s, "partial", f"{', '.join(names)} do not agree with the data"))
    return part, found


def _shard_damage(layer: Layer, s: Shard, piece: str, why: str) -> Damage:
    return Damage("shard", layer.split, layer.spec.name, s.index, (s.start, s.stop), piece, why)


def _merged(files: Files, layer: Layer, total: Array, finished: bool) -> Iterator[Damage]:
    """The layer's moments and counts against those that its shards give."""

    def damage(piece: str, why: str) -> Damage:
        return Damage("moments", layer.split, layer.spec.name, None, None, piece, why)

    if not finished:
        yield damage("moments", "every shard is written but the run did not finish")
        return
    for name, values in moments.summary(total).items():
        raw = files.read_many([f"{layer.key}/{name}/c/0"], values.nbytes + 4)[0]
        if raw is None:
            yield damage(name, "its file is missing")
        elif raw != chunks.sealed(values.astype("<f8").tobytes())[0]:
            yield damage(name, "does not agree with the shards")
    for row, name in ((6, "nonfinite"), (7, "saturated")):
        if layer.report.get(name) != int(total[row].sum()):
            yield damage(name, f"{int(total[row].sum())} {name} values, reported {layer.report.get(name)}")
