"""Work whose ends are provoked: what it begins with, what it does, and what a reader sees of it after."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import probecache as pc
from benchmarks.store.faults import contents
from probecache.analyze.results.verify import verify_results
from probecache.store.verification.verify import verify
from probecache.store.writing.subset import write_subset

N = 300
X = (np.random.default_rng(0).standard_normal((N, 24)) + (np.arange(N) % 3)[:, None] * 0.5).astype(np.float32)
Y = np.arange(N) % 3
PLAN: dict[str, Any] = {
    "layer": "l",
    "fractions": [0.2, 0.5, 1],
    "seeds": 3,
    "l2": [1e-3, 1e-1],
    "probe": "ridge",
}


def features(path: Path) -> Any:
    for split in ("train", "test"):
        pc.write_arrays(path, split=split, layer="l", activations=X, labels=Y, shard_rows=64)
    return pc.open_store(path)


def imported(folder: Path) -> None:
    """All rows of a split, or what it lacks of them."""
    pc.write_arrays(folder / "s", split="train", layer="l", activations=X, labels=Y, shard_rows=16)


def streamed(folder: Path) -> None:
    with pc.open_writer(folder / "s", split="train", layers={"l": 24}, shard_rows=16) as stream:
        for at in range(stream.position, N, 20):
            stream.append({"l": X[at : at + 20]}, labels=Y[at : at + 20], start=at)


def targets(folder: Path) -> None:
    pc.write_targets(
        folder / "s", split="train", targets={"size": X[:, 0].astype(float), "color": Y % 2}, key=None
    )


def subset(folder: Path) -> None:
    write_subset(folder / "s", np.array([3, 1, 20]), folder / "o")


def swept(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is damaged", RuntimeWarning)
        pc.sweep(folder / "s", **PLAN, out=folder / "r")


def more_swept(folder: Path) -> None:
    """RESULTS that are there, over more seeds, fractions and penalties."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is damaged", RuntimeWarning)
        more = {"seeds": 5, "fractions": [0.2, 0.3, 0.5, 1], "l2": [1e-3, 1e-2, 1e-1]}
        pc.sweep(folder / "s", **(PLAN | more), out=folder / "r")


def reported(folder: Path) -> None:
    from probecache.analyze.report.write import report_files

    report_files([str(folder / "r")], folder / "report")


def state(folder: Path) -> dict[str, Any]:
    """Everything that a reader sees of what lies in a folder; named errors in their places."""
    found: dict[str, Any] = {}
    for name in ("s", "o"):
        if (folder / name / "zarr.json").exists():
            found |= {f"{name}/{key}": value for key, value in contents(folder / name).items()}
            store = pc.open_store(folder / name)
            for split in store.splits:
                for target in store.targets(split)[1:]:
                    found[f"{name}/{split}/{target}"] = store.target(split, target).values.tobytes()
    if (folder / "r").exists():
        data = pc.open_results(folder / "r").load()
        found |= {f"r/{n}": v.values.tobytes() for n, v in data.variables.items() if n != "seconds"}
    if (folder / "report").exists():
        page = (folder / "report").rglob("*")
        found["report"] = sorted(str(p.relative_to(folder)) for p in page)
    return found


WORK: dict[str, Callable[[Path], None]] = {
    "subset": subset,
    "report": reported,
    "target": targets,
    "stream": streamed,
    "growth of RESULTS": more_swept,
    "sweep": swept,
    "growth of a store": imported,
    "import": imported,
}


def prepared(name: str, folder: Path) -> Path:
    """A folder with what a piece of work begins with."""
    folder.mkdir()
    if name in ("subset", "target"):
        imported(folder)
    if name in ("report", "sweep", "growth of RESULTS"):
        features(folder / "s")
    if name in ("report", "growth of RESULTS"):
        swept(folder)
    if name == "growth of a store":
        pc.write_arrays(
            folder / "s", split="train", layer="l", activations=X[:200], labels=Y[:200], shard_rows=16
        )
    return folder


def good(folder: Path) -> bool:
    stores = all(not list(verify(str(p))) for p in (folder / "s", folder / "o") if p.exists())
    return stores and (not (folder / "r").exists() or verify_results(str(folder / "r")) == [])
