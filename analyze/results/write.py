"""RESULTS open for writing: laid out over the plan's grid, filled in place as blocks finish.

A block is committed by writing its values first, then their seals, then `state`; each chunk file is written
beside its place, synced, and renamed. A kill or a power cut leaves a chunk as it was or as it is meant to be,
and a probe without seal or state is one that was never computed. One process writes at a time: a lock beside
RESULTS refuses the second.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr

from probecache.analyze.results import chunks
from probecache.analyze.results.check import (
    DONE,
    FAILED,
    Checked,
    Damage,
    check,
    read_order_seals,
    settings_of,
)
from probecache.analyze.results.chunks import Array, encode, key_of
from probecache.analyze.results.grid import SEAL, Grid, Variable, indices
from probecache.analyze.results.grow import build
from probecache.analyze.results.layout import COPY, group_bytes
from probecache.analyze.results.lock import lock, real_place, unlock
from probecache.analyze.results.mend import mend, readable
from probecache.analyze.results.open import read_sweep
from probecache.analyze.results.seals import places, probe_seals, row_seals
from probecache.analyze.results.settings import check_settings, settings_attributes
from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.plan import DIMS
from probecache.store.errors import InputError
from probecache.store.format.chunks import BadChunk
from probecache.store.storage.disk_errors import writing
from probecache.store.storage.files import open_files
from probecache.store.storage.replace_folder import recover_folder


def missing_in(path: str | Path | None, grid: Grid, settings: Mapping[str, Any]) -> Array:
    """bool over `grid`: what a sweep into `path` would compute, nothing being changed; all where it is new.

    Raises what opening it for writing would: FingerprintMismatch with each differing setting, InputError.
    """
    if path is None:
        return np.ones(grid.shape, bool)
    real_place(path)  # which must be a local folder
    path = Path(path).expanduser()
    if _is_new(path):
        return np.ones(grid.shape, bool)
    attributes, present, damages = _own(path)
    check_settings(path, attributes, settings)
    found = None if damages else check(path, wide=True)
    present = present if found is None else found.grid  # which another sweep may have made grow since
    whole = present.union(grid)
    inside = np.ones(whole.shape, bool)
    if found is not None:
        inside[np.ix_(*indices(whole, present))] = _missing(found)
    return inside[np.ix_(*indices(whole, grid))]


def read_grid(path: str | Path, grid: Grid) -> xr.Dataset:
    """The probes of `grid` in RESULTS that hold all of them, loaded."""
    return read_sweep(path).sel({dim: list(getattr(grid, dim)) for dim in DIMS}).load()


class Results:
    """RESULTS open for writing by this process, at least as large as `grid`; a context manager.

    path: a folder that holds RESULTS of the same settings, is empty, or does not exist yet. `damages` says
    what of them was damaged, and is computed again. about: further attributes, which name what was swept.
    Raises FingerprintMismatch with each differing setting, and InputError where the path holds something else
    or another process is writing.
    """

    def __init__(
        self,
        path: str | Path,
        grid: Grid,
        settings: Mapping[str, Any],
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.path = real_place(path)
        try:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = lock(self.path)
        except OSError as error:
            raise InputError(
                f"got RESULTS {path}, which cannot be made: {error}; give another path"
            ) from None
        self.damages: list[Damage] = []
        try:
            recover_folder(self.path)
            if not _is_new(self.path):
                attributes, _, _ = _own(self.path)
                check_settings(self.path, attributes, settings)
                open_files(str(self.path)).sweep("")  # what a killed writer had not put in its place
                self._take_up(grid, settings, about or {})
            else:
                self._attributes = settings_attributes({}, settings) | {**(about or {}), "failures": "[]"}
                self.grid, self._state = grid, np.zeros(grid.shape, np.int8)
                build(self.path, grid, self._attributes)
            self.files = open_files(str(self.path))
            self._places = places(
                self.grid, settings_of(self._attributes), read_order_seals(self.files, self.grid)
            )
        except BaseException:
            with suppress(OSError):
                recover_folder(self.path)  # what was laid out in vain
            unlock(self.path, self._lock)
            raise

    def _take_up(self, grid: Grid, settings: Mapping[str, Any], about: Mapping[str, str]) -> None:
        found = mend(self.path)
        self.damages = found.damages
        union = found.grid.union(grid)
        there = settings_of(found.attributes)
        self._attributes = found.attributes | settings_attributes(there, settings) | dict(about)
        self.grid, self._state = union, np.zeros(union.shape, np.int8)
        done = np.where(_missing(found), found.values["state"] * (found.values["state"] == FAILED), DONE)
        self._state[np.ix_(*indices(union, found.grid))] = done
        if union != found.grid:
            build(self.path, union, self._attributes, found.grid)
        elif self._attributes != found.attributes:
            self.files = open_files(str(self.path))
            self.describe({})

    def __enter__(self) -> "Results":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unlock(self.path, self._lock)

    def missing(self, grid: Grid) -> Array:
        """bool over `grid`'s coordinates: probes that are not done. Those that failed are tried again."""
        return self._state[np.ix_(*indices(self.grid, grid))] != DONE

    def commit(self, block: Block, values: Mapping[str, Array]) -> None:
        """Write one block's arrays, (seed, fraction, l2[, class]), then mark it done."""
        self._write(block, values, DONE)

    def fail(self, block: Block, error: str) -> None:
        """Record that a block was given up, with its error, in the attribute `failures`."""
        self._write(block, {}, FAILED)
        self._note([*self._failures(), dataclasses.asdict(block) | {"error": error}])

    def settle(self) -> None:
        """Drop from `failures` the blocks whose probes have been done since."""
        kept = []
        for failure in self._failures():
            lists = {name: tuple(value) for name, value in failure.items() if isinstance(value, list)}
            block = Block(**{name: v for name, v in (failure | lists).items() if name != "error"})
            if (self._state[np.ix_(*self._positions(block))] != DONE).any():
                kept.append(failure)
        self._note(kept)

    def _failures(self) -> list[dict[str, Any]]:
        return json.loads(self._attributes["failures"])

    def _note(self, failures: list[dict[str, Any]]) -> None:
        if failures != self._failures():
            self.describe({"failures": json.dumps(failures)})

    def _positions(self, block: Block) -> tuple[list[int], ...]:
        """Positions of a block's probes, one list per dimension."""
        one = ((block.target,), (block.layer,), (block.selection,), (block.shots,))
        wanted = (*one, block.fractions, block.seeds, block.l2s)
        axes = [getattr(self.grid, dim) for dim in DIMS]
        return tuple([axis.index(v) for v in values] for axis, values in zip(axes, wanted, strict=True))

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of RESULTS, in one replacement of zarr.json."""
        self._attributes = {**self._attributes, **attributes}
        raw = [group_bytes(self._attributes, self.grid)]
        self.files.write({COPY: raw}, {"zarr.json": raw})

    def attributes(self) -> dict[str, Any]:
        return dict(self._attributes)

    def read(self, grid: Grid) -> xr.Dataset:
        """The probes of `grid`, loaded."""
        return read_grid(self.path, grid)

    def _chunk(self, variable: Variable, index: tuple[int, ...]) -> Array:
        """A chunk to write into; blank where it cannot be read.

        No probe that is done was in it when RESULTS were opened, or the seals of those say that it is lost.
        """
        try:
            return chunks.read_chunk(self.files, self.grid, variable, index)
        except BadChunk:
            return np.full(self.grid.chunk_of(variable), variable.fill, variable.dtype)

    def _write(self, block: Block, values: Mapping[str, Array], state: int) -> None:
        at = self._positions(block)
        *cell, f, seeds, p = at
        first = tuple(position for (position,) in cell)
        shape = (len(f), len(seeds), len(p))
        given = {name: np.swapaxes(np.asarray(value), 0, 1) for name, value in values.items()}
        arrays: dict[str, Array] = {}
        for variable in self.grid.variables:
            extra = tuple(self.grid.lengths[dim] for dim in variable.dims[len(DIMS) :])
            arrays[variable.name] = np.broadcast_to(
                _fitted(given.get(variable.name, variable.fill), variable, (*shape, *extra)), (*shape, *extra)
            )
        for variable in self.grid.wide:
            more = len(variable.dims) - len(DIMS)
            arrays[variable.name + SEAL] = row_seals(arrays[variable.name], more)
        arrays["state"] = np.full(shape, state, np.int8)
        place = self._places[np.ix_(*at)].reshape(shape)
        scalars = {v.name: arrays[v.name] for v in self.grid.scalars if v.name != "seal"}
        arrays["seal"] = probe_seals(place, scalars)
        early: dict[str, list[bytes]] = {}
        late: dict[str, list[bytes]] = {}
        for variable in self.grid.variables:
            sizes = self.grid.chunk_of(variable)[len(first) : len(DIMS)]
            pieces = late if variable.name in ("seal", "state") else early
            numbers = (
                sorted({i // size for i in axis}) for axis, size in zip((f, seeds, p), sizes, strict=True)
            )
            for where in itertools.product(*numbers):
                index = (*first, *where, *(0,) * (len(variable.dims) - len(DIMS)))
                parts = list(zip((f, seeds, p), sizes, where, strict=True))
                mine = [[i for i, at in enumerate(axis) if at // size == n] for axis, size, n in parts]
                inside = [
                    [axis[i] % size for i in some] for (axis, size, _), some in zip(parts, mine, strict=True)
                ]
                chunk = self._chunk(variable, index)
                chunk[0, 0, 0, 0][np.ix_(*inside)] = arrays[variable.name][np.ix_(*mine)]
                pieces[key_of(variable.name, index)] = [encode(chunk)]
        self.files.write(early, late)
        self._state[np.ix_(*at)] = state


def _fitted(values: Any, variable: Variable, shape: tuple[int, ...]) -> Array:
    """Values in the variable's dtype; a target with fewer classes than others leaves the rest unfilled."""
    cast = np.asarray(values).astype(variable.dtype)
    if cast.ndim != len(shape) or cast.shape == shape:
        return cast
    whole = np.full(shape, variable.fill, variable.dtype)
    whole[tuple(slice(n) for n in cast.shape)] = cast
    return whole


def _missing(found: Checked) -> Array:
    """Probes that are not done, or whose values are not what was written."""
    return (found.values["state"] != DONE) | (found.values["seal"] == 0) | found.lost


def _is_new(path: Path) -> bool:
    """Whether nothing is there, or a folder that holds nothing."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _own(path: Path) -> tuple[dict[str, Any], Grid, list[Damage]]:
    """What `readable` gives; InputError, with what to do, where a sweep's `out` is something else."""
    try:
        return readable(path)
    except InputError as error:
        if "holds no sweep results" not in str(error):
            raise
        raise InputError(f"got RESULTS {path}, which holds no sweep results; give another --out") from None
