"""Scripts, packages and distributions named like our folders: theirs are theirs, ours are ours.

Every second research repository has a `store.py`, an `extract/` or an `analyze.py`. Each of theirs here
writes a line when it is run, so that one that we ran, or ran twice, would be seen. probecache is on the path
as it is where it was installed: its package alone, and not the folders beside it in a clone.
"""

import importlib.util
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest

import probecache as pc

ROOT = Path(__file__).parent.parent
MODULE = """
from pathlib import Path
with open(Path(__file__).parent / "ran-{name}.txt", "a") as file:
    file.write(__name__ + "\\n")
OWNER = "the user's {name}"
"""
OURS = """
import numpy as np, probecache as pc
x = np.random.default_rng(0).normal(size=(40, 4)).astype("f4")
x[:, 0] += 4 * (np.arange(40) % 2)
for split in ("train", "test"):
    pc.write_arrays("f.zarr", split=split, layer="mine", activations=x, labels=np.arange(40) % 2)
results = pc.sweep("f.zarr", layer="mine", fractions=[1], seeds=1, probe="ridge", l2=1e-2)
assert float(results["accuracy"].max()) > 0.9
import probecache.store, probecache.extract.run, probecache.analyze.sweeps.sweep
assert not hasattr(probecache.store, "OWNER")
"""
THEIRS = """
import store, extract, analyze
for module in (store, extract, analyze):
    assert module.OWNER == f"the user's {module.__name__}"
"""


@pytest.fixture
def project(tmp_path):
    """A user's folder with store.py, extract/ (a package) and analyze.py."""
    (tmp_path / "extract").mkdir()
    for name, file in (("store", "store.py"), ("extract", "extract/__init__.py"), ("analyze", "analyze.py")):
        (tmp_path / file).write_text(MODULE.format(name=name))
    return tmp_path


def ran(project: Path) -> dict[str, list[str]]:
    """What was run of theirs: names as which, one for each time."""
    found = sorted(project.rglob("ran-*.txt"))
    return {file.stem.removeprefix("ran-"): file.read_text().split() for file in found}


def installed(project: Path) -> Path:
    """A folder for PYTHONPATH with probecache in it, and nothing else of ours."""
    site = project / "site"
    site.mkdir()
    (site / "probecache").symlink_to(ROOT / "probecache")
    return site


def python(project: Path, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(path or installed(project)), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *words], cwd=project, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


ONCE = {"analyze": ["analyze"], "extract": ["extract"], "store": ["store"]}


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(THEIRS + OURS, id="theirs first"),
        pytest.param(OURS + THEIRS, id="ours first", marks=pytest.mark.slow),
    ],
)
def test_under_pytest(project, order):
    (project / "test_mine.py").write_text("def test_mine():\n" + textwrap.indent(order, "    "))
    python(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_mine.py")
    assert ran(project) == ONCE


LATER = [pytest.param(name, marks=pytest.mark.slow) for name in ("extract", "analyze")]


@pytest.mark.parametrize("name", ["store", *LATER])
def test_as_a_module_of_python_m(project, name):
    """`python -m analyze` is the user's, and what it does with probecache is done."""
    file = project / ("extract/__main__.py" if name == "extract" else f"{name}.py")
    before = file.read_text() if file.exists() else ""
    file.write_text(before + OURS + "print('done')\n")
    assert python(project, "-m", name).stdout.split() == ["done"]
    assert ran(project) == {name: ["extract" if name == "extract" else "__main__"]}


@pytest.mark.slow
def test_in_a_notebook(project, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [nbformat.v4.new_code_cell(code) for code in (THEIRS, OURS, "pc.open_store('f.zarr')")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    monkeypatch.setenv("PYTHONPATH", str(installed(project)))
    where = {"metadata": {"path": str(project)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    shown = notebook.cells[-1].outputs[0]["data"]
    assert "mine" in shown["text/html"]
    assert ran(project) == ONCE


@pytest.mark.slow
def test_in_a_wheel_beside_a_distribution_that_owns_a_store(tmp_path):
    """Our wheel and theirs are unpacked into one folder: each import is its owner's."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (ours,) = tmp_path.glob("probecache-*.whl")
    theirs = tmp_path / "owner-1.0-py3-none-any.whl"
    with zipfile.ZipFile(theirs, "w") as wheel:
        for name in ("store", "extract", "analyze"):
            wheel.writestr(f"{name}/__init__.py", f'OWNER = "the user\'s {name}"\n')
        wheel.writestr("owner-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: owner\nVersion: 1.0\n")
        wheel.writestr(
            "owner-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        names = [*wheel.namelist(), "owner-1.0.dist-info/RECORD"]
        wheel.writestr("owner-1.0.dist-info/RECORD", "".join(f"{name},,\n" for name in names))
    inside = zipfile.ZipFile(ours).namelist()
    assert len(inside) > 200
    assert {name.split("/")[0].split("-")[0] for name in inside} == {"probecache"}
    site = tmp_path / "site"
    command = [*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(ours), str(theirs)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (tmp_path / "work").mkdir()
    where = f"import probecache; assert probecache.__file__.startswith({str(site)!r})\n"
    python(tmp_path / "work", "-c", where + THEIRS + OURS, path=site)


@pytest.mark.slow
def test_on_dask_workers_started_elsewhere(project):
    """Scheduler and worker run in the user's folder, whose modules are on their path."""
    from distributed import Client

    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        x = rng.normal(size=(40, 4)).astype(np.float32)
        pc.write_arrays(
            project / "f.zarr", split=split, layer="mine", activations=x, labels=np.arange(40) % 2
        )
    plan = {"layer": "mine", "fractions": [0.5, 1], "seeds": 2, "probe": "ridge", "l2": 1e-2}
    environment = os.environ | {
        "PYTHONPATH": f"{project}{os.pathsep}{installed(project)}",
        "CUDA_VISIBLE_DEVICES": "",
    }
    file = project / "scheduler.json"
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    work = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard"]
    processes = []
    try:
        for command in (start, work):
            words = [*command, "--scheduler-file", str(file)]
            quiet = subprocess.DEVNULL
            processes.append(
                subprocess.Popen(words, cwd=project, env=environment, stdout=quiet, stderr=quiet)
            )
        with Client(scheduler_file=str(file), timeout=120) as client:
            client.wait_for_workers(1, timeout=120)
            there = pc.sweep(project / "f.zarr", **plan, client=client)
            owner = client.submit(lambda: __import__("store").OWNER).result(timeout=60)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=60)
    here = pc.sweep(project / "f.zarr", **plan)
    assert there["accuracy"].equals(here["accuracy"])
    assert owner == "the user's store"
    assert ran(project) == {"store": ["store"]}
