"""Probes on column subsets: many from one pass over the data, each equal to its textbook definition."""
