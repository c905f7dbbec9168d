"""The tables of docs/sweeps.md: throughput, kills, memory, layers larger than it."""

from benchmarks.markdown import latest, source, table


def sweep() -> str:
    entry = latest("sweep")
    r = entry["results"]
    sizes = list(dict.fromkeys(name.split(", ")[1] for name in r["cases"]))
    workers = list(dict.fromkeys(name.split(", ")[0] for name in r["cases"]))
    called = {"0 workers": "this process, without Dask", "1 workers": "1 worker"}
    rows = [
        [called.get(w, w), *(f"{r['cases'][f'{w}, {size}']['probes_per_second']:.1f}" for size in sizes)]
        for w in workers
    ]
    peer = r["one Dask task per scikit-learn fit"]
    text = (
        f"Probes per second, {r['rows']:,} rows of `{r['layer']}`, 20 fractions x {r['seeds']} seeds, "
        f"logistic, median of {r['runs']} runs. {source(entry)}"
    )
    beside = (
        f"For comparison, {peer['probes']} of these probes as one Dask task per scikit-learn fit (lbfgs, tol "
        f"1e-4) on {peer['workers']} workers: {peer['probes_per_second']:.2f} probes/s, {r['ratio']:.0f} "
        f"times fewer, with accuracies within {r['largest accuracy difference']:.4f}."
    )
    return f"{text}\n\n{table(['', *sizes], rows)}\n\n{beside}"


def sweep_kills() -> str:
    entry = latest("sweep-kills")
    r = entry["results"]
    over, same = r["overhead"], r["largest differences to this process"]
    rows = [
        ["probes, each present once", f"{r['present']:,} of {r['probes']:,}"],
        ["training rows", r["rows"] if isinstance(r["rows"], str) else f"{r['rows']:,}"],
        ["wall time, both kills included", f"{r['wall seconds'] / 60:.1f} min"],
        ["probes per second", f"{r['probes per second']:.1f}"],
        [
            "done before the client was killed; of these computed again",
            f"{r['done before the client was killed']:,}; {r['of these computed again']}",
        ],
        ["share that met the tolerance", f"{r['converged']:.2%}"],
        ["scheduler overhead", f"{over['together']:.2%}"],
        ["... workers idle between blocks", f"{over['workers idle between blocks']:.2%}"],
        [
            "... client and scheduler, share of the cores",
            f"{over['client and scheduler, share of the cores']:.2%}",
        ],
        [
            f"objective, largest difference to this process ({same['probes']:,} probes)",
            f"{same['objective']:.1e}",
        ],
        ["accuracy, likewise", f"{same['accuracy']:.1e}"],
    ]
    return f"{source(entry)}\n\n{table(['', 'measured'], rows)}"


def sweep_streamed() -> str:
    entry = latest("sweep-streamed")
    r = entry["results"]
    rows = [
        [
            name,
            f"{case['gib']:g} GiB",
            f"{case['rows']:,}",
            f"{case['peak_gib']:.2f} GiB",
            f"{case['seconds']:.0f} s",
            case["evaluations"],
            f"{case['microseconds_per_row']:.1f}",
        ]
        for name, case in r["cases"].items()
    ]
    head = ["", "layer on disk", "rows", "peak memory", "time", "evaluations", "microseconds per row"]
    text = (
        f"{r['neurons']} neurons, fractions {r['fractions']}, {r['probe']}, `--memory-limit {r['memory']}`. "
        f"{source(entry)}"
    )
    ratios = [
        f"{ratio['microseconds_per_row']:.2f} times *{name.removeprefix('large over ')}* "
        f"({ratio['microseconds_per_row_and_evaluation']:.2f} per evaluation)"
        for name, ratio in r["ratios"].items()
    ]
    return f"{text}\n\n{table(head, rows)}\n\nThe large layer's time per row is {' and '.join(ratios)}."


def sweep_memory() -> str:
    """Peaks against budgets."""
    entry = latest("sweep-memory")
    r = entry["results"]
    rows = []
    for case in r["cases"]:
        told = [case["layer"], f"{case['budget_gib']:g} GiB", f"{case['projected_gib']:.2f} GiB"]
        if "refused" in case:
            rows.append([*told, "refused", "", ""])
        else:
            where = "on disk" if case["on_disk"] else "in memory"
            rows.append([*told, where, f"{case['peak_gib']:.2f} GiB", f"{case['peak_over_limit']:.0%}"])
    head = ["layer", "`--memory-limit`", "projected", "the layer is", "peak", "of the limit"]
    text = f"Fractions {r['fractions']}, {r['seeds']} seeds, {r['probe']}. {source(entry)}"
    return f"{text}\n\n{table(head, rows)}"
