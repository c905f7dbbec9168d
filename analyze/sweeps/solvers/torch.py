"""The batched solver: all fractions and l2 of a seed in one batch, on CPU or CUDA."""

from typing import Any

import numpy as np

from probecache.analyze.probes.fit import BlockResult, fit_block
from probecache.analyze.tasks.task import Task


def unavailable() -> str:
    return ""  # torch is a requirement


def solve(
    task: Task,
    orders: np.ndarray,
    sizes: np.ndarray,
    l2s: np.ndarray,
    probe: str,
    standardize: bool,
    device: str,
    memory_limit: int | None,
    shared: Any,
) -> BlockResult:
    return fit_block(
        task,
        orders,
        sizes,
        l2s,
        probe=probe,
        standardize=standardize,
        device=device,
        memory_limit=memory_limit,
        shared=shared,
    )
