"""Do two models solve the same tasks? Agreement of their verdicts, and what their margins alone give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from src.base import metrics
from src.statistics.items import NAN, Array
from src.statistics.tests import adjust, kappa

KEPT = [
    *("model", "condition", "prompt", "shots", "source", "family", "tuned", "n", "accuracy", "ci_low", "ci_high"),
    *("chance", "chance_scored", "p", "above_raw", "fingerprint"),
]

SIDE = ("accuracy", "ci_low", "ci_high", "chance", "n", "p", "fingerprint")


Sides = Mapping[tuple[str, str, bool], pd.DataFrame]


def by_condition(cells: pd.DataFrame) -> Sides:
    """Published primary rows by (model, prompt, few-shot), each indexed by task."""
    rows = cells.loc[cells["primary"] & (cells["source"] == metrics.PUBLISHED), ["task", *KEPT]]
    rows = rows.set_index("task").sort_index()
    groups = rows.groupby([rows["model"], rows["prompt"], rows["shots"] > 0])
    return {(str(model), str(prompt), bool(few)): part for (model, prompt, few), part in groups}


def side(sides: Sides, model: str, few: bool, prompt: str = "closed") -> pd.DataFrame:
    """One model's rows in one condition, by task; no rows where it was not run."""
    empty = next(iter(sides.values())).iloc[:0]
    return sides.get((model, prompt, few), empty)


def paired(left: pd.DataFrame, right: pd.DataFrame, tasks: Sequence[str] | None = None) -> tuple[Any, Any]:
    """The rows of both sides on the tasks that both have (and that `tasks` names), in one order."""
    both = left.index.intersection(right.index)
    keep = sorted(both if tasks is None else both.intersection(list(tasks)))
    return left.loc[keep], right.loc[keep]


def verdicts_of(sides: Sequence[pd.DataFrame], alpha: float) -> tuple[list[pd.Series], list[pd.Series]]:
    """(raw, Holm) verdicts "above the baseline" of each side; Holm over all tasks of all sides together."""
    together = np.concatenate([each["p"].to_numpy(dtype=float) for each in sides])
    holm = np.split(adjust(together, "holm"), np.cumsum([len(each) for each in sides])[:-1])
    raw = [each["above_raw"].astype("boolean") for each in sides]
    return raw, [
        pd.Series(p < alpha, each.index).astype("boolean").mask(np.isnan(p))
        for p, each in zip(holm, sides, strict=True)
    ]


def square_of(left: pd.Series, right: pd.Series) -> Array:
    """2 x 2 counts of tasks, rows left (not, above), columns right; tasks without a verdict are left out."""
    known = left.notna() & right.notna()
    pairs = 2 * left[known].astype(int) + right[known].astype(int)
    return np.bincount(pairs, minlength=4).reshape(2, 2)


def overlap_statistics(table: Array, alpha: float) -> dict[str, float]:
    """Agreement of two sets of verdicts, against what the margins alone give. table: 2 x 2 counts.

    hypergeometric p: P(as many or more tasks above in both | margins), equal to Fisher's one-sided test.
    """
    n, both = int(table.sum()), int(table[1, 1])
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    return {
        "n": n,
        "both": both,
        "agree": int(np.trace(table)),
        "expected": float(rows @ columns / n) if n else NAN,
        "kappa": kappa(table),
        "hypergeometric_p": float(stats.hypergeom.sf(both - 1, n, rows[1], columns[1])),
        "power": overlap_power(n, int(rows[1]), int(columns[1]), alpha),
    }


def overlap_power(n: int, left: int, right: int, alpha: float, odds: float = 10.0) -> float:
    """Power of the hypergeometric test with these margins where the true odds ratio is `odds` (Fisher's noncentral)."""
    critical = stats.hypergeom.isf(alpha, n, left, right) + 1
    return float(stats.nchypergeom_fisher.sf(critical - 1, n, left, right, odds)) if n else NAN


def overlap_rows(left: pd.DataFrame, right: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """One row a task: left_* and right_* columns of both sides, verdicts under both rules, agreement.

    `agree` is null where a side has no verdict: such a task is neither agreement nor disagreement.
    """
    raw, holm = verdicts_of([left, right], alpha)
    out = pd.DataFrame({"task": left.index, "prompt": left["prompt"].to_numpy(), "source": metrics.PUBLISHED})
    for i, (name, rows) in enumerate((("left", left), ("right", right))):
        for column in ("model", "shots", *SIDE):
            out[f"{name}_{column}"] = rows[column].to_numpy()
        out[f"{name}_chance"] = rows["chance_scored"].to_numpy()
        out[f"{name}_above"], out[f"{name}_above_raw"] = holm[i].array, raw[i].array
    for rule in ("", "_raw"):
        out[f"agree{rule}"] = out[f"left_above{rule}"] == out[f"right_above{rule}"]
    return out


def overlap_summary(figure: str, left: pd.DataFrame, right: pd.DataFrame, alpha: float) -> list[dict[str, Any]]:
    """The overlap of two conditions under both rules, one row a rule."""
    raw, holm = verdicts_of([left, right], alpha)
    shared = {
        "figure": figure,
        "left_model": left["model"].iloc[0],
        "right_model": right["model"].iloc[0],
        "tasks": len(left),
    }
    return [
        {**shared, "rule": rule, **overlap_statistics(square_of(*pair), alpha)}
        for rule, pair in (("raw", raw), ("holm", holm))
    ]


def claimed(text: str) -> tuple[str, bool]:
    """ "gptj_6b few-shot" -> ("gptj_6b", True)."""
    model, shots = text.split()
    return model, shots == "few-shot"


def figure2(sides: Sides, claim: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both sides of Figure 2 on its tasks."""
    left, right = paired(side(sides, *claimed(claim["left"])), side(sides, *claimed(claim["right"])))
    keep = left.index != claim["excluded"]
    return left[keep], right[keep]


def placebo(sides: Sides, claim: Mapping[str, Any], alpha: float) -> pd.DataFrame:
    """Figure 2 among its placebos: tuned zero-shot x base few-shot of another family, and the partner's zero-shot.

    `percentile`: share of placebo pairs whose kappa is below the claimed pair's (ties count half).
    """
    (mine, _), (partner, _) = claimed(claim["left"]), claimed(claim["right"])
    tasks = list(figure2(sides, claim)[0].index)
    of = {model: rows.iloc[0] for (model, _, _), rows in sides.items() if set(tasks) <= set(rows.index)}
    tuned = [model for model, row in of.items() if row["tuned"] and isinstance(row["family"], str)]
    base = [model for model, row in of.items() if not row["tuned"]]
    pairs = [(a, b, True) for a in tuned for b in base if of[a]["family"] != of[b]["family"]]
    rows = []
    for one, other, few in [*pairs, (mine, partner, False)]:
        left, right = paired(side(sides, one, False), side(sides, other, few), tasks)
        rows += overlap_summary("figure2_placebo" if few else "figure2_partner_zero", left, right, alpha)
    return with_percentile(pd.DataFrame(rows), mine, partner)


def with_percentile(rows: pd.DataFrame, mine: str, partner: str) -> pd.DataFrame:
    """Adds `percentile` to the claimed pair's rows and marks them as no placebo."""
    claimed_pair = (
        (rows["left_model"] == mine) & (rows["right_model"] == partner) & (rows["figure"] == "figure2_placebo")
    )
    rows["percentile"] = NAN
    for rule in rows["rule"].unique():
        here = claimed_pair & (rows["rule"] == rule)
        others = rows.loc[(rows["rule"] == rule) & (rows["figure"] == "figure2_placebo") & ~claimed_pair, "kappa"]
        rows.loc[here, "percentile"] = stats.percentileofscore(others.dropna(), rows.loc[here, "kappa"], kind="mean")
    rows.loc[claimed_pair, "figure"] = "figure2"
    return rows


def figure5(sides: Sides, claim: Mapping[str, Any], alpha: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(one row per task and model, one row a rule): do the models of Figure 5 solve the same tasks?

    `agree_*` is null on a task on which a model has no verdict.
    `expected`: tasks on which independent models with these margins would all agree; kappa is Fleiss'.
    """
    whole = [side(sides, model, bool(claim["shots"])) for model in claim["models"]]
    tasks = sorted(set.intersection(*(set(each.index) for each in whole)))
    chosen = [each.loc[tasks] for each in whole]
    raw, holm = verdicts_of(chosen, alpha)
    keep = ["task", "model", "source", *SIDE]
    parts = [
        each.assign(chance=each["chance_scored"]).reset_index()[keep].assign(above_raw=r.array, above=h.array)
        for each, r, h in zip(chosen, raw, holm, strict=True)
    ]
    rows = pd.concat(parts).sort_values(["task", "model"], ignore_index=True)
    for name in ("above_raw", "above"):
        known = rows[name].notna().groupby(rows["task"]).transform("all")
        alike = rows.groupby("task")[name].transform("nunique").eq(1)
        rows[f"agree_{name}"] = alike.astype("boolean").where(known)
    summary = [
        {"figure": "figure5", "rule": rule, "tasks": len(tasks), **all_agree(np.array(each, dtype=float))}
        for rule, each in (("raw", raw), ("holm", holm))
    ]
    return rows, pd.DataFrame(summary)


def all_agree(verdict: Array) -> dict[str, float]:
    """verdict (models, tasks), NaN unknown: tasks on which all models agree, expected from margins, Fleiss' kappa."""
    known = verdict[:, ~np.isnan(verdict).any(axis=0)]
    share = known.mean(axis=1)
    counts, _ = aggregate_raters(known.T.astype(int), n_cat=2)
    alike = (known == known[0]).all(axis=0)
    return {
        "n": known.shape[1],
        "agree": int(alike.sum()),
        "expected": float(known.shape[1] * (np.prod(share) + np.prod(1 - share))),
        "kappa": float(fleiss_kappa(counts)) if 0 < known.mean() < 1 else NAN,
    }
