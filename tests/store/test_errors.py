"""Messages of other libraries in one line of ours, whatever they say."""

import pytest

from probecache.store.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  no such file \nTraceback ..."), "no such file "),
        (OSError("a\r\nb"), "a"),
        (KeyError(), "KeyError"),
        (RuntimeError(" \n "), "RuntimeError"),
    ],
)
def test_an_error_is_one_line_also_where_it_says_nothing(error, line):
    assert first_line(error) == line
    assert first_line(error, "nothing") == ("nothing" if line == type(error).__name__ else line)
