"""Sweeps: a plan, its blocks, workers that run them, and RESULTS that last."""
