"""A hostile or truncated store gives one clear line, and no large allocation."""

import contextlib
import json
import os
import socket
import tracemalloc

import numpy as np
import pytest

import probecache as pc
from probecache.store.format import metadata
from probecache.store.verification.verify import verify


@pytest.fixture
def path(tmp_path):
    values = np.arange(60, dtype=np.float32).reshape(20, 3)
    pc.write_arrays(
        tmp_path / "a", split="s", layer="l", activations=values, labels=np.zeros(20, int), shard_rows=8
    )
    return tmp_path / "a"


def forge(file, **changed):
    """Change attributes and seal them again: what someone who knows the format would do."""
    attributes = json.loads(file.read_bytes())["attributes"]
    for name, value in changed.items():
        holder = attributes if name in attributes else attributes["probecache"]
        holder[name] = value
    file.write_bytes(metadata.render(metadata.group_document(attributes)))


@contextlib.contextmanager
def memory_below(mib):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mib << 20
    finally:
        tracemalloc.stop()


def read_everything(path):
    store = pc.open_store(path)
    for split in store.splits:
        store.labels(split)
        for layer in store.layers_of(split):
            store.matrix(split, layer)
            store.moments(split, layer)


@pytest.mark.parametrize(
    ("group", "changed"),
    [
        ("s", {"n_samples": 10**13}),
        ("s", {"n_samples": 2**47, "shard_rows": 2**24}),
        ("s", {"n_samples": -5}),
        ("s", {"n_samples": 1e3}),
        ("s", {"n_samples": True}),
        ("s", {"shard_rows": 0}),
        ("s", {"class_names": [1, 2]}),
        ("s", {"class_names": "x"}),
        ("s", {"fingerprint": 3}),
        ("s/l", {"neurons": 10**9}),
        ("s/l", {"neurons": 2**28}),
        ("s/l", {"neurons": "3"}),
        ("s/l", {"dtype": "object"}),
        ("s/l", {"dtype": ["float32"]}),
        ("s/l", {"dtype": "complex128"}),
        ("s/l", {"compression": "pickle"}),
        ("s/l", {"compression": "zstd"}),
        ("s/l", {"complete": -1}),
        ("s/l", {"report": []}),
        ("s/l", {"attrs": 7}),
    ],
)
def test_forged_metadata_is_refused_in_one_line(path, group, changed):
    forge(path / group / "zarr.json", **changed)
    with memory_below(16), pytest.raises(pc.ProbecacheError) as error:
        read_everything(path)
    assert "\n" not in str(error.value)
    with memory_below(16):
        assert list(verify(path))


def test_forged_sizes_with_matching_array_documents_do_not_allocate(path):
    """Even where every document agrees on a huge shape: no file, no memory."""
    import probecache.store.catalog as catalog
    from probecache.store.storage.files import open_files

    forge(path / "s/zarr.json", n_samples=2**36, shard_rows=2**24, row_shards=1)
    files = open_files(path)
    split = catalog.read_split(files, "s")
    layer = catalog.read_layer(files, split, "l")
    for key, document in {**split.arrays(), **{f"l/{k}": d for k, d in layer.arrays().items()}}.items():
        (path / "s" / key / "zarr.json").write_bytes(metadata.render(document))
    with memory_below(32), pytest.raises(pc.ProbecacheError, match="split 's'"):
        read_everything(path)
    store = pc.open_store(path, partial=True)
    for read in (lambda: store.labels("s"), lambda: store.status("s", "l")):
        with memory_below(64), pytest.raises(pc.InputError, match="more than this machine's"):
            read()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 5000, b"{}", b'{"attributes":[]}']
)
@pytest.mark.parametrize("file", ["zarr.json", "s/zarr.json", "s/l/zarr.json", "s/l/activations/zarr.json"])
def test_documents_that_are_none_are_refused_in_one_line(path, file, content):
    (path / file).write_bytes(content)
    with pytest.raises(pc.ProbecacheError) as error:
        read_everything(path)
    assert "\n" not in str(error.value)


def test_links_out_of_the_store_are_refused(path, tmp_path):
    secret = tmp_path / "secret"
    (path / "s/l/activations/c/0/0").rename(secret)
    os.symlink(secret, path / "s/l/activations/c/0/0")
    with pytest.raises(pc.InputError, match="leads out of the store"):
        pc.open_store(path).matrix("s", "l")
    with pytest.raises(pc.InputError, match="no split"):
        pc.open_store(path).labels("../s")


def test_a_zstd_panel_that_unpacks_to_more_is_refused(tmp_path):
    """A decompression bomb: valid checksums, a frame that claims gigabytes."""
    from numcodecs.zstd import compress

    from probecache.store.format import chunks

    values = np.zeros((8, 4), np.float32)
    options = {"split": "s", "layer": "l", "labels": np.zeros(8, int), "shard_rows": 8, "compression": "zstd"}
    pc.write_arrays(tmp_path / "a", activations=values, **options)
    body = compress(np.zeros(64 << 20, np.uint8), 1)
    raw, crc = chunks.sealed(body)
    index, _ = chunks.sealed(np.array([0, len(raw)], "<u8").tobytes())
    layer = tmp_path / "a/s/l"
    (layer / "activations/c/0/0").write_bytes(raw + index)
    committed = (layer / "commit/c/0/0").read_bytes()[:-4]
    partial, moments = int(np.frombuffer(committed, "<u8")[2]), committed[8 * 4 :]
    (layer / "commit/c/0/0").write_bytes(chunks.encode_commit("s/l/0", 8, [partial, crc], rest=moments))
    with memory_below(8), pytest.raises(pc.DamagedStore, match=r"does not decompress|impossible size"):
        pc.open_store(tmp_path / "a").matrix("s", "l")


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "X.npy", np.array([[object()]], dtype=object), allow_pickle=True)
    from probecache.store.importing.formats.open import open_matrix

    with pytest.raises(pc.InputError, match=r"not a \.npy file of numbers"):
        open_matrix(str(tmp_path / "X.npy"), "--activations")


NESTED = 100_000


@pytest.mark.parametrize("odd", ["FIFO", "socket", "device", "sparse", "folder", "no UTF-8"])
@pytest.mark.parametrize("what", ["config", "indices", "indices.npy", "activations.npy", "labels.csv"])
def test_files_that_the_caller_names_are_refused_at_once_and_without_memory(tmp_path, path, what, odd):
    from probecache.analyze.sweeps.plan import read_config
    from probecache.store.importing.formats.open import open_matrix
    from probecache.store.importing.tables.text import read_text
    from probecache.store.writing.subset import read_indices

    file = tmp_path / (what if "." in what else f"{what}.toml" if what == "config" else f"{what}.txt")
    if odd == "FIFO":
        os.mkfifo(file)
    elif odd == "socket":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(file))
        listening.close()
    elif odd == "device":
        file.symlink_to("/dev/zero")
    elif odd == "sparse":
        file.touch()
        os.truncate(file, 1 << 42)
    elif odd == "folder":
        file.mkdir()
    else:
        file.write_bytes(b"\xfa\xfb\xfc" * 10)
    read = {
        "config": read_config,
        "indices": lambda f: read_indices(f, 10),
        "indices.npy": lambda f: read_indices(f, 10),
        "activations.npy": lambda f: open_matrix(str(f), "--activations"),
        "labels.csv": read_text,
    }[what]
    with memory_below(16), pytest.raises(pc.InputError) as error:
        read(file)
    assert "\n" not in str(error.value)
    assert file.name in str(error.value)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("toml", "a = " + "[" * NESTED),
        ("toml", "a = " + "[" * 5000 + "]" * 5000),
        ("yaml", "[" * 5000),
        ("yaml", "a: &a [x]\nb: &b [*a, *a]\n" * 3 + "{"),
        ("yml", "- " * 3000 + "x"),
        ("toml", "fractions = 1" + "0" * 5000),
    ],
)
def test_configurations_of_any_depth_are_refused_in_one_line(tmp_path, suffix, text):
    from probecache.analyze.sweeps.plan import read_config

    file = tmp_path / f"sweep.{suffix}"
    file.write_text(text)
    with pytest.raises(pc.InputError, match=r"config .*sweep\.") as error:
        read_config(file)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize("harm", ["FIFO", pytest.param("sparse", marks=pytest.mark.slow)])
def test_a_store_whose_pieces_are_fifos_or_sparse_is_refused_at_once(path, harm):
    for file in [p for p in path.rglob("*") if p.is_file()]:
        raw = file.read_bytes()
        file.unlink()
        os.mkfifo(file) if harm == "FIFO" else file.touch()
        if harm == "sparse":
            os.truncate(file, 1 << 42)
        with memory_below(16):
            assert [d for d in verify(path) if d.harmful], file
        file.unlink()
        file.write_bytes(raw)
    assert list(verify(path)) == []
