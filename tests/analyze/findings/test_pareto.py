"""The frontier against the definition as a loop; points against redundancy(); chance against guessing."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from probecache.analyze.findings.chance_level import at_chance, skill
from probecache.analyze.findings.pareto import frontier, pareto
from probecache.analyze.findings.redundancy import redundancy
from tests.analyze.synthetic import synthetic_results


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 1), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_frontier_is_what_nothing_that_counts_beats(points):
    x, y, group, counts = (np.array(c) for c in zip(*points, strict=True))
    want = [
        k and not any(n and g == h and a >= b and p >= q and (a > b or p > q) for a, p, g, n in points)
        for b, q, h, k in points
    ]
    assert frontier(x, y, group, counts).tolist() == want


def guessing(results, rng):
    """The same results with accuracies of a probe that names classes without looking at the features."""
    c = results.sizes["class"]
    blind = rng.dirichlet(np.ones(c), size=results["accuracy"].shape)  # how often each class is named
    return results.assign(class_accuracy=(results["class_accuracy"].dims, blind))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 99))
def test_any_way_of_guessing_has_skill_zero(classes, seed):
    results = guessing(synthetic_results(n_classes=classes), np.random.default_rng(seed))
    np.testing.assert_allclose(skill(results), 0, atol=1e-12)
    assert at_chance(results).all()


@pytest.mark.parametrize(("classes", "limit"), [(2, 0.525), (10, 0.145), (37, 0.0757), (1000, 0.0509)])
def test_chance_is_a_twentieth_of_the_way_from_guessing_to_perfect(classes, limit):
    results = synthetic_results(selections=("random",), fractions=(0.5, 1.0), n_seeds=2, n_classes=classes)
    for accuracy, want in ((limit - 1e-3, True), (limit + 1e-3, False)):
        results["class_accuracy"][:] = accuracy
        assert bool(at_chance(results).all()) is want
    assert float(skill(results.assign(class_accuracy=results["class_accuracy"] * 0 + 1)).max()) == 1


def test_classes_without_a_test_sample_are_no_part_of_guessing():
    results = synthetic_results(selections=("random",), n_classes=4)
    results["class_accuracy"][:] = [0.5, 0.5, np.nan, np.nan]  # two classes tested: half right is guessing
    assert at_chance(results).all()


def test_a_layer_at_chance_is_a_point_but_no_part_of_the_frontier():
    good = {"a": synthetic_results(), "b": synthetic_results(seed=1)}
    control = synthetic_results(seed=2)
    control["accuracy"] = control["accuracy"] * 0 + 0.25
    control["class_accuracy"] = control["class_accuracy"] * 0 + 0.25
    alone, beside = pareto(good), pareto(good | {"control": control})
    assert float(beside.dr[beside.study == "control"].max()) > float(alone.dr.max()) - 1e-9
    np.testing.assert_array_equal(beside.at_chance, beside.study == "control")
    assert not beside.frontier[beside.at_chance].any()
    xr.testing.assert_identical(beside.isel(point=np.flatnonzero(~beside.at_chance)), alone)


def test_the_legend_names_the_lines_of_every_panel_in_one_colour_each(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib comes with the extra `report`")
    from probecache.analyze.plot import save
    from probecache.analyze.report.figures import frontier_figure

    studies = {f"{name} / {task}": synthetic_results() for task in "xy" for name in ("net", "control")}
    studies["control / x"]["class_accuracy"][:] = 0.25  # at chance on one of the tasks only
    points = pareto(studies, task_of={name: name[-1] for name in studies})
    svg = save(frontier_figure(points), tmp_path / "p.svg").read_text()
    for line in ("net / penultimate", "control / penultimate", "control / penultimate (at chance)"):
        assert svg.count(f">{line}<") == 1


def test_results_without_class_accuracies_are_not_judged():
    assert not pareto({"a": synthetic_results().drop_vars("class_accuracy")}).at_chance.any()


def test_points_are_dr_and_the_score_at_the_critical_mass():
    studies = {"one": synthetic_results(layers=("blocks.3", "penultimate")), "two": synthetic_results(seed=1)}
    got = pareto(studies, deltas=(0.8, 0.9), task_of={"one": "cifar10", "two": "pets"})
    assert got.sizes["point"] == 6
    for i in range(6):
        point = got.isel(point=i)
        results = studies[str(point.study.values)].sel(layer=str(point.layer.values))
        found = redundancy(results, float(point.delta)).sel({"selection": "random"}).squeeze()
        assert float(point.dr) == float(found.dr)
        at = results.sel({"selection": "random", "fraction": float(found.critical_fraction)})
        assert float(point.score) == float(at.accuracy.mean())
    assert set(got.task.values) == {"cifar10", "pets"}
    for task in ("cifar10", "pets"):
        assert got.frontier[got.task == task].any()


def test_a_delta_that_is_never_reached_gives_no_point():
    results = synthetic_results(selections=("random",))
    assert pareto({"one": results}, deltas=(1.0,)).sizes["point"] == 1
    results["accuracy"][:] = np.nan
    assert pareto({"one": results}, deltas=(0.9,)).sizes["point"] == 0
