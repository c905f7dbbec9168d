"""The batch size of a run: what the store's layers were begun with, else what was asked for, else the
largest of a few sizes that fits in the device's memory."""

import gc
from collections.abc import Callable, Sequence, Set
from pathlib import Path

import torch

from probecache.extract.backbone.features import Features
from probecache.extract.pipeline.device import Compute
from probecache.extract.prepare import Setup, build_features
from probecache.store import catalog
from probecache.store.errors import InputError, ProbecacheError
from probecache.store.storage.files import open_files

LARGEST = 256  # larger batches gain no speed, and shards of 8192 rows divide evenly
ON_CPU = 32  # activations of larger batches leave the caches


def layer_batch_sizes(setup: Setup, out: str | Path) -> dict[str, int]:
    """Batch size of each of the setup's layers in the store `out`.

    A layer keeps the size it was begun with, so that one continued elsewhere is computed as it was begun; a
    finished layer keeps its own whatever is asked for. New layers get the asked size; with `auto` that of the
    layers they are computed beside, else one that fits.
    """
    split = setup.settings.split
    names = [feature.name for feature in setup.features]
    stored = _stored(out, split, names, setup.n_samples)
    sizes = {name: size for name, (size, finished) in stored.items() if finished}
    if len(sizes) == len(names):
        return sizes
    begun = {size for name, (size, _) in stored.items() if name not in sizes}
    size = setup.settings.batch_size or (one_batch_size(begun, split) if begun else 0)
    size = size or choose_batch_size(
        lambda: build_features(setup, setup.features), setup.compute, setup.preprocess.input_size
    )
    return {name: sizes.get(name, size) for name in names}


def one_batch_size(sizes: Set[int], split: str) -> int:
    """The only size of layers that one pass computes; InputError if there are several."""
    if len(sizes) > 1:
        several = ", ".join(map(str, sorted(sizes)))
        raise InputError(
            f"layers of split {split!r} were begun with the batch sizes {several}: "
            "continue those of each size in a run of their own, with --layers"
        )
    return next(iter(sizes))


def _stored(out: str | Path, split: str, names: Sequence[str], n_samples: int) -> dict[str, tuple[int, bool]]:
    """Recorded batch size of each layer that the store has, and whether all `n_samples` rows are there."""
    files = open_files(out)
    group = catalog.find_split(files, split)
    if group is None:
        return {}
    found = {}
    for name in names:
        if catalog.has_document(files, f"{split}/{name}"):
            layer = catalog.read_layer(files, group, name)
            size = layer.spec.attrs.get("batch_size")
            if isinstance(size, int):
                found[name] = size, layer.complete >= n_samples
    return found


def choose_batch_size(
    build: Callable[[], Features], compute: Compute, input_size: tuple[int, int, int]
) -> int:
    """A power of two that depends on free device memory alone, never on timing: reruns choose alike.

    On a CPU, 32. On a GPU, the largest up to 256 for which one blank batch passes through `build()`.
    """
    if compute.device.type != "cuda":
        return ON_CPU
    features = build()
    size = LARGEST
    try:
        with compute.precision():
            while not _fits(features, (size, *input_size), compute.device):
                if size == 1:
                    raise ProbecacheError(
                        f"out of memory on {compute.device} with one image; use a smaller --img-size"
                    )
                size //= 2
        return size
    finally:
        features.close()
        gc.collect()
        torch.cuda.empty_cache()


def _fits(features: Features, shape: tuple[int, ...], device: torch.device) -> bool:
    try:
        # Two more batches wait on the device during a run.
        images = torch.zeros(3, *shape, dtype=torch.uint8, device=device)
        features(images[0])
    except torch.OutOfMemoryError:
        return False
    return True
