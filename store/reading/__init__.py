"""Reading stores: matrices, blocks ahead, a lazy xarray tree, and what `probecache info` shows."""
