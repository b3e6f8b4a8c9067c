"""Contrasts over tasks: few-shot against zero-shot, tuned against base, and the difference of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from src.base.metrics import MARGIN
from src.statistics import overlap
from src.statistics.items import Array
from src.statistics.overlap import Sides, paired
from src.statistics.tests import DECIMALS, OUTSIDE_90, OUTSIDE_95, PG_P, PG_TOST_P, adjust


def contrast(x: Array, y: Array, bound: float = MARGIN) -> dict[str, float]:
    """Paired contrast x - y over tasks (accuracies): Wilcoxon (and Pratt), t, BF10, Hedges' g, TOST within +-bound."""
    import pingouin as pg

    if len(x) != len(y):  # and no assert, because `python -O` drops it and numpy would repeat a single value
        raise ValueError("paired contrasts need the same tasks")
    difference = x - y
    ranked = np.round(difference, DECIMALS)  # noise of floats splits no tie, and a difference of 0 gets no sign
    out = {"n_tasks": len(x), "mean_diff": float(difference.mean()), "median_diff": float(np.median(difference))}
    if len(x) < 3 or not ranked.any():
        return out
    t = stats.ttest_rel(x, y)
    low, high = t.confidence_interval(1 - OUTSIDE_95)
    return {
        **out,
        "ci_low": float(low),
        "ci_high": float(high),
        "wilcoxon_p": float(pg.wilcoxon(ranked)[PG_P].iloc[0]),
        "pratt_p": float(pg.wilcoxon(ranked, zero_method="pratt")[PG_P].iloc[0]),
        "t": float(t.statistic),
        "t_p": float(pg.ttest(x, y, paired=True)[PG_P].iloc[0]),
        "bf10": float(pg.bayesfactor_ttest(t.statistic, len(x), paired=True)),
        "hedges_g": float(pg.compute_effsize(x, y, paired=True, eftype="hedges")),
        "tost_p": float(pg.tost(x, y, bound=bound, paired=True)[PG_TOST_P].iloc[0]),
    }


def can_show_equivalence(x: pd.DataFrame, y: pd.DataFrame, bound: float = MARGIN) -> int:
    """Number of tasks whose own n is enough: 90 % half-width of the difference of two shares below `bound`."""
    spread = [rows["accuracy"] * (1 - rows["accuracy"]) / rows["n"] for rows in (x, y)]
    half = stats.norm.isf(OUTSIDE_90 / 2) * np.sqrt(spread[0].to_numpy() + spread[1].to_numpy())
    return int((half < bound).sum())


def contrast_row(kind: str, x: pd.DataFrame, y: pd.DataFrame) -> dict[str, Any]:
    """One contrast of two sides indexed by task; `n_differs`: tasks whose two n are unequal."""
    x, y = paired(x, y)
    values = contrast(x["accuracy"].to_numpy(dtype=float), y["accuracy"].to_numpy(dtype=float))
    return {
        "kind": kind,
        "prompt": x["prompt"].iloc[0],
        **{
            f"{side}_{name}": rows[name].iloc[0]
            for side, rows in (("x", x), ("y", y))
            for name in ("model", "condition")
        },
        **values,
        "tasks_that_can_show_equivalence": can_show_equivalence(x, y),
        "n_differs": int((x["n"].to_numpy() != y["n"].to_numpy()).sum()),
    }


def pairs_of(table1: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(base, tuned) pairs of Table 1."""
    listed = [(row["base"], row["tuned"] if isinstance(row["tuned"], list) else [row["tuned"]]) for row in table1]
    return [(base, tuned) for base, many in listed for tuned in many if tuned]


def contrasts(sides: Sides, table1: Sequence[Mapping[str, Any]], alpha: float) -> pd.DataFrame:
    """Tuned - base of each Table 1 pair and few - zero of each model, closed and closed_adv. Published cells."""
    pairs = pairs_of(table1)
    models = list(dict.fromkeys(name for row in table1 for name in _flat(row) if name))
    rows = []
    for prompt in ("closed", "closed_adv"):
        for base, tuned in pairs:
            for few in (False, True):
                rows.append(
                    (
                        "tuned_minus_base",
                        overlap.side(sides, tuned, few, prompt),
                        overlap.side(sides, base, few, prompt),
                    )
                )
        rows += [
            ("few_minus_zero", overlap.side(sides, m, True, prompt), overlap.side(sides, m, False, prompt))
            for m in models
        ]
    return with_holm([contrast_row(kind, x, y) for kind, x, y in rows if len(paired(x, y)[0])], alpha)


def _flat(row: Mapping[str, Any]) -> list[Any]:
    return [row["base"], *(row["tuned"] if isinstance(row["tuned"], list) else [row["tuned"]])]


def with_holm(rows: Sequence[Mapping[str, Any]], alpha: float) -> pd.DataFrame:
    """Adds Holm within each kind (a family of its own) on the Wilcoxon p, and two verdicts: differs, equivalent."""
    out = pd.DataFrame(rows)
    for name, p in (("wilcoxon_p_holm", "wilcoxon_p"), ("tost_p_holm", "tost_p")):
        out[name] = out.groupby("kind")[p].transform(lambda values: adjust(values, "holm"))
    out["differs"] = (out["wilcoxon_p_holm"] < alpha).astype("boolean").mask(out["wilcoxon_p_holm"].isna())
    out["equivalent"] = (out["tost_p_holm"] < alpha).astype("boolean").mask(out["tost_p_holm"].isna())
    return out


def difference_in_differences(sides: Sides, table1: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """RQ4: (few - zero) of the base minus (few - zero) of the tuned twin, over tasks; Holm over the pairs of a prompt.

    `pair` names a row.
    """
    rows = []
    for base, tuned in pairs_of(table1):
        for prompt in ("closed", "closed_adv"):
            four = [overlap.side(sides, model, few, prompt) for model in (base, tuned) for few in (True, False)]
            tasks = sorted(set.intersection(*(set(each.index) for each in four)))
            if tasks:
                accuracy = [each.loc[tasks, "accuracy"].to_numpy(dtype=float) for each in four]
                gains = accuracy[0] - accuracy[1], accuracy[2] - accuracy[3]
                named = {"pair": f"{base} against {tuned}, {prompt}", "base": base, "tuned": tuned, "prompt": prompt}
                rows.append({**named, **contrast(*gains)})
    out = pd.DataFrame(rows)
    return out.assign(t_p_holm=out.groupby("prompt")["t_p"].transform(lambda values: adjust(values, "holm")))
