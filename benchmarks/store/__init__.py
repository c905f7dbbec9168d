"""The store: speed, scale, and what faults leave of it."""
