"""What grows with shards on S3 with 30 ms of latency: `verify`, and the start of a sweep over 40 targets.

python -m benchmarks.store.scale_small     # verify of 200 shards; targets of 100, and of 2,000 on a disk
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import probecache as pc
from benchmarks.record import record
from benchmarks.store.scale import LATENCY, ROWS, counted_files, local, measure, s3, write
from probecache.store.verification.verify import verify

TARGETS = 40


def with_targets(path: Path, shards: int, by_shard: bool) -> None:
    """A store with targets; `by_shard`: in a chunk for each shard, as they were before."""
    write(path, shards)
    one = mock.patch(
        "probecache.store.writing.targets.chunk_geometry", lambda split, kind, names: split.geometry
    )
    with one if by_shard else mock.patch.object(local.os, "fsync"):
        for split, n in (("test", ROWS), ("train", shards * ROWS)):
            targets = {f"target{i}": np.arange(n) % (2 + i % 2) for i in range(TARGETS)}
            pc.write_targets(path, split=split, targets=targets)


def targets_start(path: str) -> None:
    """What a sweep over all targets reads before its first block."""
    from probecache.analyze.sweeps.plan import SweepPlan
    from probecache.analyze.sweeps.resolved_plan import check_finite, size_up

    names = tuple(f"target{i}" for i in range(TARGETS))
    check_finite(size_up(SweepPlan("late", (0.5, 1.0), target=names), pc.open_store(path)))


def on_s3(make: Callable[[Path], Any], work: Callable[[str], Any]) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    with mock.patch.object(local.os, "fsync"):
        make(folder / "s.zarr")
    with s3(folder / "s.zarr") as take:
        found = measure(lambda: work("s3://bucket/s.zarr"), take)
    shutil.rmtree(folder)
    return found


def opened(shards: int) -> int:
    """Files that the start of a sweep opens where all lies on this machine."""
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    with mock.patch.object(local.os, "fsync"):
        with_targets(folder / "s.zarr", shards, by_shard=False)
    with counted_files() as take:
        targets_start(str(folder / "s.zarr"))
        count = take()["opened"]
    shutil.rmtree(folder)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--verify", type=int, default=200, help="shards that are verified")
    parser.add_argument("--targets", type=int, nargs="+", default=[100], help="shards, of each store")
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    import probecache.analyze.sweeps.resolved_plan  # noqa: F401  what is imported is not measured

    found: dict[str, Any] = {"latency": LATENCY, "targets": TARGETS}
    shards = arguments.verify
    found["verify"] = {"shards": shards, **on_s3(lambda p: write(p, shards), lambda url: list(verify(url)))}
    print(found, flush=True)
    found["start of a sweep"] = {}
    for n in arguments.targets:
        for by_shard in (True, False):
            name = f"{n} shards, {'a chunk for each' if by_shard else 'chunks of many'}"
            made = on_s3(lambda p, n=n, by_shard=by_shard: with_targets(p, n, by_shard), targets_start)
            found["start of a sweep"][name] = made
            print(name, made, flush=True)
    found["files opened on a local disk"] = {str(n): opened(n) for n in (200, 2000)}
    print(found["files opened on a local disk"], flush=True)
    if not arguments.no_record:
        print(record("scale-small", found))


if __name__ == "__main__":
    main()
