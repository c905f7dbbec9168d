"""Extraction: loops, decoders, memory, and awkward inputs, peers beside us."""
