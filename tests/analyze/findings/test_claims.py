"""Sentences against numbers worked out by hand, and the commands that print them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from probecache.analyze.findings.chance_level import at_chance
from probecache.analyze.findings.claims import findings
from probecache.analyze.results.saved import save_dataset
from tests.analyze.synthetic import synthetic_results

ROOT = Path(__file__).parents[3]


def curves(**accuracy):
    """Results whose accuracy is given per selection over the fractions 0.1, 0.2, 0.5, 1, for all seeds."""
    results = synthetic_results(selections=tuple(accuracy), fractions=(0.1, 0.2, 0.5, 1.0), n_classes=2)
    for selection, values in accuracy.items():
        results["accuracy"].loc[{"selection": selection}] = np.array(values).reshape(1, 1, 1, 4, 1, 1)
    return results


def told(results, topic):
    return [f for f in findings(results) if f.topic == topic]


@pytest.mark.parametrize(("at_a_fifth", "agrees"), [(0.77, True), (0.75, False)])
def test_headline_is_within_five_percent_or_not(at_a_fifth, agrees):
    (finding,) = told(curves(random=[0.5, at_a_fifth, 0.8, 0.8]), "headline")
    assert finding.agrees is agrees
    assert finding.text.startswith(
        f"8 of the 40 neurons of penultimate (20%), picked at random, reach {at_a_fifth:.1%}"
    )
    assert f"{at_a_fifth / 0.8:.1%} of the full layer's 80.0%" in finding.text


def test_critical_mass_sentence():
    (finding,) = told(curves(random=[0.5, 0.73, 0.8, 0.8]), "critical mass")
    assert finding.text.startswith("Critical mass at delta 0.9: 8 neurons; DR 0.80")
    (finding,) = told(curves(random=[0.79, 0.79, 0.8, 0.8]), "critical mass")
    assert "the smallest size measured" in finding.text


def test_where_random_meets_pca():
    (finding,) = told(curves(random=[0.5, 0.6, 0.795, 0.8], pca=[0.7, 0.75, 0.8, 0.8]), "pca")
    assert finding.text == (
        "From 50% of the layer on, random neurons are at most a point behind as many principal components; "
        "the widest gap is 20.0 points, at 10%."
    )
    assert finding.agrees
    # A meeting that does not last is none.
    (finding,) = told(curves(random=[0.7, 0.6, 0.7, 0.8], pca=[0.7, 0.75, 0.8, 0.8]), "pca")
    assert finding.text.startswith("Below the full layer, random neurons stay more than a point behind")
    assert finding.agrees is False


def test_least_components_and_first_neurons():
    results = curves(
        random=[0.5, 0.6, 0.7, 0.8], **{"pca-least": [0.1, 0.2, 0.3, 0.8], "first": [0.5, 0.58, 0.75, 0.8]}
    )
    (least,) = told(results, "pca-least")
    assert (
        least.text
        == "At 20% of the layer the least principal components are 40.0 points below random neurons."
    )
    (first,) = told(results, "first")
    assert "differ most at 50% of the layer: +5.0 points" in first.text


def test_projections_and_variance_are_told_beside_random():
    results = curves(
        random=[0.5, 0.6, 0.7, 0.8], randproj=[0.45, 0.59, 0.7, 0.8], variance=[0.5, 0.65, 0.78, 0.8]
    )
    (projected,) = told(results, "randproj")
    assert projected.text == (
        "At 20% of the layer as many random projections are -1.0 points from random neurons; "
        "the widest gap is -5.0 points, at 10%."
    )
    (variance,) = told(results, "variance")
    assert "highest variance are +5.0 points" in variance.text
    assert "the widest gap is +8.0 points, at 50%" in variance.text


def test_probes_that_stopped_early_are_named():
    results = curves(random=[0.5, 0.6, 0.7, 0.8], pca=[0.5, 0.6, 0.7, 0.8])
    assert told(results, "health") == []
    results["converged"].loc[{"selection": "pca", "fraction": [0.1, 0.2], "seed": 0}] = False
    (finding,) = told(results, "health")
    assert finding.text.startswith(
        "2 of 40 probes stopped before they met the solver's tolerance (penultimate, pca: 2, 4 to 8 neurons)"
    )


def test_gaps_are_told_and_what_was_not_asked_for_is_not():
    results = curves(random=[0.5, 0.6, 0.7, 0.8], pca=[0.5, 0.6, 0.7, 0.8])
    results["accuracy"].loc[{"selection": "pca"}] = np.nan
    assert told(results, "health") == []
    results["accuracy"][0, 0, 0, 0, 1, 2, 0] = np.nan
    (finding,) = told(results, "health")
    assert finding.text.startswith("1 of 40 probes have no score")


def test_penultimate_is_the_main_layer_wherever_it_stands():
    results = synthetic_results(layers=("penultimate", "blocks.3"))
    (finding,) = told(results, "headline")
    assert "neurons of penultimate" in finding.text


def numbers(r2):
    """Results of one target that is numbers: the R2 of each fraction."""
    results = curves(random=r2).drop_vars("class_accuracy")
    values = results["accuracy"]
    return results.assign(r2=values, accuracy=values * np.nan).assign_coords(target=["age"])


def test_of_numbers_r2_is_told_and_no_accuracy():
    texts = [f.text for f in findings(numbers([0.5, 0.6, 0.7, 0.8]))]
    assert any("reach an R2 of 0.600 on age" in text and "full layer's 0.800" in text for text in texts)
    assert not any("accuracy" in text or "no score" in text for text in texts)
    (text,) = [f.text for f in findings(numbers([-0.8, -0.7, -0.6, -0.5]))]
    assert "The full penultimate has an R2 of -0.500 on age: no better" in text


def test_classes_of_one_target_of_several_have_their_names():
    results = synthetic_results(n_classes=5)
    results["class_accuracy"][..., 3:] = np.nan  # of another target
    results.attrs["targets"] = json.dumps({"label": {"kind": "classes", "names": ["cat", "dog", "hen"]}})
    (finding,) = told(results, "classes")
    assert any(f"class {name!r} loses most" in finding.text for name in ("cat", "dog", "hen"))


def test_redundancy_command_prints_and_exports(tmp_path):
    results = synthetic_results(l2s=(1e-4, 1e-2))
    results["accuracy"][..., 1] = np.nan  # a sweep that is still on its way
    save_dataset(results, tmp_path / "r.zarr")
    keep = ["--keep", "0.9", "--indices", str(tmp_path / "i.txt")]
    done = run("redundancy", str(tmp_path / "r.zarr"), "--delta", "0.9,0.8,0.9", *keep)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if "penultimate, random" in line]
    assert [(line[0], line[-1]) for line in lines] == [
        (delta, l2) for l2 in ("0.0001", "0.01") for delta in ("0.9", "0.8")
    ]
    assert [line[3:5] == ["not", "measured"] for line in lines] == [False, False, True, True]
    assert "smallest subset that keeps 0.9:" in done.stdout
    kept = np.loadtxt(tmp_path / "i.txt", dtype=int)
    assert f"{len(kept)} of 40 neurons" in done.stdout


def run(*line):
    return subprocess.run(
        [sys.executable, "-m", "probecache", *line], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )


def guessing(results, *layers):
    """The class accuracies of these layers are those of a coin."""
    results["class_accuracy"].loc[{"layer": list(layers)}] = 0.5
    return results


def test_a_layer_that_guesses_has_no_critical_mass_and_bears_no_claim_out():
    results = guessing(curves(random=[0.5, 0.5, 0.5, 0.5], pca=[0.5, 0.5, 0.5, 0.5]), "penultimate")
    told_all = findings(results)
    assert [f.topic for f in told_all] == ["headline"]
    assert told_all[0].text.startswith("The full penultimate has 50.0% accuracy, no better than guessing")
    assert told_all[0].agrees is None


def test_layers_that_guess_are_not_ranked_by_redundancy():
    results = synthetic_results(layers=("blocks.1", "blocks.3", "penultimate"), n_classes=2)
    results["class_accuracy"][:] = 0.9
    results["accuracy"].loc[{"layer": "penultimate", "fraction": results.fraction[:-1]}] = 0.1
    (finding,) = told(results, "layers")
    assert "guessing" not in finding.text
    (finding,) = told(guessing(results, "blocks.1"), "layers")
    assert "blocks.1" not in finding.text.partition(" No better than guessing")[0]
    assert finding.text.endswith("No better than guessing, and left out: blocks.1.")


def test_the_smallest_size_measured_is_told_of_rounded_sizes_too():
    results = curves(random=[0.79, 0.79, 0.8, 0.8])
    results = results.assign_coords(fraction=[0.09, 0.2, 0.5, 1.0])  # 4 of 40 neurons are a tenth
    (finding,) = told(results, "critical mass")
    assert "the smallest size measured, so the true one may be lower" in finding.text


def test_what_one_seed_or_one_size_cannot_tell_is_no_verdict():
    kinds = ("random", "pca", "pca-least")
    one = synthetic_results(selections=kinds, n_seeds=1)
    assert "(one seed)" in told(one, "headline")[0].text
    assert told(one, "classes")[0].agrees is None
    assert told(synthetic_results(n_seeds=2), "classes")[0].agrees is not None
    whole = synthetic_results(selections=kinds, fractions=(1.0,))
    assert [f.topic for f in findings(whole)] == ["headline"]
    coarse = curves(random=[0.1, 0.2, 0.3, 0.8])
    (finding,) = told(coarse.sel(fraction=[1.0, 0.5]), "critical mass")
    assert finding.agrees is False  # half was measured, and is too little
    near = synthetic_results(selections=kinds, fractions=(0.9, 1.0))
    assert told(near, "critical mass")[0].agrees is None
    assert told(near, "pca-least")[0].agrees is None


def test_a_full_layer_without_a_score_is_said():
    results = curves(random=[0.5, 0.6, 0.7, 0.8])
    results["accuracy"].loc[{"fraction": 1.0}] = np.nan
    assert told(results, "headline")[0].text.startswith("The full penultimate has no score")
    assert [f.topic for f in findings(results)] == ["headline", "health"]


@pytest.mark.parametrize("count", [1, 5])
def test_guessing_several_labels_is_a_coin_for_each(count):
    for right, guesses in ((0.93, False), (0.5, True)):
        results = synthetic_results(n_classes=count)
        results["class_accuracy"][:] = results["accuracy"][:] = right
        kinds = {"label": {"kind": "labels", "names": [f"class {c}" for c in range(count)]}}
        results.attrs["targets"] = json.dumps(kinds)
        assert bool(at_chance(results).all()) == bool(at_chance(results.isel(target=0)).all()) == guesses
