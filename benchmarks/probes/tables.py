"""The tables of probes: our seconds beside those of the peers."""

from statistics import median

from benchmarks.markdown import latest, source, table


def ridge() -> str:
    """Ridge probes beside RidgeClassifier."""
    entry = latest("ridge")
    r = entry["results"]
    n, d, classes = r["shape"]
    rows = [
        ["moments", f"{r['moments']:.2f}", ""],
        ["20 probes after them", f"{r['one seed']:.3f}", f"{r['times after moments']:.0f}"],
        [
            "100 probes of five seeds, moments included",
            f"{r['moments'] + r['five seeds']:.2f}",
            f"{r['times with moments, five seeds']:.0f}",
        ],
        ["20 fits of RidgeClassifier", f"{r['RidgeClassifier']:.1f}", ""],
    ]
    told = f"{n:,} x {d:,}, {classes} classes, 20 fractions; threads: {r['threads']}, {r['clock']} clock."
    differ = (
        f"{r['predictions that differ']} of {r['predictions']:,} predictions differ from RidgeClassifier's."
    )
    shown = table(["", "seconds", "times as fast as RidgeClassifier"], rows)
    return f"{source(entry)} {told}\n\n{shown}\n\n{differ}"


def targets() -> str:
    """Many targets of one store beside one alone."""
    entry = latest("targets")
    r = entry["results"]
    n, d = r["shape"]
    rows = [
        [
            probe,
            f"{r[probe]['alone']:.2f}",
            f"{r[probe]['each among all']:.3f}",
            f"{r[probe]['share']:.2f}",
            f"{r[probe]['scikit-learn']:.1f}",
            f"{r[probe]['times scikit-learn']:.0f}",
        ]
        for probe in ("ridge", "logistic")
    ]
    told = f"{r['targets']} targets of two classes, {n:,} x {d:,}, 20 fractions each, in seconds per target; "
    told += f"threads: {r['threads']}, {r['clock']} clock."
    head = ["probe", "alone", "each of all", "share", "scikit-learn", "times as fast as scikit-learn"]
    return f"{source(entry)} {told}\n\n{table(head, rows)}"


def targets_apart() -> str:
    """Targets of other rows, of several classes, with a validation split, controls and shots."""
    entry = latest("targets-apart")
    r = entry["results"]
    rows = [
        [name, f"{case['alone']:.2f}", f"{case['each among all']:.2f}", f"{case['share']:.2f}"]
        for name, case in r["cases"].items()
    ]
    n, d = r["shape"]
    narrow, wide = (f"{r['microseconds a column'][columns]:.0f}" for columns in ("200", "400"))
    told = f"{r['targets']} targets, {n:,} x {d:,}, 10 fractions each, in seconds per target; one thread, "
    told += "cpu clock. "
    told += f"One column takes {narrow} us in a product of 200 columns, {wide} us in one of 400."
    return f"{source(entry)} {told}\n\n{table(['sweep', 'alone', 'each of all', 'share'], rows)}"


def honest(name: str = "probes-honest") -> str:
    """Gaps over the tol that was asked for: the largest of ten sizes, the median, the share above 1."""
    entry = latest(name)
    command = entry["command"].partition(" --cases ")[0]  # the rows name them
    rows: list[list[str]] = []
    for case, found in entry["results"].items():
        n, d, classes = found["shape"]
        shape = f"{case} ({n:,} x {d:,}, {classes}, l2 {found['l2']:g})"
        cells = [f"{t['largest']:.1f}, {t['median']:.1f}, {t['above']:.0%}" for t in found["tols"]]
        rows.append([shape, *cells])
    told = next(iter(entry["results"].values()))["tols"]
    head = ["case (rows x neurons, classes, l2)", *(f"{one['tol']:g}" for one in told)]
    return (
        f"{source(entry | {'command': command})} "
        "Each cell: the largest and the median gap, divided by tol; the share above 1.\n\n"
        + table(head, rows)
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


def scaling() -> str:
    """How seconds grow with probes, rows, neurons and classes."""
    entry = latest("probes-scaling")
    r, rows = entry["results"], []
    for axis, points in r["seconds"].items():
        told = "; ".join(f"{int(value):,}: {spent:.2f} s" for value, spent in points)
        rows.append([axis, told])
    told = f"Threads: {r['threads']}, {r['clock']} clock."
    return f"{source(entry)} {told}\n\n" + table(["what grows", "seconds of all probes"], rows)


def auto() -> str:
    """What choosing l2 costs, beside one penalty."""
    entry, rows = latest("probes-auto"), []
    for case, found in entry["results"].items():
        if not isinstance(found, dict):
            continue
        default, *others = sorted(found["one"], key=lambda l2: float(l2) != 1e-4)
        most = others[0] if others else default
        times = found["times"]
        row = [case, f"{found['auto']:.1f}", f"{times[default]:.1f}", f"{times[most]:.1f} ({most})"]
        rows.append([*row, f"{found['differ']}, {found['rows_lost']} of {found['rows']:,}"])
    head = ["case", "l2 auto, s", "times the default, 1e-4", "times the one that most sizes chose"]
    head.append("sizes that fits to tol would change, rows lost at most")
    return f"{source(entry)}\n\n" + table(head, rows)


def busy() -> str:
    """A sweep beside processes that keep a core busy each."""
    entry = latest("busy")
    r = entry["results"]
    rows = [
        [foreign, f"{median(seconds):.1f}", f"{r['times'][foreign]:.2f}" if foreign in r["times"] else ""]
        for foreign, seconds in r["seconds"].items()
    ]
    head = ["busy processes beside it", "seconds, median of five", "times the time without"]
    return f"{source(entry)}\n\n" + table(head, rows)


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
