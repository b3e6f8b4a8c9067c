"""The joint test: its p is uniform where nothing is there and small where something is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from src.judgement.contrasts import Differences, families
from src.judgement.correlations import correlated
from src.judgement.family import Family, frame_of
from src.judgement.joint import DRAWS, Null, joint, rank_correlations
from tests.judgement.conftest import ALPHA

SETS = 60


def contrasts(shift: float, seed: int) -> float:
    rng = np.random.default_rng(seed)
    d = pd.Series(rng.normal(shift, 0.1, 20), [f"t{i}" for i in range(20)])
    found_by = {"": Differences(d, {"t0": ("why",)}, frozenset())}
    found = joint("c", "signs", list(families(found_by, True, ("",), {}, ALPHA, rule=True)), ALPHA, seed)
    assert found is not None
    return float(found["p_joint"])


def correlations(slope: float, seed: int) -> float:
    """Two analyses of the same tasks: all, and without the first five."""
    rng = np.random.default_rng(seed)
    x = pd.Series(rng.normal(size=20), [f"t{i}" for i in range(20)])
    pairs = pd.DataFrame({"x": x, "y": slope * x + rng.normal(size=20)})

    def null(part: pd.DataFrame, draws: Null) -> dict[str, np.ndarray]:
        return {"": rank_correlations(draws.permuted(pairs["x"], part.index), part["y"].to_numpy())}

    found = joint("c", "tasks", [
        Family({}, frame_of({"": correlated(part, 1)}), null=partial(null, part), tasks=tuple(part.index))
        for part in (pairs, pairs.iloc[5:])
    ], ALPHA, seed)  # fmt: skip
    assert found is not None
    return float(found["p_joint"])


@pytest.mark.parametrize(("p_of", "none", "some"), [(contrasts, 0.0, 0.12), (correlations, 0.0, 4.0)])
def test_the_joint_p_is_uniform_without_an_effect_and_small_with_one(p_of, none, some):
    null = [p_of(none, seed) for seed in range(SETS if p_of is contrasts else SETS // 3)]
    assert stats.kstest(null, "uniform").pvalue > 0.001
    planted = [p_of(some, seed) for seed in range(5)]
    assert max(planted) < 0.01
    assert min([*null, *planted]) >= 1 / (1 + DRAWS)  # a permutation p is never 0


def test_one_draw_goes_through_all_analyses_alike():
    """The order and the signs of tasks that two analyses share do not depend on the other tasks."""
    null = Null(("a", "b", "c", "d"), 1)
    values = pd.Series([1.0, 2.0, 3.0, 4.0], ["a", "b", "c", "d"])
    everywhere = null.permuted(values, values.index)
    assert (np.sort(everywhere, axis=1) == [1, 2, 3, 4]).all()
    assert len(np.unique(everywhere, axis=0)) == 24  # every order of four is among the draws
    assert (null.permuted(values, pd.Index(["d", "b"])) == everywhere[:, [3, 1]]).all()
    one, other = null.signed(pd.Series([1.0], ["b"])), null.signed(pd.Series([1.0, 0.0], ["b", "d"]))
    assert (np.sign(one) == np.sign(other)).all()


def test_rank_correlations_are_scipys_with_ties():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 4, (5, 9)), rng.integers(0, 4, 9)
    assert list(rank_correlations(x, y)) == pytest.approx([stats.spearmanr(each, y).statistic for each in x])


def test_claims_that_cannot_be_permuted_have_no_joint_test():
    assert joint("c", "x", [Family({}, frame_of({"a": {"effect": 0.1}}))], ALPHA, 1) is None


def test_an_analysis_that_has_no_number_under_permutation_gives_no_p():
    """Scores that are the same for every task have no rank correlation. 1 of 1 + DRAWS would read as an effect."""
    d = pd.Series([0.5, -0.5, 0.25, 0.125], list("abcd"))
    (family, *_) = families({"": Differences(d, {}, frozenset())}, True, ("",), {}, ALPHA, rule=True)

    def no_number(draws: Null) -> dict[str, np.ndarray]:
        return {item: rank_correlations(np.ones((DRAWS, 4)), d.to_numpy()) for item in family.items}

    assert joint("c", "nothing", [replace(family, null=no_number)], ALPHA, 1) is None
