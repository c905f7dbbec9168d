"""The moments of a finished layer, as a Dataset over its neurons."""

from typing import TYPE_CHECKING

import numpy as np

from probecache.store.errors import DamagedStore
from probecache.store.format import chunks
from probecache.store.format.chunks import BadChunk
from probecache.store.format.groups import Layer
from probecache.store.layout import MOMENTS
from probecache.store.storage.files import Files, read_piece

if TYPE_CHECKING:
    import xarray as xr


def read_moments(files: Files, layer: Layer) -> "xr.Dataset":
    """Every moment of `layer`, (neuron,) float64, each under its checksum."""
    import xarray as xr

    size = 8 * layer.spec.neurons
    values = {}
    for name in MOMENTS:
        raw = read_piece(files, f"{layer.key}/{name}/c/0", size + 4)
        try:
            values[name] = np.frombuffer(chunks.unsealed(raw, size)[0], "<f8")
        except BadChunk as error:
            raise DamagedStore(
                f"{files.url}: split {layer.split!r}, layer {layer.spec.name!r}, {name}: {error} (probecache "
                f"repair writes it again)"
            ) from None
    return xr.Dataset(
        {k: ("neuron", v) for k, v in values.items()}, attrs={"split": layer.split, "layer": layer.spec.name}
    )
