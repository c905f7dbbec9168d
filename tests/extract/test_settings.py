"""The options of `extract`: one list of names, one place for defaults, and a signature that shows both."""

import inspect
import pydoc
from dataclasses import fields

import numpy as np
import pytest
import timm
import torch
from torch import nn

import probecache as pc
from probecache.extract.datasets.preprocess import Overrides, resolve_preprocess, unsaid
from probecache.extract.settings import Options, Settings
from probecache.store.errors import InputError


def test_the_options_of_a_caller_are_the_fields_of_settings():
    assert list(Options.__annotations__) == [option.name for option in fields(Settings)]


def test_the_signature_of_extract_names_every_option_with_the_default_that_holds():
    shown = inspect.signature(pc.extract_features).parameters
    defaults = vars(Settings())
    assert {name: shown[name].default for name in defaults} == defaults
    assert all(shown[name].kind is inspect.Parameter.KEYWORD_ONLY for name in defaults)
    assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in shown.values())


def test_help_prints_the_options():
    text = pydoc.plain(pydoc.render_doc(pc.extract_features))
    assert "layers: str | collections.abc.Sequence[str] = ('penultimate',)" in text
    assert "amp_dtype: str = 'auto'" in text


def test_an_unknown_option_is_refused_by_name():
    with pytest.raises(InputError, match=r"got 'layer' in extract_features\(\); close names: layers"):
        Settings.of(layer="penultimate")


def test_none_is_the_default():
    assert Settings.of(layers=None, pool=None, split=None, batch_size=None) == Settings()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": "32"}, "batch_size got '32'; allowed: a whole number"),
        ({"workers": 1.5}, "workers got 1.5; allowed: a whole number"),
        ({"batch_size": True}, "batch_size got True; allowed: a whole number"),
        ({"img_size": (32, 32)}, "img_size got .32, 32.; allowed: a whole number"),
        ({"pretrained": "false"}, "pretrained got 'false'; allowed: True or False"),
        ({"allow_failed": 1}, "allow_failed got 1; allowed: True or False"),
        ({"crop_pct": "1"}, "crop_pct got '1'; allowed: a number"),
        ({"mean": "0.5"}, "mean got .*; allowed: a number, or a list of such"),
        ({"rows": (0, 4, 8)}, "rows got .*; allowed: 2 times a whole number"),
        ({"rows": "0:4"}, "rows got .*; allowed: 2 times a whole number"),
        ({"layers": {"a": 1}}, "layers got .*; allowed: a text, or a list of such"),
        ({"layers": [None]}, "layers got .*; allowed: a text"),
        ({"split": 3}, "split got 3; allowed: a text"),
        ({"data_dir": 5}, "data_dir got 5; allowed: a text or a path"),
        ({"model_kwargs": [1]}, "model_kwargs got .*; allowed: a mapping"),
        ({"torchcompile": True}, "torchcompile got True; allowed: a text"),
    ],
)
def test_options_of_another_kind_are_refused_by_name(options, words):
    with pytest.raises(InputError, match=words) as caught:
        Settings.of(**options)
    assert "\n" not in str(caught.value)


def test_what_means_the_same_is_taken():
    plain = Settings.of(
        layers=["-1"],
        img_size=32,
        mean=(0.5, 0.25),
        dtype="float16",
        device="cpu",
        amp_dtype="bfloat16",
        limit=3,
    )
    assert plain == Settings.of(
        layers=[-1],
        img_size=np.int64(32),
        mean=torch.tensor([0.5, 0.25]),
        dtype=np.float16,
        device=torch.device("cpu"),
        amp_dtype=torch.bfloat16,
        limit=np.uint8(3),
    )


def test_what_the_model_does_not_say_of_its_images_is_said():
    silent, timms = nn.Conv2d(3, 4, 3), timm.create_model("resnet18", pretrained=False, num_classes=0)
    for model, given, words in (
        (silent, {}, "made 224 x 224 and normalised as ImageNet's are"),
        (silent, {"img_size": 32}, "pixels are normalised as ImageNet's are"),
        (silent, {"mean": (0.5,), "std": (0.5,)}, "pixels are made 224 x 224, since"),
        (silent, {"img_size": 32, "mean": (0.5,), "std": (0.5,)}, ""),
        (timms, {}, ""),
    ):
        asked = Overrides(**given)
        told = unsaid(resolve_preprocess(model, asked), model, asked)
        assert words in told
        assert bool(words) == bool(told)
