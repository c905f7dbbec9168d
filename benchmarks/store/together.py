"""At the same time: two sweeps into one RESULTS, a layer added under a sweep, looks beside a writer."""

import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import probecache as pc
from benchmarks.store.work import PLAN, N, X, Y, features
from probecache.analyze.results.verify import verify_results
from probecache.store.verification.verify import verify

ENDED, REFUSED, FAILED = 0, 3, 1


def started(work: Callable[[], Any]) -> int:
    """A child that does `work`: ends with ENDED, with REFUSED where one line refused it, else FAILED."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except pc.ProbecacheError:
            os._exit(REFUSED)
        except BaseException as error:
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(FAILED)
        os._exit(ENDED)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def same(data: Any, wanted: Any) -> bool:
    """Whether every probe of `wanted` is in `data` with its scores, computed once."""
    mine = data.sel({dim: wanted[dim] for dim in wanted["accuracy"].dims})
    return bool((mine["state"] == 1).all()) and all(
        np.allclose(mine[name], wanted[name], rtol=1e-6) for name in ("accuracy", "objective")
    )


def two_sweeps(n: int, chance: random.Random, base: Path) -> dict[str, Any]:
    """Each grows the same RESULTS; one who is refused tries again, as a user would."""
    store = features(base / "both")
    plans = [PLAN | {"fractions": [0.2, 0.3]}, PLAN | {"seeds": 5, "l2": [1e-2, 1e-1]}]
    wanted = [pc.sweep(store, **plan) for plan in plans]
    counts: Counter[str] = Counter()
    for _ in range(n):
        out = base / "results"
        todo = [partial(pc.sweep, store, **plan, out=out) for plan in plans]
        for _ in range(100):
            children = []
            for work in todo:
                children.append(started(work))
                time.sleep(chance.uniform(0, 0.1))
            codes = [ended(child) for child in children]
            counts["refused in one line, tried again"] += codes.count(REFUSED)
            counts["failed otherwise"] += len(codes) - codes.count(REFUSED) - codes.count(ENDED)
            todo = [work for work, code in zip(todo, codes, strict=True) if code != ENDED]
            if not todo:
                break
        data = pc.open_results(out).load()
        counts["rounds"] += 1
        counts["sweeps"] += len(plans)
        counts["sweeps whose every probe is there and right"] += sum(same(data, one) for one in wanted)
        counts["good under verify"] += verify_results(str(out)) == []
        counts["litter left"] += len([p for p in base.iterdir() if p.name.startswith(".results")])
        shutil.rmtree(out)
    shutil.rmtree(base / "both")
    return dict(counts)


def sweep_beside_a_layer(n: int, chance: random.Random, base: Path) -> dict[str, Any]:
    """A layer is written, shard by shard, into the splits that a sweep of another layer reads."""
    features(base / "whole")
    wanted = pc.sweep(base / "whole", **PLAN)
    counts: Counter[str] = Counter()
    more = np.tile(X, (1, 3)) * 2

    def add(path: Path) -> None:
        for split in ("train", "test"):
            pc.write_arrays(path, split=split, layer="new", activations=more, labels=Y, shard_rows=64)

    for _ in range(n):
        path, out = base / "store", base / "results"
        shutil.copytree(base / "whole", path)
        first, second = partial(add, path), partial(pc.sweep, path, **PLAN, out=out)
        one = started(first)
        time.sleep(chance.uniform(0, 0.15))
        codes = [ended(started(second)), ended(one)]
        counts["rounds"] += 1
        counts["both ended"] += codes == [ENDED, ENDED]
        if codes != [ENDED, ENDED]:
            print(f"a sweep beside a layer: {codes}", file=sys.stderr)
        counts["sweep right"] += out.exists() and same(pc.open_results(out).load(), wanted)
        store = pc.open_store(path)
        rows = [np.array_equal(store.matrix(s, "new"), more) for s in ("train", "test")]
        counts["layer right"] += all(rows)
        counts["good under verify"] += not list(verify(str(path))) and not verify_results(str(out))
        shutil.rmtree(path)
        shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(base / "whole")
    return dict(counts)


def looks_beside_a_writer(n: int, base: Path) -> dict[str, Any]:
    """`verify` and reads again and again while a split is imported, grows and gets a layer."""
    counts: Counter[str] = Counter()

    def work(path: Path) -> None:
        for rows in (100, N):
            pc.write_arrays(path, split="t", layer="l", activations=X[:rows], labels=Y[:rows], shard_rows=16)
        pc.write_arrays(path, split="t", layer="new", activations=X, labels=Y, shard_rows=16)

    for _ in range(n):
        path = base / "store"
        child, running = started(partial(work, path)), True
        while running:
            done, status = os.waitpid(child, os.WNOHANG)
            running = not done
            try:
                found = [damage for damage in verify(str(path)) if damage.harmful]
                counts["looks of verify"] += 1
                counts["damage told beside a writer"] += bool(found)
                for damage in found:
                    print(f"beside a writer: {damage}", file=sys.stderr)
                store = pc.open_store(path, partial=True)
                values = store.matrix("t", "l")
                there = ~np.isnan(values).all(axis=1)
                counts["reads"] += 1
                counts["rows read"] += int(there.sum())
                counts["rows read wrong"] += int((values[there] != X[: len(values)][there]).any(axis=1).sum())
            except (pc.UnfinishedSplit, pc.NotAStore, pc.InputError):
                counts["answered: not there yet"] += 1
            except pc.DamagedStore as error:
                counts["damage told beside a writer"] += 1
                print(f"beside a writer: {error}", file=sys.stderr)
        counts["rounds"] += 1
        counts["writers that ended"] += os.waitstatus_to_exitcode(status) == ENDED
        store = pc.open_store(path)
        counts["rows lost"] += sum(
            int((store.matrix("t", layer) != X).any(axis=1).sum()) for layer in ("l", "new")
        )
        counts["good under verify"] += not list(verify(str(path)))
        shutil.rmtree(path)
    return dict(counts)
