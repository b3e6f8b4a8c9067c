"""Tests, intervals and power on numbers and arrays. Definitions: docs/statistics.md."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint, proportion_effectsize

from src.statistics.items import NAN, Array

OUTSIDE_95 = 0.05
"""Share that a two-sided 95 % interval leaves outside."""

OUTSIDE_90 = 0.10
"""Share that a two-sided 90 % interval leaves outside."""

# columns of pingouin 0.7
PG_P, PG_TOST_P, PG_GG, PG_UNCORRECTED, PG_SOURCE = "p_val", "pval", "p_GG_corr", "p_unc", "Source"


def binomial_tail(k: Any, n: Any, chance: Any) -> Any:
    """P(X >= k) of a binomial; NaN where `chance` is."""
    return stats.binom.sf(np.asarray(k) - 1, n, chance)


def binomial_lower_tail(k: Any, n: Any, chance: Any) -> Any:
    """P(X <= k) of a binomial; NaN where `chance` is."""
    return stats.binom.cdf(np.asarray(k), n, chance)


def tail(k: Any, guess: Array) -> Any:
    """P(X >= k) for a sum of independent draws with probabilities `guess` (n,); k: a count or an array of counts.

    Read off the mirrored distribution, P(n - X <= n - k): scipy takes Poisson-binomial survival as 1 - cdf, which
    loses every digit of a small p.
    """
    n = len(guess)
    if np.ptp(guess) == 0:
        return stats.binom.sf(np.asarray(k) - 1, n, guess[0])
    return stats.poisson_binom.cdf(n - np.asarray(k), 1 - guess)


def lower_tail(k: Any, guess: Array) -> Any:
    """P(X <= k) for a sum of independent draws with probabilities `guess` (n,); k: a count or an array of counts."""
    return tail(len(guess) - np.asarray(k), 1 - guess)


def raised(guess: Array, by: float) -> Array:
    """The probabilities `guess`, each `by` higher and at most 1."""
    return np.minimum(guess + by, 1)


def tails(
    k: Sequence[float],
    guess: Sequence[Array | None],
    side: Callable[[Any, Array], Any] = tail,
    over: float = 0.0,
) -> Array:
    """`side` (`tail` or `lower_tail`) of each row at its guess raised by `over`. NaN where the guess is None.

    Rows that share a guess are computed together.
    """
    out, rows = np.full(len(k), NAN), defaultdict[int, list[int]](list)
    for i, each in enumerate(guess):
        rows[id(each)].append(i)
    for index in rows.values():
        each = guess[index[0]]
        if each is not None:
            out[index] = side(np.asarray(k)[index], raised(each, over))
    return out


def wilson(k: Any, n: Any) -> tuple[Any, Any]:
    """Wilson 95 % interval of a share (statsmodels)."""
    low, high = proportion_confint(k, n, alpha=OUTSIDE_95, method="wilson")
    return low, high


def newcombe(k1: Any, n1: Any, k2: Any, n2: Any) -> tuple[Array, Array]:
    """Newcombe's 95 % interval of k1/n1 - k2/n2, independent samples (statsmodels); arguments of one shape (rows,)."""
    from statsmodels.stats.proportion import confint_proportions_2indep as interval

    columns = np.broadcast_arrays(*map(np.asarray, (k1, n1, k2, n2)))
    ends = np.array(
        [interval(*row, method="newcomb", alpha=OUTSIDE_95) for row in zip(*columns, strict=True)], dtype=float
    )
    return ends[:, 0], ends[:, 1]


def cohen_h(accuracy: Any, chance: Any) -> Any:
    """2 asin sqrt(accuracy) - 2 asin sqrt(chance) (statsmodels)."""
    return proportion_effectsize(np.asarray(accuracy, dtype=float), np.asarray(chance, dtype=float))


def log10_bayes_factor(k: Any, n: Any, chance: Any) -> Any:
    """log10 of the one-sided Bayes factor of "accuracy uniform on (chance, 1)" against "accuracy = chance"."""
    k, n, chance = (np.asarray(value, dtype=float) for value in (k, n, chance))
    with np.errstate(divide="ignore", invalid="ignore"):
        marginal = special.betaln(k + 1, n - k + 1) + np.log(special.betaincc(k + 1, n - k + 1, chance))
        null = np.log1p(-chance) + special.xlogy(k, chance) + special.xlog1py(n - k, -chance)
        return (marginal - null) / np.log(10)


def bayes_factor(k: Any, n: Any, chance: Any) -> Any:
    """BF10 of statistics.md; infinite where it exceeds 1e308."""
    with np.errstate(over="ignore"):
        return np.power(10.0, log10_bayes_factor(k, n, chance))


def min_detectable(n: Any, chance: Any, alpha: Any, power: float = 0.8) -> Any:
    """Smallest accuracy that the exact binomial test at `alpha` finds above `chance` with the given power.

    NaN where even n of n is not significant. P(X >= k | a) is the regularised incomplete beta I_a(k, n - k + 1).
    """
    critical = stats.binom.isf(alpha, n, chance) + 1
    return np.where(critical <= n, special.betaincinv(critical, np.maximum(n - critical + 1, 1), power), NAN)


def power_at(n: int, chance: float, accuracy: float, alpha: float) -> float:
    """Power of the exact binomial test of `chance` where the true accuracy is `accuracy`."""
    return float(stats.binom.sf(stats.binom.isf(alpha, n, chance), n, accuracy))


def adjust(p: Any, method: str) -> Array:
    """Holm ("holm") or Benjamini-Hochberg ("fdr_bh") over the values that are not null; null stays null."""
    import pingouin as pg  # statsmodels' does the same, and collects garbage at each call

    values = np.asarray(p, dtype=float)
    out, there = np.full(values.shape, NAN), ~np.isnan(values)
    if there.any():
        out[there] = pg.multicomp(values[there], method=method)[1]
    return out


def content_free(stratum: Array, picked: Array, gold: Array, seed: int, draws: int = 2000) -> float:
    """p_content: are picks matched to their examples better than the same picks shuffled among examples?

    stratum and gold have shape (n,). picked has shape (seeds, n), with -1 for an unparsed answer. O is the number
    right, mean over seeds, and O* the same after permuting examples within strata: p = (1 + #{O* >= O}) / (draws + 1).
    """
    rng = np.random.default_rng(seed)
    right = float((picked == gold).mean(axis=0).sum())
    shuffled = np.zeros(draws)
    for each in np.unique(stratum):
        (index,) = np.nonzero(stratum == each)
        order = rng.permuted(np.tile(index.astype(np.int32), (draws, 1)), axis=1)
        shuffled += np.mean([(row[order] == gold[index]).sum(axis=1) for row in picked], axis=0)
    return float((1 + (shuffled >= right - 1e-9).sum()) / (draws + 1))


def seed_se(scores: Array) -> float:
    """Standard error from seeds; scores (seeds, n): sqrt(s2 / (S n)), s2 the mean over examples of their variance."""
    seeds, n = scores.shape
    return float(np.sqrt(scores.var(axis=0, ddof=1).mean() / (seeds * n))) if seeds > 1 else NAN


def sign_flip(sums: Array, seed: int, flips: int = 100_000) -> float:
    """Two-sided p of group sums (G,) under random signs: all 2^G up to 20 groups, else seeded flips (scipy)."""
    sums = sums[sums != 0]
    if len(sums) < 2:  # both signs of one sum are as far from 0
        return 1.0
    if len(sums) <= 20:
        return all_flips(sums)
    result = stats.permutation_test(
        (sums,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        n_resamples=flips,
        vectorized=True,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def all_flips(sums: Array) -> float:
    """The share of all signs of the sums (G,) whose total is as far from 0 as the observed one.

    It is scipy's exact permutation test of samples, which takes seconds at 20 groups.
    """
    totals = np.zeros(1)
    for each in sums:
        totals = np.concatenate([totals + each, totals - each])
    noise = 1e-12 * np.abs(sums).sum()  # totals that are equal but for rounding
    return float((np.abs(totals) >= abs(sums.sum()) - noise).mean())


DECIMALS = 9
"""Digits behind the point that count in a ranking: beyond them, differences of equal accuracies differ by noise."""


def ranks(values: Array) -> Array:
    """Ranks (n,) of values rounded to DECIMALS; ties share the mean of theirs."""
    return stats.rankdata(np.round(values, DECIMALS))


def _products(x: Array, y: Array) -> Array:
    """Sum of products of ranks (..., n) and (n,): for fixed margins it orders permutations as Spearman's rho does."""
    return x @ y


def _concordant(x: Array, y: Array) -> Array:
    """Concordant less discordant pairs, twice; x (..., n), y (n,): orders permutations as Kendall's tau-b does."""
    signs = np.sign(x[..., :, None] - x[..., None, :])
    return (signs * np.sign(y[:, None] - y[None, :])).sum(axis=(-2, -1))


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation, its statistic under permutation, and the variance of its Fisher z (Bonett, Wright 2000)."""

    coefficient: Callable[[Array, Array], Any]
    permuted: Callable[[Array, Array], Array]
    variance: Callable[[float], float]  # times n - lost
    lost: int


RANK_CORRELATIONS: Mapping[str, RankCorrelation] = {
    "spearman": RankCorrelation(stats.spearmanr, _products, lambda rho: 1 + rho**2 / 2, lost=3),
    "kendall": RankCorrelation(stats.kendalltau, _concordant, lambda tau: 0.437, lost=4),
}


def rank_correlation(
    x: Any, y: Any, seed: int, kind: str = "spearman", draws: int = 9999
) -> tuple[float, float, float, float]:
    """(coefficient, low, high, p) of the pairs of x and y (n,) that have no null; values are rounded to DECIMALS.

    p: two-sided permutation test, all permutations up to 8 pairs, else `draws` seeded ones and the observed one. low,
    high: 95 % interval of Bonett and Wright (2000, Psychometrika 65), NaN at a coefficient of 1 or -1 and with too few
    pairs. All four are NaN with fewer than three pairs, and where a side is constant.
    """
    pairs = np.array([x, y], dtype=float)
    a, b = (ranks(side) for side in pairs[:, ~np.isnan(pairs).any(axis=0)])
    n, this = len(a), RANK_CORRELATIONS[kind]
    if n < 3 or min(np.ptp(a), np.ptp(b)) == 0:
        return NAN, NAN, NAN, NAN
    rho = float(np.clip(round(float(this.coefficient(a, b).statistic), 12), -1, 1))
    p = stats.permutation_test(
        (a,),
        lambda values, axis: this.permuted(values, b),
        permutation_type="pairings",
        n_resamples=math.factorial(8) if n <= 8 else draws,
        batch=10_000,
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).pvalue
    if abs(rho) == 1 or n <= this.lost:
        return rho, NAN, NAN, float(p)
    half = stats.norm.isf(OUTSIDE_95 / 2) * math.sqrt(this.variance(rho) / (n - this.lost))
    return rho, math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half), float(p)


def kappa(square: Array, one_constant: float = NAN) -> float:
    """Cohen's kappa of a square table of counts (statsmodels).

    It is NaN where both raters use one and the same category only. `one_constant` is its value where a rater uses one
    category only and the other does not agree throughout: agreement then is what chance gives.
    """
    square = np.asarray(square, dtype=float)
    if np.trace(square) == square.max() == square.sum():
        return NAN
    if min((square.sum(axis=0) > 0).sum(), (square.sum(axis=1) > 0).sum()) < 2:
        return one_constant
    return float(cohens_kappa(square, return_results=False))
