"""The page: payload, styles, script and plotly.js in one HTML file that needs no network."""

import html
import json
from importlib.resources import files
from typing import Any

from probecache.store.errors import InputError

TABS = (
    ("findings", "Findings", ""),
    ("accuracy", "Accuracy", "accuracy"),
    ("redundancy", "Redundancy", "redundancy"),
    ("classes", "Classes", "classes"),
    ("layers", "Layers", "layers"),
    ("similarity", "Similarity", "similarity"),
    ("provenance", "Provenance", ""),
)
CAPTIONS = {
    "accuracy": "Test accuracy against the share of neurons kept (log axis): mean over seeds with its 95% "
    "interval. The dashed line is the full layer.",
    "dr": "Diffused redundancy against delta: the largest share of neurons that can be dropped at random "
    "while the mean accuracy stays at delta of the full layer's. Bands: bootstrap over seeds.",
    "pareto": "Accuracy at the critical mass against DR, for the task of the chosen results. Each point is a "
    "layer at one delta; filled points are on the frontier: no other layer or backbone offers more "
    "redundancy at as much accuracy. Grey, hollow and dotted: a layer whose full accuracy is hardly above "
    "guessing (less than a twentieth of the way to always right): nothing to lose, so it is not compared.",
    "spread": "Gini index and coefficient of variation of the class accuracies under random subsets (0: all "
    "classes alike).",
    "classes": "Accuracy of each class. The five classes that lose most are coloured, the others grey; "
    "dotted, the accuracy of whichever class is worst at that size.",
    "hardest": "The classes that lose most, with 95% intervals over seeds.",
    "layers": "Share of each layer's own full accuracy that random subsets keep.",
    "cka": "Linear CKA of random subsets with the full layer, and of two subsets of one size.",
}


def build_page(payload: dict[str, Any], *, title: str, commands: list[str], downloads: list[str]) -> str:
    """The whole document. `commands` are shown as how to rerun, `downloads` are paths beside the page."""
    tabs = "".join(
        f'<button role="tab" id="tab-{key}" aria-controls="{key}" aria-selected="false" data-plot="{plot}">'
        f"{label}</button>"
        for key, label, plot in TABS
    )
    panels = {
        "findings": _findings(payload),
        "accuracy": _plot("accuracy", tall=True),
        "redundancy": _plot("dr") + "<h3>The redundancy-performance frontier</h3>" + _plot("pareto"),
        "classes": '<p id="classes-none" hidden>These results have no accuracy per class, or fewer than '
        'three classes.</p><div id="classes-body">'
        + "".join(_plot(name) for name in ("spread", "classes", "hardest"))
        + "</div>",
        "layers": _plot("layers"),
        "similarity": '<p id="similarity-none" hidden>No CKA was given for these results: run '
        "<code>probecache cka</code> and name its folder beside them.</p><div "
        'id="similarity-body">' + _plot("cka") + "</div>",
        "provenance": _provenance(payload, commands, downloads),
    }
    sections = "".join(
        f'<section role="tabpanel" id="{key}" aria-labelledby="tab-{key}" tabindex="0" hidden>'
        f"<h2>{label}</h2>{panels[key]}</section>"
        for key, label, _ in TABS
    )
    # `</` would end the script element wherever a label holds it.
    data = json.dumps(payload, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{_asset('page.css')}</style></head><body>"
        f"<header><div "
        f'class="inner"><h1>{html.escape(title)}</h1>{_lede(payload)}{_keys(payload)}</div></header>'
        f'<nav aria-label="Sections"><div class="bar"><div role="tablist">{tabs}</div>'
        '<div class="choose" id="choose" hidden><label>Results <select id="study"></select></label>'
        '<label>Layer <select id="layer"></select></label></div></div></nav>'
        f"<main>{sections}</main>"
        '<footer><div class="inner">Written by probecache. Definitions: Nanda et al., <i>Diffused '
        "Redundancy in "
        "Pre-trained Representations</i>, NeurIPS 2023.</div></footer>"
        f'<script type="application/json" id="data">{data}</script>'
        f"<script>{_plotly()}</script><script>{_asset('page.js')}</script></body></html>\n"
    )


def _lede(payload: dict[str, Any]) -> str:
    studies = payload["studies"]
    first = studies[0]["findings"]
    text = first[0]["text"] if first else "What column subsets of frozen features keep of the full layer."
    if len(studies) > 1:
        text = f"{len(studies)} results. {studies[0]['name']}: {text}"
    return f'<p class="lede">{html.escape(text)}</p>'


def _keys(payload: dict[str, Any]) -> str:
    """Four numbers of the first results' main layer."""
    layer = payload["studies"][0]["layers"][-1]
    random = next((m for m in layer["selections"] if m["name"] == "random"), layer["selections"][0])
    at = min(range(len(layer["fraction"])), key=lambda i: abs(layer["fraction"][i] - 0.2))
    delta = payload["delta"]
    cells = [
        (_percent(layer["full"]), f"accuracy of all {layer['neurons']:,} neurons"),
        (
            _percent(random["mean"][at]),
            f"accuracy of {layer['n'][at]:.0f} random ones ({layer['fraction'][at]:.0%})",
        ),
        (_plain(random["critical_mass"], 0), f"neurons: critical mass at delta {delta:g}"),
        (_plain(random["dr"], 2), f"DR at delta {delta:g}: share that can be dropped"),
    ]
    return '<div class="keys">' + "".join(
        f'<div class="key"><b>{value}</b><span>{html.escape(label)}</span></div>' for value, label in cells
    ) + "</div>"  # fmt: skip


def _findings(payload: dict[str, Any]) -> str:
    parts = [_claims(payload)]
    for i, study in enumerate(payload["studies"]):
        items = "".join(_finding(f) for f in study["findings"])
        parts.append(
            f"<details{' open' if i == 0 else ''}><summary>{html.escape(study['name'])}</summary>"
            f'<ul class="findings">{items}</ul></details>'
        )
    return "".join(parts) + _table(payload)


def _claims(payload: dict[str, Any]) -> str:
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


def _finding(finding: dict[str, Any]) -> str:
    kind = {True: "agrees", False: "differs", None: ""}[finding["agrees"]]
    verdict = {"agrees": "Agrees with the paper", "differs": "Differs from the paper", "": "The paper"}[kind]
    claim = html.escape(finding["claim"])
    tag = f'<span class="tag"><strong>{verdict}</strong>: {claim}.</span>' if claim else ""
    return f'<li class="{kind}">{html.escape(finding["text"])}{tag}</li>'


def _table(payload: dict[str, Any]) -> str:
    rows = []
    for study in payload["studies"]:
        for layer in study["layers"]:
            random = next((m for m in layer["selections"] if m["name"] == "random"), layer["selections"][0])
            at = min(range(len(layer["fraction"])), key=lambda i: abs(layer["fraction"][i] - 0.2))
            interval = f"{_plain(random.get('dr_low'), 2)} to {_plain(random.get('dr_high'), 2)}"
            rows.append(
                f'<tr><td class="text">{html.escape(study["name"])}</td>'
                f'<td class="text">{html.escape(layer["name"])}</td><td>{layer["neurons"]:,}</td>'
                f"<td>{_percent(layer['full'])}</td><td>{_percent(random['mean'][at])}</td>"
                f"<td>{_plain(random['critical_mass'], 0)}</td><td>{_plain(random['dr'], 2)}</td>"
                f"<td>{interval}</td></tr>"
            )
    near = payload["studies"][0]["layers"][-1]["fraction"]
    at = min(near, key=lambda f: abs(f - 0.2))
    return (
        '<h2>Critical mass and DR</h2><div class="scroll" tabindex="0"><table><caption>Random subsets, delta '
        f"{payload['delta']:g}. DR's interval: bootstrap over seeds, 95%.</caption><thead><tr>"
        '<th class="text" scope="col">Results</th><th class="text" scope="col">Layer</th>'
        '<th scope="col">Neurons</th>'
        f'<th scope="col">Full</th><th scope="col">At {at:.0%}</th><th scope="col">Critical mass</th>'
        '<th scope="col">DR</th><th scope="col">Interval</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _provenance(payload: dict[str, Any], commands: list[str], downloads: list[str]) -> str:
    parts = []
    for study in payload["studies"]:
        items = "".join(
            f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in study["provenance"].items()
        )
        parts.append(f"<details><summary>{html.escape(study['name'])}</summary><dl>{items}</dl></details>")
    lines = html.escape("\n".join(commands))
    links = "".join(f'<li><a href="{html.escape(d)}">{html.escape(d)}</a></li>' for d in downloads)
    rerun = f"<h3>How to rerun</h3><pre>{lines}</pre>"
    if len(parts) == 1:
        parts[0] = parts[0].replace("<details>", "<details open>", 1)
    return f"{rerun}{''.join(parts)}<h3>Files beside this page</h3><ul>{links}</ul>"


def _plot(name: str, tall: bool = False) -> str:
    caption = html.escape(CAPTIONS[name])
    return (
        f'<figure><div class="plot{" tall" if tall else ""}" id="plot-{name}" role="img" '
        f'aria-label="{caption}">'
        f"</div><figcaption>{caption}</figcaption></figure>"
    )


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}"


def _plain(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _asset(name: str) -> str:
    return (files("probecache.analyze.report") / name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise InputError("the report needs plotly: pip install 'probecache[report]'") from None
    return get_plotlyjs()
