"""The tables of docs/study.md: redundancy of each case, and what the paper says of it."""

from typing import Any

from benchmarks.markdown import latest, source, table


def study(device: str) -> str:
    """A line per backbone and task: what the full layer, a fifth of it, and its critical mass do."""
    entry = latest(f"study-{device}")
    rows = []
    for name, r in entry["results"].items():
        share = r["accuracy_at_20%"] / r["full_accuracy"]
        numbers = [f"{r['full_accuracy']:.3f}", f"{r['accuracy_at_20%']:.3f}", f"{share:.1%}"]
        mass = [f"{r['critical_mass']['0.9']:.0f}", f"{r['dr']['0.9']:.2f}", f"{r['dr']['0.95']:.2f}"]
        rows.append([name, *numbers, *mass, f"{r['cka_at_20%']:.2f}"])
    near = next(iter(entry["results"].values()))["fraction"]
    at = f"{100 * near:.3g}%"
    head = ["", "all neurons", f"random {at}", "kept", "critical mass 0.9", "DR 0.9", "DR 0.95", f"CKA {at}"]
    return f"{source(entry)}{_work(entry['results'])}\n\n" + table(head, rows)


def _work(cases: dict[str, dict[str, Any]]) -> str:
    """How many probes in how long, where the record says so."""
    if not all("probes" in r for r in cases.values()):
        return ""
    probes, left = (sum(r[key] for r in cases.values()) for key in ("probes", "probes_not_converged"))
    minutes = sum(r["seconds"] for r in cases.values()) / 60
    ends = f"{left} did not converge." if left else "all converged."
    return f" {probes:,} probes in {minutes:.0f} minutes of sweeps; {ends}"


def study_columns(key: str) -> str:
    """A line per backbone and task, a column per way of picking neurons or per layer."""
    results = latest("study-cpu")["results"]
    columns = list(dict.fromkeys(name for r in results.values() for name in r[key]))
    rows = []
    for name, r in results.items():
        values = [r[key].get(column) for column in columns]
        rows.append([name, *("–" if v is None else f"{v:.3f}" for v in values)])
    return table(["", *columns], rows)


def study_claims() -> str:
    """Each claim of the paper, with how many of the pretrained cases agree and which do not."""
    sides: dict[str, dict[bool, list[str]]] = {}
    for name, r in latest("study-cpu")["results"].items():
        for f in r["findings"]:
            if f["agrees"] is not None and "random" not in name:
                sides.setdefault(f["claim"], {True: [], False: []})[f["agrees"]].append(name)
    rows = [
        [claim, f"{len(found[True])} of {len(found[True] + found[False])}", ", ".join(found[False]) or "none"]
        for claim, found in sides.items()
    ]
    return table(["the paper says", "holds on", "does not hold on"], rows)
