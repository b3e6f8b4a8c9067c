"""Forecasts with scatter between models: planted scatter, another route to the same numbers, mirrors, margins."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from src.statistics.forecast import Against, expected_variance
from src.statistics.scale import FORECAST, forecasts

SIZES = np.array([1.2e8, 1.5e9, 6e9, 1.75e11])
X = np.log10(SIZES)


def cells(accuracy: np.ndarray, n: int | np.ndarray, sizes: np.ndarray = SIZES, **columns: object) -> pd.DataFrame:
    """One row a task and model; accuracy: (tasks, models)."""
    tasks, models = accuracy.shape
    task, model = (each.ravel() for each in np.indices((tasks, models)))
    rows = {"task": [f"t{i}" for i in task], "model": [f"m{j}" for j in model], "parameters": sizes[model]}
    numbers = {"n": np.broadcast_to(n, accuracy.shape).ravel(), "accuracy": accuracy.ravel()}
    return pd.DataFrame({**rows, **numbers, "family": "f", "metric": "exact_match", **columns})


def drawn(rng: np.random.Generator, tasks: int, n: int, tau: float) -> np.ndarray:
    """Accuracies (tasks, 4) around lines on the logit scale; tau: standard deviation of the models around them."""
    middle, slope = rng.normal(0, 0.4, (tasks, 1)), rng.normal(0.1, 0.15, (tasks, 1))
    eta = middle + slope * (X - X.mean()) + tau * rng.standard_normal((tasks, 4))
    return np.asarray(rng.binomial(n, special.expit(eta)) / n)


# ---- planted scatter -------------------------------------------------------------------------------------------------


def test_planted_scatter_is_found_and_the_interval_covers_nine_tenths() -> None:
    rng = np.random.default_rng(20240811)
    with_scatter, binomial = [], []
    for _ in range(50):
        rows = cells(drawn(rng, 20, 800, 0.3), 800)
        with_scatter.append(forecasts(rows, scatter=True))
        binomial.append(forecasts(rows, scatter=False))
    found, bare = pd.concat(with_scatter), pd.concat(binomial)
    assert found["tau2"].mean() == pytest.approx(0.09, abs=0.015)
    covered = (found["residual_low"] < 0) & (found["residual_high"] > 0)
    assert covered.mean() == pytest.approx(0.90, abs=0.03)
    assert ((bare["residual_low"] < 0) & (bare["residual_high"] > 0)).mean() < 0.65
    assert (found["p_jump"] < 0.05).mean() == pytest.approx(0.05, abs=0.025)
    assert (found["p_differs"] < 0.05).mean() == pytest.approx(0.05, abs=0.025)
    assert (found["fit_p"] < 0.05).mean() < 0.09
    assert (bare["fit_p"] < 0.05).mean() > 0.3


def test_binomial_data_have_next_to_no_scatter() -> None:
    rng = np.random.default_rng(20240811)
    found = [forecasts(cells(drawn(rng, 20, 800, 0.0), 800), scatter=True) for _ in range(40)]
    tau2 = np.array([each["tau2"].iloc[0] for each in found])
    assert 0.3 < (tau2 == 0).mean() < 0.8  # an unbiased estimate that is cut at 0
    assert tau2.max() < 0.01


def test_points_on_a_line_have_no_scatter_and_are_forecast_exactly() -> None:
    eta = np.array([[-1.0], [0.2]]) + np.array([[0.3], [-0.2]]) * (X - 9)
    for scatter in (True, False):
        found = forecasts(cells(special.expit(eta), 400), scatter=scatter)
        assert found["tau2"].eq(0).all()
        assert found["forecast"].to_numpy() == pytest.approx(special.expit(eta[:, -1]), abs=1e-8)
        assert found["residual"].abs().max() < 1e-8
        assert found["fit_p"].min() > 0.999


# ---- another route ---------------------------------------------------------------------------------------------------


def test_numbers_equal_polyfit_and_a_bounded_search() -> None:
    """np.polyfit instead of sums, a minimum of (squares - df)^2 instead of a root."""
    accuracy, n = drawn(np.random.default_rng(3), 6, 300, 0.5), 300
    y, v = special.logit(accuracy), 1 / (n * accuracy * (1 - accuracy))

    def fit(i: int, tau2: float) -> tuple[np.ndarray, np.ndarray, float]:
        w = 1 / np.sqrt(v[i, :3] + tau2)
        b, cov = np.polyfit(X[:3] - 9, y[i, :3], 1, w=w, cov="unscaled")
        return b, cov, float((((y[i, :3] - np.polyval(b, X[:3] - 9)) * w) ** 2).sum())

    def gap(tau2: float) -> float:
        return (sum(fit(i, tau2)[2] for i in range(6)) - 6) ** 2

    tau2 = optimize.minimize_scalar(gap, bounds=(0, 5), method="bounded", options={"xatol": 1e-10}).x
    found = forecasts(cells(accuracy, n), scatter=True)
    assert found["tau2"].to_numpy() == pytest.approx(tau2, rel=1e-4)
    assert found["df"].eq(6).all()
    for i, row in enumerate(found.itertuples()):
        b, cov, squares = fit(i, tau2)
        at = np.array([X[3] - 9, 1])
        forecast = special.expit(at @ b)
        s = np.sqrt(at @ cov @ at + tau2 + 1 / (n * forecast * (1 - forecast)))  # not at the accuracy
        z = (y[i, 3] - at @ b) / s
        assert row.forecast == pytest.approx(forecast, rel=1e-5)
        assert row.residual == pytest.approx(accuracy[i, 3] - forecast, abs=1e-5)
        assert row.p_jump == pytest.approx(stats.t.sf(z, 6), rel=1e-4)
        assert row.p_differs == pytest.approx(2 * stats.t.sf(abs(z), 6), rel=1e-4)
        assert row.fit_p == pytest.approx(stats.chi2.sf(squares, 1), rel=1e-4)


def test_counts_enter_unrounded() -> None:
    """A mean over three runs is no whole count: 3.49 of 10 is not 3 of 10."""
    accuracy = np.array([[0.349, 0.449, 0.349, 0.5]])
    for scatter in (True, False):
        exact, rounded = (forecasts(cells(each, 10), scatter=scatter) for each in (accuracy, accuracy.round(1)))
        assert abs(exact["forecast"] - rounded["forecast"]).iloc[0] > 0.01
    # equal weights: the line without scatter is not needed to see which counts went in
    line = np.polyfit(X[:3], special.logit(accuracy[0, :3]), 1, w=np.sqrt(10 * accuracy[0, :3] * (1 - accuracy[0, :3])))
    assert forecasts(cells(accuracy, 10), scatter=True)["tau2"].iloc[0] == 0
    wanted = special.expit(np.polyval(line, X[3]))
    assert forecasts(cells(accuracy, 10), scatter=True)["forecast"].iloc[0] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("scatter", [True, False])
def test_counts_of_nothing_and_of_everything_stay_finite(scatter: bool) -> None:
    found = forecasts(cells(np.array([[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]]), 50), scatter=scatter)
    assert np.isfinite(found.drop(columns="df").to_numpy()).all()
    assert found["p_jump"].iloc[0] < 0.1 < 0.9 < found["p_jump"].iloc[1]


# ---- mirrors and margins ---------------------------------------------------------------------------------------------

SHARES = st.lists(st.lists(st.integers(0, 60), min_size=4, max_size=4), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(SHARES, st.booleans())
def test_right_and_wrong_exchanged_mirrors_the_residual(counts: list[list[int]], scatter: bool) -> None:
    accuracy = np.array(counts) / 60
    here, there = (forecasts(cells(each, 60), scatter=scatter) for each in (accuracy, 1 - accuracy))
    near = {"rel": 1e-4, "abs": 1e-5}
    assert here["residual"].to_numpy() == pytest.approx(-there["residual"].to_numpy(), **near)
    assert here["residual_low"].to_numpy() == pytest.approx(-there["residual_high"].to_numpy(), **near)
    assert here["p_jump"].to_numpy() == pytest.approx(1 - there["p_jump"].to_numpy(), **near)
    for same in ("p_differs", "p_within_five", "p_within_ten", "fit_p", "tau2", "df"):
        assert here[same].to_numpy() == pytest.approx(there[same].to_numpy(), nan_ok=True, **near)


one_case = st.tuples(st.floats(0.003, 0.997), st.floats(-6, 6), st.floats(0.02, 3), st.sampled_from([1, 3, 20, np.inf]))


def against(case: tuple[float, float, float, float]) -> Against:
    share, eta, s, df = case
    return Against(np.array([share]), np.array([eta]), np.array([s]), df)


@settings(max_examples=300)
@given(one_case, st.floats(0.01, 0.9))
def test_two_one_sided_tests_hold_exactly_where_the_interval_lies_inside(case, margin) -> None:
    found = against(case)
    (low,), (high,) = found.interval()
    if min(abs(low + margin), abs(high - margin)) > 1e-9:
        assert (found.p_within(margin)[0] < 0.05) == (-margin < low and high < margin)
    if min(abs(low), abs(high)) > 1e-9:
        assert (found.columns()["p_differs"][0] < 0.10) == (low > 0 or high < 0)


@settings(max_examples=200)
@given(one_case, st.floats(0.01, 0.9))
def test_a_margin_on_either_side_mirrors(case, margin) -> None:
    share, eta, s, df = case
    for at in (share, special.expit(eta)):  # a logit of next to nothing hangs on the last digit
        assume(min(abs(at - margin), abs(1 - at - margin)) > 1e-6)
    here, there = against(case), against((1 - share, -eta, s, df))
    assert here.p_below(margin) == pytest.approx(there.p_beyond(-margin), rel=1e-4, abs=1e-6)
    assert here.p_below(-margin) == pytest.approx(there.p_beyond(margin), rel=1e-4, abs=1e-6)


@settings(max_examples=200)
@given(one_case, st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_a_wider_margin_is_never_harder_to_stay_within(case, one, other) -> None:
    found = against(case)
    assert found.p_within(max(one, other))[0] <= found.p_within(min(one, other))[0]
    assert found.p_below(0.0) == pytest.approx(stats.t.cdf(found.z, found.df), rel=1e-9)


@pytest.mark.parametrize(
    ("forecast", "margin", "n", "se"),
    [(0.02, 0.05, 100, 0.3), (0.05, 0.10, 100, 0.5), (0.01, 0.05, 1000, 1.0), (0.3, 0.05, 200, 0.3),
     (0.5, 0.1, 200, 0.5), (0.85, 0.1, 100, 0.3), (0.93, 0.05, 100, 0.3)],
)  # fmt: skip
def test_a_residual_of_just_the_margin_is_seldom_called_smaller(forecast, margin, n, se) -> None:
    """Also near 0 and 1, where only one of the two ways to move the margin keeps its five per cent."""
    rng = np.random.default_rng(5)
    eta = special.logit(forecast) + se * rng.standard_normal(20_000)
    share = np.clip(rng.binomial(n, forecast + margin, 20_000), 0.25, n - 0.25) / n
    found = Against(share, eta, np.sqrt(se**2 + expected_variance(eta, n)), 60)
    assert (found.p_below(margin) < 0.05).mean() < 0.055


@pytest.mark.parametrize("n", [45, 100, 800])
@pytest.mark.parametrize("forecast", [0.2, 0.35, 0.5, 0.65])
def test_a_model_on_its_forecast_seldom_differs_from_it(forecast, n) -> None:
    """A logit of few answers is skewed: above the forecast is called too seldom below .5, and too often above it."""
    rng = np.random.default_rng(6)
    eta = special.logit(forecast) + 0.3 * rng.standard_normal(20_000)
    share = np.clip(rng.binomial(n, forecast, 20_000), 0.25, n - 0.25) / n
    found = Against(share, eta, np.sqrt(0.3**2 + expected_variance(eta, n)), np.inf).columns()
    assert (found["p_differs"] < 0.05).mean() < 0.06
    assert (found["p_jump"] < 0.05).mean() < 0.07
    assert ((found["residual_low"] < 0) & (found["residual_high"] > 0)).mean() == pytest.approx(0.90, abs=0.02)


# ---- more right is more evidence -------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 60).flatmap(lambda n: st.tuples(st.just(n), *[st.integers(0, n)] * 3)), st.booleans())
def test_every_further_example_right_is_more_evidence_up_to_all_of_them(case, scatter) -> None:
    """All tasks have the same smaller models. The largest has none right, one, and so on up to all."""
    n, *smaller = case
    found = forecasts(cells(np.array([[*smaller, k] for k in range(n + 1)]) / n, n), scatter=scatter)
    found = found.loc[[f"t{k}" for k in range(n + 1)]]
    step = {name: np.diff(found[name].to_numpy()) for name in ("p_jump", "p_short_five", "residual_low")}
    inside = {name: found[name].between(1e-12, 1 - 1e-12).to_numpy() for name in ("p_jump", "p_short_five")}
    assert (step["p_jump"] <= 0).all()
    assert (step["p_short_five"] >= 0).all()
    assert (step["residual_low"] > 0).all()
    assert (step["p_jump"] < 0)[inside["p_jump"][1:]].all()
    assert (step["p_short_five"] > 0)[inside["p_short_five"][1:]].all()


# ---- which models and tasks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scatter", [True, False])
def test_without_the_smallest_the_line_goes_exactly_through_the_other_two(scatter: bool) -> None:
    rows = cells(drawn(np.random.default_rng(8), 5, 400, 0.4), 400)
    found, full = (forecasts(rows, scatter=scatter, without_smallest=without) for without in (True, False))
    y = special.logit(rows.pivot(index="task", columns="model", values="accuracy").to_numpy())
    exact = y[:, 2] + (y[:, 2] - y[:, 1]) / (X[2] - X[1]) * (X[3] - X[2])
    assert found["forecast"].to_numpy() == pytest.approx(special.expit(exact), rel=1e-5)
    assert found["fit_p"].isna().all()
    assert found[["tau2", "df"]].equals(full[["tau2", "df"]])
    assert ((found["residual_high"] - found["residual_low"]) > (full["residual_high"] - full["residual_low"])).all()


def test_a_task_with_two_smaller_models_has_no_row_and_no_say() -> None:
    rows = cells(drawn(np.random.default_rng(9), 5, 400, 0.4), 400)
    fewer = rows[~((rows["task"] == "t4") & (rows["model"] == "m1"))]
    found = forecasts(fewer, scatter=True)
    assert [*found.index] == ["t0", "t1", "t2", "t3"]
    pd.testing.assert_frame_equal(found, forecasts(rows[rows["task"] != "t4"], scatter=True))
    unjudged = rows[~((rows["task"] == "t4") & (rows["model"] == "m3"))]  # its largest is not the largest of all
    pd.testing.assert_frame_equal(found, forecasts(unjudged, scatter=True))
    assert forecasts(rows[rows["model"] != "m0"], scatter=True).empty
    assert {*FORECAST} <= {*forecasts(rows.iloc[:0], scatter=True).columns}


def test_other_families_and_other_metrics_do_not_move_a_forecast() -> None:
    rng = np.random.default_rng(10)
    mine = cells(drawn(rng, 5, 400, 0.2), 400)
    stranger = cells(drawn(rng, 5, 400, 2.0), 400, SIZES / 2, family="g")
    stranger["model"] += "_g"
    other_metric = cells(drawn(rng, 5, 400, 2.0), 400, metric="bertscore_accuracy")
    other_metric["task"] += "_b"
    alone = forecasts(mine, scatter=True)
    together = forecasts(pd.concat([stranger, mine, other_metric], ignore_index=True), scatter=True)
    pd.testing.assert_frame_equal(together.loc[alone.index], alone)
    assert together.loc["t0_b", "tau2"] > 10 * together.loc["t0", "tau2"]


def test_the_order_of_rows_does_not_matter() -> None:
    rows = cells(drawn(np.random.default_rng(11), 5, 400, 0.4), 400)
    pd.testing.assert_frame_equal(
        forecasts(rows.sample(frac=1, random_state=1), scatter=True), forecasts(rows, scatter=True)
    )
