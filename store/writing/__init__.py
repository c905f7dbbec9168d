"""Making and growing stores: documents, casts, shards, commits, indexes, targets; a store of some columns."""
