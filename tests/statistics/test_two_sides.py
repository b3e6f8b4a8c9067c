"""What is said of two sets of scores is what independent code finds, and what is said to be found would be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from src.statistics import two_sides
from src.statistics.tests import all_flips, sign_flip
from src.statistics.two_sides import ALL_ITEMS, TASK_MEANS, Scores, mcnemar_detectable, mcnemar_power, side_by_side

ALPHA = 0.05


def scores(a: list[float], b: list[float], group: list[str] | None = None, name: str = "t") -> Scores:
    return Scores(name, name, np.array(a, float), np.array(b, float), tuple(group or map(str, range(len(a)))))


def drawn(n: int, seed: int, shift: float = 0.1, name: str = "t") -> Scores:
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) < 0.5, rng.random(n) < 0.5 + shift
    return scores(list(a.astype(float)), list(b.astype(float)), name=name)


@settings(max_examples=20)  # each resamples its items some thousand times, for the interval
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_the_p_of_right_and_wrong_is_exact_mcnemar(pairs: list[tuple[int, int]]) -> None:
    a, b = (list(map(float, side)) for side in zip(*pairs, strict=True))
    table = np.array([[sum((x, y) == (i, j) for x, y in pairs) for j in (0, 1)] for i in (0, 1)])
    (row,) = side_by_side([scores(a, b)], ALPHA, 1).to_dict("records")
    assert row["test"] == "mcnemar"
    assert row["p"] == pytest.approx(mcnemar(table, exact=True).pvalue if table[0, 1] + table[1, 0] else 1.0)
    assert (row["b_better"], row["a_better"]) == (table[0, 1], table[1, 0])
    assert row["ci_low"] <= row["mean_diff"] <= row["ci_high"]


@pytest.mark.parametrize("group", [None, [str(i // 2) for i in range(40)]])
def test_the_other_way_round_is_the_mirror_image(group: list[str] | None) -> None:
    one = drawn(40, 3)
    sides = [scores(list(x), list(y), group) for x, y in ((one.a, one.b), (one.b, one.a))]
    this, that = (side_by_side([each], ALPHA, 1).iloc[0] for each in sides)
    assert this["mean_diff"] == pytest.approx(-that["mean_diff"])
    assert this["p"] == pytest.approx(that["p"])
    if group is None:
        assert (this["ci_low"], this["ci_high"]) == pytest.approx((-that["ci_high"], -that["ci_low"]))


def test_items_that_come_in_copies_say_no_more_than_one_of_each() -> None:
    """Each item three times, as one group: p is that of the items once, and not a third of the noise."""
    once = drawn(18, 5, shift=0.3)
    thrice = scores(list(np.repeat(once.a, 3)), list(np.repeat(once.b, 3)), [str(i // 3) for i in range(54)])
    flat = scores(list(thrice.a), list(thrice.b))
    p_groups, p_flat = (side_by_side([each], ALPHA, 1)["p"].iloc[0] for each in (thrice, flat))
    assert p_groups == pytest.approx(sign_flip(once.b - once.a, 1))
    assert p_flat < p_groups


def test_graded_scores_are_tested_by_sign_flips() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(12)
    (row,) = side_by_side([scores(list(a), list(a + rng.normal(0.1, 0.1, 12)))], ALPHA, 1).to_dict("records")
    assert row["test"] == "sign_flip"
    assert row["ci_low"] < row["mean_diff"] < row["ci_high"]


@pytest.mark.parametrize("seed", range(4))
def test_all_flips_are_those_of_scipy(seed: int) -> None:
    sums = np.random.default_rng(seed).integers(-3, 5, 9) / 3
    sums = sums[sums != 0]
    expected = stats.permutation_test(
        (sums,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    ).pvalue
    assert all_flips(sums) == pytest.approx(expected)


def test_many_flips_agree_with_all_of_them() -> None:
    sums = np.random.default_rng(1).normal(0.3, 1, 18)
    assert two_sides.many_flips(sums, 7) == pytest.approx(all_flips(sums), abs=0.01)


def test_the_power_of_mcnemar_is_that_of_every_outcome() -> None:
    """Each number of items on which one side alone is right, by its multinomial probability."""
    n, share, difference = 25, 0.5, 0.3
    b, c = (share + difference) / 2, (share - difference) / 2
    found = 0.0
    for x in range(n + 1):
        for y in range(n + 1 - x):
            if x + y and stats.binomtest(x, x + y).pvalue <= ALPHA:
                found += stats.multinomial.pmf([x, y, n - x - y], n, [b, c, 1 - b - c])
    assert mcnemar_power(n, share, difference, ALPHA) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize(("n", "share"), [(20, 0.0), (100, 0.2), (1000, 0.4)])
def test_the_detectable_difference_is_found_with_the_power_it_names(n: int, share: float) -> None:
    difference = mcnemar_detectable(n, share, ALPHA)
    assert mcnemar_power(n, share, difference, ALPHA) == pytest.approx(0.8, abs=0.005)
    assert mcnemar_detectable(n, share, ALPHA / 10) > difference


def test_too_few_items_find_nothing_and_say_so() -> None:
    assert np.isnan(mcnemar_detectable(5, 0.5, ALPHA))
    assert np.isnan(two_sides.group_detectable(np.array([1.0, 2, 3, 4, 5]), 5, ALPHA))


def test_the_detectable_difference_of_groups_is_found_four_times_in_five() -> None:
    rng, groups = np.random.default_rng(2), 40
    sums = rng.normal(0, 1, groups)
    sums = (sums - sums.mean()) / sums.std(ddof=1)
    difference = two_sides.group_detectable(sums, groups, ALPHA)
    found = [stats.ttest_1samp(rng.normal(difference, 1, groups), 0).pvalue < ALPHA for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_holm_is_over_the_tasks_and_not_over_the_rows_over_all_of_them() -> None:
    rows = side_by_side([drawn(60, i, name=f"t{i}") for i in range(3)], ALPHA, 1)
    assert list(rows["task"]) == ["t0", "t1", "t2", ALL_ITEMS, TASK_MEANS]
    assert rows["p_holm"].isna().tolist() == [False] * 3 + [True] * 2
    smallest = rows["p"][:3].idxmin()
    assert rows["p_holm"][smallest] == pytest.approx(min(1, 3 * rows["p"][smallest]))
    assert rows["n"].tolist() == [60, 60, 60, 180, 3]


def test_an_item_that_two_rows_ask_is_one_group_over_all() -> None:
    """One task in two settings: over all items, an item moves as one."""
    first, second = drawn(30, 1), drawn(30, 2)
    settings = [Scores(f"t, {i}", "t", each.a, each.b, each.group) for i, each in enumerate((first, second))]
    rows = side_by_side(settings, ALPHA, 1)
    assert rows.loc[rows["task"] == ALL_ITEMS, ["n", "groups"]].to_numpy().tolist() == [[60, 30]]


def test_no_difference_at_all_has_no_interval_of_no_width() -> None:
    graded = scores([0.5] * 12, [0.5] * 12)
    assert side_by_side([graded], ALPHA, 1)[["ci_low", "ci_high"]].isna().all(axis=None)
    binary = side_by_side([scores([1.0] * 12, [1.0] * 12)], ALPHA, 1).iloc[0]
    assert binary["ci_low"] < -0.05
    assert binary["ci_high"] > 0.05
