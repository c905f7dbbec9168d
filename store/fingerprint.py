"""What decides a feature's value, and the sentence that says how two of them differ."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from probecache.store.errors import FingerprintMismatch, InputError


def canonical(value: Any) -> str:
    """One text per JSON value: sorted keys, no spaces, no NaN.

    >>> canonical({"b": [1, 2.0], "a": None})
    '{"a":null,"b":[1,2.0]}'
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"a fingerprint holds JSON values only: {error}") from None


def digest(*values: Any) -> str:
    """32 hex digits (BLAKE2b, 128 bit) of the canonical JSON of `values`."""
    text = "\n".join(canonical(value) for value in values)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Fingerprint:
    """What decides the values of a store, in three parts; a layer adds its own (`LayerSpec.attrs`, dtype).

    backbone  of the store: model name and arguments, weights hash, ...
    compute   of the store: preprocessing, input size, AMP dtype, decoder, library versions, ...
    data      of one split: dataset specification, content, ... Sample order is compared by the stored ids.
    """

    backbone: Mapping[str, Any] = field(default_factory=dict)
    compute: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("backbone", "compute", "data"):
            # through JSON and back: what is compared later is what is stored (tuples become lists)
            object.__setattr__(self, name, json.loads(canonical(dict(getattr(self, name)))))

    @property
    def digest(self) -> str:
        return digest(self.backbone, self.compute, self.data)


def differences(stored: Any, asked: Any, name: str = "") -> Iterator[str]:
    """Each field that differs, with both values.

    >>> list(differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": 4}))
    ['b.c: stored 2, asked 3', 'd: stored nothing, asked 4']
    """
    if isinstance(stored, Mapping) and isinstance(asked, Mapping):
        for key in sorted({*stored, *asked}):
            path = f"{name}.{key}" if name else str(key)
            if key not in stored:
                yield f"{path}: stored nothing, asked {canonical(asked[key])}"
            elif key not in asked:
                yield f"{path}: stored {canonical(stored[key])}, asked nothing"
            else:
                yield from differences(stored[key], asked[key], path)
    elif canonical(stored) != canonical(asked):
        yield f"{name}: stored {canonical(stored)}, asked {canonical(asked)}"


def require_equal(stored: Mapping[str, Any], asked: Mapping[str, Any], where: str) -> None:
    """Raise FingerprintMismatch, naming each differing field with both values, unless the two are equal."""
    different = list(differences(stored, json.loads(canonical(dict(asked)))))
    if different:
        raise FingerprintMismatch(
            f"{where} was made differently: {'; '.join(different)} (use the stored settings, or "
            f"another store)"
        )
