"""The zarr.json documents of a store, made from the few numbers that decide them.

Every array document follows from its split's and layer's attributes, so a reader compares instead of
trusting, and a changed byte is seen. Group documents carry a checksum of their own attributes.
"""

import json
from typing import Any

from probecache.store.errors import DamagedStore, NotAStore
from probecache.store.fingerprint import digest
from probecache.store.layout import MOMENTS, Geometry, LayerSpec, panel_rows

FORMAT = 2
FORMATS = (1, 2)  # 1: a file for each row array, moments and commit of a shard; still read, written, mended
STATISTICS = ("count", "mean", "m2", "minimum", "maximum", "zeros", "nonfinite", "saturated", "underflow")
OLD_STATISTICS = 8  # of layers that were made before underflow was counted
_FILL = {
    "float16": "NaN",
    "float32": "NaN",
    "float64": "NaN",
    "uint16": 0x7FC0,
    "int64": -1,
    "int8": -1,
    "string": "",
}
_BYTES: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC = {"name": "crc32c"}
_ZSTD: dict[str, Any] = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}


def array_document(
    shape: list[int],
    chunk: list[int],
    dtype: str,
    dimensions: list[str],
    attributes: dict[str, Any] | None = None,
    codecs: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A Zarr v3 array document, keys as zarr-python writes them."""
    if codecs is None:
        first = {"name": "vlen-utf8", "configuration": {}} if dtype == "string" else _BYTES
        if dtype in ("uint8", "int8"):
            first = {"name": "bytes"}
        codecs = [first, _CRC]
    return {
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _FILL.get(dtype, 0),
        "codecs": codecs,
        "attributes": attributes or {},
        "dimension_names": dimensions,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def split_arrays(geometry: Geometry, row_shards: int) -> dict[str, dict[str, Any]]:
    """Documents of the arrays in a split's group; `row_shards`: shards to a chunk, 0 in format 1."""
    n, shards = geometry.n_samples, max(1, row_shards)
    rows = shards * geometry.shard_rows
    status = {"flag_values": [0, 1, 2], "flag_meanings": "missing ok failed"}
    return {
        "commit": array_document([geometry.n_shards, 5], [shards, 5], "uint64", ["shard", "row_word"]),
        "label": array_document([n], [rows], "int64", ["sample"]),
        "sample": array_document([n], [rows], "string", ["sample"]),
        "status": array_document([n], [rows], "uint8", ["sample"], status),
    }


def layer_arrays(
    geometry: Geometry, spec: LayerSpec, compression: str | None, n_statistics: int, packed: bool
) -> dict[str, dict[str, Any]]:
    """Documents of the arrays in a layer's group; `packed`: a commit holds its shard's moments."""
    n, rows, d = geometry.n_samples, geometry.shard_rows, spec.neurons
    inner = panel_rows(rows, d * spec.itemsize)
    words = 3 + rows // inner + (n_statistics * d if packed else 0)
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [inner, d],
            "codecs": [_BYTES, *([_ZSTD] if compression == "zstd" else []), _CRC],
            "index_codecs": [_BYTES, _CRC],
            "index_location": "end",
        },
    }
    stored = "uint16" if spec.dtype == "bfloat16" else spec.dtype
    logical = {"dtype": "bfloat16"} if spec.dtype == "bfloat16" else None
    partial = array_document(
        [geometry.n_shards, n_statistics, d],
        [1, n_statistics, d],
        "float64",
        ["shard", "statistic", "neuron"],
        {"statistics": " ".join(STATISTICS[:n_statistics])},
    )
    return {
        "activations": array_document([n, d], [rows, d], stored, ["sample", "neuron"], logical, [sharding]),
        "commit": array_document([geometry.n_shards, words], [1, words], "uint64", ["shard", "word"]),
        **({} if packed else {"partial": partial}),
        **{name: array_document([d], [d], "float64", ["neuron"]) for name in MOMENTS},
    }


def group_document(attributes: dict[str, Any], consolidated: dict[str, Any] | None = None) -> dict[str, Any]:
    """A Zarr v3 group document; `attributes["probecache"]` gets a checksum over all attributes."""
    sealed = {**attributes, "probecache": dict(attributes["probecache"])}
    sealed["probecache"].pop("checksum", None)
    sealed["probecache"]["checksum"] = digest(sealed)
    document: dict[str, Any] = {"attributes": sealed, "zarr_format": 3, "node_type": "group"}
    if consolidated is not None:
        document["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": consolidated,
        }
    return document


def render(document: dict[str, Any]) -> bytes:
    """The bytes of a document: the same document always gives the same bytes."""
    return json.dumps(document, indent=1, allow_nan=False).encode()


def is_array(raw: bytes) -> bool:
    """Whether a document says that it is an array's, by the line that `render` writes."""
    return b'\n "node_type": "array"' in raw


def parse_group(raw: bytes, where: str) -> dict[str, Any]:
    """Attributes of one of this store's groups, its checksum checked."""
    document = parse(raw, where)
    attributes = document.get("attributes")
    ours = attributes.get("probecache") if isinstance(attributes, dict) else None
    if isinstance(attributes, dict) and "results" in attributes:
        raise NotAStore(
            f"{where} holds RESULTS of a sweep, not a store: give the store that was swept "
            "(damaged RESULTS are mended by the same sweep)"
        )
    if document.get("node_type") != "group" or not isinstance(ours, dict):
        raise NotAStore(
            f"{where} is a zarr node but not one of a probecache store; name the store's top folder"
        )
    assert isinstance(attributes, dict)
    if group_document(attributes)["attributes"]["probecache"]["checksum"] != ours.get("checksum"):
        raise DamagedStore(
            f"{where}/zarr.json was changed: its checksum does not fit (restore it from a copy)"
        )
    return attributes


def parse(raw: bytes, where: str) -> dict[str, Any]:
    """A zarr.json's document, or DamagedStore if the bytes are no JSON object."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DamagedStore(f"{where}/zarr.json is not JSON: {str(error)[:80]}") from None
    if not isinstance(document, dict):
        raise DamagedStore(f"{where}/zarr.json is not a JSON object")
    return document


def copies(raw: bytes) -> dict[str, dict[str, Any]]:
    """The documents that a top document's consolidated metadata list.

    Empty if there are none that can be read.
    """
    try:
        listed = json.loads(raw)["consolidated_metadata"]["metadata"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return {}
    if not isinstance(listed, dict):
        return {}
    return {key: document for key, document in listed.items() if isinstance(document, dict)}
