"""Open a stream of features into one split of a store."""

import os
from collections.abc import Mapping, Sequence

from probecache.store.fingerprint import Fingerprint
from probecache.store.streaming.plan import Stream
from probecache.store.streaming.writer import StreamWriter


def open_writer(
    path: str | os.PathLike[str],
    *,
    split: str,
    layers: Mapping[str, int],
    n_samples: int | None = None,
    dtype: str | Mapping[str, str] | None = None,
    class_names: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    shard_rows: int | None = None,
    compression: str | None = None,
    fingerprint: Fingerprint | None = None,
    allow_saturated: bool = False,
) -> StreamWriter:
    """Open a stream of rows into one split of STORE, made if missing. Use it as a context.

    Batches may have any size; the store ends up as `write_arrays` would have written it. The stream ends with
    the context. If an exception or a kill ends it early, the next stream continues at `position`:

        with pc.open_writer("features.zarr", split="train", layers={"a": 768, "b": 1024}) as stream:
            for i in range(stream.position // 64, len(batches)):  # after a kill it continues
                stream.append({"a": ..., "b": ...}, labels=..., start=64 * i)

    Parameters
    ----------
    path : str or Path
        The store: a folder or fsspec URL.
    split : str
        Name of the split.
    layers : {str: int}
        Names and widths in neurons.
    n_samples : int or None
        Total number of rows. None: as many as come (an existing split keeps its number).
    dtype : str, {str: str} or None
        "float16", "bfloat16" or "float32", for all layers or by name. None: the first batch's, or float32.
    class_names : list of str or None
        None: "0", "1", ... up to the largest label.
    columns : list of str
        Names of numbers that come with each row, and become targets of kind "numbers".
    shard_rows : int or None
        Rows per shard (None: 8192): what is held in memory, and what a kill can lose.
    compression : str or None
        None, or "zstd".
    fingerprint : Fingerprint or None
        Where the features come from; None says only "arrays".
    allow_saturated : bool
        Store values beyond the dtype as infinities, instead of refusing them.

    Returns
    -------
    StreamWriter
        A context with `append(batch, labels=, samples=, columns=, start=)` and `position`, the next row.

    Raises
    ------
    InputError
        If a batch does not fit; none of it is written.
    FingerprintMismatch
        If the split was made differently.

    Examples
    --------
    >>> with pc.open_writer("stream.zarr", split="train", layers={"late": 4}) as stream:
    ...     for batch in np.split(np.eye(4, dtype=np.float32), 2):
    ...         stream.append({"late": batch}, labels=[0, 1])
    >>> pc.open_store("stream.zarr").shape("train", "late")
    (4, 4)
    """
    by_name = dtype if isinstance(dtype, Mapping) else {} if dtype is None else dict.fromkeys(layers, dtype)
    stream = Stream(
        split,
        layers,
        n_samples,
        by_name,
        class_names,
        columns,
        shard_rows,
        compression,
        fingerprint or Fingerprint({"source": "arrays"}),
        allow_saturated,
    )
    return StreamWriter(path, stream)
