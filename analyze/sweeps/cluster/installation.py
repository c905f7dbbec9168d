"""What computes the numbers: versions of the libraries that decide them, and this package's own code."""

import hashlib
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import probecache

# Those that decide a probe's numbers; a worker may have others of the rest.
DECISIVE = ("torch", "numpy", "scikit-learn")
_TOLD = ("torch", "numpy", "scikit-learn", "distributed", "zarr", "xarray")


def versions() -> str:
    """Name and version of python, of this package and of each library that decides the numbers."""
    found = [f"python {platform.python_version()}", f"probecache {probecache.__version__}"]
    for name in _TOLD:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


@cache
def identity() -> dict[str, str]:
    """What must be the same in every process of one sweep; builds of torch for CPU and CUDA are the same."""
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "probecache": probecache.__version__}
    for name in DECISIVE:
        with suppress(PackageNotFoundError):
            found[name] = version(name).split("+")[0]
    return found | {"code of probecache": _code()}


def differences(there: dict[str, str]) -> str:
    """How another process's identity differs from this one's, in words; empty where it does not."""
    here = identity()
    return ", ".join(
        f"{name} {there.get(name, 'none')} there, {here.get(name, 'none')} here"
        for name in sorted(here.keys() | there.keys())
        if there.get(name) != here.get(name)
    )


def _code() -> str:
    """A hash of the modules that a block may run: those of `analyze` and `store`."""
    root, found = Path(probecache.__file__).parent, hashlib.blake2b(digest_size=6)
    for folder in ("analyze", "store"):
        for file in sorted((root / folder).rglob("*.py")):
            found.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()
