"""A hypothesis state machine: writes, kills, growth, new layers and damage against a model in memory."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import probecache as pc
from probecache.store.fingerprint import Fingerprint
from probecache.store.layout import FAILED, OK, LayerSpec, SplitSpec
from probecache.store.reading import commits
from probecache.store.storage import local
from probecache.store.verification.repair import repair
from probecache.store.verification.verify import verify
from probecache.store.writer import open_split_writer
from tests.store.dying import Killed, dead_marks, dying

SHARD_ROWS, MOST = 8, 40
LAYERS = {"a": (3, "float32"), "b.c": (5, "float16"), "d+max": (2, "bfloat16")}


def source(split, layer):
    """All rows that the split may ever hold, as they are stored."""
    neurons, dtype = LAYERS[layer]
    rng = np.random.default_rng(sum(map(ord, split + layer)))
    spec = LayerSpec(layer, neurons, dtype)
    values = rng.standard_normal((MOST, neurons)).astype(np.float32)
    values[failed(split)] = np.nan
    return spec, values


def failed(split):
    return np.random.default_rng(len(split)).random(MOST) < 0.1


class Store(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.path = self.folder / "store"
        self.sizes = {}  # split -> samples
        self.done = {}  # (split, layer) -> shards whose write returned, with the rows they held
        self.patched = contextlib.ExitStack()
        self.patched.enter_context(dead_marks())
        for patch in (
            mock.patch.object(local.os, "fsync"),  # for speed: nothing here loses power
            mock.patch.object(commits, "FEW", 0),  # indexes are believed from one shard on
        ):
            self.patched.enter_context(patch)

    def teardown(self):
        if not hasattr(self, "folder"):
            return
        try:
            for split in self.sizes:
                self.write(split, [k[1] for k in self.done if k[0] == split], 99, None, 0)
            if self.sizes:
                assert list(verify(self.path)) == []
                self.reads_are_true(partial=False)
        finally:
            self.patched.close()
            shutil.rmtree(self.folder)

    @rule(
        split=st.sampled_from(["train", "test"]),
        layers=st.sets(st.sampled_from(sorted(LAYERS)), min_size=1),
        shards=st.integers(0, 5),
        kill=st.none() | st.integers(0, 60),
        growth=st.integers(0, 20),
    )
    def write(self, split, layers, shards, kill, growth):
        """Open a writer, write some shards, and finish, or die at the kill-th system call."""
        if not layers:
            return
        n = min(self.sizes.get(split, 0) + (growth if split in self.sizes else growth + 1), MOST)
        known = self.sizes.get(split)
        if known is not None and n > known:  # a split grows with all of its layers
            layers = layers | {layer for s, layer in self.done if s == split}
        reopened = {}
        try:
            with dying(kill):
                self.sizes[split] = n
                for layer in layers:
                    held = self.done.setdefault((split, layer), {})
                    # a partial shard that grows is written anew: until then it may be missing, never wrong
                    for index in [i for i, stop in held.items() if stop < min((i + 1) * SHARD_ROWS, n)]:
                        reopened[layer, index] = held.pop(index)
                writer = open_split_writer(
                    self.path,
                    SplitSpec(
                        split=split,
                        n_samples=n,
                        layers=[source(split, layer)[0] for layer in sorted(layers)],
                        class_names=["x", "y", "z"],
                        fingerprint=Fingerprint({"model": "m"}, {}, {"dataset": split}),
                        shard_rows=SHARD_ROWS,
                    ),
                )
                self.fill(writer, split, shards)
        except Killed:
            pass
        # the split may not have come to be, and grows only once its last shard does
        now = self.size_now(split, known or n)
        self.sizes[split] = max(now, known or 0)
        if now == known:
            for (layer, index), stop in reopened.items():
                self.done[split, layer][index] = stop

    def size_now(self, split, n):
        try:
            return pc.open_store(self.path).split_info(split).geometry.n_samples
        except pc.ProbecacheError:
            return n

    def fill(self, writer, split, shards):
        staged = {}  # the shard that was there with fewer rows is committed at the end
        for shard in list(writer.pending())[:shards]:
            at = slice(shard.start, shard.stop)
            status = np.where(failed(split)[at], FAILED, OK)
            names = [f"{split}/{i}" for i in range(MOST)][at]
            given = {layer: source(split, layer)[1][at] for layer in shard.layers}
            writer.write(shard, given, np.arange(MOST)[at] % 3, names, status)
            if shard.index == writer._reopened:
                staged = {(split, layer): shard for layer in shard.layers}
                continue
            for layer in shard.layers:
                self.done[split, layer][shard.index] = shard.stop
        writer.finish()
        for key, shard in staged.items():
            self.done[key][shard.index] = shard.stop

    @rule(data=st.data())
    def damage(self, data):
        """Change one byte of one committed shard's file; repair drops that shard and no other."""
        shards = sorted(self.path.glob("*/*/activations/c/*/0")) if self.sizes else []
        shards = [s for s in shards if (s.parents[3] / "commit/c" / s.parent.name / "0").exists()]
        if not shards or {d.kind for d in verify(self.path)} - {"unwritten", "moments"}:
            return
        shards = [s for s in shards if self.vouched(s)]
        if not shards:
            return
        file = data.draw(st.sampled_from(shards))
        raw = bytearray(file.read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        file.write_bytes(raw)
        split, layer, index = file.parents[4].name, file.parents[3].name, int(file.parent.name)
        found = [d for d in repair(self.path) if d.kind == "shard"]
        assert {(d.split, d.layer, d.shard) for d in found} == {(split, layer, index)}
        self.done[split, layer].pop(index, None)

    def vouched(self, file):
        """Whether a commit that is believed names the file: not one of a growth that was given up."""
        store = pc.open_store(self.path, partial=True)
        info = store.layer_info(file.parents[4].name, file.parents[3].name)
        index = int(file.parent.name)
        if index >= info.geometry.n_shards:
            return False
        return store.commits(info, [info.geometry.shard(index)])[0][0] > 0

    @invariant()
    def reads_are_true(self, partial=True):
        """What a write returned for is there, the rest is NaN or true; nothing else is ever read."""
        if not getattr(self, "sizes", None):
            return
        try:
            store = pc.open_store(self.path, partial=partial)
        except pc.NotAStore:
            assert not any(self.done.values())
            return
        for (split, layer), shards in self.done.items():
            if split not in store.splits or layer not in store.layers_of(split):
                assert not shards
                continue
            try:
                got = store.matrix(split, layer).astype(np.float32)
            except pc.DamagedStore as error:
                if "does not fit its group" in str(error) or "zarr.json is missing" in str(error):
                    continue  # killed while the split was made, or made to grow: the next run mends it
                raise
            spec, values = source(split, layer)
            expected = values.astype(store.matrix(split, layer, rows=(0, 0)).dtype).astype(np.float32)[
                : len(got)
            ]
            for index, stop in shards.items():
                if stop > len(got):  # of a growth that did not come to its end
                    continue
                at = slice(index * SHARD_ROWS, stop)
                np.testing.assert_array_equal(got[at], expected[at])
            there = ~np.isnan(got).all(axis=1)
            np.testing.assert_array_equal(got[there], expected[there])
            if not partial:
                assert (there | failed(split)[: len(got)]).all()
                assert spec.neurons == got.shape[1]


SETTINGS = settings(
    max_examples=15, stateful_step_count=6, deadline=None, suppress_health_check=list(HealthCheck)
)


class TestStore(Store.TestCase):
    settings = SETTINGS


@pytest.mark.slow
class TestStoreLonger(Store.TestCase):
    settings = settings(SETTINGS, max_examples=300, stateful_step_count=15)
