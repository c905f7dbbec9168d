"""The batched solver: all fractions and l2 of a seed in one batch, on CPU or CUDA."""

from probecache.analyze.probes.fit import fit_request as solve

__all__ = ["solve", "unavailable"]


def unavailable() -> str:
    return ""  # torch is a requirement
