"""Stores on object stores: a real S3 server (moto's) in its own process on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import probecache as pc
from probecache.store.layout import LayerSpec, SplitSpec
from probecache.store.verification.repair import repair
from probecache.store.verification.verify import verify
from probecache.store.writer import open_split_writer

pytest.importorskip("s3fs", reason="the s3 extra is not installed")
pytest.importorskip("moto.server", reason="moto's server is not installed")

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "moto's server did not start"
            time.sleep(0.1)
        import s3fs

        s3fs.S3FileSystem().mkdir("bucket")
        yield
    finally:
        process.terminate()
        process.wait()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def arrays():
    rng = np.random.default_rng(3)
    return rng.standard_normal((70, 12)).astype(np.float16), rng.integers(0, 3, 70)


def write(url, **options):
    values, labels = arrays()
    return pc.write_arrays(
        url, split="s", layer="l", activations=values, labels=labels, shard_rows=24, **options
    )


def test_write_read_verify_and_resume_on_s3(server):
    import s3fs

    url = "s3://bucket/a.zarr"
    write(url, rows=(0, 48), compression="zstd")
    with pytest.raises(pc.UnfinishedSplit, match="rows 48:70"):
        pc.open_store(url).matrix("s", "l")
    store = write(url)
    values, labels = arrays()
    np.testing.assert_array_equal(store.matrix("s", "l"), values)
    np.testing.assert_array_equal(store.matrix("s", "l", columns=[2, 9], rows=(3, 60)), values[3:60, [2, 9]])
    np.testing.assert_array_equal(store.labels("s"), labels)
    assert list(verify(url)) == []
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    raw = bytearray(fs.cat_file("bucket/a.zarr/s/l/activations/c/1/0"))
    raw[9] ^= 1
    fs.pipe_file("bucket/a.zarr/s/l/activations/c/1/0", bytes(raw))
    fs.rm_file("bucket/a.zarr/s/l/activations/c/2/0")
    assert {d.shard for d in verify(url)} == {1, 2}
    repair(url)
    store = write(url)
    np.testing.assert_array_equal(store.matrix("s", "l"), values)
    assert list(verify(url)) == []
    assert not [name for name in store.files.names("s/commit") if name.startswith(("claim", "lease"))]


def test_the_same_bytes_on_s3_as_in_a_folder(server, tmp_path):
    import s3fs
    import zarr

    write("s3://bucket/same.zarr")
    write(tmp_path / "same.zarr")
    s3fs.S3FileSystem(skip_instance_cache=True).get("bucket/same.zarr", str(tmp_path / "got"), recursive=True)
    ours = {
        p.relative_to(tmp_path / "same.zarr"): p for p in (tmp_path / "same.zarr").rglob("*") if p.is_file()
    }
    theirs = {p.relative_to(tmp_path / "got"): p for p in (tmp_path / "got").rglob("*") if p.is_file()}
    assert set(ours) == set(theirs)
    own = {"stamp", "index"}  # they name who wrote
    assert all(ours[n].read_bytes() == theirs[n].read_bytes() for n in ours if n.name not in own)
    shutil.rmtree(tmp_path / "got")
    read = zarr.open_group("s3://bucket/same.zarr", mode="r")["s/l/activations"][:]
    np.testing.assert_array_equal(read, arrays()[0])


def test_one_writer_per_shard_on_s3(server):
    url = "s3://bucket/claims.zarr"
    fingerprint = pc.open_store(write("s3://bucket/claims0.zarr")).fingerprint.__class__()
    spec = SplitSpec("s", 64, [LayerSpec("l", 4)], ["a"], fingerprint, shard_rows=16)
    with open_split_writer(url, spec, rows=(0, 32)):
        with pytest.raises(pc.InputError, match=rf"shard 1 .* is being written by process {os.getpid()}"):
            open_split_writer(url, spec, rows=(16, 64))
        with open_split_writer(url, spec, rows=(32, 64)) as other:
            assert [s.index for s in other.pending()] == [2, 3]


def test_the_command_line_takes_urls(server, tmp_path):
    values, labels = arrays()
    np.save(tmp_path / "X.npy", values)
    np.save(tmp_path / "y.npy", labels)
    url = "s3://bucket/cli.zarr"
    put = ["import", url, "--split", "s", "--layer", "l"]
    put += ["--activations", tmp_path / "X.npy", "--labels", tmp_path / "y.npy"]
    for arguments, says in (
        (put, "70 samples x 12 neurons"),
        (["info", url], "finished"),
        (["verify", url], "every byte is as it was written"),
    ):
        command = [sys.executable, "-m", "probecache", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, says in done.stdout) == (0, True), done.stdout + done.stderr


def test_a_bucket_that_is_not_there_is_wrong_input(server):
    with pytest.raises(pc.InputError, match=r"^s3://no-such-bucket/s: .*bucket .*; make the bucket, or name"):
        pc.write_arrays("s3://no-such-bucket/s", split="t", layer="a", activations=np.ones((3, 2)))


def test_an_unreachable_or_unknown_url_is_one_line(server):
    with pytest.raises(pc.NotAStore, match="does not exist or is empty"):
        pc.open_store("s3://bucket/nothing.zarr")
    with pytest.raises(pc.InputError, match="nonsense"):
        pc.open_store("nonsense://bucket/nothing.zarr")
