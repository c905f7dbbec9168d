"""A layer keeps the batch size it was begun with."""

import numpy as np
import pytest

from probecache.extract.run import extract_features
from probecache.store.errors import FingerprintMismatch, InputError


def run(photos, out, **options):
    settings = {
        "pretrained": False,
        "device": "cpu",
        "amp_dtype": "bfloat16",
        "shard_rows": 8,
        "img_size": 64,
    }
    return extract_features("test_resnet", data_dir=photos, out=out, **{**settings, **options})


def recorded(store, layer="penultimate"):
    return store.layer_info("train", layer).spec.attrs["batch_size"]


def test_auto_goes_on_with_what_the_store_recorded(photos, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    run(photos, out, rows=(0, 8), batch_size=6)
    monkeypatch.setattr(
        "probecache.extract.pipeline.batch_size.ON_CPU", 16
    )  # another machine, where another size fits
    store = run(photos, out)
    assert recorded(store) == store.report("train", "penultimate")["summary"]["batch_size"] == 6
    straight = run(photos, tmp_path / "straight.zarr", batch_size=6)
    assert np.array_equal(store.matrix("train", "penultimate"), straight.matrix("train", "penultimate"))
    assert recorded(run(photos, tmp_path / "new.zarr")) == 16


def test_another_size_is_refused_until_the_layer_is_finished(photos, tmp_path):
    out = tmp_path / "s.zarr"
    run(photos, out, rows=(0, 8), batch_size=6)
    with pytest.raises(FingerprintMismatch, match="batch_size: stored 6, asked 4"):
        run(photos, out, batch_size=4)
    run(photos, out)
    store = run(photos, out, batch_size=4, layers=["penultimate", "layer1"])
    assert (recorded(store), recorded(store, "layer1")) == (6, 4)


def test_layers_begun_with_different_sizes_are_continued_one_by_one(photos, tmp_path):
    out = tmp_path / "s.zarr"
    for layer, size in (("layer1", 6), ("layer2", 4)):
        run(photos, out, rows=(0, 8), batch_size=size, layers=[layer])
    with pytest.raises(InputError, match="begun with the batch sizes 4, 6"):
        run(photos, out, layers=["layer1", "layer2"])
    for layer in ("layer1", "layer2"):
        store = run(photos, out, layers=[layer])
    assert (recorded(store, "layer1"), recorded(store, "layer2")) == (6, 4)
