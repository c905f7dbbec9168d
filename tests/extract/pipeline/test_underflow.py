"""Features that are too small for float16 are refused where they are cast, not stored as zeros."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import probecache as pc


class Scaled(nn.Module):
    """Channel means of a convolution, times one factor per neuron."""

    def __init__(self, factors):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.scale = nn.Conv2d(3, len(factors), 3), nn.Identity()
        self.factors = torch.tensor(factors)

    def forward(self, x):
        return self.scale(self.conv(x).mean((2, 3)) * self.factors)


def extract(path, factors, **options):
    images = torch.randint(
        0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return pc.extract_features(
        model=Scaled(factors),
        layers=["scale"],
        dataset=TensorDataset(images, torch.arange(8) % 2),
        split="train",
        img_size=32,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        crop_pct=1.0,
        workers=0,
        device="cpu",
        out=path,
        **options,
    )


@pytest.mark.parametrize("factors", [[1e-9] * 8, [1.0] * 7 + [1e-9]])
def test_neurons_that_vanish_in_float16_are_refused(tmp_path, factors):
    lost = sum(f < 1 for f in factors)
    with pytest.raises(pc.ProbecacheError, match=rf"layer 'scale'.*became 0, and {lost} of 8 neurons"):
        extract(tmp_path / "s", factors)
    kept = extract(tmp_path / "kept", factors, dtype="float32").matrix("train", "scale")
    assert (kept != 0).all()
    zeros = extract(tmp_path / "zeros", factors, allow_saturated=True).matrix("train", "scale")
    np.testing.assert_array_equal(zeros, kept.astype(np.float16))


def test_what_the_stored_type_does_not_hold_is_counted(tmp_path):
    factors = [1.0] * 399 + [3e-6]
    kept = extract(tmp_path / "kept", factors, dtype="float32")
    plain = kept.matrix("train", "scale")
    store = extract(tmp_path / "half", factors, allow_saturated=True)
    expected = int(((plain.astype(np.float16) == 0) & (plain != 0)).sum())
    assert store.report("train", "scale")["summary"]["lost"]["scale"] == {
        "underflow": expected,
        "overflow": 0,
    }
    assert kept.report("train", "scale")["summary"]["lost"]["scale"] == {"underflow": 0, "overflow": 0}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_beyond_the_stored_type_is_refused_where_it_is_cast(tmp_path, dtype):
    class Large(Scaled):
        def forward(self, x):
            return super().forward(x).double() * 1e300

    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    for path, allowed in (("no", False), ("yes", True)):
        options = {
            "out": tmp_path / path,
            "img_size": 32,
            "workers": 0,
            "dtype": dtype,
            "allow_saturated": allowed,
        }
        arguments = {"layers": ["output"], "dataset": TensorDataset(images, torch.zeros(4)), **options}
        if not allowed:
            with pytest.raises(pc.ProbecacheError, match=f"layer 'output': .* beyond what {dtype} holds"):
                pc.extract_features(model=Large([1.0] * 3), **arguments)
        else:
            assert np.isinf(
                pc.extract_features(model=Large([1.0] * 3), **arguments).matrix("train", "output")
            ).all()


def test_nan_of_the_model_is_stored_and_said(tmp_path, caplog):
    class Failing(Scaled):
        def forward(self, x):
            y = super().forward(x)
            return torch.where(x.std((1, 2, 3), keepdim=True)[:, :, 0, 0] < 0.5, torch.nan, y)

    images = torch.randint(
        0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    images[2] = 9
    data = TensorDataset(images, torch.zeros(4))
    store = pc.extract_features(
        model=Failing([1.0] * 3),
        layers=["output"],
        dataset=data,
        img_size=32,
        workers=0,
        dtype="float32",
        out=tmp_path / "s",
    )
    assert np.flatnonzero(np.isnan(store.matrix("train", "output")).any(1)).tolist() == [2]
    assert "layer 'output': 3 values of images that could be read are NaN or infinite" in caplog.text
