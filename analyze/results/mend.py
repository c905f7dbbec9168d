"""What a sweep does with damaged RESULTS before it goes on: documents written again, damaged probes cleared.

A cleared probe is one that was never computed, so that the sweep computes exactly those.
"""

from pathlib import Path
from typing import Any

import numpy as np

from probecache.analyze.results import chunks
from probecache.analyze.results.check import Checked, Damage, bad_orders, check
from probecache.analyze.results.chunks import encode, key_of, place_of
from probecache.analyze.results.grid import ORDERS, Grid
from probecache.analyze.results.grow import lay_out_states
from probecache.analyze.results.layout import (
    COPY,
    ORDER_SEAL,
    STATES,
    column_orders,
    documents,
    fixed_pieces,
    group_bytes,
    order_seals,
    parse_group,
)
from probecache.analyze.results.saved import is_saved
from probecache.store.errors import DamagedStore, InputError
from probecache.store.format.chunks import BadChunk
from probecache.store.format.metadata import render
from probecache.store.storage.files import Files, open_files, read_piece


def readable(path: Path) -> tuple[dict[str, Any], Grid, list[Damage]]:
    """Attributes and grid of RESULTS, from the copy where zarr.json is damaged; what is damaged."""
    files = open_files(str(path))
    if is_saved(path):
        raise InputError(
            f"got RESULTS {path}, which is what `cka` or `compare` wrote and no sweep; name another path"
        )
    try:
        return *parse_group(read_piece(files, "zarr.json"), path), []
    except ValueError:  # an InputError: no zarr.json, or that of something else
        if files.size("zarr.json") is not None or files.size(COPY) is None:
            raise
        damage = Damage("zarr.json", "", "it is missing")
    except DamagedStore as error:
        damage = Damage("zarr.json", "", error.why)
    try:
        return *parse_group(read_piece(files, COPY), path), [damage]
    except (DamagedStore, ValueError):
        raise DamagedStore(
            f"{path} is damaged: {damage.piece}: {damage.why}, and so is its copy {COPY}; remove {path} and "
            "run the same sweep again"
        ) from None


def mend(path: Path) -> Checked:
    """Make RESULTS ready to be written: `damages` says what was wrong, and every such probe is cleared."""
    attributes, grid, damages = readable(path)
    files = open_files(str(path))
    if STATES not in attributes["results"]:  # of an earlier version
        lay_out_states(files, grid)
    if damages:
        files.write({"zarr.json": [group_bytes(attributes, grid)]})
    found = check(path, wide=True)
    found.damages[:0] = damages
    if found.damages:
        _write_documents(files, found)
        _write_orders(files, found)
        _clear(files, found)
    return found


def _write_documents(files: Files, found: Checked) -> None:
    grid = found.grid
    wanted = {f"{name}/zarr.json": render(document) for name, document in documents(grid).items()}
    wanted |= fixed_pieces(grid) | {COPY: group_bytes(found.attributes, grid)}
    stale = {key: [raw] for key, raw in wanted.items() if read_piece(files, key) != raw}
    if stale:
        files.write(stale)


def _write_orders(files: Files, found: Checked) -> None:
    """Column orders that cannot be read, drawn again; probes whose seals name other orders are lost."""
    grid = found.grid
    for index in chunks.chunk_indices(grid, ORDERS):
        layer, seeds, _ = place = place_of(grid, ORDERS, index)
        wrong, _ = bad_orders(files, grid, index, found.orders)
        if not wrong.any():
            continue
        whole = np.full(grid.chunk_of(ORDERS), ORDERS.fill, ORDERS.dtype)
        try:
            whole = chunks.read_chunk(files, grid, ORDERS, index)
        except BadChunk:
            wrong[:] = True
        rows = column_orders(grid, layer.start, seeds)
        whole[chunks.inside(place)][0][wrong] = rows[wrong]
        files.write({key_of(ORDERS.name, index): [encode(whole)]})
        drawn = order_seals(grid, layer.start, rows)
        other = np.flatnonzero(wrong & (drawn != found.orders[layer.start, seeds])) + seeds.start
        found.lost[:, layer.start, :, :, :, other] = True
        found.orders[layer.start, other] = drawn[other - seeds.start]
    raw, key = encode(found.orders), key_of(ORDER_SEAL, (0, 0))
    if read_piece(files, key) != raw:
        files.write({key: [raw]})


def _clear(files: Files, found: Checked) -> None:
    """Give the lost probes the values of probes that were never computed, `state` first."""
    grid = found.grid
    for variable in (grid.scalars[-1], *grid.scalars[:-1], *grid.wide):
        pieces = {}
        for index in chunks.chunk_indices(grid, variable):
            place = place_of(grid, variable, index)
            lost = found.lost[place[: found.lost.ndim]]
            if not lost.any():
                continue
            try:
                chunk = chunks.read_chunk(files, grid, variable, index)
            except BadChunk:
                chunk = np.full(grid.chunk_of(variable), variable.fill, variable.dtype)
            chunk[chunks.inside(place)][lost] = variable.fill
            pieces[key_of(variable.name, index)] = [encode(chunk)]
        if pieces:
            files.write(pieces)
        if variable.name in found.values:
            found.values[variable.name][found.lost] = variable.fill
