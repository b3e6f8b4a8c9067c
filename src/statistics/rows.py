"""One row a cell and metric: tests, families of tests, corrections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from src.base import metrics
from src.statistics.gates import gates
from src.statistics.items import NAN
from src.statistics.setting import Setting, primary_metric
from src.statistics.tests import (
    adjust,
    bayes_factor,
    binomial_lower_tail,
    binomial_tail,
    cohen_h,
    lower_tail,
    min_detectable,
    raised,
    tails,
    wilson,
)


def against_chance(rows: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Columns of one row against chance. In: n, k, accuracy, tested (the chance level tested against), m_tests."""
    n, k, tested = (rows[name].to_numpy(dtype=float) for name in ("n", "k", "tested"))
    accuracy = rows["accuracy"].to_numpy(dtype=float)
    low, high = wilson(k, n)
    below = pd.array(accuracy > tested, dtype="boolean")
    below[np.isnan(tested)] = pd.NA
    return pd.DataFrame(
        {
            "ci_low": low,
            "ci_high": high,
            "diff": accuracy - tested,
            "cohen_h": cohen_h(np.where(np.isnan(k), NAN, accuracy), tested),
            "bf10": bayes_factor(k, n, tested),
            "min_detectable": min_detectable(n, tested, alpha),
            "min_detectable_bonferroni": min_detectable(n, tested, alpha / rows["m_tests"].to_numpy(dtype=float)),
            "above_raw": below,
        },
        index=rows.index,
    )


def tests_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The tests of each row against its two bars: above a bar, below chance, and short of five points over a bar.

    In: n, k, trivial, and `guess`: the items' chance as scored (n,), or None without a chance level.
    """
    k, n, trivial, guess = rows["k"], rows["n"], rows["trivial"], list(rows["guess"])
    return pd.DataFrame(
        {
            "p": tails(k, guess),
            "p_below": tails(k, guess, lower_tail),
            "p_short": tails(k, guess, lower_tail, metrics.MARGIN),
            "p_trivial": binomial_tail(k, n, trivial),
            "p_trivial_short": binomial_lower_tail(k, n, raised(trivial.to_numpy(dtype=float), metrics.MARGIN)),
        },
        index=rows.index,
    )


FLOATS = ("p_content", "unparsed", "ties", "sd_published", "seed_se")
"""Columns that rows of one source alone may have."""
OWN_ONLY = ("control", "completions_sha256")


def complete(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """cells.parquet: tests, families, corrections, gates, and what conf says of model and task."""
    absent = [name for name in (*FLOATS, *OWN_ONLY) if name not in rows]
    rows = rows.reindex(columns=[*rows.columns, *absent])
    rows = described(rows, setting)
    rows["tested"] = rows["chance_scored"]
    rows = pd.concat([rows, tests_of(rows)], axis=1)
    rows["m_tests"] = tests_in_condition(rows)
    rows = pd.concat([rows, against_chance(rows, setting.alpha)], axis=1)
    rows = corrected(rows, setting)
    rows["gates"] = gates(rows, setting)
    return rows.drop(columns=["guess"]).sort_values([*metrics.CELL_KEY, "metric"], ignore_index=True)


def plain(rows: pd.DataFrame) -> pd.Series:
    """Rows of a plain condition: those that name no control (Condition.plain)."""
    return rows["control"].isna()


def described(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Adds what conf/model and conf/task say, and `primary`: the task's metric in one of the plain conditions."""
    for name in ("family", "parameters", "tuned"):
        rows[name] = [getattr(setting.models.get(model), name, None) for model in rows["model"]]
    rows["tuned"] = [True if tuned is None else bool(tuned) for tuned in rows["tuned"]]
    rows["parameters"] = rows["parameters"].astype(float)
    for name in ("competence", "memorisable", "previously_emergent"):
        rows[name] = [getattr(setting.tasks.get(task), name, None) for task in rows["task"]]
    metric = [primary_metric(setting.tasks, *pair) for pair in zip(rows["task"], rows["prompt"], strict=True)]
    rows["primary"] = (rows["metric"] == metric) & plain(rows)
    return rows.astype({"previously_emergent": "boolean", "memorisable": "Int64", "chance_assumed": "boolean"})


def tests_in_condition(rows: pd.DataFrame) -> pd.Series:
    """How many tasks of the same (source, suite, model, condition) have a primary test; at least 1."""
    tested = (rows["primary"] & rows["p"].notna()).astype(int)
    return tested.groupby([rows[name] for name in ("source", "suite", "model", "condition")]).transform("sum").clip(1)


def family_of(row: Any, largest_base: str | None) -> str | None:
    """Holm family of a row; exploratory rows share one Benjamini-Hochberg grid per source; null without a test."""
    if np.isnan(row.p):
        return None
    if isinstance(row.control, str):
        return f"control/{row.suite}/{row.model}/{row.condition}"
    if row.primary and row.source == metrics.OWN:
        return f"{metrics.OWN}/{row.suite}/{row.model}/{row.condition}"
    if row.primary and (row.model, row.condition) == (largest_base, "closed_zero"):
        return metrics.F1
    return metrics.EXPLORATORY


def table2_model(rows: pd.DataFrame) -> str | None:
    """The model of Table 2: the largest base model among the published ones."""
    base = rows[(rows["source"] == metrics.PUBLISHED) & ~rows["tuned"]]
    return None if base.empty else str(base.loc[base["parameters"].idxmax(), "model"])


def corrected(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Adds family, p_bh, and in confirmatory families p_holm and the verdict `above`."""
    largest = table2_model(rows)
    rows["family_tests"] = [family_of(row, largest) for row in rows.itertuples()]
    rows["p_holm"] = by_family(rows, "p", "holm").mask((rows["family_tests"] == metrics.EXPLORATORY) | ~plain(rows))
    rows["p_bh"] = by_family(rows, "p", "fdr_bh")
    rows["above"] = (rows["p_holm"] < setting.alpha).astype("boolean").mask(rows["p_holm"].isna())
    return rows


def by_family(rows: pd.DataFrame, column: str, method: str) -> pd.Series:
    """p values of `column`, adjusted within each family of tests; null without a family."""
    out = pd.Series(NAN, rows.index)
    for _, part in rows.groupby(["source", "family_tests"], sort=False):
        out[part.index] = adjust(part[column], method)
    return out
