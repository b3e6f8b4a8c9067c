"""Each number is checked by another route than the code's; the source stands beside it."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from src.base.metrics import MARGIN
from src.question.examples import Example
from src.statistics.items import Items, content_codes, fit_length, gold_skew_p, items_of, scorable, trivial, trivial_cv
from src.statistics.tests import (
    adjust,
    bayes_factor,
    cohen_h,
    content_free,
    log10_bayes_factor,
    lower_tail,
    min_detectable,
    power_at,
    rank_correlation,
    seed_se,
    sign_flip,
    tail,
    tails,
    wilson,
)


def made(options: list[tuple[str, ...]], targets: list[int], groups: list[str] | None = None) -> Items:
    """Test items made by hand."""
    groups = groups or [str(i) for i in range(len(options))]
    return items_of(
        [
            Example(f"t/{i:03}", g, f"q{i}", o, t, answer="", exemplar=None)
            for i, (o, t, g) in enumerate(zip(options, targets, groups, strict=True))
        ]
    )


def by_enumeration(k: int, guess: list[Fraction]) -> Fraction:
    """P(X >= k) summed over all 2^n outcomes, in exact fractions."""
    ways = product((0, 1), repeat=len(guess))
    return sum(
        (math.prod(p if hit else 1 - p for hit, p in zip(way, guess, strict=True)) for way in ways if sum(way) >= k),
        Fraction(0),
    )


@pytest.mark.parametrize("k", range(8))
def test_tail_equals_the_sum_over_all_outcomes(k):
    guess = [Fraction(1, m) for m in (2, 2, 3, 4, 4, 5, 10)]
    assert tail(k, np.array([float(p) for p in guess])) == pytest.approx(float(by_enumeration(k, guess)), rel=1e-12)


def test_tail_of_equal_guesses_is_the_binomial_sum_in_exact_fractions():
    # davinci on analytic_entailment, Table 2: 34 of 65 with two options
    exact = sum(Fraction(math.comb(65, j), 2**65) for j in range(34, 66))
    assert tail(34, np.full(65, 0.5)) == pytest.approx(float(exact), rel=1e-12)
    assert float(exact) == pytest.approx(0.4022, abs=1e-4)


def test_tail_keeps_its_digits_where_one_minus_the_cdf_has_none():
    guess = np.array([0.25] * 150 + [0.25 + 1e-12] * 150)
    exact = sum(Fraction(math.comb(300, j) * 3 ** (300 - j), 4**300) for j in range(201, 301))
    assert tail(201, guess) == pytest.approx(float(exact), rel=1e-6)
    assert stats.poisson_binom.sf(200, guess) == pytest.approx(0, abs=1e-12)  # the hazard: no correct digit


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5]), min_size=1, max_size=30))
def test_tail_falls_from_one_as_k_rises(guess):
    values = tail(np.arange(len(guess) + 1), np.array(guess))
    assert values[0] == pytest.approx(1)
    assert (np.diff(values) <= 1e-12).all()
    assert (values >= -1e-15).all()


def test_tails_groups_rows_and_leaves_null_where_there_is_no_chance():
    guess = np.array([0.5, 0.25, 0.2])
    found = tails([2, 1, 3], [guess, None, guess])
    assert found[[0, 2]] == pytest.approx([tail(2, guess), tail(3, guess)])
    assert np.isnan(found[1])


@pytest.mark.parametrize("k", range(8))
def test_lower_tail_equals_the_sum_over_all_outcomes(k):
    guess = [Fraction(1, m) for m in (2, 2, 3, 4, 4, 5, 10)]
    expected = 1 - by_enumeration(k + 1, guess)
    assert lower_tail(k, np.array([float(p) for p in guess])) == pytest.approx(float(expected), rel=1e-12)


def test_lower_tail_keeps_its_digits_where_it_is_small():
    exact = sum(Fraction(math.comb(300, j) * 3 ** (300 - j), 4**300) for j in range(6))
    for guess in (np.full(300, 0.25), np.array([0.25] * 150 + [0.25 + 1e-12] * 150)):
        assert lower_tail(5, guess) == pytest.approx(float(exact), rel=1e-6)


@settings(deadline=None)
@given(st.floats(0.001, 0.949), st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_test_above_chance_and_the_test_short_of_five_points_over_it_are_mirrors(chance, pair):
    """k right above chance c is n - k right short of five points over 1 - c - .05, and the other way round."""
    k, n = pair
    bars, mirrored = ([np.full(n, c)] for c in (chance, 1 - chance - MARGIN))
    above, short = tails([k], bars), tails([k], bars, lower_tail, MARGIN)
    assert tails([n - k], mirrored, lower_tail, MARGIN) == pytest.approx(above, rel=1e-6)
    assert tails([n - k], mirrored) == pytest.approx(short, rel=1e-6)


def test_five_points_over_a_bar_of_nearly_one_is_one():
    assert tails([3], [np.full(4, 0.99)], lower_tail, MARGIN) == pytest.approx(0)  # 4 of 4 is certain
    assert tails([4], [np.full(4, 0.99)], lower_tail, MARGIN) == pytest.approx(1)


def test_wilson_is_the_published_example():
    # Newcombe (1998), Statistics in Medicine 17, Table I: 81 of 263, score method without continuity correction
    low, high = wilson(81, 263)
    assert (low, high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_closed_form(pair):
    k, n = pair
    z, share = 1.959963984540054, k / n
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    expected = ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
    assert wilson(k, n) == pytest.approx(expected, abs=1e-9)


def test_cohen_h_of_half_against_a_quarter_is_a_sixth_of_pi():
    assert cohen_h(0.5, 0.25) == pytest.approx(math.pi / 6)


@pytest.mark.parametrize(("k", "n", "c"), [(34, 65, 0.5), (17, 45, 0.2231), (2, 40, 0.25), (122, 675, 0.2)])
def test_bayes_factor_is_the_integral_over_its_prior(k, n, c):
    # uniform prior on (c, 1) against the point c, likelihoods by numerical integration
    def likelihood(a):
        return math.exp(k * (math.log(a) - math.log(c)) + (n - k) * (math.log1p(-a) - math.log1p(-c)))

    marginal, _ = integrate.quad(likelihood, c, 1 - 1e-12, epsabs=0, epsrel=1e-10, limit=500)
    assert bayes_factor(k, n, c) == pytest.approx(marginal / (1 - c), rel=1e-6)


def test_bayes_factor_beyond_the_range_of_floats_keeps_its_logarithm():
    assert bayes_factor(6000, 6607, 0.5) == np.inf
    assert 500 < log10_bayes_factor(6000, 6607, 0.5) < 2000


@pytest.mark.parametrize(("n", "c"), [(45, 0.25), (65, 0.5), (29, 0.2448)])
def test_min_detectable_is_the_least_accuracy_of_a_search(n, c):
    critical = next(k for k in range(n + 2) if stats.binom.sf(k - 1, n, c) <= 0.05)
    grid = np.linspace(c, 1, 200_001)
    searched = grid[np.argmax(stats.binom.sf(critical - 1, n, grid) >= 0.8)]
    assert min_detectable(n, c, 0.05) == pytest.approx(searched, abs=1e-5)


def test_min_detectable_is_null_where_not_even_all_right_is_significant():
    assert np.isnan(min_detectable(3, 0.5, 0.05))


def test_power_at_is_the_tail_beyond_the_critical_count():
    # n = 10, c = .5: P(X >= 9) = 11/1024 <= .05 < P(X >= 8) = 56/1024; power at .8 is P(X >= 9 | .8)
    assert power_at(10, 0.5, 0.8, 0.05) == pytest.approx(0.8**10 + 10 * 0.8**9 * 0.2)


def test_holm_and_benjamini_hochberg_by_hand_and_null_rows_do_not_count():
    p = [0.01, np.nan, 0.04, 0.03]
    # Holm: .01*3, then max(.03, .03*2), then max(.06, .04)
    assert adjust(p, "holm") == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)
    # BH: from the largest: .04*3/3, min(.04, .03*3/2), min(.04, .01*3/1)
    assert adjust(p, "fdr_bh") == pytest.approx([0.03, np.nan, 0.04, 0.04], nan_ok=True)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_a_correction_never_makes_p_smaller_and_holm_is_the_stricter(p):
    holm, bh = adjust(p, "holm"), adjust(p, "fdr_bh")
    assert (holm >= bh - 1e-12).all()
    assert (bh >= np.array(p) - 1e-12).all()


def test_published_n_that_differs_keeps_the_test_conservative():
    guess = np.array([0.25] * 85 + [0.0] * 32)
    assert fit_length(guess, 116).sum() == pytest.approx(85 * 0.25)  # one item missing: an unscorable one
    assert fit_length(np.full(4, 0.5), 6, [0.25, 0.25]).tolist() == [0.5] * 4 + [0.25] * 2  # exemplars left in


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 30))
def test_fit_length_gives_n_guesses(guess, n):
    assert len(fit_length(np.array(guess), n)) == n


AB = ("a", "b")


def test_trivial_is_the_best_position_or_label_and_never_below_chance():
    yes_first, no_first = ("yes", "no"), ("no", "yes")
    labels = made([yes_first, no_first, yes_first, no_first], [0, 1, 0, 0])  # "yes" right 3 of 4, first 3 of 4
    assert trivial(labels) == 0.75
    assert trivial(made([yes_first, no_first], [0, 1])) == 1.0  # always "yes"
    distinct = made([(f"a{i}", f"b{i}", f"c{i}") for i in range(3)], [0, 1, 2])
    assert trivial(distinct) == pytest.approx(1 / 3)


def test_cross_validated_trivial_is_one_for_a_constant_key_and_zero_for_a_key_it_cannot_learn():
    assert trivial_cv(made([AB] * 20, [0] * 20), seed=1) == 1.0
    # two items, two folds of use: the policy learnt on one is wrong on the other
    assert trivial_cv(made([("a", "b"), ("c", "d")], [0, 1]), seed=1) == 0.0


def test_gold_skew_is_the_exact_probability():
    # three items of two options, all gold first: P(largest share = 3) = 2 / 8
    assert gold_skew_p(made([AB] * 3, [0, 0, 0]), seed=3) == pytest.approx(0.25, abs=0.01)


def test_same_seed_same_number_to_the_last_bit():
    these = made([AB] * 30, [i % 3 == 0 for i in range(30)])
    assert gold_skew_p(these, 7) == gold_skew_p(these, 7)
    assert trivial_cv(these, 7) == trivial_cv(these, 7)


def test_content_p_is_the_share_of_all_permutations():
    pick, gold = [0, 0, 1, 1, 2, -1], [0, 0, 1, 2, 2, 1]
    right = sum(a == b for a, b in zip(pick, gold, strict=True))
    counts = [sum(a == b for a, b in zip(order, gold, strict=True)) for order in permutations(pick)]
    p = content_free(np.zeros(6), np.array([pick]), np.array(gold), seed=5, draws=20_000)
    assert p == pytest.approx(np.mean([c >= right for c in counts]), abs=0.01)


def test_a_model_that_always_gives_the_majority_answer_shows_no_content():
    assert content_free(np.zeros(50), np.zeros((1, 50), int), (np.arange(50) > 39).astype(int), seed=1) == 1.0


def test_label_tasks_compare_labels_wherever_they_stand():
    these = made([("yes", "no"), ("no", "yes"), ("yes", "no")], [0, 1, 1])
    stratum, pick, gold = content_codes(these, np.array([[0, 1, -1]]))
    assert len(set(stratum.tolist())) == 1
    assert pick[0, 0] == pick[0, 1] == gold[0] == gold[1] != gold[2]  # "yes" first or second is one label
    assert pick[0, 2] == -1


def test_the_published_scorer_cannot_reach_options_that_keep_their_full_stop():
    these = made([("It rained.", "no"), ("a", "b")], [0, 0])
    assert scorable(these, stops_stripped=False).tolist() == [False, True]
    assert scorable(these, stops_stripped=True).all()


def test_seed_se_by_hand():
    # variances over 2 seeds: .5, 0, .5, 0 -> s2 = .25; sqrt(.25 / (2 * 4))
    assert seed_se(np.array([[0, 1, 1, 0], [1, 1, 0, 0]])) == pytest.approx(math.sqrt(0.25 / 8))
    assert np.isnan(seed_se(np.ones((1, 4))))


def test_sign_flip_is_the_share_of_all_sign_patterns():
    sums = np.array([1.0, 2.0, 2.5, -0.5, 3.0])
    flipped = [abs(np.dot(signs, sums)) for signs in product((-1, 1), repeat=5)]
    assert sign_flip(sums, seed=1) == pytest.approx(np.mean(np.array(flipped) >= abs(sums.sum()) - 1e-12))


KINDS = {
    "spearman": lambda a, b: stats.spearmanr(a, b).statistic,
    "kendall": lambda a, b: stats.kendalltau(a, b).statistic,
}
FEW = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=6)


def varied(pairs: list[tuple[int, int]]) -> bool:
    return all(len(set(side)) > 1 for side in zip(*pairs, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(pairs=FEW.filter(varied))
def test_p_of_a_rank_correlation_is_the_share_of_all_orders(kind, pairs):
    x, y = np.array(pairs, dtype=float).T
    rho, _, _, p = rank_correlation(x, y, 1, kind)
    every = np.array([KINDS[kind](np.array(order), y) for order in permutations(x)])
    sides = (every >= rho - 1e-9).mean(), (every <= rho + 1e-9).mean()
    assert rho == pytest.approx(KINDS[kind](x, y))
    assert p == pytest.approx(min(1, 2 * min(sides)))


@pytest.mark.parametrize("kind", KINDS)
def test_four_points_in_one_order_are_two_of_24_and_have_no_interval(kind):
    for sign in (1, -1):
        rho, low, high, p = rank_correlation([1, 2, 3, 4], sign * np.array([1, 2, 5, 9]), 1, kind)
        assert (rho, p) == (sign, pytest.approx(2 / 24))
        assert np.isnan([low, high]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_p_of_a_rank_correlation_of_many_points_is_never_zero_and_repeats(kind):
    x = np.arange(40)
    found = rank_correlation(x, x**2, 3, kind)
    assert found[3] == pytest.approx(2 / 10_000)  # 9,999 draws and the observed order, two-sided
    noisy = np.random.default_rng(1).permutation(40)
    assert rank_correlation(x, noisy, 3, kind) == rank_correlation(x, noisy, 3, kind)


def test_interval_of_spearman_is_that_of_bonett_and_wright():
    # Bonett and Wright (2000), eq. 5: tanh(atanh(r) -+ z sqrt((1 + r^2 / 2) / (n - 3)))
    x, y = np.random.default_rng(4).random((2, 22))
    rho, low, high, _ = rank_correlation(x, y, 1)
    half = 1.959963984540054 * math.sqrt((1 + rho**2 / 2) / 19)
    assert (math.atanh(low), math.atanh(high)) == pytest.approx((math.atanh(rho) - half, math.atanh(rho) + half))
    tau, low, high, _ = rank_correlation(x, y, 1, "kendall")
    half = 1.959963984540054 * math.sqrt(0.437 / 18)
    assert (math.atanh(low), math.atanh(high)) == pytest.approx((math.atanh(tau) - half, math.atanh(tau) + half))


def test_a_rank_correlation_knows_ties_through_noise_and_leaves_out_pairs_with_a_null():
    x, y = np.array([0.1 + 0.2, 0.3, 0.5, 0.7, np.nan, 1]), np.array([1, 2, 3, 4, 5, np.nan])
    assert rank_correlation(x, y, 1) == pytest.approx(rank_correlation([1, 1, 2, 3], [1, 2, 3, 4], 1), nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_correlation_mirrors_when_one_side_is_negated(kind):
    x, y = np.random.default_rng(8).random((2, 7))
    rho, low, high, p = rank_correlation(x, y, 1, kind)
    assert rank_correlation(x, -y, 1, kind) == pytest.approx((-rho, -high, -low, p))


@pytest.mark.parametrize("pair", [([1, 2], [1, 2]), ([1, 1, 1, 1], [1, 2, 3, 4])])
def test_a_rank_correlation_of_two_points_or_of_a_constant_is_null(pair):
    assert np.isnan(rank_correlation(*pair, 1)).all()
