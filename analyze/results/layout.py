"""The documents of RESULTS and what follows from the grid alone: coordinates, sizes, column orders.

    RESULTS/zarr.json          attributes (settings, grid, failures, ...) under a checksum, and all documents
    RESULTS/state/group.json   a copy of it, from which a damaged one is mended
    RESULTS/target, layer, ... coordinates
    RESULTS/accuracy, ...      over all seven dimensions; `seal` and `state` are written last
    RESULTS/permutation        (layer, seed, neuron)

Every array's document follows from the grid, so readers compare instead of trusting.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probecache.analyze.results.chunks import Array, decode, decode_names, encode, encode_names, key_of
from probecache.analyze.results.grid import ORDERS, SEAL, Grid, unpacked
from probecache.analyze.results.seals import row_seals
from probecache.analyze.selections.subsets import permutation, sizes
from probecache.analyze.sweeps.plan import DIMS
from probecache.store.errors import DamagedStore, InputError
from probecache.store.fingerprint import digest
from probecache.store.format.chunks import BadChunk
from probecache.store.format.metadata import array_document, render
from probecache.store.storage.files import Files, read_piece

FORMAT = 2  # 1 had five dimensions and no seals
COPY = "state/group.json"
STATES = "states laid out"  # in the attribute `results`: every chunk of `state` is there from the first
ORDER_SEAL = f"{ORDERS.name}{SEAL}"
_CODECS: list[dict[str, Any]] = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
    {"name": "crc32c"},
]


def documents(grid: Grid) -> dict[str, dict[str, Any]]:
    """The document of each array."""
    found = {}
    for name, (values, dims, about) in fixed_arrays(grid, with_values=False).items():
        kind = "string" if values is None else str(values.dtype)
        shape = [grid.lengths[dim] for dim in dims]
        found[name] = _document(shape, shape, kind, dims, about)
    for variable in (ORDERS, *grid.variables):
        shape, chunk = list(grid.shape_of(variable)), list(grid.chunk_of(variable))
        found[variable.name] = _document(
            shape, chunk, variable.dtype, variable.dims, variable.about, variable.fill
        )
    return found


def _document(
    shape: list[int], chunk: list[int], kind: str, dims: Iterable[str], about: str = "", fill: Any = None
) -> dict[str, Any]:
    codecs = [{"name": "bytes"}, *_CODECS[1:]] if kind in ("bool", "int8") else _CODECS
    document = array_document(
        shape,
        chunk,
        kind,
        list(dims),
        {"long_name": about} if about else {},
        None if kind == "string" else codecs,
    )
    if fill is not None:
        document["fill_value"] = "NaN" if isinstance(fill, float) else fill
    elif kind != "string":
        document["fill_value"] = 0
    return document


def fixed_arrays(
    grid: Grid, with_values: bool = True
) -> dict[str, tuple[Array | None, tuple[str, ...], str]]:
    """What follows from the grid, in one chunk each: name -> (values, dimensions, what it is).

    Texts are None for values: they are in the grid.
    """
    found: dict[str, tuple[Array | None, tuple[str, ...], str]] = {}
    for dim in DIMS:
        values = getattr(grid, dim)
        numbers = None if isinstance(values[0], str) else np.asarray(values)
        found[dim] = (numbers, (dim,), "")
    if grid.classes:
        found["class"] = (None, ("class",), "")
    if grid.samples:
        found["sample"] = (None, ("sample",), "")
    if grid.groups:
        found["group"] = (None, ("sample",), "what each test sample belongs to: resampled as wholes")
    if grid.truth:
        about = "position of each test sample's class; -1 where it has none"
        truth = np.stack([unpacked(text) for text in grid.truth])
        found["truth"] = (truth, ("target", "sample"), about)
    about = "neurons of the layer, d"
    found["neurons"] = (np.asarray(grid.neurons, np.int64), ("layer",), about)
    ks = np.zeros((1, 1), np.int64)
    if with_values:
        ks = np.stack([sizes(grid.fraction, d) for d in grid.neurons])  # (layer, fraction)
    about = "neurons in the subset, k = max(1, round(fraction * d))"
    everywhere = np.broadcast_to(ks[None, :, None, None, :, None, None], grid.shape) if with_values else ks
    found["n_neurons"] = (everywhere, DIMS, about)
    # what the seals of probes take the column orders to be
    seals = np.zeros((len(grid.layer), len(grid.seed)), np.uint64)
    found[ORDER_SEAL] = (seals, ("layer", "seed"), f"hash of the row of {ORDERS.name}")
    return found


def texts_of(grid: Grid, name: str) -> tuple[str, ...]:
    found = {"class": grid.classes, "sample": grid.samples, "group": grid.groups}
    return found[name] if name in found else getattr(grid, name)


def fixed_pieces(grid: Grid) -> dict[str, bytes]:
    """Key and bytes of each fixed array's chunk, column orders excluded."""
    found = {}
    for name, (values, dims, _) in fixed_arrays(grid).items():
        if name == ORDER_SEAL:
            continue
        raw = encode_names(texts_of(grid, name)) if values is None else encode(values)
        found[key_of(name, (0,) * len(dims))] = raw
    return found


def column_orders(grid: Grid, layer: int, seeds: slice) -> Array:
    """The column orders of one layer, int32 (seeds, neurons), -1 beyond the layer."""
    d, chosen = grid.neurons[layer], grid.seed[seeds]
    orders = np.full((len(chosen), max(grid.neurons)), -1, np.int32)
    for row, seed in zip(orders, chosen, strict=True):
        row[:d] = permutation(d, seed)
    return orders


def order_seals(grid: Grid, layer: int, rows: Array) -> Array:
    """Seals of one layer's column orders (seeds, neurons), of its own width, whatever the widest layer is."""
    return row_seals(rows[:, : grid.neurons[layer]])


def check_fixed(files: Files, grid: Grid) -> dict[str, str]:
    """Why each coordinate or other fixed array is not what the grid says; column orders excluded."""
    bad = {}
    for name, (values, dims, _) in fixed_arrays(grid).items():
        if name == ORDER_SEAL:
            continue
        raw = read_piece(files, key_of(name, (0,) * len(dims)))
        try:
            if isinstance(raw, BadChunk):
                raise raw
            if raw is None:
                raise BadChunk("it is missing")
            if values is None:
                same = tuple(decode_names(raw, len(texts_of(grid, name)))) == texts_of(grid, name)
            else:
                same = np.array_equal(decode(raw, str(values.dtype), values.shape), values)
            if not same:
                raise BadChunk("it is not the one of these RESULTS")
        except BadChunk as error:
            bad[name] = str(error)
    return bad


def group_bytes(attributes: Mapping[str, Any], grid: Grid) -> bytes:
    """RESULTS' zarr.json: the attributes under a checksum, and every array's document."""
    kept = {name: value for name, value in attributes.items() if name != "results"}
    kept["results"] = {"format": FORMAT, "grid": grid.as_json(), STATES: True}
    kept["results"]["checksum"] = digest(kept)
    listed = {"kind": "inline", "must_understand": False, "metadata": documents(grid)}
    return render(
        {"attributes": kept, "zarr_format": 3, "node_type": "group", "consolidated_metadata": listed}
    )


def parse_group(raw: bytes | BadChunk | None, path: Path | str) -> tuple[dict[str, Any], Grid]:
    """Attributes and grid of a zarr.json; InputError where it is not ours, DamagedStore where it changed."""
    where = f"got RESULTS {path}"
    todo = "give the --out of a `probecache sweep`"
    if isinstance(raw, BadChunk):
        told = f"{path}/zarr.json: {raw}; the same sweep mends it from its copy, or restore it"
        raise DamagedStore(told, str(raw))
    if raw is None:
        what = "holds no sweep results" if Path(path).exists() else "does not exist"
        raise InputError(f"{where}, which {what}; {todo}")
    try:
        document = json.loads(raw)
        attributes = document["attributes"]
        ours = attributes["results"]
        checksum = ours.pop("checksum")
        if digest(attributes) != checksum:
            raise ValueError("its checksum does not fit")
        format_ = ours["format"]
        if format_ == FORMAT:
            grid = Grid.from_json(ours["grid"])
            if document["consolidated_metadata"]["metadata"] != json.loads(json.dumps(documents(grid))):
                raise ValueError("its arrays' documents are others")
            return attributes, grid
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        if isinstance(error, KeyError) and b'"node_type"' in raw and b'"results"' not in raw:
            if b'"settings"' in raw and b'"failures"' in raw:
                raise InputError(
                    f"{where}, which has no checksums: a probecache before 0.2 wrote it, or xarray did; "
                    "sweep into another --out, or read it with xarray.open_zarr"
                ) from None
            raise InputError(f"{where}, which holds no sweep results; {todo}") from None
        reason = str(error) if type(error) is ValueError else f"it cannot be read ({type(error).__name__})"
        todo = "the same sweep mends it from its copy, or restore it"
        raise DamagedStore(f"{path}/zarr.json: {reason}; {todo}", reason) from None
    raise InputError(
        f"{where}, which have format {format_!r:.40}, this probecache reads {FORMAT}: use the version that "
        "wrote them, or sweep again into another --out"
    )
