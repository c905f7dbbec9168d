"""The numbers of README and docs, written from the latest records.

    python -m benchmarks.tables            rewrite every block
    python -m benchmarks.tables --check    exit 1 and name the files that do not say what the records say

A block is what stands between `<!-- numbers: NAME -->` and `<!-- end of numbers -->` in a Markdown file.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- numbers: ([a-z-]+) -->\n).*?(<!-- end of numbers -->)", re.DOTALL)


def latest(name: str) -> dict[str, Any]:
    """The newest record of `name`."""
    dated = sorted(RESULTS.glob(f"{name}-[0-9][0-9][0-9][0-9]-*.json"))
    if not dated:
        raise FileNotFoundError(f"no record {name}-*.json in {RESULTS}: run python -m benchmarks.{name}")
    return json.loads(dated[-1].read_text())


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def source(entry: dict[str, Any]) -> str:
    """Where numbers come from: command, date, machine."""
    machine = entry["machine"]
    where = (
        machine["gpu"] or f"{machine['cores']} core{'s' * (machine['cores'] > 1)} of {machine['processor']}"
    )
    return f"`{entry['command']}`, {entry['date']}, {where}."


def store() -> str:
    entry = latest("store")
    results = entry["results"]
    work = ("write, fsync", "write", "full read", "row blocks", "5% of columns", "20% of columns")
    rows = [
        [name, f"{results['megabytes'][name]:.0f}", *(f"{times[w]:.0f}" if w in times else "" for w in work)]
        for name, times in results["milliseconds"].items()
    ]
    n, d = results["shape"]
    text = f"Milliseconds for {n:,} x {d:,} float16, median of {results['runs']} alternating runs. "
    return text + source(entry) + "\n\n" + table(["", "MB", *work], rows)


def similarity() -> str:
    entry = latest("similarity")
    r = entry["results"]
    rows = [
        ["1,000 subset-full values, against three products each", f"{r['ratio_after_gram']:,.0f} times"],
        [
            "same, where the caller keeps the full layer's norm",
            f"{r['ratio_after_gram_full_norm_kept']:,.0f} times",
        ],
        ["same, counting the Gram matrix", f"{r['ratio_with_gram']:,.0f} times"],
        [f"all {r['pairs']:,} pairs of {r['subsets']:,} subsets", f"{r['all_pairs_seconds']:.2f} s"],
        ["largest difference", f"{r['largest_difference']:.1e}"],
    ]
    head = f"Linear CKA, {r['samples']:,} x {r['neurons']:,}. {source(entry)}"
    return head + "\n\n" + table(["", "faster than the direct computation"], rows)


def extract_memory() -> str:
    entry = latest("extract-memory")
    rows = [[f"{int(n):,}", peak["main_mib"]] for n, peak in entry["results"]["peaks"].items()]
    return f"{source(entry)}\n\n" + table(["images", "peak memory, MiB"], rows)


def extraction(name: str) -> str:
    entry = latest(name)
    rows = [
        [
            model,
            *(f"{r['images_per_second'][who]:,.0f}" for who in ("bare", "ours", "hand")),
            f"{r['ratios']['ours/bare']:.2f}",
            f"{r['ratios']['ours/hand']:.2f}",
        ]
        for model, r in entry["results"].items()
    ]
    head = ["images/s", "bare forward", "probecache", "hand-written loop", "ours / bare", "ours / hand"]
    return f"{source(entry)}\n\n" + table(head, rows)


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
    return f"{source(entry)}\n\n" + table(head, rows)


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
        f"The same sweep as one Dask task per scikit-learn fit (lbfgs, tol 1e-4), {peer['workers']} workers, "
        f"{peer['probes']} of its probes: {peer['probes_per_second']:.2f} probes/s, {r['ratio']:.0f} times "
        f"fewer; accuracies within {r['largest accuracy difference']:.4f}."
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


def once_measured(name: str, block: Callable[[], str]) -> Callable[[], str]:
    """`block`, or one sentence as long as there is no record of `name`."""

    def text() -> str:
        if list(RESULTS.glob(f"{name}-[0-9]*.json")):
            return block()
        return f"No record yet: `python -m benchmarks.{name.replace('-', '_')}` makes it."

    return text


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


def headline() -> str:
    """The claims of the README, a line each, with the record that each comes from."""
    cpu, gpu, cuml = latest("probes-cpu"), latest("probes-cuda-quick"), latest("probes-cuml")
    fit, ridge = cpu["results"]["logistic"], cpu["results"]["ridge"]
    disk, faults = latest("store")["results"], latest("faults")["results"]
    cka, grown = latest("similarity")["results"], latest("extract-memory")["results"]["growth"]
    extracted = latest("extract-cuda")["results"]

    def over(work: str) -> float:
        return disk["ours over numpy"][f"{work} over numpy's {work}"]

    kills = faults["import"]["runs"] + faults["extract"]["runs"]
    same = sum(faults[w]["identical to an uninterrupted run"] for w in ("import", "extract"))
    n, d, c = fit["shape"]
    rates = ", ".join(f"{r['ratios']['ours/bare']:.2f} ({m})" for m, r in extracted.items())
    cores = f"{cpu['machine']['cores']} cores"
    peer, exact = fit["peers"]["sklearn lbfgs 1e-4"], fit["peers"]["sklearn lbfgs 1e-8"]
    lines = [
        f"20 logistic probes on {n:,} x {d:,} features, {c} classes, fitted and scored in "
        f"{fit['one_seed_seconds']:.1f} s on {cores}, {peer['times_one_seed']:.0f} times as fast as "
        f"scikit-learn's lbfgs ({peer['times_many_seeds']:.0f} times with five seeds; "
        f"{exact['times_one_seed']:.0f} and {exact['times_many_seeds']:.0f} times where it too goes to tol "
        f"1e-8, {exact['seconds_are']}), objectives within {fit['largest_gap']:.0e} of the best; in "
        f"{gpu['results']['logistic']['one_seed_seconds']:.1f} s on "
        f"one {gpu['machine']['gpu']}, {cuml['results']['cuml_1e-6_over_ours']:.1f} times as fast as cuML "
        "one by one (tol 1e-6).",
        f"Ridge probes: {ridge['times_sklearn_after_gram']:.0f} times `RidgeClassifier` once the moments are "
        f"there, {ridge['times_sklearn_five_seeds_with_gram']:.0f} times with them and five seeds.",
        f"1,000 CKA values from one Gram matrix: {cka['ratio_after_gram_full_norm_kept']:,.0f} times the "
        "direct computation.",
        f"{same} of {kills} killed runs resumed to identical data; {faults['flips']['named']} of "
        f"{faults['flips']['flips']} flipped bits named by `verify`.",
        f"Reading a layer takes {over('full read'):.1f} times `np.load`, every checksum verified; a fifth "
        f"of its columns {over('20% of columns'):.1f} times a memory map. Writing is slower: "
        f"{over('write, fsync'):.1f} times `np.save` with fsync.",
        f"Extraction on one {gpu['machine']['gpu']} reaches {rates} of a bare forward loop over images that "
        f"already lie on the device; peak memory grows by {grown:.1%} from 10,000 to 60,000 images.",
    ]
    return "\n".join(f"- {line}" for line in lines)


BLOCKS: dict[str, Callable[[], str]] = {
    "headline": headline,
    "probes": once_measured("probes-cpu-threads-1", probes),
    "ridge": ridge,
    "store": store,
    "similarity": similarity,
    "extract-memory": extract_memory,
    "extract-cpu": lambda: extraction("extract-cpu"),
    "extract-cuda": lambda: extraction("extract-cuda"),
    "sweep": once_measured("sweep", sweep),
    "sweep-kills": once_measured("sweep-kills", sweep_kills),
    "sweep-streamed": once_measured("sweep-streamed", sweep_streamed),
    "study-cpu": lambda: study("cpu"),
    "study-cuda": lambda: study("cuda"),
    "study-methods": lambda: study_columns("methods_at_20%"),
    "study-layers": lambda: study_columns("dr_of_layers"),
    "study-claims": study_claims,
}


def rewrite(text: str) -> str:
    """`text` with every block written anew."""
    return BLOCK.sub(lambda m: f"{m[1]}{BLOCKS[m[2]]()}\n{m[3]}", text)


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text()
        if (new := rewrite(text)) != text:
            stale.append(page.relative_to(ROOT))
            if not check:
                page.write_text(new)
    print(
        "\n".join(f"{'stale' if check else 'rewritten'}: {page}" for page in stale)
        or "every block is current"
    )
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
