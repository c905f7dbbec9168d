"""Lay RESULTS out, new or grown: made beside their place, then put there in one step.

Growing changes no chunk, so that all are linked into the new folder, whatever RESULTS grow by. Only where
many small steps have spread fractions and l2 over many chunks (`Grid.union`) are these written anew, as one.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probecache.analyze.results import chunks
from probecache.analyze.results.chunks import Array, encode, key_of, place_of
from probecache.analyze.results.grid import ORDERS, Grid, Variable, indices
from probecache.analyze.results.layout import (
    COPY,
    ORDER_SEAL,
    column_orders,
    documents,
    fixed_pieces,
    group_bytes,
    order_seals,
)
from probecache.store.format.metadata import render
from probecache.store.storage.files import Files, open_files
from probecache.store.storage.replace_folder import beside, link_tree, replace_folder, require_not_here

FRACTION, L2 = 4, 6  # axes
_AT_ONCE = 256  # files of one write: each is open until all are synced


def build(path: Path, grid: Grid, attributes: Mapping[str, Any], source: Grid | None = None) -> None:
    """RESULTS over `grid` at `path`; source: the grid of those that lie there, whose probes are kept."""
    require_not_here(path)
    new = beside(path, "new")
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(parents=True)
    files, old = open_files(str(new)), open_files(str(path))
    pieces = {f"{name}/zarr.json": [render(document)] for name, document in documents(grid).items()}
    pieces |= {key: [raw] for key, raw in fixed_pieces(grid).items()}
    files.write(pieces)
    _write_orders(files, grid, old if source is not None else None, source)
    if source is not None:
        for variable in grid.variables:
            if not _in_place(source, grid) or source.chunk_of(variable) != grid.chunk_of(variable):
                _rewrite(old, source, files, grid, variable)
            elif (path / variable.name / "c").exists():
                link_tree(path / variable.name / "c", new / variable.name / "c")
    lay_out_states(files, grid)
    raw = [group_bytes(attributes, grid)]
    files.write({COPY: raw}, {"zarr.json": raw})
    replace_folder(new, path)


def lay_out_states(files: Files, grid: Grid) -> None:
    """Write the chunks of `state` that are not there: not computed, which a lost one is told from."""
    state = grid.scalars[-1]
    blank = [encode(np.full(grid.chunk_of(state), state.fill, state.dtype))]
    keys = [key_of(state.name, index) for index in chunks.chunk_indices(grid, state)]
    lacking = [key for key in keys if files.size(key) is None]
    for at in range(0, len(lacking), _AT_ONCE):
        files.write(dict.fromkeys(lacking[at : at + _AT_ONCE], blank))


def _write_orders(files: Files, grid: Grid, old: Files | None, source: Grid | None) -> None:
    """Column orders and their seals: those that are there already are kept, whatever they would be now."""
    seals = np.zeros((len(grid.layer), len(grid.seed)), np.uint64)
    for index in chunks.chunk_indices(grid, ORDERS):
        layer, seeds, _ = place_of(grid, ORDERS, index)
        rows = column_orders(grid, layer.start, seeds)
        if old is not None and source is not None and layer.start < len(source.layer):
            first, last = seeds.start, min(seeds.stop, len(source.seed))
            if first < last:
                d = source.neurons[layer.start]
                kept = chunks.read_chunk(old, source, ORDERS, index)[0, : last - first, :d]
                rows[: last - first, :d] = kept
        whole = np.full(grid.chunk_of(ORDERS), ORDERS.fill, ORDERS.dtype)
        whole[0, : len(rows)] = rows
        files.write({key_of(ORDERS.name, index): [encode(whole)]})
        seals[layer.start, seeds] = order_seals(grid, layer.start, rows)
    files.write({key_of(ORDER_SEAL, (0, 0)): [encode(seals)]})


def _in_place(source: Grid, grid: Grid) -> bool:
    """Whether what `source` holds along fractions and l2 has the same position in `grid`."""
    pairs = (source.fraction, grid.fraction), (source.l2, grid.l2)
    return all(new[: len(old)] == old for old, new in pairs)


def _rewrite(old: Files, source: Grid, files: Files, grid: Grid, variable: Variable) -> None:
    """A variable's chunks in the new shape, a cell of target, layer, selection and shots at a time."""
    positions = indices(grid, source)
    size = grid.chunk_of(variable)
    for cell in np.ndindex(*source.shape[:FRACTION]):
        whole, there = _read_cell(old, source, variable, cell)
        if not there:
            continue
        grown = np.full(grid.shape_of(variable)[FRACTION:], variable.fill, variable.dtype)
        grown[np.ix_(positions[FRACTION], range(len(source.seed)), positions[L2])] = whole
        target = tuple(positions[axis][i] for axis, i in enumerate(cell))
        pieces = {}
        for rest in _chunks_of_cell(grid, variable):
            place = chunks.place_of(grid, variable, (*target, *rest))
            chunk = np.full(size, variable.fill, variable.dtype)
            chunk[0, 0, 0, 0][chunks.inside(place[FRACTION:])] = grown[place[FRACTION:]]
            pieces[key_of(variable.name, (*target, *rest))] = [encode(chunk)]
        files.write(pieces)


def _read_cell(files: Files, grid: Grid, variable: Variable, cell: tuple[int, ...]) -> tuple[Array, bool]:
    """A variable's values (fraction, seed, l2, ...) of one cell, and whether any were written."""
    whole = np.full(grid.shape_of(variable)[FRACTION:], variable.fill, variable.dtype)
    there = False
    for rest in _chunks_of_cell(grid, variable):
        index = (*cell, *rest)
        if files.size(key_of(variable.name, index)) is None:
            continue
        there = True
        place = chunks.place_of(grid, variable, index)
        whole[place[FRACTION:]] = chunks.read_chunk(files, grid, variable, index)[chunks.inside(place)][
            0, 0, 0, 0
        ]
    return whole, there


def _chunks_of_cell(grid: Grid, variable: Variable) -> Iterator[tuple[int, ...]]:
    """The last numbers of each chunk of a cell: from the fraction's on."""
    sizes = zip(grid.shape_of(variable)[FRACTION:], grid.chunk_of(variable)[FRACTION:], strict=True)
    return np.ndindex(*(-(-n // size) for n, size in sizes))
