"""From RESULTS on disk to DIR: index.html, figures/, tables/, all of it or nothing."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr

from probecache.analyze.findings.pareto import legible, pareto
from probecache.analyze.findings.summary import late_layer_last
from probecache.analyze.report.data import Study, build_payload
from probecache.analyze.report.differences import differences_table, paired_differences
from probecache.analyze.report.figures import frontier_figure, study_figures, write_figure
from probecache.analyze.report.names import Named, name_results, task_names, with_slugs
from probecache.analyze.report.page import build_page
from probecache.analyze.report.place import check_folder
from probecache.analyze.report.tables import write_tables
from probecache.analyze.results.join import open_results
from probecache.analyze.results.lock import replaced
from probecache.store.errors import InputError
from probecache.store.progress import Progress, reporting

TITLE = "Probing results"


def write_report(
    results: Mapping[str, xr.Dataset],
    out: str | Path,
    *,
    similarities: Mapping[str, xr.Dataset] | None = None,
    attributions: Mapping[str, xr.Dataset] | None = None,
    tasks: Mapping[str, str] | None = None,
    delta: float = 0.9,
    title: str = TITLE,
    commands: Sequence[str] = (),
) -> Path:
    """Write the page, its figures (SVG, PDF, and PNG at 300 dots per inch) and its tables (CSV); return the
    page's path.

    results: RESULTS by name. similarities, attributions: what `cka` and `attribution` returned, by the same
    names. tasks: the task of each name, within which results are compared; by default the data set that they
    name, else their test split. A report that is there already is replaced as a whole, once the new one is
    complete. Raises InputError where `out` holds anything but a report.
    """
    if not results:
        raise InputError("got no results: a report needs at least one RESULTS")
    known = list((tasks or {}).values()) if tasks else task_names(list(results.values()))
    named = with_slugs(list(results), [(tasks or {}).get(n, t) for n, t in zip(results, known, strict=False)])
    check_folder(out)
    studies = _studies(named, list(results.values()), similarities or {}, attributions or {})
    return _write(studies, out, delta, title, commands)


def _studies(
    named: Sequence[Named],
    results: Sequence[xr.Dataset],
    similarities: Mapping[str, xr.Dataset],
    attributions: Mapping[str, xr.Dataset],
) -> list[Study]:
    return [
        Study(
            n.name,
            n.task,
            n.slug,
            late_layer_last(data.load()),
            similarities.get(n.name),
            attributions.get(n.name),
        )
        for n, data in zip(named, results, strict=True)
    ]


def _write(
    studies: list[Study],
    out: str | Path,
    delta: float,
    title: str,
    commands: Sequence[str],
    progress: Progress = None,
) -> Path:
    differences = paired_differences(studies)
    payload = build_payload(studies, delta=delta) | {"differences_table": differences_table(differences)}
    points = pareto({s.name: s.results for s in studies}, task_of={s.name: s.task for s in studies})
    with replaced(out, check_folder) as folder:
        written = []
        with reporting(progress, "results") as tell:
            for done, study in enumerate(studies, 1):  # the figures take most of the time
                written += _figures(folder / "figures" / study.slug, study, delta)
                if tell is not None:
                    tell(done, len(studies))
        written += write_figure(frontier_figure(legible(points)), folder / "figures" / "pareto")
        written += write_tables(folder / "tables", studies, points, differences)
        files = [path.relative_to(folder).as_posix() for path in written]
        page = build_page(payload, title=title, commands=list(commands), downloads=files)
        (folder / "index.html").write_text(page, encoding="utf-8")
    return Path(out) / "index.html"


def _figures(folder: Path, study: Study, delta: float) -> list[Path]:
    return [p for name, figure in study_figures(study, delta) for p in write_figure(figure, folder / name)]


def report_files(
    paths: Sequence[str],
    out: str | Path,
    *,
    names: Sequence[str] = (),
    tasks: Sequence[str] = (),
    delta: float = 0.9,
    title: str | None = None,
    progress: Progress = None,
) -> Path:
    """`write_report` of RESULTS folders, with what `cka` and `attribution` wrote (their `out`) beside them.

    names, tasks: one for each RESULTS, in their order; by default what `name_results` finds. A CKA or an
    attribution goes to the results of the same store and layer. progress: True is a bar on stderr, a function
    is called with (done, total) RESULTS.
    """
    check_folder(out)
    opened = [(str(path), open_results(path)) for path in paths]
    results = [(path, data) for path, data in opened if not {"cka", "score_change"} & set(data.data_vars)]
    if not results:
        raise InputError(f"{', '.join(paths)} hold no sweep's results: name at least one RESULTS")
    named = name_results([p for p, _ in results], [data for _, data in results], names, tasks)
    similarities, attributions = (
        {
            n.name: beside
            for _, beside in opened
            if variable in beside
            for n, (_, r) in zip(named, results, strict=True)
            if _belongs(beside, r)
        }
        for variable in ("cka", "score_change")
    )
    line = ["probecache", "report", *map(str, paths), "--out", str(out)]
    for flag, given in (("--name", names), ("--task", tasks)):
        line += [word for value in given for word in (flag, value)]
    line += [] if title is None else ["--title", title]
    line += [] if delta == 0.9 else ["--delta", f"{delta:g}"]
    studies = _studies(named, [data for _, data in results], similarities, attributions)
    return _write(studies, out, delta, TITLE if title is None else title, [shlex.join(line)], progress)


def _belongs(beside: xr.Dataset, results: xr.Dataset) -> bool:
    digest = str(beside.attrs.get("digest", ""))
    return bool(digest) and digest in str(results.attrs.get("fingerprint", ""))
