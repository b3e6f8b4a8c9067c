"""Validity gates: rows whose number cannot be what it says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from src.base import metrics
from src.base.schema import Task
from src.statistics import items
from src.statistics.items import Array, Items
from src.statistics.setting import Setting, primary_metric

MANY_UNPARSED, MANY_TIES, RARE = 1 / 5, 1 / 20, 1 / 20
"""Shares of the answers above which a gate is raised."""

PRINTED = 1.5e-6
"""By how much an accuracy printed to six digits may differ from the accuracy of a policy that it equals."""


def gate_string(flags: dict[str, Array], size: int) -> list[str]:
    """';'-joined names of the gates raised in each of `size` rows; "" where none is."""
    return [";".join(name for name, raised in flags.items() if raised[i]) for i in range(size)]


def row_gates(rows: pd.DataFrame) -> dict[str, Array]:
    """Gates that a row of counts shows by itself. Each speaks about the metric of its row.

    In: metric, primary_metric, n, accuracy, tested, ci_low, ci_high, unparsed, ties; and the accuracies of the row's
    cell under both published metrics, exact_match and bertscore_accuracy.
    """
    forced = rows["metric"].isin([metrics.BERT, *metrics.LIKELIHOODS]).to_numpy()
    bert = ((rows["metric"] == metrics.BERT) & (rows["primary_metric"] == metrics.BERT)).to_numpy()
    parsed = (rows["metric"] == metrics.EXACT).to_numpy()
    accuracy, exact, nearest = (rows[c].to_numpy(dtype=float) for c in ("accuracy", metrics.EXACT, metrics.BERT))
    tested = rows["tested"].to_numpy(dtype=float)
    near = (rows["ci_low"].to_numpy(dtype=float) <= tested) & (tested <= rows["ci_high"].to_numpy(dtype=float))
    with np.errstate(invalid="ignore"):
        return {
            metrics.GATE_ZERO: forced & (accuracy == 0) & (rows["n"].to_numpy() >= 100),
            metrics.GATE_EXACT_ABOVE: bert & (exact - nearest > metrics.MARGIN),
            metrics.GATE_EXACT_ZERO: bert & (exact == 0) & near,
            metrics.GATE_UNPARSED: parsed & (rows["unparsed"].to_numpy(dtype=float) / rows["n"] > MANY_UNPARSED),
            metrics.GATE_TIES: rows["ties"].to_numpy(dtype=float) > MANY_TIES,
        }


policy_counts = cache(items.constant_counts)


def equals_policy(n: int, accuracy: float, counts: set[int]) -> bool:
    """Whether n * accuracy is one of `counts`, as far as an accuracy of six digits can tell.

    A mean over seeds that only rounds to one of them is none.
    """
    return any(abs(n * accuracy - count) <= n * PRINTED for count in counts)


def size_of_test_set(task: Task, these: Items | None) -> int:
    """Number of test items: those prepared, or the file's without the exemplars that are drawn from it."""
    if these is not None:
        return len(these.ids)
    return task.n_source - (0 if task.exemplar_file else len(task.exemplars))


def gates(rows: pd.DataFrame, setting: Setting) -> list[str]:
    """The validity gates of every row, ';'-joined."""
    index = list(metrics.CELL_KEY)
    wide = rows.pivot(index=index, columns="metric", values="accuracy").reindex(columns=[metrics.EXACT, metrics.BERT])
    beside = rows[index].merge(wide, left_on=index, right_index=True, how="left")
    seen = rows.assign(
        primary_metric=[
            primary_metric(setting.tasks, *pair) for pair in zip(rows["task"], rows["prompt"], strict=True)
        ],
        **{name: beside[name].to_numpy() for name in (metrics.EXACT, metrics.BERT)},
    )
    table1 = table1_models(setting.tables)
    item_flags = [item_gates(row, setting) for row in rows.itertuples()]
    flags = {
        **row_gates(seen),
        metrics.GATE_MODEL: ((rows["source"] == metrics.PUBLISHED) & ~rows["model"].isin(table1)).to_numpy(),
        metrics.GATE_TASK: (~rows["task"].isin(list(setting.tables["table2"]))).to_numpy(),
        **{name: np.array([name in each for each in item_flags]) for name in metrics.ITEM_GATES},
        metrics.GATE_CEILING: (rows["ceiling"] < 1).to_numpy(),
    }
    return gate_string(flags, len(rows))


def table1_models(tables: Mapping[str, Any]) -> set[str]:
    """Every model that Table 1 names."""
    pairs = [value for row in tables["table1"] for value in (row["base"], row["tuned"])]
    return {name for value in pairs for name in (value if isinstance(value, list) else [value]) if name}


def item_gates(row: Any, setting: Setting) -> set[str]:
    """Gates that a row shows against its task's items."""
    task, these = setting.tasks.get(row.task), setting.items.get(row.task)
    raised = set()
    if task and row.n > size_of_test_set(task, these):
        raised.add(metrics.GATE_N_ABOVE)
    if row.source == metrics.PUBLISHED and task and row.n != task.n_published:
        raised.add(metrics.GATE_EXEMPLARS if row.n == task.n_source else metrics.GATE_N)
    if these is None:
        return raised
    if row.source == metrics.PUBLISHED and row.n < len(these.ids):
        raised.add(metrics.GATE_N)
    if these.sibling.any() and row.shots > 0:
        raised.add(metrics.GATE_SIBLINGS)
    if these.duplicates:
        raised.add(metrics.GATE_DUPLICATES)
    if row.source == metrics.PUBLISHED and not np.isnan(row.trivial):
        raised |= policy_gate(these, row.n, row.accuracy)
    return raised


def policy_gate(these: Items, n: int, accuracy: float) -> set[str]:
    """The gate of an accuracy that a constant policy has too, on all of these items; none for another n."""
    if n != len(these.ids):
        return set()
    counts = policy_counts(these)
    by_guessing = coincidence(these, frozenset(counts)) < RARE
    gate = metrics.GATE_CONSTANT if by_guessing else metrics.GATE_CONSTANT_MAYBE
    return {gate} if equals_policy(n, accuracy, counts) else set()


@cache
def coincidence(these: Items, counts: frozenset[int]) -> float:
    """The chance that a uniform guesser gets a number right that is one of `counts`."""
    return float(stats.poisson_binom.pmf(sorted(counts), 1 / these.n_options).sum())
