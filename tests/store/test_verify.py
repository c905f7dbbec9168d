"""verify names every damage; repair drops exactly what is damaged; the same import writes it again."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import probecache as pc
from probecache.__main__ import _run
from probecache.store.fingerprint import Fingerprint
from probecache.store.format.metadata import group_document, render
from probecache.store.format.row_object import HEAD
from probecache.store.verification.repair import repair
from probecache.store.verification.verify import verify

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(capsys):
    """A command's exit code and what it printed; in this process, which has torch imported already."""

    def ran(*arguments):
        code = _run([str(a) for a in arguments], debug=False)
        return SimpleNamespace(returncode=code, stdout=capsys.readouterr().out)

    return ran


def write(path, compression=None):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((90, 24)).astype(np.float16)
    labels = rng.integers(0, 4, 90)
    common = {"labels": labels, "shard_rows": 32, "compression": compression, "split": "train"}
    pc.write_arrays(path, layer="blocks.5", activations=values, **common)
    return pc.write_arrays(path, layer="last", activations=values.astype(np.float32) * 3, **common)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "a.zarr"
    write(path)
    return path


@pytest.fixture
def path(original, tmp_path):
    shutil.copytree(original, tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def contents(path):
    store = pc.open_store(path)
    found = [store.labels("train"), store.samples("train"), store.status("train")]
    for layer in store.layers:
        found += [store.matrix("train", layer), *(v.values for v in store.moments("train", layer).values())]
    return found


def equal(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_intact_store_is_good(path):
    assert list(verify(path)) == []
    assert repair(path) == []


def test_a_store_of_another_format_is_neither_damaged_nor_mended(path, run):
    """An older version called one damaged, and `repair` wrote its own format over the top document."""
    document = json.loads((path / "zarr.json").read_bytes())
    document["attributes"]["probecache"]["format"] = 99
    document |= group_document(document["attributes"])
    (path / "zarr.json").write_bytes(render(document))
    before = (path / "zarr.json").read_bytes()
    for look in (verify, repair):
        with pytest.raises(pc.NotAStore, match="has store format 99, this probecache reads 1 and 2"):
            list(look(path))
    assert run("verify", path).returncode == 2
    assert (path / "zarr.json").read_bytes() == before


@pytest.mark.parametrize("harm", ["delete", "truncate", "empty", "swap", "copy from the other layer"])
def test_a_damaged_shard_is_named_and_only_it_is_written_again(path, harm):
    before = contents(path)
    shard = path / "train/blocks.5/activations/c/1/0"
    other = path / "train/blocks.5/activations/c/2/0"
    named = {1}
    if harm == "delete":
        shard.unlink()
    elif harm == "truncate":
        os.truncate(shard, shard.stat().st_size - 5)
    elif harm == "empty":
        os.truncate(shard, 0)
    elif harm == "swap":
        a, b = shard.read_bytes(), other.read_bytes()
        shard.write_bytes(b)
        other.write_bytes(a)
        named = {1, 2}
    else:
        for array in ("activations", "commit"):
            there = f"{array}/c/1/0"
            shutil.copyfile(path / "train/last" / there, path / "train/blocks.5" / there)
    with pytest.raises(pc.DamagedStore, match=r"split 'train', layer 'blocks.5', shard 1, rows 32:64"):
        pc.open_store(path).matrix("train", "blocks.5")
    damages = list(verify(path))
    assert {(d.kind, d.layer, d.shard) for d in damages} == {("shard", "blocks.5", i) for i in named}
    assert damages[0].rows == (32, 64)
    untouched = (path / "train/blocks.5/activations/c/0/0").stat().st_mtime_ns
    repair(path)
    with pytest.raises(pc.UnfinishedSplit, match="rows 32:64"):
        pc.open_store(path).matrix("train", "blocks.5")
    write(path)
    assert equal(contents(path), before)
    assert list(verify(path)) == []
    assert (path / "train/blocks.5/activations/c/0/0").stat().st_mtime_ns == untouched


@pytest.mark.parametrize("array", ["label", "sample", "status", "commit"])
def test_damaged_rows_take_all_layers_of_the_shard_along(path, array):
    before = contents(path)
    file = path / "train/commit/rows/1"
    raw = bytearray(file.read_bytes())
    label, status = HEAD, HEAD + 32 * 8 + 4
    raw[{"commit": 3, "label": label + 9, "status": status + 5, "sample": status + 32 + 20}[array]] ^= 4
    file.write_bytes(raw)
    with pytest.raises(pc.DamagedStore, match="split 'train', shard 1, rows 32:64"):
        pc.open_store(path).row_arrays("train")
    assert {(d.kind, d.shard, d.piece) for d in verify(path)} == {("rows", 1, array)}
    repair(path)
    write(path)
    assert equal(contents(path), before)


@pytest.mark.parametrize(
    "document", ["zarr.json", "train/zarr.json", "train/last/zarr.json", "train/last/activations/zarr.json"]
)
@pytest.mark.parametrize("harm", ["flip", "fill", "delete"])
def test_damaged_documents_are_named_and_restored(path, document, harm):
    before = contents(path)
    file = path / document
    raw = bytearray(file.read_bytes())
    if harm == "delete":
        file.unlink()
    elif harm == "fill":
        file.write_bytes(b"\0" * len(raw))
    else:
        raw[raw.index(b"zarr_format") + 14] ^= 1
        file.write_bytes(raw)
    assert document in {d.piece for d in verify(path)}
    repair(path)
    assert list(verify(path)) == []
    assert equal(contents(path), before)


def test_a_split_copied_from_a_store_of_another_backbone_is_refused(path, tmp_path):
    other = {
        "split": "other",
        "layer": "l",
        "activations": np.ones((4, 2), np.float32),
        "labels": np.zeros(4, int),
    }
    pc.write_arrays(tmp_path / "b", **other, fingerprint=Fingerprint({"model": "another"}))
    shutil.copytree(tmp_path / "b/other", path / "other")
    says = "other was written with another backbone"
    with pytest.raises(pc.DamagedStore, match=says):
        pc.open_store(path).labels("other")
    assert any(d.split == "other" and says in d.why for d in verify(path))
    with pytest.raises(pc.DamagedStore, match=says):
        repair(path)


def test_moments_that_do_not_follow_from_the_data_are_named_and_rebuilt(path):
    shutil.copyfile(path / "train/last/mean/c/0", path / "train/last/variance/c/0")
    (path / "train/last/zeros/c/0").unlink()
    assert {(d.kind, d.layer, d.piece) for d in verify(path)} == {
        ("moments", "last", "variance"),
        ("moments", "last", "zeros"),
    }
    repair(path)
    assert list(verify(path)) == []


def test_the_command_exits_1_and_names_the_piece(path, run):
    assert run("verify", path).returncode == 0
    (path / "train/last/activations/c/0/0").unlink()
    done = run("verify", path)
    assert done.returncode == 1
    assert "split train, layer last, shard 0, rows 0:32, activations: its file is missing" in done.stdout
    found = json.loads(run("verify", path, "--json").stdout)
    assert not found["good"]
    assert found["damages"][0]["rows"] == [0, 32]
    assert run("repair", path).returncode == 0
    assert run("verify", path).returncode == 1
    assert run("verify", path.parent).returncode == 2


@pytest.mark.parametrize("compression", [None, pytest.param("zstd", marks=pytest.mark.slow)])
def test_every_single_bit_flip_is_named(tmp_path, compression):
    """Random bits over all files of a store: each file's bytes are all vouched for."""
    path = tmp_path / "a.zarr"
    write(path, compression)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    sizes = np.array([p.stat().st_size for p in files])
    rng = np.random.default_rng(7)
    for k in range(60):
        # every file in turn, so that small files are not left out; then by size
        file = (
            files[k % len(files)] if k < len(files) else files[rng.choice(len(files), p=sizes / sizes.sum())]
        )
        raw = bytearray(file.read_bytes())
        bit = int(rng.integers(8 * len(raw)))
        raw[bit // 8] ^= 1 << bit % 8
        good = file.read_bytes()
        file.write_bytes(raw)
        found = list(verify(path))
        assert found, f"bit {bit} of {file.relative_to(path)} was not seen"
        file.write_bytes(good)
    assert list(verify(path)) == []


@pytest.mark.parametrize("layer", ["blocks.5", "new"])
def test_documents_that_a_living_writer_is_about_to_write_are_no_damage(path, tmp_path, monkeypatch, layer):
    """A new split, or a new layer of one: half of its documents are there, whoever looks."""
    from probecache.store.verification import damage
    from probecache.store.writing import create

    monkeypatch.setattr(damage.time, "sleep", lambda _: None)
    found, change = [], create.metadata_changed

    def look_first(files):
        found.append(list(verify(path)))
        change(files)

    monkeypatch.setattr(create, "metadata_changed", look_first)
    split = "train" if layer == "new" else "test"
    values, labels = np.ones((90, 24), np.float16), np.random.default_rng(1).integers(0, 4, 90)
    if layer == "new":
        labels = pc.open_store(path).labels("train")
    pc.write_arrays(path, split=split, layer=layer, activations=values, labels=labels, shard_rows=32)
    assert found
    assert found[0]
    assert {d.kind for d in found[0]} == {"unwritten"}
    assert any("is being written by process" in d.why and d.piece == "zarr.json" for d in found[0])
    assert list(verify(path)) == []
