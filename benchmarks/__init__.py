"""Measurements: each script runs peers beside us on the same work and leaves a dated record in `results/`."""
