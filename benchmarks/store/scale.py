"""A store of many shards with tiny rows, on a disk and on S3 with 30 ms of latency: seconds and requests.

    python -m benchmarks.store.scale                              # 50,000 shards: LAION-400M's at 8,192 rows
    python -m benchmarks.store.scale --shards 2000 --label before # with an older checkout on the path

The S3 server is moto's, in a process of its own, filled from the folder; each request waits LATENCY first
and is counted. Each measurement opens the store anew. What the server itself takes is in the seconds (its
processor time is stated), so that they are an upper bound of what the requests cost.
"""

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import probecache as pc
from probecache.store.info import describe
from probecache.store.storage import local
from probecache.store.verification.verify import verify

ROWS, NEURONS, LATENCY = 4, 8, 0.03
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def write(path: Path | str, shards: int, start: int = 0) -> Any:
    """`shards` shards of train and one of test; `start`: where a run that was killed goes on."""
    rng = np.random.default_rng(0)
    for split, n in (("test", ROWS), ("train", shards * ROWS)):
        values, labels = rng.standard_normal((n, NEURONS)).astype(np.float16), np.arange(n) % 10
        names = [f"{i // 1000:05d}/{i:09d}.jpg" for i in range(n)]
        pc.write_arrays(
            path, split=split, layer="late", activations=values, labels=labels, samples=names, shard_rows=ROWS
        )
    return pc.open_store(path)


def sweep_start(path: str) -> None:
    """What a sweep reads before its first block: the plan met with the store, and the moments."""
    from probecache.analyze.sweeps.plan import SweepPlan
    from probecache.analyze.sweeps.resolved_plan import check_finite, size_up

    check_finite(size_up(SweepPlan("late", (0.5, 1.0)), pc.open_store(path)))


def resume(path: str, shards: int) -> None:
    """Until the writer knows what is missing, and holds its claims on that."""
    from probecache.store.layout import LayerSpec, SplitSpec
    from probecache.store.writer import open_split_writer

    opened = pc.open_store(path, partial=True)
    found = opened.fingerprint
    made = type(found)(found.backbone, found.compute, found.data["train"])
    layer = LayerSpec("late", NEURONS, "float16", opened.layer_info("train", "late").spec.attrs)
    spec = SplitSpec("train", shards * ROWS, [layer], opened.class_names("train"), made)
    writer = open_split_writer(path, spec)
    assert list(writer.pending())
    writer.close()


def reading(path: str) -> dict[str, Callable[[], Any]]:
    half = pc.open_store(path).shape("train", "late")[0] // 2 // ROWS * ROWS
    return {
        "open": lambda: pc.open_store(path).layers,
        "info": lambda: describe(pc.open_store(path, partial=True)),
        "digest": lambda: pc.open_store(path).digest("train", "late"),
        "labels": lambda: pc.open_store(path).labels("train"),
        "one block": lambda: pc.open_store(path).matrix("train", "late", rows=(half, half + ROWS)),
        "start of a sweep": lambda: sweep_start(path),
    }


def measure(work: Callable[[], Any], counts: Callable[[], dict[str, int]]) -> dict[str, Any]:
    counts()
    start, used = time.perf_counter(), time.process_time()
    work()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    return {"seconds": round(seconds, 3), "processor seconds": round(used, 3), "requests": counts()}


@contextmanager
def counted_files() -> Iterator[Callable[[], dict[str, int]]]:
    """Files opened and folders listed by this process."""
    found: Counter[str] = Counter()
    opened, listed = os.open, os.listdir

    def count(name: str, call: Any) -> Any:
        def counting(*arguments: Any, **options: Any) -> Any:
            found[name] += 1
            return call(*arguments, **options)

        return counting

    def take() -> dict[str, int]:
        now = dict(found)
        found.clear()
        return now

    with (
        mock.patch.object(os, "open", count("opened", opened)),
        mock.patch.object(os, "listdir", count("listed", listed)),
    ):
        yield take


def kill(remove: Callable[[str], None], names: list[str], shards: int) -> int:
    """Take away what a run that was killed would lack: a fiftieth of the commits, what follows from all."""
    lost = range(shards - max(1, shards // 50), shards)
    for name in names:
        remove(name)
    for i in lost:
        remove(f"train/late/commit/c/{i}/0")
    return len(lost)


def serve(port: int, folder: Path, latency: float) -> None:
    """moto's S3 with the folder's files in a bucket; requests wait, and are counted by method and kind."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    for name, value in KEYS.items():
        os.environ[name] = value
    app = DomainDispatcherApplication(create_backend_app)
    counts: Counter[str] = Counter()
    guard = threading.Lock()

    def counting(environ: Any, start_response: Any) -> Any:
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        if path == "/_counts":
            with guard:
                used = resource.getrusage(resource.RUSAGE_SELF)
                body = json.dumps([counts, used.ru_utime + used.ru_stime]).encode()
                counts.clear()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
        with guard:
            counts["LIST" if "list-type" in query else environ["REQUEST_METHOD"]] += 1
        time.sleep(latency)
        return app(environ, start_response)

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay, as S3's do

        def log(self, *_: Any) -> None:
            """Nothing."""

    _fill(folder)
    make_server("127.0.0.1", port, counting, threaded=True, request_handler=Quiet).serve_forever()


def _fill(folder: Path) -> None:
    """Put every file of a folder into the server's own memory: 150,000 requests would say nothing new."""
    from moto.s3.models import s3_backends

    backend = s3_backends["123456789012"]["aws"]
    backend.create_bucket("bucket", "us-east-1")
    for top, _, names in os.walk(folder):
        for name in names:
            file = Path(top, name)
            backend.put_object("bucket", f"s.zarr/{file.relative_to(folder).as_posix()}", file.read_bytes())


@contextmanager
def s3(folder: Path) -> Iterator[Callable[[], dict[str, int]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.store.scale"]
    command += ["--serve", str(port), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    os.environ.update(KEYS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # connections of an earlier server
    last = 0.0

    def take() -> dict[str, int]:
        nonlocal last
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_counts") as answer:
            found, used = json.load(answer)
        used, last = used - last, used
        return {**found, "server's processor seconds": round(used, 2)}

    try:
        while True:
            assert process.poll() is None, "the server did not start"
            try:
                take()
                break
            except OSError:
                time.sleep(0.2)
        yield take
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, default=50_000)
    parser.add_argument(
        "--small", type=int, default=500, help="shards of the store that is verified, and resumed on S3"
    )
    parser.add_argument("--label", default="", help="what the record is called besides scale")
    parser.add_argument("--skip", default="", help="measurements to leave out, separated by commas")
    parser.add_argument("--folder", type=Path, default=None, help="where the store is kept for another run")
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--serve", nargs=2, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(int(arguments.serve[0]), Path(arguments.serve[1]), LATENCY)
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="scale-"))
    folder.mkdir(exist_ok=True)
    path, shards, skip = folder / "s.zarr", arguments.shards, arguments.skip.split(",")
    found: dict[str, Any] = {"shards": shards, "latency": LATENCY}
    import probecache.analyze.sweeps.resolved_plan  # noqa: F401  what is imported is not measured

    if not path.exists():
        start, used = time.perf_counter(), time.process_time()
        with mock.patch.object(local.os, "fsync"):
            write(path, shards)
        found["written"] = {
            "seconds": round(time.perf_counter() - start, 1),
            "processor seconds": round(time.process_time() - used, 1),
        }
    files = sum(len(names) for _, _, names in os.walk(path / "train"))
    found["files per shard"] = round(files / shards, 2)
    print(found, flush=True)
    summary = [str(p.relative_to(path)) for p in path.glob("train/**/commit/index")]
    with counted_files() as take:
        found["local"] = {
            name: measure(work, take) for name, work in reading(str(path)).items() if name not in skip
        }
        print(json.dumps(found["local"], indent=1), flush=True)
    with s3(path) as take:
        found["s3"] = {}
        for name, work in reading("s3://bucket/s.zarr").items():
            if name not in skip:
                found["s3"][name] = measure(work, take)
                print(name, found["s3"][name], flush=True)
    if "resume" not in skip:
        lost = kill(lambda name: (path / name).unlink(), summary, shards)
        with counted_files() as take, mock.patch.object(local.os, "fsync"):
            found["local"]["resume"] = {"missing": lost, **measure(lambda: resume(str(path), shards), take)}
        print("resume", found["local"]["resume"], flush=True)
    with mock.patch.object(local.os, "fsync"):
        write(folder / "small.zarr", arguments.small)
    if "verify" not in skip:
        with counted_files() as take:
            work = measure(lambda: list(verify(str(folder / "small.zarr"))), take)
            found["local"]["verify"] = {"shards": arguments.small, **work}
    with s3(folder / "small.zarr") as take:
        import s3fs

        fs = s3fs.S3FileSystem(skip_instance_cache=True)
        for name, work in (
            ("verify", lambda: list(verify("s3://bucket/s.zarr"))),
            ("resume", lambda: resume("s3://bucket/s.zarr", arguments.small)),
        ):
            if name in skip:
                continue
            about = {"shards": arguments.small}
            if name == "resume":
                lost = kill(lambda key: fs.rm_file(f"bucket/s.zarr/{key}"), summary, arguments.small)
                about["missing"] = lost
            found["s3"][name] = {**about, **measure(work, take)}
            print(name, found["s3"][name], flush=True)
    shutil.rmtree(folder / "small.zarr")
    if arguments.folder is None:
        shutil.rmtree(folder)
    if not arguments.no_record:
        from benchmarks.record import record

        print(record(f"scale{f'-{arguments.label}' if arguments.label else ''}", found))


if __name__ == "__main__":
    main()
