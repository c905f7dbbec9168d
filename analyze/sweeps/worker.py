"""Where a block is computed: the same `run_block` serves this process, a worker of a Dask cluster and a GPU.

Workers open the store themselves, so that no matrix travels. Where memory runs out a block is halved.
"""

import time
from typing import TYPE_CHECKING, Any

from probecache.analyze.sweeps.block_fit import fit_cells, join
from probecache.analyze.sweeps.blocks import Block
from probecache.analyze.sweeps.job import Job
from probecache.analyze.sweeps.task_cache import Cache
from probecache.store.torch_defaults import plain_torch

if TYPE_CHECKING:
    from probecache.analyze.probes.design.gram import Moments

# Share of the memory limit that cached tasks may hold; the rest is for the block at work.
CACHE_SHARE = 0.5
AXES = ("targets", "seeds", "fractions", "l2s")  # of every array of a block


@plain_torch()
def run_block(block: Block, job: Job, cache: Cache, found: "Moments | None" = None) -> dict[str, Any]:
    """The block's arrays, (target, seed, fraction, l2[, ...]), and its attributes under the key "attrs".

    Where memory runs out, the block's halves are computed one after the other; one probe that does not fit
    raises MemoryError. found: the moments of a layer that stays on disk, where a cluster summed them up.
    """
    with cache.lock:
        begun = time.perf_counter()
        values = _run(block, job, cache, found)
        # loading the layer and its moments is part of what the probes took
        values["seconds"] *= (time.perf_counter() - begun) / values["seconds"].sum()
        return values


def _run(block: Block, job: Job, cache: Cache, found: "Moments | None") -> dict[str, Any]:
    try:
        return fit_cells(block, job, cache, found)
    except (MemoryError, RuntimeError) as error:
        halves = block.halves()
        if not is_out_of_memory(error) or len(halves) == 1:
            raise
    free_device_memory()
    cut = [name for name in AXES if getattr(halves[0], name) != getattr(block, name)]
    return join([_run(half, job, cache, found) for half in halves], AXES.index(cut[0]))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: numpy's, torch's on CPU and CUDA, CuPy's."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def free_device_memory() -> None:
    """Give torch's cached CUDA blocks back, so that a smaller try finds them."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
