"""From RESULTS on disk to DIR: index.html, figures/, tables/."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr

from probecache.analyze.findings.classes import class_effects
from probecache.analyze.findings.pareto import legible, pareto
from probecache.analyze.findings.redundancy import redundancy, score_of
from probecache.analyze.findings.summary import late_layer_last, pick_l2
from probecache.analyze.report.data import DELTAS, build_payload
from probecache.analyze.report.figures import accuracy_figure
from probecache.analyze.report.page import build_page
from probecache.analyze.report.static_figures import (
    cka_figure,
    dr_figure,
    layers_figure,
    pareto_figure,
    spread_figure,
)
from probecache.store.errors import DamagedStore, InputError

FORMATS = (".svg", ".png")


def write_report(
    results: Mapping[str, xr.Dataset],
    out: str | Path,
    *,
    similarities: Mapping[str, xr.Dataset] | None = None,
    tasks: Mapping[str, str] | None = None,
    delta: float = 0.9,
    title: str = "What is left when neurons go",
    commands: Sequence[str] = (),
) -> Path:
    """Write the page, its figures (SVG, and PNG at 300 dots per inch) and its tables (CSV); return the
    page's path.

    results: RESULTS by name. similarities: what `cka` returned, by the same names. tasks: the task of each
    name, for the Pareto frontier; by default one task for all. Files of an earlier report of the same names
    are replaced.
    """
    if not results:
        raise InputError("got no results: a report needs at least one RESULTS")
    out, similarities = Path(out), dict(similarities or {})
    results = {name: late_layer_last(data.load()) for name, data in results.items()}
    payload = build_payload(results, similarities, delta=delta, tasks=tasks)
    # The page first in memory: where something it needs is missing, nothing is written.
    files: list[str] = []
    for name, data in results.items():
        files += _figures(out, name, data, similarities.get(name))
    points = pareto(results, task_of=tasks or dict.fromkeys(results, ""))
    files += [
        str(pareto_figure(legible(points), out / f"figures/pareto{end}").relative_to(out)) for end in FORMATS
    ]
    files += _tables(out, results, points)
    page = build_page(payload, title=title, commands=list(commands), downloads=files)
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def report_files(
    paths: Sequence[str], out: str | Path, *, delta: float = 0.9, title: str | None = None
) -> Path:
    """`write_report` of RESULTS folders, and of CKA folders (`probecache cka --out`) beside them.

    A folder's name, without its suffix, names its results; `BACKBONE__TASK` also tells the task. A CKA goes
    to the results of the same store and layer.
    """
    if Path(out).is_file() or (Path(out) / "zarr.json").exists():
        raise InputError(
            f"got --out {out}, which is a file, a store or RESULTS: name a folder for the report"
        )
    results: dict[str, xr.Dataset] = {}
    similarities: list[xr.Dataset] = []
    for path in paths:
        data = open_results(path)
        if "accuracy" in data:
            results[_unique(Path(path).name, results)] = data
        else:
            similarities.append(data)
    if not results:
        raise InputError(f"{', '.join(paths)} hold no sweep's results: name at least one RESULTS")
    tasks = {name: name.split(" / ")[1] if " / " in name else "" for name in results}
    matched = {name: c for c in similarities for name, r in results.items() if _belongs(c, r)}
    line = ["probecache", "report", *map(str, paths), "--out", str(out)]
    extra = {} if title is None else {"title": title}
    return write_report(
        results, out, similarities=matched, tasks=tasks, delta=delta, commands=[shlex.join(line)], **extra
    )


def open_results(path: str | Path) -> xr.Dataset:
    """RESULTS or a CKA, lazily; InputError where the folder is neither."""
    if not (Path(path) / "zarr.json").is_file():
        raise InputError(f"{path} is no RESULTS folder: give what `probecache sweep --out` wrote")
    try:
        data = xr.open_zarr(path, consolidated=False)
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise DamagedStore(
            f"{path} cannot be read ({reason}): restore it from a copy, or sweep again"
        ) from None
    if "accuracy" not in data and "cka" not in data:
        raise InputError(
            f"{path} holds neither accuracy nor cka, but {', '.join(map(str, data)) or 'nothing'}"
        )
    return data


def _belongs(similarity: xr.Dataset, results: xr.Dataset) -> bool:
    digest = str(similarity.attrs.get("digest", ""))
    return bool(digest) and digest in str(results.attrs.get("fingerprint", ""))


def _unique(folder: str, taken: Mapping[str, object]) -> str:
    stem = re.sub(r"\.(zarr|results)$", "", folder).replace("__", " / ")
    name, i = stem, 2
    while name in taken:
        name, i = f"{stem} ({i})", i + 1
    return name


def _figures(out: Path, name: str, data: xr.Dataset, similarity: xr.Dataset | None) -> list[str]:
    folder = out / "figures" / _slug(name)
    written = []
    for end in FORMATS:
        written.append(accuracy_figure(data, folder / f"accuracy{end}"))
        written.append(dr_figure(data, DELTAS, folder / f"dr{end}"))
        written.append(layers_figure(data, folder / f"layers{end}"))
        if "class_accuracy" in data and data.sizes["class"] > 2 and "random" in data["selection"]:
            written.append(spread_figure(data, folder / f"classes{end}"))
        if similarity is not None:
            written.append(cka_figure(similarity, folder / f"cka{end}"))
    return [str(path.relative_to(out)) for path in written]


def _tables(out: Path, results: Mapping[str, xr.Dataset], points: xr.Dataset) -> list[str]:
    folder = out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"pareto": points}
    for name, data in results.items():
        scores = score_of(data).to_dataset(name="accuracy").assign(n_neurons=data["n_neurons"])
        tables[f"{_slug(name)}-accuracy"] = scores
        tables[f"{_slug(name)}-dr"] = redundancy(data, DELTAS)
        if "class_accuracy" in data and "random" in data["selection"]:
            tables[f"{_slug(name)}-classes"] = class_effects(pick_l2(data).sel({"selection": ["random"]}))
    for name, table in tables.items():
        frame = (
            table.reset_coords().to_dataframe().reset_index()
            if "point" in table.dims
            else table.to_dataframe()
        )
        frame.reset_index().to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return [f"tables/{name}.csv" for name in tables]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") or "results"
