"""What the store holds is what timm computes, row by row."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from probecache.extract.backbone.load import load_backbone
from probecache.extract.run import extract_features
from probecache.store.errors import DamagedStore, FingerprintMismatch, InputError, ProbecacheError
from probecache.store.layout import FAILED, OK

MODEL = "test_resnet"


def direct(backbone, files, layer=None):
    """timm by hand: the standard eval transform with its normalisation, one image at a time."""
    model = backbone.model
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    rows = []
    with torch.inference_mode():
        for file in files:
            image = transform(Image.open(file).convert("RGB")).unsqueeze(0)
            rows.append(model.forward_head(model.forward_features(image), pre_logits=True)[0].numpy())
    return np.stack(rows)


def relative(got, expected):
    return np.abs(got.astype(np.float64) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float16", 1e-3), ("bfloat16", 8e-3)])
def test_features_equal_a_direct_timm_forward(photos, tmp_path, dtype, limit):
    store = extract_features(
        MODEL,
        data_dir=photos,
        out=tmp_path / "s.zarr",
        pretrained=False,
        dtype=dtype,
        batch_size=7,
        shard_rows=10,
        device="cpu",
    )
    files = [photos / name for name in store.samples("train")]
    expected = direct(load_backbone(MODEL, pretrained=False), files)
    assert relative(store.matrix("train", "penultimate", dtype=np.float32), expected) < limit


def test_rows_carry_label_and_identity(photos, photos_tar, tmp_path):
    for number, source in enumerate((photos, photos_tar)):
        store = extract_features(
            MODEL, data_dir=source, out=tmp_path / f"{number}.zarr", pretrained=False, workers=2
        )
        names = list(store.samples("train"))
        assert names == [f"{c}/{i}.png" for c in ("cat", "dog", "eel") for i in range(8)]
        assert store.class_names("train") == ["cat", "dog", "eel"]
        assert [store.class_names("train")[i] for i in store.labels("train")] == [
            n.split("/")[0] for n in names
        ]
        assert (store.status("train") == OK).all()


def test_batch_size_does_not_show_in_float32(photos, tmp_path):
    one, two = (
        extract_features(
            MODEL,
            data_dir=photos,
            out=tmp_path / f"{b}.zarr",
            pretrained=False,
            dtype="float32",
            batch_size=b,
        ).matrix("train", "penultimate")
        for b in (3, 24)
    )
    assert relative(one, two) < 1e-5


def test_several_layers_and_poolings_come_from_one_pass(photos, tmp_path):
    store = extract_features(
        "test_vit",
        data_dir=photos,
        out=tmp_path / "s.zarr",
        pretrained=False,
        layers=["blocks.*", "penultimate"],
        pool=["avg", "cls"],
        dtype="float32",
        device="cpu",
    )
    model = load_backbone("test_vit", pretrained=False).model
    blocks = [f"blocks.{i}" for i in range(len(model.blocks))]
    assert store.layers == sorted([*blocks, *(f"{b}+cls" for b in blocks), "penultimate"])
    image = create_transform(**resolve_model_data_config(model))(
        Image.open(photos / "cat/0.png").convert("RGB")
    )
    with torch.inference_mode():
        tokens = model.forward_intermediates(
            image[None],
            indices=None,
            return_prefix_tokens=True,
            norm=False,
            output_fmt="NLC",
            intermediates_only=True,
        )
    for name, (patches, prefix) in zip(blocks, tokens, strict=True):
        assert relative(store.matrix("train", name)[0], patches[0].mean(0).numpy()) < 1e-5
        assert relative(store.matrix("train", f"{name}+cls")[0], prefix[0, 0].numpy()) < 1e-5


def test_a_second_run_computes_only_what_is_missing(photos, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    first = extract_features(MODEL, data_dir=photos, out=out, pretrained=False, shard_rows=8, limit=16)
    before = first.matrix("train", "penultimate")
    more = extract_features(
        MODEL,
        data_dir=photos,
        out=out,
        pretrained=False,
        shard_rows=8,
        layers=["penultimate", "-1"],
        limit=16,
    )
    assert "layer4" in more.layers
    summary = more.report("train", "layer4")["summary"]
    assert summary["images"] == 16
    monkeypatch.setattr("probecache.extract.run.run_loop", None)  # nothing is left to run
    again = extract_features(MODEL, data_dir=photos, out=out, pretrained=False, shard_rows=8, limit=16)
    assert np.array_equal(again.matrix("train", "penultimate"), before)


def test_an_unreadable_image_keeps_its_row(photos, tmp_path):
    broken = tmp_path / "photos"
    for file in sorted(photos.rglob("*.png")):
        target = broken / file.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    (broken / "dog/3.png").write_bytes((photos / "dog/3.png").read_bytes()[:60])
    (broken / "eel/0.png").write_bytes(b"")
    options = {"data_dir": broken, "out": tmp_path / "s.zarr", "pretrained": False, "batch_size": 4}
    with pytest.raises(ProbecacheError, match=r"2 of 24 images .* first 'dog/3.png'"):
        extract_features(MODEL, **options)
    with pytest.raises(ProbecacheError, match=r"2 of 24 images"):  # nor does a second run hide it
        extract_features(MODEL, **options)
    store = extract_features(MODEL, **options, allow_failed=True)
    good = extract_features(MODEL, **{**options, "data_dir": photos, "out": tmp_path / "good.zarr"})
    status = store.status("train")
    assert list(np.flatnonzero(status == FAILED)) == [11, 16]
    matrix, whole = store.matrix("train", "penultimate"), good.matrix("train", "penultimate")
    assert np.isnan(matrix[[11, 16]]).all()
    assert np.array_equal(matrix[status == OK], whole[status == OK])
    assert list(store.samples("train")) == list(good.samples("train"))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"seed": 1}, "weights"),
        ({"img_size": 96}, "input_size"),
        ({"crop_pct": 1.0}, "crop_pct"),
        ({"mean": [0.4, 0.5, 0.6]}, "mean"),
        ({"amp_dtype": "bfloat16"}, "amp_dtype"),
    ],
)
def test_a_store_made_differently_is_refused(photos, tmp_path, changed, field):
    options = {"data_dir": photos, "out": tmp_path / "s.zarr", "pretrained": False, "limit": 8}
    options["device"] = "cpu"  # bfloat16 is what auto takes on a GPU
    extract_features(MODEL, **options)
    with pytest.raises(FingerprintMismatch, match=field):
        extract_features(MODEL, **{**options, **changed})


def test_rows_must_be_whole_shards(photos, tmp_path):
    options = {"data_dir": photos, "out": tmp_path / "s.zarr", "pretrained": False, "shard_rows": 8}
    with pytest.raises(InputError, match=r"4:16"):
        extract_features(MODEL, **options, rows=(4, 16))
    part = extract_features(MODEL, **options, rows=(8, 16))
    assert (part.status("train")[8:16] == OK).all()
    whole = extract_features(MODEL, **options)
    assert np.isfinite(whole.matrix("train", "penultimate")).all()


@pytest.mark.parametrize("group", ["train", "train/penultimate"])
def test_a_document_that_is_no_file_is_damage_not_a_traceback(photos, tmp_path, group):
    options = {"data_dir": photos, "out": tmp_path / "s", "pretrained": False, "limit": 4, "device": "cpu"}
    extract_features(MODEL, **options)
    document = tmp_path / "s" / group / "zarr.json"
    document.rename(tmp_path / "kept.json")
    document.symlink_to(tmp_path / "kept.json")
    with pytest.raises(DamagedStore, match=f"{group}/zarr.json: it is a link, not a file"):
        extract_features(MODEL, **options)


def test_stored_weights_name_the_state(photos, tmp_path):
    backbone = load_backbone(MODEL, pretrained=False, seed=3)
    store = extract_features(
        MODEL, data_dir=photos, out=tmp_path / "s.zarr", pretrained=False, seed=3, limit=4
    )
    assert store.fingerprint.backbone["weights"] == backbone.weights
    assert store.fingerprint.backbone["source"] == "random:seed=3"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        same = timm.create_model(MODEL)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), backbone.model.parameters(), strict=True))
