"""What RESULTS, CKA outputs, targets and the newer commands survive, counted.

    python -m benchmarks.store.trust                       # the record: 200 flips, 60 kills, 400 power losses
    python -m benchmarks.store.trust --kills 6 --flips 20 --losses 20 --no-record

A flip changes one random bit of a random file: it is named by `verify`, or reading gives what it gave. A kill
(SIGKILL) comes at a random time; the same work then continues and must give what an uninterrupted run does. A
power loss is simulated (store/power.py): what is left reads as it was, or is named, never as others;
then the same work runs again and must give what an uninterrupted run does, to the content of `verify`.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import probecache as pc
from benchmarks.store.faults import in_child, litter
from benchmarks.store.power import Disk, lose_power, traced
from benchmarks.store.together import looks_beside_a_writer, sweep_beside_a_layer, two_sweeps
from benchmarks.store.work import (
    WORK,
    N,
    X,
    Y,
    features,
    good,
    prepared,
    state,
    swept,
    targets,
)
from probecache.analyze.results.saved import save_dataset
from probecache.analyze.results.verify import verify_results
from probecache.store import claims
from probecache.store.fingerprint import Fingerprint
from probecache.store.layout import LayerSpec, SplitSpec
from probecache.store.storage import local, writer_identity
from probecache.store.storage.local import LocalFiles
from probecache.store.verification.verify import verify
from probecache.store.writer import open_split_writer


def kills(n: int, chance: random.Random, base: Path) -> dict[str, Any]:
    """n kills over the newer work, each in a fresh folder, and what the same work made of what was left."""
    names = ["subset", "report", "target", "stream", "growth of RESULTS"]
    begun = {name: prepared(name, base / f"begun-{i}") for i, name in enumerate(names)}
    whole, seconds = {}, {}
    for name in names:
        folder = base / "whole"
        shutil.copytree(begun[name], folder)
        start = time.perf_counter()
        in_child(partial(WORK[name], folder))
        seconds[name] = time.perf_counter() - start
        whole[name] = state(folder)
        shutil.rmtree(folder)
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    for k in range(n):
        name, folder = names[k % len(names)], base / "killed"
        killed = False
        while not killed:  # it may have ended before its time had come
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(begun[name], folder)
            killed = not in_child(partial(WORK[name], folder), seconds=chance.uniform(0, seconds[name]))
        in_child(partial(WORK[name], folder))
        counts[name]["kills"] += 1
        counts[name]["the same as uninterrupted"] += state(folder) == whole[name]
        counts[name]["good under verify"] += good(folder)
        counts[name]["litter left"] += len(litter(folder)) + len(list(folder.glob(".*")))
        shutil.rmtree(folder)
    return {name: dict(count) for name, count in counts.items()}


def read_or_named(look: Callable[[], Any], expected: Any) -> str:
    """Whether reading gives what is right, other values without a word, or an error that names it."""
    try:
        return "right" if look() == expected else "silent"
    except pc.ProbecacheError:
        return "named"


def flips(n: int, chance: random.Random, base: Path) -> dict[str, Any]:
    """n flips, in turn over RESULTS, a CKA output and targets."""
    folder = base / "flips"
    folder.mkdir()
    store = features(folder / "s")
    targets(folder)
    swept(folder)
    save_dataset(pc.cka(store, layer="l", split="train", fractions=[0.3, 1]), folder / "cka")
    looks: dict[str, tuple[list[Path], Callable[[], Any], Callable[[], Any]]] = {
        "RESULTS": (
            [folder / "r"],
            lambda: {
                k: v.values.tobytes() for k, v in pc.open_results(folder / "r").load().variables.items()
            },
            lambda: verify_results(str(folder / "r")),
        ),
        "CKA": (
            [folder / "cka"],
            lambda: {
                k: v.values.tobytes() for k, v in pc.open_results(folder / "cka").load().variables.items()
            },
            lambda: verify_results(str(folder / "cka")),
        ),
        "targets": (
            [folder / "s/train/size", folder / "s/train/color"],
            lambda: [
                pc.open_store(folder / "s").target("train", t).values.tobytes() for t in ("size", "color")
            ],
            lambda: list(verify(str(folder / "s"))),
        ),
    }
    expected = {name: look() for name, (_, look, _) in looks.items()}
    counts: dict[str, Counter[str]] = {name: Counter() for name in looks}
    for k in range(n):
        name = list(looks)[k % 3]
        roots, look, named = looks[name]
        files = sorted(p for root in roots for p in root.rglob("*") if p.is_file())
        file = chance.choices(files, [1] * len(files) if k % 2 else [p.stat().st_size for p in files])[0]
        raw = file.read_bytes()
        bit = chance.randrange(8 * len(raw))
        file.write_bytes(raw[: bit // 8] + bytes([raw[bit // 8] ^ 1 << bit % 8]) + raw[bit // 8 + 1 :])
        seen = read_or_named(look, expected[name])
        told = bool(named())
        counts[name]["flips"] += 1
        counts[name]["named by verify"] += told
        counts[name]["refused or right when read"] += seen != "silent"
        counts[name]["silent"] += seen == "silent" or not (told or seen == "right")
        if seen == "silent" or not told:
            print(f"{name}: bit {bit} of {file.relative_to(folder)}: {seen}, verify {told}", file=sys.stderr)
        file.write_bytes(raw)
    shutil.rmtree(folder)
    return {name: dict(count) for name, count in counts.items()}


def losses(n: int, chance: random.Random, base: Path) -> dict[str, Any]:
    """n simulated power losses, in turn over five pieces of work."""
    names = ["import", "growth of a store", "target", "sweep", "growth of RESULTS"]
    counts: dict[str, Counter[str]] = {}
    for i, name in enumerate(names):
        folder = prepared(name, base / f"before-{i}")
        before, work = state(folder), WORK[name]
        kept = base / f"kept-{i}"
        shutil.copytree(folder, kept)
        with (  # after a power loss no writer of before lives
            mock.patch.object(local, "mark", _dead_mark),
            mock.patch.object(claims, "mark", _dead_mark),
            traced(folder) as trace,
        ):
            work(folder)
        after = state(folder)
        right = {key: {before.get(key), after[key]} for key in after}
        counts[name] = Counter(operations=len(trace))
        for _ in range(n // len(names)):
            target = base / "lost"
            disk = Disk(kept)
            disk.names = {k.replace(str(kept), str(folder), 1): v for k, v in disk.names.items()}
            disk.folders = {k.replace(str(kept), str(folder), 1) for k in disk.folders}
            disk.folder = folder
            lose_power(disk, trace, target, chance)
            counts[name]["losses"] += 1
            try:
                now = state(target)
                silent = [key for key, value in now.items() if value not in right.get(key, {None})]
                # RESULTS that hold some of the new probes are neither the old nor the new ones
                counts[name]["silent"] += bool(silent) and not _part(target, folder)
            except pc.ProbecacheError:
                counts[name]["named, or unfinished"] += 1
            try:
                work(target)
                counts[name]["went on to the same"] += state(target) == after
                counts[name]["good under verify"] += (fine := good(target))
                if not fine:
                    print(f"{name}: {[str(d) for d in verify(str(target / 's'))][:3]}", file=sys.stderr)
            except pc.ProbecacheError as error:
                counts[name]["stuck"] += 1
                print(f"{name}: stuck: {error}", file=sys.stderr)
            shutil.rmtree(target)
        shutil.rmtree(folder)
        shutil.rmtree(kept)
    return {name: dict(count) for name, count in counts.items()}


def _dead_mark() -> str:
    """A mark of this machine whose process id is none: beyond Linux's largest."""
    return f"{writer_identity._here()}-4194399-0-{uuid.uuid4().hex[:8]}"


def _part(folder: Path, whole: Path) -> bool:
    """Whether RESULTS hold, where they say that they hold anything, what the whole ones do."""
    if not (folder / "r").exists():
        return False
    now, then = pc.open_results(folder / "r").load(), pc.open_results(whole / "r").load()
    there = now["state"] == 1
    then = then.sel({dim: now[dim] for dim in now["state"].dims})
    same = [(now[n] == then[n]) | ~there for n in ("accuracy", "objective", "n_neurons")]
    return bool(all(part.all() for part in same))


def stopped_clocks(n: int, base: Path) -> dict[str, int]:
    """Two writers of one split on machines whose clocks stand or run wild; the first sleeps and goes on."""
    counts: Counter[str] = Counter()
    for k in range(n):
        path = base / f"clock{k}"
        names = [str(i) for i in range(N)]
        made = Fingerprint({"source": "arrays"})
        spec = SplitSpec("t", N, [LayerSpec("l", 24, "float32")], ["a", "b", "c"], made, shard_rows=32)
        first = open_split_writer(path, spec)
        pending = list(first.pending())
        for s in pending[: k % 5]:
            at = slice(s.start, s.stop)
            first.write(s, {"l": X[at]}, Y[at], names[at])
        wild = [0.0, 1e12, -1e9][k % 3]
        with (
            mock.patch.object(claims, "alive", return_value=None),  # as another machine sees it
            mock.patch.object(LocalFiles, "age", lambda self, key, wild=wild: 2 * claims.LEASE + abs(wild)),
            mock.patch.object(time, "time", return_value=wild),
            open_split_writer(path, spec) as second,
        ):
            for s in second.pending():
                at = slice(s.start, s.stop)
                second.write(s, {"l": X[at]}, Y[at], names[at])
            second.finish()
        s = pending[-1 - k % 3]
        at = slice(s.start, s.stop)
        try:
            first.write(s, {"l": X[at]}, Y[at], names[at])
        except pc.ProbecacheError:
            counts["the sleeper was refused"] += 1
        first.close()
        counts["rounds"] += 1
        store = pc.open_store(path)
        counts["rows lost"] += int((store.matrix("t", "l") != X).any(axis=1).sum())
        counts["good under verify"] += not list(verify(str(path)))
        shutil.rmtree(path)
    return dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--losses", type=int, default=400)
    parser.add_argument("--clocks", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20, help="of each kind of work at the same time")
    parser.add_argument("--name", default="trust", help="of the record")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    base = Path(tempfile.mkdtemp(prefix="trust-"))
    results: dict[str, Any] = {"seed": arguments.seed}
    rounds = arguments.rounds
    for name, n, run in (
        ("flips", arguments.flips, partial(flips, arguments.flips, chance, base)),
        ("two writers, stopped clocks", arguments.clocks, partial(stopped_clocks, arguments.clocks, base)),
        ("power losses", arguments.losses, partial(losses, arguments.losses, chance, base)),
        ("kills", arguments.kills, partial(kills, arguments.kills, chance, base)),
        ("two sweeps into one RESULTS", rounds, partial(two_sweeps, rounds, chance, base)),
        ("a sweep beside a new layer", rounds, partial(sweep_beside_a_layer, rounds, chance, base)),
        ("verify and reads beside a writer", rounds, partial(looks_beside_a_writer, rounds, base)),
    ):
        if n:
            results[name] = run()
            print(name, results[name], flush=True)
    shutil.rmtree(base)
    if not arguments.no_record:
        from benchmarks.record import record

        print(record(arguments.name, results))


if __name__ == "__main__":
    main()
