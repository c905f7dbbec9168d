"""What flags of a command mean: rows a:b, and names, a,b, repeats and globs, met with what a store has."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from probecache.store.errors import InputError, close_names

if TYPE_CHECKING:
    from probecache.store.reader import Store


def split_names(given: str | Iterable[str] | None, known: Iterable[str] = ()) -> list[str]:
    """Names from a flag that may be repeated and hold comma lists, each once, in order.

    A name in `known` stays whole: a name may hold a comma.

    >>> split_names(["a, b", "c", "a"]), split_names("a,b", known=["a,b"]), split_names(None)
    (['a', 'b', 'c'], ['a,b'], [])
    """
    parts, whole = [given] if isinstance(given, str) else given or [], set(known)
    names = (name.strip() for part in parts for name in ([part] if part in whole else part.split(",")))
    return list(dict.fromkeys(name for name in names if name))


def parse_rows(text: str) -> tuple[int, int]:
    """Rows a to b, b left out, from a flag.

    >>> parse_rows("8192:16384")
    (8192, 16384)
    """
    start, _, stop = text.partition(":")
    if not (start.isdecimal() and stop.isdecimal()):
        raise InputError(f"--rows {text!r}: write a:b with whole numbers, b left out, such as 0:8192")
    return int(start), int(stop)


def is_glob(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def require_splits(store: "Store", splits: Iterable[str]) -> None:
    """InputError for the first of `splits` that the store lacks."""
    for name in splits:
        if name not in store.splits:
            raise InputError(
                f"got split {name!r}; {store.path} has no such split: {close_names(name, store.splits)}"
            )


def choose(store: "Store", what: str, asked: Sequence[str], splits: Sequence[str]) -> list[str]:
    """The names of `what` ("layer" or "target") that `asked` means, each once: what all `splits` have.

    InputError for a name that one of the splits lacks, and for a glob that matches nothing.
    """
    there = [store.layers_of(s) if what == "layer" else list(store.targets(s)) for s in splits]
    common = [name for name in there[0] if all(name in names for names in there)]
    names: list[str] = []
    for pattern in asked:
        if pattern not in common and is_glob(pattern):
            matching = [name for name in common if fnmatchcase(name, pattern)]
            if not matching:
                raise InputError(
                    f"got {what} {pattern!r}, which matches none of {', '.join(common) or 'no ' + what}"
                )
            names += matching
            continue
        for split, known in zip(splits, there, strict=True):
            if pattern not in known:
                raise InputError(
                    f"got {what} {pattern!r}; split {split!r} of {store.path} has no such {what}: "
                    f"{close_names(pattern, known)}"
                )
        names.append(pattern)
    return list(dict.fromkeys(names))


def choose_known(what: str, given: str | Iterable[str], known: Sequence[str], where: str) -> list[str]:
    """The names in `known` that a flag means: a,b, repeats and globs; InputError for what `where` lacks.

    >>> choose_known("layer", "b*", ["blocks.5", "last"], "RESULTS")
    ['blocks.5']
    """
    found: list[str] = []
    for pattern in split_names(given, known):
        hits = [n for n in known if n == pattern] or [n for n in known if fnmatchcase(n, pattern)]
        if not hits:
            raise InputError(
                f"got {what} {pattern!r}; {where} has no such {what}: {close_names(pattern, known)}"
            )
        found += hits
    return list(dict.fromkeys(found))


def choose_layers(store: "Store", given: str | Iterable[str], splits: Sequence[str]) -> list[str]:
    """`choose` for layers from a flag, which must name one at least."""
    require_splits(store, splits)
    asked = split_names(given, store.layers_of(splits[0]))
    if not asked:
        raise InputError(f"got no layer; {store.path} has {', '.join(store.layers_of(splits[0]))}")
    return choose(store, "layer", asked, splits)


def choose_layer(store: "Store", given: str | Iterable[str], splits: Sequence[str]) -> str:
    """`choose_layers` where only one layer makes sense: InputError where several are meant."""
    found = choose_layers(store, given, splits)
    if len(found) > 1:
        raise InputError(f"got {len(found)} layers, {', '.join(found[:5])}; this command takes one: name it")
    return found[0]
