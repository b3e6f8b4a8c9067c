"""Contrasts mirror, leave out what is gated or on the floor, and take their p from the tests that they name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pingouin as pg
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from src.base import metrics
from src.base.metrics import MARGIN
from src.judgement.contrasts import (
    TESTS,
    Contrasts,
    Differences,
    differences,
    families,
    signed_rank,
    t_test,
    wilcoxon,
)
from src.judgement.scores import FLOOR, IN, OUT
from tests.judgement.conftest import ALPHA

VALUES = st.lists(st.integers(-40, 40).map(lambda each: each / 100), min_size=3, max_size=9)
TEST, GATES = st.sampled_from(list(TESTS)), st.sampled_from([OUT, IN])


def of(values: list[float], left_out: tuple[int, ...] = ()) -> Differences:
    series = pd.Series(values, [f"t{i}" for i in range(len(values))])
    return Differences(series, {f"t{i}": ("why",) for i in left_out}, frozenset())


@given(VALUES, TEST, GATES)
@example([0.1, 0.1, 0.1, 0.1, 0.1, -0.9], "Wilcoxon", OUT)
def test_mirrored_differences_give_mirrored_numbers(values, test, gates):
    row, mirrored = (of([sign * each for each in values], (0,)).row(test, gates) for sign in (1, -1))
    assert mirrored.get("reason") == row.get("reason")
    if "value" in row:
        assert mirrored["value"] == pytest.approx(-row["value"], abs=1e-12)
        assert (mirrored["low"], mirrored["high"]) == pytest.approx((-row["high"], -row["low"]), abs=1e-9, nan_ok=True)
        assert [mirrored[p] for p in ("effect", "small")] == pytest.approx([row[p] for p in ("effect", "small")])
        assert mirrored["sign"] == -row["sign"] or row["effect"] > 1 - 1e-9


@given(VALUES, TEST)
def test_the_claim_of_a_gain_has_twice_the_one_sided_p_above(values, test):
    """So the direction is that of the test, also where the mean lies on the other side of the ranks."""
    d = np.array(values)
    assume(d.std() > 1e-9)
    above = {
        "Wilcoxon": lambda: stats.wilcoxon(d, alternative="greater", method=stats.PermutationMethod(np.inf)),
        "paired t": lambda: stats.ttest_1samp(d, 0, alternative="greater"),
    }[test]().pvalue  # fmt: skip
    family = next(each for each in families({"": of(values)}, True, ("",), {}, ALPHA, rule=True)
                  if each.taken["test"] == test)  # fmt: skip
    assert family.result(ALPHA)["p_for"][""] == pytest.approx(2 * above if above < 0.5 - 1e-9 else 1.0, abs=1e-9)


@given(VALUES)
def test_signed_ranks_are_scipys_under_every_choice_of_signs(values):
    assume(any(values))
    sides = zip(("less", "greater"), signed_rank(np.array(values)), strict=True)
    for alternative, p in sides:
        every = stats.PermutationMethod(n_resamples=np.inf)
        assert p == pytest.approx(stats.wilcoxon(values, alternative=alternative, method=every).pvalue, abs=1e-9)


@given(VALUES)
def test_wilcoxon_within_five_points_is_the_larger_of_two_shifted_tests(values):
    d = np.array(values)
    every = stats.PermutationMethod(n_resamples=np.inf)
    shifted = [np.round(d - MARGIN, 9), np.round(d + MARGIN, 9)]
    assume(all(each.any() for each in shifted))
    two = [stats.wilcoxon(each, alternative=how, method=every).pvalue
           for each, how in zip(shifted, ("less", "greater"), strict=True)]  # fmt: skip
    assert wilcoxon(d)[1] == pytest.approx(max(two), abs=1e-9)


@given(VALUES)
def test_paired_t_is_scipys_and_pingouins(values):
    d = np.array(values)
    assume(d.std() > 1e-9)
    effect, small, _ = t_test(d)
    assert effect == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=1e-6)
    assert small == pytest.approx(float(pg.tost(d, 0, bound=MARGIN)["pval"].iloc[0]), rel=1e-6)


@pytest.mark.parametrize(
    ("constant", "expected"), [(0.0, (1, 0)), (0.02, (0, 0)), (0.2, (0, 1)), (-0.2, (0, 1)), (-0.02, (0, 0))]
)
def test_differences_without_scatter_are_what_they_are(constant, expected):
    assert t_test(np.full(4, constant))[:2] == pytest.approx(expected, abs=1e-9)


# ---- gates and floors ---------------------------------------------------------------------------------------------


@st.composite
def sides(draw) -> list[pd.DataFrame]:
    """Two sides of a contrast over up to nine tasks, some cells gated or on the floor."""
    n = draw(st.integers(3, 9))
    gates = st.sampled_from(["", "", "", metrics.ACTING[0], metrics.GATE_DUPLICATES])
    return [
        pd.DataFrame(
            {
                "accuracy": draw(st.lists(st.integers(0, 100).map(lambda k: k / 100), min_size=n, max_size=n)),
                "gates": draw(st.lists(gates, min_size=n, max_size=n)),
                "metric": draw(st.lists(st.sampled_from(metrics.ACCURACIES), min_size=n, max_size=n)),
                "p_below": draw(st.lists(st.sampled_from([0.001, 0.5, 0.5, 0.5, np.nan]), min_size=n, max_size=n)),
            },
            index=[f"t{i}" for i in range(n)],
        )
        for _ in range(2)
    ]


def floored(rows: pd.DataFrame) -> pd.Series:
    """Exact match below chance. A forced choice always picks an option: its low values are no other format."""
    return (rows["metric"] == metrics.EXACT) & (rows["p_below"] < FLOOR)


def gone(rows: pd.DataFrame) -> pd.Series:
    return floored(rows) | rows["gates"].map(lambda names: any(name in metrics.ACTING for name in names.split(";")))


@given(sides(), TEST)
def test_gates_and_floors_leave_as_if_the_cells_were_not_there(cells, test):
    by_hand = differences([rows[~gone(rows)] for rows in cells], (1, -1))
    found = differences(cells, (1, -1))
    left = set().union(*(set(rows.index[gone(rows)]) for rows in cells))
    assert set(found.left_out) == left
    if 2 * len(left) >= len(cells[0]):
        assert f"{len(left)} of {len(cells[0])} tasks have a cell that does not count" in found.row(test, OUT)["reason"]
    else:
        assert found.row(test, OUT) == pytest.approx(by_hand.row(test, OUT), nan_ok=True)


@given(sides(), TEST)
def test_kept_gates_change_nothing_and_keep_no_cell_on_the_floor(cells, test):
    clean = [rows.assign(gates="") for rows in cells]
    found, ungated = (differences(each, (1, -1)) for each in (cells, clean))
    low = set().union(*(set(rows.index[floored(rows)]) for rows in cells))
    assert set(found.kept(IN).index) == set(cells[0].index) - low
    row, expected = found.row(test, IN), ungated.row(test, OUT)
    if 2 * len(low) >= len(cells[0]):
        assert row["reason"].startswith(f"{len(low)} of {len(cells[0])} tasks")
    else:
        assert row == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("on_floor", "compared"), [(2, True), (3, False), (4, False)])
def test_a_contrast_with_half_its_tasks_on_the_floor_is_not_comparable(on_floor, compared):
    tasks = [f"t{i}" for i in range(6)]
    rows = pd.DataFrame({"accuracy": np.linspace(0.1, 0.7, 6), "gates": "", "metric": metrics.EXACT, "p_below": 0.5},
                        index=tasks)  # fmt: skip
    low = rows.assign(p_below=[0.01] * on_floor + [0.5] * (6 - on_floor))
    (rule,) = [each for each in families({"": differences([low, rows], (1, -1))}, True, ("",), {}, ALPHA, rule=True)
               if each.rule]  # fmt: skip
    assert pd.notna(rule.result(ALPHA)["outcome"][""]) == compared
    assert ("below chance" in str(rule.rows.loc["", "reason"])) != compared


# ---- power and steps ----------------------------------------------------------------------------------------------


@given(VALUES, st.integers(1, 20))
def test_the_detectable_difference_has_eighty_percent_power_and_a_step_less_has_not(values, tests):
    d = of(values)
    sd, n = np.std(values, ddof=1), len(values)
    found = d.power(tests, ALPHA)
    assume(found and not np.isnan(found["detectable"]) and found["detectable"] > 0.001)
    power = [TTestPower().power((found["detectable"] - less) / sd, n, ALPHA / tests / 2, alternative="larger")
             for less in (0, 0.001)]  # fmt: skip
    assert power[0] >= 0.8 - 1e-6
    assert power[1] < 0.8 + 1e-6


@pytest.mark.parametrize("scatter", [0.03, 0.06, 0.1])
def test_the_power_to_show_that_nothing_is_there_is_the_share_of_equivalences_found(scatter):
    rng, n, draws = np.random.default_rng(1), 20, 4000
    d = rng.normal(size=n)
    stated = of(list(scatter * (d - d.mean()) / d.std(ddof=1))).power(1, ALPHA)["power_none"]
    found = np.mean([t_test(rng.normal(0, scatter, n))[1] < ALPHA for _ in range(draws)])
    assert stated == pytest.approx(found, abs=0.05)


@given(VALUES, st.integers(-300, 300), TEST)
def test_a_step_moves_every_difference_by_a_thousandth(values, steps, test):
    moved = Contrasts({"": of(values)}, test, OUT).moved("", steps)
    by_hand = of([each + steps / 1000 for each in values]).row(test, OUT)
    assert moved == pytest.approx(by_hand, nan_ok=True, abs=1e-9)
