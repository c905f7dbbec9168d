"""What belongs to the caller comes back as it was, and what it had set does not show in the features."""

import os
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from probecache.extract.dry_run import dry_run
from probecache.extract.list_layers import list_layers
from probecache.extract.recompute import recompute
from probecache.extract.run import extract_features
from probecache.extract.surroundings import borrowed, own_settings
from probecache.store.errors import InputError

IMAGES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
DATA = TensorDataset(IMAGES, torch.tensor([0, 1, 0, 1]))
OPTIONS = {"mean": 0.5, "std": 0.5, "img_size": 32, "device": "cpu", "dtype": "float32", "workers": 0}


class Caching(nn.Module):
    """Keeps something of a pass, as rotary and relative positions are kept."""

    def forward(self, x):
        if not hasattr(self, "kept"):
            self.kept = x.mean() * 0 + 1
        return x * self.kept


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Caching(), nn.AdaptiveAvgPool2d(1)]
        model = nn.Sequential(*parts, nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 5))
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    return model


def world(model):
    legacy = np.random.get_state()[1]  # noqa: NPY002 - what callers use is looked at
    return {
        "modes": [m.training for m in model.modules()],
        "gradients": [p.requires_grad for p in model.parameters()],
        "weights": [v.clone() for v in model.state_dict().values()],
        "strides": [p.stride() for p in model.parameters()],
        "storage": [p.data_ptr() for p in model.parameters()],
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        "random": [torch.get_rng_state(), torch.tensor(legacy.astype(np.int64))],
        "python": random.getstate(),
        "defaults": (torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()),
        "modes of torch": (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_inference_mode_enabled(),
        ),
        "matmul": torch.get_float32_matmul_precision(),
        "filters": list(warnings.filters),
        "environment": dict(os.environ),
    }


def changed(before, after):
    def same(a, b):
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list) else a == b

    return [name for name in before if not same(before[name], after[name])]


@pytest.mark.parametrize("work", ["extract", "folder", "refused", "layers", "dry run", "recompute"])
def test_the_callers_world_comes_back_as_it_was(work, tmp_path, photos, capsys, monkeypatch):
    monkeypatch.setattr("probecache.extract.dry_run.SECONDS", 0.5)
    model = network()
    before = world(model)
    if work == "layers":
        list_layers(model, img_size=32)
    elif work == "dry run":
        dry_run(model, DATA, out=tmp_path / "f.zarr", **OPTIONS)
    elif work == "refused":
        with pytest.raises(InputError, match="unknown layer"):
            extract_features(model, DATA, layers="nothing", out=tmp_path / "f.zarr", **OPTIONS)
    elif work == "folder":
        extract_features(model, data_dir=photos, out=tmp_path / "f.zarr", channels_last=True, **OPTIONS)
    else:
        store = extract_features(model, DATA, out=tmp_path / "f.zarr", channels_last=True, **OPTIONS)
        if work == "recompute":
            assert recompute(store, "train", 2, model=model, dataset=DATA, device="cpu")[0].good
    assert changed(before, world(model)) == []
    model(IMAGES.float()).sum().backward()  # what the module kept can be trained with


def test_what_the_caller_has_set_does_not_show_in_the_features(tmp_path):
    model = network()
    plain = extract_features(model, DATA, out=tmp_path / "plain.zarr", **OPTIONS)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.device("meta"), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            other = extract_features(model, DATA, out=tmp_path / "other.zarr", **OPTIONS)
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_float32_matmul_precision() == "medium"
        named = {"pretrained": False, **OPTIONS}
        small = extract_features("test_resnet", DATA, out=tmp_path / "small.zarr", **named)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
    assert other.digest("train", "penultimate") == plain.digest("train", "penultimate")
    again = extract_features("test_resnet", DATA, out=tmp_path / "again.zarr", **named)
    assert again.digest("train", "penultimate") == small.digest("train", "penultimate")


def test_settings_come_back_after_an_error():
    def module_code():
        torch.set_default_dtype(torch.bfloat16)
        return 1 / 0

    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ZeroDivisionError), own_settings():
            module_code()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="torch before 2.9 has one setting")
def test_products_whose_precision_the_caller_gave_by_backend_are_whole_and_come_back():
    matmul, x = torch.backends.mkldnn.matmul, torch.rand(64, 64)  # type: ignore[attr-defined]
    plain = x @ x
    matmul.fp32_precision = "bf16"
    try:
        with own_settings():
            assert matmul.fp32_precision == "ieee"
            assert torch.equal(x @ x, plain)
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = "none"


def test_tensors_that_moved_to_other_kinds_of_memory_come_back():
    """As to another device and back: a tensor of inference mode is put in the place of another."""
    with torch.inference_mode():
        model = network()
    before = world(model)
    with borrowed(model):
        for parameter in model.parameters():
            parameter.data = parameter.detach().clone()
    assert changed(before, world(model)) == []
    assert all(parameter.is_inference() for parameter in model.parameters())


def test_a_checkpoint_goes_into_a_copy_of_the_callers_module(tmp_path):
    model, other = network(), network()
    with torch.no_grad():
        other[0].weight.zero_().add_(0.1)
    torch.save(other.state_dict(), tmp_path / "w.pth")
    before = world(model)
    store = extract_features(model, DATA, checkpoint=tmp_path / "w.pth", out=tmp_path / "f.zarr", **OPTIONS)
    assert changed(before, world(model)) == []
    same = extract_features(other, DATA, out=tmp_path / "g.zarr", **OPTIONS)
    assert store.digest("train", "penultimate") == same.digest("train", "penultimate")


def test_a_compiled_or_wrapped_module_is_the_module_inside(tmp_path):
    model = network()
    plain = extract_features(model, DATA, out=tmp_path / "f.zarr", **OPTIONS)
    for i, wrapped in enumerate([torch.compile(model), nn.DataParallel(model)]):
        store = extract_features(wrapped, DATA, layers="penultimate", out=tmp_path / f"{i}.zarr", **OPTIONS)
        assert store.digest("train", "penultimate") == plain.digest("train", "penultimate")


def test_stores_made_from_python_objects_say_what_recomputing_needs(tmp_path, photos):
    model = network()
    store = extract_features(model, DATA, out=tmp_path / "f.zarr", **OPTIONS)
    with pytest.raises(InputError, match=r"made from a Python module .Sequential.*model="):
        recompute(store, "train", 2)
    with pytest.raises(InputError, match=r"came from a Python data set.*dataset="):
        recompute(store, "train", 2, model=model)
    assert recompute(store, "train", 2, model=model, dataset=DATA)[0].good
    rough = extract_features(model, DATA, out=tmp_path / "h.zarr", **OPTIONS, amp_dtype="bfloat16")
    (again,) = recompute(rough, "train", 2, model=model, dataset=DATA, device="cpu")  # in the run's precision
    assert again.error < 1e-6 < 0.02 < again.tolerance
    folder = extract_features(model, data_dir=photos, out=tmp_path / "g.zarr", **OPTIONS)
    assert recompute(folder, "train", 2, model=model)[0].good


@pytest.mark.parametrize("channels", [1, 4])
def test_models_of_other_than_three_channels(channels, tmp_path):
    images = torch.randint(0, 256, (4, channels, 32, 32), dtype=torch.uint8)
    data = TensorDataset(images, torch.tensor([0, 1, 0, 1]))
    options = {"img_size": 32, "device": "cpu", "dtype": "float32", "pretrained": False, "in_chans": channels}
    if channels == 4:
        with pytest.raises(InputError, match="give mean and std, one number or 4"):
            extract_features("test_resnet", data, out=tmp_path / "f.zarr", **options)
    store = extract_features("test_resnet", data, mean=0.4, std=0.2, out=tmp_path / "f.zarr", **options)
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", in_chans=channels).eval()
    with torch.no_grad():
        x = (images.float() / 255 - 0.4) / 0.2
        want = model.forward_head(model.forward_features(x), pre_logits=True).numpy()
    assert np.abs(store.matrix("train", "penultimate") - want).max() <= 1e-5 * np.abs(want).max()
