"""Reading stores: commits and their indexes, matrices, rows, targets, blocks ahead, a lazy xarray tree."""
