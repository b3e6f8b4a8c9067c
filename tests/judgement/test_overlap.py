"""Overlaps mirror; a gated cell is as if it were not there; a recount is the count or is not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from src.base import metrics
from src.base.verdict import HOLDS, OPPOSITE
from src.judgement import overlap
from src.judgement.family import Family
from src.judgement.scores import IN, OUT, Scores
from tests.judgement.conftest import ALPHA, Change

SQUARE = st.lists(st.integers(0, 8), min_size=4, max_size=4).map(lambda each: np.array(each).reshape(2, 2))
VERDICTS = st.integers(3, 12).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=n, max_size=n)
)


def rule(families: object) -> Family:
    (found,) = [each for each in families if each.rule]  # type: ignore[attr-defined]
    return found


@given(SQUARE)
def test_the_complement_of_one_side_mirrors_kappa_and_the_sides_of_the_test(square):
    row, mirrored = overlap.of_square(square, ALPHA), overlap.of_square(square[:, ::-1], ALPHA)
    assert mirrored.get("reason") == row.get("reason")
    if "value" in row:
        assert np.sign(np.round(mirrored["value"], 9)) == -np.sign(np.round(row["value"], 9))
        assert mirrored["effect"] == pytest.approx(row["effect"])
        assert mirrored["sign"] == -row["sign"] or row["effect"] > 0.5 - 1e-9


@given(SQUARE)
def test_neither_the_sides_nor_the_complement_of_both_change_anything(square):
    row = overlap.of_square(square, ALPHA)
    assume("value" in row)
    for same in (square.T, square[::-1, ::-1]):
        assert overlap.of_square(same, ALPHA) == pytest.approx(row, nan_ok=True) or row["effect"] > 0.5


@given(SQUARE)
def test_the_overlap_is_tested_by_fishers_exact_test_on_either_side(square):
    row = overlap.of_square(square, ALPHA)
    assume("value" in row)
    tails = {side: stats.fisher_exact(square, alternative=side).pvalue for side in ("greater", "less")}
    assert row["effect"] == pytest.approx(min(tails.values()))
    assert row["sign"] == (1 if tails["greater"] < tails["less"] else -1) or row["effect"] > 0.5


@given(SQUARE)
def test_an_overlap_without_a_result_is_one_that_no_square_of_its_margins_could_show(square):
    n, left, right = int(square.sum()), int(square[1].sum()), int(square[:, 1].sum())
    every = [[[n - left - right + both, right - both], [left - both, both]]
             for both in range(max(0, left + right - n), min(left, right) + 1)]  # fmt: skip
    shown = any(stats.fisher_exact(each, alternative=side).pvalue < ALPHA
                for each in every for side in ("greater", "less"))  # fmt: skip
    assert ("value" in overlap.of_square(square, ALPHA)) == shown


@given(VERDICTS)
def test_kappas_are_those_of_a_library_and_zero_where_one_side_is_constant(verdicts):
    a, b = np.array(verdicts)[:, 0], np.array(verdicts)[:, 1]
    (found,) = overlap.kappas(a[None], b[None])
    if len({*a, *b}) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(cohen_kappa_score(a, b))


@settings(max_examples=40)
@given(VERDICTS)
def test_a_gain_in_kappa_mirrors_where_few_and_zero_change_places(verdicts):
    above = np.array(verdicts)
    row, mirrored = overlap.gain(above, 1), overlap.gain(above[:, [2, 3, 0, 1]], 1)
    assert mirrored.get("reason") == row.get("reason")
    if "value" in row:
        assert mirrored["value"] == pytest.approx(-row["value"])
        assert (mirrored["low"], mirrored["high"]) == pytest.approx((-row["high"], -row["low"]))
        assert mirrored["effect"] == row["effect"]
        assert mirrored["sign"] == -row["sign"] or abs(row["value"]) < 1e-12


@given(VERDICTS, st.integers(0, 3))
def test_a_gain_in_kappa_needs_other_verdicts_and_sides_that_differ_from_task_to_task(verdicts, side):
    above = np.array(verdicts)
    assert "value" not in overlap.gain(above[:, [0, 1, 0, 1]], 1)
    above[:, side] = above[0, side]
    assert overlap.gain(above, 1)["reason"]


# ---- gates ----------------------------------------------------------------------------------------------------------

TASK = "tracking_shuffled_objects"


def sides_of(scores: Scores) -> tuple[tuple[str, bool], tuple[str, bool]]:
    figure = scores.tables["claims"]["figure2"]
    left, right = (overlap.claimed(figure[name]) for name in ("left", "right"))
    return left, right


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("claim", [overlap.beyond_margins, overlap.beyond_zero_shot])
def test_a_gated_cell_leaves_an_overlap_as_if_it_were_not_there(scores: Scores, changed: Change, claim, side):
    model, few = sides_of(scores)[side]
    gated = list(claim(changed(model, TASK, few=few, gates=metrics.ACTING[0])))
    gone = list(claim(changed(model, TASK, few=few)))
    for one, other in zip(gated, gone, strict=True):
        if one.taken["gates"] == OUT and one.taken["prompt"] == "options in the text":
            pd.testing.assert_frame_equal(one.rows, other.rows)
            assert TASK not in one.tasks
    for one, plain in zip(gated, claim(scores), strict=True):
        if one.taken["gates"] == IN:
            pd.testing.assert_frame_equal(one.rows, plain.rows)


@pytest.mark.parametrize("side", [0, 1])
def test_a_task_with_a_gated_cell_is_in_no_family_of_figure_2(scores: Scores, changed: Change, side):
    model, few = sides_of(scores)[side]
    now = rule(overlap.tasks_agree(scores))
    gated = rule(overlap.tasks_agree(changed(model, TASK, few=few, gates=metrics.ACTING[0])))
    gone = rule(overlap.tasks_agree(changed(model, TASK, few=few)))
    assert pd.isna(gated.result(ALPHA).loc[TASK, "outcome"])
    assert gated.rows.loc[TASK, "reason"] == metrics.GATES[metrics.ACTING[0]]
    assert gated.tests == gone.tests == now.tests - 2
    pd.testing.assert_frame_equal(gated.result(ALPHA).drop(index=TASK), gone.result(ALPHA))
    others = now.result(ALPHA).drop(index=TASK)
    assert (others["p_for"] != gone.result(ALPHA)["p_for"]).any()


# ---- recounts -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 20), st.integers(0, 22), st.integers(0, 2))
def test_a_recount_equals_the_papers_count_or_it_does_not(found, paper, without_baseline):
    """Tasks without a baseline that could make the difference leave it open."""
    for family in overlap._recounts(lambda _: (found, 20), paper, 20 + without_baseline):
        outcome = family.result(ALPHA)["outcome"][""]
        if found < paper <= found + without_baseline:
            assert pd.isna(outcome)
        else:
            assert outcome == (HOLDS if found == paper else OPPOSITE)
        assert family.rows.loc["", ["low", "high"]].isna().all()


def test_a_recount_counts_bare_comparisons(scores: Scores):
    """Table 2's by another route: the cells' own column."""
    rows = scores.side(scores.largest, False).loc[list(scores.tables["table2"])]
    family = rule(overlap.table2_count(scores))
    assert family.rows.loc["", "value"] == rows["above_raw"].sum()
    assert family.rows.loc["", "n"] == rows["above_raw"].notna().sum()
