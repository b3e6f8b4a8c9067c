"""The rows of the paper's Table 2, its sensitivity to chance, and Table 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from src.base import metrics
from src.base.schema import Task
from src.statistics import scale
from src.statistics.pairing import extremes, paired_with
from src.statistics.rows import by_family, table2_model
from src.statistics.setting import Setting
from src.statistics.tests import adjust, binomial_tail, wilson

FORECASTS = (
    *("prompt", "task", "model", "metric", "n", "accuracy", "tau2", "df"),
    *("forecast", "residual", "residual_low", "residual_high"),
    *("forecast_binomial", "residual_binomial", "residual_binomial_low", "residual_binomial_high"),
    *("fit_p", "fit_p_binomial", "predictable", "predictable_binomial", "emergent", "emergent_binomial"),
    *("paper_predictable", "paper_emergent", "source", "fingerprint"),
)
"""The columns of frame forecasts."""


def emergence(cells: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Rows of Table 2: primary metric; published base models of a series, and own models. All columns of cells too."""
    base = (cells["source"] == metrics.PUBLISHED) & ~cells["tuned"] & cells["family"].notna()
    rows = cells[cells["primary"] & (base | (cells["source"] == metrics.OWN))].reset_index(drop=True)
    rows = pd.concat([rows, scale.judge_all(rows, setting.alpha)], axis=1)
    beyond = (rows["above_raw"] & (rows["residual"] > metrics.MARGIN)).astype("boolean")
    no_forecast = rows["residual"].isna() | (rows["predictable"] == metrics.LINE_REJECTED)
    rows["emergent_paper_rule"] = beyond.mask(no_forecast | rows["above_raw"].isna())
    holm = by_family(rows, "p_emergent", "holm").mask(rows["family_tests"] == metrics.EXPLORATORY)
    rows["emergent"] = (holm < setting.alpha).astype("boolean").mask(holm.isna())
    paper = paper_verdicts(setting.tables)
    judged = of_table2(rows) & rows["primary"]
    for name in paper:
        rows[name] = rows["task"].map(paper[name]).astype("boolean").mask(~judged)
    return rows


def with_and_without_scatter(rows: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Frame forecasts: what the scatter between models does to the verdicts on the largest base model.

    rows: what `emergence` gives. Holm corrects p_emergent, and p_emergent of the binomial line, over the tasks of a
    prompt that have one.
    """
    largest = (rows["source"] == metrics.PUBLISHED) & (rows["model"] == table2_model(rows))
    out = rows[largest & rows["forecast"].notna()].sort_values(["prompt", "task"], ignore_index=True)
    for p, verdict in (("p_emergent", "emergent"), ("p_emergent_binomial", "emergent_binomial")):
        holm = out.groupby("prompt")[p].transform(lambda each: adjust(each, "holm"))
        out[verdict] = (holm < alpha).astype("boolean").mask(holm.isna())
    return out[list(FORECASTS)]


def of_table2(rows: pd.DataFrame) -> pd.Series:
    """Rows of the paper's Table 2, tested or not."""
    return (
        (rows["source"] == metrics.PUBLISHED)
        & (rows["model"] == table2_model(rows))
        & (rows["condition"] == "closed_zero")
    )


def paper_verdicts(tables: Mapping[str, Any]) -> dict[str, dict[str, bool | None]]:
    """The paper's three verdicts by task."""
    columns = {"paper_above": "above_baseline", "paper_predictable": "predictable", "paper_emergent": "emergent"}
    return {ours: {task: row[theirs] for task, row in tables["table2"].items()} for ours, theirs in columns.items()}


def chance_sensitivity(table2: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Rows of Table 2 whose number of options is assumed, or has none, under other chance levels.

    chance 0 is free generation; p_holm: Holm over the family with this row's p in place of its own.
    """
    out = []
    for row in table2[table2["chance_assumed"].fillna(False)].itertuples():
        others = table2.loc[table2["task"] != row.task, "p"].to_numpy(dtype=float)
        for chance in (1 / 3, 1 / 4, 1 / 5, 0.0):
            p = float(binomial_tail(row.k, row.n, chance))
            holm = adjust([p, *others], "holm")[0]
            verdict = {"p": p, "p_holm": holm, "above_raw": row.accuracy > chance, "above": bool(holm < alpha)}
            shared = {name: getattr(row, name) for name in ("task", "model", "prompt", "shots", "n", "k", "accuracy")}
            out.append({**shared, "chance": chance, **verdict, "fingerprint": row.fingerprint})
    return pd.DataFrame(out)


GRADED_OUTPUTS = 50
"""Outputs a task that Table 4 says were graded."""


def table4_manual(
    paper: Sequence[Mapping[str, Any]], graded: pd.DataFrame | None, tasks: Mapping[str, Task]
) -> pd.DataFrame:
    """Table 4's rows, and below them the outputs graded by src.annotate, with what every pairing allows.

    The paper prints per cent. Its n is 50, or the size of the test set where that is smaller. graded: the columns of
    conf/frame/graded.yaml, or None. `disagreements` is known of own rows that one person graded.
    Elsewhere the pairings are bounds.
    """
    rows = pd.DataFrame(list(paper))
    sizes = [tasks[task].n_published if task in tasks else GRADED_OUTPUTS for task in rows["task"]]
    n = np.minimum(GRADED_OUTPUTS, sizes)
    exact = {name: rows[name] * n / 100 for name in ("metric", "manual")}
    k = {f"k_{name}": values.round().astype(int) for name, values in exact.items()}
    whole = np.logical_and.reduce([np.isclose(values, values.round()) for values in exact.values()])
    rows = rows.assign(source=metrics.PUBLISHED, n=n, **k, counts_whole=whole, baseline=rows["baseline"] / 100)
    rows = rows.assign(difference=(rows["k_metric"] - rows["k_manual"]) / rows["n"], graders=1)
    columns = [*rows.drop(columns=["metric", "manual"]), *TABLE4_OWN]
    parts = [rows]
    if graded is not None:
        parts.append(graded.rename(columns={"chance": "baseline"}).assign(source=metrics.OWN, counts_whole=True))
    rows = pd.concat([part.reindex(columns=columns).astype(object) for part in parts], ignore_index=True)
    rows = rows.infer_objects()
    low, high = wilson(rows["k_manual"].astype(float), rows["n"].astype(float))
    shares = {f"{name}_accuracy": rows[f"k_{name}"] / rows["n"] for name in ("metric", "manual")}
    pairs = pd.DataFrame([_pairings(row) for row in rows.itertuples()], index=rows.index)
    return pd.concat(
        [rows.drop(columns="disagreements").assign(manual_low=low, manual_high=high, **shares), pairs], axis=1
    )


TABLE4_OWN = ("model", "difference_low", "difference_high", "kappa", "fingerprint", "disagreements")
"""Columns of Table 4 that only own rows have."""


def _pairings(row: Any) -> dict[str, float]:
    """Columns of the pairing with the fewest disagreements (least) and of that with the most (most)."""
    counts = int(row.k_metric), int(row.k_manual), int(row.n)
    known = not pd.isna(row.disagreements)
    both = (paired_with(*counts, int(row.disagreements)),) * 2 if known else extremes(*counts)
    out: dict[str, float] = {}
    for name, each in zip(("least", "most"), both, strict=True):
        low, high = each.interval()
        values = {
            "disagreements": each.b + each.c,
            "p": each.mcnemar_p(),
            "low": low,
            "high": high,
            "tost_p": each.tost_p(),
        }
        out |= {f"{column}_{name}": value for column, value in values.items()}
    return out
