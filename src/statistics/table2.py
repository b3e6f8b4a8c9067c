"""The rows of the paper's Table 2, its sensitivity to chance, and Table 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from src.base import metrics
from src.statistics import scale
from src.statistics.items import NAN
from src.statistics.rows import by_family, table2_model
from src.statistics.setting import Setting
from src.statistics.tests import adjust, binomial_tail, newcombe, wilson

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


def table4_manual(paper: Sequence[Mapping[str, Any]], graded: pd.DataFrame | None) -> pd.DataFrame:
    """Table 4's rows (per cent of 50 outputs) with intervals, and below them the outputs graded by src.annotate."""
    rows = pd.DataFrame(list(paper))
    rows = rows.assign(source=metrics.PUBLISHED, n=50, k_metric=rows["metric"] / 2, k_manual=rows["manual"] / 2)
    low, high = newcombe(rows["k_metric"], rows["n"], rows["k_manual"], rows["n"])
    rows = rows.assign(
        model=None, baseline=rows["baseline"] / 100, difference=(rows["metric"] - rows["manual"]) / 100,
        difference_low=low, difference_high=high, graders=1, kappa=NAN, fingerprint=None,
    )  # fmt: skip
    if graded is not None:
        own = graded.rename(columns={"chance": "baseline"}).assign(source=metrics.OWN)
        rows = pd.concat([rows.astype({"model": object}), own[[c for c in own if c in rows]]], ignore_index=True)
    low, high = wilson(rows["k_manual"], rows["n"])
    shares = {name: rows[f"k_{name}"] / rows["n"] for name in ("metric", "manual")}
    return rows.drop(columns=["metric", "manual"]).assign(
        manual_low=low, manual_high=high, **{f"{name}_accuracy": values for name, values in shares.items()}
    )
