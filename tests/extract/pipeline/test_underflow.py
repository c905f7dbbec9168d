"""Features that are too small for float16 are refused where they are cast, not stored as zeros."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import probecache as pc
from probecache.store.verification.verify import verify


class Scaled(nn.Module):
    """Channel means of a convolution, times one factor per neuron."""

    def __init__(self, factors):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.scale = nn.Conv2d(3, len(factors), 3), nn.Identity()
        self.register_buffer("factors", torch.tensor(factors))

    def forward(self, x):
        return self.scale(self.conv(x).mean((2, 3)) * self.factors)


def images(count):
    return torch.randint(
        0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def extract(path, factors, **options):
    options = {"dataset": TensorDataset(images(8), torch.arange(8) % 2), **options}
    return pc.extract_features(
        model=Scaled(factors),
        layers=["scale"],
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


@pytest.mark.parametrize("compiled", [None, "eager"])
def test_what_the_stored_type_does_not_hold_is_counted_once_for_every_row_that_was_read(tmp_path, compiled):
    """By the definition, in the layer's report, whatever shards there are, and however it is computed."""

    class Broken(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, row):
            if row == 5:
                raise OSError("gone")
            return images(8)[row], row % 2

    factors = [1.0] * 398 + [3e-6, 1e-9]
    plain = extract(tmp_path / "kept", factors, dtype="float32").matrix("train", "scale")
    gone = (plain.astype(np.float16) == 0) & (plain != 0)
    assert gone[5].any()
    gone[5] = False  # a blank image in the place of one that cannot be read loses nothing
    options = {"dataset": Broken(), "allow_failed": True, "allow_saturated": True, "torchcompile": compiled}
    report = extract(tmp_path / "half", factors, shard_rows=4, batch_size=3, **options).report(
        "train", "scale"
    )
    assert report["underflow"] == gone.sum() > 0
    assert "lost" not in report["summary"]
    assert pc.open_store(tmp_path / "kept").report("train", "scale")["underflow"] == 0
    assert not list(verify(tmp_path / "half"))


def test_compiled_features_that_vanish_are_refused_too(tmp_path):
    with pytest.raises(pc.ProbecacheError, match=r"layer 'scale'.*became 0, and 8 of 8 neurons"):
        extract(tmp_path / "s", [1e-9] * 8, torchcompile="eager")


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
