"""Bytes in and out: a local folder, or any object store behind an fsspec URL."""
