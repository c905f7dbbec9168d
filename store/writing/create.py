"""Make or extend the documents of a store: root, split, layers. Every write is of a whole document."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from probecache.store import catalog
from probecache.store.claims import being_written
from probecache.store.errors import InputError, NotAStore
from probecache.store.fingerprint import Fingerprint, require_equal
from probecache.store.format import metadata
from probecache.store.format.groups import Layer, Split, commits_key
from probecache.store.layout import LayerSpec
from probecache.store.storage.enclosing import require_outside
from probecache.store.storage.files import Files, read_piece


def open_split(
    files: Files,
    asked: Split,
    fingerprint: Fingerprint,
    shard_rows: int | None,
    rows: tuple[int, int] | None,
    layers: Sequence[str],
    begin: Callable[[], None],
) -> Split:
    """The split as it is stored, made as needed; refused if what decides its values differs.

    asked       the split that the caller means; one with more samples grows only when its rows are there
    shard_rows  what the caller said, None: what is stored will do
    layers      those that will be written: a split grows with all of its layers or not at all
    begin       called before the first document of a new split: a sign of life, so that who looks at half of
                the documents knows that they are being written
    """
    name = asked.name
    there = catalog.has_document(files, name)
    if rows is not None and (shard_rows is not None or not there):
        asked.geometry.require_whole_shards(rows)
    root = _open_root(files, fingerprint)
    if not there:
        chunks = asked.geometry.shards_of_a_row_chunk() if root["format"] > 1 else 0
        split = replace(asked, origin=root["fingerprint"], row_shards=chunks)
        begin()
        _write_documents(files, name, split)
        return split
    split = catalog.read_split(files, name)
    catalog.require_own(files, root, split)
    where = f"split {name!r} in {files.url}"
    require_equal({"data": split.data}, {"data": asked.data}, where)
    require_equal({"class_names": list(split.class_names)}, {"class_names": list(asked.class_names)}, where)
    old, n_samples = split.geometry, asked.geometry.n_samples
    if shard_rows not in (None, old.shard_rows):
        raise InputError(f"{where} has shards of {old.shard_rows} rows, not {shard_rows}: ask for that many")
    if n_samples < old.n_samples:
        raise InputError(
            f"{where} holds {old.n_samples} samples, {n_samples} were asked for: a split grows but does not "
            "shrink; write some of its rows with --rows, or use another split name"
        )
    if n_samples > old.n_samples:
        others = [n for n in catalog.layer_names(files, split) if n not in layers]
        others = [n for n in others if files.names(commits_key(name, n))]
        if others:
            raise InputError(
                f"{where} holds {old.n_samples} samples of layer {', '.join(others)} too, which {n_samples} "
                "would leave without rows: write all of its layers at once, or use another split name"
            )
    # also where it has not grown: a run killed in the midst of growing left some of these behind
    write_arrays_of(files, split)
    return split


def grow_split(files: Files, split: Split) -> None:
    """Let a stored split have the samples of `split`: their rows are there, or are about to be."""
    _write_group(files, split.name, split.attributes())
    write_arrays_of(files, split)
    metadata_changed(files)


def write_arrays_of(files: Files, split: Split) -> None:
    """The documents of all arrays of a split and its layers, where they are not what follows from theirs."""
    write_array_documents(files, split.name, split.arrays())
    for child in catalog.layer_names(files, split):
        write_array_documents(
            files, f"{split.name}/{child}", catalog.read_layer(files, split, child).arrays()
        )
    for child in catalog.target_names(files, split):
        write_array_documents(files, split.name, {child: catalog.read_target(files, split, child).document()})


def open_layers(
    files: Files,
    split: Split,
    specs: Sequence[LayerSpec],
    compression: str | None,
    begin: Callable[[], None],
) -> list[Layer]:
    """The layers, made as needed; refused if a stored one differs.

    One without a row is made anew instead: what was refused (overflow, say) may be tried in another dtype.
    """
    layers = []
    for spec in specs:
        key = f"{split.name}/{spec.name}"
        if spec.name in catalog.target_names(files, split):
            raise InputError(
                f"layer {spec.name!r}: split {split.name!r} in {files.url} has a target of that name"
            )
        if not catalog.has_document(files, key):
            layer = Layer(split.name, spec, compression, split.geometry, packed=split.packed)
            begin()
            _write_documents(files, key, layer)
        else:
            layer = catalog.read_layer(files, split, spec.name)
            where = f"layer {spec.name!r} of split {split.name!r} in {files.url}"
            stored = _described(layer.spec, layer.compression)
            asked = _described(spec, compression or layer.compression)
            if stored != asked and not _begun(files, layer):
                layer = Layer(split.name, spec, compression, split.geometry, packed=split.packed)
                _write_documents(files, key, layer)
            require_equal(_described(layer.spec, layer.compression), asked, where)
            write_array_documents(files, key, layer.arrays())
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
    if files.names(layer.commits_key):
        return True
    return being_written(files, layer.split) is not None


def metadata_changed(files: Files) -> None:
    """Bring the root's consolidated metadata up to date, so that xarray opens the store without a search."""
    raw = metadata.render(catalog.root_document(files))
    if read_piece(files, "zarr.json") != raw:
        files.write({"zarr.json": [raw]})


def _open_root(files: Files, fingerprint: Fingerprint) -> dict[str, Any]:
    """The store's attributes; made if there is no store, refused if its fingerprint differs."""
    asked = {"backbone": dict(fingerprint.backbone), "compute": dict(fingerprint.compute)}
    if not catalog.has_document(files, ""):
        strangers = [n for n in files.names("") if not n.startswith("zarr.json.")]
        if strangers:
            raise NotAStore(
                f"{files.url} exists and is not a probecache store (it holds {strangers[0]!r:.60}): "
                "name a new or empty folder"
            )
        if files.size("") is not None and not os.path.isdir(files.url):
            raise NotAStore(f"{files.url} is a file, not a store: name a new or empty folder")
        if "://" not in files.url:
            require_outside(files.url)
        write_root(files, asked, {})
    root = catalog.read_root(files)
    require_equal(root["fingerprint"], asked, files.url)
    return root


def write_root(
    files: Files, fingerprint: dict[str, Any], listed: dict[str, Any], layout: int | None = None
) -> None:
    """The top document: fingerprint and consolidated metadata; `layout`: the store's format, default ours."""
    attributes = {"probecache": {"format": layout or metadata.FORMAT, "fingerprint": fingerprint}}
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


def write_array_documents(files: Files, key: str, documents: dict[str, dict[str, Any]]) -> None:
    """The documents of a group's arrays, where they are not these already."""
    keys = [f"{key}/{name}/zarr.json" for name in documents]
    rendered = [metadata.render(document) for document in documents.values()]
    stored = files.read_many(keys)
    changed = {k: [new] for k, new, old in zip(keys, rendered, stored, strict=True) if new != old}
    if changed:
        files.write(changed)
