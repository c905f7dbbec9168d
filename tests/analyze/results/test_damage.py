"""RESULTS on disk: what is damaged, swapped, stale or lost is named by coordinates and computed again."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import probecache as pc
from probecache.analyze.results import grid
from probecache.analyze.results.check import check
from probecache.analyze.results.grid import DIMS, Grid, indices
from probecache.analyze.results.seals import mix, probe_seals, row_seals
from probecache.analyze.results.verify import is_results, verify_results
from probecache.analyze.sweeps.plan import SweepPlan
from probecache.store.errors import DamagedStore, InputError, ProbecacheError
from probecache.store.fingerprint import digest

PLAN = {"layer": "a", "fractions": [0.2, 0.5, 1], "seeds": 2, "l2": [1e-3, 1e-1], "probe": "ridge"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "s"
    rng, y = np.random.default_rng(0), np.arange(90) % 3
    for name, d in (("a", 10), ("b", 6)):
        x = (rng.normal(size=(90, d)) + y[:, None] * 0.4).astype(np.float32)
        for split, rows in (("train", slice(0, 60)), ("test", slice(60, 90))):
            pc.write_arrays(path, split=split, layer=name, activations=x[rows], labels=y[rows])
    return pc.open_store(path)


@pytest.fixture(scope="module")
def made(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "r"
    return path, pc.sweep(store, **PLAN, out=path)


@pytest.fixture
def results(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "r")
    return tmp_path / "r", made[1]


@pytest.fixture
def counted(monkeypatch):
    from probecache.analyze.sweeps import worker

    ran, original = [], worker.run_block

    def run_block(block, job, cache):
        ran.append(block.n_probes)
        return original(block, job, cache)

    monkeypatch.setattr("probecache.analyze.sweeps.execute.run_block", run_block)
    return lambda: sum(ran)


def files_of(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def same(data, wanted):
    timed = [v for v in ("seconds",) if v in data]
    return data.load().drop_vars(timed).equals(wanted.drop_vars(timed))


def alike(data, wanted):
    """Equal in everything, to rounding where another batch of probes was fitted at once."""
    names = ["seconds", "grad_norm", "gap_bound"]
    xr.testing.assert_allclose(
        data.load().drop_vars(names, errors="ignore"), wanted.drop_vars(names, errors="ignore"), rtol=1e-6
    )


def spoil(file, how, path):
    raw = file.read_bytes()
    if how == "flip":
        file.write_bytes(raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 8]) + raw[len(raw) // 2 + 1 :])
    elif how == "cut":
        file.write_bytes(raw[: len(raw) - 3])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "zeros":
        file.write_bytes(bytes(len(raw)))
    elif how == "lost":
        file.unlink()


@pytest.mark.parametrize(
    "how", ["flip", "lost", *(pytest.param(how, marks=pytest.mark.slow) for how in ("cut", "empty", "zeros"))]
)
def test_every_file_of_results_is_named_and_mended(store, results, how):
    """The oracle is the untouched copy: whatever file is spoilt, reading refuses, and the sweep restores."""
    path, wanted = results
    for i, file in enumerate(files_of(path)):
        raw = file.read_bytes()
        spoil(file, how, path)
        name = str(file.relative_to(path))
        assert is_results(str(path)), name
        assert verify_results(str(path)), name
        with pytest.raises(ProbecacheError, match=str(path)):
            pc.open_results(path).load()
        if i % 12 != len(how):  # mending takes a sweep: of some files for each kind of damage
            file.write_bytes(raw)
            continue
        again = quietly(store, path)
        assert same(again, wanted), name
        assert verify_results(str(path)) == [], name
        file.write_bytes(raw)  # `seconds` included


def quietly(store, path, **more):
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is damaged", RuntimeWarning)
        return pc.sweep(store, **(PLAN | more), out=path)


def test_a_lost_chunk_costs_its_own_probes_and_is_told_with_its_coordinates(store, results, counted):
    path, _ = results
    grown = pc.sweep(store, **(PLAN | {"layer": ["a", "b"]}), out=path)
    before = counted()
    (path / "accuracy/c/0/1/0/0/0/0/0").unlink()
    with pytest.raises(DamagedStore, match=r"layer b, .*seed 0 to 1.*run the same sweep"):
        pc.open_results(path)
    with pytest.warns(RuntimeWarning, match="layer b.*exactly those are computed again"):
        again = pc.sweep(store, **(PLAN | {"layer": ["a", "b"]}), out=path)
    assert counted() - before == 12  # of layer b, not the 12 of layer a
    assert same(again, grown)
    np.testing.assert_array_equal(again["seconds"].sel(layer="a"), grown["seconds"].sel(layer="a"))


def test_swapped_chunks_are_seen_whatever_their_checksums_say(store, results):
    path, _ = results
    pc.sweep(store, **(PLAN | {"layer": ["a", "b"]}), out=path)
    names = [v.name for v in check(path).grid.variables]
    for name in (*names, "permutation"):
        one, other = (path / f"{name}/c/0/{i}/0/0/0/0/0" for i in (0, 1))
        if name == "permutation":
            one, other = path / "permutation/c/0/0/0", path / "permutation/c/1/0/0"
        if name == "class_accuracy":
            one, other = one / "0", other / "0"
        a, b = one.read_bytes(), other.read_bytes()
        one.write_bytes(b)
        other.write_bytes(a)
        if a != b:
            assert verify_results(str(path)), name
            with pytest.raises(DamagedStore):
                pc.open_results(path).load()
        one.write_bytes(a)
        other.write_bytes(b)
    # all chunks of two layers at once: each probe is whole, and in the wrong place
    for name in names:
        folders = [path / name / "c" / "0" / i for i in ("0", "1")]
        folders[0].rename(path / "aside")
        folders[1].rename(folders[0])
        (path / "aside").rename(folders[1])
    assert any("not those of their seals" in line for line in verify_results(str(path)))


def test_a_stale_chunk_is_seen(store, results):
    """A restored backup of one variable: whole, in its place, and older than the probes' seals."""
    path, _ = results
    old = {f: f.read_bytes() for f in files_of(path / "objective" / "c")}
    pc.sweep(store, **(PLAN | {"seeds": 3}), out=path)
    for file, raw in old.items():
        file.write_bytes(raw)
    with pytest.raises(DamagedStore, match="the values of 6 probes are not those of their seals"):
        pc.open_results(path)


def test_both_copies_of_the_document_lost_is_one_line_that_says_what_to_do(store, results):
    path, _ = results
    for name in ("zarr.json", "state/group.json"):
        (path / name).write_bytes(b'{"attributes": {"settings": "", "failures": "", "results"')
    for work in (lambda: quietly(store, path), lambda: pc.open_results(path)):
        with pytest.raises(ProbecacheError) as caught:
            work()
        assert "\n" not in str(caught.value)
    assert "run the same sweep again" in verify_results(str(path))[0]


def test_plain_zarr_and_xarray_read_results_and_refuse_flipped_bits(results):
    path, wanted = results
    plain = xr.open_zarr(path)
    np.testing.assert_array_equal(plain["accuracy"], wanted["accuracy"])
    for name in ("accuracy", "permutation", "layer", "fraction", "state", "class"):
        file = files_of(path / name / "c")[0]
        raw = file.read_bytes()
        spoil(file, "flip", path)
        with pytest.raises(Exception, match=r"(?i)checksum|crc"):
            xr.open_zarr(path).load()
        file.write_bytes(raw)


def test_results_of_other_makers_are_refused_in_one_line(store, tmp_path, results):
    path, _ = results
    other = tmp_path / "other.zarr"
    xr.Dataset({"accuracy": ("x", [1.0])}).to_zarr(other, consolidated=False)
    with pytest.raises(InputError, match="which holds no sweep results"):
        pc.open_results(other)
    document = json.loads((path / "zarr.json").read_text())
    del document["attributes"]["results"]
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(
        InputError, match=r"no checksums: a probecache before 0\.2 wrote it, or xarray did; sweep"
    ):
        pc.open_results(path)
    with pytest.raises(InputError, match="does not exist"):
        pc.open_results(tmp_path / "nothing")


def test_a_grown_grid_keeps_every_chunk_that_it_need_not_change(store, results):
    path, _ = results
    inode = (path / "accuracy/c/0/0/0/0/0/0/0").stat().st_ino
    pc.sweep(store, **(PLAN | {"layer": ["a", "b"], "selection": ["random", "first"]}), out=path)
    assert (path / "accuracy/c/0/0/0/0/0/0/0").stat().st_ino == inode  # linked, not copied
    assert verify_results(str(path)) == []
    larger = PLAN | {"fractions": [0.2, 0.3, 0.5, 1], "l2": [1e-3, 1e-2, 1e-1]}
    grown = pc.sweep(store, **larger, out=path)
    assert verify_results(str(path)) == []
    assert (path / "accuracy/c/0/0/0/0/0/0/0").stat().st_ino == inode
    alike(grown, pc.sweep(store, **larger))
    opened = pc.open_results(path)
    assert opened["fraction"].values.tolist() == larger["fractions"]
    assert opened["l2"].values.tolist() == larger["l2"]
    np.testing.assert_array_equal(
        opened["class_accuracy"].sel(layer="a", selection="random").isel(fraction=[3, 1]).squeeze(),
        grown["class_accuracy"].isel(fraction=[3, 1]).squeeze(),
    )
    plain = xr.open_zarr(path).sel({dim: grown[dim] for dim in DIMS})
    np.testing.assert_array_equal(plain["accuracy"], grown["accuracy"])


def test_growth_step_by_step_is_the_same_as_at_once_and_in_few_chunks(store, tmp_path, counted, monkeypatch):
    monkeypatch.setattr(grid, "MOST_SPANS", 3)
    plan = {"layer": "a", "seeds": 1, "l2": 1e-2, "probe": "ridge"}
    fractions, counts = [0.1, 0.3, 0.5, 0.8, 1.0], []
    for fraction in (0.5, 1.0, 0.1, 0.8, 0.3):
        pc.sweep(store, **plan, fractions=[fraction], out=tmp_path / "r")
        counts.append(len([f for f in (tmp_path / "r/accuracy/c").rglob("*") if f.is_file()]))
    assert (counts, counted()) == ([1, 2, 3, 1, 2], 5)
    assert verify_results(str(tmp_path / "r")) == []
    at_once = pc.sweep(store, **plan, fractions=fractions)
    alike(pc.open_results(tmp_path / "r"), at_once)


def test_every_file_of_grown_results_is_named_and_mended(store, results):
    path, _ = results
    larger = PLAN | {"fractions": [0.2, 0.3, 0.5, 1], "l2": [1e-3, 1e-2, 1e-1]}
    wanted = pc.sweep(store, **larger, out=path)
    new = [f for f in files_of(path) if "1" in f.relative_to(path).parts[6:9:2]]
    assert len(new) > 10
    for i, file in enumerate(new):
        raw = file.read_bytes()
        spoil(file, ["flip", "lost", "zeros"][i % 3], path)
        assert verify_results(str(path)), file
        file.write_bytes(raw)
    spoil(new[0], "flip", path)
    spoil(path / "state/c/0/0/0/0/1/0/1", "lost", path)
    assert verify_results(str(path))
    with pytest.warns(RuntimeWarning, match="fraction 0.3, seed 0 to 1, l2 0.01: its file is missing"):
        alike(pc.sweep(store, **larger, out=path), wanted)
    assert verify_results(str(path)) == []


def test_results_of_a_version_that_knew_fewer_settings_go_on(store, tmp_path, monkeypatch, counted):
    now = SweepPlan.settings
    monkeypatch.setattr(
        SweepPlan,
        "settings",
        lambda plan: {n: v for n, v in now(plan).items() if n not in ("groups", "control")},
    )
    pc.sweep(store, **PLAN, out=tmp_path / "r")
    monkeypatch.setattr(SweepPlan, "settings", now)
    before = counted()
    grown = pc.sweep(store, **PLAN | {"seeds": 3}, out=tmp_path / "r")
    assert counted() == before + 6
    assert not check(tmp_path / "r").damages
    alike(grown, pc.sweep(store, **PLAN | {"seeds": 3}))
    with pytest.raises(pc.FingerprintMismatch, match="control"):
        pc.sweep(store, **PLAN, control="shuffled", out=tmp_path / "r")


def test_grids_of_many_seeds_lie_in_several_chunks(store, tmp_path):
    plan = {"layer": "a", "fractions": [0.5], "probe": "ridge", "l2": 1e-2}
    pc.sweep(store, **plan, seeds=range(70), out=tmp_path / "r")
    assert len(files_of(tmp_path / "r/accuracy/c")) == 2
    results = pc.sweep(store, **plan, seeds=range(130), out=tmp_path / "r")
    assert (results["state"] == 1).all()
    once = pc.sweep(store, **plan, seeds=range(130))
    np.testing.assert_array_equal(results["accuracy"], once["accuracy"])
    np.testing.assert_array_equal(results["permutation"], once["permutation"])
    lazy = pc.open_results(tmp_path / "r")
    np.testing.assert_array_equal(
        lazy["permutation"][0, [3, 100, 65], ::2], once["permutation"][0, [3, 100, 65], ::2]
    )
    np.testing.assert_array_equal(
        lazy["class_accuracy"].isel(seed=129), once["class_accuracy"].isel(seed=129)
    )


def test_seals_differ_wherever_a_value_or_a_place_does():
    rng = np.random.default_rng(0)
    place = rng.integers(1, 2**63, 500).astype(np.uint64)
    values: dict[str, np.ndarray] = {
        "x": rng.normal(size=500),
        "n": rng.integers(0, 5, 500).astype(np.int32),
        "b": rng.random(500) < 0.5,
    }
    seals = probe_seals(place, values)
    assert len(set(seals.tolist())) == 500
    for name, bit in (("x", 0), ("x", 63), ("n", 0), ("n", 31)):
        width = values[name].dtype.itemsize
        bits = values[name].view(f"u{width}") ^ np.array(1 << bit, f"u{width}")
        assert (probe_seals(place, values | {name: bits.view(values[name].dtype)}) != seals).all()
    assert (probe_seals(place, values | {"b": ~values["b"]}) != seals).all()
    assert (probe_seals(mix(place), values) != seals).all()
    rows = rng.integers(0, 3, (200, 7)).astype(np.int32)
    swapped = rows[:, [1, 0, 2, 3, 4, 5, 6]]
    differ = rows[:, 0] != rows[:, 1]
    assert ((row_seals(rows) != row_seals(swapped)) == differ).all()


def test_the_union_of_grids_and_positions_in_it():
    one = Grid(("label",), ("a",), ("random",), ("all",), (0.5, 1.0), (0, 1), (1e-2,), (10,), (("x", "y"),))
    two = Grid(
        ("label",), ("b", "a"), ("random",), ("all",), (0.2, 1.0), (5,), (1e-3,), (6, 10), (("x", "y"),)
    )
    both = one.union(two)
    assert (both.layer, both.neurons, both.fraction, both.seed) == (
        ("a", "b"),
        (10, 6),
        (0.5, 1.0, 0.2),  # what is there keeps its place
        (0, 1, 5),
    )
    assert (both.span, one.union(one), both.union(one)) == ((2, 1), one, both)
    assert indices(both, two)[:2] == ([0], [1, 0])
    assert Grid.from_json(json.loads(json.dumps(both.as_json()))) == both
    assert tuple(both.lengths[d] for d in DIMS) == both.shape


def test_several_results_are_one_with_a_model_dimension_and_a_table(store, made, tmp_path):
    path, wanted = made
    pc.sweep(store, **(PLAN | {"layer": "b", "fractions": [0.2, 1]}), out=tmp_path / "other.zarr")
    joined = pc.open_results([path, tmp_path / "other.zarr"])
    assert joined["model"].values.tolist() == ["r", "other"]
    assert joined["accuracy"].dims == ("model", *DIMS)
    np.testing.assert_array_equal(joined["accuracy"].sel(model="r", layer=["a"]), wanted["accuracy"])
    assert joined["accuracy"].sel(model="other", layer="a").isnull().all()
    assert (joined["state"].sel(model="other", layer="a") == 0).all()
    frame = pc.tidy(joined)
    assert len(frame) == 12 + 8
    assert list(frame.columns[:8]) == ["model", *DIMS]
    row = frame[(frame.model == "r") & (frame.fraction == 0.5) & (frame.seed == 1) & (frame.l2 == 0.1)].iloc[
        0
    ]
    cell = {"fraction": 0.5, "seed": 1, "l2": 0.1, "layer": "a"}
    assert row.accuracy == wanted["accuracy"].sel(cell).item()
    assert pc.redundancy(path, 0.9).equals(pc.redundancy(wanted, 0.9))
    assert wanted.attrs["store"] == str(store.path)
    with pytest.raises(InputError, match="twice"):
        pc.open_results([path, path])


def test_a_finished_sweep_starts_no_cluster_and_has_nothing_left(made, store, capsys, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a cluster was started")

    monkeypatch.setattr("probecache.analyze.sweeps.launch.connect", never)
    flags = [
        "--layer",
        "a",
        "--fractions",
        "0.2,0.5,1",
        "--seeds",
        "2",
        "--l2",
        "1e-3,1e-1",
        "--probe",
        "ridge",
    ]
    for more, said in ((["--dry-run"], "nothing is left to compute"), (["--workers", "2"], "results: ")):
        with pytest.raises(SystemExit) as caught:
            pc.main(["sweep", str(store.path), *flags, "--out", str(made[0]), *more])
        assert caught.value.code == 0
        assert said in capsys.readouterr().out


def test_a_plan_refused_for_memory_leaves_nothing(store, tmp_path):
    with pytest.raises(InputError, match=r"needs .* in one process"):
        pc.sweep(store, **PLAN, out=tmp_path / "r", memory_limit=10_000)
    assert list(tmp_path.iterdir()) == []


def test_saved_datasets_are_whole_or_named(tmp_path, store):
    from probecache.analyze.results.saved import save_dataset

    wanted = pc.cka(store, layer="a", split="test", fractions=[0.5, 1], seeds=2)
    path = save_dataset(wanted, tmp_path / "cka.zarr")
    assert pc.open_results(path).load().equals(wanted)
    for file in files_of(path):
        raw = file.read_bytes()
        for how in ("flip", "cut", "lost"):
            spoil(file, how, path)
            assert is_results(str(path))
            assert verify_results(str(path)), (file, how)
            with pytest.raises((DamagedStore, InputError)):
                pc.open_results(path)
            file.write_bytes(raw)
    for how in (
        "zeros",
        "lost",
        "FIFO",
        "link",
    ):  # the group's own document: its copy says that it may be replaced
        spoil(path / "zarr.json", how, path)
        if how == "FIFO":
            (path / "zarr.json").unlink()
            os.mkfifo(path / "zarr.json")
        if how == "link":
            (path / "zarr.json").unlink()
            (path / "zarr.json").symlink_to("/dev/zero")
        assert verify_results(str(path))
        save_dataset(wanted, path)
        assert verify_results(str(path)) == []
    old = json.loads((path / "zarr.json").read_bytes())  # as it was before there was a copy
    next(path.glob("*/sealed.json")).unlink()
    del old["attributes"]["results"]["copy"], old["attributes"]["results"]["checksum"]
    old["attributes"]["results"]["checksum"] = digest(old["attributes"])
    (path / "zarr.json").write_text(json.dumps(old))
    assert (verify_results(str(path)), pc.open_results(path).load().equals(wanted)) == ([], True)
    (path / "cka" / "more").write_text("x")
    with pytest.raises(DamagedStore, match="cka/more: it does not belong here"):
        pc.open_results(path)
    save_dataset(wanted, path)  # in its place
    assert verify_results(str(path)) == []


def test_the_verify_command_reads_results(made, results, capsys):
    path, _ = results
    with pytest.raises(SystemExit) as caught:
        pc.main(["verify", str(path)])
    assert caught.value.code == 0
    spoil(files_of(path / "objective" / "c")[0], "flip", path)
    with pytest.raises(SystemExit) as caught:
        pc.main(["verify", str(path)])
    assert caught.value.code == 1
    said = capsys.readouterr().out
    assert "objective: target label, layer a, selection random" in said
    assert "run the same sweep again" in said


def test_kept_scores_are_those_of_their_seals_until_a_byte_of_them_changes(store, tmp_path):
    path = tmp_path / "r"
    kept = pc.sweep(
        store, layer="a", fractions=[0.5, 1], seeds=2, l2=1e-2, save_predictions="scores", out=path
    )
    assert kept["scores"].load().notnull().all()
    assert (kept["scores"].argmax("class") == kept["predictions"]).all()
    assert check(path).damages == []
    file = next(f for f in files_of(path / "scores") if f.name != "zarr.json")
    spoil(file, "flip", path)
    with pytest.raises(DamagedStore, match="scores"):
        pc.open_results(path)["scores"].load()


def test_what_a_killed_writer_had_not_put_in_place_is_removed_by_the_next(results, store):
    path, wanted = results
    code = "from probecache.store.storage.writer_identity import mark; print(mark())"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for file in (path / "zarr.json", path / "accuracy" / "zarr.json"):
        file.with_name(f"{file.name}.{dead.strip()}.tmp").write_bytes(b"half")
    grown = pc.sweep(store, **{**PLAN, "seeds": 3}, out=path)
    assert not list(path.rglob("*.tmp"))
    assert same(grown.sel(seed=[0, 1]), wanted)


@pytest.mark.parametrize("piece", ["objective/zarr.json", "zarr.json", "state/group.json", "layer/c/0"])
@pytest.mark.parametrize("what", ["FIFO", "folder", "link"])
def test_what_is_no_file_in_results_is_named_and_written_again(store, results, piece, what):
    path, wanted = results
    (path / piece).unlink()
    if what == "FIFO":
        os.mkfifo(path / piece)
    elif what == "folder":
        (path / piece).mkdir()
    else:
        (path / piece).symlink_to("/dev/zero")
    assert is_results(str(path))
    assert verify_results(str(path))
    with pytest.raises(ProbecacheError):
        pc.open_results(path)
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert same(pc.sweep(store, **PLAN, out=path), wanted)
    assert verify_results(str(path)) == []


@pytest.mark.parametrize("what", ["FIFO", "folder", "link"])
def test_what_is_no_file_in_place_of_rows_of_a_probe_that_is_missing(store, results, what):
    """The chunk is read by nobody before the sweep that computes its probes writes it."""
    path, _ = results
    pc.sweep(store, **PLAN, selection=["random", "first"], out=path)
    chunk = path / "class_accuracy/c/0/0/1/0/0/0/0/0"
    for name in ("class_accuracy", "accuracy", "seal", "state"):
        raw = (path / name / "c/0/0/1/0/0/0/0").parent
        assert raw.exists()
    chunk.unlink()
    if what == "FIFO":
        os.mkfifo(chunk)
    elif what == "folder":
        chunk.mkdir()
    else:
        chunk.symlink_to("/dev/zero")
    with pytest.warns(RuntimeWarning, match="is damaged"):
        pc.sweep(store, **PLAN, selection=["random", "first"], out=path)
    assert verify_results(str(path)) == []
