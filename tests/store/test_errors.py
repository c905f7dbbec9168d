"""Messages of other libraries in one line of ours, whatever they say."""

import pickle

import pytest

import probecache as pc
from probecache.store.errors import InputError, first_line, on_the_command_line


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


def test_messages_name_arguments_in_python_and_flags_on_the_command_line(tmp_path, capsys):
    error = InputError(
        "got --img-size 3: use --no-pretrained or --by-position; `probecache repair S --layer l`"
    )
    said = "got img_size 3: use pretrained=False or by_position; `probecache repair S --layer l`"
    assert str(error) == said
    assert str(pickle.loads(pickle.dumps(error))) == said
    assert str(InputError("unknown layer '--out', in a--b/--c")) == "unknown layer '--out', in a--b/--c"
    with on_the_command_line():
        assert str(error) == error.args[0]
    assert str(error) == said
    with pytest.raises(InputError, match=r"^activations: no file"):
        pc.import_features(tmp_path / "s", split="a", layer="l", activations="none.npy")
    words = ["import", str(tmp_path / "s"), "--split", "a", "--layer", "l", "--activations", "none.npy"]
    with pytest.raises(SystemExit, match="2"):
        pc.main(words)
    assert "--activations: no file 'none.npy'" in capsys.readouterr().err
