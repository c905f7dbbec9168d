"""The tables of the study: redundancy of each case, and what the paper and its successors say of it."""

from typing import Any

from benchmarks.markdown import latest, source, table

RECORD = "study-logistic"
Cases = dict[str, dict[str, Any]]


def study(record: str) -> str:
    """A line per backbone and task: what the full layer, a fifth of it, and its critical mass do."""
    entry = latest(record)
    rows = []
    for name, r in cases(record).items():
        share = r["accuracy_at_20%"] / r["full_accuracy"]
        numbers = [f"{r['full_accuracy']:.3f}", f"{r['accuracy_at_20%']:.3f}", f"{share:.1%}"]
        mass = [f"{r['critical_mass']['0.9']:.0f}", f"{r['dr']['0.9']:.2f}", f"{r['dr']['0.95']:.2f}"]
        rows.append([name, *numbers, *mass, f"{r['cka_at_20%']:.2f}"])
    near = next(iter(cases(record).values()))["fraction"]
    at = f"{100 * near:.3g}%"
    head = ["", "all neurons", f"random {at}", "kept", "critical mass 0.9", "DR 0.9", "DR 0.95", f"CKA {at}"]
    return f"{source(entry)}{_work(cases(record))}\n\n" + table(head, rows)


def cases(record: str = RECORD) -> Cases:
    """The record's backbones and tasks, without what it says of all of them together."""
    return {name: r for name, r in latest(record)["results"].items() if "full_accuracy" in r}


def study_critical() -> str:
    """The late layer's critical mass to 1% of it, with its interval, and the probes that it took."""
    rows = []
    for name, r in cases().items():
        probes, grid = r["critical_probes"]
        rows.append([name, *_masses(r), f"{probes} of {grid}"])
    return table(["", *_mass_heads(cases()), "probes"], rows)


def study_grid() -> str:
    """The adaptive search of ridge probes beside the full grid of the same precision."""
    rows, found = [], cases("study-ridge")
    for name, grid in latest("critical-ridge")["results"].items():
        of_grid = ", ".join(f"{mass:.0f}" for mass in grid["grid"])
        probes = f"{grid['probes']} of {found[name]['critical_probes'][1]}"
        rows.append([name, *_masses(found[name]), of_grid, probes])
    return table(["", *_mass_heads(found), "by the grid", "probes"], rows)


def _masses(r: dict[str, Any]) -> list[str]:
    row = []
    for delta in r["critical"].values():
        low, high = delta["interval"]
        row += [f"{delta['neurons']:.0f} ({low:.0f} to {high:.0f})", f"{delta['dr']:.2f}"]
    return row


def _mass_heads(found: Cases) -> list[str]:
    deltas = next(iter(found.values()))["critical"]
    return [head for d in deltas for head in (f"critical mass {d}", f"DR {d}")]


def study_beyond() -> str:
    """The successors' cuts, and the share of neurons without which a ridge probe is better."""
    rows = []
    for name, r in cases().items():
        cuts = [f"{share:.1%}" for share in r["kept_at"].values()]
        alone = r["neurons_alone"]
        shares = [f"{alone[k]:.0%}" for k in ("degrading_share", "helping_share", "degrading_beyond_noise")]
        rows.append([name, *cuts, *shares])
    cuts = [f"kept at {float(c):.3g}" for c in next(iter(cases().values()))["kept_at"]]
    return table(["", *cuts, "degrading", "helping", "degrading beyond noise"], rows)


def study_shots() -> str:
    """Accuracy, critical mass and DR by training rows per class."""
    rows = []
    for name, r in cases().items():
        for shots, at in r.get("shots", {}).items():
            low, high = at["dr_interval"]
            mass = [f"{at['neurons']:.0f}", f"{at['dr']:.2f}", f"{low:.2f} to {high:.2f}"]
            rows.append([name, shots, f"{at['full_accuracy']:.3f}", *mass])
    return table(["", "rows per class", "all neurons", "critical mass 0.9", "DR 0.9", "95% interval"], rows)


def study_geometry() -> str:
    """Spearman's correlation of each measure of geometry, per neuron, with DR."""
    found = latest(RECORD)["results"]["geometry and DR"]
    rows = [[m, f"{rho:.2f}", f"{low:.2f} to {high:.2f}"] for m, (rho, low, high) in found["rho"].items()]
    return table(["measure", f"rho with DR, {found['layers']} layers", "95% interval"], rows)


def _work(found: Cases) -> str:
    """How many probes in how long."""
    probes, left = (sum(r[key] for r in found.values()) for key in ("probes", "probes_not_converged"))
    minutes = sum(r["seconds"] for r in found.values()) / 60
    ends = f"{left} did not converge." if left else "all converged."
    return f" {probes:,} probes in {minutes:.0f} minutes of sweeps; {ends}"


def study_columns(key: str) -> str:
    """A line per backbone and task, a column per way of picking neurons or per layer."""
    results = cases()
    columns = list(dict.fromkeys(name for r in results.values() for name in r[key]))
    rows = []
    for name, r in results.items():
        values = [r[key].get(column) for column in columns]
        rows.append([name, *("–" if v is None else f"{v:.3f}" for v in values)])
    return table(["", *columns], rows)


def study_claims() -> str:
    """Each claim of the paper, with how many of the pretrained cases agree and which do not."""
    sides: dict[str, dict[bool, list[str]]] = {}
    for name, r in cases().items():
        for f in r["findings"]:
            if f["agrees"] is not None and "random" not in name:
                sides.setdefault(f["claim"], {True: [], False: []})[f["agrees"]].append(name)
    rows = [
        [claim, f"{len(found[True])} of {len(found[True] + found[False])}", ", ".join(found[False]) or "none"]
        for claim, found in sides.items()
    ]
    return table(["the paper says", "holds on", "does not hold on"], rows)
