"""Paired comparison: two probes, or two sweeps, on the same test samples, with intervals and tests."""
