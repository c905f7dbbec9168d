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
