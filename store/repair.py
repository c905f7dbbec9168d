"""Make a damaged store one that its writer can complete: drop what is damaged, rebuild what follows."""

from dataclasses import replace
from typing import Any

from probecache.store import catalog
from probecache.store.catalog import Layer, Split
from probecache.store.errors import DamagedStore, NotAStore, ProbecacheError
from probecache.store.format import metadata
from probecache.store.format.target_array import parse_target_array
from probecache.store.storage.files import Files, open_files
from probecache.store.verify import Damage, verify
from probecache.store.writing.create import metadata_changed, open_layers, write_root
from probecache.store.writing.layer_shards import finish_layer


def repair(path: str) -> list[Damage]:
    """Drop the commits of damaged shards and rebuild documents and moments; what was found, in order.

    The command that wrote the store then writes the dropped shards, and no other, again. Group documents are
    restored from the copy in the store's top document, and that from the copies of its fingerprint in the
    splits. DamagedStore if a document cannot be restored.
    """
    files = open_files(path)
    found = list(verify(path))
    for damage in found:
        if damage.kind == "document" and damage.piece.count("/") <= 2:
            _restore(files, damage.piece)
    root = catalog.read_root(files)
    for name in catalog.children(files, ""):
        split = catalog.read_split(files, name)
        catalog.require_own(files, root, split)
        layers = [catalog.read_layer(files, split, child) for child in catalog.layer_names(files, split)]
        mine = [d for d in found if d.split == name]
        _drop(files, split, layers, mine)
        _drop_targets(files, split, mine)
        for layer in layers:
            open_layers(files, split, [layer.spec], layer.compression)  # its arrays' documents
            damaged = [d for d in mine if d.layer in (None, layer.spec.name)]
            if any(d.kind in ("rows", "shard") for d in damaged):
                _write(files, replace(layer, complete=0))
            elif any(d.kind == "moments" for d in damaged):
                finish_layer(files, layer, {})
    metadata_changed(files)
    return found


def _drop(files: Files, split: Split, layers: list[Layer], found: list[Damage]) -> None:
    """Delete the commits of the damaged shards.

    Damaged labels take every layer's shard of these rows along.
    """
    for damage in found:
        if damage.shard is None or damage.kind == "unwritten":
            continue
        shard = split.geometry.shard(damage.shard)
        for layer in layers:
            if damage.kind == "rows" or layer.spec.name == damage.layer:
                files.delete(layer.commit_key(shard))
        if damage.kind == "rows":
            files.delete(split.commit_key(shard))


def _drop_targets(files: Files, split: Split, found: list[Damage]) -> None:
    """Take the damaged shards out of the targets' commits, and those whose rows' identity is damaged."""
    rows = {d.shard for d in found if d.kind == "rows"}
    for name in catalog.target_names(files, split):
        target = catalog.read_target(files, split, name)
        mine = rows | {d.shard for d in found if d.kind == "target" and d.piece == f"target {name}"}
        commits = tuple((0, 0) if i in mine else commit for i, commit in enumerate(target.commits))
        document = metadata.render(replace(target, commits=commits).document())
        if files.read(f"{target.key}/zarr.json") != document:
            files.write({f"{target.key}/zarr.json": [document]})


def _restore(files: Files, piece: str) -> None:
    """Write a group's document from the copy in the top document, its checksum checked."""
    key = piece.removesuffix("zarr.json").rstrip("/")
    copies = catalog.copies(files)
    if not key:
        _restore_root(files, copies)
        return
    if copies.get(key, {}).get("node_type") == "array":
        owner, _, name = key.partition("/")
        split = catalog.read_split(files, owner)
        arrays = split.arrays()  # these follow from the split; a target's is known from the copy only
        if name not in arrays:
            try:
                arrays[name] = parse_target_array(copies[key], owner, split.geometry, name).document()
            except ValueError:
                raise DamagedStore(
                    f"{files.url}/{piece} cannot be restored: its copy is damaged too"
                ) from None
        files.write({piece: [metadata.render(arrays[name])]})
    elif key in copies and copies[key].get("node_type") == "group":
        document = metadata.render(copies[key])
        metadata.parse_group(document, f"{files.url}/{key}")
        files.write({piece: [document]})
    elif _broken(files, key):
        raise DamagedStore(f"{files.url}/{piece} cannot be restored: no copy in the top zarr.json")


def _restore_root(files: Files, copies: dict[str, dict[str, Any]]) -> None:
    """The top document from the splits' copies of its fingerprint, where they agree."""
    try:
        catalog.read_root(files)  # only its consolidated metadata are damaged: they follow from the groups
        return
    except (DamagedStore, NotAStore) as error:
        splits = [catalog.read_split(files, name) for name in catalog.children(files, "")]
        origins = [split.origin for split in splits if split.origin]
        if not origins or any(origin != origins[0] for origin in origins):
            raise DamagedStore(f"{error}; its splits hold no copy of it that they agree on") from None
        write_root(files, origins[0], copies)


def _broken(files: Files, key: str) -> bool:
    try:
        metadata.parse_group(catalog.read_document(files, key), key)
    except ProbecacheError:
        return True
    return False


def _write(files: Files, layer: Layer) -> None:
    document = metadata.group_document(layer.attributes())
    files.write({f"{layer.key}/zarr.json": [metadata.render(document)]})
