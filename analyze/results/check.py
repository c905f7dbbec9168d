"""Check RESULTS: every chunk by its checksum, every probe by its seal, every document by the grid."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from probecache.analyze.results import chunks
from probecache.analyze.results.chunks import Array, Index, key_of, place_of
from probecache.analyze.results.grid import ORDERS, SEAL, Grid, Variable
from probecache.analyze.results.layout import (
    COPY,
    ORDER_SEAL,
    STATES,
    check_fixed,
    column_orders,
    documents,
    order_seals,
    parse_group,
)
from probecache.analyze.results.seals import places, probe_seals, row_seals
from probecache.analyze.sweeps.plan import DIMS
from probecache.store.errors import ProbecacheError
from probecache.store.format.chunks import BadChunk
from probecache.store.format.metadata import render
from probecache.store.storage.files import Files, open_files, read_piece

DONE, FAILED = 1, 2
Look = TypeVar("Look")
_LOOKS = 50  # at what a writer replaces again and again, before its damage is told all the same


@dataclass(frozen=True)
class Damage:
    """One damaged piece of RESULTS: the array or document, the coordinates it concerns, and why."""

    piece: str
    where: str
    why: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.piece, self.where, self.why) if part)


@dataclass
class Checked:
    """RESULTS as they are on disk: values of the scalar variables, what is damaged, which probes that makes.

    lost: bool over the grid, probes whose values cannot be trusted.
    """

    attributes: dict[str, Any]
    grid: Grid
    values: dict[str, Array] = field(default_factory=dict)
    orders: Array = field(default_factory=lambda: np.zeros(0))  # seals of the column orders
    damages: list[Damage] = field(default_factory=list)
    lost: Array = field(default_factory=lambda: np.zeros(0, bool))


def check(path: Path | str, *, wide: bool = False) -> Checked:
    """Everything but rows of wide variables and column orders, which are large; these too with `wide`.

    A sweep may write there meanwhile: a growth puts another folder in the place of the one that is being
    read, whose pieces do not belong together, so that damage counts where it stays (`settled`).
    Raises InputError where the path holds no RESULTS, DamagedStore where their zarr.json is not to be read.
    """
    return settled(path, lambda: _look(path, wide), lambda found: found.damages)


def settled(path: Path | str, look: Callable[[], Look], damages: Callable[[Look], Sequence[Damage]]) -> Look:
    """What `look` finds at `path`: without damage, or with what two looks in a row tell of the same files."""
    told: list[str] = []
    place: object = None
    for _ in range(_LOOKS):
        found = look()
        now, here = list(map(str, damages(found))), version_of(path)
        if not now or (now == told and here == place):
            break
        told, place = now, here
    return found


def version_of(path: Path | str) -> tuple[int, ...]:
    """Numbers that change when RESULTS at `path` are replaced, or their zarr.json is; () where it is gone."""
    try:
        folder, document = os.stat(path), os.lstat(os.path.join(path, "zarr.json"))
    except OSError:
        return ()
    return folder.st_dev, folder.st_ino, document.st_ino, document.st_mtime_ns


def _look(path: Path | str, wide: bool) -> Checked:
    files = open_files(str(path))
    attributes, grid = parse_group(read_piece(files, "zarr.json"), path)
    found = Checked(attributes, grid, lost=np.zeros(grid.shape, bool))
    found.damages += [Damage(name, "", why) for name, why in check_fixed(files, grid).items()]
    found.damages += _documents(files, grid, path)
    _scalars(files, found)
    if wide:
        for variable in grid.wide:
            _rows(files, found, variable)
        found.damages += _orders(files, found)
    return found


def _documents(files: Files, grid: Grid, path: Path | str) -> Iterator[Damage]:
    for name, document in documents(grid).items():
        if read_piece(files, f"{name}/zarr.json") != render(document):
            yield Damage(f"{name}/zarr.json", "", "it is not the one of these RESULTS")
    try:
        parse_group(read_piece(files, COPY), path)
    except ProbecacheError:
        yield Damage(COPY, "", "it is no copy of zarr.json")


def _scalars(files: Files, found: Checked) -> None:
    grid = found.grid
    # `state` and the seals are written after the values, so that they are read before them
    for variable in reversed(grid.scalars):
        laid_out = variable.name == "state" and STATES in found.attributes["results"]
        found.values[variable.name], bad = chunks.read_array(files, grid, variable, laid_out)
        for index, why in bad.items():
            place = place_of(grid, variable, index)
            found.lost[place] = True
            found.damages.append(Damage(variable.name, describe(grid, place), why))
    try:
        found.orders = read_order_seals(files, grid)
    except BadChunk as error:
        found.damages.append(Damage(ORDER_SEAL, "", str(error)))
        all_seeds = slice(0, len(grid.seed))
        lines = [order_seals(grid, i, column_orders(grid, i, all_seeds)) for i in range(len(grid.layer))]
        found.orders = np.array(lines)
    there = found.values["state"] != 0  # the seals were there first: one that is 0 is lost
    values = {name: array for name, array in found.values.items() if name != "seal"}
    expected = probe_seals(places(grid, settings_of(found.attributes), found.orders), values)
    wrong = there & (found.values["seal"] != expected) & ~found.lost
    for place in _groups(grid, wrong):
        count = int(wrong[place].sum())
        why = f"the values of {count} probes are not those of their seals"
        found.damages.append(Damage("seal", describe(grid, place, wrong), why))
    found.lost |= wrong


def _rows(files: Files, found: Checked, variable: Variable) -> None:
    grid = found.grid
    there = (found.values["state"] == DONE) & (found.values["seal"] != 0) & ~found.lost
    for index in chunks.chunk_indices(grid, variable):
        place = place_of(grid, variable, index)
        if not there[place[: len(DIMS)]].any():
            continue
        wrong, why = bad_rows(files, grid, variable, index, found.values[variable.name + SEAL], there)
        if wrong.any():
            found.damages.append(Damage(variable.name, describe(grid, place[: len(DIMS)]), why))
            found.lost[place[: len(DIMS)]] |= wrong


def bad_rows(
    files: Files, grid: Grid, variable: Variable, index: Index, seals: Array, there: Array
) -> tuple[Array, str]:
    """Which rows of a chunk, of those that are `there`, are not what their seals say, and why."""
    place = place_of(grid, variable, index)
    probes = place[: len(DIMS)]
    try:
        rows = chunks.read_chunk(files, grid, variable, index)[chunks.inside(place)]
    except (BadChunk, OSError) as error:
        return there[probes], str(error)
    found = row_seals(rows, rows.ndim - len(DIMS))  # scores: a row of each class
    wrong = there[probes] & (found != seals[probes])
    return wrong, f"the rows of {int(wrong.sum())} probes are not those of their seals"


def _orders(files: Files, found: Checked) -> Iterator[Damage]:
    """Column orders that are not those that the probes were fitted with."""
    grid = found.grid
    for index in chunks.chunk_indices(grid, ORDERS):
        wrong, why = bad_orders(files, grid, index, found.orders)
        if wrong.any():
            layer, seeds, _ = place_of(grid, ORDERS, index)
            listed = [seed for seed, bad in zip(grid.seed[seeds], wrong, strict=True) if bad]
            span = f"{listed[0]}" if len(listed) == 1 else f"{listed[0]} to {listed[-1]}"
            yield Damage(ORDERS.name, f"layer {grid.layer[layer.start]}, seed {span}", why)


def bad_orders(files: Files, grid: Grid, index: Index, seals: Array) -> tuple[Array, str]:
    """Which seeds of a chunk of column orders are not what their seals say, and why."""
    layer, seeds, _ = place = place_of(grid, ORDERS, index)
    try:
        rows = chunks.read_chunk(files, grid, ORDERS, index)[chunks.inside(place)][0]
    except (BadChunk, OSError) as error:
        return np.ones(seeds.stop - seeds.start, bool), str(error)
    wrong = order_seals(grid, layer.start, rows) != seals[layer.start, seeds]
    return wrong, "it is not the order of its seal"


def read_order_seals(files: Files, grid: Grid) -> Array:
    """uint64 (layer, seed); BadChunk."""
    raw = files.read(key_of(ORDER_SEAL, (0, 0)))
    if raw is None:
        raise BadChunk("it is missing")
    return chunks.decode(raw, "uint64", (len(grid.layer), len(grid.seed)))


def settings_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(attributes["settings"])


def _groups(grid: Grid, wrong: Array) -> Iterator[tuple[slice, ...]]:
    """Chunk by chunk of `state`, the places that hold wrong probes."""
    state = grid.scalars[-1]
    if wrong.any():
        for index in chunks.chunk_indices(grid, state):
            place = place_of(grid, state, index)
            if wrong[place].any():
                yield place


def describe(grid: Grid, place: tuple[slice, ...], only: Array | None = None) -> str:
    """Coordinates in words, of a place or of those of its probes that `only` marks."""
    parts = []
    for axis, (dim, span) in enumerate(zip(DIMS, place, strict=False)):
        values = list(getattr(grid, dim)[span])
        if only is not None:
            others = tuple(i for i in range(len(DIMS)) if i != axis)
            values = [v for v, w in zip(values, np.ravel(only[place].any(axis=others)), strict=True) if w]
        values = sorted(values) if dim in ("fraction", "l2") else values
        named = [value if isinstance(value, str) else f"{value:g}" for value in values]
        parts.append(f"{dim} {named[0]}" if len(named) == 1 else f"{dim} {named[0]} to {named[-1]}")
    return ", ".join(parts)
