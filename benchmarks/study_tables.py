"""The tables of docs/study.md: redundancy of each case, and what the paper says of it."""

from typing import Any

from benchmarks.markdown import latest, source, table


def study(device: str) -> str:
    """A line per backbone and task: what the full layer, a fifth of it, and its critical mass do."""
    entry = latest(f"study-{device}")
    rows = []
    for name, r in _cases(entry).items():
        share = r["accuracy_at_20%"] / r["full_accuracy"]
        numbers = [f"{r['full_accuracy']:.3f}", f"{r['accuracy_at_20%']:.3f}", f"{share:.1%}"]
        mass = [f"{r['critical_mass']['0.9']:.0f}", f"{r['dr']['0.9']:.2f}", f"{r['dr']['0.95']:.2f}"]
        rows.append([name, *numbers, *mass, f"{r['cka_at_20%']:.2f}"])
    near = next(iter(_cases(entry).values()))["fraction"]
    at = f"{100 * near:.3g}%"
    head = ["", "all neurons", f"random {at}", "kept", "critical mass 0.9", "DR 0.9", "DR 0.95", f"CKA {at}"]
    return f"{source(entry)}{_work(_cases(entry))}\n\n" + table(head, rows)


def _cases(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The record's backbones and tasks, without what it says of all of them together."""
    return {name: r for name, r in entry["results"].items() if "full_accuracy" in r}


NOT_YET = "Not measured yet."


def _lacks(key: str) -> str:
    """NOT_YET where the record is older than the measure."""
    return "" if all(key in r for r in _cases(latest("study-cpu")).values()) else NOT_YET


def study_critical() -> str:
    """The late layer's critical mass to 1% of it, by adaptive search, with its interval."""
    if missing := _lacks("critical"):
        return missing
    rows = []
    for name, r in _cases(latest("study-cpu")).items():
        row = [name]
        for delta in r["critical"].values():
            low, high = delta["interval"]
            row += [f"{delta['neurons']:.0f} ({low:.0f} to {high:.0f})", f"{delta['dr']:.2f}"]
        used, grid = r["critical_probes"]
        rows.append([*row, f"{used} of {grid}"])
    deltas = next(iter(_cases(latest("study-cpu")).values()))["critical"]
    heads = [head for d in deltas for head in (f"critical mass {d}", f"DR {d}")]
    return table(["", *heads, "probes"], rows)


def study_beyond() -> str:
    """The successors' cuts, and the share of neurons without which a ridge probe is better."""
    if missing := _lacks("kept_at"):
        return missing
    rows = []
    for name, r in _cases(latest("study-cpu")).items():
        cuts = [f"{share:.1%}" for share in r["kept_at"].values()]
        alone = r["neurons_alone"]
        shares = [f"{alone[k]:.0%}" for k in ("degrading_share", "helping_share", "degrading_beyond_noise")]
        rows.append([name, *cuts, *shares])
    cuts = [f"kept at {float(c):.3g}" for c in next(iter(_cases(latest("study-cpu")).values()))["kept_at"]]
    return table(["", *cuts, "degrading", "helping", "degrading beyond noise"], rows)


def study_geometry() -> str:
    """Spearman's correlation of each measure of geometry, per neuron, with DR."""
    found = latest("study-cpu")["results"].get("geometry and DR")
    if not found:
        return NOT_YET
    rows = [[m, f"{rho:.2f}", f"{low:.2f} to {high:.2f}"] for m, (rho, low, high) in found["rho"].items()]
    return table(["measure", f"rho with DR, {found['layers']} layers", "95% interval"], rows)


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
    results = _cases(latest("study-cpu"))
    columns = list(dict.fromkeys(name for r in results.values() for name in r[key]))
    rows = []
    for name, r in results.items():
        values = [r[key].get(column) for column in columns]
        rows.append([name, *("–" if v is None else f"{v:.3f}" for v in values)])
    return table(["", *columns], rows)


def study_claims() -> str:
    """Each claim of the paper, with how many of the pretrained cases agree and which do not."""
    sides: dict[str, dict[bool, list[str]]] = {}
    for name, r in _cases(latest("study-cpu")).items():
        for f in r["findings"]:
            if f["agrees"] is not None and "random" not in name:
                sides.setdefault(f["claim"], {True: [], False: []})[f["agrees"]].append(name)
    rows = [
        [claim, f"{len(found[True])} of {len(found[True] + found[False])}", ", ".join(found[False]) or "none"]
        for claim, found in sides.items()
    ]
    return table(["the paper says", "holds on", "does not hold on"], rows)
