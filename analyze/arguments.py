"""What the flags of analysis commands say, as values: lists, numbers, weights, names that the store has."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probecache.store.choose import choose, require_splits, split_names
from probecache.store.errors import InputError, close_names


def one_or_list(values: list[Any]) -> Any:
    """A list of one stands for its value: it makes no dimension."""
    return values[0] if len(values) == 1 else values


def names_of(given: list[str] | None) -> list[str] | None:
    """`split_names`, and None where the flag was not given."""
    return split_names(given) or None


def splits_named(*unions: str | None) -> list[str]:
    """The splits that unions such as "train+val" name, each once."""
    parts = [part.strip() for union in unions if union is not None for part in union.split("+")]
    return list(dict.fromkeys(parts))


def known_names(
    store: str, config: Path | None, splits: list[str], layer: list[str] | None, target: list[str] | None
) -> tuple[list[str], list[str]]:
    """Layers and targets as they were asked for. What the store lacks is refused here, before torch is
    imported, which takes seconds; what a file of settings says is checked later, with the whole plan.
    """
    from probecache.store.reader import open_store

    opened = open_store(store)
    layers, targets = split_names(layer, opened.layers), split_names(target)
    if config is None:
        if not layers:
            raise InputError(f"got no --layer; {close_names('', opened.layers)}")
        require_splits(opened, splits)
        choose(opened, "layer", layers, splits)
        choose(opened, "target", targets, splits)
    return layers, targets


def with_values(arguments: Sequence[str]) -> list[str]:
    """The command line with the value that a bare --save-predictions stands for.

    >>> with_values(["--save-predictions", "--tol", "1e-3"])
    ['--save-predictions', 'classes', '--tol', '1e-3']
    """
    found: list[str] = []
    for at, word in enumerate(arguments):
        found.append(word)
        if word == "--save-predictions" and arguments[at + 1 : at + 2] not in (["classes"], ["scores"]):
            found.append("classes")
    return found


def list_of(text: str | None) -> list[Any] | None:
    return None if text is None else [number_of(part.strip()) for part in text.split(",") if part.strip()]


def seeds_of(text: str) -> Any:
    """A count, or with commas a list of seeds, for the plan to check.

    >>> seeds_of("5"), seeds_of("0,3"), seeds_of("7,")
    (5, [0, 3], [7])
    """
    return list_of(text) if "," in text else number_of(text)


def weights_of(text: str | None) -> Any:
    """'balanced', or 'cat=2,dog=0.5' as a mapping, for the plan to check."""
    if text is None or "=" not in text:
        return text
    # A name may hold commas and equals signs, as ImageNet's do: its `=` is the last before a comma.
    pairs = re.findall(r"(.+?)=([^=,]*)(?:,|$)", text)
    if "".join(f"{name}={weight}," for name, weight in pairs).rstrip(",") != text.rstrip(","):
        return text
    return {name.strip(): number_of(weight.strip()) for name, weight in pairs}


def memory_bytes(given: Any, name: str = "memory_limit") -> int | None:
    """Bytes of a whole number, or of '4GiB', '500 MB', '1e9'; None stays None.

    >>> memory_bytes("4GiB") == 4 * 2**30
    True
    """
    from dask.utils import parse_bytes

    if given is None:
        return None
    try:
        count = 0 if isinstance(given, bool) else int(parse_bytes(given) if isinstance(given, str) else given)
    except (ValueError, TypeError, OverflowError):
        count = 0
    if count < 1:
        raise InputError(f"got {name} {given!r}; allowed: bytes, or a number with a unit such as 4GiB")
    return count


def number_of(text: str) -> Any:
    """A whole number, a number, or the text itself for the plan to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
