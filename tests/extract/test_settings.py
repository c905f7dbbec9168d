"""The options of `extract`: one list of names, one place for defaults, and a signature that shows both."""

import inspect
import pydoc
from dataclasses import fields

import pytest

import probecache as pc
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
    with pytest.raises(InputError, match=r"unknown option 'layer' of extract; allowed: .*layers"):
        Settings.of(layer="penultimate")


def test_none_is_the_default():
    assert Settings.of(layers=None, pool=None, split=None, batch_size=None) == Settings()
