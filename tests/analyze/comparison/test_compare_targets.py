"""Comparisons over several targets and over all pairs, corrected for all of them; groups kept by a sweep."""

import numpy as np
import pytest
import xarray as xr

import probecache as pc
from probecache.__main__ import _run
from probecache.analyze.comparison.intervals import holm

N = 200


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """(store, RESULTS): three layers, targets of other rows, numbers, ten images of a patient."""
    folder = tmp_path_factory.mktemp("targets")
    path, rng = folder / "s.zarr", np.random.default_rng(0)
    centres = rng.normal(size=(3, 8))
    for split in ("train", "test"):
        y = rng.integers(0, 3, N)
        for layer, noise in (("one", 0.5), ("two", 1.0), ("three", 3.0)):
            x = centres[y] + noise * rng.normal(size=(N, 8))
            pc.write_arrays(path, split=split, layer=layer, activations=x, labels=y, class_names=list("abc"))
        bright = (y == 1).astype(int)
        bright[::9] = -1
        patient = np.array([f"patient {i // 10}" for i in range(N)], object)
        targets = {"bright": bright, "patient": patient, "weight": centres[y, :2]}
        pc.write_targets(path, split=split, targets=targets)
    out = folder / "results.zarr"
    how = {"layer": ["one", "two", "three"], "fractions": [0.5, 1], "seeds": 2, "l2": 1e-2, "probe": "ridge"}
    how |= {"save_predictions": True, "groups": "patient", "out": out}
    pc.sweep(path, target=["label", "bright"], **how)
    return path, out, how


def test_each_target_is_compared_on_its_own_samples(swept):
    data = pc.open_results(swept[1])
    found = pc.compare(data.sel(layer=["one"]), data.sel(layer=["three"]))
    assert found["target"].values.tolist() == ["label", "bright"]
    assert found["n_samples"].values.tolist() == [N, N - len(range(0, N, 9))]
    assert found["n_groups"].values.tolist() == [20, 20]
    assert found.attrs["layer"] == "one against three"
    alone = {
        name: pc.compare(data.sel(layer=["one"], target=[name]), data.sel(layer=["three"], target=[name]))
        for name in ("label", "bright")
    }
    for name, one in alone.items():
        for score in ("accuracy_a", "difference", "difference_low", "p", "p_mcnemar", "accuracy_a_low"):
            np.testing.assert_array_equal(found[score].sel(target=[name]), one[score])
    for score in ("p", "p_mcnemar"):
        every = np.stack([one[score].values for one in alone.values()])
        np.testing.assert_allclose(
            found[f"{score}_holm"].values.ravel(), holm(every.ravel()), err_msg="over all comparisons"
        )


def test_all_pairs_of_layers_of_all_targets(swept):
    data = pc.open_results(swept[1])
    found = pc.compare(swept[1], swept[1], pairs="layer")
    assert found["pair"].values.tolist() == ["one - two", "one - three", "two - three"]
    one = pc.compare(data.sel(layer=["two"]), data.sel(layer=["three"]))
    np.testing.assert_array_equal(found["difference"].sel(pair="two - three"), one["difference"])
    np.testing.assert_array_equal(found["n_samples"].sel(pair="two - three"), one["n_samples"])
    np.testing.assert_allclose(found["p_holm"].values.ravel(), holm(found["p"].values.ravel()))
    assert found["p"].size == 3 * 2 * 2
    for wrong in ("seed", "depth"):
        with pytest.raises(pc.InputError, match=f"got pairs '{wrong}'; allowed: target, layer, selection"):
            pc.compare(data, data, pairs=wrong)
    with pytest.raises(pc.InputError, match="got one layer only, 'one'; pairs need two"):
        pc.compare(data.sel(layer=["one"]), data.sel(layer=["one"]), pairs="layer")
    with pytest.raises(pc.InputError, match="got pairs 'layer' for ndarray"):
        pc.compare(np.zeros(3), np.zeros(3), np.zeros(3), pairs="layer")


def test_groups_of_a_sweep_are_those_of_its_comparisons(swept, tmp_path):
    store, out, how = swept
    data = pc.open_results(out)
    assert data.attrs["groups"] == "patient"
    assert data["group"].values[[0, 10]].tolist() == ["patient 0", "patient 1"]
    label = data.sel(target=["label"])
    sides = label.sel(layer=["one"]), label.sel(layer=["three"])
    kept, given = pc.compare(*sides), {str(s): i // 10 for i, s in enumerate(data["sample"].values)}
    plain = [side.drop_vars("group") for side in sides]
    alone = pc.compare(*plain)
    assert (int(kept["n_groups"]), int(alone["n_groups"])) == (20, N)
    for by_hand in (pc.compare(*plain, groups=given), pc.compare(plain[0], sides[1])):
        np.testing.assert_array_equal(kept["p"], by_hand["p"])
        np.testing.assert_array_equal(kept["accuracy_a_low"], by_hand["accuracy_a_low"])
    other = sides[1].assign_coords(group=("sample", np.roll(data["group"].values, 3)))
    with pytest.raises(pc.InputError, match=r"other groups for 60 of 200 samples, first '"):
        pc.compare(sides[0], other)
    probes = [pc.fit_probe(store, layer=layer, probe="ridge", l2=1e-2) for layer in ("one", "three")]
    assert int(pc.compare(*probes, store=store, groups="patient")["n_groups"]) == 20
    with pytest.raises(pc.InputError, match="got groups 'patient' without a store"):
        pc.compare(*plain, groups="patient")
    bare = how | {"out": tmp_path / "r", "target": "label"}
    for wrong, says in (
        ({"groups": "weight"}, "got groups 'weight', a target of numbers"),
        ({"groups": "bright"}, "which 23 of 200 usable rows of split 'test' lack"),
        ({"groups": "patents"}, "close names: patient"),
        ({"save_predictions": None}, "got groups 'patient' without save_predictions"),
        ({"out": out, "groups": None}, "groups: 'patient' there, None now"),
    ):
        with pytest.raises(pc.ProbecacheError, match=says):
            pc.sweep(store, **(bare | wrong))
    assert not (tmp_path / "r").exists()


def test_the_command_over_targets_and_pairs(swept, capsys, tmp_path):
    _, out, _ = swept
    assert _run(["compare", str(out), str(out), "--layer", "one,three"], False) == 0
    shown = capsys.readouterr().out
    assert "177 to 200 test samples in 20 groups" in shown
    held = [next(name for name in ("label", "bright") if name in line) for line in shown.splitlines()[3:]]
    assert held == ["label", "label", "bright", "bright"]
    csv = tmp_path / "c.csv"
    assert _run(["compare", str(out), str(out), "--pairs", "layer", "--out", str(csv)], False) == 0
    assert "two - three" in csv.read_text()
    assert _run(["compare", str(out), str(out)], False) == 0
    assert "given twice, and nothing in which the two sides differ" in capsys.readouterr().err
    assert _run(["verify", str(out)], False) == 0
    lost = ["compare", str(out), str(out), "--pairs", "layer", "--out", str(tmp_path / "no" / "c.csv")]
    assert _run(lost, False) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_path_serves_cka_where_a_store_does(swept):
    store, *_ = swept
    how = {"layer": "one", "split": "test", "fractions": [0.5, 1], "seeds": 2}
    xr.testing.assert_identical(pc.cka(store, **how), pc.cka(pc.open_store(store), **how))


def test_what_is_no_results_is_refused_in_one_line(swept):
    data = pc.open_results(swept[1])
    for function in (pc.tidy, pc.redundancy, lambda r: pc.compare(data, r)):
        with pytest.raises(pc.InputError, match=r"got results of type DataArray|beside something else"):
            function(data["accuracy"])
