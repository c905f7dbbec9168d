"""`--dry-run`: what an extraction would write, how long it would take, and whether there is room for it."""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import google_crc32c
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from probecache.extract.backbone.features import DTYPES
from probecache.extract.distributed import find_place
from probecache.extract.pipeline.batch_size import layer_batch_sizes
from probecache.extract.pipeline.loader import batch_ranges, open_batches
from probecache.extract.pipeline.loop import Forward
from probecache.extract.prepare import Setup, build_features, prepare
from probecache.extract.run import shard_rows, split_spec
from probecache.extract.settings import Options, Settings, show_options
from probecache.extract.surroundings import undisturbed
from probecache.store.errors import InputError
from probecache.store.layout import Geometry
from probecache.store.words import duration, size_of
from probecache.store.writer import pending_shards

SECONDS = 5.0
NEAR = 2.0
_REMEDIES = {
    "decode": "more --workers, --decoder torchcodec, smaller files, or pixels in memory",
    "copy": "a smaller --img-size",
    "forward": "another --device, or --amp-dtype bfloat16",
    "write": "fewer layers, a faster disk, or --pool avg",
}


@dataclass(frozen=True)
class Projection:
    """Sizes in bytes, rates in images per second; `free` is None where the store is not on a local disk.
    `left`: rows that this run would compute, of all; where it is 0, nothing was measured.
    `inventory`: a line for each kind of file that is left out."""

    features: tuple[tuple[str, str, int, int], ...]  # name, pool, neurons, bytes
    n_samples: int
    left: int
    shards: int
    device: str
    batch_size: int
    rates: Mapping[str, float]  # of each stage: decode, copy, forward, write
    free: int | None
    inventory: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return sum(size for *_, size in self.features)

    @property
    def rate(self) -> float:
        """The slowest of the stages, which run side by side."""
        return self.rates[self.limit]

    @property
    def limit(self) -> str:
        """The stage that the others will wait for."""
        return min(self.rates, key=lambda stage: self.rates[stage])

    @property
    def near(self) -> tuple[str, ...]:
        """Stages within NEAR of the limit: where they share cores, one of them may be it."""
        return tuple(s for s, rate in self.rates.items() if s != self.limit and rate < NEAR * self.rate)

    @property
    def seconds(self) -> float:
        return self.left / self.rate if self.left else 0.0

    @property
    def fits(self) -> bool:
        return self.free is None or self.total * self.left / self.n_samples < self.free


@show_options
@undisturbed
def dry_run(
    model: "str | nn.Module",
    dataset: "str | Dataset[Any]" = "",
    *,
    out: str | Path,
    **options: Unpack[Options],
) -> Projection:
    """Measure a few batches of the extraction that `extract` would run with the same arguments; write
    nothing.

    Each stage is timed on the device and the disk that the run would use: the forward pass for up to 5
    seconds, decoding in one process for one, a batch's way to the device, and what the rows of a batch
    take to write (to a file without a name; of a store behind a URL only the encoding is timed). Raises
    whatever `extract` would raise before its first batch.
    """
    settings = Settings.of(**options)
    setup = prepare(model, dataset, settings, find_place(), out)
    batch_sizes = layer_batch_sizes(setup, out)
    batch_size = max(batch_sizes.values())
    geometry = Geometry(setup.n_samples, shard_rows(out, settings))
    if settings.rows is not None:
        geometry.require_whole_shards(settings.rows)
    spec = split_spec(setup, geometry.shard_rows, batch_sizes)
    pending = pending_shards(out, spec, rows=settings.rows)
    itemsize = DTYPES[settings.dtype].itemsize
    return Projection(
        features=tuple(
            (feature.name, feature.pool, feature.neurons, setup.n_samples * feature.neurons * itemsize)
            for feature in setup.features
        ),
        n_samples=setup.n_samples,
        left=sum(shard.rows for shard in pending),
        shards=-(-setup.n_samples // geometry.shard_rows),
        device=str(setup.compute.device),
        batch_size=batch_size,
        rates=_rates(setup, out, batch_size, itemsize) if pending else {},
        free=_free_space(out),
        inventory=tuple(setup.images.inventory.lines(None)),
    )


def _rates(setup: Setup, out: str | Path, batch_size: int, itemsize: int) -> dict[str, float]:
    return {
        "decode": _decode_rate(setup, batch_size) * max(setup.workers, 1),
        "copy": _copy_rate(setup, batch_size),
        "forward": _forward_rate(setup, batch_size),
        "write": _write_rate(setup, out, itemsize),
    }


def print_plan(plan: Projection) -> None:
    """The projection on stdout."""
    for line in plan.inventory:
        print(line)
    for name, pool, neurons, size in plan.features:
        print(f"{name:<24} {pool:<8} {neurons:>8} neurons  {size_of(size):>10}")
    print(f"{plan.n_samples} rows in {plan.shards} shards, {size_of(plan.total)} in all")
    if not plan.left:
        print("nothing is left to compute: the store holds all of it")
        return
    if plan.left < plan.n_samples:
        print(f"{plan.left} of these rows are left for this run")
    each = ", ".join(f"{stage} {rate:,.1f}" for stage, rate in plan.rates.items())
    print(f"{plan.device}, batch size {plan.batch_size}, images/s: {each}")
    near = f" (near it: {', '.join(plan.near)})" if plan.near else ""
    print(f"about {duration(plan.seconds)}; the limit is {plan.limit}{near}: {_REMEDIES[plan.limit]}")
    if plan.free is not None:
        print(f"{size_of(plan.free)} free on disk: {'enough' if plan.fits else 'NOT ENOUGH'}")


def _forward_rate(setup: Setup, batch_size: int) -> float:
    features = build_features(setup, setup.features)
    forward = Forward(features, setup.compute, batch_size)
    images = torch.zeros(
        batch_size, *setup.preprocess.input_size, dtype=torch.uint8, device=setup.compute.device
    )
    if setup.compute.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    try:
        with setup.compute.precision():
            done, start = -batch_size, time.perf_counter()
            while done <= 0 or time.perf_counter() - start < SECONDS:
                for _, outputs in forward(images):
                    outputs[0].sum().item()  # waits for the device
                if done < 0:  # the first batch warms up
                    start = time.perf_counter()
                done += batch_size
            return done / (time.perf_counter() - start)
    finally:
        features.close()


def _decode_rate(setup: Setup, batch_size: int) -> float:
    size = min(batch_size, 16)
    done, start = 0, time.perf_counter()
    for batch in open_batches(setup.images, setup.preprocess, batch_ranges([(0, setup.n_samples)], size)):
        done += len(batch.labels)
        if time.perf_counter() - start > SECONDS / 5:
            break
    return done / (time.perf_counter() - start)


def _copy_rate(setup: Setup, batch_size: int) -> float:
    """Images per second that reach the device, in the memory format that the model takes."""
    device, size = setup.compute.device, (batch_size, *setup.preprocess.input_size)
    images = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    form = torch.channels_last if setup.compute.channels_last else torch.contiguous_format
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        images.to(device, copy=True).contiguous(memory_format=form)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return batch_size / max(min(taken), 1e-9)


def _write_rate(setup: Setup, out: str | Path, itemsize: int) -> float:
    """Rows per second that are encoded with their checksums and, on a local disk, synced to it."""
    row = sum(feature.neurons for feature in setup.features) * itemsize
    rows = max(1, min(setup.n_samples, (16 << 20) // max(row, 1)))
    content = np.random.default_rng(0).bytes(rows * row)
    place = _local_folder(out)
    start = time.perf_counter()
    google_crc32c.value(content)
    if place is not None:
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"nothing can be written in {place}: {error.strerror}") from error
    return rows / max(time.perf_counter() - start, 1e-9)


def _free_space(out: str | Path) -> int | None:
    place = _local_folder(out)
    return None if place is None else shutil.disk_usage(place).free


def _local_folder(out: str | Path) -> Path | None:
    """The folder that there is already on the way to `out`; None for a URL."""
    if "://" in str(out):
        return None
    place = Path(out).expanduser().absolute()
    while not place.is_dir():
        place = place.parent
    return place
