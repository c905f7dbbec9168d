"""Is a layer's probe better than guessing? Where it is not, there is nothing to lose, and DR says nothing.

    skill = (a - 1/c) / (1 - 1/c),    a = mean over the c tested classes of the full layer's class accuracy

0 is guessing, 1 is always right. A probe that names classes without looking has a = 1/c, in whatever
proportions the classes come, which its plain accuracy has not: naming the commonest of two classes at 9 to 1
is 90% right.

Several labels at once are problems of two classes each, so that guessing is 1/2, however many labels there
are; of a rare label always saying no is better than that, which class accuracies cannot tell.
"""

import json

import xarray as xr

from probecache.analyze.findings.score import full_scores, score_of

# A size of effect, not a test of significance: RESULTS do not hold the number of test samples. It is an
# accuracy of 52.5% with 2 classes, 14.5% with 10, 7.6% with 37, 5.1% with 1,000.
LEAST_SKILL = 0.05


def skill(results: xr.Dataset) -> xr.DataArray:
    """Skill of the full layer, mean over seeds, over the other dimensions of the score.

    Classes without a test sample are left out of a and of c. NaN where the full layer was not measured, and
    everywhere in results without class accuracies (CKA, or targets that are real-valued).
    """
    if "class_accuracy" not in results:
        full = full_scores(score_of(results))
        return full.mean("seed") * float("nan")
    full = full_scores(score_of(results, "class_accuracy"))  # (..., class, ..., seed)
    guess = (1 / full.notnull().sum("class").astype(float)).where(~_of_labels(results), 0.5)
    return ((full.mean("class") - guess) / (1 - guess)).mean("seed")


def _of_labels(results: xr.Dataset) -> xr.DataArray:
    """bool: whether the target is of several labels at once, over the targets where there are several."""
    if "target" not in results.coords:
        return xr.DataArray(False)
    kinds = {name: about["kind"] for name, about in json.loads(results.attrs.get("targets", "{}")).items()}
    target = results["target"]
    found = [kinds.get(str(name)) == "labels" for name in target.values.ravel().tolist()]
    return xr.DataArray(found if target.dims else found[0], dims=target.dims, coords=target.coords)


def at_chance(results: xr.Dataset) -> xr.DataArray:
    """bool: skill below LEAST_SKILL. What cannot be judged is not at chance."""
    return skill(results) < LEAST_SKILL
