"""The tables of docs/probes.md: our seconds beside those of the peers."""

from benchmarks.markdown import latest, source, table


def probes() -> str:
    """Our seconds beside each peer's, of both records: all threads, and one."""
    parts = []
    for name in ("probes-cpu", "probes-cpu-threads-1"):
        entry = latest(name)
        rows = []
        for case, r in entry["results"].items():
            if not isinstance(r, dict) or "peers" not in r:
                continue
            n, d, c = r["shape"]
            for peer, told in r["peers"].items():
                # A sum without the widest probes, which take longest, is only a lower bound.
                least = "> " if told["rows"][-1][0] < d else ""
                rows.append(
                    [
                        f"{case}, {n:,} x {d:,}, {c} classes",
                        f"{r['one_seed_seconds']:.1f}",
                        f"{r['seconds_per_seed']:.1f}" if "seconds_per_seed" in r else "",
                        peer,
                        f"{least}{told['seconds_20']:.0f}, {told['seconds_are']}",
                        f"{least}{told['times_one_seed']:.1f}",
                        f"{least}{told['times_many_seeds']:.1f}" if "times_many_seeds" in told else "",
                        f"{r['largest_gap']:.0e}",
                        f"{told['largest_gap']:.0e}",
                    ]
                )
        head = ["20 probes", "ours, s", "per seed of 5", "peer", "peer, s", "times", "times, 5 seeds"]
        threads = entry["results"].get("threads", "all")
        parts.append(f"{source(entry)} Threads: {threads}.\n\n" + table([*head, "our gap", "its gap"], rows))
    return "\n\n".join(parts)


def ridge() -> str:
    """Ridge probes beside RidgeClassifier and himalaya."""
    entry = latest("probes-cpu")
    r, n = entry["results"]["ridge"], 20
    himalaya = sum(seconds for _, seconds in r["himalaya"])
    rows = [
        ["Gram matrix", f"{r['gram_seconds']:.2f}", ""],
        [
            f"{n} probes after it",
            f"{r['one_seed_seconds_after_gram']:.2f}",
            f"{r['times_sklearn_after_gram']:.0f}",
        ],
        [
            f"{5 * n} probes of five seeds, Gram included",
            f"{r['gram_seconds'] + r['five_seeds_seconds_after_gram']:.2f}",
            f"{r['times_sklearn_five_seeds_with_gram']:.0f}",
        ],
        [f"{n} fits of RidgeClassifier", f"{r['sklearn_seconds_all_fractions']:.1f}", ""],
        [f"{n} fits of himalaya's Ridge", f"{himalaya:.1f}", ""],
    ]
    tests = n * 10_000
    return (
        table(["", "seconds", "times RidgeClassifier"], rows)
        + f"\n\n{r['predictions_that_differ']} of {tests:,} predictions differ from RidgeClassifier's."
    )


def gaps(name: str = "probes-gap") -> str:
    """Each of our tols beside the fastest peer that reaches our gap, case by case."""
    entry = latest(name)
    rows = []
    for case, found in entry["results"].items():
        if not isinstance(found, dict):
            continue
        for point in found["ours"]:
            peer = point["peer"]
            least = "" if peer["reached"] else "> "
            rows.append(
                [
                    case,
                    f"{point['tol']:g}",
                    f"{point['gap']:.0e}",
                    f"{point['seconds']:.2f}",
                    f"{100 * point['accuracy_off']:.2f}",
                    f"{peer['solver']} {peer['tol']:g}",
                    f"{peer['gap']:.0e}",
                    f"{peer['seconds']:.1f}",
                    f"{least}{peer['times']:.1f}",
                ]
            )
    head = ["case", "tol", "our gap", "ours, s", "accuracy off, points", "fastest peer", "its gap", "its s"]
    told = entry["results"]
    return f"{source(entry)} Threads: {told['threads']}, {told['clock']} clock.\n\n" + table(
        [*head, "times"], rows
    )


def on_device() -> str:
    """Time to a gap on a GPU beside the fastest peer that comes as near the minimum."""
    entry, rows = latest("probes-device-cuda"), []
    for case, found in entry["results"].items():
        if not isinstance(found, dict):
            continue
        n, d, c = found["shape"]
        for point in found["ours"]:
            peer = point.get("fastest peer")
            rows.append(
                [
                    f"{case} ({n:,} x {d:,}, {c})",
                    f"{point['tol']:.0e}",
                    f"{point['gap']:.0e}",
                    f"{point['seconds']:.2f}",
                    f"{point['seconds'] * point['times']:.1f}" if peer else "none",
                    peer or "none comes as near",
                    f"{point['times']:.0f}" if peer else "",
                ]
            )
    head = [
        "case (rows x neurons, classes)",
        "tol",
        "gap",
        "ours, s",
        "peer, s",
        "fastest peer of no larger gap",
    ]
    return f"{source(entry)}\n\n" + table([*head, "times"], rows)
