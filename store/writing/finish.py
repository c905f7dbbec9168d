"""The end of a layer: its shards' moments merged, once every shard is committed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from probecache.store import catalog
from probecache.store.catalog import Layer
from probecache.store.format import chunks, metadata, moments
from probecache.store.format.chunks import BadChunk
from probecache.store.storage.files import Files

Array = np.ndarray[Any, Any]


def finish_layer(files: Files, layer: Layer, summary: Mapping[str, Any]) -> bool:
    """Merge a layer's partial moments in shard order, if every shard is committed; whether it is."""
    total = merged_moments(files, layer)
    if total is None:
        return False
    items = {
        f"{layer.key}/{name}/c/0": [chunks.sealed(values.astype("<f8").tobytes())[0]]
        for name, values in moments.summary(total).items()
    }
    report = {
        **layer.report,
        "nonfinite": int(total[6].sum()),
        "saturated": int(total[7].sum()),
        **({"summary": dict(summary)} if summary else {}),
    }
    done = replace(layer, complete=layer.geometry.n_samples, report=report)
    items[f"{layer.key}/zarr.json"] = [metadata.render(metadata.group_document(done.attributes()))]
    files.write(items)
    return True


def merged_moments(files: Files, layer: Layer) -> Array | None:
    """Statistics of all rows of a layer (8, neurons), or None while a shard is not committed."""
    shards = list(layer.geometry.shards())
    commits = catalog.read_commits(files, layer, shards)
    total: Array | None = None
    for shard, committed in zip(shards, commits, strict=True):
        if isinstance(committed, BadChunk) or committed[0] < shard.rows:
            return None
    for shard, committed in zip(shards, commits, strict=True):
        assert not isinstance(committed, BadChunk)
        try:
            part = catalog.read_partial(files, layer, shard, int(committed[1][0]))
            total = part if total is None else moments.merge(total, part)
        except BadChunk as error:
            raise catalog.damaged(files, layer, shard, str(error)) from None
    return total
