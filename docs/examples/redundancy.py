"""From a store to the paper's findings in Python: every step returns a labelled xarray object.

    python docs/examples/redundancy.py

Makes a small store (scikit-learn's digits, pixels as features: 1,797 samples, 64 neurons), sweeps random
subsets and principal components with ridge probes, and prints what it finds. Takes about ten seconds on two
cores. Expected: the full layer reaches about 0.94 test accuracy; half of the neurons keep 90% of it.
"""

import sys
import tempfile
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import probecache as pc
from probecache.analyze.findings.claims import findings
from probecache.analyze.findings.classes import class_effects, hardest_hit
from probecache.analyze.findings.transfer import efficient_subset, write_indices
from probecache.analyze.report.write import write_report
from probecache.analyze.similarity.compare import subset_similarity


def main(folder: Path) -> None:
    # A store from arrays; `pc.extract_features` makes one from images and any timm backbone.
    features, labels = load_digits(return_X_y=True)
    parts = train_test_split(features.astype("float32"), labels, stratify=labels, random_state=0)
    for split, x, y in (("train", parts[0], parts[2]), ("test", parts[1], parts[3])):
        store = pc.write_arrays(folder / "digits.zarr", split=split, layer="pixels", activations=x, labels=y)

    fractions = [0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0]
    results = pc.sweep(
        store,
        layer="pixels",
        fractions=fractions,
        selection=["random", "pca"],
        probe="ridge",
        l2=1e-3,
        seeds=5,
    )
    print(results.accuracy.sel(selection="random").mean("seed").squeeze().round(3).to_series())

    # Critical mass and DR for a grid of deltas, with bootstrap intervals over seeds.
    found = pc.redundancy(results, delta=[0.8, 0.9, 0.95]).sel(selection="random").squeeze()
    print(found[["critical_mass", "dr", "dr_low", "dr_high"]].to_dataframe().round(3))

    # Similarity with the full layer, from one Gram matrix.
    cka = pc.cka(store, layer="pixels", split="test", fractions=fractions, seeds=5)
    print(cka.cka.mean("seed").round(3).to_series())
    print(subset_similarity(store, layer="pixels", split="test", fractions=[0.2, 0.5], seeds=2).svcca)

    # Which classes pay, and the smallest subset that is worth keeping.
    effects = class_effects(results).sel(selection="random").squeeze()
    print(hardest_hit(effects, 0.2, 3).loss.round(3).to_series())
    subset = efficient_subset(results, keep=0.95)
    print(write_indices(subset, folder / "neurons.txt").read_text().splitlines()[0])

    for finding in findings(results):
        print("-", finding.text)
    pc.plot.curves(results).figure.savefig(folder / "accuracy.svg")
    print(write_report({"digits": results}, folder / "report", similarities={"digits": cka}))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
