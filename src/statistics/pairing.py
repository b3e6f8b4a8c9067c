"""Two markings of the same n outputs of which only the two counts are known: what every possible pairing allows.

With x and y right of n, the disagreements lie between |x - y| and min(x + y, 2n - x - y), in steps of two. For a fixed
difference McNemar's p and the width of the interval grow with the disagreements. So these two pairings bound all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from src.base.metrics import MARGIN
from src.statistics.tests import OUTSIDE_90

WITHIN = 2 * MARGIN
"""Ten points: the difference from grading by hand that is too small to matter."""


@dataclass(frozen=True)
class Pairing:
    """Of n outputs, b that the first marking alone calls right and c that the second alone does."""

    n: int
    b: int
    c: int

    def mcnemar_p(self) -> float:
        """Exact two-sided p of McNemar's test; 1 without a disagreement."""
        m = self.b + self.c
        return float(stats.binomtest(self.b, m).pvalue) if m else 1.0

    def wald(self) -> tuple[float, float]:
        """(difference of the shares right, its standard error), paired.

        Where the variance is 0, half an output is added to each of the four cells (Agresti and Min 2005).
        """
        for n, b, c in ((self.n, self.b, self.c), (self.n + 2, self.b + 0.5, self.c + 0.5)):
            variance = (b + c - (b - c) ** 2 / n) / n**2
            if variance > 0:
                break
        return (b - c) / n, math.sqrt(variance)

    def interval(self) -> tuple[float, float]:
        """90 % interval of the difference."""
        middle, error = self.wald()
        half = float(stats.norm.isf(OUTSIDE_90 / 2)) * error
        return middle - half, middle + half

    def tost_p(self, bound: float = WITHIN) -> float:
        """p of two one-sided tests that the difference lies within +-bound: below alpha = .05 as the interval does."""
        middle, error = self.wald()
        return float(stats.norm.sf((bound - abs(middle)) / error))


def paired_with(x: int, y: int, n: int, disagreements: int) -> Pairing:
    """The pairing of x and y right of n with so many disagreements."""
    return Pairing(n, (disagreements + x - y) // 2, (disagreements - x + y) // 2)


def extremes(x: int, y: int, n: int) -> tuple[Pairing, Pairing]:
    """The pairings of x and y right of n with the fewest and with the most disagreements."""
    return paired_with(x, y, n, abs(x - y)), paired_with(x, y, n, min(x + y, 2 * n - x - y))
