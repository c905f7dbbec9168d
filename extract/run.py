"""`extract`: images and a frozen backbone in, a store of pooled activations out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import Dataset

from extract.backbone import Backbone, load_backbone
from extract.batches import FAILED, batch_ranges, open_batches
from extract.batchsize import choose_batch_size
from extract.data import Images, class_names, open_images
from extract.device import Compute, choose_compute
from extract.distributed import ALONE, Place, find_place
from extract.features import DTYPES, Feature, Features, plan_features
from extract.layers import resolve_layers, trace
from extract.loop import Forward, run_loop
from extract.preprocess import Preprocess, resolve_preprocess
from extract.progress import show_progress
from extract.settings import Settings
from extract.timing import Timing
from store.errors import ProbecacheError
from store.fingerprint import Fingerprint
from store.layout import LayerSpec
from store.reader import Store, open_store
from store.writer import open_writer


@dataclass(frozen=True)
class Setup:
    """Everything that an extraction needs before its first batch; making it reads no image."""

    settings: Settings
    backbone: Backbone
    images: Images
    preprocess: Preprocess
    compute: Compute
    features: tuple[Feature, ...]

    @property
    def n_samples(self) -> int:
        return min(len(self.images), self.settings.limit or len(self.images))

    def fingerprint(self) -> Fingerprint:
        """Backbone, computation and data, without paths and without what only decides speed."""
        versions = {name: version(name) for name in ("torch", "torchvision", "pillow")}
        compute = {
            **self.compute.fingerprint(),
            "preprocess": self.preprocess.fingerprint(),
            "versions": versions,
        }
        return Fingerprint(
            backbone=self.backbone.fingerprint(),
            compute=compute,
            data={**self.images.fingerprint(), "split": self.settings.split},
        )

    def specs(self) -> list[LayerSpec]:
        """The layers as the store writes them."""
        return [
            LayerSpec(
                name=feature.name,
                neurons=feature.neurons,
                dtype=self.settings.dtype,
                attrs={
                    "layer": feature.layer.name,
                    "pool": feature.pool,
                    "layout": feature.layer.layout.kind,
                    "shape": list(feature.layer.layout.kept_shape(feature.pool)),
                },
            )
            for feature in self.features
        ]


def prepare(
    model: str | nn.Module, dataset: "str | Dataset[Any]", settings: Settings, place: Place = ALONE
) -> Setup:
    """Open the data, build the backbone and resolve its layers. Raises InputError for whatever does not
    exist."""
    images = open_images(dataset, settings.data_dir, settings.split, download=settings.download)
    backbone = load_backbone(
        model,
        pretrained=settings.pretrained,
        checkpoint=settings.checkpoint,
        model_kwargs=settings.model_kwargs,
        img_size=settings.img_size,
        seed=settings.seed,
    )
    preprocess = resolve_preprocess(
        backbone.model,
        img_size=settings.img_size,
        crop_pct=settings.crop_pct,
        crop_mode=settings.crop_mode,
        interpolation=settings.interpolation,
        mean=settings.mean,
        std=settings.std,
    )
    names = resolve_layers(backbone.model, settings.layers)
    layers = trace(backbone.model, names, preprocess.image, preprocess.input_size[0])
    compute = choose_compute(
        backbone.model,
        place.device(settings.device),
        settings.amp_dtype,
        settings.channels_last,
        settings.torchcompile,
    )
    return Setup(settings, backbone, images, preprocess, compute, tuple(plan_features(layers, settings.pool)))


def extract(
    model: str | nn.Module,
    dataset: "str | Dataset[Any]" = "",
    *,
    out: str | Path,
    progress: bool = False,
    place: Place | None = None,
    **options: Any,
) -> Store:
    """Run every image of one split through a frozen backbone and store pooled activations; return the store.

    model       what `timm.create_model` takes, or an `nn.Module` (called on normalised images (n, 3, h, w))
    dataset     '' for a folder or .tar of class folders at `data_dir`, a timm spec, or a torch Dataset
    out         the store: a path or fsspec URL; an existing one is continued, or refused if made differently
    progress    a live bar on stderr
    place       rank among several processes; by default what torchrun or Slurm say

    Options, with defaults: split='train', layers=('penultimate',), pool='avg', data_dir=None, dtype='float16'
    (stored), pretrained=True, checkpoint=None, model_kwargs={}, seed=0 (of random weights), img_size,
    crop_pct, crop_mode, interpolation, mean, std (None: timm's config), device='auto', amp_dtype='auto'
    (bfloat16 on CUDA, else float32), channels_last=None (by the kind of network), torchcompile=None (a
    backend such as 'inductor'), batch_size='auto', workers=None (by the number of cores), rows=None ((a, b):
    these rows only, whole shards), limit=None (the first rows only), shard_rows=8192, compression=None,
    allow_failed=False, allow_saturated=False (float16 overflow is refused), download=False.

    Rows keep the order of the data set. An image that cannot be read keeps its row, marked failed and holding
    NaN; after the run this raises ProbecacheError unless `allow_failed`. A killed run goes on with the same
    call and computes only shards that were not committed. Raises InputError for what does not exist or does
    not fit, and FingerprintMismatch where `out` was made differently.
    """
    settings = Settings.of(**options)
    place = place or find_place()
    setup = prepare(model, dataset, settings, place)
    rows = place.rows(setup.n_samples, settings.shard_rows, settings.rows)
    if rows is None:  # more processes than shards
        return open_store(out, partial=True)
    writer = open_writer(
        out,
        split=settings.split,
        n_samples=setup.n_samples,
        layers=setup.specs(),
        class_names=class_names(setup.images),
        fingerprint=setup.fingerprint(),
        rows=rows,
        shard_rows=settings.shard_rows,
        compression=settings.compression,
        allow_saturated=settings.allow_saturated,
    )
    with writer:
        shards = list(writer.pending())
        summary = _compute(setup, shards, writer, progress) if shards else None
        store = writer.finish(summary=summary)
    _report_failures(setup, store)
    return store


def _compute(setup: Setup, shards: Sequence[Any], writer: Any, progress: bool) -> dict[str, Any]:
    settings, compute, images = setup.settings, setup.compute, setup.images
    missing = {name for shard in shards for name in shard.layers}
    wanted = [feature for feature in setup.features if feature.name in missing]
    batch_size = settings.batch_size or choose_batch_size(
        lambda: build_features(setup, wanted), compute, setup.preprocess.input_size
    )
    workers = default_workers(compute.device.type) if settings.workers is None else settings.workers
    ranges = batch_ranges([(shard.start, shard.stop) for shard in shards], batch_size)
    # Worker processes are forked here, before any thread of ours runs.
    batches = open_batches(images, setup.preprocess, ranges, workers=min(workers, len(ranges)))
    features = build_features(setup, wanted)
    forward = Forward(features, compute, batch_size)
    timing = Timing()

    def write(shard: Any, arrays: Mapping[str, np.ndarray], labels: np.ndarray, status: np.ndarray) -> None:
        if len(status) > 1 and (status == FAILED).all() and not settings.allow_failed:
            raise ProbecacheError(f"none of the images of rows {shard.start}:{shard.stop} could be read")
        names = list(images.names[shard.start : shard.stop])
        activations = {name: arrays[name] for name in shard.layers}
        writer.write(shard, activations=activations, labels=labels, samples=names, status=status)

    total = sum(shard.stop - shard.start for shard in shards)
    try:
        with show_progress(total, timing, settings.split, progress) as on_batch:
            failed = run_loop(forward, features, batches, shards, write, timing, on_batch)
    finally:
        timing.stop()
        features.close()
    return {
        **timing.summary(),
        "batch_size": batch_size,
        "halved": forward.halved,
        "workers": workers,
        "failed": len(failed),
        "first_failures": [f"{images.names[row]}: {reason}" for row, reason in sorted(failed.items())[:5]],
        "dataset": images.spec,
        "settings": _plain(asdict(settings)),
    }


def build_features(setup: Setup, wanted: Sequence[Feature]) -> Features:
    """The backbone on its device, hooked to give `wanted` in the stored dtype."""
    import torch

    features = Features(
        setup.backbone.model,
        wanted,
        setup.preprocess.mean,
        setup.preprocess.std,
        DTYPES[setup.settings.dtype],
        stop_early=setup.compute.torchcompile is None,
    )
    features.eval().to(setup.compute.device)
    if setup.compute.channels_last:
        features.to(memory_format=torch.channels_last)
    return features


def default_workers(device: str) -> int:
    """Processes that decode: as many as there are cores beside a GPU; a quarter of them where the CPU
    computes too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 32) if device == "cuda" else max(1, cores // 4)


def _report_failures(setup: Setup, store: Store) -> None:
    split = setup.settings.split
    status = store.status(split)
    failed = np.flatnonzero(status == FAILED)
    if len(failed) and not setup.settings.allow_failed:
        raise ProbecacheError(
            f"{len(failed)} of {len(status)} images of split {split!r} could not be read, first "
            f"{setup.images.names[int(failed[0])]!r}; their rows are marked failed, all else is stored "
            "(--allow-failed accepts that)"
        )


def _plain(value: Any) -> Any:
    """JSON values: tuples as lists."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
