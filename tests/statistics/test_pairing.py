"""Two markings of the same outputs, by enumeration of every pairing and by the published formulas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar

from src.base.schema import Task
from src.statistics.pairing import Pairing, extremes
from src.statistics.table2 import table4_manual

Z = 1.6448536269514722
MARGINS = st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n)))


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
        if each.b + each.c not in (0, each.n):  # there the variance may be 0, and is adjusted
            low, high = each.interval()
            assert most.interval()[0] - 1e-12 <= low
            assert high <= most.interval()[1] + 1e-12


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


def test_interval_and_equivalence_by_hand():
    # 10 and 4 of 50: difference .12, variance (14 - 36/50) / 2500
    found, error = Pairing(50, 10, 4), math.sqrt((14 - 0.72) / 2500)
    assert found.interval() == pytest.approx((0.12 - Z * error, 0.12 + Z * error))
    assert found.tost_p() > 0.5  # .12 is outside ten points
    assert (Pairing(50, 1, 1).tost_p() < 0.05) == (Pairing(50, 1, 1).interval()[1] < 0.1)


def test_agreement_on_every_output_has_an_interval_that_is_no_point():
    # Agresti and Min: half an output in each cell, so b = c = .5 of 52
    low, high = Pairing(50, 0, 0).interval()
    assert (low, high) == pytest.approx((-Z / 52, Z / 52))
    assert Pairing(50, 0, 0).mcnemar_p() == 1
    assert Pairing(50, 0, 0).tost_p() < 0.05
    assert Pairing(50, 0, 0).tost_p() > 0


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
