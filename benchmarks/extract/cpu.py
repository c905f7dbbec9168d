"""Extraction on a CPU beside the loops that people write, by the wall's clock and by the processor's.

    OMP_NUM_THREADS=1 python -m benchmarks.extract.cpu --case test_resnet:96:4096:cifar10/train.tar ...

A case is MODEL:SIZE:IMAGES:FILE. All read the same files with one decoding process, in batches of 32 and
float32:

- bare: the model on decoded images in memory, results dropped. The limit.
- ours, ours-torchcodec: `extract` with either decoder, into a store with checksums, on disk.
- hand: a DataLoader over our reader and timm's transform in uint8, features in a list, np.save.
- timm: timm's own `create_dataset` and `create_loader`, features in a list, np.save.

Processor seconds are those of the process and of those that decode for it, system calls included: they hardly
depend on what else runs on the machine, where the wall's do. Runs alternate after one that warms up; medians,
and medians of paired ratios to ours: above 1 says that ours takes less. Ours is counted from the decoding
processes' start to the last committed shard; `whole_call` adds the backbone's making, hashing and watching
and the digest of the images.
"""

import argparse
import gc
import resource
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

import probecache.extract.run as run_module
from benchmarks.extract.speed import _Decoded, forward
from benchmarks.record import record
from probecache.extract.pipeline.loader import batch_ranges, open_batches
from probecache.extract.prepare import Setup, prepare
from probecache.extract.run import extract_features
from probecache.extract.settings import Settings

BATCH = 32
Spent = tuple[float, float]  # seconds of the wall and of the processor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", required=True, help="MODEL:SIZE:IMAGES:FILE, repeatable")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", help="folder of the record (default: benchmarks/results)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for case in arguments.case:
        model, size, count, path = case.split(":", 3)
        with tempfile.TemporaryDirectory(prefix="extract-") as folder:
            results[f"{model} {size} px"] = measure(
                model, int(size), int(count), path, arguments.runs, Path(folder)
            )
        # After every case: the ones before are kept where a later one is stopped.
        print(f"record: {record('extract-loops-cpu', results, folder=arguments.out)}", flush=True)


def measure(model: str, size: int, count: int, path: str, runs: int, folder: Path) -> dict[str, Any]:
    """Seconds of every contender for one case, per image, and the ratios to ours."""
    options: dict[str, Any] = {
        "data_dir": path,
        "split": "train",
        "pretrained": False,
        "device": "cpu",
        "img_size": size,
        "batch_size": BATCH,
        "workers": 1,
        "limit": count,
    }
    setup = prepare(model, "", Settings.of(**options))
    resident = [
        batch.images.contiguous(memory_format=torch.channels_last)
        if setup.compute.channels_last
        else batch.images
        for batch in open_batches(setup.images, setup.preprocess, batch_ranges([(0, count)], BATCH))
    ]
    whole: list[Spent] = []

    def ours(decoder: str) -> Spent:
        shutil.rmtree(folder / decoder, ignore_errors=True)
        with loop_alone() as inside, spending() as call:
            extract_features(model, out=folder / decoder, decoder=decoder, **options)
        whole.append(call[0])
        return inside[0]

    contenders: dict[str, Callable[[], Spent]] = {
        "bare": lambda: timed(lambda: features(setup, iter(resident), setup)),
        "ours": lambda: ours("pillow"),
        "ours-torchcodec": lambda: ours("torchcodec"),
        "hand": lambda: timed(lambda: features(setup, by_hand(setup, count), setup, folder / "hand.npy")),
        "timm": lambda: timed(
            lambda: features(setup, by_timm(setup, path, count), None, folder / "timm.npy")
        ),
    }
    spent: dict[str, list[Spent]] = {name: [] for name in contenders}
    for turn in range(runs + 1):  # the first warms up
        for name, work in contenders.items():
            gc.collect()
            found = work()
            if turn:
                spent[name].append(found)
                print(
                    f"{model:<24} {name:<16} wall {found[0]:7.2f} s, processor {found[1]:7.2f} s", flush=True
                )
    return {
        "images": count,
        "source": Path(path).parent.name + "/" + Path(path).name,
        "threads": torch.get_num_threads(),
        "milliseconds_per_image": {
            clock: {
                n: round(1e3 * statistics.median(s[i] for s in all_) / count, 3) for n, all_ in spent.items()
            }
            for i, clock in enumerate(("wall", "processor"))
        },
        "ratios_to_ours": {
            clock: {
                name: round(
                    statistics.median(b[i] / a[i] for a, b in zip(spent["ours"], taken, strict=True)), 3
                )
                for name, taken in spent.items()
                if name != "ours"
            }
            for i, clock in enumerate(("wall", "processor"))
        },
        "whole_call": {
            clock: round(statistics.median(call[i] for call in whole[2:]), 2)
            for i, clock in enumerate(("wall", "processor"))
        },
        "seconds": {name: [[round(v, 3) for v in pair] for pair in taken] for name, taken in spent.items()},
        "largest_relative_difference": differences(folder),
    }


def features(setup: Setup, batches: Iterator[Any], normalise: Setup | None, path: Path | None = None) -> None:
    """The loop that people write: features of uint8 or normalised batches, kept in a list and saved."""
    model, run = setup.backbone.model, forward(setup)
    found = []
    with setup.compute.precision():
        for batch in batches:
            x = batch[0] if isinstance(batch, list | tuple) else batch
            if setup.compute.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            y: Tensor = (
                run(x) if normalise else model.forward_head(model.forward_features(x), pre_logits=True)
            )
            if path is not None:
                found.append(y.half().numpy())
    if path is not None:
        np.save(path, np.concatenate(found))


def by_hand(setup: Setup, count: int) -> Iterator[Any]:
    source: Any = Subset(_Decoded(setup.images, setup.preprocess.transform()), range(count))
    return iter(DataLoader(source, BATCH, num_workers=1))


def by_timm(setup: Setup, path: str, count: int) -> Iterator[Any]:
    from timm.data import create_dataset, create_loader

    data = create_dataset("", root=path, split="train", is_training=False)
    data.reader.samples = data.reader.samples[:count]
    p = setup.preprocess
    return iter(
        create_loader(
            data,
            input_size=p.input_size,
            batch_size=BATCH,
            use_prefetcher=False,
            interpolation=p.interpolation,
            mean=p.mean,
            std=p.std,
            crop_pct=p.crop_pct,
            num_workers=1,
            pin_memory=False,
            device=torch.device("cpu"),
        )
    )


def differences(folder: Path) -> dict[str, float]:
    """Between the store of Pillow's pictures and the others, relative to the largest value."""
    from probecache.store.reader import open_store

    mine = open_store(folder / "pillow").matrix("train", "penultimate", dtype=np.float32)
    others = {name: np.load(folder / f"{name}.npy").astype(np.float32) for name in ("hand", "timm")}
    others["ours-torchcodec"] = open_store(folder / "torchcodec").matrix(
        "train", "penultimate", dtype=np.float32
    )
    return {name: float(np.abs(x - mine).max() / np.abs(mine).max()) for name, x in others.items()}


def clocks() -> Spent:
    """Now, and the processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return perf_counter(), sum(u.ru_utime + u.ru_stime for u in used)


@contextmanager
def spending() -> Iterator[list[Spent]]:
    """A list that holds, at the end, the seconds that passed inside."""
    before, found = clocks(), list[Spent]()
    yield found
    after = clocks()
    found.append((after[0] - before[0], after[1] - before[1]))


def timed(work: Callable[[], object]) -> Spent:
    with spending() as found:
        work()
        gc.collect()  # ends the processes of a DataLoader, which count from then on
    return found[0]


@contextmanager
def loop_alone() -> Iterator[list[Spent]]:
    """What `extract` spends between its decoding processes' start and its last shard."""
    found: list[Spent] = []
    whole = run_module._compute

    def compute(*arguments: Any) -> Any:
        with spending() as inside:
            summary = whole(*arguments)
            gc.collect()
        found.extend(inside)
        return summary

    run_module._compute = compute
    try:
        yield found
    finally:
        run_module._compute = whole


if __name__ == "__main__":
    main()
