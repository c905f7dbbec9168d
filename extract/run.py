"""`extract_features`: images and a frozen backbone in, a store of pooled activations out."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from probecache.extract.backbone.losses import require_kept
from probecache.extract.datasets.preprocess import unsaid
from probecache.extract.distributed import Place, find_place, wait_for_split
from probecache.extract.pipeline.batch_size import layer_batch_sizes, one_batch_size
from probecache.extract.pipeline.loader import batch_ranges, open_batches
from probecache.extract.pipeline.loop import Forward, run_loop
from probecache.extract.pipeline.progress import show_progress
from probecache.extract.pipeline.shard_assembler import GatheredShard
from probecache.extract.pipeline.statistics import gathered_statistics
from probecache.extract.pipeline.timing import Timing
from probecache.extract.prepare import Setup, build_features, prepare, stored_data
from probecache.extract.settings import Options, Settings, show_options
from probecache.extract.surroundings import undisturbed
from probecache.store.errors import InputError, ProbecacheError
from probecache.store.layout import FAILED, SHARD_ROWS, Geometry, Shard, SplitSpec
from probecache.store.progress import Progress, check_progress
from probecache.store.reader import Store, open_store
from probecache.store.writer import SplitWriter, open_split_writer

LOGGER = logging.getLogger("probecache.extract")


@show_options
@undisturbed
def extract_features(
    model: str | nn.Module,
    dataset: "str | Dataset[Any]" = "",
    *,
    out: str | Path,
    progress: Progress = None,
    place: Place | None = None,
    **options: Unpack[Options],
) -> Store:
    """Run every image of one split through a frozen backbone and store pooled activations.

    Row i of every layer is the i-th image of the data set, in its order. An image that cannot be read keeps
    its row, marked failed and holding NaN. After a kill the same call continues and computes only the
    shards that were not committed. A module that you pass is left as it was: modes, gradients, device,
    memory format.

    Parameters
    ----------
    model : str or nn.Module
        What `timm.create_model` takes, or 'transformers:NAME_OR_PATH', or a module that is called on
        normalised images float32 (n, channels, height, width).
    dataset : str or torch.utils.data.Dataset
        '' (default) for a folder or .tar of class folders at `data_dir`, a timm spec, or a torch Dataset.
    out : str or Path
        The store: a path or fsspec URL; an existing one is continued, or refused if it was made differently.
    progress : bool, function or None
        True: a live bar on stderr. A function: called with (done, total) images of this run, after each
        batch. False or None: silent.
    place : Place or None
        Rank among several processes. None: what torchrun or Slurm say.
    split, data_dir : str, Path
        The split's name in the store (default "train"); where the images are.
    layers, pool : str or list of str
        'penultimate' (default), module names or globs; one pooling (default "avg") or several, each of which
        is stored.
    dtype : str
        Type to store: "float16" (default), "bfloat16" or "float32". float16 refuses overflow unless
        `allow_saturated`, and underflow of more than 1% of the neurons.
    pretrained, checkpoint, model_kwargs, seed : bool, Path, dict, int
        The weights; a file of weights; arguments of `timm.create_model`; what draws random weights.
    img_size, in_chans, crop_pct, crop_mode, interpolation, mean, std : optional
        None: timm's configuration for the model. Size in pixels; mean and std of pixels scaled to 0 to 1.
    device, amp_dtype : str
        'auto': CUDA if there is a GPU, computing in bfloat16; else the CPU, in float32.
    channels_last, torchcompile : bool or None, str or None
        None: on for convnets; None: off, else a backend such as 'inductor'.
    batch_size, workers : int, 'auto' or None; int or None
        Images per forward pass (None or 'auto': the largest that fits); decoding processes (None: by the
        cores).
    decoder : str
        'pillow' (default), or 'torchcodec' (the same pixels).
    rows, limit : (int, int) or None, int or None
        Extract only rows (a, b), in whole shards; only the first so many.
    shard_rows, compression : int or None, str or None
        Rows per shard (None: 8192); None, or 'zstd'.
    allow_failed, allow_saturated, download : bool
        Accept images that cannot be read; accept values beyond the stored dtype; let the data set download.
    split_folders, class_from : bool or None, str
        Whether folders named like splits are splits (None: told from the folders); which folder names the
        class: 'leaf', 'top', 'path' or 'auto' (whichever is unambiguous).
    input_key, target_key : str or None
        Columns of the image and of the label, if several are possible.
    content : str
        What the digest of the images covers: 'auto' (every byte up to 200,000 images and 1 GiB, beyond that
        the sizes of all and the bytes of some) or 'all'.

    Returns
    -------
    Store
        The store at `out`, opened.

    Raises
    ------
    InputError
        If something does not exist or does not fit.
    FingerprintMismatch
        If `out` holds features that were made differently.
    ProbecacheError
        After the run, if images could not be read and `allow_failed` is off.

    Examples
    --------
    >>> store = pc.extract_features("test_efficientnet", pretrained=False, data_dir="photos", split="train",
    ...                             layers=["penultimate"], workers=0, batch_size=4, out="photos.zarr")
    >>> store.layers, store.class_names("train")
    (['penultimate'], ['cat', 'dog'])
    """
    check_progress(progress)
    settings = Settings.of(**options)
    place = place or find_place()
    setup = prepare(model, dataset, settings, place, out)
    if place.rank == 0:
        _say(setup, out)
    geometry = Geometry(setup.n_samples, shard_rows(out, settings))
    if settings.rows is not None:
        geometry.require_whole_shards(settings.rows)
    rows = place.rows(setup.n_samples, geometry.shard_rows, settings.rows)
    if rows is None:  # more processes than shards: the others make the store
        return wait_for_split(out, settings.split)
    batch_sizes = layer_batch_sizes(setup, out)
    spec = split_spec(setup, geometry.shard_rows, batch_sizes)
    writer = open_split_writer(out, spec, rows=rows, allow_saturated=settings.allow_saturated)
    with writer:
        shards = list(writer.pending())
        summary = _compute(setup, shards, batch_sizes, writer, progress) if shards else None
        store = writer.finish(summary=summary)
    if summary is not None:
        _say_what_is_not_finite(setup, store)
    _report_failures(setup, store)
    return store


def _say(setup: Setup, out: str | Path) -> None:
    """What of the data is left out, and whether another split holds the same, through `logging`: on stderr
    where the caller has set up nothing else."""
    where = setup.images.inventory.where
    if guessed := unsaid(setup.preprocess, setup.backbone.model, setup.settings.overrides):
        LOGGER.warning("model %s: %s", setup.backbone.name, guessed)
    for line in setup.images.inventory.lines():
        LOGGER.warning("%s: %s", where, line)
    ours = setup.images.fingerprint()
    for name, data in stored_data(out).items():
        if name == setup.settings.split:
            continue
        if ours["content"] and all(data.get(key) == ours[key] for key in ("content", "order")):
            LOGGER.warning(
                "%s: split %r of %s holds the same images: a probe would be scored on what it was fitted on",
                where,
                name,
                out,
            )


def split_spec(setup: Setup, shard_rows: int, batch_sizes: Mapping[str, int]) -> SplitSpec:
    """What the run asks of the store."""
    return SplitSpec(
        split=setup.settings.split,
        n_samples=setup.n_samples,
        layers=setup.specs(batch_sizes),
        class_names=setup.images.class_names(),
        fingerprint=setup.fingerprint(),
        shard_rows=shard_rows,
        compression=setup.settings.compression,
    )


def shard_rows(out: str | Path, settings: Settings) -> int:
    """Rows per shard: as asked for, else what the split in `out` has, else the store's default."""
    if settings.shard_rows is not None:
        return settings.shard_rows
    try:
        return open_store(out, partial=True).split_info(settings.split).geometry.shard_rows
    except InputError:  # no store yet, or no such split in it
        return SHARD_ROWS


def _compute(
    setup: Setup,
    shards: Sequence[Shard],
    batch_sizes: Mapping[str, int],
    writer: SplitWriter,
    progress: Progress,
) -> dict[str, Any]:
    settings, compute, images = setup.settings, setup.compute, setup.images
    missing = {name for shard in shards for name in shard.layers}
    wanted = [feature for feature in setup.features if feature.name in missing]
    batch_size = one_batch_size({batch_sizes[name] for name in missing}, settings.split)
    ranges = batch_ranges([(shard.start, shard.stop) for shard in shards], batch_size)
    timing = Timing()
    # Worker processes are forked here, before any thread of ours runs.
    pin = compute.device.type == "cuda"
    batches = open_batches(images, setup.preprocess, ranges, workers=setup.workers, pin=pin)
    features = build_features(setup, wanted)
    forward = Forward(features, compute, batch_size)

    def write(full: GatheredShard) -> None:
        _write_shard(setup, writer, full, features.dtype)

    total = sum(shard.stop - shard.start for shard in shards)
    try:
        with show_progress(total, timing, settings.split, progress) as show:

            def on_batch(rows: int) -> None:
                writer.renew()
                show(rows)

            failed = run_loop(forward, features, batches, shards, write, timing, on_batch)
    finally:
        timing.stop()
        features.close()
    if timing.fallbacks:
        LOGGER.warning(
            "%d of %d images were decoded by Pillow: %s does not give its pixels for files of their kind",
            timing.fallbacks,
            timing.images,
            settings.decoder,
        )
    return {
        **timing.summary(),
        "batch_size": batch_size,
        "halved": forward.halved,
        "workers": setup.workers,
        "fallbacks": timing.fallbacks,
        "failed": len(failed),
        "first_failures": [f"{images.names[row]}: {reason}" for row, reason in sorted(failed.items())[:5]],
        "dataset": images.spec,
        "inventory": images.inventory.summary(),
        "settings": _plain(asdict(settings)),
    }


def _write_shard(setup: Setup, writer: SplitWriter, full: GatheredShard, dtype: torch.dtype) -> None:
    """Commit one shard; ProbecacheError where none of its images was read, or its dtype loses values."""
    settings, images = setup.settings, setup.images
    shard, status, reasons = full.shard, full.status, full.reasons
    if len(status) > 1 and (status == FAILED).all() and not settings.allow_failed:
        raise ProbecacheError(
            f"none of the images of rows {shard.start}:{shard.stop} could be read, first "
            f"{images.names[shard.start]!r}: {reasons.get(shard.start, '')}"
        )
    if not settings.allow_saturated:
        for name in shard.layers:
            if name in full.losses:
                require_kept(name, full.losses[name], dtype)
    writer.write(
        shard,
        activations={name: full.activations[name] for name in shard.layers},
        labels=full.labels,
        samples=list(images.names[shard.start : shard.stop]),
        status=status,
        statistics=gathered_statistics(full),
    )


def _report_failures(setup: Setup, store: Store) -> None:
    split = setup.settings.split
    status = store.status(split)
    failed = np.flatnonzero(status == FAILED)
    if len(failed) and not setup.settings.allow_failed:
        raise ProbecacheError(
            f"{len(failed)} of {len(status)} images of split {split!r} could not be read, first "
            f"{setup.images.names[int(failed[0])]!r}; their rows are marked failed, all else is stored "
            "(--allow-failed accepts that; images that were mended since are read by a new --out)"
        )


def _say_what_is_not_finite(setup: Setup, store: Store) -> None:
    """NaN and infinite values that the model itself gave are stored; this says so."""
    for feature in setup.features:
        count = store.report(setup.settings.split, feature.name).get("nonfinite", 0)
        if count:
            LOGGER.warning(
                "layer %r: %d values of images that could be read are NaN or infinite: the model gave them",
                feature.name,
                count,
            )


def _plain(value: Any) -> Any:
    """JSON values: tuples as lists."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
