"""The frontier against the definition as a loop; points against redundancy()."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.findings.pareto import frontier, pareto
from analyze.findings.redundancy import redundancy
from tests.analyze.synthetic import synthetic_results


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 1)), min_size=1, max_size=12))
def test_frontier_is_what_nothing_beats(points):
    x, y, group = (np.array(c) for c in zip(*points, strict=True))
    want = [
        not any(g == h and a >= b and p >= q and (a > b or p > q) for a, p, g in points) for b, q, h in points
    ]
    assert frontier(x, y, group).tolist() == want


def test_points_are_dr_and_the_score_at_the_critical_mass():
    studies = {"one": synthetic_results(layers=("blocks.3", "penultimate")), "two": synthetic_results(seed=1)}
    got = pareto(studies, deltas=(0.8, 0.9), task_of={"one": "cifar10", "two": "pets"})
    assert got.sizes["point"] == 6
    for i in range(6):
        point = got.isel(point=i)
        results = studies[str(point.study.values)].sel(layer=str(point.layer.values))
        found = redundancy(results, float(point.delta)).sel({"method": "random"}).squeeze()
        assert float(point.dr) == float(found.dr)
        at = results.sel({"method": "random", "fraction": float(found.critical_fraction)})
        assert float(point.score) == float(at.accuracy.mean())
    assert set(got.task.values) == {"cifar10", "pets"}
    for task in ("cifar10", "pets"):
        assert got.frontier[got.task == task].any()


def test_a_delta_that_is_never_reached_gives_no_point():
    results = synthetic_results(methods=("random",))
    assert pareto({"one": results}, deltas=(1.0,)).sizes["point"] == 1
    results["accuracy"][:] = np.nan
    assert pareto({"one": results}, deltas=(0.9,)).sizes["point"] == 0
