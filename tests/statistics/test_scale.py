"""The binomial line against an independent maximum likelihood; verdicts on hand-made cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special, stats

from src.base import metrics
from src.statistics import scale
from src.statistics.tests import kappa

SIZES = [1e8, 1e9, 6e9, 175e9]


def deviance(parameters, k, n, dummy=False):
    """Maximum of the binomial likelihood by scipy.optimize, not by statsmodels' iterated least squares."""
    x = np.log10(parameters) - 9
    k, n = np.asarray(k, float), np.asarray(n, float)
    last = np.arange(len(x)) == len(x) - 1

    def loss(beta):
        eta = beta[0] + beta[1] * x + (beta[2] * last if dummy else 0)
        return -(k * special.log_expit(eta) + (n - k) * special.log_expit(-eta)).sum()

    fit = optimize.minimize(loss, np.zeros(3 if dummy else 2), method="BFGS", options={"gtol": 1e-8})
    full = special.xlogy(k, k / n) + special.xlogy(n - k, 1 - k / n)
    return 2 * (fit.fun + full.sum()), fit.x


def test_the_binomial_line_and_its_tests_equal_an_independent_likelihood():
    k, n = [30, 45.5, 38, 93], [170] * 4  # a mean over two runs is no whole count
    out = scale.judge(series(SIZES, k=k, n=170), 0.05).iloc[0]
    smaller, beta = deviance(SIZES[:3], k[:3], n[:3])
    assert out["forecast_binomial"] == pytest.approx(special.expit(beta[0] + beta[1] * np.log10(175)), abs=1e-5)
    assert out["residual_binomial"] == pytest.approx(93 / 170 - out["forecast_binomial"], abs=1e-9)
    assert out["fit_p_binomial"] == pytest.approx(stats.chi2.sf(smaller, 1), rel=1e-4)
    ratio = deviance(SIZES, k, n)[0] - deviance(SIZES, k, n, dummy=True)[0]
    assert out["lr_p"] == pytest.approx(stats.chi2.sf(ratio, 1), rel=1e-4)


def test_binomial_p_of_a_jump_by_the_information_matrix():
    k, n = np.array([30, 45, 38, 93]), np.full(4, 170)
    out = scale.forecasts(series(SIZES, k=k, n=170), scatter=False).iloc[0]
    x = np.column_stack([np.ones(4), np.log10(SIZES) - 9])
    _, beta = deviance(SIZES[:3], k[:3], n[:3])
    p = special.expit(x @ beta)
    information = x[:3].T @ np.diag((n * p * (1 - p))[:3]) @ x[:3]
    variance = x[3] @ np.linalg.inv(information) @ x[3] + 1 / (n * p * (1 - p))[3]  # of 170 answers at the forecast
    z = (special.logit(93 / 170) - x[3] @ beta) / np.sqrt(variance)
    assert out["p_jump"] == pytest.approx(stats.norm.sf(z), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"fit_p": 0.01, "p_differs": 0.001}, metrics.LINE_REJECTED),
        ({"p_differs": 0.01, "residual": 0.02}, metrics.NO_ABOVE),
        ({"p_differs": 0.01, "residual": -0.02}, metrics.NO_BELOW),
        ({"p_within_ten": 0.04}, metrics.YES),
        ({"p_within_ten": 0.06}, metrics.INCONCLUSIVE),
        ({"p_differs": 0.01, "residual": 0.02, "p_within_ten": 0.01}, metrics.NO_ABOVE),
        ({"fit_p": np.nan, "p_within_ten": 0.04}, metrics.YES),  # a line through two models cannot be rejected
    ],
)
def test_predictable_takes_the_first_rule_that_applies(changes, verdict):
    row = {"fit_p": 0.5, "p_differs": 0.5, "residual": 0.0, "p_within_ten": 0.5}
    assert scale.predictable({**row, **changes}, 0.05) == verdict


def test_emergence_needs_all_of_its_p_values():
    assert scale.p_emergent(0.01, 0.2, 0.03) == 0.2
    assert scale.p_emergent(0.01, np.nan, 0.03) == 0.03  # options unknown: no content-free policy to compare with
    assert np.isnan(scale.p_emergent(np.nan, 0.2, 0.03))
    assert np.isnan(scale.p_emergent(0.01, 0.2, np.nan))


def series(sizes, **changes):
    """Cells of one series, made by hand. k is no column that a forecast reads."""
    rows = pd.DataFrame({"parameters": sizes, "n": 100, "model": [f"m{i}" for i in range(len(sizes))]})
    fixed = {
        **{"source": "own", "suite": "s", "condition": "closed_zero", "prompt": "closed", "shots": 0, "task": "t"},
        **{"metric": "exact_match", "family": "f", "tuned": False, "tested": 0.25, "p": 0.01, "p_content": 0.01},
    }
    rows = rows.assign(k=[25, 30, 28, 90][: len(sizes)], p_trivial=np.nan, **fixed).assign(**changes)
    return rows.assign(accuracy=rows["k"] / rows["n"], k=rows["k"].round())


def pool(*tasks, **changes):
    """Cells of several tasks, k by hand."""
    parts = [series(SIZES, task=f"t{i}", k=k, **changes) for i, k in enumerate(tasks)]
    return pd.concat(parts, ignore_index=True)


STEADY = [
    [25, 28, 30, 34],
    [40, 43, 44, 47],
    [50, 52, 54, 55],
    [33, 30, 29, 27],
    [60, 62, 63, 65],
    [20, 22, 23, 25],
] * 4
JUMP = [25, 30, 28, 90]
CROOKED = [20, 80, 20, 90]


def test_three_smaller_sizes_are_needed():
    assert set(scale.judge_all(series(SIZES[:3]), 0.05)["predictable"]) == {metrics.TOO_FEW_SIZES}
    judged = scale.judge_all(pool(JUMP, *STEADY), 0.05)
    assert judged["predictable"].tolist()[:4] == [metrics.TOO_FEW_SIZES] * 3 + [metrics.NO_ABOVE]
    assert judged["forecast"].notna().tolist()[:4] == [False, False, False, True]


def test_one_task_alone_says_little_about_scatter():
    """Its own line is all there is to estimate the scatter from: one degree of freedom."""
    judged = scale.judge_all(series(SIZES, k=[20, 40, 28, 90]), 0.05).iloc[3]
    assert judged["predictable"] == metrics.INCONCLUSIVE
    assert (judged["df"], judged["predictable_binomial"]) == (1, metrics.LINE_REJECTED)


def test_a_rejected_line_carries_no_p_of_emergence():
    judged = scale.judge_all(pool(CROOKED, JUMP, *STEADY), 0.05)
    crooked, jump = judged.iloc[3], judged.iloc[7]
    assert (crooked["predictable"], jump["predictable"]) == (metrics.LINE_REJECTED, metrics.NO_ABOVE)
    assert np.isnan(crooked["p_emergent"])
    assert crooked["residual"] > 0
    assert jump["p_emergent"] == pytest.approx(max(0.01, jump["p_jump"]))


def test_every_model_with_three_smaller_ones_is_judged_by_the_smaller_ones_alone():
    largest = pool(JUMP, *STEADY)
    larger = largest[largest["model"] == "m3"].assign(parameters=1e12, model="m4", accuracy=0.99, k=99)
    both = scale.judge_all(pd.concat([largest, larger], ignore_index=True), 0.05)
    pd.testing.assert_frame_equal(both.iloc[: len(largest)], scale.judge_all(largest, 0.05))
    assert both.iloc[len(largest) :]["forecast"].notna().all()


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"shots": 5}, metrics.NOT_ZERO_SHOT),
        ({"tuned": True}, metrics.TOO_FEW_SIZES),
        ({"family": list("abcd")}, metrics.TOO_FEW_SIZES),
    ],
)
def test_only_base_models_of_one_family_zero_shot_are_judged(changes, verdict):
    judged = scale.judge_all(series(SIZES, **changes), 0.05)
    assert set(judged["predictable"]) == {verdict}
    assert judged["forecast"].isna().all()


def test_row_order_does_not_matter():
    cells = pool(JUMP, *STEADY)
    pd.testing.assert_frame_equal(
        scale.judge_all(cells.iloc[::-1], 0.05).sort_index(), scale.judge_all(cells, 0.05), check_exact=False
    )


def test_the_line_of_figure_1_is_the_one_the_largest_is_judged_by():
    cells = pool(JUMP, *STEADY).assign(
        **dict.fromkeys(("ci_low", "ci_high", "chance", "chance_scored", "trivial"), 0.25)
    )
    rows = pd.concat([cells.assign(fingerprint=""), scale.judge_all(cells, 0.05)], axis=1)
    drawn = scale.scale(rows)
    largest = drawn[drawn["model"] == "m3"]
    assert largest["fitted"].to_numpy() == pytest.approx(largest["forecast"].to_numpy(), rel=1e-9)
    assert drawn["fitted"].notna().all()


def test_kappa_by_hand():
    # 2 x 2: observed .7, expected (.5 * .6 + .5 * .4) = .5 -> (.7 - .5) / .5
    assert kappa([[4, 1], [2, 3]]) == pytest.approx(0.4)
    assert np.isnan(kappa([[5, 0], [5, 0]]))


@pytest.mark.parametrize("rule", [*metrics.RULES])
def test_a_rejected_line_decides_nothing_but_above(rule):
    rows = pd.DataFrame({"residual": [0.3, 0.3, np.nan], "predictable": [metrics.LINE_REJECTED] * 2 + ["inconclusive"]})
    above = pd.Series([True, False, True], dtype="boolean")
    assert scale.predictable_by_rule(rows, rule, above).tolist() == ["undecided", "-", "undecided"]
    assert scale.emergent_by_rule(rows, rule, above).isna().tolist() == [True, False, True]


def test_agreement_counts_by_hand():
    rows = pd.DataFrame(
        {
            "task": list("abcd"),
            "p": [0.001, 0.03, 0.5, np.nan],
            "p_holm": [0.003, 0.06, 0.5, np.nan],
            "p_bh": [0.003, 0.045, 0.5, np.nan],
            "p_trivial": [0.2, 0.2, 0.6, np.nan],
            "diff": [0.2, 0.06, 0.01, np.nan],
            "residual": [0.2, 0.0, 0.0, np.nan],
            "predictable": [metrics.NO_ABOVE, metrics.YES, metrics.INCONCLUSIVE, metrics.TOO_FEW_SIZES],
            "paper_above": pd.array([True, True, False, False], dtype="boolean"),
            "paper_predictable": pd.array([False, True, None, None], dtype="boolean"),
            "paper_emergent": pd.array([True, False, False, False], dtype="boolean"),
        }
    )
    found = scale.agreement(rows, 0.05).set_index(["rule", "verdict"])
    assert found.loc["raw", "agree"].to_dict() == {
        "above": 2,  # c is above by a point; d has no verdict
        "predictable": 2,
        "emergent": 3,
    }
    assert found.loc[("holm", "above"), "agree"] == 2  # b fails Holm
    assert found.loc[("bh", "above"), "agree"] == 3
    assert found.loc[("holm_trivial", "above"), ["agree", "undecided", "n"]].tolist() == [1, 1, 3]
    assert found.loc[("holm", "above"), "differ"] == "b"  # d has no verdict: neither agreement nor disagreement
    assert found.loc[("raw", "emergent"), ["agree", "undecided", "n"]].tolist() == [3, 1, 3]
