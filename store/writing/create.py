"""Make or extend the documents of a store: root, split, layers. Every write is of a whole document."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from probecache.store import catalog
from probecache.store.catalog import Layer, Split
from probecache.store.claims import Claims
from probecache.store.errors import InputError, NotAStore
from probecache.store.fingerprint import Fingerprint, require_equal
from probecache.store.format import metadata
from probecache.store.layout import COMPRESSIONS, SHARD_ROWS, Geometry, LayerSpec, check_name
from probecache.store.storage.files import Files


def open_split(
    files: Files,
    name: str,
    n_samples: int,
    class_names: tuple[str, ...],
    fingerprint: Fingerprint,
    shard_rows: int | None,
    rows: tuple[int, int] | None = None,
) -> Split:
    """The split, made or grown to `n_samples` as needed; refused if what decides its values differs."""
    check_name(name, "split")
    geometry = Geometry(n_samples, SHARD_ROWS if shard_rows is None else shard_rows)
    if rows is not None and (shard_rows is not None or files.read(f"{name}/zarr.json") is None):
        geometry.require_whole_shards(rows)
    root = _open_root(files, fingerprint)
    if files.read(f"{name}/zarr.json") is None:
        split = Split(name, geometry, class_names, dict(fingerprint.data), root["fingerprint"])
        _write_documents(files, name, split)
        return split
    split = catalog.read_split(files, name)
    catalog.require_own(files, root, split)
    where = f"split {name!r} in {files.url}"
    require_equal({"data": split.data}, {"data": dict(fingerprint.data)}, where)
    require_equal({"class_names": list(split.class_names)}, {"class_names": list(class_names)}, where)
    old = split.geometry
    if shard_rows not in (None, old.shard_rows):
        raise InputError(f"{where} has shards of {old.shard_rows} rows, not {shard_rows}: ask for that many")
    if n_samples < old.n_samples:
        raise InputError(
            f"{where} holds {old.n_samples} samples, {n_samples} were asked for: a split grows but does not "
            "shrink; write some of its rows with --rows, or use another split name"
        )
    if n_samples > old.n_samples:
        split = replace(split, geometry=Geometry(n_samples, old.shard_rows))
        _write_group(files, name, split.attributes())
    # also where it has not grown: a run killed in the midst of growing left some of these behind
    _write_arrays(files, name, split.arrays())
    for child in catalog.layer_names(files, split):
        _write_arrays(files, f"{name}/{child}", catalog.read_layer(files, split, child).arrays())
    for child in catalog.target_names(files, split):
        _write_arrays(files, name, {child: catalog.read_target(files, split, child).document()})
    return split


def open_layers(
    files: Files, split: Split, specs: Sequence[LayerSpec], compression: str | None
) -> list[Layer]:
    """The layers, made as needed; refused if a stored one differs.

    One without a row is made anew instead: what was refused (overflow, say) may be tried in another dtype.
    """
    if compression not in COMPRESSIONS:
        raise InputError(f"compression {compression!r:.40}: allowed none or zstd")
    layers = []
    for spec in specs:
        key = f"{split.name}/{spec.name}"
        if spec.name in catalog.target_names(files, split):
            raise InputError(
                f"layer {spec.name!r}: split {split.name!r} in {files.url} has a target of that name"
            )
        if files.read(f"{key}/zarr.json") is None:
            layer = Layer(split.name, spec, compression, split.geometry)
            _write_documents(files, key, layer)
        else:
            layer = catalog.read_layer(files, split, spec.name)
            where = f"layer {spec.name!r} of split {split.name!r} in {files.url}"
            stored = _described(layer.spec, layer.compression)
            asked = _described(spec, compression or layer.compression)
            if stored != asked and not _begun(files, layer):
                layer = Layer(split.name, spec, compression, split.geometry)
                _write_documents(files, key, layer)
            require_equal(_described(layer.spec, layer.compression), asked, where)
            _write_arrays(files, key, layer.arrays())
        layers.append(layer)
    metadata_changed(files)
    return layers


def _described(spec: LayerSpec, compression: str | None) -> dict[str, Any]:
    return {
        "neurons": spec.neurons,
        "dtype": spec.dtype,
        "compression": compression,
        "attrs": dict(spec.attrs),
    }


def _begun(files: Files, layer: Layer) -> bool:
    """Whether a layer holds a commit, or a living writer is at work in its split."""
    Claims(files, layer.split).sweep()
    claims = (name for name in files.names(f"{layer.split}/commit") if name.startswith("claim-"))
    return any(claims) or bool(files.names(f"{layer.key}/commit/c"))


def metadata_changed(files: Files) -> None:
    """Bring the root's consolidated metadata up to date, so that xarray opens the store without a search."""
    raw = metadata.render(catalog.root_document(files))
    if files.read("zarr.json") != raw:
        files.write({"zarr.json": [raw]})


def _open_root(files: Files, fingerprint: Fingerprint) -> dict[str, Any]:
    """The store's attributes; made if there is no store, refused if its fingerprint differs."""
    asked = {"backbone": dict(fingerprint.backbone), "compute": dict(fingerprint.compute)}
    if files.read("zarr.json") is None:
        strangers = [n for n in files.names("") if not n.startswith("zarr.json.")]
        if strangers:
            raise NotAStore(
                f"{files.url} exists and is not a probecache store (it holds {strangers[0]!r:.60}): "
                "name a new or empty folder"
            )
        if files.size("") is not None and not os.path.isdir(files.url):
            raise NotAStore(f"{files.url} is a file, not a store: name a new or empty folder")
        write_root(files, asked, {})
    root = catalog.read_root(files)
    require_equal(root["fingerprint"], asked, files.url)
    return root


def write_root(files: Files, fingerprint: dict[str, Any], listed: dict[str, Any]) -> None:
    """The top document: fingerprint and consolidated metadata."""
    attributes = {"probecache": {"format": metadata.FORMAT, "fingerprint": fingerprint}}
    _write_group(files, "", attributes, listed)


def _write_group(
    files: Files, key: str, attributes: dict[str, Any], consolidated: dict[str, Any] | None = None
) -> None:
    document = metadata.group_document(attributes, consolidated)
    files.write({f"{key}/zarr.json".lstrip("/"): [metadata.render(document)]})


def _write_documents(files: Files, key: str, owner: Split | Layer) -> None:
    """A new group's documents: its arrays', then its own, by which it is found."""
    arrays = {f"{key}/{name}/zarr.json": [metadata.render(d)] for name, d in owner.arrays().items()}
    group = metadata.group_document(owner.attributes())
    files.write(arrays, then={f"{key}/zarr.json": [metadata.render(group)]})


def _write_arrays(files: Files, key: str, documents: dict[str, dict[str, Any]]) -> None:
    keys = [f"{key}/{name}/zarr.json" for name in documents]
    rendered = [metadata.render(document) for document in documents.values()]
    stored = files.read_many(keys)
    changed = {k: [new] for k, new, old in zip(keys, rendered, stored, strict=True) if new != old}
    if changed:
        files.write(changed)
