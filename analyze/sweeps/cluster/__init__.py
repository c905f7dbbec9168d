"""Sweeps on a Dask cluster: its workers, what runs in them, and the answers that every end of one gets."""
