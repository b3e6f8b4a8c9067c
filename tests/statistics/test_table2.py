"""Ten rows of Table 2 by another route than the code's, against the committed file.

Here: exact fractions, the closed form of Wilson's interval, mpmath's quadrature, Holm by hand, the logistic line by
Nelder and Mead on the log-likelihood, and the scatter between models by halving, with normal equations in plain Python.
There: scipy's Poisson binomial, statsmodels' GLM, weighted sums of arrays. The csv prints six digits.
"""

from __future__ import annotations

import csv
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy import optimize, stats

from src.base.files import ROOT

OPTIONS: dict[str, dict[int, int]] = {
    "analytic_entailment": {2: 65}, "causal_judgment": {2: 188}, "common_morpheme": {4: 45},
    "english_proverbs": {3: 1, 4: 24, 5: 3, 6: 1}, "fact_checker": {2: 6607}, "hindu_knowledge": {4: 164, 5: 5, 6: 1},
    "implicatures": {2: 487}, "physical_intuition": {2: 2, 3: 3, 4: 64, 5: 7}, "phrase_relatedness": {4: 95},
    "social_iqa": {2: 4, 3: 1945}, "strategyqa": {2: 2285},
}  # fmt: skip
"""Number of options -> how many items have so many, counted in the task files."""
SIZES = {"gpt2": 124e6, "gpt2_xl": 1.5e9, "gptj_6b": 6.05e9, "davinci": 175e9}
PRINTED = 1e-5


def rows(path: str) -> list[dict[str, str]]:
    with (ROOT / path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


TABLE = {
    row["task"]: row
    for row in rows("reports/tables/table2_emergence.csv")
    if (row["source"], row["model"], row["prompt"], row["shots"]) == ("published", "davinci", "closed", "0")
}
SCORES = {
    (row["task"], row["model"]): row
    for row in rows("data/published/scores.csv")
    if (row["prompt"], row["shots"]) == ("closed", "0")
}


def right(task: str, model: str) -> tuple[float, int]:
    """(accuracy x n, n): a mean over runs need not be a whole count."""
    row = SCORES[task, model]
    n = int(row["n_examples"])
    return n * float(row["bertscore_accuracy"]), n


def count(task: str, model: str) -> tuple[int, int]:
    k, n = right(task, model)
    return round(k), n


def shown(task: str, column: str) -> float:
    return float(TABLE[task][column])


def chance(task: str) -> Fraction:
    return sum(Fraction(items, m) for m, items in OPTIONS[task].items()) / sum(OPTIONS[task].values())


def ways(task: str) -> list[int]:
    """Entry k: in how many ways a guesser gets k right, the generating function multiplied out in whole numbers."""
    total = [1]
    for m, items in OPTIONS[task].items():
        each = [math.comb(items, i) * (m - 1) ** (items - i) for i in range(items + 1)]
        short, long = sorted((total, each), key=len)
        total = [0] * (len(short) + len(long) - 1)
        for i, a in enumerate(short):
            for j, b in enumerate(long):
                total[i + j] += a * b
    return total


@pytest.mark.parametrize("task", OPTIONS)
def test_the_tail_under_guessing_in_exact_fractions(task: str) -> None:
    k, n = count(task, "davinci")
    every = math.prod(m**items for m, items in OPTIONS[task].items())
    assert (shown(task, "k"), shown(task, "n"), n) == (k, n, sum(OPTIONS[task].values()))
    assert shown(task, "chance") == pytest.approx(float(chance(task)), rel=PRINTED)
    assert shown(task, "p") == pytest.approx(float(Fraction(sum(ways(task)[k:]), every)), rel=PRINTED)


@pytest.mark.parametrize("task", OPTIONS)
def test_wilsons_interval_in_closed_form(task: str) -> None:
    k, n = count(task, "davinci")
    z = 1.959963984540054
    middle, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    assert shown(task, "ci_low") == pytest.approx(middle - half, rel=PRINTED)
    assert shown(task, "ci_high") == pytest.approx(middle + half, rel=PRINTED)


@pytest.mark.parametrize("task", OPTIONS)
def test_the_bayes_factor_by_quadrature(task: str) -> None:
    """A uniform prior over (c, 1) against c."""
    k, n = count(task, "davinci")
    c = mpmath.mpf(chance(task).numerator) / chance(task).denominator
    peak = mpmath.mpf(max(k / n, float(c)))
    area = mpmath.quad(lambda q: (q / c) ** k * ((1 - q) / (1 - c)) ** (n - k), [c, peak, (1 + peak) / 2, 1])
    assert shown(task, "bf10") == pytest.approx(float(area / (1 - c)), rel=PRINTED)


def test_holm_over_the_family_by_hand() -> None:
    tested = sorted((float(row["p"]), task) for task, row in TABLE.items() if row["p"])
    running = 0.0
    for place, (p, task) in enumerate(tested):
        running = max(running, min(1, p * (len(tested) - place)))
        assert shown(task, "p_holm") == pytest.approx(running, rel=PRINTED)
    assert len(tested) == 21  # codenames shows no options


def log_likelihood(k: np.ndarray, n: np.ndarray, p: np.ndarray) -> float:
    return float((k * np.log(p) + (n - k) * np.log(1 - p)).sum())


def line(k: np.ndarray, n: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, float]:
    """(coefficients, log-likelihood) of the logistic line of greatest likelihood, without a GLM."""

    def loss(b: np.ndarray) -> float:
        return -log_likelihood(k, n, 1 / (1 + np.exp(-b[0] - b[1] * x)))

    options = {"xatol": 1e-12, "fatol": 1e-13, "maxiter": 20000, "maxfev": 20000}
    found = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options=options)
    again = optimize.minimize(loss, found.x, method="Nelder-Mead", options=options)
    return again.x, -again.fun


@pytest.mark.parametrize("task", OPTIONS)
def test_the_binomial_forecast_and_its_likelihood_ratio_without_a_glm(task: str) -> None:
    counts = [right(task, model) for model in SIZES]
    n = np.array([n for _, n in counts], dtype=float)
    k = np.clip([k for k, _ in counts], 0.25, n - 0.25)
    x = np.log10(list(SIZES.values())) - 10  # centred, for the search
    smaller, largest = line(k[:3], n[:3], x[:3]), line(k, n, x)
    forecast = 1 / (1 + math.exp(-smaller[0][0] - smaller[0][1] * x[3]))
    saturated = [log_likelihood(k[i : i + 1], n[i : i + 1], k[i : i + 1] / n[i : i + 1]) for i in range(4)]
    jump = 2 * (smaller[1] + saturated[3] - largest[1])
    fit_p = stats.chi2.sf(2 * (sum(saturated[:3]) - smaller[1]), 1)
    assert shown(task, "forecast_binomial") == pytest.approx(forecast, abs=2e-5)
    assert shown(task, "residual_binomial") == pytest.approx(k[3] / n[3] - forecast, abs=2e-5)
    assert shown(task, "lr_p") == pytest.approx(stats.chi2.sf(jump, 1), abs=2e-5)
    assert shown(task, "fit_p_binomial") == pytest.approx(fit_p, abs=2e-5)


POOL = [task for task, row in TABLE.items() if row["metric"] == "bertscore_accuracy"]
"""The tasks that share one scatter: same prompt, same metric."""


def weighted(task: str, tau2: float) -> tuple[float, float, float, list[float]]:
    """(forecast on the logit scale, its variance, weighted squares, logits) by normal equations."""
    share = [min(max(k, 0.25), n - 0.25) / n for k, n in (right(task, model) for model in SIZES)]
    v = [1 / (right(task, model)[1] * a * (1 - a)) for a, model in zip(share, SIZES, strict=True)]
    y = [math.log(a / (1 - a)) for a in share]
    x = [math.log10(size) - 11 for size in SIZES.values()]
    w = [1 / (each + tau2) for each in v[:3]]
    sums = [sum(wi * xi**power for wi, xi in zip(w, x[:3], strict=True)) for power in (0, 1, 2)]
    right_side = [sum(wi * yi * xi**power for wi, xi, yi in zip(w, x[:3], y[:3], strict=True)) for power in (0, 1)]
    determinant = sums[0] * sums[2] - sums[1] ** 2
    b0 = (sums[2] * right_side[0] - sums[1] * right_side[1]) / determinant
    b1 = (sums[0] * right_side[1] - sums[1] * right_side[0]) / determinant
    squares = sum(wi * (yi - b0 - b1 * xi) ** 2 for wi, xi, yi in zip(w, x[:3], y[:3], strict=True))
    variance = (sums[2] - 2 * sums[1] * x[3] + sums[0] * x[3] ** 2) / determinant
    return b0 + b1 * x[3], variance, squares, y


def test_one_scatter_makes_the_squares_of_all_tasks_their_degrees_of_freedom() -> None:
    low, high = 0.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        too_small = sum(weighted(task, middle)[2] for task in POOL) > len(POOL)
        low, high = (middle, high) if too_small else (low, middle)
    for task in POOL:
        assert shown(task, "tau2") == pytest.approx(low, rel=PRINTED)
        assert shown(task, "df") == len(POOL)


@pytest.mark.parametrize("task", POOL)
def test_the_forecast_with_scatter_by_normal_equations(task: str) -> None:
    def share(at: float) -> float:
        return 1 / (1 + math.exp(-at))

    eta, variance, squares, y = weighted(task, shown(task, "tau2"))
    k, n = right(task, "davinci")
    binomial = 1 / (n * share(eta) * share(-eta))  # of n answers at the forecast
    s = math.sqrt(variance + shown(task, "tau2") + binomial)
    z, half = (y[3] - eta) / s, stats.t.ppf(0.95, len(POOL)) * s
    ends = [(share(y[3]) - share(eta - way * half), share(y[3] + way * half) - share(eta)) for way in (-1, 1)]
    assert shown(task, "forecast") == pytest.approx(share(eta), abs=2e-5)
    assert shown(task, "residual") == pytest.approx(k / n - share(eta), abs=2e-5)
    assert shown(task, "residual_low") == pytest.approx(min(ends[0]), abs=2e-5)
    assert shown(task, "residual_high") == pytest.approx(max(ends[1]), abs=2e-5)
    assert shown(task, "p_jump") == pytest.approx(stats.t.sf(z, len(POOL)), abs=2e-5)
    assert shown(task, "p_differs") == pytest.approx(2 * stats.t.sf(abs(z), len(POOL)), abs=2e-5)
    assert shown(task, "fit_p") == pytest.approx(stats.chi2.sf(squares, 1), abs=2e-5)


def test_a_rejected_line_has_no_verdict_on_emergence() -> None:
    for task, row in TABLE.items():
        rejected = shown(task, "fit_p") < 0.05
        assert (row["predictable"] == "line_rejected") == rejected
        assert (row["emergent"] == "") == (rejected or not row["p"])
