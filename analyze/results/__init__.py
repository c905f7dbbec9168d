"""RESULTS on disk: their grid, their chunks and seals, how they are written, checked, read and joined."""
