"""What a store's documents say: its splits and layers, checked before anything is believed or allocated."""

import os
from typing import Any

import numpy as np

from probecache.store.errors import DamagedStore, InputError, NotAStore, ProbecacheError
from probecache.store.format import metadata
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer, Split
from probecache.store.format.target_array import TargetArray, parse_target_array
from probecache.store.layout import (
    COMPRESSIONS,
    MOST_ROWS,
    Geometry,
    LayerSpec,
    check_name,
)
from probecache.store.storage.files import Files, read_piece

Array = np.ndarray[Any, Any]


def _what_is_there(files: Files) -> str:
    if files.names(""):
        return "is a folder without a zarr.json"
    if "://" in files.url:  # object stores know no empty folders
        return "does not exist or is empty"
    if not os.path.lexists(files.url):
        return "does not exist"
    if os.path.isdir(files.url):
        return "is an empty folder"
    return "is a file" if os.path.isfile(files.url) else "is no folder"


class OtherFormat(NotAStore):
    """A store of another version, whole as far as its top document says: neither damaged nor to be mended."""


def read_root(files: Files) -> dict[str, Any]:
    """The store's attributes, or NotAStore."""
    raw = read_piece(files, "zarr.json")
    if raw is None:
        what = _what_is_there(files)
        raise NotAStore(f"{files.url} {what}: name the top folder of a store that probecache wrote")
    if isinstance(raw, BadChunk):
        raise DamagedStore(f"{files.url}/zarr.json: {raw}: remove it, then probecache repair")
    ours = metadata.parse_group(raw, files.url)["probecache"]
    if "format" not in ours and ("n_samples" in ours or "neurons" in ours):
        raise NotAStore(f"{files.url} is a part of a store: name the store's top folder")
    if ours.get("format") not in metadata.FORMATS:
        raise OtherFormat(
            f"{files.url} has store format {ours.get('format')!r:.40}, this probecache reads "
            f"{' and '.join(map(str, metadata.FORMATS))}: "
            "use the version that wrote it, or import its arrays again"
        )
    fingerprint = ours.get("fingerprint")
    if not isinstance(fingerprint, dict) or not all(
        isinstance(fingerprint.get(k), dict) for k in ("backbone", "compute")
    ):
        raise DamagedStore(f"{files.url}/zarr.json has no fingerprint")
    return dict(ours)


def children(files: Files, key: str) -> list[str]:
    """Names below a group that could be splits or layers: folders with a document."""
    return list(nodes(files, key))


def nodes(files: Files, key: str) -> dict[str, bytes]:
    """Names below a group that could be splits, layers or targets, with their documents."""
    names = []
    for name in files.names(key):
        try:
            check_name(name, "group")
        except InputError:
            continue
        names.append(name)
    documents = files.read_many([f"{key}/{name}/zarr.json".lstrip("/") for name in names])
    found = {name: raw for name, raw in zip(names, documents, strict=True) if raw is not None}
    return {name: raw if isinstance(raw, bytes) else b"" for name, raw in found.items()}


def read_split(files: Files, name: str) -> Split:
    """A split's description from its own document, validated."""
    where = f"{files.url}/{name}"
    attributes = _own_group(files, name)
    ours, names = attributes["probecache"], attributes.get("class_names")
    try:
        geometry = Geometry(ours.get("n_samples"), ours.get("shard_rows"))
    except InputError as error:
        raise DamagedStore(f"{where}/zarr.json: {error}") from None
    fingerprint = ours.get("fingerprint")
    data = fingerprint.get("data") if isinstance(fingerprint, dict) else None
    if (
        not isinstance(fingerprint, dict)
        or not isinstance(data, dict)
        or not isinstance(names, list)
        or not all(isinstance(n, str) for n in names)
    ):
        raise DamagedStore(f"{where}/zarr.json lacks class names or the data's fingerprint")
    origin = {part: fingerprint[part] for part in ("backbone", "compute") if part in fingerprint}
    row_shards = ours.get("row_shards", 0)
    if type(row_shards) is not int or not 0 <= row_shards * geometry.shard_rows <= MOST_ROWS:
        raise DamagedStore(f"{where}/zarr.json: impossible chunks of labels")
    return Split(name, geometry, tuple(names), data, origin, ours.get("streaming") is True, row_shards)


def find_split(files: Files, name: str) -> Split | None:
    """`read_split` of a split that is there; None where the store or the split is yet to be made."""
    if not has_document(files, "") or not has_document(files, name):
        return None
    return read_split(files, name)


def require_own(files: Files, root: dict[str, Any], split: Split) -> None:
    """DamagedStore if a split was made for another store: its copy of the fingerprint is not the top's."""
    if split.origin and split.origin != root["fingerprint"]:
        raise DamagedStore(
            f"{files.url}/{split.name} was written with another backbone or computation than the store's top "
            "zarr.json says: move it out (each store holds one)"
        )


def read_layer(files: Files, split: Split, name: str) -> Layer:
    """A layer's description from its own document, validated."""
    where = f"{files.url}/{split.name}/{name}"
    ours = _own_group(files, f"{split.name}/{name}")["probecache"]
    compression, complete = ours.get("compression"), ours.get("complete")
    attrs, report = ours.get("attrs"), ours.get("report")
    if not isinstance(attrs, dict) or not isinstance(report, dict):
        raise DamagedStore(f"{where}/zarr.json: its attributes or report are no JSON objects")
    try:
        spec = LayerSpec(name, ours.get("neurons"), ours.get("dtype"), attrs)
    except InputError as error:
        raise DamagedStore(f"{where}/zarr.json: {error}") from None
    if compression not in COMPRESSIONS or type(complete) is not int or complete < 0:
        raise DamagedStore(f"{where}/zarr.json: impossible compression or progress")
    counted = ours.get("statistics", metadata.OLD_STATISTICS)
    if counted not in (metadata.OLD_STATISTICS, len(metadata.STATISTICS)):
        raise DamagedStore(f"{where}/zarr.json: impossible number of statistics")
    return Layer(
        split.name, spec, compression, split.geometry, complete, report, counted, packed=split.packed
    )


def require_arrays(files: Files, owner: Split | Layer) -> None:
    """DamagedStore unless each array's document is the one that follows from its group's."""
    key = owner.name if isinstance(owner, Split) else owner.key
    documents = owner.arrays()
    keys = [f"{key}/{name}/zarr.json" for name in documents]
    for where, document, raw in zip(keys, documents.values(), files.read_many(keys), strict=True):
        if raw is None:
            raise DamagedStore(f"{files.url}/{where} is missing (probecache repair writes it again)")
        if isinstance(raw, BadChunk):
            raise DamagedStore(f"{files.url}/{where}: {raw} (probecache repair writes it again)")
        if metadata.parse(raw, f"{files.url}/{where}") != document:
            raise DamagedStore(
                f"{files.url}/{where} does not fit its group's attributes (a run that adds rows was "
                "killed, or it was changed: run that command again, or probecache repair)"
            )


def layer_names(files: Files, split: Split) -> list[str]:
    """Names of the layers that a split holds."""
    arrays, found = split.arrays(), nodes(files, split.name)
    return [name for name, raw in found.items() if name not in arrays and not metadata.is_array(raw)]


def target_names(files: Files, split: Split) -> list[str]:
    """Names of the targets that a split holds beside `label`."""
    arrays, found = split.arrays(), nodes(files, split.name)
    return [name for name, raw in found.items() if name not in arrays and metadata.is_array(raw)]


def find_target(files: Files, split: Split, name: str) -> TargetArray | None:
    """`read_target` if `name` is one of `target_names`, by its own document only; else None."""
    try:
        check_name(name, "target")
    except InputError:
        return None
    raw = read_piece(files, f"{split.name}/{name}/zarr.json")
    known = isinstance(raw, bytes) and name not in split.arrays() and metadata.is_array(raw)
    return _parsed_target(files, split, name, raw) if known and isinstance(raw, bytes) else None


def read_target(files: Files, split: Split, name: str) -> TargetArray:
    """A target's description from its own document, validated, in the split as it is now."""
    return _parsed_target(files, split, name, read_document(files, f"{split.name}/{name}"))


def _parsed_target(files: Files, split: Split, name: str, raw: bytes) -> TargetArray:
    where = f"{files.url}/{split.name}/{name}"
    try:
        return parse_target_array(metadata.parse(raw, where), split.name, split.geometry, name)
    except ValueError as error:
        raise DamagedStore(f"{where}/zarr.json: {error} (probecache repair)") from None


def root_document(files: Files) -> dict[str, Any]:
    """The top document that follows from the groups that are there."""
    old = copies(files)
    documents: dict[str, Any] = {}
    for name in children(files, ""):
        try:
            split = read_split(files, name)
        except ProbecacheError:  # damaged: what is known of it stays, for `repair`
            documents |= {k: d for k, d in old.items() if k.split("/")[0] == name}
            continue
        documents[name] = metadata.group_document(split.attributes())
        documents |= {f"{name}/{array}": document for array, document in split.arrays().items()}
        for child in layer_names(files, split):
            key = f"{name}/{child}"
            try:
                layer = read_layer(files, split, child)
            except ProbecacheError:
                documents |= {k: d for k, d in old.items() if k == key or k.startswith(f"{key}/")}
                continue
            documents[key] = metadata.group_document(layer.attributes())
            documents |= {f"{key}/{array}": document for array, document in layer.arrays().items()}
        for target in target_names(files, split):
            key = f"{name}/{target}"
            try:
                documents[key] = read_target(files, split, target).document()
            except DamagedStore:
                documents |= {k: d for k, d in old.items() if k == key}
    return metadata.group_document({"probecache": read_root(files)}, documents)


def _own_group(files: Files, key: str) -> dict[str, Any]:
    """Attributes of a split's or layer's group."""
    try:
        return metadata.parse_group(read_document(files, key), f"{files.url}/{key}")
    except NotAStore:
        raise DamagedStore(
            f"{files.url}/{key}/zarr.json is none of this store's documents (probecache repair restores it)"
        ) from None


def read_document(files: Files, key: str) -> bytes:
    """The bytes of a group's document; DamagedStore if there are none, or too many."""
    raw = read_piece(files, f"{key}/zarr.json")
    if raw is None:
        raise DamagedStore(f"{files.url}/{key}/zarr.json is missing")
    if isinstance(raw, BadChunk):
        raise DamagedStore(f"{files.url}/{key}/zarr.json: {raw}: remove it, then probecache repair")
    return raw


def has_document(files: Files, key: str) -> bool:
    """Whether anything lies where the document of a group would be."""
    return read_piece(files, f"{key}/zarr.json".lstrip("/")) is not None


def copies(files: Files) -> dict[str, dict[str, Any]]:
    """The documents that the top document's consolidated metadata list; empty if it cannot be read."""
    raw = read_piece(files, "zarr.json")
    return metadata.copies(raw) if isinstance(raw, bytes) else {}
