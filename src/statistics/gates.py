"""Validity gates: rows whose number cannot be what it says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from src.base import metrics
from src.statistics import items
from src.statistics.items import Array
from src.statistics.setting import Setting

MANY_UNPARSED, MANY_TIES = 1 / 5, 1 / 20
"""Shares of the answers above which a gate is raised."""


def gate_string(flags: dict[str, Array], size: int) -> list[str]:
    """';'-joined names of the gates raised in each of `size` rows; "" where none is."""
    return [";".join(name for name, raised in flags.items() if raised[i]) for i in range(size)]


def row_gates(rows: pd.DataFrame) -> dict[str, Array]:
    """Gates that a row of counts shows by itself. In: metric, n, accuracy, k, exact_match, bertscore_accuracy, ..."""
    forced = rows["metric"].isin([metrics.BERT, *metrics.LIKELIHOODS]).to_numpy()
    accuracy, exact, nearest = (rows[c].to_numpy(dtype=float) for c in ("accuracy", metrics.EXACT, metrics.BERT))
    tested = rows["tested"].to_numpy(dtype=float)
    near = (rows["ci_low"].to_numpy(dtype=float) <= tested) & (tested <= rows["ci_high"].to_numpy(dtype=float))
    with np.errstate(invalid="ignore"):
        return {
            metrics.GATE_ZERO: forced & (accuracy == 0) & (rows["n"].to_numpy() >= 100),
            metrics.GATE_EXACT_ABOVE: exact - nearest > metrics.MARGIN,
            metrics.GATE_EXACT_ZERO: (exact == 0) & (rows["metric"] == metrics.BERT).to_numpy() & near,
            metrics.GATE_UNPARSED: rows["unparsed"].to_numpy(dtype=float) / rows["n"].to_numpy() > MANY_UNPARSED,
            metrics.GATE_TIES: rows["ties"].to_numpy(dtype=float) > MANY_TIES,
        }


policy_counts = cache(items.constant_counts)


def gates(rows: pd.DataFrame, setting: Setting) -> list[str]:
    """The validity gates of every row, ';'-joined."""
    index = list(metrics.CELL_KEY)
    wide = rows.pivot(index=index, columns="metric", values="accuracy").reindex(columns=[metrics.EXACT, metrics.BERT])
    beside = rows[index].merge(wide, left_on=index, right_index=True, how="left")
    seen = rows.assign(**{name: beside[name].to_numpy() for name in (metrics.EXACT, metrics.BERT)})
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
    if row.source == metrics.PUBLISHED and not np.isnan(row.trivial) and row.n == len(these.ids):
        raised |= {metrics.GATE_CONSTANT} if row.k in policy_counts(these) else set()
    return raised
