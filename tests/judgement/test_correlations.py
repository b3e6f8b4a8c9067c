"""Rank correlations mirror, and a gated cell is as if it were not there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from src.base import metrics
from src.judgement.correlations import KINDS, correlated, memorisable, metrics_agree
from src.judgement.scores import Scores
from tests.judgement.conftest import ALPHA, Change

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=12).map(
    lambda rows: pd.DataFrame(rows, columns=["x", "y"], dtype=float)
)


@settings(max_examples=40)
@given(PAIRS, st.sampled_from(KINDS))
def test_negating_one_side_mirrors_a_correlation(pairs, kind):
    row, mirrored = correlated(pairs, 1, kind), correlated(pairs.assign(y=-pairs["y"]), 1, kind)
    assert mirrored.get("reason") == row.get("reason")
    if "value" in row:
        assert mirrored["value"] == pytest.approx(-row["value"], abs=1e-12)
        assert (mirrored["low"], mirrored["high"]) == pytest.approx((-row["high"], -row["low"]), abs=1e-9, nan_ok=True)
        assert mirrored["effect"] == pytest.approx(row["effect"])
        assert mirrored["sign"] == -row["sign"] or abs(row["value"]) < 1e-9
        assert row["effect"] > 0


@settings(max_examples=20)
@given(PAIRS)
def test_the_correlation_is_scipys(pairs):
    row = correlated(pairs, 1)
    if "value" in row:
        assert row["value"] == pytest.approx(stats.spearmanr(pairs["x"], pairs["y"]).statistic)


def test_a_gated_cell_leaves_the_correlation_as_if_it_were_not_there(scores: Scores, changed: Change):
    task = "phrase_relatedness"
    gated = list(memorisable(changed(scores.largest, task, few=False, gates=metrics.ACTING[0])))
    gone = list(memorisable(changed(scores.largest, task, few=False)))
    acting = 0
    for one, other, plain in zip(gated, gone, memorisable(scores), strict=True):
        if one.taken["tasks"] == "gated cells kept":
            pd.testing.assert_frame_equal(one.rows, plain.rows)
        else:
            pd.testing.assert_frame_equal(one.rows, other.rows)
            acting += int(plain.rows.loc["", "n"] == one.rows.loc["", "n"] + 1)
    assert acting


def test_a_gate_leaves_the_agreement_of_metrics_where_it_speaks_of_one_of_the_two(scores: Scores, changed: Change):
    task, metric = "tracking_shuffled_objects", "bertscore_accuracy"
    gated = list(metrics_agree(changed(scores.largest, task, few=False, gates=metrics.ACTING[0])))
    for one, plain in zip(gated, metrics_agree(scores), strict=True):
        n, before = one.rows["n"], plain.rows["n"]
        of_metric = n.index.str.contains(metric)
        assert (n[~of_metric] == before[~of_metric]).all()
        assert (n[of_metric] == before[of_metric] - (one.taken["gates"] == "left out")).all()
    assert set(next(each for each in gated if each.taken["gates"] == "kept").items) == set(n.index[of_metric])


def test_a_positive_correlation_supports_and_its_mirror_contradicts(scores: Scores):
    """Swapping what can be memorised mirrors the claim's p values."""
    task_values = scores.cells["memorisable"]
    other = Scores(scores.cells.assign(memorisable=-task_values), scores.setting)
    for one, twin in zip(memorisable(scores), memorisable(other), strict=True):
        found, mirrored = one.result(ALPHA).iloc[0], twin.result(ALPHA).iloc[0]
        if np.isfinite(one.rows.loc["", "value"]) and abs(one.rows.loc["", "value"]) > 1e-9:
            assert mirrored["p_for"] == pytest.approx(found["p_against"])
            assert mirrored["p_against"] == pytest.approx(found["p_for"])
