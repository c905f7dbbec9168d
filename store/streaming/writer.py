"""An open stream: what is kept of a batch, when a shard is written, and how the stream ends.

A split is marked `streaming` until its stream ends: shards are committed as they fill, and what is there is
not read as if it were all. Killed, the next stream goes on after the last whole shard.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.claims import Claims
from probecache.store.errors import FingerprintMismatch, InputError, UnfinishedSplit
from probecache.store.format.groups import Split
from probecache.store.layout import DTYPES, SHARD_ROWS, Geometry, LayerSpec, Shard, SplitSpec
from probecache.store.reader import Store
from probecache.store.reading.read_rows import read_rows
from probecache.store.storage.files import open_files
from probecache.store.streaming.batch import Batch, ShardBuffer, as_batch
from probecache.store.streaming.columns import column_array, finish_column, write_column
from probecache.store.streaming.plan import Stream
from probecache.store.streaming.stored import require_same, whole_rows
from probecache.store.writer import SplitWriter, open_split_writer
from probecache.store.writing.create import grow_split, open_split
from probecache.store.writing.targets import TARGETS

Array = np.ndarray[Any, Any]
STREAM = TARGETS + 1  # beyond every shard's number: the claim of a split's stream
_MOST_CLAIMED = 256  # shards that a stream claims ahead


class StreamWriter:
    """An open stream. `done`: rows that were there when it was opened; `position`: the next row's number."""

    def __init__(self, path: str | os.PathLike[str], stream: Stream) -> None:
        self._path, self._stream, self._files = path, stream, open_files(path)
        self._split = catalog.find_split(self._files, stream.split)
        whole = None if self._split is None or self._split.streaming else self._split.geometry.n_samples
        if whole is not None and stream.n_samples not in (None, whole):
            raise InputError(
                f"split {stream.split!r} in {self._files.url} holds {whole} samples, not {stream.n_samples}: "
                "a stream does not change that; use another split name"
            )
        self._n = stream.n_samples if whole is None else whole
        self._rows = self._split.geometry.shard_rows if self._split else stream.shard_rows or SHARD_ROWS
        if stream.shard_rows not in (None, self._rows):
            raise InputError(
                f"split {stream.split!r} has shards of {self._rows} rows, not {stream.shard_rows}"
            )
        self.done = 0 if self._split is None else self._whole_rows(self._split, self._likely(self._split))
        self.position = self._next = self.done
        self._fresh = self.done > 0  # the first batch may be the first one of all, given again
        self._buffer: ShardBuffer | None = None
        self._shards: SplitWriter | None = None
        self._pending: dict[int, Shard] = {}
        self._window = (0, 0)
        self._claims = Claims(self._files, stream.split)
        self._closed = self._failed = False
        if self.done:
            self._hold()

    def __enter__(self) -> "StreamWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None and self._failed:
                raise UnfinishedSplit(
                    "the stream failed before its end: open it again and go on at its position"
                )
            if kind is None and not self._closed:
                self.finish()
        finally:
            self.close()

    def append(
        self,
        activations: Mapping[str, Any],
        labels: Any = None,
        samples: Sequence[str] | None = None,
        columns: Mapping[str, Any] | None = None,
        start: int | None = None,
    ) -> None:
        """Take the next rows, (rows, neurons) of every layer.

        labels   (rows,) integers; default -1, or what the split has
        samples  what identifies the rows (tokens may share theirs); default the row number or what is stored
        columns  {name: (rows,) numbers} for every name in `columns`
        start    the number of the batch's first row; default `position`. A stream that goes on and is given
                 its first rows again sees that they are those (by samples, labels and values)

        Rows that are stored are compared, and refused (FingerprintMismatch) where they differ.
        """
        if self._closed:
            raise InputError("the stream has ended: open another one")
        if set(columns or {}) != set(self._stream.columns):
            raise InputError(
                f"columns are {', '.join(columns or {}) or 'none'}, not {', '.join(self._stream.columns)}"
            )
        batch = as_batch(activations, self._stream.layers, columns or {}, labels, samples)
        known = self._class_names()
        if known is not None and batch.labels is not None and batch.labels.max(initial=-1) >= len(known):
            raise InputError(f"label {batch.labels.max()} is none of the {len(known)} classes")
        at = self._place(batch) if start is None else start
        if not 0 <= at <= self._next:
            raise InputError(
                f"the batch starts at row {at}, the next is {self._next}: rows between would be missing"
            )
        if self._n is not None and at + batch.rows > self._n:
            raise InputError(
                f"rows {at}:{at + batch.rows} are beyond the {self._n} of split {self._stream.split!r}"
            )
        old = min(batch.rows, max(0, self.done - at))
        if old < batch.rows and at + old != self._next:
            raise InputError(f"rows {at + old}:{self._next} were given already: start at {self._next}")
        if self._split is not None:
            require_same(self._files, self._split, self.done, batch.part(0, old), at)
        self._fresh = False
        try:
            self._keep(batch.part(old, batch.rows))
        except BaseException:  # what is kept and what is written may differ
            self._failed = True
            self.close()
            raise
        if self._claims.held:
            self._claims.renew()
        self.position = at + batch.rows

    def finish(self) -> Store:
        """End the stream: the last rows are written, and the split has as many as were given.

        UnfinishedSplit if `n_samples` is not reached: what was written stays.
        """
        if self.position < self._next:
            raise InputError(
                f"the stream ended at row {self.position}, {self._next} are stored: give all of them"
            )
        if self._n is not None and self._next < self._n:
            raise UnfinishedSplit(
                f"the stream into split {self._stream.split!r} of {self._files.url} ended after "
                f"{self._next} of {self._n} rows: open it again and go on at its position"
            )
        if not self._next:
            raise InputError("the stream ended without a row")
        self._flush()
        self.close()
        split = self._split
        assert split is not None
        if split.streaming:
            geometry = Geometry(self._next, self._rows)
            if self._whole_rows(split, geometry) != self._next:
                raise UnfinishedSplit(
                    f"rows of split {split.name!r} in {self._files.url} are missing: stream them again"
                )
            chunks = geometry.shards_of_a_row_chunk() if split.packed else 0
            split = replace(split, geometry=geometry, streaming=False, row_shards=chunks)
            split = replace(split, class_names=self._final_names(split))
            grow_split(self._files, split)
            self._split = split
        for name in self._stream.columns:
            finish_column(self._files, split, name)
        with self._open(split.geometry.n_samples, None) as writer:
            return writer.finish()

    def close(self) -> None:
        """Give the claims back without ending the stream: rows of a shard that is not full are lost."""
        self._closed = True
        if self._shards is not None:
            self._shards.close()
            self._shards = None
        self._claims.close()

    def _hold(self) -> None:
        """One stream of a split at a time, from its first shard to its end."""
        if not self._claims.held:
            self._claims.sweep()
            try:
                self._claims.take([STREAM])
            except InputError as error:
                raise InputError(str(error).replace(f"shard {STREAM}", "the stream", 1)) from None

    def _class_names(self) -> Sequence[str] | None:
        if self._split is not None and not self._split.streaming:
            return self._split.class_names
        return self._stream.class_names

    def _likely(self, split: Split) -> Geometry:
        """The geometry to look for whole shards in; where the end is open, as many as there are commits."""
        n = self._n or split.geometry.n_samples
        if split.streaming and self._n is None:
            n = max(1, len(self._files.names(split.commits_key))) * self._rows
        return Geometry(n, self._rows)

    def _whole_rows(self, split: Split, geometry: Geometry) -> int:
        return whole_rows(self._files, split, list(self._stream.layers), geometry)

    def _keep(self, batch: Batch) -> None:
        if batch.rows and self._buffer is None:
            dtypes = {spec.name: spec.dtype for spec in self._specs(batch)}
            asked = frozenset(self._stream.dtypes)
            self._buffer = ShardBuffer(self._rows, dtypes, self._stream.columns, asked)
        at = 0
        while at < batch.rows:
            assert self._buffer is not None
            part = batch.part(at, min(batch.rows, at + self._buffer.room - self._buffer.filled))
            self._buffer.add(part)
            at += part.rows
            self._next += part.rows
            if self._buffer.filled == self._buffer.room or self._next == self._n:
                self._flush()

    def _specs(self, batch: Batch | None = None) -> list[LayerSpec]:
        """The layers with the dtypes that were asked for, that are stored, or that the first batch has."""
        own = {dtype: name for name, dtype in DTYPES.items()}
        there = catalog.layer_names(self._files, self._split) if self._split else []
        out = []
        for name, width in self._stream.layers.items():
            dtype = self._stream.dtypes.get(name)
            if dtype is None and self._split is not None and name in there:
                dtype = catalog.read_layer(self._files, self._split, name).spec.dtype
            if dtype is None and batch is not None:
                dtype = own.get(batch.values[name].dtype)
            out.append(LayerSpec(name, width, dtype or "float32"))
        return out

    def _flush(self) -> None:
        """Commit the shard that the buffer holds."""
        buffer = self._buffer
        if buffer is None or not buffer.filled:
            return
        stop = self._next
        index = (stop - 1) // self._rows
        self._make_split(stop)
        self._claim(index, stop)
        split = self._split
        assert split is not None
        assert self._shards is not None
        rows = slice(0, buffer.filled)
        shard = Shard(index, index * self._rows, stop)
        labels, names = buffer.identity(shard.start, read_rows(self._files, split, shard))
        for name, column in buffer.columns.items():
            write_column(self._files, column_array(split, name), shard, column[rows])
        values = {name: v[rows] for name, v in buffer.values.items()}
        pending = self._pending.pop(index, None)
        for name in set(values) - set(pending.layers if pending else ()):
            self._shards.require_same(shard, name, values[name], labels, names)
        if pending is not None:
            self._shards.write(pending, values, labels, names)
        buffer.clear()

    def _make_split(self, stop: int) -> None:
        """Before its first shard is written: a split marked as being streamed."""
        split = self._split
        if split is None:
            asked = self._stream
            names = tuple(asked.class_names or ())
            geometry = Geometry(self._n or stop, self._rows)
            made = Split(asked.split, geometry, names, dict(asked.fingerprint.data), streaming=True)
            self._split = open_split(
                self._files,
                made,
                asked.fingerprint,
                self._rows,
                None,
                list(asked.layers),
                self._claims.renew,
            )
        elif split.streaming and self._n is None and stop % self._rows and stop < split.geometry.n_samples:
            self._split = replace(split, geometry=Geometry(stop, self._rows))  # fewer than were announced
            grow_split(self._files, self._split)

    def _claim(self, index: int, stop: int) -> None:
        """A writer of a window of shards that holds `index`; windows double, so that few are opened."""
        last = stop % self._rows != 0 and stop != self._n
        if self._shards is not None and self._window[0] <= index < self._window[1] and not last:
            return
        if self._shards is not None:
            self._shards.close()
        span = 1 if last else min(max(1, 2 * (self._window[1] - self._window[0])), _MOST_CLAIMED)
        end = stop if last else (index + span) * self._rows
        end = min(end, self._n) if self._n is not None else end
        assert self._split is not None
        self._shards = self._open(max(end, self._split.geometry.n_samples), (index * self._rows, end))
        self._window = (index, -(-end // self._rows))
        self._pending = {s.index: s for s in self._shards.pending()}
        self._hold()

    def _open(self, n_samples: int, rows: tuple[int, int] | None) -> SplitWriter:
        asked, split = self._stream, self._split
        assert split is not None
        dtypes = {} if self._buffer is None else self._buffer.dtypes
        specs = [LayerSpec(name, asked.layers[name], dtype) for name, dtype in dtypes.items()]
        return open_split_writer(
            self._path,
            SplitSpec(
                split=asked.split,
                n_samples=n_samples,
                layers=specs or self._specs(),
                class_names=split.class_names,
                fingerprint=asked.fingerprint,
                compression=asked.compression,
            ),
            rows=rows,
            allow_saturated=asked.allow_saturated,
        )

    def _place(self, batch: Batch) -> int:
        """Where a batch begins that does not say so: the next row, or row 0 if it is the first one again."""
        if not self._fresh or not batch.rows or self._split is None:
            return self.position
        first = batch.part(0, min(batch.rows, self.done))
        try:
            require_same(self._files, self._split, self.done, first, 0)
        except FingerprintMismatch:
            return self.position
        if batch.samples is None and first.rows < self.done:  # rows all alike do not say where they belong
            try:
                require_same(self._files, self._split, self.done, first, self.done - first.rows)
            except FingerprintMismatch:
                return 0
            raise InputError(
                f"the batch is like rows 0:{first.rows} and rows {self.done - first.rows}:{self.done}: say "
                f"where it belongs (start=0, or start={self.done} to go on)"
            )
        return 0

    def _final_names(self, split: Split) -> tuple[str, ...]:
        if self._stream.class_names is not None:
            return tuple(self._stream.class_names)
        largest = -1
        for shard in split.geometry.shards():
            rows = read_rows(self._files, split, shard)
            largest = max(largest, int(rows[0].max()) if rows is not None else -1)
        return tuple(str(i) for i in range(largest + 1))
