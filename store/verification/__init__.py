"""Every byte of a store against what was committed: documents, rows, shards, targets, indexes."""
