"""Datasets beside RESULTS, such as what `cka` returns: written whole, every file under a checksum."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from zarr.codecs import Crc32cCodec, ZstdCodec

from probecache.analyze.results.check import Damage, settled, version_of
from probecache.analyze.results.lock import real_place, replaced
from probecache.store.errors import DamagedStore, InputError, ProbecacheError
from probecache.store.fingerprint import digest
from probecache.store.format.metadata import render
from probecache.store.storage.files import open_files, read_piece

SEALED = "files"  # in the attribute `results`: key -> hash of each file
COPY = "sealed.json"  # of zarr.json, in an array's folder: what lies there is known where that is lost
_OURS = re.compile(rb'"results": \{\s*"files"')


def require_room_for(path: str | Path | None) -> None:
    """InputError where `save_dataset` would refuse the path: called before any work."""
    if path is not None and os.path.lexists(place := real_place(path)) and not is_saved(place):
        raise InputError(f"{path} exists already: name another --out, or remove it")


def save_dataset(data: xr.Dataset, path: str | Path) -> Path:
    """Write a Dataset as a Zarr group at `path`, whole or not at all; what an earlier call wrote is replaced.

    Every chunk has a crc32c, which any reader of Zarr checks; `open_results` also checks that no file is
    missing, swapped or another's. InputError where the path holds anything else.
    """
    text = {
        name: variable.astype(np.dtypes.StringDType())
        for name, variable in data.variables.items()
        if variable.dtype.kind in "UO"
    }
    data = data.assign({n: v for n, v in text.items() if n in data.data_vars})
    data = data.assign_coords({n: v for n, v in text.items() if n in data.coords})
    codecs = {"compressors": (ZstdCodec(level=1), Crc32cCodec())}
    place = real_place(path)
    with replaced(place, require_room_for) as made:
        data.to_zarr(
            made, mode="w", consolidated=False, encoding={str(n): dict(codecs) for n in data.variables}
        )
        document = json.loads((made / "zarr.json").read_bytes())
        copy = f"{min(map(str, data.variables))}/{COPY}"
        sealed: dict[str, Any] = {SEALED: dict(sorted(_hashes(made))), "copy": copy}
        attributes = {**document["attributes"], "results": sealed}
        sealed["checksum"] = digest(attributes)
        for name in ("zarr.json", copy):
            (made / name).write_bytes(render(document | {"attributes": attributes}))
    return Path(path).expanduser()


def is_saved(path: Path) -> bool:
    """Whether `save_dataset` wrote what lies there, damaged or not."""
    files = open_files(path)
    for key in ("zarr.json", *(f"{name}/{COPY}" for name in files.names(""))):
        with suppress(ProbecacheError):  # a link in its place
            raw = read_piece(files, key)
            if isinstance(raw, bytes) and _OURS.search(raw):
                return True
    return False


def check_saved(path: Path) -> tuple[dict[str, Any], list[Damage]]:
    """The group's attributes, and each damaged, missing or foreign file; DamagedStore for the group's own."""
    return settled(path, lambda: _look(path), lambda found: found[1])


def _look(path: Path) -> tuple[dict[str, Any], list[Damage]]:
    try:
        document = open_files(path).read("zarr.json")
        attributes = json.loads(document or b"")["attributes"]
        checksum = attributes["results"].pop("checksum")
        if digest(attributes) != checksum:
            raise ValueError("its checksum does not fit")
        sealed = attributes.pop("results")
        listed = dict(sealed[SEALED])
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise DamagedStore(f"{path}/zarr.json: it is not what was written ({error})") from None
    there = dict(_hashes(path))
    damages = []
    for key in sorted(listed.keys() | there.keys()):
        if there.get(key) != listed.get(key):
            why = "it is missing" if key not in there else "it is not what was written"
            damages.append(Damage(key, "", why if key in listed else "it does not belong here"))
    copy = sealed.get("copy")
    if copy is not None and read_piece(open_files(path), copy) != document:
        damages.append(Damage(copy, "", "it is not the copy of zarr.json"))
    return attributes, damages


def read_saved(path: str | Path) -> xr.Dataset:
    """What `save_dataset` wrote, loaded; DamagedStore where it is not that."""
    while True:
        version = version_of(path)
        attributes, damages = check_saved(Path(path))
        if damages:
            more = f" and {len(damages) - 1} more" if len(damages) > 1 else ""
            raise DamagedStore(
                f"{path} is damaged: {damages[0]}{more}; write it again by the command that made it"
            )
        data = xr.open_zarr(path, consolidated=False).load()
        if version_of(path) == version:  # else what was checked is not what was loaded
            data.attrs = attributes
            return data


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    """Key and hash of every file but the group's own document and its copy; of none that is being removed."""
    for file in folder.rglob("*"):
        key = file.relative_to(folder).as_posix()
        if file.is_file() and key != "zarr.json" and file.name != COPY:
            with suppress(FileNotFoundError):
                yield key, blake2b(file.read_bytes(), digest_size=8).hexdigest()
