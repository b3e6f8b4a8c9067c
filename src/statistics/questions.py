"""The numbers behind RQ1 to RQ4 (docs/statistics.md, "The four questions"): one row a criterion, no verdict.

Only published cells count, and of Table 2 only the tasks that can be tested. conf/claim/rq*.yaml judges these numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from src.base.metrics import MARGIN
from src.statistics import factorial, overlap
from src.statistics.items import Array
from src.statistics.overlap import Sides, claimed, figure2, side
from src.statistics.tests import OUTSIDE_95, kappa

COLUMNS = ("question", "criterion", "value", "low", "high", "p", "n", "detectable", "tasks")
MEMORISABLE_FROM = 25
"""Of 50 examples: half of them."""

DRAWS = 2000


def questions(
    table2: pd.DataFrame,
    sides: Sides,
    claim: Mapping[str, Any],
    pairs: Mapping[str, pd.DataFrame],
    alpha: float,
    seed: int,
) -> pd.DataFrame:
    """Rows (COLUMNS) of all four questions. table2: Table 2's rows; claim: Figure 2's; pairs: `power.tables`."""
    tested = table2[table2["p"].notna()]
    rows = [
        *rq1(tested),
        *rq2(sides, claim, pairs["overlap_summary"], alpha, seed),
        *rq3(tested, alpha, seed),
        *rq4(pairs["difference_in_differences"], alpha),
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(question: str, criterion: str, **found: Any) -> dict[str, Any]:
    return {**dict.fromkeys(COLUMNS), "question": question, "criterion": criterion, **found}


def _listed(tasks: Sequence[str]) -> str:
    return ", ".join(sorted(tasks))


def rq1(table2: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Tasks that are emergent, those whose absence is supported, and the rest, which cannot be told.

    Absence is supported where the upper bound over the forecast (90 %) or over chance (Wilson) is under five points.
    """
    emergent, margin = (table2[name].fillna(False).astype(bool) for name in ("emergent", "emergent_paper_rule"))
    below = (table2["residual_high"] < MARGIN) | (table2["ci_high"] < table2["chance_scored"] + MARGIN)
    absent = ~emergent & below
    rest = ~emergent & ~absent
    n, at = len(table2), table2["task"]
    yield _row("RQ1", "emergent", value=emergent.sum(), n=n, tasks=_listed(at[emergent]))
    yield _row("RQ1", "emergent_by_margin", value=margin.sum(), n=n, tasks=_listed(at[margin]))
    yield _row("RQ1", "absence_supported", value=absent.sum(), n=n, tasks=_listed(at[absent]))
    gap = (table2["min_detectable"] - table2["tested"])[rest].max()
    yield _row("RQ1", "untestable", value=rest.sum(), n=n, detectable=gap, tasks=_listed(at[rest]))


def rq2(
    sides: Sides, claim: Mapping[str, Any], overlap: pd.DataFrame, alpha: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Kappa of Figure 2's pair against its margins, among placebo pairs, and against the partner zero-shot."""
    pair = overlap[(overlap["figure"] == "figure2") & (overlap["rule"] == "holm")].iloc[0]
    n = pair["n"]
    yield _row("RQ2", "kappa", value=pair["kappa"], p=pair["hypergeometric_p"], n=n, detectable=pair["power"])
    yield _row("RQ2", "percentile_among_placebo_pairs", value=pair["percentile"], n=n)
    gap, low, high, shared = kappa_gain(sides, claim, alpha, seed)
    yield _row("RQ2", "kappa_few_minus_zero", value=gap, low=low, high=high, n=shared)


def kappa_gain(sides: Sides, claim: Mapping[str, Any], alpha: float, seed: int) -> tuple[float, float, float, int]:
    """Kappa with the partner few-shot minus kappa with it zero-shot: (value, low, high, tasks), a bootstrap of tasks.

    Verdicts are those of Holm over each pair of sides; tasks without one in any of the three are left out.
    """
    tuned, few = figure2(sides, claim)
    zero = side(sides, claimed(claim["right"])[0], few=False).reindex(tuned.index)
    with_few = overlap.verdicts_of([tuned, few], alpha)[1]
    with_zero = overlap.verdicts_of([tuned, zero], alpha)[1]
    frame = pd.DataFrame({"a": with_few[0], "few": with_few[1], "b": with_zero[0], "zero": with_zero[1]}).dropna()
    values = frame.to_numpy(dtype=int)

    def gain(rows: Array) -> float:
        few, zero = (np.bincount(2 * rows[:, at] + rows[:, at + 1], minlength=4).reshape(2, 2) for at in (0, 2))
        return kappa(few, one_constant=0) - kappa(zero, one_constant=0)

    draws = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    gains = np.array([gain(values[index]) for index in draws])
    low, high = np.nanquantile(gains, [OUTSIDE_95 / 2, 1 - OUTSIDE_95 / 2])
    return gain(values), float(low), float(high), len(values)


def rq3(table2: pd.DataFrame, alpha: float, seed: int) -> Iterator[dict[str, Any]]:
    """Memory: rank correlation with skill (permutation p), Fisher's tests. Of formal tasks only their number."""
    import pingouin as pg

    known = table2.dropna(subset=["memorisable", "chance_scored"])
    skill = factorial.skill(known["accuracy"], known["chance_scored"]).to_numpy(dtype=float)
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
    yield _row("RQ3", "memorisable_with_skill", value=rho, p=p, n=len(known), detectable=smallest)
    for name in ("above", "emergent"):
        verdicts = table2.dropna(subset=[name, "memorisable"])
        square = overlap.square_of(
            (verdicts["memorisable"] >= MEMORISABLE_FROM).astype("boolean"), verdicts[name].astype("boolean")
        )
        found = stats.fisher_exact(square)
        both = f"{square[1, 1]} of {square[1].sum()} memorisable, {square[0, 1]} of {square[0].sum()} other tasks"
        yield _row(
            "RQ3", f"memorisable_with_{name}", value=float(found.statistic), p=float(found.pvalue),
            n=int(square.sum()), tasks=both,
        )  # fmt: skip
    formal = table2["competence"] == "formal"
    yield _row("RQ3", "formal_tasks", value=int(formal.sum()), n=len(table2), tasks=_listed(table2["task"][formal]))


def rq4(gains: pd.DataFrame, alpha: float) -> Iterator[dict[str, Any]]:
    """Few minus zero, base minus tuned: a row for each pair and prompt of `contrasts.difference_in_differences`.

    `detectable`: the mean difference that the paired t test finds with 80 % power at this n and spread, uncorrected.
    """
    import pingouin as pg

    half = (gains["ci_high"] - gains["ci_low"]) / 2
    spread = half / stats.t.isf(OUTSIDE_95 / 2, gains["n_tasks"] - 1) * np.sqrt(gains["n_tasks"])
    for row, sd in zip(gains.to_dict("records"), spread, strict=True):
        d = pg.power_ttest(n=int(row["n_tasks"]), power=0.8, alpha=alpha, contrast="paired")
        yield _row(
            "RQ4", row["pair"], value=row["mean_diff"], low=row["ci_low"], high=row["ci_high"], p=row["t_p_holm"],
            n=int(row["n_tasks"]), detectable=float(d * sd),
        )  # fmt: skip
