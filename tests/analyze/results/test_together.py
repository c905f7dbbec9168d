"""RESULTS that others read, reach by a link or write to at the same moment."""

import errno
import json
import os
import shutil
import signal
from functools import partial

import numpy as np
import pytest
import xarray as xr

import probecache as pc
from probecache.analyze.report.place import check_folder
from probecache.analyze.results import check, grid, write
from probecache.analyze.results.lock import lock, replaced, unlock
from probecache.analyze.results.saved import require_room_for, save_dataset
from probecache.analyze.results.settings import check_settings
from probecache.analyze.results.verify import verify_results
from probecache.store.errors import FingerprintMismatch, InputError, ProbecacheError
from probecache.store.fingerprint import digest

PLAN = {"layer": "a", "fractions": [0.5, 1], "seeds": 2, "l2": [1e-3, 1e-1], "probe": "ridge"}
MORE = PLAN | {"seeds": 3, "fractions": [0.2, 0.5, 1]}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("together") / "s"
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    for split in ("train", "test"):
        pc.write_arrays(path, split=split, layer="a", activations=rng.normal(size=(60, 10)), labels=y)
    return pc.open_store(path)


@pytest.fixture
def growing(store, tmp_path, monkeypatch):
    """RESULTS that grow once, in the midst of the next look at them."""
    pc.sweep(store, **PLAN, save_predictions=True, out=tmp_path / "r")
    original = check._documents
    asked = []

    def documents(*arguments):
        if not asked:
            asked.append(1)
            pc.sweep(store, **MORE, save_predictions=True, out=tmp_path / "r")
        return original(*arguments)

    monkeypatch.setattr(check, "_documents", documents)
    return tmp_path / "r"


def test_verify_says_nothing_of_results_that_grow_meanwhile(growing):
    assert verify_results(str(growing)) == []


def test_opening_results_that_grow_meanwhile_gives_the_new_ones(growing):
    assert pc.open_results(growing).sizes["seed"] == 3


def test_a_sweep_into_results_that_another_makes_grow_meanwhile(store, growing):
    found = pc.sweep(store, **PLAN | {"seeds": 4}, save_predictions=True, out=growing)
    assert (found["state"] == 1).all()
    assert verify_results(str(growing)) == []


def test_what_is_missing_is_told_of_results_that_grow_between_two_looks(store, tmp_path, monkeypatch):
    path = tmp_path / "r"
    pc.sweep(store, **PLAN, out=path)
    first = write.readable(path)
    pc.sweep(store, **MORE, out=path)
    monkeypatch.setattr(write, "readable", lambda path: first)
    assert not write.missing_in(path, first[1], write.settings_of(first[0])).any()


def test_rows_of_results_that_were_laid_out_anew_are_asked_to_be_opened_again(store, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "MOST_SPANS", 1)
    pc.sweep(store, **PLAN, save_predictions=True, out=tmp_path / "r")
    opened = pc.open_results(tmp_path / "r")
    pc.sweep(store, **MORE, save_predictions=True, out=tmp_path / "r")
    with pytest.raises(ProbecacheError, match="has been replaced or has grown since it was opened"):
        opened["predictions"].load()
    shutil.rmtree(tmp_path / "r")
    with pytest.raises(ProbecacheError, match="has been replaced or has grown since it was opened"):
        opened["permutation"].load()


def test_a_link_to_results_is_followed_and_shares_their_lock(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    real, link = tmp_path / "r", tmp_path / "elsewhere" / "link"
    link.symlink_to(real)
    pc.sweep(store, **PLAN, out=link)  # what it points to is made
    assert link.is_symlink()
    assert real.is_dir()
    pc.sweep(store, **MORE, out=link)  # and grows
    assert link.is_symlink()
    assert pc.open_results(link).sizes["seed"] == 3
    held = lock(real)
    with pytest.raises(InputError, match="is being written by process"):
        pc.sweep(store, **MORE | {"seeds": 4}, out=link)
    unlock(real, held)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "r"]
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["link"]


def test_a_link_to_a_saved_dataset_is_followed(tmp_path):
    save_dataset(xr.Dataset({"v": ("i", [1.0])}), tmp_path / "c")
    (tmp_path / "link").symlink_to(tmp_path / "c")
    save_dataset(xr.Dataset({"v": ("i", [2.0])}), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert pc.open_results(tmp_path / "c")["v"].item() == 2


def test_a_ring_of_links_is_refused(store, tmp_path):
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    with pytest.raises(InputError, match="name a folder"):
        pc.sweep(store, **PLAN, out=tmp_path / "ring")


def test_a_killed_save_leaves_nothing_that_the_next_does_not_remove(tmp_path, monkeypatch):
    data = xr.Dataset({"v": ("i", [1.0])})
    child = os.fork()
    if child == 0:
        xr.Dataset.to_zarr = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        save_dataset(data, tmp_path / "c")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    save_dataset(data, tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_sweep_never_calls_a_cka_output_damaged_results(store, tmp_path):
    """It said so, and advised to remove them."""
    path = save_dataset(xr.Dataset({"v": ("i", [1.0])}), tmp_path / "c")
    with pytest.raises(InputError, match="is what `cka` or `compare` wrote and no sweep; name another path"):
        pc.sweep(store, **PLAN, out=path)
    assert verify_results(str(path)) == []


def test_results_of_another_format_are_neither_damaged_nor_changed(store, tmp_path):
    path = tmp_path / "r"
    pc.sweep(store, **PLAN, out=path)
    for name in ("zarr.json", "state/group.json"):
        document = json.loads((path / name).read_bytes())
        del document["attributes"]["results"]["checksum"]
        document["attributes"]["results"]["format"] = 3
        document["attributes"]["results"]["checksum"] = digest(document["attributes"])
        (path / name).write_text(json.dumps(document))
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    for look in (partial(pc.open_results, path), partial(pc.sweep, store, **MORE, out=path)):
        with pytest.raises(InputError, match="format 3, this probecache reads 2: use the version that wrote"):
            look()
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_many_differing_settings_are_told_in_a_line_that_can_be_read(tmp_path):
    there = {"settings": '{"digests": {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}}'}
    now = {"digests": dict.fromkeys("abcdef", 2)}
    with pytest.raises(FingerprintMismatch, match=r"digests.d: 1 there, 2 now; and 2 more; give another"):
        check_settings(tmp_path, there, now)


@pytest.mark.parametrize("path", ["a\nb", "s3://bucket/c"])
def test_nothing_is_written_where_it_could_not_be_read_again(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for work in (partial(save_dataset, xr.Dataset({"v": ("i", [1.0])})), require_room_for, check_folder):
        with pytest.raises(InputError, match=r"name a folder or a URL|allowed: a local folder"):
            work(path)
    assert list(tmp_path.iterdir()) == []


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


def laid_out_in_part(path, *arguments):
    (path.parent / f".{path.name}.new").mkdir()
    full_disk()


@pytest.mark.parametrize("fails", ["lock", "layout", "growth"])
def test_a_full_disk_leaves_neither_lock_nor_folder(store, tmp_path, monkeypatch, fails):
    path = tmp_path / "r"
    if fails == "growth":
        pc.sweep(store, **PLAN, out=path)
    there = sorted(p.name for p in tmp_path.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(*(os, "pwrite", full_disk) if fails == "lock" else (write, "build", laid_out_in_part))
        with pytest.raises((ProbecacheError, OSError), match="No space left"):
            pc.sweep(store, **MORE, out=path)
    assert sorted(p.name for p in tmp_path.iterdir()) == there
    pc.sweep(store, **MORE, out=path)


def write_while_another_does(place):
    with replaced(place, require_room_for) as made:
        (made / "zarr.json").write_text("{}")
        place.mkdir()
        (place / "mine").write_text("mine")


def test_what_another_command_wrote_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(InputError, match="exists already"):
        write_while_another_does(tmp_path / "r")
    assert (tmp_path / "r" / "mine").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("inside", ["new", "train/new", "train/a/deep/new"])
def test_nothing_is_laid_inside_a_store(store, tmp_path, inside):
    home = tmp_path / "s"
    shutil.copytree(store.path, home)
    held = sorted(home.rglob("*"))
    for write_there in (
        lambda place: pc.sweep(home, **PLAN, out=place),
        lambda place: save_dataset(xr.Dataset({"x": ("n", [1.0])}), place),
        lambda place: pc.write_arrays(place, split="s", layer="l", activations=np.zeros((4, 2), np.float32)),
        check_folder,
    ):
        with pytest.raises(InputError, match=r"inside .*, which is a store or a part of one"):
            write_there(home / inside)
    assert sorted(home.rglob("*")) == held
    assert pc.open_store(home).splits == ["test", "train"]


def test_nothing_is_laid_inside_results(store, tmp_path):
    """Growing would remove it."""
    pc.sweep(store, **PLAN, out=tmp_path / "r")
    with pytest.raises(InputError, match=r"inside .*, which is RESULTS"):
        save_dataset(xr.Dataset({"x": ("n", [1.0])}), tmp_path / "r" / "cka")


def test_the_folder_that_a_command_runs_in_is_not_replaced(store, tmp_path, monkeypatch):
    here = tmp_path / "r"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(InputError, match="run it from another folder"):
        pc.sweep(store, **PLAN, out=".")
    assert not any(here.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]
    monkeypatch.chdir(tmp_path)
    pc.sweep(store, **PLAN, out=here)
    monkeypatch.chdir(here)
    assert (pc.sweep(store, **PLAN, out=".")["state"] == 1).all()  # nothing is left to do
    with pytest.raises(InputError, match="run it from another folder"):
        pc.sweep(store, **MORE, out=".")


def test_a_file_system_without_locks_is_said_and_nothing_is_left(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("fcntl.flock", lambda handle, _: opened.append(handle) or _no_locks())
    with pytest.raises(InputError, match=r"locks no files \(No locks available\)"):
        lock(tmp_path / "r")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
    assert not list(tmp_path.iterdir())


def _no_locks():
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
