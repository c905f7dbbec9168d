"""An index saves a request per shard and is never believed alone: it holds now, or the commits are read."""

import shutil

import numpy as np
import pytest
import zarr

import probecache as pc
from probecache.store.fingerprint import Fingerprint
from probecache.store.format import metadata
from probecache.store.format.chunks import decode_commit
from probecache.store.format.groups import Layer, Split
from probecache.store.layout import LayerSpec, SplitSpec
from probecache.store.reading import commits
from probecache.store.reading.read_index import load_index
from probecache.store.storage.local import LocalFiles
from probecache.store.verification.repair import repair
from probecache.store.verification.verify import verify
from probecache.store.writer import open_split_writer

N, ROWS = 150, 4  # 38 shards: more than are asked for one by one
X = np.random.default_rng(0).standard_normal((N, 5)).astype(np.float32)
Y = np.arange(N) % 7
NAMES = [f"class {i % 7}/image {i}.png" for i in range(N)]


def write(path, n=N, layer="l", **more):
    names = [str(i) for i in range(7)]
    given = {"labels": Y[:n], "samples": NAMES[:n], "shard_rows": ROWS, "class_names": names}
    return pc.write_arrays(path, split="t", layer=layer, activations=X[:n], **given, **more)


def right(store, n=N):
    return (
        np.array_equal(store.matrix("t", "l"), X[:n])
        and np.array_equal(store.labels("t"), Y[:n])
        and store.samples("t").tolist() == NAMES[:n]
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "s"
    write(path)
    return path


@pytest.fixture
def path(original, tmp_path):
    shutil.copytree(original, tmp_path / "s")
    return tmp_path / "s"


def indexed(path):
    """Which owners of the split have an index that holds now."""
    store = pc.open_store(path)
    layers = [store.layer_info("t", name) for name in store.layers_of("t")]
    owners: list[Split | Layer] = [store.split_info("t"), *layers]
    return {owner.key for owner in owners if load_index(store.files, owner) is not None}


def opened(monkeypatch):
    """Keys that are read from now on."""
    keys, read, head = [], LocalFiles.read, LocalFiles.read_heads

    def reading(self, key, *more):
        keys.append(key)
        return read(self, key, *more)

    def heading(self, wanted, size):
        keys.extend(wanted)
        return head(self, wanted, size)

    monkeypatch.setattr(LocalFiles, "read", reading)
    monkeypatch.setattr(LocalFiles, "read_heads", heading)
    return keys


def test_three_files_a_shard_and_plain_zarr_reads_all_of_it(path):
    shards = -(-N // ROWS)
    there = [p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json"]
    assert len([p for p in there if "rows" in p.parts or {"activations"} & set(p.parts)]) == 2 * shards
    assert len(there) <= 3 * shards + 15  # moments, row arrays, indexes
    group = zarr.open_group(path, mode="r")["t"]
    np.testing.assert_array_equal(group["label"][:], Y)
    np.testing.assert_array_equal(group["status"][:], 1)
    assert group["sample"][:].tolist() == NAMES
    for i, row in enumerate(group["commit"][:]):  # as the shard's own object says
        raw = (path / f"t/commit/rows/{i}").read_bytes()[:44]
        rows, crcs = decode_commit(raw, f"t/{i}", 3)
        assert (int(row[0]), row[2:].tolist()) == (rows, crcs.tolist())


def test_many_shards_are_opened_listed_and_labelled_without_a_read_for_each(path, monkeypatch):
    expected = pc.open_store(path).digest("t", "l")
    keys = opened(monkeypatch)
    store = pc.open_store(path)
    assert right(store)
    assert store.digest("t", "l") == expected
    assert not [key for key in keys if "/commit/rows/" in key or "l/commit/c/" in key]
    assert len(keys) < 40


def test_the_digest_is_that_of_the_commits_and_of_the_first_format(path, tmp_path, monkeypatch):
    by_index = pc.open_store(path).digest("t", "l")
    for file in path.rglob("index"):
        file.unlink()
    assert pc.open_store(path).digest("t", "l") == by_index
    monkeypatch.setattr(metadata, "FORMAT", 1)
    assert write(tmp_path / "old").digest("t", "l") == by_index


@pytest.mark.parametrize("what", ["t/commit/index", "t/l/commit/index", "t/label/c/0", "t/commit/c/0/0"])
@pytest.mark.parametrize("harm", ["lost", "flip", "zeros", "of another state", "cut"])
def test_what_follows_from_the_commits_is_never_believed_alone(path, what, harm):
    file = path / what
    raw = file.read_bytes()
    if harm == "lost":
        file.unlink()
    elif harm == "of another state":
        shutil.copyfile(path / ("t/l/commit/index" if what != "t/l/commit/index" else "t/commit/index"), file)
    else:
        flipped = raw[:-9] + bytes([raw[-9] ^ 2]) + raw[-8:]
        file.write_bytes({"flip": flipped, "zeros": bytes(len(raw)), "cut": raw[: len(raw) // 2]}[harm])
    assert right(pc.open_store(path))
    named = list(verify(path))
    assert {damage.kind for damage in named} == {"index"}
    repair(path)
    assert list(verify(path)) == []
    assert indexed(path) == {"t", "t/l"}


@pytest.mark.parametrize("lost", ["t/l/commit/c/20/0", "t/commit/rows/20"])
def test_a_commit_that_was_deleted_by_hand_is_missed_though_the_index_has_it(path, lost):
    shutil.rmtree((path / lost).parent) if "/l/" in lost else (path / lost).unlink()
    with pytest.raises(pc.ProbecacheError, match=r"rows 80:84|shard 20"):
        pc.open_store(path).matrix("t", "l") if "/l/" in lost else pc.open_store(path).labels("t")
    write(path)  # the same command goes on: a writer looks at the commits
    assert right(pc.open_store(path))
    assert list(verify(path)) == []


def test_a_writer_that_began_ends_the_index_and_one_that_finished_makes_it(path):
    store = pc.open_store(path)
    spec = store.layer_info("t", "l").spec
    with open_split_writer(
        path,
        SplitSpec(
            split="t",
            n_samples=N,
            layers=[LayerSpec("m", 5, "float32")],
            class_names=store.class_names("t"),
            fingerprint=Fingerprint({"source": "arrays"}),
        ),
    ) as writer:
        assert indexed(path) == {"t", "t/l"}  # the rows stay as they are, and so does the other layer
        for s in list(writer.pending())[:-1]:
            at = slice(s.start, s.stop)
            writer.write(s, {"m": X[at]}, Y[at], NAMES[at])
    assert spec == pc.open_store(path).layer_info("t", "l").spec
    assert indexed(path) == {"t", "t/l"}
    write(path, layer="m")
    assert indexed(path) == {"t", "t/l", "t/m"}


def test_a_stamp_that_changed_ends_an_index_until_it_is_made_again(path):
    (path / "t/l/commit/stamp").write_text("another writer's")
    assert indexed(path) == {"t"}
    assert right(pc.open_store(path))
    assert [damage.piece for damage in verify(path)] == ["t/l/commit/index"]
    repair(path)
    assert indexed(path) == {"t", "t/l"}


def test_growth_writes_the_chunks_anew_that_hold_new_rows_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr("probecache.store.layout.ROWS_OF_A_CHUNK", 32)
    path = tmp_path / "s"
    write(path, n=110)
    assert pc.open_store(path).split_info("t").row_shards == 8
    before = {p.name: p.stat().st_mtime_ns for p in (path / "t/label/c").iterdir()}
    assert len(before) == 4
    write(path)
    after = {p.name: p.stat().st_mtime_ns for p in (path / "t/label/c").iterdir()}
    assert [name for name in sorted(after) if after[name] != before.get(name)] == ["3", "4"]
    assert right(pc.open_store(path))
    assert zarr.open_group(path, mode="r")["t/sample"][:].tolist() == NAMES
    assert list(verify(path)) == []


@pytest.mark.parametrize("moment", ["before its commits are read", "after they were read"])
def test_an_index_that_missed_a_change_does_not_hold(path, monkeypatch, moment):
    """One process makes the index of what another is changing: at either moment the other's stamp tells."""
    from probecache.store.writing import write_index

    store = pc.open_store(path)
    layer = store.layer_info("t", "l")
    for file in path.rglob("index"):
        file.unlink()

    def change():
        write_index.touch(store.files, [layer])
        (path / "t/l/commit/c/20/0").unlink()
        write_index.touch(store.files, [layer])

    real = write_index._whole

    def whole(files, owner):
        if owner.key != "t/l":
            return real(files, owner)
        if moment == "after they were read":
            found = real(files, owner)
            change()
            return found
        change()
        return real(files, owner)

    monkeypatch.setattr(write_index, "_whole", whole)
    write_index.write_indexes(store.files, store.split_info("t"))
    assert load_index(store.files, layer, listed=False) is None


def test_no_index_is_made_beside_another_writer(path):
    from probecache.store.writing.write_index import write_indexes

    store = pc.open_store(path)
    for file in path.rglob("index"):
        file.unlink()
    (path / "t/commit/claim-3").write_text("somebody")
    write_indexes(store.files, store.split_info("t"))
    assert not list(path.rglob("index"))
    (path / "t/commit/claim-3").unlink()
    write_indexes(store.files, store.split_info("t"))
    assert indexed(path) == {"t", "t/l"}


@pytest.mark.parametrize("few", [0, 16])
def test_a_store_of_the_first_format_is_read_written_grown_verified_and_mended(tmp_path, monkeypatch, few):
    monkeypatch.setattr(commits, "FEW", few)
    path = tmp_path / "old"
    with monkeypatch.context() as then:
        then.setattr(metadata, "FORMAT", 1)
        write(path, n=100)
    assert (path / "t/l/partial/c/3/0/0").exists()
    assert right(pc.open_store(path), 100)
    write(path)
    write(path, layer="m")
    assert not list(path.rglob("index"))
    assert right(pc.open_store(path))
    assert list(verify(path)) == []
    raw = bytearray((path / "t/sample/c/9").read_bytes())
    raw[30] ^= 1
    (path / "t/sample/c/9").write_bytes(raw)
    with pytest.raises(pc.DamagedStore, match="shard 9"):
        pc.open_store(path).samples("t")
    assert {d.shard for d in repair(path)} == {9}
    write(path)
    write(path, layer="m")
    assert right(pc.open_store(path))
    assert list(verify(path)) == []
