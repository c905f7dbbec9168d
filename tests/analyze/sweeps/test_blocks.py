"""Blocks tile what is missing: every missing probe once, nothing that is done."""

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from probecache.analyze.sweeps.blocks import Block, missing_blocks
from probecache.analyze.sweeps.plan import SweepPlan

PLAN = SweepPlan(["a", "b"], [0.1, 0.5, 1], seeds=3, selection=["random", "first"], l2=[1e-4, 1e-2])


def probes(block):
    return list(product([block.layer], [block.selection], block.fractions, block.seeds, block.l2s))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, PLAN.shape), st.floats(0.5, 40))
def test_blocks_cover_exactly_what_is_missing(missing, target):
    found = [
        p for block in missing_blocks(PLAN, missing, lambda b: b.n_probes, target) for p in probes(block)
    ]
    axes = (PLAN.layer, PLAN.selection, PLAN.fractions, PLAN.seeds, PLAN.l2)
    wanted = {p for p, absent in zip(product(*axes), missing.ravel(), strict=True) if absent}
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_a_whole_plan_is_cut_along_seeds_only():
    everything = np.ones(PLAN.shape, bool)
    for target in (0.5, 5, 1000):
        blocks = list(missing_blocks(PLAN, everything, lambda b: b.n_probes, target))
        assert all((block.fractions, block.l2s) == (PLAN.fractions, PLAN.l2) for block in blocks)
    assert len(blocks) == 4  # one per layer and selection


def test_selections_that_draw_nothing_are_fitted_once_for_all_seeds():
    blocks = missing_blocks(PLAN, np.ones(PLAN.shape, bool), lambda b: b.n_probes, 0.5)
    assert {len(b.seeds) for b in blocks if b.selection == "first"} == {3}


def test_halves_hold_the_same_probes_down_to_one():
    block = Block("a", "random", (0.1, 1.0), (0, 1, 2), (1e-4, 1e-2))
    todo, leaves = [block], []
    while todo:
        halves = todo.pop().halves()
        if len(halves) == 1:
            leaves += halves
        todo += halves if len(halves) == 2 else ()
    assert sorted(p for leaf in leaves for p in probes(leaf)) == sorted(probes(block))
    assert {leaf.n_probes for leaf in leaves} == {1}
