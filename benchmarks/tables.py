"""The numbers of README and docs, written from the latest records.

    python -m benchmarks.tables            rewrite every block
    python -m benchmarks.tables --check    exit 1 and name the files that do not say what the records say

A block is what stands between `<!-- numbers: NAME -->` and `<!-- end of numbers -->` in a Markdown file.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.markdown import latest, source, table
from benchmarks.probes.tables import (
    auto,
    busy,
    gaps,
    honest,
    on_device,
    ridge,
    scaling,
    targets,
    targets_apart,
)
from benchmarks.record import RESULTS
from benchmarks.store.scale_tables import scale, scale_plans, scale_results
from benchmarks.study.tables import (
    study,
    study_beyond,
    study_claims,
    study_columns,
    study_critical,
    study_geometry,
    study_grid,
    study_shots,
)
from benchmarks.sweeps.tables import sweep, sweep_kills, sweep_memory, sweep_streamed

ROOT = Path(__file__).parent.parent
STAGES = ("decode", "copy", "forward", "write")
ON_GPU = {"ten classes": "ten classes", "hundred classes": "a hundred classes"}
CASES = {
    "cifar10": "CIFAR-10",
    "cifar10, 8,000 rows": "CIFAR-10, 8,000 rows, l2 1e-3",
    "flowers102": "Flowers102",
    "pets37": "Pets37",
    "hundred hard": "a hundred classes that overlap, synthetic",
    "hundred separable": "a hundred classes, nearly separable, synthetic",
    "thousand classes": "a thousand classes, synthetic",
    "two classes": "two classes, synthetic",
    "path of 45": "CIFAR-10, 8,000 rows, a path of 45 penalties",
}
BLOCK = re.compile(r"(<!-- numbers: ([a-z-]+) -->\n).*?(<!-- end of numbers -->)", re.DOTALL)


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


def extraction(name: str) -> str:
    entry = latest(name)
    who_ran = [
        who for who in ("bare", "ours", "hand") if all(who in r["seconds"] for r in entry["results"].values())
    ]
    rows = [
        [
            model,
            *(f"{r['images_per_second'][who]:,.0f}" for who in who_ran),
            *(f"{r['ratios'][f'ours/{who}']:.2f}" for who in who_ran if who != "ours"),
        ]
        for model, r in entry["results"].items()
    ]
    names = {"bare": "bare forward", "ours": "probecache", "hand": "hand-written loop"}
    head = ["images/s", *(names[who] for who in who_ran)]
    head += [f"ours / {who}" for who in who_ran if who != "ours"]
    return f"{source(entry)}\n\n" + table(head, rows)


def decoded() -> str:
    entry = latest("extract-decoded-cuda")
    found = next(r for r in entry["results"].values() if isinstance(r, dict))
    rows = [
        [name, f"{r['images_per_second']:,.0f}", *(f"{r['share'][stage]:.0%}" for stage in STAGES)]
        for name, r in found.items()
        if "share" in r
    ]
    rows.append(["hand-written loop, Pillow", f"{found['hand']['images_per_second']:,.0f}", "", "", "", ""])
    head = ["decoder", "images/s", *(f"waited for {stage}" for stage in STAGES)]
    return f"{source(entry)}\n\n" + table(head, rows)


def extraction_loops() -> str:
    entry = latest("extract-loops-cpu")
    names = ("bare", "ours", "ours-torchcodec", "hand", "timm")
    rows = []
    for case, r in entry["results"].items():
        for clock in ("processor", "wall"):
            each, ratio = r["milliseconds_per_image"][clock], r["ratios_to_ours"][clock]
            rows.append(
                [
                    f"{case}, {clock}",
                    *(f"{each[n]:.2f}" for n in names),
                    f"{ratio['hand']:.2f}",
                    f"{ratio['timm']:.2f}",
                ]
            )
    head = [
        "milliseconds per image",
        "bare forward",
        "probecache",
        "with torchcodec",
        "hand-written loop",
        "timm's loader",
    ]
    return f"{source(entry)}\n\n" + table([*head, "hand / ours", "timm / ours"], rows)


def once_measured(name: str, block: Callable[[], str]) -> Callable[[], str]:
    """`block`, or one sentence as long as there is no record of `name`."""

    def text() -> str:
        if list(RESULTS.glob(f"{name}-[0-9]*.json")):
            return block()
        return f"No record `{name}` yet: the benchmark of this name makes it."

    return text


def headline() -> str:
    """The claims of the README, a line each, with the record that each comes from."""
    gap, plain = latest("probes-gap"), latest("probes-gap-no-tiles")
    gpu = latest("probes-device-cuda")
    ridge = latest("ridge")["results"]
    disk, faults = latest("store")["results"], latest("faults")["results"]
    cka, grown = latest("similarity")["results"], latest("extract-memory")["results"]["growth"]
    extracted = latest("extract-cuda")["results"]

    def over(work: str) -> float:
        return disk["ours over numpy"][f"{work} over numpy's {work}"]

    kills = faults["import"]["runs"] + faults["extract"]["runs"]
    same = sum(faults[w]["identical to an uninterrupted run"] for w in ("import", "extract"))
    rates = ", ".join(f"{r['ratios']['ours/bare']:.2f} ({m})" for m, r in extracted.items())
    five = f"{ridge['times with moments, five seeds']:.0f} times"
    lines = [
        f"On one {gpu['machine']['gpu']} ({gpu['date']}), against torch L-BFGS and scikit-learn on torch "
        "arrays on the same GPU: " + "; ".join(_on_gpu(gpu["results"], case) for case in ON_GPU) + ".",
        f"Ridge probes: {ridge['times after moments']:.0f} times as fast as `RidgeClassifier` once the Gram "
        f"matrix is there, {five} for five seeds with the Gram matrix counted.",
        f"CKA: 1,000 values from one Gram matrix, {cka['ratio_after_gram_full_norm_kept']:,.0f} times as "
        "fast as computing each directly.",
        f"Robustness: {same} of {kills} killed runs resumed to identical data; `verify` named "
        f"{faults['flips']['named']} of {faults['flips']['flips']} flipped bits.",
        f"Reading a layer takes {over('full read'):.1f} times as long as `np.load`, with every checksum "
        f"verified; a fifth of its columns takes {over('20% of columns'):.1f} times as long as from a memory "
        f"map. Writing takes {over('write, fsync'):.1f} times as long as `np.save` with fsync.",
        f"Extraction on one {latest('extract-cuda')['machine']['gpu']} reaches {rates} of the rate of a bare "
        f"forward loop over images already on the device; peak memory grows by {grown:.1%} from 10,000 to "
        "60,000 images.",
    ]
    told = (
        "The speed-up of 20 logistic probes on nested subsets of the neurons over the fastest of "
        "scikit-learn's solvers and torch L-BFGS that comes as close to the minimum as "
        f"`--tol 1e-4` does. Threads: {gap['results']['threads']} each. The processors: one with AMX "
        f"({gap['date']}), and one whose only bfloat16 instructions are AVX512-BF16 ({plain['date']})."
    )
    cases = [_ratios(case, [gap, plain]) for case, found in gap["results"].items() if isinstance(found, dict)]
    head = ["task", "rows x neurons, classes", "AMX", "AVX512-BF16"]
    return f"{told}\n\n{table(head, cases)}\n\n" + "\n".join(f"- {line}" for line in lines)


def _on_gpu(results: dict[str, Any], case: str) -> str:
    point = next(point for point in results[case]["ours"] if point["tol"] == 1e-4)
    return f"20 probes of {ON_GPU[case]} take {point['seconds']:.2f} s, {point['times']:.0f} times as fast"


def _ratios(case: str, entries: list[dict[str, Any]]) -> list[str]:
    """One case at tol 1e-4 by several records; at least so much where no peer reached our gap."""
    n, d, c = entries[0]["results"][case]["shape"]
    cells = [CASES.get(case, case), f"{n:,} x {d:,}, {c:,}"]
    for entry in entries:
        found = entry["results"].get(case)
        points = found["ours"] if found else []
        cells += [
            f"{'' if point['peer']['reached'] else 'over '}{point['peer']['times']:.1f}"
            for point in points
            if point["tol"] == 1e-4
        ] or [""]
    return cells


BLOCKS: dict[str, Callable[[], str]] = {
    "headline": headline,
    "probes-gap": once_measured("probes-gap", gaps),
    "probes-gap-no-tiles": lambda: gaps("probes-gap-no-tiles"),
    "probes-honest-no-tiles": lambda: honest("probes-honest-no-tiles"),
    "probes-auto": once_measured("probes-auto", auto),
    "probes-scaling": once_measured("probes-scaling", scaling),
    "ridge": ridge,
    "targets": targets,
    "targets-apart": targets_apart,
    "busy": busy,
    "store": store,
    "similarity": similarity,
    "extract-cpu": lambda: extraction("extract-cpu"),
    "extract-cuda": lambda: extraction("extract-cuda"),
    "extract-decoded-cuda": decoded,
    "probes-device-cuda": on_device,
    "extract-loops-cpu": once_measured("extract-loops-cpu", extraction_loops),
    "sweep": once_measured("sweep", sweep),
    "sweep-kills": once_measured("sweep-kills", sweep_kills),
    "sweep-memory": once_measured("sweep-memory", sweep_memory),
    "sweep-streamed": once_measured("sweep-streamed", sweep_streamed),
    "scale": once_measured("scale", scale),
    "scale-results": once_measured("scale-results", scale_results),
    "scale-plans": scale_plans,
    "study-ridge": lambda: study("study-ridge"),
    "study-logistic": lambda: study("study-logistic"),
    "study-methods": lambda: study_columns("methods_at_20%"),
    "study-layers": lambda: study_columns("dr_of_layers"),
    "study-claims": study_claims,
    "study-critical": study_critical,
    "study-grid": study_grid,
    "study-beyond": study_beyond,
    "study-geometry": study_geometry,
    "study-shots": study_shots,
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
