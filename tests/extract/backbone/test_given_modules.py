"""Modules as callers have them, of any precision, output and state: right or refused, and left alone."""

import copy
import dataclasses
import types
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import probecache as pc
from probecache.store.errors import InputError, ProbecacheError

PIXELS = torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(PIXELS, torch.arange(6) % 3)


@dataclasses.dataclass
class Both:
    logits: torch.Tensor
    features: torch.Tensor


class Net(nn.Module):
    def __init__(self, end=lambda logits, features: logits, head=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8)
            self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
            self.fc = head or nn.Linear(8, 5)
        self.end = end

    def features(self, x):
        return self.act(self.norm(self.conv(x))).mean((2, 3))

    def forward(self, x):
        features = self.features(x)
        return self.end(self.fc(self.drop(features)), features)


def wanted(model):
    plain = copy.deepcopy(model).eval().float().cpu()  # DataParallel moves it to a GPU
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        return Net.features(plain, (PIXELS / 255 - mean) / std).numpy()


def extract(model, tmp_path, layer="penultimate", data=DATA, **options):
    options = {"img_size": 24, "workers": 0, "dtype": "float32", "amp_dtype": "float32", **options}
    store = pc.extract_features(model, data, layers=[layer], out=tmp_path / "s.zarr", **options)
    return store.matrix("train", layer)


@pytest.mark.parametrize(("kind", "error"), [("float16", 2e-3), ("bfloat16", 2e-2), ("float64", 1e-6)])
def test_a_module_of_another_precision_computes_in_it(tmp_path, kind, error):
    model = Net().train()
    expected = wanted(model)
    found = extract(model.to(getattr(torch, kind)), tmp_path, amp_dtype="auto")
    assert np.abs(found - expected).max() < error * np.abs(expected).max()
    assert next(model.parameters()).dtype == getattr(torch, kind)
    assert all(part.training for part in model.modules())


def test_a_precision_that_the_weights_do_not_have_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"amp_dtype bfloat16 was asked for.* has float16 weights: leave it"):
        extract(Net().half(), tmp_path, amp_dtype="bfloat16")
    assert not (tmp_path / "s.zarr").exists()


def test_torchs_defaults_of_the_caller_decide_nothing(tmp_path):
    model = Net()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = extract(model, tmp_path)
        assert (torch.get_default_dtype(), torch.get_default_device().type) == (torch.float64, "meta")
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert np.allclose(found, wanted(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        nn.DataParallel,
        torch.fx.symbolic_trace,
    ],
)
def test_wrappers_are_seen_through(tmp_path, wrap):
    model = Net().eval()
    assert np.allclose(extract(wrap(model), tmp_path), wanted(model), rtol=1e-5, atol=1e-6)


def test_parametrised_weights(tmp_path):
    model = Net()
    nn.utils.parametrizations.weight_norm(model.fc)
    nn.utils.parametrizations.orthogonal(model.conv)
    assert np.allclose(extract(model, tmp_path), wanted(model), rtol=1e-5, atol=1e-6)


class Pair(NamedTuple):
    logits: torch.Tensor
    features: torch.Tensor


@pytest.mark.parametrize(
    ("end", "layer"),
    [
        (Both, "output.features"),
        (Pair, "output.features"),
        (lambda a, b: (a, b), "output.1"),
        (lambda a, b: {"a": a, "b": {"c": b}}, "output.b.c"),
        (Both, "fc.input"),
        (lambda a, b: types.SimpleNamespace(x=a), "fc.input"),
    ],
)
def test_outputs_of_several_tensors(tmp_path, end, layer):
    model = Net(end)
    with pytest.raises(InputError, match=r"penultimate layer of Net is not sure.*fc\.input"):
        extract(model, tmp_path)
    assert np.allclose(extract(model, tmp_path, layer), wanted(model), rtol=1e-5, atol=1e-6)


class Own(nn.Module):
    """A linear layer that is none of torch's."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 8))

    def forward(self, x):
        return x @ self.weight.T


class Frozen(nn.Module):
    """One without parameters, as quantised layers are."""

    def __init__(self):
        super().__init__()
        self.packed = (torch.randn(5, 8),)

    def forward(self, x):
        return nn.functional.linear(x, self.packed[0])


@pytest.mark.parametrize("head", [Own(5), Own(8), Frozen(), nn.Sequential(Own(5), nn.Dropout())])
def test_classifiers_of_other_makes_are_not_taken_for_features(tmp_path, head):
    model = Net(head=head)
    model.decide, model.fc = model.fc, model.drop  # a name that says nothing
    model.end = lambda logits, features: model.decide(features)
    with pytest.raises(InputError, match="is not sure"):
        extract(model, tmp_path)
    assert np.allclose(extract(model, tmp_path, "decide.input"), wanted(model), rtol=1e-5, atol=1e-6)


def test_classes_that_are_pooled_are_not_taken_for_features(tmp_path):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.cls = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 5, 1)

        def forward(self, x):
            return self.cls(self.conv(x)).mean((2, 3))

    with pytest.raises(InputError, match=r"it ends in 'cls', which may be its classifier.*cls\.input"):
        extract(Pooled(), tmp_path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: torch.jit.trace(Net().eval(), torch.zeros(2, 3, 24, 24)), "is TorchScript"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), "has no shape yet: call the model once"),
        (lambda: Net().to("meta"), "conv.weight of the model is on the device 'meta'"),
        (lambda: Net, "give a name, or a torch module"),
        (lambda: Net(end=lambda a, b: b * float("nan")), "nothing but NaN and infinite values"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_what_cannot_be_watched_is_refused(tmp_path, make, why):
    with pytest.raises(InputError, match=why):
        extract(make(), tmp_path, "output" if "NaN" in why else "penultimate")
    assert not (tmp_path / "s.zarr").exists()


def test_buffers_that_count_passes_are_as_they_were(tmp_path):
    class Counting(Net):
        inside: torch.Tensor
        anew: torch.Tensor

        def __init__(self):
            super().__init__()
            self.register_buffer("inside", torch.zeros(1))
            self.register_buffer("anew", torch.zeros(1))

        def features(self, x):
            self.inside += 1
            self.anew = torch.add(self.anew, 1)
            return super().features(x)

    model = Counting()
    held = model.inside
    assert np.allclose(extract(model, tmp_path), wanted(model), rtol=1e-5, atol=1e-6)
    assert model.inside is held
    assert float(model.inside) == float(model.anew) == 0


class Moody(Net):
    """What runs depends on the images: noise has values beyond 1, white pictures do not vary."""

    def __init__(self, mood):
        super().__init__()
        self.mood, self.extra = mood, nn.Linear(8, 8)

    def forward(self, x):
        features = self.features(x)
        flat = bool(x.std((2, 3)).max() < 1e-3)
        if self.mood == "never" and flat:
            return self.fc(features)
        features = self.extra(features)
        if self.mood == "twice" and flat:
            features = self.extra(features)
        return self.fc(features)


@pytest.mark.parametrize(
    ("mood", "why"), [("never", "did not run for some"), ("twice", "ran twice for some")]
)
def test_a_layer_that_some_images_miss_is_refused_when_they_come(tmp_path, mood, why):
    white = TensorDataset(torch.full_like(PIXELS, 255), torch.zeros(6, dtype=torch.int64))
    model = Moody(mood)
    with pytest.raises(ProbecacheError, match=f"layer 'extra' {why} images"):
        pc.extract_features(
            model, white, layers=["extra", "fc"], out=tmp_path / "s.zarr", img_size=24, workers=0
        )


@pytest.mark.parametrize("kept", [1, 4])
def test_a_layer_that_drops_rows_of_large_batches_is_refused(tmp_path, kept):
    model = Net(lambda logits, features: logits if len(logits) < 6 else logits[:kept])
    with pytest.raises(ProbecacheError, match=f"layer 'output' gives {kept} rows for 6 images"):
        extract(model, tmp_path, "output")


def test_a_module_that_is_spread_over_processes_is_refused(tmp_path):
    model = Net()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        torch.distributed.fsdp.fully_shard(model, mesh=mesh)
        with pytest.raises(
            InputError, match=r"is spread over processes .DTensor.: give the module as it was"
        ):
            extract(model, tmp_path)
    finally:
        torch.distributed.destroy_process_group()


def test_a_module_made_in_inference_mode(tmp_path):
    with torch.inference_mode():
        model = Net()
    np.testing.assert_allclose(extract(model, tmp_path), wanted(Net()), rtol=1e-5, atol=1e-6)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("device", "why"), [("meta", "holds no values"), ("xpu", "was asked for")])
def test_a_device_that_holds_nothing_here_is_refused(tmp_path, device, why):
    with pytest.raises(InputError, match=f"device '{device}' {why}"):
        extract(Net(), tmp_path, device=device)


def test_a_head_that_squeezes_to_one_number(tmp_path):
    model = Net(lambda logits, features: logits.squeeze(-1), nn.Linear(8, 1)).eval()
    np.testing.assert_allclose(extract(model, tmp_path), wanted(model), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="one number per image"):
        extract(model, tmp_path / "o", "output")


def test_a_sparse_output_is_refused(tmp_path):
    model = Net(lambda logits, features: features.to_sparse()).eval()
    with pytest.raises(InputError, match="puts out a sparse tensor"):
        extract(model, tmp_path, "output")


def test_a_model_of_sound_is_told_of_streams(tmp_path):
    with pytest.raises(InputError, match=r"does not run on 3x.*pc\.open_writer"):
        extract(nn.Sequential(nn.Conv1d(1, 4, 9)), tmp_path, "0")
