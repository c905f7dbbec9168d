"""One writer per shard, resume, growth, refusals: what a writer promises."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import probecache as pc
from probecache.store import claims
from probecache.store.claims import BEAT, LEASE, Claims
from probecache.store.fingerprint import Fingerprint
from probecache.store.format import metadata
from probecache.store.format.chunks import commit_token
from probecache.store.layout import FAILED, OK, LayerSpec, SplitSpec
from probecache.store.storage import local, writer_identity
from probecache.store.storage.files import open_files
from probecache.store.storage.local import LocalFiles
from probecache.store.verification.repair import repair
from probecache.store.verification.verify import verify
from probecache.store.writer import open_split_writer, open_writer

ROOT = Path(__file__).parents[2]
N, D = 100, 6


def values(seed=0, n=N, d=D):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def made_by(model="m", amp="float32", dataset="d"):
    return Fingerprint({"model": model}, {"amp": amp}, {"dataset": dataset})


def opened(path, *, layers=("a",), n=N, dtype="float32", attrs=None, fingerprint=None, **options):
    how = {name: options.pop(name) for name in ("shard_rows", "compression") if name in options}
    specs = [LayerSpec(name, D, dtype, attrs or {}) for name in layers]
    spec = SplitSpec("s", n, specs, ["x", "y"], fingerprint or made_by(), **{"shard_rows": 16, **how})
    return open_split_writer(path, spec, **options)


def write(writer, shard, source, status=None):
    at = slice(shard.start, shard.stop)
    names = [f"img{i}" for i in range(shard.start, shard.stop)]
    labels = np.arange(shard.start, shard.stop) % 2
    writer.write(shard, {name: source[name][at] for name in shard.layers}, labels, names, status)


def fill(path, source, **options):
    with opened(path, layers=tuple(source), n=len(next(iter(source.values()))), **options) as writer:
        for shard in writer.pending():
            write(writer, shard, source)
        return writer.finish({"seconds": 1.5})


def test_a_writer_goes_on_where_another_stopped(tmp_path):
    source = {"a": values(1), "b": values(2)}
    with opened(tmp_path / "s", layers=("a", "b")) as writer:
        shards = list(writer.pending())
        assert [(s.start, s.stop) for s in shards][-1] == (96, 100)
        for shard in shards[:3]:
            write(writer, shard, source)
    with pytest.raises(pc.UnfinishedSplit, match=r"layer 'a' of split 's' .* rows 48:64 \(shard 3\)"):
        pc.open_store(tmp_path / "s").matrix("s", "a")
    partial = pc.open_store(tmp_path / "s", partial=True)
    np.testing.assert_array_equal(partial.matrix("s", "a")[:48], source["a"][:48])
    assert np.isnan(partial.matrix("s", "a")[48:]).all()
    assert partial.status("s").tolist() == [OK] * 48 + [0] * 52
    np.testing.assert_array_equal(
        pc.open_store(tmp_path / "s").matrix("s", "b", rows=(5, 40)), source["b"][5:40]
    )
    with opened(tmp_path / "s", layers=("a", "b")) as writer:
        assert [s.index for s in writer.pending()] == [3, 4, 5, 6]
        for shard in writer.pending():
            write(writer, shard, source)
        store = writer.finish({"seconds": 2.0})
    np.testing.assert_array_equal(store.matrix("s", "b"), source["b"])
    assert store.report("s", "b") == {
        "nonfinite": 0,
        "saturated": 0,
        "underflow": 0,
        "summary": {"seconds": 2.0},
    }
    assert store.samples("s").tolist() == [f"img{i}" for i in range(N)]
    with opened(tmp_path / "s", layers=("a", "b")) as writer:
        assert list(writer.pending()) == []
    with pytest.raises(pc.InputError, match="already holds shards of a, b"):
        opened(tmp_path / "s", layers=("a", "b"), resume=False)


def test_a_second_layer_is_the_only_thing_written(tmp_path):
    fill(tmp_path / "s", {"a": values(1)})
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s/s").rglob("c/*") if p.is_file()}
    with opened(tmp_path / "s", layers=("a", "b")) as writer:
        assert {s.layers for s in writer.pending()} == {("b",)}
        for shard in writer.pending():
            write(writer, shard, {"b": values(2)})
        store = writer.finish()
    np.testing.assert_array_equal(store.matrix("s", "b"), values(2))
    moments = {
        p for p in before if p.parent.parent.name in ("mean", "variance", "minimum", "maximum", "zeros")
    }
    assert all(p.stat().st_mtime_ns == t for p, t in before.items() if p not in moments)


@pytest.mark.parametrize("rows", [(8, 32), (0, 40), (16, 101), (32, 32), (-16, 16)])
def test_unaligned_or_impossible_rows_are_refused(tmp_path, rows):
    with pytest.raises(pc.InputError, match=f"rows {rows[0]}:{rows[1]} "):
        opened(tmp_path / "s", rows=rows)


def test_disjoint_writers_fill_one_split(tmp_path):
    source = {"a": values(3)}
    first, second = opened(tmp_path / "s", rows=(0, 48)), opened(tmp_path / "s", rows=(48, 100))
    for shard in first.pending():
        write(first, shard, source)
    assert first.finish().partial
    for shard in second.pending():
        write(second, shard, source)
    store = second.finish()
    np.testing.assert_array_equal(store.matrix("s", "a"), source["a"])
    assert list(verify(tmp_path / "s")) == []


def test_a_second_writer_on_a_shard_is_refused_and_harms_nothing(tmp_path):
    with opened(tmp_path / "s", rows=(16, 48)) as writer:
        with pytest.raises(pc.InputError, match=r"shard 1 of split 's' .* is being written by process \d+"):
            opened(tmp_path / "s")
        for shard in writer.pending():
            write(writer, shard, {"a": values()})
    with opened(tmp_path / "s") as writer:
        assert [s.index for s in writer.pending()] == [0, 3, 4, 5, 6]
        with pytest.raises(pc.InputError, match="is not this writer's"):
            write(writer, writer.split.geometry.shard(1), {"a": values()})


def test_the_claim_of_a_dead_writer_is_taken_over(tmp_path):
    with opened(tmp_path / "s"):
        pass
    code = (
        "import os, sys; from probecache.store.claims import Claims\n"
        "from probecache.store.storage.files import open_files;"
        "Claims(open_files(sys.argv[1]), 's').take([0, 1]); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert (tmp_path / "s/s/commit/claim-0").exists()
    with opened(tmp_path / "s") as writer:
        assert len(list(writer.pending())) == 7
    assert sorted(p.name for p in (tmp_path / "s/s/commit").iterdir()) == ["zarr.json"]


def test_the_lease_is_renewed_by_the_work_at_most_once_a_minute(tmp_path, monkeypatch):
    with opened(tmp_path / "s") as writer:
        [lease] = (tmp_path / "s").glob("*/commit/lease-*")
        first = lease.stat().st_ino
        writer.renew()
        assert lease.stat().st_ino == first
        monkeypatch.setattr(writer.claims, "_beaten", -BEAT)
        writer.renew()
        assert lease.stat().st_ino != first


def test_a_claim_from_another_machine_lapses_with_its_lease(tmp_path, monkeypatch):
    files = open_files(tmp_path / "s")
    with opened(tmp_path / "s"):
        pass
    foreign = Claims(files, "s")
    foreign.mark = "0123456789ab-7-99-01234567"
    foreign.take([2])
    with pytest.raises(pc.InputError, match=r"written by process 7 .*last sign \d+ s ago; .* after 600 s"):
        opened(tmp_path / "s")
    monkeypatch.setattr(type(files), "age", lambda self, key: LEASE + 1)
    with opened(tmp_path / "s") as writer:
        assert len(list(writer.pending())) == 7


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"fingerprint": made_by(model="n")}, 'model: stored "m", asked "n"'),
        ({"fingerprint": made_by(amp=None)}, 'amp: stored "float32", asked null'),
        ({"fingerprint": made_by(dataset="e")}, 'dataset: stored "d", asked "e"'),
        ({"dtype": "float16"}, 'dtype: stored "float32", asked "float16"'),
        ({"attrs": {"pool": "max"}}, 'pool: stored nothing, asked "max"'),
        ({"compression": "zstd"}, 'compression: stored null, asked "zstd"'),
    ],
)
def test_what_was_made_differently_is_refused_with_the_difference(tmp_path, changed, says):
    fill(tmp_path / "s", {"a": values()})
    with pytest.raises(pc.FingerprintMismatch) as error:
        opened(tmp_path / "s", **changed)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_shrinking_and_another_shard_size_are_refused(tmp_path):
    fill(tmp_path / "s", {"a": values()})
    with pytest.raises(pc.InputError, match="holds 100 samples, 99 were asked for"):
        opened(tmp_path / "s", n=99)
    with pytest.raises(pc.InputError, match="shards of 16 rows, not 32"):
        opened(tmp_path / "s", shard_rows=32)


def test_growth_opens_only_the_last_shard_again(tmp_path):
    source = {"a": values(4, 130), "b": values(5, 130)}
    fill(tmp_path / "s", {k: v[:100] for k, v in source.items()})
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("s/*/activations/c/*/0")}
    with opened(tmp_path / "s", layers=("a", "b"), n=130) as writer:
        assert [s.index for s in writer.pending()] == [6, 7, 8]
        for shard in writer.pending():
            write(writer, shard, source)
            # until all rows are there, the store is what it was
            store = pc.open_store(tmp_path / "s")
            np.testing.assert_array_equal(store.matrix("s", "b"), source["b"][:100])
            assert len(store.labels("s")) == 100
        store = writer.finish()
    for layer in "ab":
        np.testing.assert_array_equal(store.matrix("s", layer), source[layer])
        np.testing.assert_allclose(store.moments("s", layer)["mean"], source[layer].mean(0), atol=1e-6)
    assert [p.parent.name for p, t in before.items() if p.stat().st_mtime_ns != t] == ["6", "6"]
    assert list(verify(tmp_path / "s")) == []


def test_growth_of_one_layer_among_several_is_refused_and_changes_nothing(tmp_path):
    source = {"a": values(4, 130), "b": values(5, 130)}
    fill(tmp_path / "s", {k: v[:100] for k, v in source.items()})
    before = snapshot(tmp_path / "s")
    with pytest.raises(pc.InputError, match=r"holds 100 samples of layer b too.*all of its layers at once"):
        opened(tmp_path / "s", layers=("a",), n=130)
    assert snapshot(tmp_path / "s") == before


def snapshot(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("layout", [1, 2])
@pytest.mark.parametrize("smaller", [20, 22])
def test_a_shard_of_an_abandoned_growth_is_none_of_another_growth(tmp_path, monkeypatch, layout, smaller):
    """Killed while it grows from 3 to 40, grown to fewer rows then: 16 committed rows vouch for no 4 or 6."""
    monkeypatch.setattr(metadata, "FORMAT", layout)
    path, source = tmp_path / "s", {"a": values(4, 40)}
    fill(path, {"a": source["a"][:3]})
    with opened(path, n=40) as writer:  # shards of 16: the second is committed, the first is not
        write(writer, list(writer.pending())[1], source)
    with opened(path, n=smaller) as writer:
        pending = list(writer.pending())
        assert [(s.start, s.stop) for s in pending] == [(0, 16), (16, smaller)]
        write(writer, pending[0], source)
        store = writer.finish()  # grown, and the second shard is still of the other growth
    assert {(d.kind, d.shard) for d in verify(path)} == {("unwritten", 1)}
    assert repair(path) == []
    with pytest.raises(pc.UnfinishedSplit, match=f"rows 16:{smaller}"):
        pc.open_store(path).matrix("s", "a")
    assert np.isnan(store.matrix("s", "a")[16:]).all()
    assert store.status("s").tolist() == [OK] * 16 + [0] * (smaller - 16)
    store = fill(path, {"a": source["a"][:smaller]})
    np.testing.assert_array_equal(store.matrix("s", "a"), source["a"][:smaller])
    found = store.moments("s", "a")
    np.testing.assert_allclose(found["mean"], source["a"][:smaller].mean(0), atol=1e-6)
    np.testing.assert_array_equal(found["maximum"], source["a"][:smaller].max(0))
    assert list(verify(path)) == []
    fill(path, source)
    assert list(verify(path)) == []


def test_a_shard_of_an_abandoned_growth_is_overwritten_where_the_next_one_writes_all(tmp_path):
    path, source = tmp_path / "s", {"a": values(4, 40)}
    fill(path, {"a": source["a"][:3]})
    with opened(path, n=40) as writer:
        write(writer, list(writer.pending())[1], source)
    store = fill(path, {"a": source["a"][:20]})
    np.testing.assert_allclose(store.moments("s", "a")["mean"], source["a"][:20].mean(0), atol=1e-6)
    assert list(verify(path)) == []


@pytest.mark.parametrize("shard", [6, 7, 8])
def test_refused_growth_leaves_the_old_rows_as_they_were(tmp_path, shard):
    """Whichever shard of the new rows float16 cannot hold: also the one that is opened again."""
    grown = values(1, 130)
    fill(tmp_path / "s", {"a": grown[:100]}, dtype="float16")
    before = snapshot(tmp_path / "s")
    bad = grown.copy()
    bad[16 * shard + 1] = 1e6
    with pytest.raises(pc.ProbecacheError, match="float16"):
        fill(tmp_path / "s", {"a": bad}, dtype="float16")
    after = snapshot(tmp_path / "s")
    assert {k: after[k] for k in before} == before
    store = fill(tmp_path / "s", {"a": grown[:100]}, dtype="float16")
    np.testing.assert_array_equal(store.matrix("s", "a"), grown[:100].astype(np.float16))
    assert list(verify(tmp_path / "s")) == []
    store = fill(tmp_path / "s", {"a": grown}, dtype="float16")
    np.testing.assert_array_equal(store.matrix("s", "a"), grown.astype(np.float16))
    assert list(verify(tmp_path / "s")) == []


def as_another_machine(monkeypatch):
    """This process's claims as they look from elsewhere, and long after its last sign of life."""
    monkeypatch.setattr(claims, "alive", lambda mark: None)
    monkeypatch.setattr(LocalFiles, "age", lambda self, key: LEASE + 1)


@pytest.mark.parametrize("written", [0, 1])
def test_a_writer_that_slept_through_its_lease_is_refused_and_takes_nothing(tmp_path, monkeypatch, written):
    source = {"a": values(1, 130)}
    asleep = opened(tmp_path / "s", n=100)
    shards = list(asleep.pending())
    for shard in shards[:written]:
        write(asleep, shard, source)
    with monkeypatch.context() as patch:
        as_another_machine(patch)
        fill(tmp_path / "s", source)
    before = snapshot(tmp_path / "s")
    for shard in (shards[-1], shards[2]):
        with pytest.raises(pc.ProbecacheError, match=rf"shard {shard.index} of split 's' .*took over"):
            write(asleep, shard, source)
    assert asleep.finish().shape("s", "a") == (130, D)
    np.testing.assert_array_equal(pc.open_store(tmp_path / "s").matrix("s", "a"), source["a"])
    assert list(verify(tmp_path / "s")) == []
    after = snapshot(tmp_path / "s")
    assert {k: v for k, v in after.items() if k.name != "zarr.json"} == {
        k: v for k, v in before.items() if k.name != "zarr.json"
    }


def test_a_writer_that_sleeps_in_the_midst_of_a_write_is_refused_at_its_last_moment(tmp_path, monkeypatch):
    """Taken over between the synced contents and their names: the other's rows stay."""
    source = {"a": values(1, 100)}
    asleep = opened(tmp_path / "s", n=90)
    last = list(asleep.pending())[-1]
    sync = local._sync

    def taken_over(descriptors):
        sync(descriptors)
        monkeypatch.setattr(local, "_sync", sync)
        with monkeypatch.context() as patch:
            as_another_machine(patch)
            fill(tmp_path / "s", source)

    monkeypatch.setattr(local, "_sync", taken_over)
    with pytest.raises(pc.ProbecacheError, match="took over"):
        write(asleep, last, source)
    np.testing.assert_array_equal(pc.open_store(tmp_path / "s").matrix("s", "a"), source["a"])
    assert list(verify(tmp_path / "s")) == []


def test_commits_carry_the_token_of_the_claim_that_was_taken_over(tmp_path, monkeypatch):
    source = {"a": values(1)}
    asleep = opened(tmp_path / "s")
    write(asleep, next(asleep.pending()), source)
    as_another_machine(monkeypatch)
    fill(tmp_path / "s", source)
    tokens = [commit_token((tmp_path / f"s/s/a/commit/c/{i}/0").read_bytes()) for i in range(7)]
    assert tokens == [0, 1, 1, 1, 1, 1, 1]
    assert list(verify(tmp_path / "s")) == []


def test_setting_the_wall_clock_kills_no_writer(tmp_path, monkeypatch):
    """A process is told from another by when it began in ticks since boot, which no clock moves."""
    own = writer_identity.mark()
    monkeypatch.setattr(writer_identity.psutil, "boot_time", lambda: 1.0)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert writer_identity.alive(own)
    with opened(tmp_path / "s"), pytest.raises(pc.InputError, match="is being written"):
        opened(tmp_path / "s")


def test_what_another_machine_has_not_put_in_place_is_old_by_the_file_systems_clock(tmp_path, monkeypatch):
    fill(tmp_path / "s", {"a": values()})
    name = "zarr.json.0123456789ab-7-99-01234567.tmp"
    young, old, own = (tmp_path / "s" / place for place in (name, f"s/{name}", "s/notes.tmp"))
    for file in (young, old, own):
        file.write_bytes(b"half")
    for file in (old, own):
        os.utime(file, (time.time() - 90000,) * 2)
    real = time.time
    monkeypatch.setattr("time.time", lambda: real() + 10 * 86400)  # this machine's clock is ten days ahead
    fill(tmp_path / "s", {"a": values()})
    assert young.exists()
    assert not old.exists()
    assert own.read_bytes() == b"half"  # no writer of ours calls its files so


def test_repair_removes_what_a_killed_one_had_not_put_in_place(tmp_path):
    fill(tmp_path / "s", {"a": values()})
    code = "from probecache.store.storage.writer_identity import mark; print(mark())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    litter = tmp_path / "s" / f"zarr.json.{done.stdout.strip()}.tmp"
    litter.write_bytes(b"half")
    repair(tmp_path / "s")
    assert not litter.exists()


def test_a_process_that_only_waits_to_be_buried_is_dead():
    code = "from probecache.store.storage.writer_identity import mark; print(mark(), flush=True)"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    its = child.stdout.readline().strip()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, still a zombie
    assert writer_identity.alive(its) is False
    child.communicate()
    assert writer_identity.alive(its) is False


@pytest.mark.parametrize("odd", ["zeros", "empty", "300 letters", "a folder", "a FIFO", "binary", "huge"])
def test_what_is_no_claim_in_a_claims_place_stops_nobody(tmp_path, odd):
    with opened(tmp_path / "s"):
        pass
    claim = tmp_path / "s/s/commit/claim-1"
    if odd == "a folder":
        claim.mkdir()
    elif odd == "a FIFO":
        os.mkfifo(claim)
    elif odd == "huge":
        claim.touch()
        os.truncate(claim, 1 << 40)
    else:
        content = {"zeros": b"\0" * 60, "empty": b"", "300 letters": b"a" * 300, "binary": bytes(range(256))}
        claim.write_bytes(content[odd])
    start = time.monotonic()
    store = fill(tmp_path / "s", {"a": values()})
    assert time.monotonic() - start < 10
    np.testing.assert_array_equal(store.matrix("s", "a"), values())
    assert {p.name for p in (tmp_path / "s/s/commit").iterdir()} == {"c", "rows", "index", "zarr.json"}


def test_a_folder_that_holds_something_in_a_claims_place_is_named(tmp_path):
    with opened(tmp_path / "s"):
        pass
    claim = tmp_path / "s/s/commit/claim-1"
    (claim / "notes").mkdir(parents=True)
    with pytest.raises(pc.ProbecacheError, match=r"claim-1.*a folder lies where a file belongs"):
        opened(tmp_path / "s")
    claim.rename(tmp_path / "moved")
    fill(tmp_path / "s", {"a": values()})


@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch, code):
    def no_link(*_, **__):
        raise OSError(getattr(errno, code), "no links here")

    monkeypatch.setattr(os, "link", no_link)
    with opened(tmp_path / "s", rows=(0, 48)), pytest.raises(pc.InputError, match="is being written by"):
        opened(tmp_path / "s")
    store = fill(tmp_path / "s", {"a": values()})
    np.testing.assert_array_equal(store.matrix("s", "a"), values())
    assert list(verify(tmp_path / "s")) == []


def test_rows_that_differ_from_the_stored_ones_are_refused(tmp_path):
    fill(tmp_path / "s", {"a": values()})
    with opened(tmp_path / "s", layers=("b",)) as writer:
        shard = next(writer.pending())
        names = [f"img{i}" for i in range(16)]
        with pytest.raises(pc.FingerprintMismatch, match=r"row 3 .* label: stored 1, asked 0"):
            writer.write(
                shard, {"b": values()[:16]}, np.where(np.arange(16) == 3, 0, np.arange(16) % 2), names
            )
        names[5] = "other.png"
        with pytest.raises(
            pc.FingerprintMismatch, match=r"row 5 .* sample: stored 'img5', asked 'other.png'"
        ):
            writer.write(shard, {"b": values()[:16]}, np.arange(16) % 2, names)


def test_failed_rows_keep_their_place_and_hold_nan(tmp_path):
    status = np.full(16, OK, np.uint8)
    status[3] = FAILED
    with opened(tmp_path / "s") as writer:
        for shard in writer.pending():
            write(writer, shard, {"a": values()}, status[: shard.rows] if shard.index == 2 else None)
        store = writer.finish()
    assert np.isnan(store.matrix("s", "a")[35]).all()
    assert np.flatnonzero(store.status("s") == FAILED).tolist() == [35]
    rest = np.delete(values(), 35, axis=0)
    np.testing.assert_array_equal(np.delete(store.matrix("s", "a"), 35, axis=0), rest)
    np.testing.assert_allclose(store.moments("s", "a")["variance"], rest.var(0), rtol=1e-5)
    assert list(verify(tmp_path / "s")) == []
    # a later layer: rows that were failed stay failed, rows that were ok must not fail
    with opened(tmp_path / "s", layers=("b",)) as writer:
        shards = list(writer.pending())
        with pytest.raises(pc.ProbecacheError, match=r"row 3 \(img3\) of split 's' failed now"):
            write(writer, shards[0], {"b": values(1)}, status)
        for shard in shards:
            write(writer, shard, {"b": values(1)})
        store = writer.finish()
    assert np.isnan(store.matrix("s", "b")[35]).all()
    assert list(verify(tmp_path / "s")) == []


@pytest.mark.parametrize("bad", [np.inf, np.nan, 65504.0, 1e6, -7e4])
def test_saturated_float16_is_refused_or_counted(tmp_path, bad):
    source = values()
    source[20, 2] = bad
    with pytest.raises(
        pc.ProbecacheError, match=r"layer 'a', rows 16:32 .* dtype bfloat16 or float32.*allow"
    ):
        fill(tmp_path / "s", {"a": source}, dtype="float16")
    store = fill(tmp_path / "s", {"a": source}, dtype="float16", allow_saturated=True)
    report = store.report("s", "a")
    assert report["nonfinite"] == (not abs(np.float32(bad)) <= 65504)
    assert report["saturated"] == (not np.isnan(bad))
    assert list(verify(tmp_path / "s")) == []
    store = fill(tmp_path / "t", {"a": source}, dtype="bfloat16")
    assert store.report("s", "a")["nonfinite"] == (not np.isfinite(bad))
    stored = store.matrix("s", "a")
    assert stored.dtype == ml_dtypes.bfloat16
    expected = source.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(stored.astype(np.float32), expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"activations": {}}, "activations of a are missing"),
        ({"activations": {"a": np.zeros((15, D))}}, r"has shape \(15, 6\), not \(16, 6\)"),
        ({"labels": np.zeros(16)}, "labels are float64, not integers"),
        ({"samples": ["x"]}, r"samples have shape \(1,\)"),
        ({"status": np.full(16, 7)}, "status holds values other than"),
    ],
)
def test_a_shard_that_does_not_fit_is_refused(tmp_path, arguments, says):
    good = {"activations": {"a": values()[:16]}, "labels": np.zeros(16, int), "samples": ["x"] * 16}
    with opened(tmp_path / "s") as writer:
        shard = next(writer.pending())
        with pytest.raises(pc.InputError, match=says):
            writer.write(shard, **{**good, **arguments})
        assert shard in list(writer.pending())
        writer.write(shard, **good)


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", ".hidden", "commit", "label", "zarr.json", "a b", "x" * 201, "é"]
)
def test_names_that_cannot_be_groups_are_refused(name):
    with pytest.raises(pc.InputError, match=r"cannot be a name|has a name that stores keep for themselves"):
        LayerSpec(name, 3)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(pc.NotAStore, match=r"holds 'thesis.tex'.*new or empty folder"):
        opened(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(pc.InputError, match="is a file"):
        opened(tmp_path / "thesis.tex")


def test_fields_of_the_split_may_be_arguments(tmp_path):
    layers = [LayerSpec("a", D, "float32")]
    fields = {"n_samples": 20, "layers": layers, "class_names": ["x", "y"], "fingerprint": made_by()}
    with open_writer(tmp_path / "s", split="s", **fields, shard_rows=16, rows=(16, 20)) as writer:
        assert [s.index for s in writer.pending()] == [1]
    with pytest.raises(TypeError, match="shard_row"):
        open_writer(tmp_path / "s", split="s", **fields, shard_row=16)
