"""What lies on disk, byte for byte: names, metadata documents, chunks, shards, commits, moments."""
