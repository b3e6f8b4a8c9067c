"""Forecasts against an independent maximum likelihood; verdicts on hand-made cells."""

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


def test_a_model_on_the_line_is_forecast_exactly():
    eta = -1 + 0.5 * (np.log10(SIZES) - 9)
    n = [10**6] * 4
    out = scale.forecast(SIZES, np.round(special.expit(eta) * 1e6).tolist(), n, special.expit(eta[-1]), 0.25)
    assert out["forecast"] == pytest.approx(special.expit(eta[-1]), abs=1e-4)
    assert out["fit_p"] > 0.9
    assert scale.predictable(out, 0.05) == metrics.YES


def test_forecast_and_tests_equal_an_independent_likelihood():
    k, n = [30, 45, 38, 93], [170] * 4
    out = scale.forecast(SIZES, k, n, 93 / 170, 0.25)
    smaller, beta = deviance(SIZES[:3], k[:3], n[:3])
    assert out["forecast"] == pytest.approx(special.expit(beta[0] + beta[1] * (np.log10(SIZES[3]) - 9)), abs=1e-5)
    assert out["fit_p"] == pytest.approx(stats.chi2.sf(smaller, 1), rel=1e-4)
    ratio = deviance(SIZES, k, n)[0] - deviance(SIZES, k, n, dummy=True)[0]
    assert out["lr_p"] == pytest.approx(stats.chi2.sf(ratio, 1), rel=1e-4)


def test_interval_of_the_residual_by_the_information_matrix():
    k, n = np.array([30, 45, 38, 93]), np.full(4, 170)
    out = scale.forecast(SIZES, k.tolist(), n.tolist(), 93 / 170, 0.25)
    x = np.column_stack([np.ones(4), np.log10(SIZES) - 9])
    _, beta = deviance(SIZES[:3], k[:3], n[:3])
    p = special.expit(x @ beta)
    information = x[:3].T @ np.diag((n * p * (1 - p))[:3]) @ x[:3]
    se_eta = np.sqrt(x[3] @ np.linalg.inv(information) @ x[3])
    sd = np.sqrt((p[3] * (1 - p[3]) * se_eta) ** 2 + (93 / 170) * (77 / 170) / 170)
    assert out["residual_high"] - out["residual"] == pytest.approx(1.6448536 * sd, rel=1e-4)


def test_counts_of_nothing_and_of_everything_are_clipped_not_infinite():
    out = scale.forecast(SIZES, [0, 0, 0, 50], [50] * 4, 1.0, 0.25)
    assert np.isfinite(list(out.values())).all()
    assert scale.predictable(out, 0.05) == metrics.NO_ABOVE


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"fit_p": 0.01, "lr_p": 0.001}, metrics.LINE_REJECTED),
        ({"lr_p": 0.01, "residual": 0.2, "residual_floor": 0.1}, metrics.NO_ABOVE),
        ({"lr_p": 0.01, "residual": 0.2, "residual_floor": 0.04}, metrics.INCONCLUSIVE),
        ({"lr_p": 0.01, "residual": -0.2, "residual_floor": -0.2}, metrics.NO_BELOW),
        ({"residual_low": -0.09, "residual_high": 0.09}, metrics.YES),
        ({"residual_low": -0.09, "residual_high": 0.11}, metrics.INCONCLUSIVE),
        (
            {"lr_p": 0.01, "residual": -0.04, "residual_floor": -0.04, "residual_low": -0.09, "residual_high": 0},
            metrics.YES,
        ),
    ],
)
def test_predictable_takes_the_first_rule_that_applies(changes, verdict):
    row = {
        "fit_p": 0.5,
        "lr_p": 0.5,
        "residual": 0.0,
        "residual_floor": 0.0,
        "residual_low": -1.0,
        "residual_high": 1.0,
    }
    assert scale.predictable({**row, **changes}, 0.05) == verdict


def test_a_jump_is_tested_one_sided():
    assert scale.p_jump(0.1, 0.04) == 0.02
    assert scale.p_jump(-0.1, 0.04) == 0.98


def test_emergence_needs_all_of_its_p_values():
    assert scale.p_emergent(0.01, 0.2, 0.03) == 0.2
    assert scale.p_emergent(0.01, np.nan, 0.03) == 0.03  # options unknown: no content-free policy to compare with
    assert np.isnan(scale.p_emergent(np.nan, 0.2, 0.03))
    assert np.isnan(scale.p_emergent(0.01, 0.2, np.nan))


def series(sizes, **changes):
    """Cells of one series, made by hand."""
    rows = pd.DataFrame({"parameters": sizes, "k": [25, 30, 28, 90][: len(sizes)], "n": 100}, index=range(len(sizes)))
    fixed = {
        **{"source": "own", "suite": "s", "condition": "closed_zero", "prompt": "closed", "shots": 0, "task": "t"},
        **{"metric": "exact_match", "family": "f", "tuned": False, "tested": 0.25, "p": 0.01, "p_content": 0.01},
    }
    return rows.assign(accuracy=rows["k"] / 100, p_trivial=np.nan, **{**fixed, **changes})


def test_three_smaller_sizes_are_needed():
    assert set(scale.judge_all(series(SIZES[:3]), 0.05)["predictable"]) == {metrics.TOO_FEW_SIZES}
    judged = scale.judge_all(series(SIZES), 0.05)
    assert judged["predictable"].tolist() == [metrics.TOO_FEW_SIZES] * 3 + [metrics.NO_ABOVE]
    assert judged["forecast"].notna().tolist() == [False, False, False, True]


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
    cells = series(SIZES)
    assert scale.judge_all(cells.iloc[::-1], 0.05).sort_index().equals(scale.judge_all(cells, 0.05))


def test_kappa_by_hand():
    # 2 x 2: observed .7, expected (.5 * .6 + .5 * .4) = .5 -> (.7 - .5) / .5
    assert kappa([[4, 1], [2, 3]]) == pytest.approx(0.4)
    assert np.isnan(kappa([[5, 0], [5, 0]]))


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
