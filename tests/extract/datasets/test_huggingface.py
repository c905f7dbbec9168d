"""Hugging Face data sets from a local folder: by row, and as a stream."""

import io

import numpy as np
import pytest
from PIL import Image

from probecache.extract.datasets.classes import Choices
from probecache.extract.datasets.open import open_images
from probecache.extract.run import extract_features
from probecache.store.errors import InputError
from probecache.store.layout import FAILED

datasets = pytest.importorskip(
    "datasets", reason="the package datasets is missing (pip install 'probecache[hf]')"
)

BROKEN = (4, 13)


def png(number):
    out = io.BytesIO()
    generator = np.random.default_rng(number)
    Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty images in two parquet files, two of them cut short; the README records the length."""
    root = tmp_path_factory.mktemp("hub") / "set"
    (root / "data").mkdir(parents=True)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])}
    )
    for part in range(2):
        rows = range(part * 10, part * 10 + 10)
        content = [png(i)[:80] if i in BROKEN else png(i) for i in rows]
        table = {
            "image": [{"bytes": c, "path": None} for c in content],
            "label": [i % 3 for i in rows],
        }
        datasets.Dataset.from_dict(table, features=features).to_parquet(
            root / "data" / f"train-{part:05d}-of-00002.parquet"
        )
    return root


RECORD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': cat
          '1': dog
          '2': eel
  splits:
  - name: train
    num_bytes: 100000
    num_examples: {count}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def run(spec, out, cache, **options):
    return extract_features(
        "test_resnet",
        spec,
        data_dir=cache,
        out=out,
        pretrained=False,
        device="cpu",
        shard_rows=4,
        batch_size=4,
        workers=2,
        allow_failed=True,
        **options,
    )


def test_rows_and_stream_agree_and_a_failure_keeps_its_row(folder, tmp_path):
    rows = run(f"hfds/{folder}", tmp_path / "rows.zarr", tmp_path / "cache")
    (folder / "README.md").write_text(RECORD.format(count=20))
    try:
        spec, out = f"hfids/{folder}", tmp_path / "stream.zarr"
        run(spec, out, tmp_path / "cache2", rows=(8, 12))  # what a killed run left behind
        stream = run(spec, out, tmp_path / "cache2")
    finally:
        (folder / "README.md").unlink()
    for store in (rows, stream):
        assert list(store.labels("train")[[0, 1, 5, 19]]) == [0, 1, 2, 1]
        assert store.class_names("train") == ["cat", "dog", "eel"]
        assert list(np.flatnonzero(store.status("train") == FAILED)) == list(BROKEN)
        assert list(store.samples("train")) == [str(i) for i in range(20)]
    assert np.array_equal(
        rows.matrix("train", "penultimate"), stream.matrix("train", "penultimate"), equal_nan=True
    )


def test_a_stream_is_read_in_order_by_one_process_and_from_any_row(folder, tmp_path):
    (folder / "README.md").write_text(RECORD.format(count=20))
    try:
        images = open_images(f"hfids/{folder}", tmp_path / "cache", "train")
        assert images.sequential
        assert len(images) == 20
        for row in (7, 8, 15, 2):
            assert np.array_equal(
                np.asarray(images.read(row)[0]), np.asarray(Image.open(io.BytesIO(png(row))))
            )
    finally:
        (folder / "README.md").unlink()


def test_a_stream_of_wrong_or_unknown_length_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="length of the stream is not recorded; use hfds/"):
        open_images(f"hfids/{folder}", tmp_path / "cache", "train")
    (folder / "README.md").write_text(RECORD.format(count=21))
    try:
        images = open_images(f"hfids/{folder}", tmp_path / "cache2", "train")
        with pytest.raises(InputError, match="ended before row 20; 21 rows are recorded"):
            images.read(20)
    finally:
        (folder / "README.md").unlink()


def test_what_is_not_there_is_said_in_one_line(folder, tmp_path):
    for spec, split, words in [
        (f"hfds/{tmp_path}/nothing", "train", "cannot be opened"),
        (f"hfds/{folder}", "tests", "tests"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            open_images(spec, tmp_path / "cache", split)
        assert "\n" not in str(caught.value)


def test_without_a_network_the_hub_is_not_asked_again_and_again(monkeypatch):
    from huggingface_hub import constants

    asked = []

    def load(name, **_):
        asked.append(constants.HF_HUB_OFFLINE)
        raise ConnectionError("not here")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("probecache.extract.backbone.hub.reachable", lambda address: False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(InputError, match="ConnectionError: not here"):
        open_images("hfds/someone/something", None, "train")
    assert asked == [True]
    assert not constants.HF_HUB_OFFLINE


def table(**columns):
    features = {name: feature for name, (feature, _) in columns.items()}
    values = {name: given for name, (_, given) in columns.items()}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def column(numbers=(0, 1, 2)):
    return datasets.Image(), [{"bytes": png(i), "path": None} for i in numbers]


INTEGERS, TEXT = datasets.Value("int64"), datasets.Value("string")


def test_columns_of_usual_names_or_of_the_only_type_are_found():
    named = datasets.ClassLabel(names=["a", "b"])
    for data in (
        table(img=column(), fine=(named, [1, 0, -1])),
        table(picture=column(), mask=column((7, 8, 9)), label=(named, [1, 0, -1]), caption=(TEXT, ["x"] * 3)),
        table(scan=column(), Target=(INTEGERS, [1, 0, -1])),
        table(image=column(), label=(TEXT, ["1", "0", None])),
    ):
        images = open_images(data)
        assert images.labels.tolist() == [1, 0, -1]
        assert images.read(1)[1] == 0
        assert np.array_equal(np.asarray(images.read(2)[0]), np.asarray(Image.open(io.BytesIO(png(2)))))
    animals = open_images(table(image=column(), label=(TEXT, ["eel", "cat", "eel"])))
    assert (animals.classes, animals.labels.tolist()) == (("cat", "eel"), [1, 0, 1])


def test_columns_that_are_not_plain_are_asked_for():
    named = datasets.ClassLabel(names=["a", "b", "c"])
    two = table(image=column(), fine_label=(named, [0, 1, 2]), coarse_label=(named, [0, 0, 1]))
    with pytest.raises(
        InputError,
        match="no plain column for the label: name one of fine_label, coarse_label with target_key",
    ):
        open_images(two)
    assert open_images(two, choices=Choices(target_key="coarse_label")).labels.tolist() == [0, 0, 1]
    none = open_images(two, choices=Choices(target_key="none"))
    assert none.labels.tolist() == [-1] * 3
    assert "unlabelled" in none.inventory.lines()[0]
    with pytest.raises(InputError, match="no plain column for the image: name one of left, right, label"):
        open_images(table(left=column(), right=column(), label=(INTEGERS, [0, 1, 0])))
    with pytest.raises(InputError, match="has no column 'x' for the label"):
        open_images(two, choices=Choices(target_key="x"))


def test_labels_that_are_no_classes_are_refused():
    for kind, values, words in [
        (datasets.Value("float64"), [3.7, 1.0, 0.0], "3.7, no whole number"),
        (datasets.Sequence(INTEGERS), [[0, 1, 1], [1, 0, 1], [1, 1, 1]], "a list of 3"),
        (TEXT, ["1", "0", "eel"], "is not a whole number, but others are"),
    ]:
        with pytest.raises(InputError, match=words):
            open_images(table(image=column(), label=(kind, values)))


def test_other_rows_are_other_data():
    first = open_images(table(image=column(), label=(INTEGERS, [0, 0, 0])))
    for numbers in ((0, 1, 3), (1, 0, 2)):
        other = open_images(table(image=column(numbers), label=(INTEGERS, [0, 0, 0])))
        assert other.content != first.content
        assert other.order() == first.order()


def test_a_column_of_numbers_is_not_rounded_to_pixels():
    """`datasets` would cast [0, 1] to black."""
    values = np.random.default_rng(0).random((2, 8, 8, 3)).astype(np.float32)
    array = table(image=(datasets.Array3D((8, 8, 3), "float32"), values), label=(INTEGERS, [0, 1]))
    several = table(image=(datasets.Sequence(datasets.Image()), [column()[1]] * 2), label=(INTEGERS, [0, 1]))
    for data, kind in ((array, "Array3D"), (several, "List")):
        with pytest.raises(InputError, match=f"its column 'image' is {kind}, not images"):
            open_images(data)
    files = table(image=(datasets.Value("binary"), [png(0), png(1)]), label=(INTEGERS, [0, 1]))
    assert np.array_equal(
        np.asarray(open_images(files).read(1)[0]), np.asarray(Image.open(io.BytesIO(png(1))))
    )
