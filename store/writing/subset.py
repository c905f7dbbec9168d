"""A store of some columns of another: what efficient transfer keeps, at k/d of the bytes."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from probecache.store.errors import InputError, close_names, first_line
from probecache.store.fingerprint import Fingerprint, digest
from probecache.store.layout import SplitSpec
from probecache.store.reader import Store, open_store
from probecache.store.storage.safe_read import read_text, require_readable
from probecache.store.writer import open_split_writer
from probecache.store.writing.targets import store_targets


def write_subset(
    store: Store | str | os.PathLike[str],
    columns: np.ndarray,
    out: str | os.PathLike[str],
    *,
    layer: str | None = None,
    splits: Sequence[str] | None = None,
) -> Store:
    """Copy `columns` of one layer, in the order given, of every split (or `splits`) that has it, to the
    store `out`.

    Targets, sample identity, status, dtype and the fingerprint come along; the layer's attributes also say
    which columns were kept (`columns`: their digest, `of`: the layer's size). Read and written shard by
    shard; killed, the same call goes on. `layer` may be left out where the store has one.

    Raises InputError for columns outside the layer, or an `out` that is the store itself or holds other
    columns.
    """
    source = open_store(store)
    name = only_layer(source, layer)
    if str(os.path.abspath(str(out))) == str(os.path.abspath(str(source.path))):
        raise InputError(f"{out} is the store that is read: name another --out")
    chosen = [s for s in source.splits if name in source.layers_of(s)] if splits is None else list(splits)
    sizes = {split: source.shape(split, name) for split in chosen}
    for _, d in sizes.values():  # of all splits before any is written
        check_columns(columns, d, f"the subset of {name}")
    kept = columns.astype(np.int64)
    for split, (n, d) in sizes.items():
        info, form = source.split_info(split), source.layer_info(split, name)
        attrs = {**form.spec.attrs, "columns": digest(kept.tolist()), "of": d}
        labels, samples, status = source.row_arrays(split)
        fingerprint = source.fingerprint
        with open_split_writer(
            out,
            SplitSpec(
                split=split,
                n_samples=n,
                layers=[replace(form.spec, neurons=len(kept), attrs=attrs)],
                class_names=info.class_names,
                fingerprint=Fingerprint(fingerprint.backbone, fingerprint.compute, info.data),
                shard_rows=info.geometry.shard_rows,
                compression=form.compression,
            ),
            allow_saturated=True,
        ) as writer:
            for shard in writer.pending():
                at = slice(shard.start, shard.stop)
                rows = source.matrix(split, name, kept, (shard.start, shard.stop))
                writer.write(shard, {name: rows}, labels[at], samples[at], status[at])
            writer.finish()
        store_targets(writer.files, split, [source.target(split, t) for t in source.targets(split)[1:]])
    return open_store(out)


def read_indices(path: str | Path, d: int) -> np.ndarray:
    """Neuron numbers from a text file (one a line; `#` starts a comment) or a .npy file, int64 (m,), checked.

    Raises InputError for what is no whole number, outside 0..d-1, or there twice.
    """
    path = Path(path).expanduser()
    try:
        if path.suffix == ".npy":
            require_readable(path, "neuron numbers")
            indices = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            lines = read_text(path, "neuron numbers").splitlines()
            if not any(line.partition("#")[0].strip() for line in lines):
                raise InputError(f"{path} names no neuron; write neuron numbers to it, one a line")
            indices = np.loadtxt(lines, dtype=np.int64, ndmin=1)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no list of neuron numbers, one a line ({first_line(error)})") from None
    return check_columns(indices, d, str(path))


def check_columns(columns: np.ndarray, d: int, where: str) -> np.ndarray:
    """`columns` as int64 (m,): whole numbers in 0..d-1, each once; InputError names the first that is not."""
    if columns.ndim != 1 or columns.dtype.kind not in "iu" or not len(columns):
        raise InputError(
            f"{where} holds {columns.dtype} {columns.shape}; needed: whole numbers, one dimension"
        )
    if columns.min() < 0 or columns.max() >= d:
        wrong = columns[(columns < 0) | (columns >= d)][0]
        raise InputError(f"{where} names neuron {wrong}; the layer has 0 to {d - 1}")
    values, counts = np.unique(columns, return_counts=True)
    if len(values) < len(columns):
        raise InputError(f"{where} names neuron {values[counts > 1][0]} twice; each can be kept once")
    return columns.astype(np.int64)


def only_layer(store: Store, layer: str | None) -> str:
    """`layer`, or the store's only one."""
    if layer is not None:
        if layer not in store.layers:
            raise InputError(f"no layer {layer!r} in {store.path}; {close_names(layer, store.layers)}")
        return layer
    if len(store.layers) != 1:
        raise InputError(
            f"{store.path} holds {', '.join(store.layers) or 'no layers'}: name one with --layer"
        )
    return store.layers[0]
