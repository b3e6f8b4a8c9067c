"""RQ3 and the agreement of metrics: rank correlations over tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from src.judgement.family import CORRECTIONS, Family, frame_of
from src.judgement.joint import Null, rank_correlations
from src.judgement.overlap import PRINTED
from src.judgement.scores import CLOSED, IN, OUT, PROMPTS, Scores, failed, on_the_floor
from src.statistics.factorial import skill
from src.statistics.items import NAN, Array
from src.statistics.power import mirage
from src.statistics.tests import rank_correlation

SKILLS: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "over chance": lambda rows: skill(rows["accuracy"], rows["chance_scored"]),
    "over content-free answers": lambda rows: skill(
        rows["accuracy"].round(PRINTED), rows["trivial"].fillna(rows["chance_scored"]).round(PRINTED)
    ),
    "accuracy": lambda rows: rows["accuracy"],
}
TASKS: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "without gated cells": lambda rows: ~rows["gated"],
    "gated cells kept": lambda rows: rows["n"] > 0,
    "number of options known": lambda rows: ~rows["gated"] & ~rows["chance_assumed"].astype(bool),
    "functional tasks": lambda rows: ~rows["gated"] & (rows["competence"] == "functional"),
}
CLOSED_ZERO = "closed_zero"
KINDS = ("spearman", "kendall")
NEAR, MANY = (0.03, 0.07), 199_999
"""p values of a permutation test that are drawn again with MANY permutations: an error of .0005 in place of .002."""
MATTERS = 0.5
"""The correlation at which power is told."""


def memorisable(scores: Scores) -> Iterator[Family]:
    """RQ3: memorisable examples of a task with the skill of the largest base model there."""
    of = scores.side(scores.largest, False)["memorisable"].astype(float)
    everywhere = of[of.index.isin(list(scores.tables["table2"]))]
    for prompt, how, which in itertools.product(PROMPTS, SKILLS, TASKS):
        rows = scores.side(scores.largest, False, prompt)
        rows = rows.loc[rows.index.intersection(list(scores.tables["table2"]))]
        gated, low = (
            pd.Series([bool(why(row)) for row in rows.itertuples()], rows.index) for why in (failed, on_the_floor)
        )
        rows = rows.assign(gated=gated)
        rows = rows[rows["p"].notna() & ~low & TASKS[which](rows)]
        pairs = pd.DataFrame({"x": rows["memorisable"].astype(float), "y": SKILLS[how](rows).astype(float)}).dropna()

        yield Family(
            taken={"prompt": prompt, "skill": how, "tasks": which}, shown=("",),
            without=partial(_without, pairs, scores.setting.seed), null=partial(_null, pairs, everywhere),
            rule=(prompt, how, which) == (CLOSED, next(iter(SKILLS)), next(iter(TASKS))),
            rows=_without(pairs, scores.setting.seed), tasks=tuple(everywhere.index),
            power=partial(_power, pairs, scores),
        )  # fmt: skip


def _without(pairs: pd.DataFrame, seed: int, task: str | None = None) -> pd.DataFrame:
    """The one row of a correlation, with a task left out."""
    left = pairs if task is None else pairs.drop(index=task, errors="ignore")
    return frame_of({"": correlated(left, seed)})


def _null(pairs: pd.DataFrame, everywhere: pd.Series, draws: Null) -> dict[str, Array]:
    """The correlation with x permuted among all tasks."""
    return {"": rank_correlations(draws.permuted(everywhere, pairs.index), pairs["y"].to_numpy())}


def _power(pairs: pd.DataFrame, scores: Scores, _: str, tests: int) -> dict[str, float]:
    rho = rank_correlation(pairs["x"], pairs["y"], scores.setting.seed)[0]
    return power(len(pairs), rho, scores.alpha / tests)


def correlated(pairs: pd.DataFrame, seed: int, kind: str = "spearman") -> dict[str, Any]:
    """ROW of a rank correlation; pairs: columns x and y."""
    rho, low, high, p = rank_correlation(pairs["x"], pairs["y"], seed, kind)
    if NEAR[0] < p < NEAR[1]:  # the seed must not decide on which side of alpha it lies
        p = rank_correlation(pairs["x"], pairs["y"], seed, kind, draws=MANY)[3]
    if np.isnan(rho):
        return {"n": len(pairs), "reason": "fewer than three tasks, or a side that is the same on all"}
    return {"value": rho, "low": low, "high": high, "n": len(pairs), "effect": p, "sign": np.sign(rho) or 1.0}


def power(n: int, rho: float, alpha: float) -> dict[str, float]:
    """The Spearman correlation that n tasks find with 80 % power, and the power at two others.

    Fisher's z with the variance 1.06 / (n - 3) of no correlation (Fieller, Hartley and Pearson 1957) and
    (1 + rho^2 / 2) / (n - 3) of another (Bonett and Wright 2000).
    """
    if n < 5:
        return {}
    at = np.linspace(0, 0.999, 1000)
    beyond = stats.norm.isf(alpha / 2) * np.sqrt(1.06 / (n - 3))
    powers = stats.norm.sf((beyond - np.arctanh(at)) / np.sqrt((1 + at**2 / 2) / (n - 3)))
    found = at[powers >= 0.8]
    return {"detectable": float(found[0]) if len(found) else NAN, "matters": MATTERS,
            "power_observed": float(np.interp(abs(rho), at, powers)),
            "power_matters": float(np.interp(MATTERS, at, powers))}  # fmt: skip


def metrics_agree(scores: Scores) -> Iterator[Family]:
    """Residuals of the largest base model under two metrics, over tasks: an item a pair of metrics."""
    residuals = mirage(scores.cells, scores.largest).set_index(["task", "metric"])["residual"]
    rows = scores.judged[scores.judged["model"] == scores.largest]
    rows = rows[rows["condition"] == CLOSED_ZERO].set_index(["task", "metric"])
    gated = [row.Index for row in rows.itertuples() if failed(row)]
    whole, kept = (_pairs_of(each) for each in (residuals, residuals.drop(index=gated, errors="ignore")))
    for kind, (words, method), gates in itertools.product(KINDS, CORRECTIONS.items(), (OUT, IN)):
        pairs = {OUT: kept, IN: whole}[gates]
        found = {item: correlated(each, scores.setting.seed, kind) for item, each in pairs.items()}
        yield Family(
            taken={"correlation": kind.capitalize(), "correction": words, "gates": gates}, rows=frame_of(found),
            rule=(kind, words, gates) == (KINDS[0], "Holm", OUT), correction=method,
            shown=tuple(item for item in pairs if gates == OUT or len(whole[item]) > len(kept[item])),
            power=partial(_power_of_item, pairs, scores),
        )  # fmt: skip


def _pairs_of(residuals: pd.Series) -> dict[str, pd.DataFrame]:
    """By the names of two metrics their residuals as columns x and y. residuals: indexed by task and metric."""
    wide = residuals.unstack("metric")
    return {
        f"{a} and {b}": wide[[a, b]].dropna().set_axis(["x", "y"], axis=1)
        for a, b in itertools.combinations(sorted(wide.columns), 2)
    }


def _power_of_item(pairs: Mapping[str, pd.DataFrame], scores: Scores, item: str, tests: int) -> dict[str, float]:
    return _power(pairs[item], scores, item, tests)
