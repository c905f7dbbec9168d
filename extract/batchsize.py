"""`--batch-size auto`: the largest of a few sizes that fits in the device's memory."""

import gc
from collections.abc import Callable

import torch

from extract.device import Compute
from extract.features import Features
from store.errors import ProbecacheError

LARGEST = 256  # larger batches gain no speed, and shards of 8192 rows divide evenly
ON_CPU = 32  # activations of larger batches leave the caches


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
