"""Features that come in batches whose number may be unknown: one shard in memory, killed and resumed."""
