"""A file that is replaced whole or not at all."""

import errno
import os
import threading

import pytest

from probecache.store.errors import InputError, ProbecacheError
from probecache.store.storage.replace_file import replaced_file


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def test_the_new_content_is_on_the_disk_before_it_has_the_name(old, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, call=call, name=name: done.append(name) or call(*a))
    with replaced_file(old) as made:
        made.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"
    assert done == ["fsync", "replace"]


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), ProbecacheError),
        (OSError(errno.EIO, "Input/output error"), InputError),
    ],
)
def test_what_breaks_off_leaves_the_old_file_and_nothing_else(old, raised, told):
    def broken_off():
        with replaced_file(old) as made:
            made.write_text("half")
            raise raised

    with pytest.raises(told):
        broken_off()
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_a_folder_that_is_not_there_is_wrong_input(tmp_path):
    missing = tmp_path / "none" / "file.txt"
    with pytest.raises(InputError, match="cannot be written: No such file"), replaced_file(missing) as made:
        made.write_text("new")


def test_a_link_stays_one_and_a_pipe_is_written_to(old, tmp_path):
    link, pipe, got = tmp_path / "link", tmp_path / "pipe", []
    link.symlink_to(old)
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    for path in (link, pipe):
        with replaced_file(path) as made:
            made.write_text("new")
    reader.join(60)
    assert got == ["new"]
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert old.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == sorted([old, link, pipe])


def test_a_folder_in_the_files_place_is_wrong_input(tmp_path):
    with (
        pytest.raises(InputError, match="cannot be written: Is a directory"),
        replaced_file(tmp_path) as made,
    ):
        made.write_text("new")
    assert list(tmp_path.iterdir()) == []
