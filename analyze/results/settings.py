"""What RESULTS were made with: kept as attributes, and what must agree for a sweep to go on in them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probecache.store.errors import FingerprintMismatch

_TOLD = 4  # differences that a line names: a store written anew differs in every layer


def check_settings(path: Path, attributes: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """FingerprintMismatch, with each differing setting, where RESULTS were made in another way."""
    there = json.loads(attributes["settings"])
    wanted = json.loads(json.dumps(settings))
    differing = _differences(there, wanted)
    if differing:
        more = f"; and {len(differing) - _TOLD} more" if len(differing) > _TOLD else ""
        raise FingerprintMismatch(
            f"{path} holds a sweep made with other settings: {'; '.join(differing[:_TOLD])}{more}; "
            "give another --out, or the settings that it was made with"
        )


def settings_attributes(there: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as attributes: one JSON text, and beside it the names that a reader looks for.

    there: those of RESULTS that go on, which `check_settings` found to agree. They stay as they are, since
    seals are made with them: a later version may know settings that these do not name.
    """
    digests = there.get("digests", {}) | now["digests"]
    settings = {**(there or now), "digests": digests}
    named = {name: str(now[name]) for name in ("probe", "train", "test", "standardize", "tol")}
    named |= {name: str(now[name]) for name in ("control", "groups") if now.get(name)}
    return named | {
        "settings": json.dumps(settings, sort_keys=True),
        "fingerprint": ", ".join(f"{layer}: {digest}" for layer, digest in sorted(digests.items())),
    }


def _differences(there: Any, wanted: Any, name: str = "") -> list[str]:
    """Fields that differ, as 'name: theirs there, ours now'; a layer that one side lacks is no difference."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        keys = sorted(there.keys() & wanted.keys() if name == "digests" else there.keys() | wanted.keys())
        return [
            line
            for key in keys
            for line in _differences(there.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if there == wanted else [f"{name}: {there!r} there, {wanted!r} now"]
