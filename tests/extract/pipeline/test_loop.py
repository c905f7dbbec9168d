"""The run loop under faults: out of memory, failing writers, failing readers."""

import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from probecache.extract.backbone.features import Features, plan_features
from probecache.extract.backbone.layers import describe_layers
from probecache.extract.pipeline.device import Compute, choose_compute
from probecache.extract.pipeline.loader import Batch
from probecache.extract.pipeline.loop import Forward
from probecache.extract.pipeline.shard_assembler import Rows, ShardAssembler
from probecache.extract.pipeline.timing import Timing
from probecache.extract.run import extract_features
from probecache.store.errors import InputError, ProbecacheError
from probecache.store.layout import Shard
from probecache.store.writer import SplitWriter

CPU = Compute(torch.device("cpu"), torch.float32, False)


class Net(nn.Module):
    """Small; runs out of memory above `most` images."""

    def __init__(self, most=1000):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
            self.head = nn.Linear(8, 4)
        self.most = most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("no room")
        return self.head(self.body(x))


def images(count=40):
    pixels = torch.randint(
        0, 256, (count, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return TensorDataset(pixels, torch.arange(count) % 3)


def test_out_of_memory_halves_and_goes_on(tmp_path):
    data = images()
    options = {"batch_size": 16, "shard_rows": 16, "dtype": "float32"}
    with pytest.warns(UserWarning, match="halved to"):
        store = extract_features(Net(most=5), data, out=tmp_path / "small.zarr", **options)
    assert store.report("train", "penultimate")["summary"]["halved"] == 2
    whole = extract_features(Net(), data, out=tmp_path / "large.zarr", **options)
    small, large = (s.matrix("train", "penultimate") for s in (store, whole))
    assert np.abs(small - large).max() <= 1e-5 * np.abs(large).max()


def test_out_of_memory_at_one_image_is_an_error():
    model = Net().eval()
    layers = describe_layers(model, ["penultimate"], (32, 32))
    model.most = 0
    features = Features(model, plan_features(layers, ["avg"]), (0.5,) * 3, (0.5,) * 3, torch.float32)
    with (
        pytest.warns(UserWarning, match="halved"),
        pytest.raises(ProbecacheError, match="one image at a time"),
    ):
        list(Forward(features, CPU, 4)(torch.zeros(4, 3, 32, 32, dtype=torch.uint8)))


def test_short_batches_are_padded_in_low_precision():
    shapes = []
    model = Net().eval()
    layers = describe_layers(model, ["penultimate"], (32, 32))
    model.register_forward_pre_hook(lambda _, inputs: shapes.append(len(inputs[0])))
    features = Features(model, plan_features(layers, ["avg"]), (0.5,) * 3, (0.5,) * 3, torch.float32)
    compute = Compute(torch.device("cpu"), torch.bfloat16, True)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with compute.precision():
        ((offset, (got,)),) = Forward(features, compute, 8)(pixels)
        ((_, (full,)),) = Forward(features, compute, 8)(
            torch.cat([pixels, torch.zeros(5, 3, 32, 32, dtype=torch.uint8)])
        )
    assert (offset, shapes) == (0, [8, 8])
    assert torch.equal(got, full[:3])


def test_a_failed_write_ends_the_run_and_keeps_what_was_committed(tmp_path, monkeypatch):
    data, out = images(), tmp_path / "s.zarr"
    options = {"batch_size": 4, "shard_rows": 8}
    write, written = SplitWriter.write, []

    def fail(self, shard, **arrays):
        if len(written) == 2:
            raise ProbecacheError("disk full")
        written.append(shard.index)
        return write(self, shard, **arrays)

    monkeypatch.setattr(SplitWriter, "write", fail)
    with pytest.raises(ProbecacheError, match="disk full"):
        extract_features(Net(), data, out=out, **options)
    monkeypatch.setattr(SplitWriter, "write", write)
    store = extract_features(Net(), data, out=out, **options)
    assert store.report("train", "penultimate")["summary"]["images"] == 24  # 5 shards, two were there
    straight = extract_features(Net(), data, out=tmp_path / "straight.zarr", **options)
    assert np.array_equal(store.matrix("train", "penultimate"), straight.matrix("train", "penultimate"))
    assert not [t for t in threading.enumerate() if t.name.startswith("probecache")]


class Broken(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, row):
        raise OSError("no such disk")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_of_which_nothing_can_be_read_fails(tmp_path, workers):
    with pytest.raises(ProbecacheError, match=r"none of the images of rows 0:8 could be read.*no such disk"):
        extract_features(Net(), Broken(), out=tmp_path / "s.zarr", workers=workers)


def test_the_assembler_holds_at_most_its_queue():
    started, release = threading.Event(), threading.Event()

    def write(*_):
        started.set()
        release.wait()

    shards = [Shard(i, i, i + 1) for i in range(100)]
    assembler = ShardAssembler(shards, ["a"], [2], torch.float32, write, Timing())
    rows = [
        Rows(Batch(i, torch.empty(0), np.zeros(1, np.int64), np.ones(1, np.uint8), {}), [torch.zeros(1, 2)])
        for i in range(100)
    ]
    put = []
    thread = threading.Thread(target=lambda: [put.append(assembler.put(r)) for r in rows])
    thread.start()
    started.wait()
    thread.join(0.3)
    assert len(put) <= 6  # one being written, four queued, one under way
    release.set()
    thread.join()
    assembler.close()
    assert len(put) == 100


def test_float16_overflow_is_refused(tmp_path):
    model = Net()
    nn.init.constant_(model.body[0].bias, 1e6)
    with pytest.raises(ProbecacheError, match="float16"):
        extract_features(model, images(4), out=tmp_path / "s.zarr")
    store = extract_features(model, images(4), out=tmp_path / "wide.zarr", dtype="float32")
    assert np.isfinite(store.matrix("train", "penultimate")).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cuda:99"}, "cuda"),
        ({"device": "abacus"}, "unknown device"),
        ({"amp_dtype": "int8"}, "amp_dtype"),
        ({"dtype": "float64"}, "dtype"),
        ({"pool": "sum"}, "pooling"),
        ({"batch_size": 0}, "batch_size"),
        ({"limit": 0}, "limit"),
        ({"workers": -1}, "workers"),
        ({"img_size": 0}, "img_size"),
        ({"crop_pct": -1.0}, "crop_pct"),
        ({"std": [0.0]}, "std"),
        ({"mean": [0.1, 0.2]}, "mean"),
        ({"interpolation": "magic"}, "interpolation"),
        ({"colour": True}, "got 'colour' in extract_features"),
        ({"checkpoint": "nowhere.pth"}, "not a file"),
        ({"layers": []}, "no layer"),
    ],
)
def test_wrong_input_writes_nothing(tmp_path, options, words):
    with pytest.raises(InputError, match=words) as caught:
        extract_features(Net(), images(2), out=tmp_path / "s.zarr", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.zarr").exists()


def test_convolutions_run_channels_last_by_default():
    assert choose_compute(nn.Sequential(*[nn.Conv2d(1, 1, 1) for _ in range(5)])).channels_last
    assert not choose_compute(nn.Linear(1, 1)).channels_last
