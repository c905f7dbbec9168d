"""What results are called on the page, which task they are of, and what their files are called."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from probecache.store.errors import InputError


@dataclass(frozen=True)
class Named:
    """name: for people, of one report once. task: results of one task are compared. slug: of its files."""

    name: str
    task: str
    slug: str


def name_results(
    paths: Sequence[str],
    results: Sequence[xr.Dataset],
    names: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> list[Named]:
    """Names and tasks in the order of the results: those given, else what the results say of themselves.

    By default a name is `backbone / data` where the attributes have both and no two results share them, else
    the folder's name, with its parents' where folders share it. Tasks: see `task_names`.
    Raises InputError where names or tasks are given, but not one for each, or a name twice.
    """
    for what, given in (("name", names), ("task", tasks)):
        if given and len(given) != len(results):
            raise InputError(
                f"got {len(given)} --{what} for {len(results)} results; give one for each, in their order"
            )
    if twice := sorted({n for n in names if list(names).count(n) > 1}):
        raise InputError(f"got --name {twice[0]} twice; give every result a name of its own")
    found_tasks = list(tasks) or task_names(results, [Path(p).stem.partition("__")[2] for p in paths])
    return with_slugs(list(names) or _own_names(paths, results), found_tasks)


def with_slugs(names: Sequence[str], tasks: Sequence[str]) -> list[Named]:
    """Names and tasks with a slug each: letters, digits, dots and dashes, and no two alike on any system."""
    taken: set[str] = set()
    named = []
    for name, task in zip(names, tasks, strict=True):
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "results"
        slug, i = stem, 2
        while slug.lower() in taken:
            slug, i = f"{stem}-{i}", i + 1
        taken.add(slug.lower())
        named.append(Named(name, task, slug))
    return named


def about(results: xr.Dataset) -> tuple[str, str]:
    """(backbone, data set) as the attributes say, "" where they do not."""
    words = []
    for keys in (("backbone", "model"), ("data_set", "dataset", "data")):
        said = next((str(results.attrs[k]) for k in keys if results.attrs.get(k)), "")
        words.append(" ".join(said.split()))
    return words[0], words[1]


def task_names(results: Sequence[xr.Dataset], folders: Sequence[str] = ()) -> list[str]:
    """The task of each: its data set, else what its folder's name says, else its test split; numbered where
    classes differ."""
    kinds: dict[str, list[object]] = {}
    out = []
    for i, data in enumerate(results):
        said = folders[i] if i < len(folders) else ""
        base = about(data)[1] or said or str(data.attrs.get("test", "")) or "task"
        kind = tuple(str(v) for v in data["class"].values) if "class" in data.coords else ()
        known = kinds.setdefault(base, [])
        if kind not in known:
            known.append(kind)
        at = known.index(kind)
        out.append(base if at == 0 else f"{base} ({at + 1})")
    return out


def _own_names(paths: Sequence[str], results: Sequence[xr.Dataset]) -> list[str]:
    said = [about(data) for data in results]
    if all(backbone and data for backbone, data in said) and len(set(said)) == len(said):
        return [f"{backbone} / {data}" for backbone, data in said]
    folders = [Path(path).absolute() for path in paths]
    stems = [re.sub(r"\.(zarr|results)$", "", f.name).replace("__", " / ") for f in folders]
    depth = 1
    while len(set(stems)) < len(stems) and depth < max(len(f.parts) for f in folders):
        depth += 1
        shared: Mapping[str, int] = {s: stems.count(s) for s in stems}
        stems = [
            "/".join(f.parts[-depth:]) if shared[s] > 1 else s for f, s in zip(folders, stems, strict=True)
        ]
    return [s if stems.index(s) == i else f"{s} ({stems[: i + 1].count(s)})" for i, s in enumerate(stems)]
