"""What a reader sees first: whose numbers these are, what they say of the paper's claims, and the table."""

import html
from collections.abc import Iterator
from itertools import product
from typing import Any

from probecache.analyze.report.data import CELLS

ROWS = 200  # of the table on the page; the CSV has all


def headline(payload: dict[str, Any]) -> str:
    """The first sentence, and four numbers with the results, layer and selection that they are of."""
    studies = payload["studies"]
    first = studies[0]
    said = [f["text"] for f in first["findings"] if f["topic"] == "headline"]
    text = (
        said[0] if said else f"{len(first['coords']['layer'])} layers, {len(first['fraction'])} subset sizes."
    )
    targets = first["coords"]["target"]
    if len(targets) > 1:
        text = f"{len(targets)} targets. {_usual(targets)}: {text}"
    if len(studies) > 1:
        text = f"{len(studies)} results of {_count_tasks(studies)}. {first['name']}: {text}"
    return f'<p class="lede">{html.escape(text)}</p>{_tiles(payload)}'


def _usual(targets: list[str]) -> str:
    """The target that findings and tiles are about."""
    return "label" if "label" in targets else targets[0]


def _count_tasks(studies: list[dict[str, Any]]) -> str:
    tasks = list(dict.fromkeys(s["task"] for s in studies))
    return "one task" if len(tasks) == 1 else f"{len(tasks)} tasks"


def _tiles(payload: dict[str, Any]) -> str:
    study = payload["studies"][0]
    row = _main_row(study)
    if row is None:
        return ""
    at, delta = row["near"], payload["delta"]
    score = next(iter(study["scores"]))
    cells = [
        (_value(row["full"], score), f"{_words(score)} of all {row['neurons']:,.0f} neurons"),
        (
            _value(row["mean"], score),
            f"{_words(score)} of {row['n_near']:,.0f} of them ({at:.0%})",
        ),
        (_plain(row["critical_mass"], 0), f"neurons: critical mass at delta {delta:g}"),
        (_plain(row["dr"], 2), f"DR at delta {delta:g}: share that can be dropped"),
    ]
    whose = ", ".join(v for v in (study["name"], *row["cell"]) if v)
    tiles = "".join(
        f'<div class="key"><b>{value}</b><span>{html.escape(label)}</span></div>' for value, label in cells
    )
    return f'<p class="whose">{html.escape(whose)}</p><div class="keys">{tiles}</div>'


def _main_row(study: dict[str, Any]) -> dict[str, Any] | None:
    """The row of the late layer, random where it is there, all shots, the best l2; None without scores."""
    rows = list(rows_of(study))
    layer = study["coords"]["layer"][-1]
    wanted = [r for r in rows if r["layer"] == layer and r["full"] is not None]
    best, target = study["coords"]["l2"][study["best_l2"]], _usual(study["coords"]["target"])
    for key, value in (("target", target), ("selection", "random"), ("shots", "all"), ("l2", best)):
        wanted = [r for r in wanted if r[key] == value] or wanted
    return wanted[0] if wanted else None


def rows_of(study: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row per cell that was measured: coordinates, full score, score near a fifth, critical mass, DR."""
    coords, fractions = study["coords"], study["fraction"]
    near = min(range(len(fractions)), key=lambda i: abs(fractions[i] - 0.2))
    neurons = dict(zip(coords["layer"], study["n"], strict=True))
    for cell, values in enumerate(product(*(coords[dim] for dim in CELLS))):
        here = slice(cell * len(fractions), (cell + 1) * len(fractions))
        curves = {name: found["mean"][here] for name, found in study["scores"].items()}
        name = next((n for n, c in curves.items() if any(v is not None for v in c)), None)
        if name is None:
            continue
        at = {key: values[cell] for key, values in study["at"].items()}
        where = dict(zip(CELLS, values, strict=True))
        yield where | {
            "cell": [
                f"{d} {v}" if d in ("shots", "l2") else v
                for d, v in where.items()
                if d in ("layer", "selection") or len(coords[d]) > 1
            ],
            "score": name,
            "neurons": neurons[where["layer"]][-1],
            "full": at["full_score"],
            "near": fractions[near],
            "n_near": neurons[where["layer"]][near],
            "mean": curves[name][near],
            **at,
        }


def redundancy_table(payload: dict[str, Any]) -> str:
    """Critical mass and DR of every cell of every results that was measured."""
    studies = payload["studies"]
    dims = [d for d in ("target", "shots", "l2") if any(len(s["coords"][d]) > 1 for s in studies)]
    tasks = len({s["task"] for s in studies}) > 1
    rows, count = [], 0
    for study in studies:
        for row in rows_of(study):
            count += 1
            if count > ROWS:
                continue
            interval = f"{_plain(row['dr_low'], 2)} to {_plain(row['dr_high'], 2)}"
            words = [study["name"], *([study["task"]] if tasks else []), row["layer"], row["selection"]]
            words += [row[d] for d in dims]
            numbers = [
                f"{row['neurons']:,.0f}",
                _value(row["full"], row["score"]),
                _value(row["mean"], row["score"]),
                _plain(row["critical_mass"], 0),
                _plain(row["dr"], 2),
                interval if row["dr_low"] is not None else "–",
            ]
            texts = "".join(f'<td class="text">{html.escape(w)}</td>' for w in words)
            rows.append(f"<tr>{texts}{''.join(f'<td>{n}</td>' for n in numbers)}</tr>")
    near = next(iter(rows_of(studies[0])), {"near": 0.2})["near"]
    names = {"target": "Target", "shots": "Shots", "l2": "l2"}
    heads = ["Results", *(["Task"] if tasks else []), "Layer", "Selection", *(names[d] for d in dims)]
    texts = "".join(f'<th class="text" scope="col">{h}</th>' for h in heads)
    rest = ("Neurons", "Full", f"At {near:.3g}", "Critical mass", "DR", "Interval")
    ends = "".join(f'<th scope="col">{h}</th>' for h in rest)
    left = f" The first {ROWS} of {count:,} rows; tables/ has all." if count > ROWS else ""
    return (
        '<h2>Critical mass and DR</h2><div class="scroll" tabindex="0"><table><caption>Delta '
        f"{payload['delta']:g}. DR's interval: bootstrap over seeds, 95%.{left}</caption><thead><tr>"
        f"{texts}{ends}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def claims_table(payload: dict[str, Any]) -> str:
    """With several results: each claim of the paper, on how many of them it holds, and where it does not."""
    sides: dict[str, dict[bool, list[str]]] = {}
    for study in payload["studies"]:
        for f in study["findings"]:
            if f["claim"] and f["agrees"] is not None:
                sides.setdefault(f["claim"], {True: [], False: []})[f["agrees"]].append(study["name"])
    if len(payload["studies"]) < 2 or not sides:
        return ""
    rows = "".join(
        f'<tr><td class="text wrap">{html.escape(claim)}</td>'
        f"<td>{len(found[True])} of {len(found[True]) + len(found[False])}</td>"
        f'<td class="text wrap">{html.escape(", ".join(found[False])) or "none"}</td></tr>'
        for claim, found in sides.items()
    )
    return (
        '<div class="scroll" tabindex="0"><table><caption>The paper and all of these results.</caption>'
        '<thead><tr><th class="text" scope="col">The paper says</th><th scope="col">Holds on</th>'
        f'<th class="text" scope="col">Not on</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def finding_item(finding: dict[str, Any]) -> str:
    """A finding as an item of a list, with what the paper says."""
    kind = {True: "agrees", False: "differs", None: ""}[finding["agrees"]]
    verdict = {"agrees": "Agrees with the paper", "differs": "Differs from the paper", "": "The paper"}[kind]
    claim = html.escape(finding["claim"])
    tag = f'<span class="tag"><strong>{verdict}</strong>: {claim}.</span>' if claim else ""
    return f'<li class="{kind}">{html.escape(finding["text"])}{tag}</li>'


def _value(value: float | None, score: str) -> str:
    """A score for people: shares as percentages."""
    if value is None:
        return "not measured"
    return f"{value:.1%}" if score in PERCENT else f"{value:.3g}"


PERCENT = ("accuracy", "balanced_accuracy", "top5_accuracy", "exact_match", "macro_f1")


def _words(score: str) -> str:
    return score.replace("_", " ")


def _plain(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
