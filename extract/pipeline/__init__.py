"""Batches to the device, through the backbone, and into whole shards, all at once."""
