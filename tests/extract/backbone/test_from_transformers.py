"""Models of the transformers library, small and random: features equal to the library's own outputs."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from probecache.extract.backbone.layers import block_names
from probecache.extract.list_layers import list_layers
from probecache.extract.recompute import recompute
from probecache.extract.run import extract_features
from probecache.store.errors import InputError, ProbecacheError

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {**SMALL, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def vit():
    return transformers.ViTConfig(**SMALL), transformers.ViTImageProcessor(size={"height": 32, "width": 32})


def dinov2():
    config = transformers.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=3)
    size = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    return config, transformers.BitImageProcessor(**size)


def clip():
    config = transformers.CLIPConfig(vision_config=SMALL, text_config=TEXT, projection_dim=16)
    return config, transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )


def siglip():
    config = transformers.SiglipVisionConfig(**SMALL)
    return config, transformers.SiglipImageProcessor(size={"height": 32, "width": 32})


FAMILIES = [(vit, 1), (dinov2, 4), (clip, 1), (siglip, 0)]


@pytest.fixture(scope="module", autouse=True)
def quiet():
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.set_verbosity(level)
    transformers.utils.logging.enable_progress_bar()


def build(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModel.from_config(config).eval()


def saved(make, folder):
    config, processor = make()
    model = build(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def library(model, pixels):
    call = getattr(model, "get_image_features", model)
    with torch.no_grad():
        return call(pixel_values=pixels, output_hidden_states=True)


def close(a, b):
    b = b.numpy()
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


@pytest.mark.parametrize(("make", "prefix"), FAMILIES, ids=lambda v: getattr(v, "__name__", ""))
def test_features_are_the_librarys_own(make, prefix, tmp_path, photos):
    model, processor = saved(make, tmp_path / "model")
    blocks = block_names(model)
    assert len(blocks) == 2
    layers = ["penultimate", "last_hidden_state", blocks[0]]
    pools = ["avg", "cls"] if prefix else ["avg"]
    options = {"split": "train", "data_dir": photos, "device": "cpu", "workers": 0, "dtype": "float32"}
    name = f"transformers:{tmp_path / 'model'}"
    store = extract_features(name, layers=layers, pool=pools, out=tmp_path / "f.zarr", **options)
    files = [photos / sample for sample in store.samples("train")]
    images = [Image.open(file).convert("RGB") for file in files]
    want = library(model, processor(images=images, return_tensors="pt")["pixel_values"])
    close(store.matrix("train", "penultimate"), want.pooler_output)
    close(store.matrix("train", "last_hidden_state"), want.last_hidden_state[:, prefix:].mean(1))
    close(store.matrix("train", blocks[0]), want.hidden_states[1][:, prefix:].mean(1))
    if prefix:
        close(store.matrix("train", "last_hidden_state+cls"), want.last_hidden_state[:, 0])
    else:
        with pytest.raises(InputError, match="no class token"):
            extract_features(name, layers=layers, pool="cls", out=tmp_path / "g.zarr", **options)
    assert all(found.good for found in recompute(store, "train", 4, device="cpu"))
    assert "transformers" in store.fingerprint.backbone


@pytest.mark.parametrize(("make", "prefix"), FAMILIES, ids=lambda v: getattr(v, "__name__", ""))
def test_such_a_module_from_python(make, prefix, tmp_path):
    model = build(make()[0])
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    store = extract_features(
        model,
        TensorDataset(images, torch.tensor([0, 1, 0, 1])),
        layers=["output.last_hidden_state", "penultimate"],
        mean=0.5,
        std=0.5,
        device="cpu",
        dtype="float32",
        out=tmp_path / "f.zarr",
    )
    want = library(model, (images.float() / 255 - 0.5) / 0.5)
    close(store.matrix("train", "penultimate"), want.pooler_output)
    close(store.matrix("train", "output.last_hidden_state"), want.last_hidden_state[:, prefix:].mean(1))


def test_another_size_stretches_the_positions(tmp_path):
    saved(vit, tmp_path / "model")
    rows = list_layers(f"transformers:{tmp_path / 'model'}", ["layers.0"], ["none"], img_size=48)
    assert rows[0].output == (37, 32)


def test_a_pooler_that_was_never_trained_is_left_out(tmp_path, photos):
    config, processor = vit()
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    options = {"split": "train", "data_dir": photos, "device": "cpu", "workers": 0, "dtype": "float32"}
    store = extract_features(f"transformers:{tmp_path / 'model'}", out=tmp_path / "f.zarr", **options)
    files = [photos / sample for sample in store.samples("train")]
    pixels = processor(images=[Image.open(f).convert("RGB") for f in files], return_tensors="pt")[
        "pixel_values"
    ]
    want = library(model.vit, pixels).last_hidden_state
    close(store.matrix("train", "penultimate"), want[:, 1:].mean(1))


def test_what_is_not_there_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    options = {"split": "train", "data_dir": tmp_path, "out": tmp_path / "f.zarr"}
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "0.png")
    with pytest.raises(ProbecacheError, match="give the path of a saved copy") as error:
        extract_features("transformers:nobody/nothing", **options)
    assert "\n" not in str(error.value)
    saved(vit, tmp_path / "model")
    with pytest.raises(InputError, match="processor decides"):
        extract_features(f"transformers:{tmp_path / 'model'}", crop_pct=0.9, **options)


def test_models_of_text_are_sent_to_the_page_of_text(tmp_path):
    small = {name: SMALL[name] for name in list(SMALL)[:4]}
    model = transformers.BertModel(transformers.BertConfig(**small, vocab_size=50))
    model.save_pretrained(tmp_path / "bert")
    data = TensorDataset(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4))
    for given, says in (
        (f"transformers:{tmp_path / 'bert'}", "saved without an image processor"),
        (model, "does not run on 3x32x32 images"),
    ):
        with pytest.raises(InputError, match=rf"{says}.* pc.open_writer \(docs/cookbook/text.md\)"):
            extract_features(given, data, img_size=32, workers=0, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()
