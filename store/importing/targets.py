"""Labels that came by another way than the images: matched with a split's samples, stored as targets."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probecache.store.errors import InputError, close_names
from probecache.store.format.target_array import KINDS
from probecache.store.importing.match import Match, match
from probecache.store.reader import Store, open_store
from probecache.store.targets import Target, make_target
from probecache.store.writing.targets import store_targets

Array = np.ndarray[Any, Any]
LOGGER = logging.getLogger("probecache.store")
_LIKE_MISSING = {"na", "n/a", "<na>", "nan", "none", "null", "nil", "?", "-"}  # how others write no value
KEY = "sample"  # the column that names samples where no other is asked for


@dataclass(frozen=True)
class Written:
    """What `write_targets` did: one line for the match, one per target."""

    store: Store
    split: str
    matched: Match | None
    targets: tuple[Target, ...]

    def __str__(self) -> str:
        first = "by position" if self.matched is None else str(self.matched)
        return "\n".join([f"split {self.split}: {first}", *(f"  {_described(t)}" for t in self.targets)])


def write_targets(
    store: Store | str | os.PathLike[str],
    *,
    split: str,
    targets: Any,
    key: str | Sequence[str] | None = None,
    kinds: Mapping[str, str] | str | None = None,
    overwrite: bool = False,
) -> Written:
    """Store more labels for the rows of a split: each column or array becomes a target beside `label`.

    Rows without a match are unlabelled (-1, NaN).

    Parameters
    ----------
    store : Store, str or Path
    split : str
    targets : DataFrame or dict
        A DataFrame, each column one target; or {name: array, Series, or DataFrame of several columns}.
    key : str, list of str or None
        The column or named index that holds sample names, or the names themselves, one per row. None: the
        column "sample" if there is one, else a DataFrame's index. Plain arrays without a key are in the
        order of the split's rows.
    kinds : str, {str: str} or None
        "classes" (int64 (n,)), "labels" (int8 (n, t), several 0 or 1 at once) or "numbers" (float64 (n,) or
        (n, t)), for all or by name. None: as the values suggest.
    overwrite : bool
        Replace stored targets that differ, instead of FingerprintMismatch.

    Returns
    -------
    Written
        What was written. Printed, it counts the rows that matched.

    Raises
    ------
    InputError
        If nothing matches, a key occurs twice, or values could be read in two ways; nothing is written.
    FingerprintMismatch
        If a different target of this name is stored.

    Examples
    --------
    >>> done = pc.write_targets("features.zarr", split="train", targets={"even": np.arange(60) % 2})
    >>> pc.open_store("features.zarr").target("train", "even").kind
    'classes'
    """
    opened = open_store(store)
    keys, columns = _columns(targets, key)
    if not columns:
        raise InputError("no targets were given: name at least one column")
    asked = kinds if isinstance(kinds, Mapping) else dict.fromkeys(columns, kinds)
    strange = set(asked) - set(columns)
    if strange:
        raise InputError(f"kinds name {sorted(strange)[0]!r}; {close_names(sorted(strange)[0], columns)}")
    made = [make_target(name, v, asked.get(name), _names(v)) for name, v in columns.items()]
    return store_matched(opened, split, made, keys, "targets", overwrite)


def store_matched(
    store: Store,
    split: str,
    targets: Sequence[Target],
    keys: Sequence[str] | None,
    where: str,
    overwrite: bool,
) -> Written:
    """Store `targets`, whose rows `keys` name; without keys they are the split's rows in order."""
    samples = store.samples(split).tolist()
    found = None if keys is None else match(samples, keys, where)
    if found is None:
        for target in targets:
            if len(target) != len(samples):
                raise InputError(
                    f"target {target.name!r} has {len(target)} rows, split {split!r} has {len(samples)}: "
                    "give one value per row, or name the samples with a key"
                )
    placed = [target if found is None else _placed(target, found.source) for target in targets]
    for target in placed:
        if not target.labelled.any():
            raise InputError(
                f"target {target.name!r} labels no row of split {split!r}: every value is missing"
            )
    for target in placed:
        odd = [name for name in target.names if name.strip().lower() in _LIKE_MISSING]
        if target.kind == "classes" and odd:
            LOGGER.warning(
                "target %r: %s is a class like the others; where it means that there is none, leave it empty",
                target.name,
                " and ".join(map(repr, odd)),
            )
    store_targets(store.files, split, placed, overwrite)
    return Written(store, split, found, tuple(placed))


def _columns(targets: Any, key: str | Sequence[str] | None) -> tuple[list[str] | None, dict[str, Any]]:
    """Sample names, if any are given, and the columns by name."""
    frame = hasattr(targets, "columns") and hasattr(targets, "index")
    if not frame and not isinstance(targets, Mapping):
        raise InputError(f"targets are a {type(targets).__name__}: use a DataFrame or {{name: array}}")
    names = list(targets.columns) if frame else list(targets)
    columns = {name: targets[name] for name in names}
    if frame and len(columns) < len(names):
        raise InputError("the DataFrame has two columns of one name: rename one")
    if isinstance(key, str) and frame and key not in columns and key in targets.index.names:
        key = targets.index.get_level_values(key)
    if isinstance(key, str) and key not in columns:
        raise InputError(f"no key column {key!r:.80}; {close_names(key, map(str, columns))}")
    if key is None and KEY in columns:
        key = KEY
    if isinstance(key, str):
        keys = as_keys(columns.pop(key), f"key column {key!r}")
    elif key is not None:
        keys = as_keys(key, "key")
    else:
        indexed = [
            v
            for v in ([targets] if frame else columns.values())
            if hasattr(v, "index") and not callable(v.index)
        ]
        if not indexed:
            return None, columns
        keys = as_keys(indexed[0].index, "the index")
        if len(indexed) < (1 if frame else len(columns)) or any(
            as_keys(v.index, "") != keys for v in indexed
        ):
            raise InputError(
                "some targets have an index and others none, or another one: give them in one DataFrame"
            )
    for name, values in columns.items():
        if len(values) != len(keys):
            raise InputError(f"target {name!r} has {len(values)} rows for {len(keys)} sample names")
    return keys, columns


def as_keys(values: Any, where: str) -> list[str]:
    """Sample names as text: texts, or whole numbers; InputError for a missing one or another type."""
    found = np.asarray(values)
    out = []
    for i, value in enumerate(found.tolist() if found.ndim == 1 else [None]):
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InputError(
                f"{where}: row {i} holds {value!r:.60}: sample names are text or whole numbers, one each"
            )
        out.append(str(value))
    return out


def _names(values: Any) -> list[str] | None:
    """Column names of a DataFrame; None of anything else."""
    return [str(name) for name in values.columns] if hasattr(values, "columns") else None


def _placed(target: Target, source: Array) -> Target:
    fill = np.nan if target.kind == "numbers" else -1
    values = np.full((len(source), *target.values.shape[1:]), fill, KINDS[target.kind])
    values[source >= 0] = target.values[source[source >= 0]]
    return replace(target, values=values)


def _described(target: Target) -> str:
    n, known = len(target), int(np.count_nonzero(target.labelled))
    what = f"{len(target.names)} {'columns of numbers' if target.kind == 'numbers' else target.kind}"
    what = "numbers" if what == "1 columns of numbers" else what
    return f"{target.name}: {what}, {known} rows labelled, {n - known} unlabelled"
