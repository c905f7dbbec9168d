"""Commands in this process, as the shell sees them."""

import pytest

import probecache as pc


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        pc.main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return stop.value.code, told.out, told.err
