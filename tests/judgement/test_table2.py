"""Table 2's claims: tails mirror, what is named as detectable is detected, gated cells are in no family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from src.base import metrics
from src.base.metrics import MARGIN
from src.base.verdict import HOLDS, NEITHER, OPPOSITE
from src.judgement import table2
from src.judgement.family import Family, frame_of
from src.judgement.scores import NO_CHANCE, OUT, Scores, at_least, at_most
from src.judgement.table2 import REJECTED
from tests.judgement.conftest import ALPHA, Change

TASK = "tracking_shuffled_objects"
GUESSES = st.integers(1, 30).flatmap(lambda n: st.lists(st.floats(0.1, 0.9), min_size=n, max_size=n).map(np.array))


def rule(families: object) -> Family:
    (found,) = [each for each in families if each.rule]  # type: ignore[attr-defined]
    return found


@given(GUESSES)
def test_tails_are_those_of_the_number_right_by_guessing(guess):
    n = len(guess)
    k = np.arange(n + 1)
    assert at_most(guess) == pytest.approx(stats.poisson_binom.cdf(k, guess), abs=1e-12)
    assert at_least(guess) == pytest.approx(stats.poisson_binom.sf(k - 1, guess), abs=1e-9)
    assert at_least(guess)[1:] + at_most(guess)[:-1] == pytest.approx(1)


@given(GUESSES, st.data())
def test_right_and_wrong_exchanged_mirrors_a_task_above_the_baseline(guess, data):
    """k right at a bar, and n - k at the mirror of the bar and its margin: what holds is the opposite there."""
    n = len(guess)
    k = data.draw(st.integers(0, n))

    def outcome(k: int, guess: np.ndarray) -> int:
        row = {"effect": at_least(guess)[k], "small": at_most(guess + MARGIN)[k]}
        return int(Family({}, frame_of({"a": row}), "holm").result(ALPHA)["outcome"]["a"])

    assert outcome(n - k, 1 - guess - MARGIN) == {HOLDS: OPPOSITE, OPPOSITE: HOLDS}.get(outcome(k, guess), NEITHER)


@pytest.mark.parametrize("claim", [table2.above, table2.predictable, table2.emergent])
def test_a_gated_cell_is_not_comparable_and_in_no_family(scores: Scores, changed: Change, claim):
    now = rule(claim(scores))
    gated = rule(claim(changed(scores.largest, TASK, few=False, gates=metrics.ACTING[0])))
    assert pd.notna(now.result(ALPHA).loc[TASK, "outcome"])
    assert pd.isna(gated.result(ALPHA).loc[TASK, "outcome"])
    assert gated.rows.loc[TASK, "reason"] == metrics.GATES[metrics.ACTING[0]]
    assert gated.tests == now.tests - 1
    gone = replace(now, rows=now.rows.drop(index=TASK))
    pd.testing.assert_frame_equal(gated.result(ALPHA).drop(index=TASK), gone.result(ALPHA))


def test_a_note_changes_nothing(scores: Scores, changed: Change):
    noted = changed(scores.largest, TASK, few=False, gates=metrics.GATE_DUPLICATES)
    pd.testing.assert_frame_equal(rule(table2.above(noted)).rows, rule(table2.above(scores)).rows)


def test_a_task_without_a_chance_level_is_in_no_denominator(scores: Scores):
    rows = rule(table2.above(scores)).rows
    assert set(rows.index[rows["reason"] == NO_CHANCE]) == {"codenames"}
    assert rule(table2.above(scores)).tests == rows["reason"].isna().sum()


def test_without_a_line_no_verdict_rests_on_the_forecast(scores: Scores):
    """The smaller models of a task scatter more than their line's errors say: not even "not emergent" is left."""
    for claim in (table2.emergent, table2.predictable):
        seen = 0
        for family in claim(scores):
            rejected = family.rows["reason"] == REJECTED
            seen += rejected.sum()
            assert family.rows.loc[rejected, ["effect", "small"]].isna().all(axis=None)
            assert family.result(ALPHA).loc[rejected, "outcome"].isna().all()
        assert seen


def test_what_is_detectable_is_found_with_eighty_percent_power_and_a_step_less_is_not(scores: Scores):
    """By the exact binomial, without the code under test: the first count that guessing does not reach."""
    family = rule(table2.above(scores))
    tested = [task for task in family.items if pd.notna(family.result(ALPHA).loc[task, "outcome"])]
    assert len(tested) > 10
    for task in tested:
        row = scores.side(scores.largest, False).loc[task]
        guess = scores._baseline(task, "closed", int(row["n"]))["guess"]
        k = np.arange(row["n"] + 1)
        needed = k[stats.poisson_binom.sf(k - 1, guess) < ALPHA / family.tests][0]
        detectable = family.power(task, family.tests)["detectable"]
        assert (
            stats.binom.sf(needed - 1, row["n"], detectable)
            >= 0.8
            > stats.binom.sf(needed - 1, row["n"], detectable - 0.001)
        )


@pytest.mark.parametrize("claim", [table2.above, table2.emergent, table2.predictable])
def test_a_step_is_one_example_right(scores: Scores, changed: Change, claim):
    """Moved by steps, a row is that of cells in which so many more are right."""
    family = rule(claim(scores))
    row = scores.side(scores.largest, False).loc[TASK]
    for steps in (-20, 7):
        k = int(row["k"]) + steps
        anew = rule(claim(changed(scores.largest, TASK, few=False, k=k, accuracy=k / row["n"])))
        assert anew.result(ALPHA)["outcome"][TASK] == family.outcome(TASK, ALPHA, family.moved(TASK, steps))
        for name in ("effect", "small"):
            assert anew.rows.loc[TASK, name] == pytest.approx(family.moved(TASK, steps)[name], rel=1e-6)
    assert family.moved(TASK, int(row["n"] - row["k"]) + 1) is None


def test_both_bars_are_tried_where_they_differ(scores: Scores):
    """A content-free bar above chance is in the analyses of its task, and makes nothing easier."""
    families = [each for each in table2.above(scores) if each.taken["gates"] == OUT]
    bars = {each.taken["bar"]: each for each in families
            if {**each.taken, "bar": ""} == {**rule(families).taken, "bar": ""}}  # fmt: skip
    lower, higher = (bars[bar].rows["effect"] for bar in table2.BARS)
    assert (higher.dropna() >= lower.dropna() - 1e-12).all()
    shown = set(bars[table2.BARS[1]].items)
    rows = scores.side(scores.largest, False)
    over = rows.index[rows["trivial"] > rows["tested"]]
    assert shown == set(over) & set(lower.index)


def test_another_level_of_alpha_is_used_throughout(scores: Scores):
    strict = replace(scores, setting=replace(scores.setting, alpha=1e-9))
    found = [rule(table2.above(each)).result(each.alpha)["outcome"] for each in (scores, strict)]
    assert (found[1].dropna() != NEITHER).sum() < (found[0].dropna() != NEITHER).sum()
