"""Which of two results is better on the same test samples, for every pair of one task, with paired tests."""

import html
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from probecache.analyze.comparison.compare import compare
from probecache.analyze.comparison.intervals import holm
from probecache.analyze.findings.confusion import has_predictions
from probecache.analyze.findings.summary import one_cell, pick_l2
from probecache.analyze.report.data import Study
from probecache.store.errors import InputError

PAIRS = 45  # ten results of one task


def paired_differences(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """A row per pair: both accuracies, their difference with its interval, and p, corrected for all rows.

    Of each results the last layer, random subsets, all shots, the largest fraction and the best l2. Pairs
    whose samples are not the same, or that kept no predictions, are left out.
    """
    kept = [s for s in studies if has_predictions(s.results)]
    pairs = [(a, b) for a, b in itertools.combinations(kept, 2) if a.task == b.task][:PAIRS]
    rows = []
    for one, other in pairs:
        try:
            found = compare(_late(one), _late(other)).squeeze(drop=True)
        except InputError:
            continue
        bounds = {k: float(found[k].mean()) for k in ("difference", "difference_low", "difference_high", "p")}
        means = {k: float(found[k].mean()) for k in ("accuracy_a", "accuracy_b")}
        rows.append({"a": one.name, "b": other.name, **means, **bounds, "samples": int(found["n_samples"])})
    corrected = holm(np.array([row["p"] for row in rows], np.float64))
    return [row | {"p_holm": float(p)} for row, p in zip(rows, corrected, strict=True)]


def _late(study: Study) -> xr.Dataset:
    results = pick_l2(study.results).expand_dims("l2")
    layer, fraction = results["layer"].values.tolist()[-1], float(results["fraction"].max())
    return one_cell(results, ("seed", "sample"), layer=layer, fraction=fraction)


def differences_table(rows: list[dict[str, Any]]) -> str:
    """The rows as an HTML table, or nothing where there are none."""
    if not rows:
        return ""
    body = "".join(
        f'<tr><td class="text">{html.escape(r["a"])}</td><td class="text">{html.escape(r["b"])}</td>'
        f"<td>{r['accuracy_a']:.1%}</td><td>{r['accuracy_b']:.1%}</td><td>{100 * r['difference']:+.1f}</td>"
        f"<td>{100 * r['difference_low']:+.1f} to {100 * r['difference_high']:+.1f}</td>"
        f"<td>{r['p_holm']:.2g}</td><td>{r['samples']:,}</td></tr>"
        for r in rows
    )
    heads = ("A", "B", "Accuracy of A", "of B", "A - B, points", "95% interval", "p (Holm)", "Samples")
    head = "".join(f'<th scope="col"{" class=text" if i < 2 else ""}>{h}</th>' for i, h in enumerate(heads))
    return (
        '<div class="scroll" tabindex="0"><table><caption>The last layer, largest random subsets. Paired by '
        "test sample: bootstrap over samples, p two-sided, corrected by Holm for all rows.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
