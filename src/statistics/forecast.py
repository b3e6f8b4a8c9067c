"""Lines through the smaller models of many tasks, one scatter between models, and the largest model against its line.

Arrays only. A row is a task and a column is a model, smallest first; NaN where a task lacks a model. The rules are in
docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats
from scipy.special import expit, logit
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from src.base.metrics import MARGIN
from src.statistics.items import NAN, Array
from src.statistics.tests import OUTSIDE_90

FAR = 0.10
"""How near a forecast must be to count as predicted."""
LEAST = 0.25
"""The fewest right, and the fewest wrong, that a count is taken for. So no logit is infinite."""


def clipped(accuracy: Array, n: Array) -> Array:
    """Shares right, not nearer to 0 or 1 than LEAST examples; the count accuracy * n is not rounded."""
    return np.clip(accuracy * n, LEAST, n - LEAST) / n


def logit_variance(share: Array, n: Array) -> Array:
    """Binomial variance of logit(share): 1 / (n share (1 - share))."""
    return 1 / (n * share * (1 - share))


def expected_variance(eta: Any, n: Any) -> Any:
    """Binomial variance of the logit of n answers where the accuracy is the forecast, expit(eta).

    It does not depend on how many are right. With the variance at the observed accuracy all right would be weaker
    evidence than nearly all right (Hauck and Donner 1977, JASA 72: 851).
    """
    return logit_variance(clipped(expit(eta), np.asarray(n, dtype=float)), n)


@dataclass(frozen=True)
class Lines:
    """One weighted least-squares line a task; arrays (tasks,).

    It goes through (x, y), the weighted means. weight: sum of the weights; spread: weighted squares of x around its
    mean; squares: weighted squares of the residuals; df: models less two.
    """

    x: Array
    y: Array
    slope: Array
    weight: Array
    spread: Array
    squares: Array
    df: Array

    def at(self, x: Array) -> Array:
        """Heights of the lines at x: (tasks,), or (tasks, models) for x of shape (models, 1)."""
        return self.y + self.slope * (x - self.x)

    def variance(self, x: float) -> Array:
        """Variance of the heights at x, where a weight is one over a known variance."""
        return 1 / self.weight + (x - self.x) ** 2 / self.spread

    @property
    def fit_p(self) -> Array:
        """Chi-squared tail of the squares; NaN for a line through two models, which is exact."""
        return np.where(self.df > 0, stats.chi2.sf(self.squares, np.maximum(self.df, 1)), NAN)


def weighted_lines(x: Array, y: Array, v: Array, tau2: float) -> Lines:
    """A line for each task with weights 1 / (v + tau2).

    x: (models,) log10 parameters; y: (tasks, models) logits; v: their variances. A NaN of y has no weight.
    """
    known = ~np.isnan(y)
    w = np.where(known, 1 / (np.where(known, v, 1) + tau2), 0)
    y = np.where(known, y, 0)
    weight = w.sum(axis=1)
    x_mean, y_mean = (w * x).sum(axis=1) / weight, (w * y).sum(axis=1) / weight
    dx, dy = x - x_mean[:, None], y - y_mean[:, None]
    spread = (w * dx**2).sum(axis=1)
    slope = (w * dx * dy).sum(axis=1) / spread
    squares = (w * (dy - slope[:, None] * dx) ** 2).sum(axis=1)
    return Lines(x_mean, y_mean, slope, weight, spread, squares, known.sum(axis=1) - 2)


def scatter_between(x: Array, y: Array, v: Array) -> tuple[float, int]:
    """(tau2, df): the one variance between models, and the degrees of freedom it is estimated with.

    It makes the weighted squares around all lines equal their degrees of freedom, and is never below 0 (Paule and
    Mandel 1982, J. Res. NBS 87: 377; with covariates: DerSimonian and Kacker 2007, Contemp. Clin. Trials 28: 105).
    """
    df = int(weighted_lines(x, y, v, 0.0).df.sum())

    def excess(tau2: float) -> float:
        return float(weighted_lines(x, y, v, tau2).squares.sum()) - df

    if excess(0.0) <= 0:
        return 0.0, df
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high)), df


def binomial_line(parameters: Sequence[float], k: Sequence[float], n: Sequence[float]) -> Any:
    """Binomial GLM with logit link on log10 parameters; k clipped by LEAST, never rounded (statsmodels results)."""
    n_ = np.asarray(n, dtype=float)
    k_ = np.clip(np.asarray(k, dtype=float), LEAST, n_ - LEAST)
    return GLM(np.column_stack([k_, n_ - k_]), design(parameters), family=Binomial()).fit()


def design(parameters: Sequence[float]) -> Array:
    """(models, 2): intercept and log10 parameters, centred at 1e9 for a well-conditioned fit."""
    x = np.log10(np.asarray(parameters, dtype=float)) - 9
    return np.column_stack([np.ones_like(x), x])


def likelihood_ratio(parameters: Sequence[float], k: Sequence[float], n: Sequence[float]) -> float:
    """p of a dummy for the last model in the binomial line, which leaves the line through the others unchanged."""
    smaller, together = (binomial_line(parameters[:end], k[:end], n[:end]) for end in (-1, None))
    return float(stats.chi2.sf(max(together.deviance - smaller.deviance, 0), 1))


@dataclass(frozen=True)
class Against:
    """The largest model against its forecast; arrays (tasks,).

    share: its clipped accuracy; eta: the logit of the forecast; s: standard error of logit(share) - eta;
    df: degrees of freedom of the t distribution, infinite for the normal one.

    A bound other than 0 can be moved to the accuracy (is share - bound below the forecast?) or to the forecast (is the
    share below forecast + bound?). A logit stretches near 0 and 1, so the two differ there, and one of them rejects far
    too often: which one, depends on where the uncertainty lies. The larger p counts, and the wider end of the interval.
    """

    share: Array
    eta: Array
    s: Array
    df: float

    @property
    def z(self) -> Array:
        """Logit of the accuracy less that of the forecast, in standard errors."""
        return (logit(self.share) - self.eta) / self.s

    def moved(self, bound: float) -> tuple[Array, Array]:
        """z with the bound moved to the accuracy, and to the forecast; infinite where that leaves 0 to 1."""
        less = logit(np.clip(self.share - bound, 0, 1))
        more = logit(np.clip(expit(self.eta) + bound, 0, 1))
        return (less - self.eta) / self.s, (logit(self.share) - more) / self.s

    def p_below(self, bound: float) -> Array:
        """One-sided p that the residual is below a bound."""
        return np.maximum(*(stats.t.cdf(z, self.df) for z in self.moved(bound)))

    def p_beyond(self, bound: float) -> Array:
        """One-sided p that the residual is above a bound."""
        return np.maximum(*(stats.t.sf(z, self.df) for z in self.moved(bound)))

    def p_within(self, margin: float) -> Array:
        """p that the residual lies within a margin on both sides: the larger of two one-sided tests."""
        return np.maximum(self.p_below(margin), self.p_beyond(-margin))

    def interval(self) -> tuple[Array, Array]:
        """90 % interval of the residual: it lies within a margin exactly where `p_within` is below .05."""
        half = stats.t.isf(OUTSIDE_90 / 2, self.df) * self.s
        f, y = expit(self.eta), logit(self.share)
        low = np.minimum(self.share - expit(self.eta + half), expit(y - half) - f)
        high = np.maximum(self.share - expit(self.eta - half), expit(y + half) - f)
        return low, high

    def columns(self) -> dict[str, Array]:
        """The p values and the interval, by column."""
        low, high = self.interval()
        return {
            "residual_low": low,
            "residual_high": high,
            "p_jump": stats.t.sf(self.z, self.df),
            "p_differs": 2 * stats.t.sf(np.abs(self.z), self.df),
            "p_within_five": self.p_within(MARGIN),
            "p_within_ten": self.p_within(FAR),
            "p_short_five": self.p_below(MARGIN),
        }
