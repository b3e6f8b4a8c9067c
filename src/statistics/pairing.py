"""Two markings of the same n outputs of which only the two counts are known: what every possible pairing allows.

With x and y right of n, the disagreements lie between |x - y| and min(x + y, 2n - x - y), in steps of two. For a fixed
difference McNemar's p and the width of the interval grow with the disagreements. So these two pairings bound all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import optimize, stats

from src.base.metrics import MARGIN
from src.statistics.tests import OUTSIDE_90

WITHIN = 2 * MARGIN
"""Ten points: the difference from grading by hand that is too small to matter."""


@dataclass(frozen=True)
class Pairing:
    """Of n outputs, b that the first marking alone calls right and c that the second alone does.

    Where each output is a mean (over seeds, or over a group) b and c are sums of shares. Shares spread less than ones
    and zeros with their mean, so that the score statistic then errs on the side of silence.
    """

    n: int
    b: float
    c: float

    def mcnemar_p(self) -> float:
        """Exact two-sided p of McNemar's test; 1 without a disagreement. b and c are whole numbers."""
        m = int(self.b + self.c)
        return float(stats.binomtest(int(self.b), m).pvalue) if m else 1.0

    def score_z(self, difference: float) -> float:
        """Tango's score statistic of a true difference of the shares right, inside -1 to 1.

        Tango (1998), Statistics in Medicine 17: 891. At a bound of ten points its exact size is .05 with 29, 45 and 50
        outputs and at most .07 with 20 to 100; Wald's is .11 to .20 with 29 to 50.
        """
        n, b, c, d = self.n, self.b, self.c, difference
        linear = -b - c + (2 * n - b + c) * d
        root = math.sqrt(max(linear**2 + 8 * n * c * d * (1 - d), 0))  # 0 where only c is there: rounding goes below
        q = (root - linear) / (4 * n)
        return (b - c - n * d) / math.sqrt(max(n * (2 * q + d * (1 - d)), 1e-12))

    def interval(self, outside: float = OUTSIDE_90) -> tuple[float, float]:
        """Interval of the difference: what the score test does not reject on either side. Its level is 1 - outside."""
        return -Pairing(self.n, self.c, self.b)._upper(outside), self._upper(outside)

    def _upper(self, outside: float) -> float:
        """The largest difference that is not rejected from above."""
        z, end = float(stats.norm.isf(outside / 2)), 1 - 1e-9
        if self.score_z(end) >= -z:
            return 1.0
        return float(optimize.brentq(lambda d: self.score_z(d) + z, -end, end))

    def tost_p(self, bound: float = WITHIN) -> float:
        """p of two one-sided score tests that the difference lies within +-bound: below .05 as the interval does."""
        mirrored = Pairing(self.n, self.c, self.b)
        return float(max(stats.norm.cdf(each.score_z(bound)) for each in (self, mirrored)))


def paired_with(x: int, y: int, n: int, disagreements: int) -> Pairing:
    """The pairing of x and y right of n with so many disagreements."""
    return Pairing(n, (disagreements + x - y) // 2, (disagreements - x + y) // 2)


def extremes(x: int, y: int, n: int) -> tuple[Pairing, Pairing]:
    """The pairings of x and y right of n with the fewest and with the most disagreements."""
    return paired_with(x, y, n, abs(x - y)), paired_with(x, y, n, min(x + y, 2 * n - x - y))
