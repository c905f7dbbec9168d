"""`probecache target`: columns of a file become targets of a split, its rows found by sample name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from probecache.store.errors import InputError, close_names
from probecache.store.importing.tables.read import read_table
from probecache.store.importing.targets import KEY, Written, as_keys, store_matched
from probecache.store.reader import Store, open_store
from probecache.store.targets import Target, make_target


@dataclass(frozen=True)
class LabelFile:
    """What to take of a file.

    key       the column that holds sample names; default "sample" if there is one
    names     columns (a pattern takes several), NAME=COLUMN, or NAME=COLUMN,COLUMN for one target of several
              columns; default all but the key
    kinds     by target name, "" for all: classes, labels or numbers; default what the cells are
    position  the file's rows are the split's rows, in order: no key is needed
    """

    path: Path
    key: str | None = None
    names: Sequence[str] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    position: bool = False
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.position and self.key is not None:
            raise InputError("--key finds rows by name, --by-position does not: give one of them")


def write_label_file(store: Store | str, split: str, source: LabelFile, overwrite: bool = False) -> Written:
    """Store the file's targets; InputError, with nothing written, for whatever is wrong with it."""
    opened = open_store(store)
    opened.split_info(split)
    columns = read_table(source.path, source.encoding)
    keys = None if source.position else _keys(opened, split, columns, source)
    taken = _targets(columns, source, [] if source.position else [_key(source)])
    unknown = set(source.kinds) - set(taken) - {""}
    if unknown:
        raise InputError(f"--kind names {min(unknown)!r}; {close_names(min(unknown), taken)}")
    made: list[Target] = []
    for name, (values, named) in taken.items():
        made.append(make_target(name, values, source.kinds.get(name, source.kinds.get("")), named))
    return store_matched(opened, split, made, keys, str(source.path), overwrite)


def _key(source: LabelFile) -> str:
    return KEY if source.key is None else source.key


def _keys(store: Store, split: str, columns: Mapping[str, Any], source: LabelFile) -> list[str]:
    key, where = _key(source), str(source.path)
    if key in columns:
        return as_keys(columns[key], f"{where}, key column {key!r}")
    if list(columns) == [""]:
        raise InputError(
            f"{where} holds one array and no sample names: add --by-position if its rows are in order"
        )
    if source.key is not None:
        raise InputError(f"{where} has no column {key!r:.80}; {close_names(key, columns)}")
    samples = set(store.samples(split).tolist())
    hits = {name: sum(str(v) in samples for v in _flat(values)) for name, values in columns.items()}
    best = max(hits, key=lambda name: hits[name])
    hint = (
        f"{best!r} names {hits[best]} of {len(samples)} samples: --key {best}"
        if hits[best]
        else "none names a sample"
    )
    raise InputError(
        f"{where} has no column {KEY!r}: name the one that holds sample names (of its columns {hint})"
    )


def _flat(values: Any) -> list[Any]:
    array = np.asarray(values, object) if not isinstance(values, np.ndarray) else values
    return array.tolist() if array.ndim == 1 else []


def _targets(
    columns: Mapping[str, Any], source: LabelFile, keys: Sequence[str]
) -> dict[str, tuple[Any, list[str] | None]]:
    """Values of each target, and the names of its columns where it has several."""
    left = [name for name in columns if name not in keys]
    if left == [""]:
        if len(source.names) != 1 or "=" in source.names[0]:
            raise InputError(f"{source.path} holds one array: give its target one name with --name")
        return {source.names[0]: (columns[""], None)}
    out: dict[str, tuple[Any, list[str] | None]] = {}

    def add(name: str, values: Any, named: list[str] | None = None) -> None:
        if name in out:
            raise InputError(f"--name gives {name!r} twice")
        out[name] = values, named

    for word in source.names or left:
        name, equals, of = word.partition("=")
        if word in columns:
            add(word, columns[word])
        elif equals:
            several = (
                [of] if of in columns else [c for part in of.split(",") for c in _found(part, left, source)]
            )
            values = [columns[c] for c in several]
            add(
                name,
                values[0] if len(values) == 1 else _beside(name, values),
                several if len(values) > 1 else None,
            )
        else:
            for found in (c for part in word.split(",") for c in _found(part, left, source)):
                add(found, columns[found])
    if not out:
        raise InputError(f"{source.path} has no column beside its key")
    return out


def _found(pattern: str, left: Sequence[str], source: LabelFile) -> list[str]:
    found = [name for name in left if name == pattern] or [
        name for name in left if fnmatchcase(name, pattern)
    ]
    if not found:
        raise InputError(f"{source.path} has no column {pattern!r:.80}; {close_names(pattern, left)}")
    return found


def _beside(name: str, columns: Sequence[Any]) -> Any:
    """Columns of numbers side by side, (rows, columns); missing whole numbers are None."""
    arrays = [np.asarray(c, object) if isinstance(c, list) else np.asarray(c) for c in columns]
    if any(array.ndim != 1 for array in arrays):
        raise InputError(f"target {name!r}: columns to join hold one value per row each")
    return np.stack(arrays, axis=1)
