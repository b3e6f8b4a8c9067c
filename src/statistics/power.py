"""What the tests could have found, how noisy seeds are, and whether metrics agree."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from src.base import metrics
from src.statistics.contrasts import contrasts, difference_in_differences
from src.statistics.factorial import factorials
from src.statistics.overlap import by_condition, figure2, figure5, overlap_rows, placebo
from src.statistics.tests import power_at, rank_correlation


def power(rows: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Per test of a Holm family: power at chance + 5 and + 10 points, at alpha and Bonferroni alpha."""
    tested = rows[rows["p"].notna() & rows["primary"]]
    out = tested[
        [
            "source",
            "model",
            "task",
            "n",
            "tested",
            "min_detectable",
            "min_detectable_bonferroni",
        ]
    ].copy()
    for points in (5, 10):
        for name, bonferroni in (("", False), ("_bonferroni", True)):
            out[f"power_{points}{name}"] = [
                power_at(
                    row.n, row.tested, min(row.tested + points / 100, 1), alpha / row.m_tests if bonferroni else alpha
                )
                for row in tested.itertuples()
            ]
    return out.reset_index(drop=True)


def seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """Per model and prompt: seed noise beside sampling noise of accuracies (root mean squares over tasks)."""
    rows = cells[cells["primary"] & cells["seed_se"].notna() & (cells["seeds"] > 1)]
    binomial = np.sqrt(rows["accuracy"] * (1 - rows["accuracy"]) / rows["n"])
    squares = rows.assign(seed_se=rows["seed_se"] ** 2, sd_published=rows["sd_published"] ** 2, binomial_se=binomial**2)
    keys = ["source", "model", "prompt", "shots"]
    out = squares.assign(shots=np.where(squares["shots"] > 0, "few", "zero")).groupby(keys)
    mean = out[["seed_se", "sd_published", "binomial_se"]].mean() ** 0.5
    mean["cells"], mean["ratio"] = out.size(), mean["seed_se"] / mean["binomial_se"]
    return mean.reset_index()


def mirage(cells: pd.DataFrame, largest: str) -> pd.DataFrame:
    """Residuals of the largest base model from a line in log10 parameters, for every metric, closed, zero-shot.

    Least squares on the raw scale, the same for all metrics, so that they can be ranked beside each other; edit
    distance is sign-flipped: more is better everywhere.
    """
    rows = cells[(cells["source"] == metrics.PUBLISHED) & (cells["condition"] == "closed_zero") & ~cells["tuned"]]
    family = rows.loc[rows["model"] == largest, "family"].iloc[0]
    out = []
    for (task, metric), part in rows[rows["family"] == family].groupby(["task", "metric"]):
        part = part.sort_values("parameters")
        if len(part) >= 4 and part["model"].iloc[-1] == largest:
            sign = -1 if metric == "edit_distance" else 1
            x, y = np.log10(part["parameters"].to_numpy()), sign * part["accuracy"].to_numpy()
            line = stats.linregress(x[:-1], y[:-1])
            out.append({"task": task, "metric": metric, "residual": y[-1] - (line.intercept + line.slope * x[-1])})
    return pd.DataFrame(out)


def rank_correlations(long: pd.DataFrame, value: str, over: str, seed: int) -> pd.DataFrame:
    """Spearman's rho over tasks between every two values of `metric`, with interval and p; over: label of the table."""
    wide = long.pivot(index="task", columns="metric", values=value)
    out = []
    for a, b in combinations(sorted(wide.columns), 2):
        both = wide[[a, b]].dropna()
        if len(both) >= 4:
            rho, low, high, p = rank_correlation(both[a], both[b], seed)
            values = {"rho": rho, "low": low, "high": high, "p": p}
            out.append({"over": over, "metric_a": a, "metric_b": b, "n_tasks": len(both), **values})
    return pd.DataFrame(out)


def metric_consistency(cells: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Per published model and condition: rank correlation over tasks of exact match and BERTScore accuracy."""
    rows = cells[
        (cells["source"] == metrics.PUBLISHED)
        & cells["family"].notna()
        & cells["metric"].isin([metrics.EXACT, metrics.BERT])
    ]
    parts = []
    for (model, condition), part in rows.groupby(["model", "condition"], sort=True):
        found = rank_correlations(part, "accuracy", condition, seed)
        parts.append(found.assign(model=model))
    return pd.concat(parts, ignore_index=True)


def tables(
    cells: pd.DataFrame, table2: pd.DataFrame, paper: Mapping[str, Any], alpha: float, seed: int
) -> dict[str, pd.DataFrame]:
    """Every table between cells, by file name. table2: the rows of emergence with all columns of cells."""
    claims, table1, sides = paper["claims"], paper["table1"], by_condition(cells)
    left, right = figure2(sides, claims["figure2"])
    five, five_summary = figure5(sides, claims["figure5"], alpha)
    largest = table2.loc[table2["family_tests"] == metrics.F1, "model"].iloc[0]
    lost = mirage(cells, largest)
    family = cells.loc[cells["model"] == largest, "family"].iloc[0]
    return {
        "overlap": overlap_rows(left, right, alpha),
        "overlap_figure5": five,
        "overlap_summary": pd.concat([placebo(sides, claims["figure2"], alpha), five_summary], ignore_index=True),
        "contrasts": contrasts(sides, table1, alpha),
        "difference_in_differences": difference_in_differences(sides, table1),
        "factorial": factorials(sides, table1, family),
        "power": power(table2[table2["family_tests"] == metrics.F1], alpha),
        "seeds": seeds(cells),
        "mirage_correlations": rank_correlations(lost, "residual", "residuals of the largest model", seed),
        "metric_consistency": metric_consistency(cells, seed),
    }
