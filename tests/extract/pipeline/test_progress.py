"""The bar on stderr, in terminals of any width."""

import io

import pytest

from probecache.extract.pipeline.progress import show_progress
from probecache.extract.pipeline.timing import Timing


@pytest.mark.parametrize(("width", "whole"), [(20, False), (100, True)])
def test_share_and_rate_are_shown_whole_however_narrow_it_is(width, whole, monkeypatch):
    said = io.StringIO()
    said.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", said)
    for name, value in (("COLUMNS", str(width)), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    with show_progress(8, Timing(), "train", True) as show:
        for _ in range(2):
            show(4)
    last = said.getvalue().replace("\r", "\n").split("\n")
    assert any("100%" in line and "img/s" in line for line in last)
    assert any("decode" in line and "write" in line for line in last) == whole
