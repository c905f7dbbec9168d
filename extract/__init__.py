"""Images and a frozen backbone in, pooled activations out, shard by shard, into a store."""
