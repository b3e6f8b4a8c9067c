"""The numbers behind the four questions, where they are known by construction or by scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from src.statistics import contrasts, questions

SHARE = {"chance_scored": 0.25, "tested": 0.25, "min_detectable": 0.35}


def table2(**columns: list[object]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"task": [f"t{i}" for i in range(n)], **{k: [v] * n for k, v in SHARE.items()}, **columns})


def by(rows) -> dict[str, dict[str, object]]:
    return {row["criterion"]: row for row in rows}


def test_rq1_tells_absence_supported_from_untestable():
    """Below the margin over the forecast, or over chance, is absence; an open interval is neither; one is emergent."""
    rows = table2(
        emergent=[True, False, False, False],
        emergent_paper_rule=[True, False, False, True],
        residual_high=[0.4, 0.04, 0.2, 0.2],
        ci_high=[0.9, 0.5, 0.29, 0.5],
    )
    found = by(questions.rq1(rows))
    assert (found["emergent"]["value"], found["emergent"]["tasks"]) == (1, "t0")
    assert found["absence_supported"]["tasks"] == "t1, t2"
    assert found["untestable"]["tasks"] == "t3"
    assert found["untestable"]["detectable"] == pytest.approx(0.1)
    assert found["emergent_by_margin"]["tasks"] == "t0, t3"


def test_rq3_is_spearman_with_a_permutation_p_and_fisher():
    memory = [0, 0, 0, 4, 10, 25, 30, 40, 50, 50]
    accuracy = [0.2, 0.3, 0.22, 0.26, 0.35, 0.4, 0.5, 0.45, 0.7, 0.8]
    above = [False] * 5 + [True] * 5
    rows = table2(
        memorisable=memory, accuracy=accuracy, above=above, emergent=[False] * 10,
        competence=["formal"] * 3 + ["functional"] * 7,
    )  # fmt: skip
    found = by(questions.rq3(rows, 0.05, seed=1))
    rho = stats.spearmanr(memory, accuracy)
    assert found["memorisable_with_skill"]["value"] == pytest.approx(rho.statistic)
    assert found["memorisable_with_skill"]["p"] == pytest.approx(rho.pvalue, abs=0.01)
    assert found["memorisable_with_above"]["p"] == pytest.approx(stats.fisher_exact([[5, 0], [0, 5]]).pvalue)
    assert found["memorisable_with_above"]["tasks"] == "5 of 5 memorisable, 0 of 5 other tasks"
    assert (found["formal_tasks"]["value"], found["formal_tasks"]["tasks"]) == (3, "t0, t1, t2")


def above(*verdicts: int) -> pd.DataFrame:
    """A model's tasks with a p that gives these verdicts under Holm."""
    index = pd.Index([f"t{i}" for i in range(len(verdicts))], name="task")
    p = [1e-9 if verdict else 1.0 for verdict in verdicts]
    return pd.DataFrame({"p": p, "above_raw": [bool(verdict) for verdict in verdicts]}, index=index)


def gain(left: pd.DataFrame, few: pd.DataFrame, zero: pd.DataFrame) -> float:
    sides = {("a", "closed", False): left, ("b", "closed", True): few, ("b", "closed", False): zero}
    claim = {"left": "a zero-shot", "right": "b few-shot", "excluded": "none"}
    return questions.kappa_gain(sides, claim, 0.05, seed=1)[0]


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_kappa_is_null_where_a_side_is_constant_and_by_hand_elsewhere():
    """Against the same verdicts kappa is 1; one verdict of four apart, it is (.75 - .5) / .5."""
    left = above(1, 1, 0, 0)
    assert gain(left, above(1, 0, 0, 0), left) == pytest.approx((0.75 - 0.5) / 0.5 - 1)
    assert np.isnan(gain(above(1, 1), above(1, 1), above(1, 1)))


TABLE1 = [{"base": "a", "tuned": "b"}]


def sides(gain_base: float, gain_tuned: float, noise: float, n: int = 22):
    rng = np.random.default_rng(7)
    index = pd.Index([f"t{i}" for i in range(n)], name="task")

    def rows(mean: float) -> pd.DataFrame:
        return pd.DataFrame({"accuracy": mean + rng.normal(0, noise, n), "n": 1000}, index=index)

    return {
        ("a", "closed", True): rows(0.4 + gain_base), ("a", "closed", False): rows(0.4),
        ("b", "closed", True): rows(0.5 + gain_tuned), ("b", "closed", False): rows(0.5),
    }  # fmt: skip


def test_rq4_says_what_each_pair_could_have_found():
    def row(*given):
        return next(questions.rq4(contrasts.difference_in_differences(sides(*given), TABLE1), 0.05))

    same, noisy = row(0.1, 0.1, 0.01), row(0.1, 0.1, 0.2)
    assert noisy["criterion"] == "a against b, closed"
    assert noisy["detectable"] > 10 * same["detectable"]
    # a difference of that size, with that spread, is found with 80 % power
    spread = (noisy["high"] - noisy["low"]) / 2 / stats.t.isf(0.025, 21) * np.sqrt(22)
    shift = noisy["detectable"] / spread * np.sqrt(22)
    power = stats.nct.sf(stats.t.isf(0.025, 21), 21, shift) + stats.nct.cdf(stats.t.ppf(0.025, 21), 21, shift)
    assert power == pytest.approx(0.8, abs=0.005)
