"""Sweeps on Dask: the same numbers as here, through killed workers, killed clients and foreign schedulers."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client
from sklearn.datasets import load_digits

import probecache as pc
from probecache.analyze.sweeps.cluster import start
from probecache.analyze.sweeps.cluster.execute import Dispatch
from probecache.analyze.sweeps.cluster.start import connect
from probecache.analyze.sweeps.resolved_plan import machine_for
from probecache.store.errors import InputError

ROOT = Path(__file__).parents[4]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
SMALL_BLOCKS = (
    "import sys, probecache.analyze.sweeps.resolved_plan, probecache as pc\n"
    "probecache.analyze.sweeps.resolved_plan.target_seconds = lambda *a: 0.0\n"
    "pc.main(sys.argv[1:])"
)
PATIENCE = 600  # seconds after which a process counts as hung, on a machine however busy
THREADS = max(1, (os.cpu_count() or 1) // 2)
PLAN = {"layer": "pixels", "fractions": [0.1, 0.5, 1.0], "seeds": 12, "l2": 1e-2}
FLAGS = ["--layer", "pixels", "--fractions", "0.1,0.5,1.0", "--seeds", "12", "--l2", "1e-2"]


def test_workers_share_the_cores_that_the_process_may_use(monkeypatch):
    """A batch system may leave four of the machine's cores: threads for all of them would queue."""
    made = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8, 9}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(start, "LocalCluster", lambda **options: made.update(options))
    start._local_cluster(2, 2**30)
    assert made["env"] == {"OMP_NUM_THREADS": "2"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("cluster") / "features.zarr"
    x, y = load_digits(return_X_y=True)
    for split, rows in (("train", slice(0, 900)), ("test", slice(900, 1200))):
        pc.write_arrays(path, split=split, layer="pixels", activations=np.float32(x[rows]), labels=y[rows])
    return path


@pytest.fixture(scope="module")
def here(store):
    """The sweep in this process, in one go, on as many threads as one of two workers has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield pc.sweep(store, **PLAN)
    torch.set_num_threads(threads)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("probecache.analyze.sweeps.resolved_plan.target_seconds", lambda *a: 0.0)


def command(*arguments, cwd, **kwargs):
    line = [sys.executable, "-c", SMALL_BLOCKS, *map(str, arguments)]
    return subprocess.Popen(
        line, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    )


def assert_same_probes(results, here):
    assert (results["state"] == 1).all()
    np.testing.assert_allclose(results["objective"], here["objective"], rtol=1e-6)
    np.testing.assert_allclose(results["accuracy"], here["accuracy"], atol=1 / 300 + 1e-9)


def wait_for(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def done(out):
    try:
        return int((xr.open_zarr(out)["state"] == 1).sum())
    except FileNotFoundError:
        return 0


def test_two_workers_of_which_one_is_killed_give_the_numbers_of_this_process(
    store, here, tmp_path, small_blocks
):
    killed = []
    with connect(workers=2) as client:

        def kill_one(finished, total):
            if not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        results = pc.sweep(store, **PLAN, client=client, out=tmp_path / "r", progress=kill_one)
    assert killed
    assert_same_probes(results, here)


def test_a_killed_client_continues_where_it_was(store, here, tmp_path):
    out = tmp_path / "r"
    arguments = ["sweep", store, *FLAGS, "--solver", "sklearn", "--out", out]  # slow enough to be caught
    first = command(*arguments, cwd=tmp_path)
    wait_for(lambda: done(out) > 0 or first.poll() is not None)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    before = xr.open_zarr(out).load()
    finished = before["state"].values == 1
    assert 0 < finished.sum() < finished.size
    second = command(*arguments, cwd=tmp_path)
    _, errors = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, errors
    after = xr.open_zarr(out).load()
    # the time of each probe is that of the run that computed it: nothing was computed twice
    assert (after["seconds"].values[finished] == before["seconds"].values[finished]).all()
    assert (after["state"] == 1).all()
    np.testing.assert_allclose(after["objective"], here["objective"], rtol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


@pytest.mark.slow
def test_a_cluster_started_by_hand_from_another_folder(store, here, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = tmp_path / "scheduler.json"
    started = []

    def dask(*arguments):
        line = [sys.executable, "-m", "dask", *arguments, "--no-dashboard", "--scheduler-file", str(file)]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(line, cwd=elsewhere, env=ENVIRONMENT, **silent))

    try:
        dask("scheduler", "--port", "0", "--host", "127.0.0.1")
        wait_for(file.exists)
        dask("worker", "--nthreads", str(THREADS))
        address = json.loads(file.read_text())["address"]
        run = command("sweep", store, *FLAGS, "--scheduler", address, "--out", tmp_path / "r", cwd=tmp_path)
        started.append(run)
        output, errors = run.communicate(timeout=PATIENCE)
        assert run.returncode == 0, errors
        assert "accuracy, mean over seeds" in output
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(PATIENCE)
    assert_same_probes(xr.open_zarr(tmp_path / "r").load(), here)


@pytest.mark.slow
def test_a_performance_report_is_written_where_it_was_asked_for(store, here, tmp_path):
    report = tmp_path / "report.html"
    arguments = ["sweep", store, *FLAGS, "--workers", "2", "--out", tmp_path / "r"]
    run = command(*arguments, "--performance-report", report, cwd=tmp_path)
    _, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, errors
    page = report.read_text()
    assert "run_on_worker" in page  # the task of every block
    assert "Dask Performance Report" in page
    assert_same_probes(xr.open_zarr(tmp_path / "r").load(), here)


def test_workers_tagged_as_gpus_get_blocks_that_carry_the_tag(store, here):
    with Client(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, resources={"GPU": 1}
    ) as client:
        assert machine_for(client, "cpu", None).device == "gpu"
        results = pc.sweep(store, **PLAN, client=client)
    assert_same_probes(results, here)


def test_a_second_writer_of_the_same_results_is_refused(store, tmp_path):
    def again(finished, total):
        with pytest.raises(InputError, match=f"r is being written by process {os.getpid()} on"):
            pc.sweep(store, **PLAN, out=tmp_path / "r")

    pc.sweep(store, **PLAN, out=tmp_path / "r", progress=again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "2", "--gpus", "all"], "got more than one of --workers, --scheduler and --gpus"),
        (["--gpus", "all"], "got --gpus all, and this machine has no CUDA device"),
        (["--workers", "0"], "got --workers 0; allowed: 1 or more"),
        (["--scheduler", "tcp://127.0.0.1:9"], "got --scheduler tcp://127.0.0.1:9, which does not answer"),
        (["--scheduler", "nowhere"], "got --scheduler nowhere (missing port number in address 'nowhere')"),
        (["--memory-limit", "lots"], "got --memory-limit 'lots'"),
        (["--fractions", "0,1"], "got fraction 0; allowed: above 0, up to 1"),
        (["--seeds", "many"], "got seeds 'many'"),
        (["--layer", "pixel"], "close names: pixels"),
        (["--train", "trian"], "close names: train"),
        (["--device", "tpu"], "got device 'tpu'; allowed: auto, cpu, cuda, cuda:N"),
        (["--device", "cuda"], "this machine has no CUDA device"),
        (["--class-weight", "cat=2"], "got a weight for class 'cat'"),
        (["--performance-report", "r.html"], "got --performance-report without a cluster"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(store, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        pc.main(["sweep", str(store), *FLAGS, "--out", str(tmp_path / "r"), *arguments])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("probecache: ")
    assert message in line
    assert not (tmp_path / "r").exists()


def test_a_dry_run_prints_the_cost_and_writes_nothing(store, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        pc.main(["sweep", str(store), *FLAGS, "--dry-run"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("36 probes in ")
    assert "reading 300.0 KiB" in printed
    with pytest.raises(SystemExit) as caught:
        pc.main(["sweep", str(store), *FLAGS, "--dry-run", "--memory-limit", "1MiB"])
    assert caught.value.code == 2
    assert "layer 'pixels' needs" in capsys.readouterr().err


def test_a_config_file_and_flags_make_one_plan_and_flags_win(store, tmp_path, capsys):
    config = tmp_path / "sweep.toml"
    config.write_text('layer = "pixels"\nfractions = [0.5]\nseeds = 4\nl2 = 1e-3\nprobe = "ridge"\n')
    out = tmp_path / "r"
    with pytest.raises(SystemExit) as caught:
        pc.main(["sweep", str(store), "--config", str(config), "--seeds", "7,9", "--out", str(out)])
    assert caught.value.code == 0
    results = xr.open_zarr(out)
    assert results["seed"].values.tolist() == [7, 9]
    assert results["l2"].values.tolist() == [1e-3]
    assert results.attrs["probe"] == "ridge"
    assert "accuracy, mean over seeds, by fraction:" in capsys.readouterr().out


def test_failed_blocks_end_in_exit_code_1(store, tmp_path, capsys, monkeypatch, small_blocks):
    from probecache.analyze.sweeps import block_fit as worker

    original, calls = worker.solve, []

    def solve(*args, **kwargs):
        calls.append(1)
        if len(calls) <= 3:
            raise ValueError("broken")
        return original(*args, **kwargs)

    monkeypatch.setattr(worker, "solve", solve)
    with pytest.raises(SystemExit) as caught:
        pc.main(["sweep", str(store), *FLAGS, "--out", str(tmp_path / "r")])
    assert caught.value.code == 1
    assert "1 of 12 blocks failed; first pixels, random, seeds 0" in capsys.readouterr().err
    assert done(tmp_path / "r") == 33


def scheduler_and_workers(folder, workers=1, flags=(), environment=None):
    """A `dask scheduler` and workers, in processes of their own; the address, and all of them."""
    file = folder / "scheduler.json"
    base = [sys.executable, "-m", "dask"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    env = ENVIRONMENT | (environment or {})
    common = ["--no-dashboard", "--scheduler-file", str(file), *flags]
    running = [
        subprocess.Popen(
            [*base, "scheduler", "--port", "0", "--host", "127.0.0.1", *common], env=env, **silent
        )
    ]
    wait_for(file.exists)
    for _ in range(workers):
        line = [*base, "worker", "--nthreads", "1", "--no-nanny", *common]
        running.append(subprocess.Popen(line, env=env, **silent))
    return json.loads(file.read_text())["address"], running


def end(processes):
    for process in reversed(processes):
        process.kill()
        process.wait(PATIENCE)


@pytest.mark.slow
def test_a_scheduler_that_dies_ends_the_sweep_in_one_line(store, tmp_path):
    address, running = scheduler_and_workers(tmp_path)
    try:
        flags = ["--scheduler", address, "--solver", "sklearn", "--out", tmp_path / "r"]
        run = command("sweep", store, *FLAGS, *flags, cwd=tmp_path)
        running.append(run)
        wait_for(lambda: done(tmp_path / "r") > 0 or run.poll() is not None)
        running[0].kill()
        _, errors = run.communicate(timeout=PATIENCE)
        assert run.returncode == 1, errors
        assert "the Dask scheduler is gone; what was committed is kept" in errors
        assert "Traceback" not in errors
    finally:
        end(running)
    results = pc.open_results(tmp_path / "r")
    assert int((results["state"] == 1).sum()) > 0


def sweep_by_two(store, tmp_path, told, before=lambda running: None, **how):
    """A sweep by two workers, one of which is stopped meanwhile or, by before(processes), ahead of it."""
    address, running = scheduler_and_workers(tmp_path, workers=2)
    try:
        with connect(scheduler=address) as client:
            client.wait_for_workers(2, timeout=PATIENCE)
            before(running)
            with pytest.warns(RuntimeWarning, match=told):
                return pc.sweep(store, **PLAN, client=client, out=tmp_path / "r", **how)
    finally:
        end(running)


@pytest.fixture
def soon_silent(monkeypatch):
    monkeypatch.setattr("probecache.analyze.sweeps.cluster.execute.SILENT", 6.0)
    return "has not answered for .* its blocks go to others"


def stop_holder(client, future):
    """Stops the worker that holds a result."""
    wait_for(lambda: client.who_has(future).get(future.key))
    holder = client.who_has(future)[future.key][0]
    os.kill(client.run(os.getpid, workers=[holder])[holder], signal.SIGSTOP)
    return holder


@pytest.mark.slow
def test_a_worker_that_is_stopped_in_the_midst_of_a_block_is_set_aside(
    store, here, tmp_path, soon_silent, small_blocks
):
    stopped, workers = [], []

    def stop_one(finished, total):
        if not stopped:
            stopped.append(workers[0][1].pid)
            os.kill(stopped[0], signal.SIGSTOP)

    results = sweep_by_two(store, tmp_path, soon_silent, workers.append, progress=stop_one)
    assert stopped
    assert_same_probes(results, here)


@pytest.mark.slow
def test_a_worker_that_is_stopped_before_the_sweep_takes_no_part(store, here, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "ANSWER", 20.0)
    told = "does not answer; its blocks go to the others"
    results = sweep_by_two(store, tmp_path, told, lambda running: os.kill(running[1].pid, signal.SIGSTOP))
    assert_same_probes(results, here)


@pytest.mark.slow
def test_a_worker_that_is_stopped_while_it_alone_holds_a_result_is_set_aside(
    store, here, tmp_path, monkeypatch, soon_silent, small_blocks
):
    take, stopped = Dispatch._outcome, []

    def stop_first(self, future):
        if not stopped:
            stopped.append(stop_holder(self.client, future))
        return take(self, future)

    monkeypatch.setattr(Dispatch, "_outcome", stop_first)
    results = sweep_by_two(store, tmp_path, soon_silent)
    assert stopped
    assert_same_probes(results, here)


@pytest.mark.slow
def test_a_worker_that_is_stopped_while_it_alone_holds_the_moments_is_set_aside(
    store, here, tmp_path, monkeypatch, soon_silent, small_blocks
):
    begin, stopped = Dispatch.submit, []

    def stop_first(self, number, block):
        if not stopped:
            (moments,) = self.moments.values()
            stopped.append(stop_holder(self.client, moments))
        begin(self, number, block)

    monkeypatch.setattr("probecache.analyze.sweeps.sweep.stays_on_disk", lambda size, limit: True)
    monkeypatch.setattr(Dispatch, "submit", stop_first)
    results = sweep_by_two(store, tmp_path, soon_silent)
    assert stopped
    assert_same_probes(results, here)


def test_workers_that_die_of_too_little_memory_are_told_with_what_to_do(store, tmp_path, small_blocks):
    """A worker whose process ends in each try: Dask calls it KilledWorker, which says nothing to a user."""
    from distributed.scheduler import KilledWorker

    from probecache.analyze.sweeps.cluster.execute import explain

    with connect(workers=1) as client:
        future = client.submit(os._exit, 1, retries=0)
        error = future.exception(timeout=PATIENCE)
    assert isinstance(error, KilledWorker)
    told = explain(error)
    assert "--memory-limit" in told
    assert "os._exit" not in told
    assert "\n" not in told


def test_a_cluster_that_dask_cannot_close_hides_nothing(monkeypatch):
    """Its nanny asserts where a worker dies while the cluster closes: the sweep's result went with it."""

    class Cluster:
        def close(self):
            raise AssertionError("can only join a started process")

    monkeypatch.setattr(start, "_local_cluster", lambda workers, memory_limit: Cluster())
    monkeypatch.setattr(start, "Client", lambda cluster, set_as_default: nullcontext("a client"))
    with connect(workers=1) as client:
        assert client == "a client"
    with pytest.raises(KeyError), connect(workers=1):
        raise KeyError("the user's")


def test_a_worker_that_cannot_read_the_store_is_set_aside_and_the_other_does_all(
    store, here, tmp_path, monkeypatch, small_blocks
):
    def blind(name, dask_worker=None):
        if dask_worker.name != name:
            return
        import probecache.store.reader as reader
        from probecache.store.errors import NotAStore

        def gone(path, partial=False):
            raise NotAStore(f"{path} does not exist or is empty")

        reader.open_store = gone

    with connect(workers=2) as client:
        client.run(blind, 0)
        with pytest.warns(RuntimeWarning, match="cannot read the store: .* its blocks go to the others"):
            results = pc.sweep(store, **PLAN, client=client, out=tmp_path / "r")
    assert_same_probes(results, here)


def test_a_cluster_whose_every_worker_is_blind_is_refused_before_anything_is_written(store, tmp_path):
    def blind(dask_worker=None):
        import probecache.store.reader as reader
        from probecache.store.errors import NotAStore

        def gone(path, partial=False):
            raise NotAStore(f"{path} does not exist or is empty")

        reader.open_store = gone

    with connect(workers=1) as client:
        client.run(blind)
        with pytest.raises(InputError, match=r"no worker can take part; .* cannot read the store"):
            pc.sweep(store, **PLAN, client=client, out=tmp_path / "r")


def certificate(folder):
    """A self-signed certificate for 127.0.0.1 and its key, both of client, scheduler and workers."""
    import datetime
    import ipaddress

    x509 = pytest.importorskip("cryptography.x509", reason="cryptography is not installed")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "probecache")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.slow
def test_a_tls_cluster_takes_a_sweep_and_one_without_certificates_is_told(store, here, tmp_path):
    cert, key = certificate(tmp_path)
    flags = ["--tls-ca-file", str(cert), "--tls-cert", str(cert), "--tls-key", str(key), "--protocol", "tls"]
    address, running = scheduler_and_workers(tmp_path, flags=flags)
    try:
        assert address.startswith("tls://")
        bare = command("sweep", store, *FLAGS, "--scheduler", address, "--out", tmp_path / "r", cwd=tmp_path)
        _, errors = bare.communicate(timeout=PATIENCE)
        assert bare.returncode == 2, errors
        assert "without certificates" in errors
        assert not (tmp_path / "r").exists()
        settings = {
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(cert),
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": str(cert),
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": str(key),
        }
        line = [sys.executable, "-m", "probecache", "sweep", store, *FLAGS, "--scheduler", address]
        run = subprocess.run(
            [*map(str, line), "--out", str(tmp_path / "r")],
            env=ENVIRONMENT | settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert run.returncode == 0, run.stderr
    finally:
        end(running)
    assert_same_probes(xr.open_zarr(tmp_path / "r").load(), here)
