"""--torchcompile: refused in time where it cannot work, else compiled once and equal to the plain pass."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from probecache.extract.backbone.features import Features, plan_features
from probecache.extract.backbone.layers import describe_layers
from probecache.extract.pipeline.device import Compute
from probecache.extract.pipeline.loop import Forward
from probecache.extract.run import extract_features
from probecache.store.errors import FingerprintMismatch, InputError
from probecache.store.verification.verify import verify

ROOT = Path(__file__).parents[3]


class Net(nn.Module):
    """Blocks whose outputs are overwritten in place by what follows them: hooks must copy in time."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8))
            self.relu = nn.ReLU(inplace=True)
            self.body = nn.Sequential(
                nn.Conv2d(8, 16, 3, stride=4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
            self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.body(self.relu(self.stem(x))))


def images(count):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(
        torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8, generator=generator),
        torch.arange(count) % 3,
    )


def test_an_unknown_backend_is_refused_before_a_store_is_made(tmp_path):
    with pytest.raises(InputError, match=r"unknown torchcompile 'inductr'.*inductor") as caught:
        extract_features(Net(), images(4), out=tmp_path / "s.zarr", torchcompile="inductr")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.zarr").exists()


def test_a_backend_that_cannot_compile_here_is_refused_before_a_store_is_made(tmp_path, monkeypatch):
    def broken(function, backend):
        def run(x):
            raise RuntimeError("No working C++ compiler found\nand more lines")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    message = (
        r"torchcompile inductor does not work on .* here: RuntimeError: No working C\+\+ compiler found;"
    )
    with pytest.raises(InputError, match=message) as caught:
        extract_features(Net(), images(4), out=tmp_path / "s.zarr", torchcompile="inductor")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("inference", [False, True], ids=["plain tensors", "inference tensors"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_padded_last_batch_meets_the_same_compiled_code(inference, channels_last):
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    net = Net().eval()
    layers = describe_layers(net, ["stem", "penultimate"], (64, 64), 3)
    features = Features(
        net, plan_features(layers, ["avg"]), [0.5] * 3, [0.5] * 3, torch.float32, stop_early=False
    )
    compute = Compute(torch.device("cpu"), torch.float32, channels_last, counting)
    form = torch.channels_last if channels_last else torch.contiguous_format
    torch.compiler.reset()
    with torch.inference_mode(inference):
        pixels = torch.zeros(20, 3, 64, 64, dtype=torch.uint8).contiguous(memory_format=form)
    with compute.precision():
        forward = Forward(features.eval().to(memory_format=form), compute, 8)
        rows = [len(outputs[0]) for _, outputs in forward(pixels)]
    assert rows == [8, 8, 4]
    assert len(graphs) == 1


def compilers():
    return [name for name in ("g++", "clang++") if shutil.which(name)]


@pytest.mark.slow
@pytest.mark.skipif(not compilers(), reason="inductor needs a C++ compiler: neither g++ nor clang++ is here")
def test_inductor_equals_the_plain_pass_and_is_in_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    options = {
        "layers": ["stem", "body.0", "penultimate"],
        "pool": ["avg", "max"],
        "dtype": "float32",
        "batch_size": 8,
        "shard_rows": 16,
        "device": "cpu",
    }
    plain = extract_features(Net(), images(44), out=tmp_path / "plain.zarr", **options)
    options["out"] = tmp_path / "compiled.zarr"
    extract_features(Net(), images(44), torchcompile="inductor", rows=(0, 16), **options)
    with pytest.raises(FingerprintMismatch, match=r"torchcompile"):
        extract_features(Net(), images(44), **options)
    compiled = extract_features(Net(), images(44), torchcompile="inductor", **options)  # goes on at row 16
    assert list((tmp_path / "cache").rglob("*.so"))  # it did compile
    assert plain.fingerprint.compute["torchcompile"] is None
    assert compiled.fingerprint.compute["torchcompile"] == "inductor"
    assert compiled.layers == plain.layers
    for layer in plain.layers:
        want, got = plain.matrix("train", layer), compiled.matrix("train", layer)
        assert np.abs(want).max() > 0.01
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    assert not list(verify(str(tmp_path / "compiled.zarr")))


@pytest.mark.slow
def test_inductor_without_a_compiler_is_one_line(tmp_path, photos):
    line = [
        "extract",
        "--model",
        "resnet18",
        "--no-pretrained",
        "--data-dir",
        str(photos),
        "--split",
        "train",
    ]
    line += [
        "--img-size",
        "32",
        "--device",
        "cpu",
        "--torchcompile",
        "inductor",
        "--out",
        str(tmp_path / "s.zarr"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "probecache", *line],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={
            "PATH": str(Path(sys.executable).parent),
            "CXX": "/nowhere/g++",
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        },
    )
    assert done.returncode == 2, done.stderr
    assert "--torchcompile inductor does not work on" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "s.zarr").exists()
