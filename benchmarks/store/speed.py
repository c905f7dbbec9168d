"""The store beside np.save / np.load, h5py and zarr-python, on the same 50,000 x 2048 float16.

    python -m benchmarks.store.speed                     the record
    python -m benchmarks.store.speed --samples 5000 --runs 2 --no-record

Each peer runs in turn (A B C A B C ...), and in a process of its own for the peak memory. Times are wall time
with a warm page cache; what is read is compared with the data. Checksums: ours and zarr's crc32c; h5py and
.npy have none. Writes are without or with fsync: ours always syncs, so its peer is np.save followed by fsync.
Every write is of a new file: what an earlier one left is moved aside, and removed where no clock runs.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Work = dict[str, Callable[[], Any]]
SPLIT, LAYER, BLOCK = "train", "layer", 6250


def features(samples: int, neurons: int) -> np.ndarray:
    """float16 after a ReLU: 39% zeros, as the features of a convolutional network are."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((samples, neurons), dtype=np.float32)
    values += 0.28
    return np.maximum(values, 0, out=values).astype(np.float16)


def aside(path: Path) -> None:
    """Make room for a new file or folder at `path`, at no cost that grows with the old one."""
    if path.exists():
        path.rename(path.with_name(f"old-{uuid.uuid4().hex}"))


def remove_old(folder: Path) -> None:
    """Remove what was moved aside, and let the disk come to rest."""
    for path in folder.glob("old-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.sync()


def numpy_work(folder: Path, values: np.ndarray | None, columns: dict[str, np.ndarray]) -> Work:
    path = folder / "x.npy"

    def save(sync: bool) -> None:
        aside(path)
        with open(path, "wb") as file:
            np.save(file, values)
            if sync:
                file.flush()
                os.fsync(file.fileno())

    def blocks() -> None:
        mapped = np.load(path, mmap_mode="r")
        for start in range(0, len(mapped), BLOCK):
            np.array(mapped[start : start + BLOCK])

    work: Work = {"write": lambda: save(False), "write, fsync": lambda: save(True)}
    work |= {"full read": lambda: np.load(path), "row blocks": blocks}
    for name, index in columns.items():
        work[name] = lambda index=index: np.take(np.load(path, mmap_mode="r"), index, axis=1)
    return work


def store_work(
    folder: Path, values: np.ndarray | None, columns: dict[str, np.ndarray], **options: Any
) -> Work:
    import probecache as pc

    path = folder / f"store-{options.get('compression')}"

    def write() -> None:
        aside(path)
        pc.write_arrays(
            path,
            split=SPLIT,
            layer=LAYER,
            activations=values,
            labels=np.zeros(len(values), np.int64),
            **options,
        )

    def blocks() -> None:
        for _ in pc.open_store(path).blocks(SPLIT, LAYER, rows=BLOCK):
            pass

    work: Work = {"write, fsync": write, "full read": lambda: pc.open_store(path).matrix(SPLIT, LAYER)}
    work["row blocks"] = blocks
    for name, index in columns.items():
        work[name] = lambda index=index: pc.open_store(path).matrix(SPLIT, LAYER, columns=index)
    return work


def h5py_work(folder: Path, values: np.ndarray | None, columns: dict[str, np.ndarray]) -> Work:
    import h5py

    path = folder / "x.h5"

    def write() -> None:
        aside(path)
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=values, chunks=(1024, values.shape[1]))

    def read(select: Callable[[Any], Any]) -> Any:
        with h5py.File(path) as file:
            return select(file["x"])

    def blocks() -> None:
        with h5py.File(path) as file:
            for start in range(0, len(file["x"]), BLOCK):
                file["x"][start : start + BLOCK]

    work: Work = {"write": write, "full read": lambda: read(lambda x: x[:]), "row blocks": blocks}
    for name, index in columns.items():
        work[name] = lambda index=index: read(lambda x: x[:, index])
    return work


def zarr_work(folder: Path, values: np.ndarray | None, columns: dict[str, np.ndarray]) -> Work:
    """zarr-python's own writing and reading of the same layout; columns the way that is fastest there."""
    import zarr
    from zarr.codecs import Crc32cCodec

    path = folder / "x.zarr"

    def write() -> None:
        aside(path)
        array = zarr.create_array(
            path,
            shape=values.shape,
            dtype=values.dtype,
            shards=(8192, values.shape[1]),
            chunks=(1024, values.shape[1]),
            compressors=[Crc32cCodec()],
        )
        array[:] = values

    def taken(index: np.ndarray) -> np.ndarray:
        array = zarr.open_array(path, mode="r")
        parts = [array[i : i + 8192][:, index] for i in range(0, array.shape[0], 8192)]
        return np.concatenate(parts)

    def blocks() -> None:
        array = zarr.open_array(path, mode="r")
        for start in range(0, array.shape[0], BLOCK):
            array[start : start + BLOCK]

    work: Work = {
        "write": write,
        "full read": lambda: zarr.open_array(path, mode="r")[:],
        "row blocks": blocks,
    }
    for name, index in columns.items():
        work[name] = lambda index=index: taken(index)
    return work


PEERS: dict[str, Callable[..., Work]] = {
    "numpy": numpy_work,
    "probecache": store_work,
    "probecache zstd": lambda *a: store_work(*a, compression="zstd"),
    "h5py": h5py_work,
    "zarr": zarr_work,
}


def subsets(neurons: int) -> dict[str, np.ndarray]:
    order = np.random.default_rng(1).permutation(neurons)
    return {f"{share}% of columns": np.sort(order[: neurons * share // 100]) for share in (5, 20)}


def peak_mib(folder: Path, peer: str, task: str) -> float:
    """Most memory, beyond that of mapped files, that one task takes in a fresh process, MiB."""
    command = [sys.executable, "-m", "benchmarks.store.speed", "--peak", str(folder), peer, task]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(folder: Path, peer: str, task: str) -> None:
    values = np.load(folder / "source.npy", mmap_mode="r")
    work = PEERS[peer](folder, values, subsets(values.shape[1]))[task]
    before, peak, done = anonymous_kib(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous_kib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    print(max(peak - before, 0) / 1024)


def anonymous_kib() -> int:
    """Memory of this process that is not of mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])


def check(works: dict[str, Work], values: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """Every peer gives the data back."""
    for name, work in works.items():
        for write in ("write, fsync", "write"):
            if write in work:
                work[write]()
        assert np.array_equal(work["full read"](), values), name
        for share, index in columns.items():
            assert np.array_equal(work[share](), values[:, index]), (name, share)


def size(folder: Path, name: str) -> float:
    """MB on disk."""
    ours = "store-zstd" if "zstd" in name else "store-None"
    path = {"numpy": "x.npy", "h5py": "x.h5", "zarr": "x.zarr"}.get(name, ours)
    files = [folder / path] if (folder / path).is_file() else (folder / path).rglob("*")
    return round(sum(p.stat().st_size for p in files if p.is_file()) / 1e6, 1)


def run(samples: int, neurons: int, runs: int, folder: Path) -> dict[str, Any]:
    from benchmarks.record import alternate

    values, columns = features(samples, neurons), subsets(neurons)
    works = {name: make(folder, values, columns) for name, make in PEERS.items()}
    check(works, values, columns)
    tasks = list(dict.fromkeys(task for work in works.values() for task in work))
    milliseconds: dict[str, dict[str, float]] = {name: {} for name in works}
    for task in tasks:
        mine = {name: work[task] for name, work in works.items() if task in work}
        times = alternate(mine, runs, before=lambda: remove_old(folder))
        for name, seconds in times.items():
            milliseconds[name][task] = round(1e3 * statistics.median(seconds), 1)
    pairs = [(task, task) for task in milliseconds["probecache"]] + [("write, fsync", "write")]
    ratios = {
        f"{ours} over numpy's {theirs}": round(
            milliseconds["probecache"][ours] / milliseconds["numpy"][theirs], 2
        )
        for ours, theirs in pairs
    }
    np.save(folder / "source.npy", values)
    peaks = {
        f"{peer}: {task}": round(peak_mib(folder, peer, task), 1)
        for peer in ("probecache", "numpy", "zarr")
        for task in ("write" if peer == "zarr" else "write, fsync", "row blocks", "20% of columns")
    }
    return {
        "shape": [samples, neurons],
        "zeros": round(float((values == 0).mean()), 3),
        "runs": runs,
        "milliseconds": milliseconds,
        "ours over numpy": ratios,
        "megabytes": {name: size(folder, name) for name in works},
        "peak_mib": peaks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--neurons", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--peak", nargs=3, metavar=("FOLDER", "PEER", "TASK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        measure_peak(Path(arguments.peak[0]), arguments.peak[1], arguments.peak[2])
        return
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder, warnings.catch_warnings():
        results = run(arguments.samples, arguments.neurons, arguments.runs, Path(folder))
    print(json.dumps(results, indent=1))
    if not arguments.no_record:
        from benchmarks.record import record

        print(record("store", results))


if __name__ == "__main__":
    main()
