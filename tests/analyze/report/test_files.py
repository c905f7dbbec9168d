"""What a report's files are called, that it is replaced as a whole, and that names stay names."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr

from probecache.analyze.report.names import name_results, task_names, with_slugs
from probecache.analyze.report.page import script_json
from probecache.analyze.report.place import check_folder
from probecache.analyze.report.tables import write_tables
from probecache.analyze.results.lock import replaced
from probecache.store.errors import InputError
from tests.analyze.synthetic import synthetic_results


def results(classes=4, **attrs):
    made = synthetic_results(n_classes=classes, fractions=(0.5, 1.0), n_seeds=2)
    return made.assign_attrs(attrs)


def test_slugs_differ_on_every_file_system_and_are_plain():
    names = ["run a", "run-a", "run a/", "RUN A", "猫", "犬", "..", "a" * 90]
    slugs = [n.slug for n in with_slugs(names, [""] * len(names))]
    assert len({s.lower() for s in slugs}) == len(names)
    assert all(s.isascii() and s.strip(".") and "/" not in s and len(s) < 70 for s in slugs)


def test_names_are_what_results_say_else_their_folders_as_far_as_needed():
    said = [results(backbone="ViT", data_set="pets"), results(backbone="ViT", data_set="cifar")]
    assert [n.name for n in name_results(["a.zarr", "b.zarr"], said)] == ["ViT / pets", "ViT / cifar"]
    assert [n.task for n in name_results(["a.zarr", "b.zarr"], said)] == ["pets", "cifar"]
    same = [results(backbone="ViT", data_set="pets")] * 2
    assert [n.name for n in name_results(["x/a.zarr", "x/b.zarr"], same)] == ["a", "b"]
    assert [n.name for n in name_results(["one/r.zarr", "two/r.zarr"], same)] == ["one/r.zarr", "two/r.zarr"]
    plain = [results(test="t1"), results(test="t1"), results(classes=3, test="t1")]
    assert task_names(plain) == ["t1", "t1", "t1 (2)"]
    (one,) = name_results(["lite0__cifar10.zarr"], [results()])
    assert (one.name, one.task) == ("lite0 / cifar10", "cifar10")


def test_flags_name_results_and_tasks_or_are_refused():
    both = [results(), results()]
    named = name_results(["a", "b"], both, names=["first", "second"], tasks=["t", "t"])
    assert [(n.name, n.task) for n in named] == [("first", "t"), ("second", "t")]
    for given, says in (
        ({"names": ["one"]}, "got 1 name for 2 results"),
        ({"tasks": ["one"]}, "got 1 task for 2 results"),
        ({"names": ["x", "x"]}, "got name x twice"),
    ):
        with pytest.raises(InputError, match=says):
            name_results(["a", "b"], both, **given)


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    check_folder(tmp_path / "new")
    check_folder(tmp_path)
    (tmp_path / "index.html").write_text("old")
    check_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files than a report's \(notes.txt\)"):
        check_folder(tmp_path)
    with pytest.raises(InputError, match=r"report.html; name a folder for the report"):
        check_folder(tmp_path / "report.html")


def test_a_failure_leaves_the_old_report_and_nothing_beside_it(tmp_path):
    out = tmp_path / "report"
    with replaced(out, check_folder) as folder:
        (folder / "index.html").write_text("one")
    with pytest.raises(RuntimeError):
        fail_within(out)
    assert (out / "index.html").read_text() == "one"
    with replaced(out, check_folder) as folder:
        (folder / "index.html").write_text("three")
    assert (out / "index.html").read_text() == "three"
    assert [p.name for p in tmp_path.iterdir()] == ["report"]
    (tmp_path / "link").symlink_to(out)
    with replaced(tmp_path / "link", check_folder) as folder:
        (folder / "index.html").write_text("four")
    assert (out / "index.html").read_text() == "four"
    assert (tmp_path / "link").is_symlink()


def fail_within(out):
    with replaced(out, check_folder) as folder:
        (folder / "index.html").write_text("two")
        raise RuntimeError


def test_a_kill_while_it_is_replaced_leaves_one_whole_report(tmp_path):
    code = """
import sys
from pathlib import Path
from probecache.analyze.results.lock import replaced
for i in range(100000):
    with replaced(sys.argv[1], lambda place: None) as folder:
        for name in ("index.html", "a.csv", "b.csv"):
            (folder / name).write_text(str(i))
"""
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "report")])
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "report" / "index.html").exists() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.3)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    texts = {p.read_text() for p in (tmp_path / "report").iterdir()}
    assert len(texts) == 1
    assert int(texts.pop()) > 0
    with replaced(tmp_path / "report", lambda place: None) as folder:
        (folder / "index.html").write_text("the next")
    assert [p.name for p in tmp_path.iterdir()] == ["report"]  # what the killed one left is gone


def test_two_reports_do_not_write_into_one_folder_at_once(tmp_path):
    with replaced(tmp_path / "report", lambda place: None) as folder:
        (folder / "index.html").write_text("first")
        with (
            pytest.raises(InputError, match="is being written by process"),
            replaced(tmp_path / "report", lambda place: None),
        ):
            pass
    assert (tmp_path / "report" / "index.html").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


HOSTILE = ['=cmd|"/C calc",\n"x"', "@sum(1)", "+1+2", "-2", "plain, name"]


def test_tables_hold_names_that_run_nothing_and_break_no_row(tmp_path):
    from probecache.analyze.findings.pareto import pareto
    from probecache.analyze.report.data import Study

    made = synthetic_results(n_classes=5, fractions=(0.5, 1.0), n_seeds=2).assign_coords({"class": HOSTILE})
    study = Study("=1+1", "t", "slug", made)
    for path in write_tables(tmp_path, [study], pareto({"=1+1": made})):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len({len(row) for row in rows}) == 1
        texts = [cell for row in rows for cell in row if not is_number(cell)]
        assert not [cell for cell in texts if cell[:1] in ("=", "+", "-", "@")]
    assert "'=1+1" in (tmp_path / "pareto.csv").read_text()


def is_number(text):
    try:
        float(text)
    except ValueError:
        return not text
    return True


def test_no_name_ends_the_script_that_holds_it():
    import json

    names = ["</script><img onerror=x>", "<!--<script>", "a\u2028b", "&lt;"]
    text = script_json({"names": names, "value": np.float64(1).item()})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text)["names"] == names


def test_several_targets_are_tasks_of_their_own():
    from probecache.analyze.findings.pareto import pareto

    parts = [synthetic_results(seed=i).assign_coords(target=[name]) for i, name in enumerate(("hair", "hat"))]
    points = pareto({"one": xr.concat(parts, "target", data_vars="minimal")}, task_of={"one": "faces"})
    assert set(points.task.values) == {"faces: hair", "faces: hat"}


def test_differences_are_paired_within_a_task_and_corrected_for_all_of_them():
    from probecache.analyze.report.data import Study
    from probecache.analyze.report.differences import differences_table, paired_differences

    rng, samples = np.random.default_rng(0), [f"s{i}" for i in range(200)]
    truth = rng.integers(0, 4, 200)

    def study(name, task, share):
        made = synthetic_results(selections=("random",), fractions=(1.0,), n_seeds=1)
        predicted = np.where(rng.uniform(size=200) < share, truth, (truth + 1) % 4)
        dims = (*made.accuracy.dims, "sample")
        made = made.assign(
            predictions=(dims, predicted.reshape(*made.accuracy.shape, 200)), truth=("sample", truth)
        )
        return Study(name, task, name, made.assign_coords(sample=samples)), (predicted == truth).mean()

    (a, right_a), (b, right_b), (c, _) = study("<a>", "t", 0.9), study("b", "t", 0.6), study("c", "u", 0.5)
    plain = Study("d", "t", "d", synthetic_results())
    (row,) = paired_differences([a, b, c, plain])
    assert (row["a"], row["b"], row["samples"]) == ("<a>", "b", 200)
    assert row["difference"] == pytest.approx(right_a - right_b)
    assert 0 < row["difference_low"] < row["difference"] < row["difference_high"]
    assert row["p_holm"] == row["p"] < 0.01
    assert "&lt;a&gt;" in differences_table([row])
    assert differences_table([]) == ""
