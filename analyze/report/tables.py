"""The numbers of a report as CSV, one table per file."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from probecache.analyze.findings.classes import class_effects
from probecache.analyze.findings.redundancy import redundancy
from probecache.analyze.findings.score import score_names
from probecache.analyze.findings.summary import pick_l2, usual_task
from probecache.analyze.plot.redundancy import DELTAS
from probecache.analyze.report.data import Study


def write_tables(
    folder: Path, studies: list[Study], points: xr.Dataset, differences: list[dict[str, Any]] | None = None
) -> list[Path]:
    """Scores, DR and class effects of every results, the points of the frontier, and paired differences."""
    written = [_write(points.reset_coords().to_dataframe().reset_index(drop=True), folder / "pareto.csv")]
    if differences:
        written.append(_write(pd.DataFrame(differences), folder / "differences.csv"))
    for study in studies:
        data = study.results
        names = score_names(data)
        scores = data[[*names, "n_neurons"]].to_dataframe().reset_index()
        written.append(
            _write(scores.dropna(subset=names, how="all"), folder / f"{study.slug}-{names[0]}.csv")
        )
        dr = redundancy(data, DELTAS).to_dataframe().reset_index()
        written.append(_write(dr.dropna(subset=["full_score"]), folder / f"{study.slug}-dr.csv"))
        if "class_accuracy" in data and "random" in data["selection"]:
            effects = class_effects(pick_l2(usual_task(data)).sel({"selection": ["random"]}))
            written.append(_write(effects.to_dataframe().reset_index(), folder / f"{study.slug}-classes.csv"))
    return written


def _write(frame: pd.DataFrame, path: Path) -> Path:
    """Text is quoted, with line ends as spaces, what a spreadsheet would take for a formula is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = frame.copy()
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            frame[name] = [_harmless(value) for value in frame[name]]
    frame.to_csv(path, index=False, float_format="%.6g", quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
    return path


def _harmless(value: Any) -> Any:
    text = str(value)
    if not isinstance(value, str) and not text.startswith(("=", "+", "-", "@")):
        return value
    text = " ".join(text.splitlines()) if len(text.splitlines()) > 1 else text
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    return text
