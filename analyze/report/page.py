"""The page: payload, styles, script and plotly.js in one HTML file that needs no network."""

import html
import json
from importlib.resources import files
from typing import Any

from probecache.analyze.report.overview import claims_table, finding_item, headline, redundancy_table
from probecache.store.errors import InputError

TABS = (
    ("findings", "Findings", ""),
    ("scores", "Scores", "scores"),
    ("redundancy", "Redundancy", "redundancy"),
    ("classes", "Classes", "classes"),
    ("calibration", "Calibration", "calibration"),
    ("layers", "Layers", "layers"),
    ("similarity", "Similarity", "similarity"),
    ("neurons", "Neurons", "neurons"),
    ("differences", "Differences", ""),
    ("provenance", "Provenance", ""),
)
CAPTIONS = {
    "scores": "Mean over seeds with its 95% interval, cut at the score's range. The axis of neurons kept is "
    "logarithmic. Along layers, shots or l2, the largest subset is shown: the full layer if it was measured.",
    "dr": "Diffused redundancy against delta: the largest share of neurons that can be dropped at random "
    "while the mean score stays at delta of the full layer's. Bands: bootstrap over seeds.",
    "along": "Diffused redundancy at the report's delta, with its interval.",
    "pareto": "Score at the critical mass against DR, for the task of the chosen results. Each point is a "
    "layer at one delta. Filled points are on the frontier: no other layer or backbone offers more "
    "redundancy at as high a score. Grey, hollow and dotted points are not compared: their layer is hardly "
    "better than guessing (less than a twentieth of the way to perfect) and has nothing to lose.",
    "spread": "Gini index and coefficient of variation of the class accuracies under random subsets (0: all "
    "classes alike).",
    "classes": "Accuracy of each class. The five classes that lose most are coloured, the others grey. "
    "Dotted: the accuracy of whichever class is worst at that size.",
    "hardest": "The classes that lose most, with 95% intervals over seeds.",
    "confusion": "For each true class, how its test samples were predicted; full layer, first seed.",
    "calibration": "Share of right predictions against the probability that the probe gave them, in 15 bins "
    "with Wilson's 95% intervals; first seed. On the dashed line, the probe's probabilities are right. ECE: "
    "the distance from that line, averaged over samples. Dotted: the share of samples in each bin.",
    "layers": "Share of each layer's own full score that subsets keep.",
    "cka": "Linear CKA of random subsets with the full layer, and of two subsets of one size.",
    "neurons": "How the score changes without each neuron or group, most degrading first: above zero, the "
    "probe is better without it.",
}


def build_page(payload: dict[str, Any], *, title: str, commands: list[str], downloads: list[str]) -> str:
    """The whole document. `commands` are shown as how to rerun, `downloads` are paths beside the page."""
    tabs = [tab for tab in TABS if _has(payload, tab[0])]
    buttons = "".join(
        f'<button role="tab" id="tab-{key}" aria-controls="{key}" aria-selected="false" data-plot="{plot}">'
        f"{label}</button>"
        for key, label, plot in tabs
    )
    panels = {
        "findings": _findings(payload),
        "scores": _plot("scores", tall=True),
        "redundancy": _plot("dr")
        + f'<div id="along-body" hidden>{_plot("along")}</div>'
        + "<h3>The redundancy-performance frontier</h3>"
        + _plot("pareto"),
        "classes": '<p id="classes-none" hidden>These results have no accuracy per class, or fewer than '
        'three classes.</p><div id="classes-body">'
        + "".join(_plot(name) for name in ("spread", "classes", "hardest"))
        + f'</div><div id="confusion-body" hidden>{_plot("confusion", tall=True)}</div>',
        "calibration": '<p id="calibration-none" hidden>These results kept no probabilities: sweep with '
        "<code>--save-predictions scores</code>.</p>"
        f'<div id="calibration-body">{_plot("calibration", tall=True)}</div>',
        "layers": _plot("layers"),
        "similarity": '<p id="similarity-none" hidden>No CKA was given for these results: run '
        "<code>probecache cka</code> and name its folder beside them.</p>"
        f'<div id="similarity-body">{_plot("cka")}</div>',
        "neurons": '<p id="neurons-none" hidden>No attribution was given for these results: name the '
        "folder that <code>pc.attribution(..., out=)</code> wrote beside them.</p>"
        f'<div id="neurons-body">{_plot("neurons")}</div>',
        "differences": payload.get("differences_table", ""),
        "provenance": _provenance(payload, commands, downloads),
    }
    sections = "".join(
        f'<section role="tabpanel" id="{key}" aria-labelledby="tab-{key}" tabindex="0" hidden>'
        f"<h2>{label}</h2>{panels[key]}</section>"
        for key, label, _ in tabs
    )
    drawn = {key: value for key, value in payload.items() if key != "differences_table"}
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{_asset('page.css')}</style></head><body>"
        f'<header><div class="inner"><h1>{html.escape(title)}</h1>{headline(payload)}</div></header>'
        f'<nav aria-label="Sections"><div class="bar"><div role="tablist">{buttons}</div>'
        '<div class="choose" id="choose" hidden></div></div></nav>'
        f"<main>{sections}</main>"
        '<footer><div class="inner">Written by probecache. Definitions: Nanda et al., <i>Diffused '
        "Redundancy in Pre-trained Representations</i>, NeurIPS 2023.</div></footer>"
        f'<script type="application/json" id="data">{script_json(drawn)}</script>'
        # four megabytes that a browser reads as text, and as a script when the first plot is drawn
        f'<script type="text/plain" id="plotly">{_plotly()}</script>'
        f"<script>{_asset('page.js')}</script></body></html>\n"
    )


def script_json(value: Any) -> str:
    """JSON for a script element. A name may hold `</script>` or `<!--`, which a browser reads before JSON
    does: no `<`, `>` or `&` is left as itself, nor the two line ends that JSON allows and scripts did not."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _has(payload: dict[str, Any], tab: str) -> bool:
    """Whether some results have something to show in a tab."""
    studies = payload["studies"]
    if tab == "classes":
        return any(any(s["classes"]) or any(s["confusion"]) for s in studies)
    if tab == "layers":
        return any(len(s["coords"]["layer"]) > 1 for s in studies)
    if tab == "calibration":
        return any(s["calibration"] for s in studies)
    if tab == "similarity":
        return any(s["cka"] for s in studies)
    if tab == "neurons":
        return any(s.get("attribution") for s in studies)
    return tab != "differences" or bool(payload.get("differences_table"))


def _findings(payload: dict[str, Any]) -> str:
    parts = [claims_table(payload)]
    for i, study in enumerate(payload["studies"]):
        items = "".join(finding_item(f) for f in study["findings"])
        if items:
            parts.append(
                f"<details{' open' if i == 0 else ''}><summary>{html.escape(study['name'])}</summary>"
                f'<ul class="findings">{items}</ul></details>'
            )
    return "".join(parts) + redundancy_table(payload)


def _provenance(payload: dict[str, Any], commands: list[str], downloads: list[str]) -> str:
    parts = []
    for study in payload["studies"]:
        said = {"results": study["name"], "task": study["task"]} | study["provenance"]
        items = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in said.items() if v)
        parts.append(f"<details><summary>{html.escape(study['name'])}</summary><dl>{items}</dl></details>")
    lines = html.escape("\n".join(commands))
    links = "".join(f'<li><a href="{html.escape(d)}">{html.escape(d)}</a></li>' for d in downloads)
    rerun = f"<h3>How to rerun</h3><pre>{lines}</pre>" if commands else ""
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


def _asset(name: str) -> str:
    return (files("probecache.analyze.report") / name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise InputError("the report needs plotly: pip install 'probecache[report]'") from None
    return get_plotlyjs()
