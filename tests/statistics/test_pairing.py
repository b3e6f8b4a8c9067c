"""Two markings of the same outputs, by enumeration of every pairing and by maximising the likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats
from statsmodels.stats.contingency_tables import mcnemar

from src.base.schema import Task
from src.statistics.pairing import WITHIN, Pairing, extremes
from src.statistics.table2 import table4_manual

MARGINS = st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n)))


PAIRINGS = st.integers(1, 60).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda b: st.tuples(st.just(n), st.just(b), st.integers(0, n - b)))
)


def every(x: int, y: int, n: int) -> list[Pairing]:
    """All pairings with these margins, by the number that both call right."""
    tables = [(x - a, y - a, n - x - y + a) for a in range(n + 1)]
    return [Pairing(n, b, c) for b, c, neither in tables if min(b, c, neither) >= 0]


@settings(max_examples=60, deadline=None)
@given(MARGINS)
def test_the_two_pairings_bound_p_interval_and_equivalence_of_all(margins):
    least, most = extremes(*margins)
    known = every(*margins)
    assert {least, most} <= set(known)
    for each in known:
        assert least.b + least.c <= each.b + each.c <= most.b + most.c
        assert least.mcnemar_p() - 1e-12 <= each.mcnemar_p() <= most.mcnemar_p() + 1e-12
        low, high = each.interval()
        assert most.interval()[0] - 1e-9 <= low <= least.interval()[0] + 1e-9
        assert least.interval()[1] - 1e-9 <= high <= most.interval()[1] + 1e-9
        assert each.tost_p() <= max(least.tost_p(), most.tost_p()) + 1e-9


@given(st.integers(0, 20), st.integers(0, 20))
def test_mcnemar_is_that_of_statsmodels(b, c):
    assert Pairing(50, b, c).mcnemar_p() == pytest.approx(mcnemar([[5, b], [c, 5]], exact=True).pvalue)


@settings(max_examples=60, deadline=None)
@given(MARGINS)
def test_swapping_the_two_markings_mirrors_everything(margins):
    x, y, n = margins
    for one, other in zip(extremes(x, y, n), extremes(y, x, n), strict=True):
        assert other.mcnemar_p() == pytest.approx(one.mcnemar_p())
        assert other.interval() == pytest.approx((-one.interval()[1], -one.interval()[0]))
        assert other.tost_p() == pytest.approx(one.tost_p())


def score(n: int, b: int, c: int, difference: float) -> float:
    """The score statistic of a difference, from the likelihood: q = P(the second alone) by a bounded search.

    The variance of b - c is n (P(first alone) + P(second alone) - difference^2), both at the constrained maximum.
    """
    ends = max(0.0, -difference), (1 - difference) / 2

    def loss(q: float) -> float:
        cells = zip((b, c, n - b - c), (q + difference, q, 1 - 2 * q - difference), strict=True)
        return -sum(float(special.xlogy(k, max(p, 0))) for k, p in cells)

    inside = optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    q = min((*ends, inside), key=loss)
    return (b - c - n * difference) / math.sqrt(n * (2 * q + difference - difference**2))


@settings(max_examples=200, deadline=None)
@given(PAIRINGS, st.floats(-0.8, 0.8).filter(lambda d: abs(d) > 1e-3))
def test_the_score_is_that_of_the_constrained_maximum_of_the_likelihood(pairing, difference):
    assert Pairing(*pairing).score_z(difference) == pytest.approx(score(*pairing, difference), rel=1e-4, abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(PAIRINGS)
def test_each_end_of_the_interval_is_just_rejected(pairing):
    n, b, c = pairing
    low, high = Pairing(*pairing).interval()
    assert -1 <= low <= (b - c) / n <= high <= 1
    for end, side in ((low, 1), (high, -1)):
        if abs(end) < 0.95:
            assert stats.norm.sf(side * score(*pairing, end)) == pytest.approx(0.05, abs=1e-4)


@settings(max_examples=200, deadline=None)
@given(PAIRINGS, st.floats(0.02, 0.5))
def test_the_difference_is_within_a_bound_exactly_where_its_interval_is(pairing, bound):
    found = Pairing(*pairing)
    low, high = found.interval()
    assume(min(abs(low + bound), abs(high - bound)) > 1e-9)
    assert (found.tost_p(bound) < 0.05) == (-bound < low and high < bound)


@pytest.mark.parametrize("n", range(1, 61))
def test_one_marking_right_on_all_and_the_other_on_none_has_an_interval(n):
    low, high = Pairing(n, n, 0).interval()
    assert high == 1
    assert (-high, -low) == pytest.approx(Pairing(n, 0, n).interval())


def test_ten_and_four_of_fifty_by_hand():
    # at a difference of .1: 100 q^2 - (14 - 9.4) q - 4 * .09 = 0, so q = (4.6 + sqrt(4.6^2 + 144)) / 200
    q = (4.6 + math.sqrt(4.6**2 + 144)) / 200
    found = Pairing(50, 10, 4)
    assert found.score_z(0.1) == pytest.approx((6 - 5) / math.sqrt(50 * (2 * q + 0.1 * 0.9)))
    assert found.tost_p() > 0.5  # .12 is outside ten points


def test_agreement_on_every_output_has_an_interval_that_is_no_point():
    # without a disagreement q is 0, so z^2 = n d / (1 - d): a bound of d = z^2 / (n + z^2)
    z2 = stats.norm.isf(0.05) ** 2
    for n in (29, 50):
        assert Pairing(n, 0, 0).interval() == pytest.approx((-z2 / (n + z2), z2 / (n + z2)))
        assert Pairing(n, 0, 0).tost_p() == pytest.approx(stats.norm.sf(math.sqrt(n * 0.1 / 0.9)))
    assert Pairing(50, 0, 0).mcnemar_p() == 1
    assert Pairing(24, 0, 0).tost_p() > 0.05 > Pairing(25, 0, 0).tost_p()  # so few outputs cannot show it


@pytest.mark.parametrize("n", [29, 45, 50])
def test_a_difference_of_just_ten_points_is_seldom_called_smaller(n):
    """Exact size, every table enumerated. Wald's test has .11 to .20 where the second alone is right on none."""
    tables = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    rejected = np.array([(b, c, n - b - c) for b, c in tables if Pairing(n, b, c).tost_p() < 0.05])
    second = np.array([0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2])
    sizes = [stats.multinomial.pmf(rejected, n, [q + WITHIN, q, 1 - 2 * q - WITHIN]).sum() for q in second]
    assert max(sizes) < 0.055
    assert max(sizes) > 0.04  # it is not small because nothing is ever rejected


def test_table_4_has_no_more_outputs_than_its_test_set():
    paper = [{"task": name, "metric": 34, "manual": 22, "baseline": 24} for name in ("small", "large")]
    tasks = {"small": Task(n_published=45), "large": Task(n_published=995)}
    table = table4_manual(paper, None, tasks).set_index("task")
    assert table["n"].to_dict() == {"small": 45, "large": 50}
    assert table["k_metric"].to_dict() == {"small": 15, "large": 17}  # 15.3 of 45
    assert table["counts_whole"].to_dict() == {"small": False, "large": True}
    assert table.loc["large", "difference"] == pytest.approx(0.12)
    assert table.loc["small", "difference"] == pytest.approx(5 / 45)  # the row's interval is that of its number
    for row in table.itertuples():
        assert row.low_most < row.low_least < row.difference < row.high_least < row.high_most
