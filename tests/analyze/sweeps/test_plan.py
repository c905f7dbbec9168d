"""A plan is checked when it is made, and reads the same from Python, TOML and YAML."""

import inspect
from dataclasses import fields

import numpy as np
import pytest

import probecache as pc
from probecache.analyze.sweeps.plan import SweepPlan, read_config
from probecache.store.errors import InputError


def test_scalars_are_lists_of_one_and_a_count_of_seeds_is_a_range():
    plan = SweepPlan("penultimate", 0.2, seeds=3, l2=1e-3)
    assert plan.layer == ("penultimate",)
    assert plan.fractions == (0.2,)
    assert plan.seeds == (0, 1, 2)
    assert plan.shape == (1, 1, 1, 1, 1, 3, 1)


def test_a_count_of_seeds_may_be_numpys():
    assert SweepPlan("a", [0.5], seeds=np.int64(3)).seeds == (0, 1, 2)


def test_fractions_that_differ_in_the_last_bits_are_one():
    typed = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    assert SweepPlan("a", typed).fractions == SweepPlan("a", np.linspace(0.05, 0.3, 6)).fractions
    assert SweepPlan("a", [1, 0.5, 1.0]).fractions == (0.5, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fractions": [0.5, 0]}, "got fraction 0; allowed: above 0, up to 1"),
        ({"fractions": [1.5]}, "got fraction 1.5"),
        ({"fractions": [float("nan")]}, "got fraction nan"),
        ({"fractions": ["half"]}, "got fraction 'half'"),
        ({"fractions": [True]}, "got fraction True"),
        ({"fractions": []}, "empty list for fraction"),
        ({"seeds": 0}, "got seeds 0"),
        ({"seeds": 10**11}, "a count of 1 or more .at most 100,000., or a list"),
        ({"seeds": [1, -2]}, "got seeds"),
        ({"seeds": 1.5}, "got seeds 1.5"),
        ({"l2": [-1e-4]}, "got l2 -0.0001"),
        ({"l2": float("inf")}, "got l2 inf"),
        ({"probe": "logstic"}, "close names: logistic"),
        ({"solver": "tensorflow"}, "got solver 'tensorflow'"),
        ({"probe": "knn", "solver": "sklearn"}, "got solver 'sklearn' for a knn probe; only torch has it"),
        ({"selection": "randm"}, "close names: random"),
        ({"layer": []}, "got layer"),
        ({"train": ""}, "got train split"),
        ({"l2": 1e300}, r"got l2 1e\+300; allowed: 0 to 1e\+30"),
        ({"standardize": "no"}, "got standardize 'no'; allowed: True or False"),
        ({"train": "a+b+a"}, r"got splits 'a\+b\+a', with 'a' twice"),
        ({"groups": "patient"}, "got groups 'patient' without save_predictions"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_line(change, message):
    with pytest.raises(InputError, match=message) as caught:
        SweepPlan(**({"layer": "a", "fractions": [0.5]} | change))
    assert "\n" not in str(caught.value)


TEXTS = {
    "toml": 'layer = ["a", "b"]\nfractions = [0.1, 1]\nseeds = 2\nl2 = [1e-4, 1e-2]\n',
    "yaml": "layer: [a, b]\nfractions: [0.1, 1]\nseeds: 2\nl2: [0.0001, 0.01]\n",
}


@pytest.mark.parametrize("suffix", sorted(TEXTS))
def test_a_file_holds_the_same_plan(tmp_path, suffix):
    path = tmp_path / f"sweep.{suffix}"
    path.write_text(TEXTS[suffix])
    plan = SweepPlan.from_mapping(read_config(path))
    assert plan == SweepPlan(["a", "b"], [0.1, 1], seeds=2, l2=[1e-4, 1e-2])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "layer = [", "is not TOML"),
        ("a.yaml", "layer: [", "is not YAML"),
        ("a.yaml", "- a\n- b\n", "with list on top"),
        ("a.json", "{}", r"ending in .toml, .yaml or .yml"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_unknown_or_missing_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match="got 'fraction' in the plan; close names: fractions"):
        SweepPlan.from_mapping({"layer": "a", "fraction": [1]})
    with pytest.raises(InputError, match=r"got fraction '0.1,1'; .*a list is written \[0.1, 1\]"):
        SweepPlan.from_mapping({"layer": "a", "fractions": "0.1,1"})
    with pytest.raises(InputError, match="got no fractions"):
        SweepPlan.from_mapping({"layer": "a"})


def test_a_name_of_before_says_what_it_is_called_now():
    with pytest.raises(InputError, match="got 'method' in the plan; it is called 'selection' now"):
        SweepPlan.from_mapping({"layer": "a", "fractions": [1], "method": "random"})


@pytest.mark.parametrize("function", [pc.sweep, pc.critical_mass])
def test_another_name_for_a_needed_argument_is_named_before_the_argument_is_missed(function):
    with pytest.raises(InputError, match=f"got 'layers' in {function.__name__}.*; it is called 'layer' now"):
        function("s.zarr", layers="a", fractions=[1])


@pytest.mark.parametrize("function", [pc.sweep, pc.critical_mass])
def test_the_signature_names_every_field_of_a_plan_and_its_defaults_make_the_same_plan(function):
    shown = inspect.signature(function).parameters
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in shown.values())
    named = {f.name for f in fields(SweepPlan)} - ({"fractions"} if function is pc.critical_mass else set())
    assert named <= set(shown)
    given = {
        n: p.default for n, p in shown.items() if n in named and p.default is not inspect.Parameter.empty
    }
    plain = {"layer": "l", "fractions": 1.0}
    assert SweepPlan.from_mapping(given | plain) == SweepPlan.from_mapping(plain)
