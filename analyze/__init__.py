"""What a store's features can do: column subsets, probes, similarity, sweeps, redundancy, report.

Nothing here imports a backbone: a store is all that the analysis reads.
"""
