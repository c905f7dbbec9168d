"""The subcommands of `analyze` that read RESULTS: `redundancy`, `compare` and `report`."""

from pathlib import Path

import typer

from probecache.analyze.arguments import list_of


def redundancy(
    results: str = typer.Argument(metavar="RESULTS", help="Folder that `sweep` or `cka` wrote."),
    delta: str = typer.Option("0.9", "--delta", help="Shares of the full layer's score to keep: 0.9,0.95."),
    keep: float = typer.Option(
        None, "--keep", help="Also find the smallest single subset that keeps this share."
    ),
    layer: list[str] = typer.Option(
        None, "--layer", "--layers", help="Only these layers: a,b or repeated; globs. --keep takes one."
    ),
    target: list[str] = typer.Option(None, "--target", help="Only these targets, likewise."),
    score: str = typer.Option(
        None, "--score", help="Metric of the sweep to judge by  [accuracy; r2 for numbers; else cka]"
    ),
    indices: Path = typer.Option(None, "--indices", help="File for that subset's neurons, one a line."),
    time: str = typer.Option(
        None, "--time", help="The store that was swept: also time a probe on that subset."
    ),
) -> None:
    """How few neurons keep a share of the full layer's score.

    The critical mass is the smallest size that does, averaged over seeds; DR, diffused redundancy, is the
    share of neurons beyond it. For every layer, selection and l2, with intervals over seeds.
    """
    from probecache.analyze.findings.cli_output import find_subset, tell_redundancy, tell_subset

    subset = None
    if keep is not None or indices is not None or time is not None:  # what is wrong is told before the rest
        subset = find_subset(results, 0.95 if keep is None else keep, layer, target)
    tell_redundancy(results, list_of(delta) or [], layer, score, target)
    if subset is not None:
        tell_subset(*subset, indices, time)


def compare(
    a: str = typer.Argument(metavar="A", help="RESULTS of a sweep with --save-predictions."),
    b: str = typer.Argument(metavar="B", help="RESULTS to compare with A; may be the same."),
    target: str = typer.Option(None, "--target", help="Only this target; or A,B, one for each side."),
    layer: str = typer.Option(
        None, "--layer", "--layers", help="Only this layer, or a glob; or A,B, one for each side."
    ),
    selection: str = typer.Option(None, "--selection", help="Only this selection; or A,B."),
    shots: str = typer.Option(None, "--shots", help="Only these shots; or A,B."),
    fraction: str = typer.Option(None, "--fraction", help="Only this fraction; or A,B."),
    l2: str = typer.Option(None, "--l2", help="Only this l2; or A,B."),
    pairs: str = typer.Option(
        None, "--pairs", help="A dimension, such as layer: compare all pairs of its values."
    ),
    groups: Path = typer.Option(
        None, "--groups", help="CSV of sample,group: whole groups are resampled  [those of the sweep]"
    ),
    bootstrap: int = typer.Option(5000, "--bootstrap", help="Number of bootstrap resamples."),
    out: Path = typer.Option(None, "--out", help="Folder to write, or FILE.csv."),
) -> None:
    """Test two sweeps' probes on the same test samples.

    Prints the accuracy of A minus that of B, with intervals and p values.
    """
    from probecache.analyze.comparison.cli_output import compare_results

    chosen = {"layer": layer, "selection": selection, "shots": shots, "fraction": fraction, "l2": l2}
    chosen |= {"target": target}
    compare_results(a, b, chosen, pairs=pairs, groups=groups, bootstrap=bootstrap, out=out)


def report(
    results: list[str] = typer.Argument(metavar="RESULTS...", help="Folders that `sweep` or `cka` wrote."),
    out: Path = typer.Option(..., "--out", help="Folder to write index.html, figures and tables to."),
    delta: float = typer.Option(
        0.9, "--delta", help="Share of the full layer's accuracy that DR is to keep."
    ),
    title: str = typer.Option(None, "--title", help="Title of the page."),
    name: list[str] = typer.Option(
        None, "--name", help="Name of each RESULTS in the report, in their order."
    ),
    task: list[str] = typer.Option(
        None, "--task", help="Task of each RESULTS; those with the same task are compared."
    ),
) -> None:
    """Write a report: an HTML page, figures and tables.

    The page works offline; figures are SVG, PNG and PDF, tables CSV.
    """
    from probecache.analyze.report.write import report_files

    page = report_files(
        results, out, names=name or (), tasks=task or (), delta=delta, title=title, progress=len(results) > 1
    )
    print(f"report: {page}")
    print(f"figures: {out / 'figures'}\ntables: {out / 'tables'}")
