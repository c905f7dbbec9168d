"""On a CUDA device: the CPU's features, the same bytes again, streams and pinned buffers."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from probecache.extract.dry_run import dry_run
from probecache.extract.run import extract_features

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
LAYERS = ["layer1", "layer4", "penultimate"]


def images(count=1000):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)
    return TensorDataset(pixels, torch.arange(count) % 10)


def run(out, **options):
    settings = {"pretrained": False, "img_size": 64, "layers": LAYERS, "batch_size": 96, "shard_rows": 256}
    return extract_features("resnet18", images(), out=out, **{**settings, **options})


def relative(a, b):
    return np.abs(a.astype(np.float64) - b).max() / np.abs(b).max()


@pytest.mark.parametrize(
    ("amp_dtype", "dtype", "limit"), [("float32", "float32", 1e-3), ("bfloat16", "float16", 5e-2)]
)
def test_features_equal_the_cpus(tmp_path, amp_dtype, dtype, limit):
    gpu = run(tmp_path / "gpu.zarr", device="cuda", amp_dtype=amp_dtype, dtype=dtype)
    cpu = run(tmp_path / "cpu.zarr", device="cpu", amp_dtype="float32", dtype="float32")
    for layer in LAYERS:
        assert relative(gpu.matrix("train", layer, dtype=np.float32), cpu.matrix("train", layer)) < limit


def test_a_second_run_gives_the_same_bytes(tmp_path):
    stores = [run(tmp_path / f"{i}.zarr", device="cuda", rows=rows) for i, rows in ((0, None), (1, (0, 512)))]
    stores[1] = run(tmp_path / "1.zarr", device="cuda")  # continues after the first half
    for layer in LAYERS:
        assert np.array_equal(stores[0].matrix("train", layer), stores[1].matrix("train", layer))


def test_batch_size_is_found_and_stored_dtypes_survive_the_ring(tmp_path):
    store = run(tmp_path / "s.zarr", device="cuda", batch_size=None, dtype="bfloat16")
    summary = store.report("train", "penultimate")["summary"]
    assert summary["batch_size"] == 256
    assert summary["worked_seconds"]["forward"] > 0
    assert np.isfinite(store.matrix("train", "layer1", dtype=np.float32)).all()


def test_out_of_memory_halves_and_goes_on(tmp_path):
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2 * 2**30 / total))
    try:
        with pytest.warns(UserWarning, match="halved"):
            store = extract_features(
                "resnet18", large(), out=tmp_path / "s.zarr", pretrained=False, batch_size=512, device="cuda"
            )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.isfinite(store.matrix("train", "penultimate")).all()


def large():
    return TensorDataset(
        torch.randint(0, 256, (512, 3, 224, 224), dtype=torch.uint8), torch.zeros(512).long()
    )


def test_decoding_workers_beside_cuda(photos, tmp_path):
    options = {
        "data_dir": photos,
        "pretrained": False,
        "workers": 4,
        "dtype": "float32",
        "amp_dtype": "float32",
    }
    gpu = extract_features("test_resnet", out=tmp_path / "gpu.zarr", device="cuda", **options)
    cpu = extract_features("test_resnet", out=tmp_path / "cpu.zarr", device="cpu", **options)
    assert relative(gpu.matrix("train", "penultimate"), cpu.matrix("train", "penultimate")) < 1e-3
    assert list(gpu.samples("train")) == list(cpu.samples("train"))


def test_a_dry_run_measures_the_device(tmp_path):
    plan = dry_run(
        "resnet18", images(), out=tmp_path / "s.zarr", device="cuda", pretrained=False, img_size=64
    )
    assert (plan.device, plan.batch_size) == ("cuda:0", 256)
    assert plan.rates["forward"] > 2000  # images of 64 pixels: a CPU core makes some hundred
    assert plan.rates["copy"] > 2000
    assert not list(tmp_path.iterdir())
