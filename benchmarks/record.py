"""Dated benchmark records: the numbers, and the machine and versions they were measured on."""

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "probecache",
    "torch",
    "timm",
    "zarr",
    "xarray",
    "dask",
    "numpy",
    "scikit-learn",
    "cuml-cu12",
    "cuml-cu13",
)


def record(name: str, results: Mapping[str, Any], *, folder: str | Path | None = None) -> Path:
    """Write `NAME-DATE.json` with `results`, the command, the machine and the versions; return its path.

    `results` holds plain JSON values. An earlier record of the same name and day is replaced.
    """
    where = Path(folder or RESULTS)
    where.mkdir(parents=True, exist_ok=True)
    today = date.today().isoformat()
    path = where / f"{name}-{today}.json"
    entry = {
        "name": name,
        "date": today,
        "command": " ".join(["python", "-m", *_module(sys.argv)]),
        "machine": machine(),
        "versions": versions(),
        "results": results,
    }
    path.write_text(json.dumps(entry, indent=1) + "\n")
    return path


def machine() -> dict[str, Any]:
    """Processor, cores, memory (GiB) and GPU of this machine."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that matter to a measurement."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def alternate(
    work: Mapping[str, Callable[[], Any]],
    runs: int = 5,
    warmup: int = 1,
    before: Callable[[], Any] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each piece of work, run in turn (A B C A B C ...): a drifting machine hits all alike.

    `before` runs ahead of each, where no clock does.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(warmup + runs):
        for name, function in work.items():
            if before is not None:
                before()
            start = perf_counter()
            function()
            if turn >= warmup:
                seconds[name].append(perf_counter() - start)
    return seconds


def _module(argv: Sequence[str]) -> list[str]:
    script = Path(argv[0]).resolve()
    root = Path(__file__).resolve().parent.parent
    try:
        name = ".".join(script.relative_to(root).with_suffix("").parts)
    except ValueError:
        name = script.name
    # Folders are this machine's own business: a record keeps their last part.
    return [name, *(re.sub(r"(^|=)/(?:[^/]*/)*", r"\1", a) for a in argv[1:])]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
