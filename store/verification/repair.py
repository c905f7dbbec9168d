"""Make a damaged store one that its writer can complete: drop what is damaged, rebuild what follows."""

import contextlib
from dataclasses import replace
from typing import Any

from probecache.store import catalog
from probecache.store.claims import Claims
from probecache.store.errors import DamagedStore, InputError, NotAStore, ProbecacheError
from probecache.store.format import metadata
from probecache.store.format.groups import Layer, Split, commit_key
from probecache.store.format.target_array import parse_target_array
from probecache.store.storage.files import Files, open_files, read_piece
from probecache.store.verification.damage import Damage
from probecache.store.verification.verify import verify, verify_shard
from probecache.store.writing.create import metadata_changed, write_array_documents, write_root
from probecache.store.writing.layer_shards import finish_layer
from probecache.store.writing.write_index import touch, write_indexes

_ROUNDS = 4


def repair(path: str) -> list[Damage]:
    """Drop the commits of damaged shards and rebuild documents and moments; what was found, in order.

    The command that wrote the store then writes the dropped shards, and no other, again. Group documents are
    restored from the copy in the store's top document, and that from the copies of its fingerprint in the
    splits. It is a writer like others: it claims each shard and looks at it once more before it drops it, so
    what a living writer holds, or has written meanwhile, stays.

    On return `verify` names nothing but what is still to be written. DamagedStore names what is left where
    a document cannot be restored or a piece stays damaged, when all else was mended.
    """
    files = open_files(path)
    files.sweep("")  # what a killed repair had not put in its place
    found: list[Damage] = []
    last: list[Damage] = []
    for _ in range(_ROUNDS):  # a restored document shows what was hidden behind it
        left = [damage for damage in verify(path) if damage.harmful]
        if not left or left == last:
            break
        found += [damage for damage in left if damage not in found]
        failed = _mend(files, left)
        last = left
    else:
        left = [damage for damage in verify(path) if damage.harmful]
    if left:
        why = f" ({failed[0]})" if failed else ""
        raise DamagedStore(f"{files.url}: {len(left)} pieces stay damaged, first {left[0]}{why}")
    return found


def _mend(files: Files, found: list[Damage]) -> list[ProbecacheError]:
    """One round over what was found; the errors of what could not be done."""
    failed: list[ProbecacheError] = []
    for damage in found:
        if damage.kind == "document" and damage.piece.count("/") <= 2:
            try:
                _restore(files, damage.piece)
            except ProbecacheError as error:
                failed.append(error)
    root = catalog.read_root(files)
    for name in catalog.children(files, ""):
        try:
            split = catalog.read_split(files, name)
            catalog.require_own(files, root, split)
        except ProbecacheError as error:
            failed.append(error)
            continue
        mine = [d for d in found if d.split == name]
        if not mine:
            continue
        write_array_documents(files, name, split.arrays())
        dropped = _drop(files, split, mine)
        _drop_targets(files, split, [*dropped, *(d for d in mine if d.kind == "target")])
        for child in catalog.layer_names(files, split):
            try:
                layer = catalog.read_layer(files, split, child)
            except ProbecacheError as error:
                failed.append(error)
                continue
            write_array_documents(files, layer.key, layer.arrays())
            if any(d.layer in (None, child) for d in dropped):
                _write(files, replace(layer, complete=0))
            elif any(d.kind == "moments" and d.layer == child for d in mine):
                finish_layer(files, layer, {})
        try:
            write_indexes(files, split, force=any(d.kind == "index" for d in mine))
        except ProbecacheError as error:  # a shard is damaged, or being written
            failed.append(error)
    metadata_changed(files)
    return failed


def _drop(files: Files, split: Split, found: list[Damage]) -> list[Damage]:
    """Delete the commits of the damaged shards; those that were damaged still when they were claimed.

    Damaged labels take every layer's shard of these rows along.
    """
    dropped = []
    shards = sorted({d.shard for d in found if d.kind in ("rows", "shard") and d.shard is not None})
    names = {d.layer for d in found if d.kind == "shard"}
    rows = any(d.kind == "rows" for d in found)
    layers = [catalog.read_layer(files, split, n) for n in _readable(files, split) if rows or n in names]
    changed: list[Split | Layer] = [split, *layers] if rows else [*layers]
    changed = changed if shards else []
    with contextlib.closing(Claims(files, split.name)) as claims:
        claims.sweep()
        try:
            touch(files, changed)
            for index in shards:
                try:
                    claims.take([index])
                except InputError:  # a living writer's: what it holds is its business
                    continue
                for damage in verify_shard(files, split.name, index):
                    keys = [commit_key(split.name, str(damage.layer), index)]
                    if damage.kind == "rows":
                        if not rows:  # seen only now: the next round takes it
                            continue
                        keys = [commit_key(split.name, n, index) for n in catalog.layer_names(files, split)]
                        keys.append(split.commit_key(split.geometry.shard(index)))
                    elif not rows and damage.layer not in names:
                        continue
                    if damage.harmful:
                        dropped.append(damage)
                        for key in keys:
                            files.delete(key)
                claims.release(index)
        finally:
            touch(files, changed)
    return dropped


def _readable(files: Files, split: Split) -> list[str]:
    """The layers whose documents are whole."""
    names = []
    for name in catalog.layer_names(files, split):
        with contextlib.suppress(ProbecacheError):
            catalog.read_layer(files, split, name)
            names.append(name)
    return names


def _drop_targets(files: Files, split: Split, found: list[Damage]) -> None:
    """Take the damaged chunks out of the targets' commits, and those whose rows' identity is damaged."""
    for name in catalog.target_names(files, split):
        target = catalog.read_target(files, split, name)
        mine = [d.rows for d in found if d.rows and (d.kind == "rows" or d.piece == f"target {name}")]
        commits = tuple(
            (0, 0) if any(start < s.stop and stop > s.start for start, stop in mine) else commit
            for s, commit in zip(target.geometry.shards(), target.commits, strict=True)
        )
        document = metadata.render(replace(target, commits=commits).document())
        if read_piece(files, f"{target.key}/zarr.json") != document:
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
        raise DamagedStore(
            f"{files.url}/{piece} cannot be restored: no copy in the top zarr.json: move "
            f"{files.url}/{key} away, then run the command that wrote it"
        )


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
        write_root(files, origins[0], copies, 2 if any(split.packed for split in splits) else 1)


def _broken(files: Files, key: str) -> bool:
    try:
        metadata.parse_group(catalog.read_document(files, key), key)
    except ProbecacheError:
        return True
    return False


def _write(files: Files, layer: Layer) -> None:
    document = metadata.group_document(layer.attributes())
    files.write({f"{layer.key}/zarr.json": [metadata.render(document)]})
