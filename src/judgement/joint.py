"""A joint test of all analyses of a claim: is their median what permuted data give?

Simonsohn, Simmons and Nelson (2020), Specification curve analysis, Nature Human Behaviour 4: 1208. The analyses share
their data, so one permutation of tasks, or one sign for each task, goes through all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from src.base.verdict import BOTH, HOLDS
from src.judgement.family import Family
from src.statistics.items import Array

DRAWS = 999
COLUMNS = ("claim", "of", "analyses", "holds", "median", "expected", "p_joint")


@dataclass(frozen=True, eq=False)
class Null:
    """DRAWS random orders and signs of tasks, the same for every analysis."""

    tasks: tuple[str, ...]
    seed: int

    @cached_property
    def place(self) -> Mapping[str, int]:
        """The column of each task."""
        return {task: i for i, task in enumerate(self.tasks)}

    @cached_property
    def keys(self) -> Array:
        """(draws, tasks): what the tasks are sorted by to permute them."""
        return np.random.default_rng(self.seed).random((DRAWS, len(self.tasks)))

    def permuted(self, values: pd.Series, tasks: pd.Index) -> Array:
        """(draws, tasks): the values of all tasks in the order of each draw, and of them those of some tasks."""
        everywhere = values.reindex(list(self.tasks)).to_numpy(dtype=float)[self.keys.argsort(axis=1)]
        return np.asarray(everywhere[:, [self.place[task] for task in tasks]])

    def signed(self, values: pd.Series) -> Array:
        """(draws,): the mean of the values under the signs of each draw."""
        columns = [self.place[task] for task in values.index]
        signs = np.where(self.keys[:, columns] < 0.5, -1.0, 1.0)
        return np.asarray((signs * values.to_numpy(dtype=float)).mean(axis=1))


def rank_correlations(x: Array, y: Array) -> Array:
    """Spearman's rho of each row of x (draws, tasks) with y (tasks,). NaN where either is the same for every task."""
    if not len(y):
        return np.full(len(x), np.nan)
    ranks = stats.rankdata(x, axis=1)
    apart, fixed = ranks - ranks.mean(axis=1, keepdims=True), stats.rankdata(y) - (len(y) + 1) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray(apart @ fixed / np.sqrt((apart**2).sum(axis=1) * (fixed**2).sum()))


def joint(claim: str, of: str, families: Sequence[Family], alpha: float, seed: int) -> dict[str, Any] | None:
    """COLUMNS of a claim; None where its data cannot be permuted."""
    tested = [family for family in families if family.null is not None]
    tasks = tuple(sorted({task for family in tested for task in family.tasks}))
    if not tasks:
        return None
    null = Null(tasks, seed)
    values, draws, holds = [], [], 0
    for family in tested:
        assert family.null is not None
        outcome = family.result(alpha)["outcome"]
        for item, drawn in family.null(null).items():
            known = item in family.items and pd.notna(family.rows.loc[item, "value"]) and pd.notna(outcome[item])
            if known and not np.isnan(drawn).all():  # without a number under permutation it has no p-value
                values.append(float(family.rows.loc[item, "value"]))
                draws.append(drawn)
                holds += int(outcome[item] in (HOLDS, BOTH))
    if not values:
        return None
    table, observed = np.array(draws), float(np.median(values))
    medians = np.nanmedian(table[:, ~np.isnan(table).all(axis=0)], axis=0)
    expected = float(medians.mean())
    apart = np.abs(medians - expected) >= abs(observed - expected) - 1e-12
    return {
        "claim": claim, "of": of, "analyses": len(values), "holds": holds, "median": observed, "expected": expected,
        "p_joint": float((1 + apart.sum()) / (1 + len(medians))),
    }  # fmt: skip
