"""Write a split shard by shard, so that a run killed at any instant goes on where it stopped.

A shard of one layer is written in this order, each step replacing a whole file:

    labels, samples, status and their commit  ->  activations  ->  the layer's commit, with the moments
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.claims import Claims
from probecache.store.errors import FingerprintMismatch, InputError
from probecache.store.format.chunks import BadChunk, Pieces
from probecache.store.format.groups import Layer, Split
from probecache.store.format.index import stamp_key
from probecache.store.layout import FAILED, OK, Geometry, Shard, SplitSpec
from probecache.store.reader import Store, open_store
from probecache.store.reading import commits
from probecache.store.reading.read_index import indexed_commits, read_stamp
from probecache.store.reading.read_matrix import read_matrix
from probecache.store.reading.read_rows import read_rows
from probecache.store.storage.files import Files, open_files
from probecache.store.storage.rehearsal import Rehearsal
from probecache.store.writing.cast import cast_rows
from probecache.store.writing.create import grow_split, metadata_changed, open_layers, open_split
from probecache.store.writing.layer_shards import encode_layer, finish_layer
from probecache.store.writing.merge_rows import merged_rows, require_same_rows
from probecache.store.writing.write_index import touch, write_indexes

Array = np.ndarray[Any, Any]


def open_split_writer(
    path: str | os.PathLike[str],
    spec: SplitSpec,
    *,
    rows: tuple[int, int] | None = None,
    resume: bool = True,
    allow_saturated: bool = False,
) -> "SplitWriter":
    """Open or create STORE for writing the layers of one split; nothing is computed twice.

    rows             whole shards to write, (start, stop); default all. One writer per shard: InputError else
    resume           False: InputError if any of the layers has a committed shard
    allow_saturated  store non-finite or saturated float16 values (counted) instead of refusing

    More samples than the split has make it grow; only its last, partial shard is opened again. Another
    fingerprint, class list or layer setting raises FingerprintMismatch.
    """
    claims = Claims(open_files(path), spec.split)
    try:
        target, opened, stored = _open(claims.files, spec, rows, claims.renew)
        return SplitWriter(claims, target, opened, stored, rows, resume, allow_saturated)
    except BaseException:
        claims.close()
        raise


def pending_shards(
    path: str | os.PathLike[str], spec: SplitSpec, *, rows: tuple[int, int] | None = None
) -> list[Shard]:
    """What `open_split_writer` would give to write, refused as it would be, without a change to the store.

    Shards that another process is writing count as pending.
    """
    files = Rehearsal(open_files(path))
    target, opened, _ = _open(files, spec, rows, lambda: None)
    layers = {layer.spec.name: replace(layer, geometry=target.geometry) for layer in opened}
    return _lacking(files, target, layers, list(target.geometry.shards(rows)))[0]


def _open(
    files: Files, spec: SplitSpec, rows: tuple[int, int] | None, begin: Callable[[], None]
) -> tuple[Split, list[Layer], Geometry]:
    """The split as asked for, its layers, and the geometry that is stored; made as needed, or refused."""
    asked = Split(spec.split, spec.geometry, tuple(spec.class_names), dict(spec.fingerprint.data))
    names = [layer.name for layer in spec.layers]
    stored = open_split(files, asked, spec.fingerprint, spec.shard_rows, rows, names, begin)
    target = replace(stored, geometry=Geometry(spec.n_samples, stored.geometry.shard_rows))
    if rows is not None:
        target.geometry.require_whole_shards(rows)
    return target, open_layers(files, stored, spec.layers, spec.compression, begin), stored.geometry


def _lacking(
    files: Files, split: Split, layers: Mapping[str, Layer], shards: list[Shard]
) -> tuple[list[Shard], set[tuple[str, int]]]:
    """Those of `shards` that some layer lacks, a damaged commit counting as lacking; and the commits that are
    there, good or not: owner, shard."""
    lacking: dict[int, list[str]] = {}
    there: set[tuple[str, int]] = set()
    rows = indexed_commits(files, split, shards, commits.FEW)
    for name, layer in layers.items():
        found = indexed_commits(files, layer, shards, commits.FEW)
        for s, mine, shared in zip(shards, found, rows, strict=True):
            if any(isinstance(c, BadChunk) or c[0] < s.rows for c in (mine, shared)):
                lacking.setdefault(s.index, []).append(name)
            for owner, c in ((layer, mine), (split, shared)):
                if isinstance(c, BadChunk) or c[0]:
                    there.add((owner.key, s.index))
    return [replace(s, layers=tuple(lacking[s.index])) for s in shards if s.index in lacking], there


def open_writer(
    path: str | os.PathLike[str],
    *,
    rows: tuple[int, int] | None = None,
    resume: bool = True,
    allow_saturated: bool = False,
    **spec: Any,
) -> "SplitWriter":
    """`open_split_writer` with the fields of its `SplitSpec` as arguments."""
    return open_split_writer(
        path, SplitSpec(**spec), rows=rows, resume=resume, allow_saturated=allow_saturated
    )


class SplitWriter:
    """Pending shards, their writing, and the end of a split. Use as a context, or call `close`."""

    def __init__(
        self,
        claims: Claims,
        split: Split,
        layers: Sequence[Layer],
        stored: Geometry,
        rows: tuple[int, int] | None,
        resume: bool,
        allow_saturated: bool,
    ) -> None:
        self.claims, self.files = claims, claims.files
        files, self.split, self.allow_saturated = claims.files, split, allow_saturated
        self.layers = {layer.spec.name: replace(layer, geometry=split.geometry) for layer in layers}
        old = stored.n_samples if split.geometry.n_samples > stored.n_samples else 0
        self._reopened = old // stored.shard_rows if old % stored.shard_rows else None
        self._there: set[tuple[str, int]] = set()  # commits: owner, shard
        self._staged: tuple[Shard, dict[str, Pieces], dict[str, Pieces]] | None = None
        self._shards = list(split.geometry.shards(rows))
        self._todo = self._missing(self._shards)
        done = {name: len(self._shards) - sum(name in s.layers for s in self._todo) for name in self.layers}
        if not resume and any(done.values()):
            raise InputError(
                f"{files.url} already holds shards of {', '.join(n for n in done if done[n])} in split "
                f"{split.name!r}: resume, or write to another store"
            )
        self._touched: list[Split | Layer] = []
        files.sweep("")
        self.claims.sweep()
        if self._todo:
            self.claims.take((s.index for s in self._todo), commits.read_tokens(files, split, self._todo))
            self._todo = [s for s in self._missing(self._todo) if s.index in self.claims.held]
            for index in self.claims.held - {s.index for s in self._todo}:  # done by another one meanwhile
                self.claims.release(index)

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def renew(self) -> None:
        """Show other machines that this writer lives: call it at least every few minutes between writes."""
        self.claims.renew()

    def close(self) -> None:
        """Give the claims back. What was written stays; the next writer goes on from it."""
        self._end_changes()
        self.claims.close()

    def _touch(self, owners: Sequence[Split | Layer]) -> None:
        """Before the first commit of these owners is replaced (see `format/index.py`)."""
        new = [owner for owner in owners if owner.packed and owner.key not in {o.key for o in self._touched}]
        touch(self.files, new)
        self._touched += new

    def _end_changes(self) -> dict[str, str]:
        """After the last one. The stamps, by key."""
        done, self._touched = self._touched, []
        return touch(self.files, done)

    def _missing(self, shards: list[Shard]) -> list[Shard]:
        lacking, there = _lacking(self.files, self.split, self.layers, shards)
        self._there |= there
        return lacking

    def finished(self) -> Iterator[Shard]:
        """The shards of this writer's rows that were there when it was opened."""
        todo = {s.index for s in self._todo}
        yield from (s for s in self._shards if s.index not in todo)

    def pending(self) -> Iterator[Shard]:
        """The shards still to be written, in row order, with the layers that lack each."""
        yield from (s for s in self._todo if s.index in self.claims.held)

    def write(
        self,
        shard: Shard,
        activations: Mapping[str, Array],
        labels: Array,
        samples: Sequence[str],
        status: Array | None = None,
        statistics: Mapping[str, Array] | None = None,
    ) -> None:
        """Commit one shard: when this returns it is durable, and other writers' are untouched.

        A shard that is there with fewer rows, where a split grows, is committed by `finish`: until then the
        store is what it was, whatever becomes of the rest.

        activations  {layer: (rows, neurons)} for every name in `shard.layers`; cast to the stored dtype
        labels       (rows,) integers; samples: (rows,) texts that identify the rows
        status       (rows,) OK or FAILED, default OK; failed rows are stored as NaN
        statistics   {layer: float64 (9, neurons)} of the rows that are OK, as `moments.partial` gives them,
                     where they are known; taken anew where the values are not of the stored dtype

        InputError if labels or identity differ from what is stored for other layers; ProbecacheError if the
        stored dtype cannot hold the values, or if another writer took the shard over.
        """
        if shard.index not in self.claims.held:
            raise InputError(f"shard {shard.index} (rows {shard.start}:{shard.stop}) is not this writer's")
        status = np.full(shard.rows, OK, np.uint8) if status is None else np.asarray(status)
        labels, names = np.asarray(labels), [str(s) for s in samples]
        self._check(shard, activations, labels, names, status)
        token = self.claims.tokens[shard.index]
        status, items = merged_rows(
            self.files, self.split, shard, labels.astype(np.int64), names, status.astype(np.uint8), token
        )
        vouch: dict[str, Pieces] = {}
        for name in shard.layers:
            values = np.asarray(activations[name])
            known = None if statistics is None else statistics[name]
            parts, vouching = encode_layer(
                self.layers[name], shard, values, status, self.allow_saturated, token, known
            )
            items |= parts
            vouch |= vouching
        if shard.index == self._reopened:
            self._staged = shard, items, vouch
        else:
            self._commit(shard, items, vouch)
        self.renew()

    def _commit(self, shard: Shard, items: dict[str, Pieces], vouch: dict[str, Pieces]) -> None:
        owners: list[Split | Layer] = [self.layers[name] for name in shard.layers]
        owners += [self.split] if self.split.commit_key(shard) in items else []
        self._touch([owner for owner in owners if (owner.key, shard.index) in self._there])
        self.claims.require(shard.index)
        self.files.delete_many(list(vouch))  # none vouches for what is being replaced
        self.files.write(items, then=vouch, guard=lambda: self.claims.require(shard.index))
        self.claims.release(shard.index)

    def _check(
        self, s: Shard, activations: Mapping[str, Array], labels: Array, names: list[str], status: Array
    ) -> None:
        where = f"rows {s.start}:{s.stop} of split {self.split.name!r}"
        missing = set(s.layers) - set(activations)
        if missing:
            raise InputError(f"{where}: activations of {', '.join(sorted(missing))} are missing")
        for name in s.layers:
            shape = (s.rows, self.layers[name].spec.neurons)
            if np.shape(activations[name]) != shape:
                raise InputError(
                    f"{where}: layer {name!r} has shape {np.shape(activations[name])}, not {shape}"
                )
        for what, array in (("labels", labels), ("samples", names), ("status", status)):
            if np.shape(array) != (s.rows,):
                raise InputError(f"{where}: {what} have shape {np.shape(array)}, not ({s.rows},)")
        if labels.dtype.kind not in "iu":
            raise InputError(f"{where}: labels are {labels.dtype}, not integers")
        if not np.isin(status, (OK, FAILED)).all():
            raise InputError(f"{where}: status holds values other than {OK} (ok) and {FAILED} (failed)")

    def require_same(self, s: Shard, name: str, values: Array, labels: Array, names: list[str]) -> None:
        """FingerprintMismatch unless a committed shard of a layer holds these values, labels and identity."""
        layer = self.layers[name]
        found = commits.read_commits(self.files, layer, [s])[0]
        stored = read_rows(self.files, self.split, s)
        if isinstance(found, BadChunk) or stored is None:
            return
        require_same_rows(self.files, self.split, s, stored, labels, names)
        got = read_matrix(self.files, layer, [(s, *found)], (s.start, s.stop), None)
        ok, given = stored[2] == OK, np.ascontiguousarray(cast_rows(values, layer.spec.dtype))
        other = np.flatnonzero((got.view(np.uint8) != given.view(np.uint8)).any(axis=1) & ok)
        if len(other):
            row = s.start + int(other[0])
            raise FingerprintMismatch(
                f"layer {name!r} of split {self.split.name!r} in {self.files.url} holds other values than "
                f"those given, first in row {row}: use another layer name or another store"
            )

    def finish(self, summary: Mapping[str, Any] | None = None) -> Store:
        """Give the claims back and, where every shard of a layer is there, store its merged moments.

        summary  JSON values about the run, kept in each layer's attributes (`Store.report`)

        Returns the store, which reads partially if shards of other writers are still missing.
        """
        stored = catalog.read_split(self.files, self.split.name)
        if stored.geometry.n_samples < self.split.geometry.n_samples and (
            self._staged is not None or not self._missing(list(self.split.geometry.shards()))
        ):
            if self._staged is not None:
                self.claims.require(self._staged[0].index)
            grow_split(self.files, self.split)
            stored = self.split
        if self._staged is not None:
            self._commit(*self._staged)
            self._staged = None
        # as they are stored now: another writer may have made the split grow meanwhile
        layers = [catalog.read_layer(self.files, stored, name) for name in self.layers]
        stamps, known = self._end_changes(), {}
        for layer in layers:
            stamp = stamps.get(stamp_key(layer)) or read_stamp(self.files, layer)
            if (words := finish_layer(self.files, layer, summary or {})) is not None:
                known[layer.key] = stamp, words
        metadata_changed(self.files)
        self.close()
        write_indexes(self.files, catalog.read_split(self.files, stored.name), known)
        return open_store(self.files.url, partial=len(known) < len(layers))
