"""RQ1 to RQ4 by rule (docs/statistics.md, "The four questions"): each criterion a row, then the verdict.

Published cells only. Every row says what it found, in what share of the paper's tasks, and what it could have found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from src import stats_pairs
from src.names import MARGIN
from src.stats_cell import NAN, Array, adjust
from src.stats_pairs import Sides

COLUMNS = (
    "question", "criterion", "value", "low", "high", "p", "n", "detectable", "meets", "tasks", "verdict",
)  # fmt: skip
SHOWN, NOT_SHOWN, SUPPORTED, INCONCLUSIVE, NO_POWER = "shown", "not shown", "supported", "inconclusive", "no power"
MEMORISABLE_FROM = 25
"""Of 50 examples: half of them."""
FEW = 5
"""A group of fewer tasks has no power worth a test."""
DRAWS = 2000


def questions(
    table2: pd.DataFrame, sides: Sides, paper: Mapping[str, Any], overlap: pd.DataFrame, alpha: float, seed: int
) -> pd.DataFrame:
    """Rows (COLUMNS) of all four questions. table2: the rows of Table 2; overlap: stats_pairs.placebo's rows."""
    rows = [
        *rq1(table2),
        *rq2(sides, paper["claims"]["figure2"], overlap, alpha, seed),
        *rq3(table2, alpha, seed),
        *rq4(sides, paper["table1"], alpha),
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"meets": "boolean"})


def _row(question: str, criterion: str, **found: Any) -> dict[str, Any]:
    return {**dict.fromkeys(COLUMNS), "question": question, "criterion": criterion, **found}


def _listed(tasks: Sequence[str]) -> str:
    return ", ".join(sorted(tasks))


# ---- RQ1 ----------------------------------------------------------------------


def rq1(table2: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Shown if a task is emergent; absence is supported only where the upper 95 % bound of residual_floor is < .05.

    That bound is the smaller of the residual's (upper end of its 90 % interval) and the one over chance (Wilson).
    """
    emergent = table2["emergent"].fillna(False).astype(bool)
    below = (table2["residual_high"] < MARGIN) | (table2["ci_high"] < table2["chance_scored"] + MARGIN)
    absent = ~emergent & below
    rest = ~emergent & ~absent
    n, at = len(table2), table2["task"]
    verdict = SHOWN if emergent.any() else NOT_SHOWN
    yield _row("RQ1", "emergent", value=emergent.sum(), n=n, tasks=_listed(at[emergent]), meets=emergent.any())
    yield _row("RQ1", "absence_supported", value=absent.sum(), n=n, tasks=_listed(at[absent]), meets=absent.all())
    gap = (table2["min_detectable"] - table2["tested"])[rest].max()
    yield _row("RQ1", "untestable", value=rest.sum(), n=n, detectable=gap, tasks=_listed(at[rest]))
    yield _row("RQ1", "verdict", verdict=verdict)


# ---- RQ2 ----------------------------------------------------------------------


def rq2(
    sides: Sides, claim: Mapping[str, Any], overlap: pd.DataFrame, alpha: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Supported if all three hold: kappa beyond its margins, beyond placebo pairs, and beyond the partner zero-shot."""
    pair = overlap[(overlap["figure"] == "figure2") & (overlap["rule"] == "holm")].iloc[0]
    margins, percentile = pair["hypergeometric_p"] < alpha, pair["percentile"] >= 95
    yield _row(
        "RQ2", "kappa", value=pair["kappa"], p=pair["hypergeometric_p"], n=pair["n"], meets=margins,
        detectable=pair["power"],
    )  # fmt: skip
    yield _row("RQ2", "percentile_among_placebo_pairs", value=pair["percentile"], n=pair["n"], meets=percentile)
    gap, low, high, n = kappa_gain(sides, claim, alpha, seed)
    yield _row("RQ2", "kappa_few_minus_zero", value=gap, low=low, high=high, n=n, meets=low > 0)
    held = bool(margins and percentile and low > 0)
    yield _row("RQ2", "verdict", verdict=SUPPORTED if held else INCONCLUSIVE if pair["kappa"] > 0 else NOT_SHOWN)


def kappa_gain(sides: Sides, claim: Mapping[str, Any], alpha: float, seed: int) -> tuple[float, float, float, int]:
    """Kappa with the partner few-shot minus kappa with it zero-shot: (value, low, high, tasks), a bootstrap of tasks.

    Verdicts are those of Holm over each pair of sides; tasks without one in any of the three are left out.
    """
    tuned, few = stats_pairs.figure2(sides, claim)
    zero = stats_pairs.side(sides, stats_pairs.claimed(claim["right"])[0], few=False).reindex(tuned.index)
    with_few = stats_pairs.verdicts([tuned, few], alpha)[1]
    with_zero = stats_pairs.verdicts([tuned, zero], alpha)[1]
    frame = pd.DataFrame({"a": with_few[0], "few": with_few[1], "b": with_zero[0], "zero": with_zero[1]}).dropna()
    values = frame.to_numpy(dtype=int)

    def gain(rows: Array) -> float:
        return _kappa(rows[:, 0], rows[:, 1]) - _kappa(rows[:, 2], rows[:, 3])

    draws = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    gains = np.array([gain(values[index]) for index in draws])
    low, high = np.nanquantile(gains, [0.025, 0.975])
    return gain(values), float(low), float(high), len(values)


def _kappa(left: Array, right: Array) -> float:
    """Cohen's kappa of two 0/1 columns; null where one of them is constant."""
    agree = (left == right).mean()
    expected = left.mean() * right.mean() + (1 - left.mean()) * (1 - right.mean())
    return float((agree - expected) / (1 - expected)) if expected < 1 else NAN


# ---- RQ3 ----------------------------------------------------------------------


def rq3(table2: pd.DataFrame, alpha: float, seed: int) -> Iterator[dict[str, Any]]:
    """Memory: rank correlation with skill (permutation p), Fisher's tests; formal against functional: no power."""
    import pingouin as pg

    known = table2.dropna(subset=["memorisable", "chance_scored"])
    skill = stats_pairs.skill(known["accuracy"], known["chance_scored"]).to_numpy(dtype=float)
    memory = known["memorisable"].to_numpy(dtype=float)
    rho = float(stats.spearmanr(memory, skill).statistic)
    ranks = stats.rankdata(skill)
    p = float(
        stats.permutation_test(  # of the sum of products of ranks, which orders permutations as rho does
            (stats.rankdata(memory),), lambda x, axis: (x * ranks).sum(axis=axis), permutation_type="pairings",
            n_resamples=9999, vectorized=True, rng=np.random.default_rng(seed),
        ).pvalue
    )  # fmt: skip
    smallest = float(pg.power_corr(n=len(known), power=0.8, alpha=alpha))
    correlated = p < alpha and rho > 0
    yield _row(
        "RQ3", "memorisable_with_skill", value=rho, p=p, n=len(known), detectable=smallest, meets=correlated
    )  # fmt: skip
    for name in ("above", "emergent"):
        verdicts = table2.dropna(subset=[name, "memorisable"])
        square = stats_pairs.square(
            (verdicts["memorisable"] >= MEMORISABLE_FROM).astype("boolean"), verdicts[name].astype("boolean")
        )
        found = stats.fisher_exact(square)
        both = f"{square[1, 1]} of {square[1].sum()} memorisable, {square[0, 1]} of {square[0].sum()} other tasks"
        yield _row(
            "RQ3", f"memorisable_with_{name}", value=float(found.statistic), p=float(found.pvalue),
            n=int(square.sum()), meets=found.pvalue < alpha, tasks=both,
        )  # fmt: skip
    formal = table2["competence"] == "formal"
    those = _listed(table2["task"][formal])
    yield _row(
        "RQ3", "formal_against_functional", value=int(formal.sum()), n=len(table2), tasks=those,
        verdict=NO_POWER if formal.sum() < FEW else None,
    )  # fmt: skip
    yield _row("RQ3", "verdict", verdict=SHOWN if correlated else INCONCLUSIVE)


# ---- RQ4 ----------------------------------------------------------------------


def rq4(sides: Sides, table1: Sequence[Mapping[str, Any]], alpha: float) -> Iterator[dict[str, Any]]:
    """Few minus zero, base minus tuned, per pair of Table 1 (closed): t test under Holm, BF10, TOST, what was findable.

    `detectable`: the mean difference that the paired t test finds with 80 % power at this n and spread.
    """
    import pingouin as pg

    closed = stats_pairs.difference_in_differences(sides, table1)
    closed = closed[closed["prompt"] == "closed"].reset_index(drop=True)
    holm = adjust(closed["t_p"], "holm")
    half = (closed["ci_high"] - closed["ci_low"]) / 2
    spread = half / stats.t.isf(0.025, closed["n_tasks"] - 1) * np.sqrt(closed["n_tasks"])
    ways = []
    for i, row in closed.iterrows():
        at = int(str(i))
        d = pg.power_ttest(n=int(row["n_tasks"]), power=0.8, alpha=alpha, contrast="paired")
        more, same = holm[at] < alpha and row["mean_diff"] > 0, row["tost_p"] < alpha
        ways.append(SHOWN if more else "equivalent" if same else INCONCLUSIVE)
        yield _row(
            "RQ4", f"{row['base']} against {row['tuned']}", value=row["mean_diff"], low=row["ci_low"],
            high=row["ci_high"], p=holm[at], n=int(row["n_tasks"]), detectable=float(d * spread[at]), meets=more,
            verdict=ways[-1],
        )  # fmt: skip
    every = SHOWN if ways and set(ways) == {SHOWN} else INCONCLUSIVE if SHOWN not in ways else "shown for some pairs"
    yield _row("RQ4", "verdict", value=ways.count(SHOWN), n=len(ways), verdict=every)
