"""The feature store on disk: layout, fingerprint, writer, reader, verify.

A store is plain Zarr v3. `open_store` reads one, `write_arrays` makes one from arrays,
`probecache.store.writer` is what extraction writes through.
"""
