"""RESULTS on disk: a Zarr v3 group laid out over the plan's grid, filled in place as blocks finish.

    RESULTS/zarr.json            attributes: settings, fingerprint, solver, device, versions, failures
    RESULTS/target, layer, ...   coordinates
    RESULTS/accuracy, ...        over all seven dimensions, a chunk each but fraction and l2
    RESULTS/state                same shape: 0 missing, 1 done, 2 failed

A block is committed by writing its values first and its `state` last. zarr replaces each chunk file by a
rename, so a kill leaves a chunk as it was or as it is meant to be, and a probe counts as done only when all
of its values are there. One process writes at a time: a lock beside RESULTS refuses the second.
"""

import dataclasses
import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr
import zarr

from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.grid import DIMS, Grid, create, indices
from probecache.store.errors import FingerprintMismatch, InputError

DONE, FAILED = 1, 2


class Results:
    """RESULTS open for writing by this process, at least as large as `grid`; a context manager.

    path: a folder that holds RESULTS of the same settings, or does not exist yet.
    Raises FingerprintMismatch with each differing setting, and InputError where the path holds something else
    or another process is writing.
    """

    def __init__(self, path: str | Path, grid: Grid, settings: Mapping[str, Any]) -> None:
        self.path = Path(path).expanduser()
        if "://" in str(path):
            raise InputError(
                f"got RESULTS {path}; allowed: a local folder, copy it to the object store after"
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path)
        except OSError as error:
            raise InputError(
                f"got RESULTS {path}, which cannot be made: {error}; give another path"
            ) from None
        try:
            self._recover()
            if self.path.exists():
                attributes = _attributes(self.path)
                _check_settings(self.path, attributes, settings)
                self._grow(grid)
                self.describe(_settings_attributes(json.loads(attributes["settings"]), settings))
            else:
                self._build(grid, _settings_attributes({}, settings) | {"failures": "[]"})
            self.group = zarr.open_group(self.path, mode="r+", use_consolidated=False)
            self.grid = Grid.read(self.group)
        except BaseException:
            self._unlock()
            raise

    def __enter__(self) -> "Results":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()

    def missing(self, grid: Grid) -> np.ndarray:
        """bool over `grid`'s coordinates: probes that are not done. Those that failed are tried again."""
        state = np.asarray(self.group["state"][:])  # type: ignore[index]
        return state[np.ix_(*indices(self.grid, grid))] != DONE

    def commit(self, block: Block, values: Mapping[str, np.ndarray]) -> None:
        """Write one block's arrays, (seed, fraction, l2[, class]), then mark it done."""
        self._write(block, {**values}, DONE)

    def fail(self, block: Block, error: str) -> None:
        """Record that a block was given up, with its error, in the attribute `failures`."""
        self._write(block, {}, FAILED)
        self._note([*self._failures(), dataclasses.asdict(block) | {"error": error}])

    def settle(self) -> None:
        """Drop from `failures` the blocks whose probes have been done since."""
        state = np.asarray(self.group["state"][:])  # type: ignore[index]
        kept = []
        for failure in self._failures():
            lists = [tuple(failure[name]) for name in ("fractions", "seeds", "l2s")]
            names = {name: failure[name] for name in ("layer", "selection", "target", "shots")}
            block = Block(**names, fractions=lists[0], seeds=lists[1], l2s=lists[2])
            if (state[np.ix_(*self._positions(block))] != DONE).any():
                kept.append(failure)
        self._note(kept)

    def _failures(self) -> list[dict[str, Any]]:
        return json.loads(self.attributes()["failures"])

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
        """Set attributes of RESULTS, in one atomic replacement of its zarr.json."""
        file = self.path / "zarr.json"
        metadata = json.loads(file.read_text(encoding="utf-8"))
        metadata["attributes"] |= attributes
        _replace(file, json.dumps(metadata))

    def attributes(self) -> dict[str, Any]:
        return _attributes(self.path)

    def read(self, grid: Grid) -> xr.Dataset:
        """The probes of `grid`, loaded."""
        whole = open_results(self.path)
        return whole.sel({dim: list(getattr(grid, dim)) for dim in DIMS}).load()

    def _write(self, block: Block, values: Mapping[str, np.ndarray], state: int) -> None:
        (h,), (i,), (j,), (m,), f, seeds, p = self._positions(block)
        shape = (len(seeds), len(f), len(p))
        whole = shape[1:] == (len(self.grid.fraction), len(self.grid.l2))
        for name, value in [*values.items(), ("state", np.full(shape, state, np.int8))]:
            array: Any = self.group[name]
            for at, k in enumerate(seeds):
                chunk = value[at] if whole else array[h, i, j, m, :, k]  # (fraction, l2, ...): one chunk file
                if not whole:
                    chunk[np.ix_(f, p)] = value[at]
                array[h, i, j, m, :, k] = chunk

    def _recover(self) -> None:
        """Finish or undo a growth that a kill cut short."""
        old, new = _beside(self.path, "old"), _beside(self.path, "new")
        if not self.path.exists() and old.exists():
            old.rename(self.path)
        for litter in (old, new):
            if litter.exists():
                shutil.rmtree(litter)

    def _build(self, grid: Grid, attributes: Mapping[str, Any], source: zarr.Group | None = None) -> None:
        """Lay out RESULTS beside its place, copy `source` into it, and move it there by a rename."""
        new, old = _beside(self.path, "new"), _beside(self.path, "old")
        group = create(new, grid, attributes)
        if source is not None:
            _copy(source, group, grid)
        with warnings.catch_warnings():
            # xarray warns when it opens a store without consolidated metadata, zarr when one is made.
            warnings.filterwarnings("ignore", "Consolidated metadata", category=UserWarning)
            zarr.consolidate_metadata(new)
        if source is not None:
            self.path.rename(old)
        new.rename(self.path)
        if source is not None:
            shutil.rmtree(old)

    def _grow(self, grid: Grid) -> None:
        """Enlarge RESULTS to the union of its own coordinates and `grid`'s; what is done stays done."""
        group = zarr.open_group(self.path, mode="r", use_consolidated=False)
        present = Grid.read(group)
        union = present.union(grid)
        if union != present:
            self._build(union, dict(group.attrs), group)

    def _unlock(self) -> None:
        _lock_file(self.path).unlink(missing_ok=True)
        os.close(self._lock)


def open_results(path: str | Path) -> xr.Dataset:
    """RESULTS as a lazy xarray Dataset, or InputError where the path holds none."""
    _attributes(Path(path).expanduser())
    return xr.open_zarr(path)


def _copy(source: zarr.Group, target: zarr.Group, grid: Grid) -> None:
    present = Grid.read(source)
    *cells, fraction, seed, l2 = indices(grid, present)
    for name, array in source.arrays():
        if array.metadata.dimension_names[: len(DIMS)] != DIMS:  # type: ignore[union-attr,index]
            continue
        into: Any = target[name]
        for place in product(*map(enumerate, (*cells, seed))):
            (*source_cell, k), (*cell, to_seed) = zip(*place, strict=True)
            chunk = into[(*cell, slice(None), to_seed)]
            chunk[np.ix_(fraction, l2)] = array[(*source_cell, slice(None), k)]
            into[(*cell, slice(None), to_seed)] = chunk


def _check_settings(path: Path, attributes: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    there = json.loads(attributes["settings"])
    wanted = json.loads(json.dumps(settings))
    differing = _differences(there, wanted)
    if differing:
        raise FingerprintMismatch(
            f"{path} holds a sweep made with other settings: {'; '.join(differing)}; "
            "give another --out, or the settings that it was made with"
        )


def _settings_attributes(there: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as attributes: one JSON text, and beside it the names that a reader looks for."""
    digests = there.get("digests", {}) | now["digests"]
    settings = {**now, "digests": digests}
    named = {name: str(now[name]) for name in ("probe", "train", "test", "standardize")}
    return named | {
        "settings": json.dumps(settings, sort_keys=True),
        "fingerprint": ", ".join(f"{layer}: {digest}" for layer, digest in sorted(digests.items())),
    }


def _differences(there: Any, wanted: Any, name: str = "") -> list[str]:
    """Fields that differ, as 'name: theirs there, ours now'; a layer that one side lacks is no difference."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        keys = sorted(there.keys() & wanted.keys() if name == "digests" else there.keys() | wanted.keys())
        return [
            line
            for key in keys
            for line in _differences(there.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if there == wanted else [f"{name}: {there!r} there, {wanted!r} now"]


def _attributes(path: Path) -> dict[str, Any]:
    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        if "settings" in attributes and "failures" in attributes:
            return attributes
    except (OSError, ValueError, KeyError, TypeError):
        pass
    what = "which holds no sweep results" if path.exists() else "which does not exist"
    raise InputError(f"got RESULTS {path}, {what}; give the --out of a `probecache sweep`, or a new path")


def _lock_file(path: Path) -> Path:
    return path.parent / f".{path.name}.lock"


def _lock(path: Path) -> int:
    """An exclusive lock that the system drops when this process dies, however it dies."""
    file = _lock_file(path)
    while True:
        handle = os.open(file, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 100, 0).decode(errors="replace")
            os.close(handle)
            raise InputError(
                f"{path} is being written by {owner}; wait for it, or give another --out"
            ) from None
        try:
            # the last owner may have removed the file between our open and our lock: then lock the new one
            if os.stat(file).st_ino == os.fstat(handle).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
    return handle


def _beside(path: Path, what: str) -> Path:
    return path.parent / f".{path.name}.{what}"


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
