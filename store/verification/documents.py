"""Documents of a store, byte for byte against what follows from their groups."""

from collections.abc import Iterator
from typing import Any

from probecache.store import catalog
from probecache.store.errors import DamagedStore, NotAStore, ProbecacheError
from probecache.store.format import metadata
from probecache.store.format.groups import Split
from probecache.store.layout import ROW_ARRAYS
from probecache.store.storage.files import Files, read_piece
from probecache.store.verification.damage import OTHER, UNFIT, Damage


def verify_split_documents(files: Files, root: dict[str, Any] | None, name: str) -> Iterator[Damage]:
    try:
        split = catalog.read_split(files, name)
        if root is not None:
            catalog.require_own(files, root, split)
    except ProbecacheError as error:
        yield damaged_document(name, None, f"{name}/zarr.json", error)
        return
    yield from _group(files, name, name, None, split.attributes(), split.arrays())


def verify_layer_documents(files: Files, split: Split, child: str) -> Iterator[Damage]:
    try:
        layer = catalog.read_layer(files, split, child)
    except ProbecacheError as error:
        yield damaged_document(split.name, child, f"{split.name}/{child}/zarr.json", error)
        return
    yield from _group(files, layer.key, split.name, child, layer.attributes(), layer.arrays())


def verify_root(files: Files) -> Iterator[Damage]:
    try:
        expected = catalog.root_document(files)
    except catalog.OtherFormat:
        raise
    except (NotAStore, DamagedStore) as error:
        if not any(_is_split(files, name) for name in catalog.children(files, "")):
            raise
        yield damaged_document(None, None, "zarr.json", error)
        return
    raw = read_piece(files, "zarr.json")
    listed = catalog.copies(files)
    for key in sorted(listed):
        split, _, child = key.partition("/")
        group = listed[key].get("node_type") == "group"
        target = not group and child and "/" not in child and child not in (*ROW_ARRAYS, "commit")
        if (group or target) and not catalog.has_document(files, key):
            layer = child if group and child else None
            why = f"the {'group' if group else 'target'}'s document is missing"
            yield Damage("document", split, layer, None, None, f"{key}/zarr.json", why)
    if raw != metadata.render(expected):
        yield Damage("document", None, None, None, None, "zarr.json", UNFIT)


def good_root(files: Files) -> dict[str, Any] | None:
    try:
        return catalog.read_root(files)
    except ProbecacheError:
        return None


def _is_split(files: Files, name: str) -> bool:
    try:
        catalog.read_split(files, name)
    except ProbecacheError:
        return False
    return True


def damaged_document(split: str | None, layer: str | None, piece: str, error: Exception) -> Damage:
    return Damage("document", split, layer, None, None, piece, str(error))


def _group(
    files: Files,
    key: str,
    split: str,
    layer: str | None,
    attributes: dict[str, Any],
    arrays: dict[str, dict[str, Any]],
) -> Iterator[Damage]:
    """A group's document and its arrays' documents, byte for byte."""
    documents = {f"{key}/zarr.json": metadata.group_document(attributes)}
    documents |= {f"{key}/{name}/zarr.json": document for name, document in arrays.items()}
    for where, raw in zip(documents, files.read_many(list(documents)), strict=True):
        if raw != metadata.render(documents[where]):
            why = "is missing" if raw is None else OTHER
            yield Damage("document", split, layer, None, None, where, why)
