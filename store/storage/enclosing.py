"""Whether a folder would lie inside a store or RESULTS: there it is damage, or goes when those grow."""

import json
import os
from pathlib import Path

from probecache.store.errors import InputError
from probecache.store.storage.files import open_files, read_piece


def require_outside(path: str | os.PathLike[str]) -> None:
    """InputError where a folder above `path` is a store, a part of one, or RESULTS."""
    place = Path(os.path.realpath(Path(path).expanduser()))
    for folder in place.parents:
        if (kind := _kind(folder)) is not None:
            raise InputError(
                f"got the path {path}, inside {folder}, which is {kind}: there it would be damage; name a "
                "place beside it"
            )


def _kind(folder: Path) -> str | None:
    """What of ours a folder is, as far as its document says."""
    raw = read_piece(open_files(folder), "zarr.json") if os.path.lexists(folder / "zarr.json") else None
    try:
        attributes = json.loads(raw)["attributes"] if isinstance(raw, bytes) else {}
        names = {"probecache": "a store or a part of one", "results": "RESULTS"}
        return next((kind for name, kind in names.items() if name in attributes), None)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
