"""Overlaps, contrasts and the factorial against scipy's own tests, integrals and counts by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats
from scipy.optimize import minimize

from src.base import metrics
from src.base.errors import UserError
from src.base.schema import Model
from src.statistics import contrasts, factorial, overlap, own, power
from src.statistics.published import GAINS, gain_loss

TABLE = np.array([[6, 2], [3, 8]])


def test_hypergeometric_p_is_fishers_one_sided():
    found = overlap.overlap_statistics(TABLE, 0.05)
    assert found["hypergeometric_p"] == pytest.approx(stats.fisher_exact(TABLE, alternative="greater").pvalue, rel=1e-9)


def test_agreement_expectation_and_kappa_by_hand():
    found = overlap.overlap_statistics(TABLE, 0.05)
    # margins 8 and 11 of 19 (left), 9 and 10 (right): expected (8 * 9 + 11 * 10) / 19
    assert (found["n"], found["agree"]) == (19, 14)
    assert found["expected"] == pytest.approx(182 / 19)
    assert found["kappa"] == pytest.approx((14 - 182 / 19) / (19 - 182 / 19))


def test_overlap_power_at_odds_one_is_the_size_of_the_test():
    assert overlap.overlap_power(21, 10, 12, 0.05, odds=1.0) <= 0.05
    assert overlap.overlap_power(21, 10, 12, 0.05, odds=50) > overlap.overlap_power(21, 10, 12, 0.05, odds=5)


def test_three_way_agreement_by_hand():
    verdict = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 1, 1], [1, 1, 0, 0, np.nan]])
    found = overlap.all_agree(verdict)
    # four tasks known to all; shares above .5, .5, .5 -> expected 4 * (1/8 + 1/8)
    assert (found["n"], found["agree"], found["expected"]) == (4, 2, 1.0)


X = np.array([0.31, 0.52, 0.47, 0.28, 0.60, 0.44, 0.39, 0.71])
Y = np.array([0.25, 0.50, 0.49, 0.22, 0.51, 0.45, 0.31, 0.60])


def test_contrast_equals_scipy():
    found = contrasts.contrast(X, Y)
    assert found["t_p"] == pytest.approx(stats.ttest_1samp(X - Y, 0).pvalue, rel=1e-6)
    assert found["wilcoxon_p"] == pytest.approx(stats.wilcoxon(X, Y, correction=True).pvalue, rel=1e-6)
    half = stats.t.isf(0.025, 7) * (X - Y).std(ddof=1) / math.sqrt(8)
    assert found["ci_high"] - found["mean_diff"] == pytest.approx(half)


def test_tost_is_the_larger_of_two_one_sided_t_tests_at_five_points():
    d = X - Y
    two = (
        stats.ttest_1samp(d, -0.05, alternative="greater").pvalue,
        stats.ttest_1samp(d, 0.05, alternative="less").pvalue,
    )
    assert contrasts.contrast(X, Y)["tost_p"] == pytest.approx(max(two), rel=1e-6)


def test_bayes_factor_is_rouders_integral():
    # Rouder et al. (2009), eq. 1, Cauchy scale r = .707: BF10 = integral over g of an inverse chi-square prior
    n, r = 8, 0.707
    t, nu = stats.ttest_1samp(X - Y, 0).statistic, n - 1

    def integrand(g):
        scale = 1 + n * g * r**2
        prior = (2 * math.pi) ** -0.5 * g**-1.5 * math.exp(-1 / (2 * g))
        return scale**-0.5 * (1 + t**2 / (scale * nu)) ** (-(nu + 1) / 2) * prior

    marginal, _ = integrate.quad(integrand, 0, np.inf, epsabs=0, epsrel=1e-10, limit=300)
    assert contrasts.contrast(X, Y)["bf10"] == pytest.approx(marginal / (1 + t**2 / nu) ** (-(nu + 1) / 2), rel=1e-5)


def test_contrasts_of_nothing_say_so_instead_of_failing():
    assert contrasts.contrast(X, X) == {"n_tasks": 8, "mean_diff": 0.0, "median_diff": 0.0}
    assert "t_p" not in contrasts.contrast(X[:2], Y[:2])


def test_unpaired_input_is_refused():
    with pytest.raises(ValueError, match="same tasks"):
        contrasts.contrast(X, Y[:7])


def test_how_many_tasks_can_show_equivalence():
    # half-width 1.645 * sqrt(2 * .25 / n) < .05 needs n > 541.1
    rows = pd.DataFrame({"accuracy": 0.5, "n": [541, 542, 5000]})
    assert contrasts.can_show_equivalence(rows, rows) == 2


def cells(*rows):
    """Cells of one task each: (task, model, few, accuracy, p)."""
    frame = pd.DataFrame(rows, columns=["task", "model", "few", "accuracy", "p"])
    fixed = {"source": metrics.PUBLISHED, "primary": True, "prompt": "closed", "n": 100, "ci_low": 0.0, "ci_high": 1.0}
    frame = frame.assign(**fixed, family="f", tuned=frame["model"] == "left", chance=0.25, chance_scored=0.25)
    shots = np.where(frame["few"], 5, 0)
    return frame.assign(
        shots=shots,
        condition=np.where(frame["few"], "closed_few", "closed_zero"),
        above_raw=frame["accuracy"] > 0.25,
        fingerprint="f" * 12,
    )


def test_overlap_rows_correct_over_both_sides_together():
    left = [("a", 0.9, 0.001), ("b", 0.3, 0.03), ("c", 0.4, np.nan)]
    right = [("a", 0.9, 0.001), ("b", 0.2, 0.9), ("c", 0.9, 0.001)]
    frame = cells(
        *((task, "left", False, *rest) for task, *rest in left),
        *((task, "right", True, *rest) for task, *rest in right),
    )
    sides = overlap.by_condition(frame)
    found = overlap.overlap_rows(
        overlap.side(sides, "left", False), overlap.side(sides, "right", True), 0.05
    ).set_index("task")
    assert found["left_above"].tolist()[:2] == [True, False]  # .03 over five tests: Holm .06
    assert found["agree"].tolist()[:2] == [True, True]
    assert found["agree_raw"].tolist() == [True, False, True]
    assert pd.isna(found.loc["c", "agree"])  # no verdict on the left: neither agreement nor disagreement
    assert (
        found["agree"].count() == overlap.overlap_summary("x", *(overlap.side(sides, *s) for s in SIDES), 0.05)[1]["n"]
    )


SIDES = (("left", False), ("right", True))


def test_three_models_agree_on_no_task_where_one_has_no_verdict():
    """All alike on a, one apart on b; c has no chance level, so none of the three verdicts is there."""
    p = {"a": (0.001, 0.001, 0.001), "b": (0.001, 0.001, 0.9), "c": (np.nan, np.nan, np.nan)}
    rows = [
        (task, model, False, 0.9, each) for task, many in p.items() for model, each in zip("xyz", many, strict=True)
    ]
    claim = {"models": list("xyz"), "shots": 0}
    found, summary = overlap.figure5(overlap.by_condition(cells(*rows)), claim, 0.05)
    assert found.groupby("task")["agree_above"].first().tolist()[:2] == [True, False]
    assert found.loc[found["task"] == "c", "agree_above"].isna().all()
    assert summary.set_index("rule").loc["holm", ["n", "agree"]].tolist() == [2, 1]


def test_gains_are_corrected_over_the_pairs_of_one_prompt():
    rng = np.random.default_rng(3)
    rows = [
        cells(*((f"t{i}", model, few, value, 0.1) for i, value in enumerate(rng.uniform(size=9)))).assign(prompt=prompt)
        for prompt in ("closed", "closed_adv") for model in "abcd" for few in (False, True)
    ]  # fmt: skip
    table1 = [{"base": "a", "tuned": "b"}, {"base": "c", "tuned": "d"}]
    found = contrasts.difference_in_differences(overlap.by_condition(pd.concat(rows)), table1)
    assert list(found["pair"][:2]) == ["a against b, closed", "a against b, closed_adv"]
    for _, part in found.groupby("prompt"):
        small, large = sorted(part["t_p"])
        assert sorted(part["t_p_holm"]) == pytest.approx(sorted([min(1, 2 * small), max(large, min(1, 2 * small))]))


def test_skill_is_zero_at_chance_and_one_when_all_is_right():
    assert factorial.skill(0.25, 0.25) == 0
    assert factorial.skill(1.0, 0.25) == 1
    assert factorial.skill(0.625, 0.25) == 0.5


def factorial_frame():
    """Twelve tasks, 3 x 2 x 2, with a true effect of shots of .2 and none of tuning."""
    rng = np.random.default_rng(4)
    grid = [(f"t{t:02}", s, i, f) for t in range(12) for s in "abc" for i in ("base", "tuned") for f in ("few", "zero")]
    frame = pd.DataFrame(grid, columns=["task", "size", "tuned", "shots"])
    task = frame["task"].map(dict(zip(sorted(set(frame["task"])), rng.normal(0, 0.1, 12), strict=True)))
    return frame.assign(skill=task + 0.2 * (frame["shots"] == "few") + rng.normal(0, 0.03, len(frame)))


def test_two_factors_of_two_levels_equal_the_paired_t_test():
    # a within factor of two levels has F = t^2, whatever the correction
    frame = factorial_frame()
    found = factorial.two_way(frame).set_index(["analysis", "effect"])
    few, zero = (frame[frame["shots"] == level].groupby("task")["skill"].mean() for level in ("few", "zero"))
    assert found.loc[("rm_anova tuned x shots", "shots"), "f"] == pytest.approx(
        stats.ttest_rel(few, zero).statistic ** 2
    )


def test_uncorrected_three_way_equals_the_corrected_where_a_factor_has_two_levels():
    frame = factorial_frame()
    three, two = (
        factorial.three_way(frame).set_index("effect"),
        factorial.two_way(frame).set_index(["analysis", "effect"]),
    )
    assert three.loc["shots", "p"] == pytest.approx(two.loc[("rm_anova tuned x shots", "shots"), "p"], rel=1e-6)


def test_the_mixed_model_finds_the_effect_that_was_put_in():
    found = factorial.mixed_model(factorial_frame()).set_index("effect")
    shots = found.loc["C(shots, Treatment('zero'))[T.few]"]
    assert shots["ci_low"] < 0.2 < shots["ci_high"]
    assert shots["p"] < 1e-6


# sizes of slope and noise: inside the bound, with one variance on it, with both
SLOPES = [(0.1, 0.05), (0.02, 0.1), (0.0, 0.3), (0.0, 2.0)]


def slopes_frame(seed, slope=0.1, noise=0.1):
    """Nine tasks, 2 x 2 x 2: a random intercept, and a random slope of tuned that may go with it."""
    rng = np.random.default_rng(seed)
    grid = [(t, s, i, f) for t in range(9) for s in "ab" for i in ("base", "tuned") for f in ("few", "zero")]
    frame = pd.DataFrame(grid, columns=["task", "size", "tuned", "shots"])
    intercept, gain = rng.normal(0, 0.1, 9), rng.normal(0, slope, 9)
    skill = intercept[frame["task"]] + gain[frame["task"]] * (frame["tuned"] == "tuned")
    return frame.assign(skill=skill + rng.normal(0, noise, len(frame)))


def restricted_log_likelihood(frame, covariance):
    """Of a covariance (intercept, slope of tuned) relative to the residual variance, by the definition (Harville 1974).

    V = Z cov Z' + I per task; constants are left out.
    """
    wide = frame.pivot(index="task", columns=["tuned", "size", "shots"], values="skill").sort_index(axis=1)
    z = np.column_stack([np.ones(wide.shape[1]), wide.columns.get_level_values("tuned") == "tuned"])
    v = z @ covariance @ z.T + np.eye(wide.shape[1])
    apart = (wide - wide.mean()).to_numpy()
    df = (len(wide) - 1) * wide.shape[1]
    squares = np.einsum("ti,ij,tj", apart, np.linalg.inv(v), apart)
    return -0.5 * ((len(wide) - 1) * np.linalg.slogdet(v)[1] + df * np.log(squares))


@pytest.mark.parametrize(("slope", "noise"), SLOPES)
@pytest.mark.parametrize("seed", range(4))
def test_no_random_effects_are_more_likely_than_those_of_the_mixed_model(seed, slope, noise):
    """scipy from four starts, over every covariance (its root is free): inside the bound, and on it."""
    frame = slopes_frame(seed, slope, noise)
    found = restricted_log_likelihood(frame, factorial.random_effects(frame))
    rng = np.random.default_rng(seed)
    other = [
        -minimize(
            lambda x: -restricted_log_likelihood(frame, np.outer(x[:2], x[:2]) + np.outer(x[2:], x[2:])),
            rng.normal(0, 1, 4),
        ).fun
        for _ in range(4)
    ]
    assert found >= max(other) - 1e-9
    assert found == pytest.approx(max(other), abs=1e-6)


@pytest.mark.parametrize(("slope", "noise"), SLOPES)
@pytest.mark.parametrize("seed", range(4))
def test_the_mixed_models_intervals_are_those_of_its_optimum_and_six_digits_bear_noise(seed, slope, noise):
    """A mean over tasks has variance (cov + residual) / tasks; the residual variance is the one REML leaves."""
    frame = slopes_frame(seed, slope, noise)
    first = factorial.mixed_model(frame)
    assert first["converged"].all()
    covariance = factorial.random_effects(frame)
    wide = frame.pivot(index="task", columns=["tuned", "size", "shots"], values="skill").sort_index(axis=1)
    z = np.column_stack([np.ones(8), wide.columns.get_level_values("tuned") == "tuned"])
    apart = (wide - wide.mean()).to_numpy()
    within = np.linalg.inv(z @ covariance @ z.T + np.eye(8))
    scale = np.einsum("ti,ij,tj", apart, within, apart) / (8 * 8)
    half = stats.norm.isf(0.025) * np.sqrt(scale * (covariance[0, 0] + 1) / 9)
    intercept = first.set_index("effect").loc["Intercept"]
    assert (intercept["ci_high"] - intercept["ci_low"]) / 2 == pytest.approx(half, rel=3e-7)
    moved = frame.assign(skill=frame["skill"] + 1e-12 * np.random.default_rng(seed).normal(size=len(frame)))
    columns = ["estimate", "ci_low", "ci_high", "p"]
    np.testing.assert_allclose(factorial.mixed_model(moved)[columns], first[columns], rtol=3e-7, atol=1e-9)


def test_rank_correlation_by_hand():
    # ranks 1 2 3 4 5 against 1 3 2 5 4: rho = 1 - 6 * 4 / (5 * 24)
    long = pd.DataFrame(
        {"task": list("abcde") * 2, "metric": ["m1"] * 5 + ["m2"] * 5, "v": [1, 2, 3, 4, 5, 1, 3, 2, 5, 4]}
    )
    assert power.rank_correlations(long, "v", "x", 1)["rho"].iloc[0] == pytest.approx(0.8)


def test_table1_pairs_take_every_tuned_twin_and_skip_models_without():
    table1 = [{"base": "a", "tuned": ["b", "c"]}, {"base": "d", "tuned": None}, {"base": "e", "tuned": "f"}]
    assert contrasts.pairs_of(table1) == [("a", "b"), ("a", "c"), ("e", "f")]


def own_cell(hits, groups=None):
    index = pd.Index([f"t/{i}" for i in range(len(hits))], name="example_id")
    return pd.DataFrame({"y": np.array(hits, float), "group": groups or list(map(str, range(len(hits))))}, index=index)


def test_own_pairs_are_the_exact_sign_test_on_the_discordant_examples():
    # 6 examples gained, 1 lost, 3 the same: two-sided binomial 1 or fewer of 7 = 2 * (1 + 7) / 128
    x, y = own_cell([1] * 6 + [0] + [1, 0, 1]), own_cell([0] * 6 + [1] + [1, 0, 1])
    found = own.own_pair(x, y, "here", seed=1)
    assert found["p"] == pytest.approx(16 / 128)
    assert found["mean_diff"] == pytest.approx(0.5)
    assert found["ci_low"] < 0.5 < found["ci_high"]


def test_own_pairs_that_share_contexts_flip_whole_groups():
    # three groups with sums 2, 2, 2: of the 8 sign patterns, 2 are as extreme
    groups = ["a", "a", "b", "b", "c", "c"]
    found = own.own_pair(own_cell([1] * 6, groups), own_cell([0] * 6, groups), "here", seed=1)
    assert (found["test"], found["groups"]) == ("sign_flip", 3)
    assert found["p"] == pytest.approx(2 / 8)


def test_own_pairs_with_other_examples_are_refused():
    with pytest.raises(UserError, match="different examples"):
        own.own_pair(own_cell([1, 0, 1]), own_cell([1, 0]), "here", seed=1)


def test_the_reference_of_gains_and_losses_is_the_model_whose_accuracy_explains_them():
    """b gained 5 and lost 2 against a (n 10, .3 up); what c says fits neither."""
    rows = []
    for task, base in (("t", 0.2), ("u", 0.5)):
        for model, accuracy, gain, loss in (("a", base, None, None), ("b", base + 0.3, 5, 2), ("c", base + 0.1, 4, 1)):
            rows.append(
                {"task": task, "prompt": "closed", "shots": 0, "model": model, "n_examples": 10,
                 "exact_match": accuracy, "exact_match_gain": gain, "exact_match_loss": loss,
                 "bertscore_accuracy": None, "bertscore_gain": None, "bertscore_loss": None}
            )  # fmt: skip
    table = pd.DataFrame(rows).astype({name: float for pair in GAINS.values() for name in pair})
    found = gain_loss(table.astype({"bertscore_accuracy": float}), {"b": Model(tuned=True)}).set_index("model")
    assert (found.loc["b", "reference"], found.loc["b", "compares"], found.loc["b", "fits"]) == ("a", "tuning", 2)
    assert (found.loc["b", "gain"], found.loc["b", "loss"]) == (10, 4)
    assert pd.isna(found.loc["c", "reference"])


def test_the_published_gains_are_counted_against_these_models():
    """Checked on the published scores: every cell of each fits one model, and no other."""
    from src import config, stats

    setting = stats.read_setting(config.ROOT)
    published = stats.read_published(config.ROOT / stats.PUBLISHED_SCORES, setting.tasks)
    found = gain_loss(published, setting.models)
    clear = found.dropna(subset=["reference"])
    assert (clear["fits"] == clear["cells"]).all()
    assert dict(zip(clear["model"], clear["reference"], strict=True)) == {
        "falcon_40b_instruct": "falcon_40b", "falcon_7b_instruct": "falcon_7b", "flan_t5_large": "flan_t5_small",
        "flan_t5_small": "t5_small", "gpt2_it": "gpt2", "gpt2_xl": "gpt2", "gpt2_xl_it": "gpt2_it",
        "gptj_6b": "gpt2_xl", "gptjt_6b": "gpt2_xl_it", "t5_large": "t5_small",
    }  # fmt: skip
    assert set(clear[clear["compares"] == "tuning"]["model"]) == {
        "falcon_40b_instruct", "falcon_7b_instruct", "flan_t5_small", "gpt2_it",
    }  # fmt: skip


def test_noise_of_floats_splits_no_tie_of_a_contrast():
    """.3 - .2 and .2 - .1 are both .1, but not as floats; nor is .1 + .2 - .3 nothing."""
    y = np.array([0.2, 0.1, 0.4, 0.0, 0.3, 0.5])
    noisy, clean = (
        contrasts.contrast(np.array([0.3, 0.2, 0.3, 0.1, 0.1 + 0.2, 0.7]), y),
        contrasts.contrast(np.array([1, 1, -1, 1, 0, 2]) / 8, np.zeros(6)),
    )
    assert noisy["wilcoxon_p"] == clean["wilcoxon_p"]
    assert noisy["pratt_p"] == clean["pratt_p"]


def test_a_contrast_of_equal_sides_has_no_test_though_floats_differ():
    assert "wilcoxon_p" not in contrasts.contrast(np.full(5, 0.1 + 0.2), np.full(5, 0.3))
