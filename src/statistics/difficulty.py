"""Scaling by difficulty: one curve for easy, one for middling and one for hard examples of own runs.

Wu and Lo (2024, arXiv 2410.01692) find that easy and hard examples scale in opposite directions, and that the flat
curve before a jump is the sum of both. They sort examples by the mean score over all models. An example that one
model happens to get right then counts as easier for that very model. Here a model's examples are sorted by the other
models alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from src.base import metrics
from src.base.schema import Model
from src.statistics.items import Array
from src.statistics.tests import DECIMALS

BINS = ("hard", "middle", "easy")
FEWEST_SIZES = 3
SERIES = ["suite", "family", "tuned", "condition", "prompt", "shots"]
"""What the models of one series share; beside it the task."""
ALL_TASKS = "all tasks"
DIFFICULTY, SCORES = "gold_share", (metrics.LIKELIHOODS[0], "gold_share", "brier")


def by_difficulty(scores: pd.DataFrame, models: Mapping[str, Model]) -> pd.DataFrame:
    """One row per series, task, bin and model, and one over all tasks. No row for fewer than three sizes of a family.

    scores: scores.parquet, of which plain conditions with scored options count. Each value is the mean over the bin's
    examples. Over all tasks, the bins are those made within each task, so that a bin is not a set of tasks.
    """
    rows = scores[scores["control"].isna() & scores[DIFFICULTY].notna()]
    for name in ("family", "tuned", "parameters"):
        rows = rows.assign(**{name: [getattr(models.get(model), name, None) for model in rows["model"]]})
    rows = rows[rows["family"].notna()]
    out: list[dict[str, Any]] = []
    for key, series in rows.groupby(SERIES, sort=True):
        named = dict(zip(SERIES, key, strict=True))
        binned = [part for _, task in series.groupby("task", sort=True) if len(part := binned_task(task))]
        for examples in [pd.concat(binned).assign(task=ALL_TASKS), *binned] if binned else []:
            out += [{**named, **row} for row in curves(examples)]
    return pd.DataFrame(out)


def binned_task(task: pd.DataFrame) -> pd.DataFrame:
    """A task's examples with their bin for each model: (examples and models: task, model, parameters, bin, scores).

    Only examples count that every model of the series answered. No row where the models have fewer than three sizes,
    or where there are fewer examples than bins.
    """
    examples = task.groupby(["model", "parameters", "example_id"])[list(SCORES)].mean().reset_index()
    examples = examples.assign(**{name: examples[name].astype(float) for name in SCORES})
    share = examples.pivot(index="example_id", columns="model", values=DIFFICULTY).dropna()
    if examples["parameters"].nunique() < FEWEST_SIZES or len(share) < len(BINS):
        return pd.DataFrame()
    parts = []
    for model, mine in examples.groupby("model", sort=True):
        others = share.drop(columns=str(model)).mean(axis=1)
        bins = pd.Series(bins_of(others.to_numpy()), share.index, name="bin")
        parts.append(mine.join(bins, on="example_id", how="inner"))
    return pd.concat(parts).assign(task=task["task"].iloc[0])


def bins_of(easiness: Array) -> list[str]:
    """The bin of each example by the rank of its easiness (n,), thirds of equal size; equal ones share a bin.

    Ranks are of values rounded to nine decimals.
    """
    rank = pd.Series(np.round(easiness, DECIMALS)).rank(method="average").to_numpy()
    place = np.floor((rank - 0.5) / len(rank) * len(BINS)).astype(int)
    return [BINS[i] for i in place]


def curves(examples: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean scores of each bin and model, from hard to easy, the smallest model first."""
    groups = examples.groupby(["task", "bin", "parameters", "model"], sort=True)
    means = groups[list(SCORES)].mean().assign(n=groups.size()).reset_index()
    means = means.assign(order=means["bin"].map(BINS.index), log10_parameters=np.log10(means["parameters"]))
    means = means.sort_values(["order", "parameters", "model"]).drop(columns=["order", "parameters"])
    return [{str(name): value for name, value in row.items()} for row in means.to_dict("records")]
