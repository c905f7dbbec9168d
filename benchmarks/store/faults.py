"""Kill, flip, truncate: what a store survives, counted.

    python -m benchmarks.store.faults                  the whole record: 50 kills, 200 flips
    python -m benchmarks.store.faults --kills 6 --flips 0 --no-extract --no-record

Each kill forks a process that writes a store and is killed (SIGKILL), half of the time in the midst of
writing a file of a shard, else at a random time. The same call then continues, and the store must equal one
that was never interrupted; shards that were committed before the kill must not have been touched again.
A flip changes one random bit of one random file; `verify` must name a damage.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import probecache as pc
from probecache.store.storage import local
from probecache.store.verification.verify import verify

SHARD_ROWS = 64
Work = Callable[[Path, Path | None], None]


def import_features(path: Path, images: Path | None) -> None:
    """The work of `probecache import`: two layers of 600 rows in ten shards."""
    rng = np.random.default_rng(0)
    values, labels = rng.standard_normal((600, 500)).astype(np.float16), rng.integers(0, 10, 600)
    common = {"split": "train", "labels": labels, "shard_rows": SHARD_ROWS}
    pc.write_arrays(path, layer="one", activations=values, **common)
    pc.write_arrays(path, layer="two", activations=values.astype(np.float32), compression="zstd", **common)


def extract(path: Path, images: Path | None) -> None:
    """The work of `probecache extract`: a small random backbone over digits, two layers."""
    import torch

    torch.set_num_threads(1)
    pc.extract_features(
        "test_resnet",
        data_dir=str(images),
        split="train",
        pretrained=False,
        layers=("penultimate", "layer3"),
        img_size=32,
        batch_size=32,
        workers=0,
        limit=512,
        shard_rows=SHARD_ROWS,
        device="cpu",
        out=path,
    )


def in_child(work: Callable[[], None], seconds: float | None = None, quota: int | None = None) -> bool:
    """Run `work` in a forked process; kill it after `seconds` or `quota` bytes of files. True: it ended."""
    child = os.fork()
    if child == 0:
        try:
            if quota is not None:
                kill_after_bytes(quota)
            work()
        except BaseException as error:
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status) != 0:
        raise SystemExit("a run that was not killed failed")
    return True


def kill_after_bytes(quota: int) -> None:
    """From now on this process dies by SIGKILL once it has written `quota` bytes: mostly within a shard."""
    left = quota
    write = local._write_all

    def dying(descriptor: int, piece: Any) -> None:
        nonlocal left
        flat = (
            np.frombuffer(piece, np.uint8) if isinstance(piece, bytes) else piece.reshape(-1).view(np.uint8)
        )
        if len(flat) >= left:
            write(descriptor, flat[:left].copy())
            os.kill(os.getpid(), signal.SIGKILL)
        left -= len(flat)
        write(descriptor, piece)

    local._write_all = dying


def contents(path: Path) -> dict[str, bytes]:
    """Everything a reader sees: labels, identity, status, activations, moments; as bytes."""
    store = pc.open_store(path)
    found: dict[str, bytes] = {}
    for split in store.splits:
        found[f"{split}/label"] = store.labels(split).tobytes()
        found[f"{split}/sample"] = "\n".join(store.samples(split).tolist()).encode()
        found[f"{split}/status"] = store.status(split).tobytes()
        for layer in store.layers_of(split):
            found[f"{split}/{layer}"] = store.matrix(split, layer).tobytes()
            for name, values in store.moments(split, layer).items():
                found[f"{split}/{layer}/{name}"] = values.values.tobytes()
    return found


def committed(path: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every shard whose commit is there."""
    found = {}
    for commit in path.glob("*/*/commit/c/*/0"):
        shard = commit.parents[3] / "activations/c" / commit.parent.name / "0"
        stat = shard.stat()
        found[str(shard)] = stat.st_ino, stat.st_mtime_ns
    return found


def litter(path: Path) -> list[str]:
    names = [p.name for p in path.rglob("*") if p.is_file()]
    return [n for n in names if n.endswith(".tmp") or n.startswith(("claim-", "lease-"))]


def kills(work: Work, images: Path | None, n: int, chance: random.Random, first: int) -> Any:
    """Kill `work` n times, each time in another store, and continue; counts.

    Kill k is inside a write where k + first is odd, else at a random time.
    """
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    start = time.perf_counter()
    in_child(lambda: work(folder / "whole", images))
    seconds = time.perf_counter() - start
    size = sum(p.stat().st_size for p in (folder / "whole").glob("*/*/activations/c/*/0"))
    expected = contents(folder / "whole")
    counts: Counter[str] = Counter(runs=n)
    for k in range(n):
        path = folder / f"run{k}"
        if (k + first) % 2:
            killed = not in_child(partial(work, path, images), quota=chance.randrange(size))
            counts["killed inside a write"] += killed
        else:
            killed = False
            while not killed:  # it may have ended before its time had come
                shutil.rmtree(path, ignore_errors=True)
                killed = not in_child(partial(work, path, images), seconds=chance.uniform(0.0, seconds))
            counts["killed at a random time"] += killed
        before = committed(path)
        in_child(partial(work, path, images))
        after = committed(path)
        counts["committed shards kept"] += sum(after[key] == value for key, value in before.items())
        counts["committed shards rewritten"] += sum(after[key] != value for key, value in before.items())
        counts["identical to an uninterrupted run"] += contents(path) == expected
        counts["good under verify"] += not list(verify(path))
        counts["litter left"] += len(litter(path))
        shutil.rmtree(path)
    shutil.rmtree(folder)
    return dict(counts)


def flips(n: int, chance: random.Random) -> Any:
    """Flip n random bits, one at a time, over all files of a store; how many `verify` named."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    path = folder / "store"
    import_features(path, None)
    everything = sorted(p for p in path.rglob("*") if p.is_file())
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for k in range(n):
        # half of the flips choose among files alike, half by size: small files are hit as well as large ones
        weights = [1] * len(everything) if k % 2 else [p.stat().st_size for p in everything]
        file = chance.choices(everything, weights)[0]
        good = file.read_bytes()
        raw, bit = bytearray(good), chance.randrange(8 * len(good))
        raw[bit // 8] ^= 1 << bit % 8
        file.write_bytes(raw)
        found = list(verify(path))
        counts["flips"] += 1
        counts["named"] += bool(found)
        kinds.update({damage.kind for damage in found})
        if not found:
            print(f"not seen: bit {bit} of {file.relative_to(path)}", file=sys.stderr)
        file.write_bytes(good)
    shutil.rmtree(folder)
    return {**counts, "kinds": dict(kinds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="half of them over extraction")
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-extract", action="store_true")
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    results: dict[str, Any] = {"seed": arguments.seed}
    share = arguments.kills if arguments.no_extract else arguments.kills // 2
    if share:
        results["import"] = kills(import_features, None, share, chance, first=0)
        print("import:", results["import"])
    if not arguments.no_extract:
        from probecache.extract.digits import write_digits

        images = Path(tempfile.mkdtemp(prefix="faults-images-"))
        results["extract"] = kills(
            extract, write_digits(images / "digits"), arguments.kills - share, chance, first=1
        )
        print("extract:", results["extract"])
        shutil.rmtree(images)
    if arguments.flips:
        results["flips"] = flips(arguments.flips, chance)
        print("flips:", results["flips"])
    if not arguments.no_record:
        from benchmarks.record import record

        print(record("faults", results))


if __name__ == "__main__":
    main()
