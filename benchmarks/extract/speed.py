"""Extraction beside a bare forward loop and beside the loop that people write by hand.

    python -m benchmarks.extract.speed --device cuda            # synthetic images, about a minute on one GPU
    python -m benchmarks.extract.speed --data-dir cifar10/train.tar  # real images on the CPU, some minutes

Same images, batch size, precision and memory format for all:

- bare: the model on images that already lie on the device; results stay there and are dropped. The limit.
- ours: `extract` from the same images (host memory, or files) into a store with checksums, on disk.
- hand: a DataLoader, features kept in a list, one .npy at the end; of the first `--hand-limit` images.

Runs alternate, after one that warms up on `--warm-limit` images; what is reported are medians, and ratios of
paired runs: ours/bare is our rate over the bare loop's. Seconds run from the start of the decoding processes
to the last committed shard or saved file; `whole_call_seconds` is a whole call of `extract`, with building
and hashing the backbone. thingsvision is not beside us: version 2.7.3 pins torch 2.0, numpy 1 and TensorFlow
2.15, which do not install next to a current timm.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.record import record
from probecache.extract.datasets.open import open_images
from probecache.extract.pipeline.loader import batch_ranges, default_workers, open_batches
from probecache.extract.prepare import Setup, prepare
from probecache.extract.run import extract_features
from probecache.extract.settings import Settings
from probecache.store.layout import SHARD_ROWS

LAYER = "penultimate"
DISTINCT = 32  # batches that lie on the device for the bare loop


def main() -> None:
    arguments = parse()
    folder = Path(tempfile.mkdtemp(prefix="extract-", dir=arguments.scratch))
    try:
        results = {name: measure(name, arguments, folder) for name in arguments.models}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    path = record(f"extract-{arguments.device}", results, folder=arguments.out)
    print(f"record: {path}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+")
    parser.add_argument(
        "--data-dir", help="folder or .tar of class folders; default: synthetic images in memory"
    )
    parser.add_argument("--limit", type=int, help="images (default: 16384 on a GPU, 1024 on a CPU)")
    parser.add_argument("--img-size", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--amp-dtype", default="auto")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--hand-limit", type=int, help="images of the hand-written loop (default: --limit; 0: left out)"
    )
    parser.add_argument("--warm-limit", type=int, help="images of the run that warms up (default: --limit)")
    parser.add_argument("--out", help="folder of the record (default: benchmarks/results)")
    parser.add_argument("--scratch", help="folder for stores and .npy files (default: the system's)")
    arguments = parser.parse_args()
    gpu = arguments.device.startswith("cuda")
    if arguments.models is None:
        arguments.models = ["resnet50", "vit_small_patch16_224"] if gpu else ["tf_efficientnet_lite0"]
    arguments.limit = arguments.limit or (16384 if gpu else 1024)
    if arguments.hand_limit is None:
        arguments.hand_limit = arguments.limit
    arguments.hand_limit = min(arguments.hand_limit, arguments.limit)
    arguments.warm_limit = min(arguments.warm_limit or arguments.limit, arguments.limit)
    arguments.batch_size = arguments.batch_size or (256 if gpu else 32)
    arguments.workers = default_workers(arguments.device) if arguments.workers is None else arguments.workers
    return arguments


def measure(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rates (images/s) of every contender for one model, ratios, and where ours spends its time."""
    options = {
        "split": "train",
        "data_dir": arguments.data_dir,
        "pretrained": False,
        "device": arguments.device,
        "amp_dtype": arguments.amp_dtype,
        "img_size": arguments.img_size,
        "batch_size": arguments.batch_size,
        "workers": arguments.workers,
        "limit": arguments.limit,
    }
    begun = perf_counter()
    probe = prepare(name, "" if arguments.data_dir else synthetic(1, 224), Settings.of(**options))
    size = probe.preprocess.input_size[-1]
    dataset: Any = (
        "" if arguments.data_dir else synthetic(arguments.limit, size, probe.preprocess.input_size[0])
    )
    setup = prepare(name, dataset, Settings.of(**options))
    resident = preload(setup, arguments)
    summaries: list[dict[str, Any]] = []
    calls: list[float] = []

    def ours(limit: int) -> float:
        out = folder / "ours.zarr"
        shutil.rmtree(out, ignore_errors=True)
        start = perf_counter()
        store = extract_features(name, dataset, out=out, **{**options, "limit": limit})
        calls.append(perf_counter() - start)
        summaries.append(store.report("train", LAYER)["summary"])
        return float(summaries[-1]["seconds"])

    print(f"{name:<24} ready after {perf_counter() - begun:.1f} s", flush=True)
    contenders: dict[str, Callable[[int], float]] = {
        "bare": lambda limit: bare(setup, resident[: -(-limit // arguments.batch_size)]),
        "ours": ours,
        "hand": lambda limit: hand(setup, arguments, limit, folder / "hand.npy"),
    }
    if not arguments.hand_limit:
        del contenders["hand"]
    images = {"bare": setup.n_samples, "ours": setup.n_samples, "hand": arguments.hand_limit}
    seconds: dict[str, list[float]] = {key: [] for key in contenders}
    for turn in range(arguments.runs + 1):  # the first turn warms up
        for key, work in contenders.items():
            taken = work(images[key] if turn else min(images[key], arguments.warm_limit))
            if turn:
                seconds[key].append(taken)
                print(f"{name:<24} {key:<14} {images[key] / taken:10.1f} images/s", flush=True)
    agree = largest_difference(setup, resident, folder)
    rates = {key: round(images[key] / statistics.median(taken), 1) for key, taken in seconds.items()}
    each = {key: [spent / images[key] for spent in taken] for key, taken in seconds.items()}
    ratios = {
        f"ours/{key}": round(statistics.median(b / a for a, b in zip(each["ours"], taken, strict=True)), 4)
        for key, taken in each.items()
        if key != "ours"
    }
    print(f"{name:<24} ratios {ratios}, largest relative difference to bare {agree:.2e}")
    return {
        "images": setup.n_samples,
        "images_by_hand": arguments.hand_limit,
        "shards": -(-setup.n_samples // SHARD_ROWS),
        "input_size": list(setup.preprocess.input_size),
        "source": Path(arguments.data_dir).name if arguments.data_dir else "synthetic uint8 in host memory",
        "batch_size": arguments.batch_size,
        "workers": arguments.workers,
        "compute": setup.compute.fingerprint(),
        "images_per_second": rates,
        "ratios": ratios,
        "seconds": {key: [round(s, 3) for s in taken] for key, taken in seconds.items()},
        "whole_call_seconds": round(statistics.median(calls[1:]), 3),
        "share": summaries[-1]["share"],
        "worked_seconds": summaries[-1]["worked_seconds"],
        "store_share_of_wall": round(summaries[-1]["share"]["write"], 4),
        "largest_relative_difference": agree,
    }


@cache
def synthetic(count: int, size: int, channels: int = 3) -> TensorDataset:
    """`count` noise images, uint8 (count, channels, size, size), in host memory; 512 different ones."""
    generator = torch.Generator().manual_seed(0)
    shape = (min(count, 512), channels, size, size)
    block = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    images = block.repeat(-(-count // len(block)), 1, 1, 1)[:count]
    return TensorDataset(images, torch.arange(count) % 10)


def preload(setup: Setup, arguments: argparse.Namespace) -> list[Tensor]:
    """Every batch, decoded, on the device, in the model's memory format; of synthetic images, which repeat,
    the first DISTINCT batches again and again."""
    ranges = batch_ranges([(0, setup.n_samples)], arguments.batch_size)
    few = ranges if arguments.data_dir else ranges[:DISTINCT]
    form = torch.channels_last if setup.compute.channels_last else torch.contiguous_format
    resident = [
        batch.images.to(setup.compute.device).contiguous(memory_format=form)
        for batch in open_batches(setup.images, setup.preprocess, few, workers=arguments.workers)
    ]
    cycled = [resident[i % len(resident)] for i in range(len(ranges))]
    cycled[-1] = cycled[-1][: len(ranges[-1])]
    return cycled


def forward(setup: Setup) -> Callable[[Tensor], Tensor]:
    """uint8 batch on the device -> penultimate features, as one writes it with timm."""
    model = setup.backbone.model.to(setup.compute.device)
    if setup.compute.channels_last:
        model = model.to(memory_format=torch.channels_last)
    mean = torch.tensor(setup.preprocess.mean, device=setup.compute.device).view(1, -1, 1, 1)
    std = torch.tensor(setup.preprocess.std, device=setup.compute.device).view(1, -1, 1, 1)

    def run(images: Tensor) -> Tensor:
        x = images.float().div_(255).sub_(mean).div_(std)
        return model.forward_head(model.forward_features(x), pre_logits=True)

    return run


def bare(setup: Setup, resident: list[Tensor]) -> float:
    run = forward(setup)
    with setup.compute.precision():
        run(resident[0])
        synchronize(setup)
        start = perf_counter()
        for images in resident:
            run(images)
        synchronize(setup)
        return perf_counter() - start


def hand(setup: Setup, arguments: argparse.Namespace, limit: int, path: Path) -> float:
    """What people write: a DataLoader over decoded images, a list of features, np.save."""
    run = forward(setup)
    gpu = setup.compute.device.type == "cuda"
    if arguments.data_dir:
        images = open_images("", arguments.data_dir, "train")
        transform = setup.preprocess.transform()
        source: Any = torch.utils.data.Subset(_Decoded(images, transform), range(limit))
    else:
        source = torch.utils.data.Subset(setup.images.source, range(limit))
    start = perf_counter()
    loader = DataLoader(source, arguments.batch_size, num_workers=arguments.workers, pin_memory=gpu)
    found = []
    with setup.compute.precision():
        for x, _ in loader:
            x = x.to(setup.compute.device, non_blocking=True)
            if setup.compute.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            found.append(run(x).half().cpu().numpy())
    np.save(path, np.concatenate(found))
    return perf_counter() - start


class _Decoded(torch.utils.data.Dataset[Any]):
    def __init__(self, images: Any, transform: Callable[[Any], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image, label = self.images.read(row)
        return self.transform(image), label


def synchronize(setup: Setup) -> None:
    if setup.compute.device.type == "cuda":
        torch.cuda.synchronize(setup.compute.device)


def largest_difference(setup: Setup, resident: list[Tensor], folder: Path) -> float:
    """Between our store's first rows and the bare loop's, relative to the largest value."""
    from probecache.store.reader import open_store

    run = forward(setup)
    with setup.compute.precision():
        theirs = np.concatenate([run(images).half().float().cpu().numpy() for images in resident[:4]])
    store = open_store(folder / "ours.zarr")
    mine = store.matrix("train", LAYER, rows=(0, len(theirs)), dtype=np.float32)
    return float(np.abs(mine - theirs).max() / np.abs(theirs).max())


if __name__ == "__main__":
    main()
