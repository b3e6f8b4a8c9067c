"""Predictable? Emergent? A line through the smaller models of a series, and the largest model against it.

The rules are in docs/statistics.md. One series mixes training sets, so its models scatter around a line more than their
examples explain. `forecasts` estimates that scatter over all tasks together; the binomial line, which has none, stands
beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit

from src.base import metrics
from src.base.metrics import MARGIN
from src.statistics.forecast import (
    Against,
    binomial_line,
    clipped,
    design,
    expected_variance,
    likelihood_ratio,
    logit_variance,
    scatter_between,
    weighted_lines,
)
from src.statistics.items import NAN, Array
from src.statistics.tests import adjust, kappa

FEWEST = 3
"""How many smaller models a forecast needs."""
POOL_KEY = (*(name for name in metrics.SERIES_KEY if name != "task"), "family")
"""What the cells behind one scatter share: all tasks of one family, prompt and metric."""
FORECAST = ("forecast", "residual", "residual_low", "residual_high", "p_jump", "p_differs", "p_within_five",
            "p_within_ten", "p_short_five", "fit_p", "tau2", "df")  # fmt: skip
"""The columns of `forecasts` that a judged row keeps."""
LINE = ("eta", "variance")
"""Its other columns: the logit of the forecast, and the variance of the line there."""
BINOMIAL = {
    "forecast": "forecast_binomial",
    "residual": "residual_binomial",
    "residual_low": "residual_binomial_low",
    "residual_high": "residual_binomial_high",
    "fit_p": "fit_p_binomial",
    "p_emergent": "p_emergent_binomial",
    "predictable": "predictable_binomial",
}
"""Columns of a judged row -> their names under the binomial line."""
WORDS = ("predictable", "predictable_binomial")
JUDGED = (*FORECAST, "residual_floor", "p_emergent", "lr_p", *(name for name in BINOMIAL.values() if name not in WORDS))
"""The columns of numbers that `judge_all` adds."""


def forecasts(rows: pd.DataFrame, *, scatter: bool, without_smallest: bool = False) -> pd.DataFrame:
    """The largest base model against the smaller ones of its family: one row a task, FORECAST and LINE as columns.

    rows: zero-shot cells of base models under one prompt (task, model, family, metric, parameters, n, accuracy). Each
    metric among them has a scatter of its own. scatter=False: the binomial line, tau2 = 0, the normal distribution.
    without_smallest: each line leaves out the task's smallest model; tau2 and df stay those of all. A task with fewer
    than FEWEST smaller models has no row.
    """
    known = rows.dropna(subset=["accuracy", "parameters"])
    largest = known.loc[known["parameters"].idxmax()] if len(known) else None
    if largest is None:
        return pd.DataFrame(columns=[*FORECAST, *LINE], index=pd.Index([], name="task"), dtype=float)
    family = known[known["family"] == largest["family"]]
    used = family[(family["parameters"] < largest["parameters"]) | (family["model"] == largest["model"])]
    parts = [_pooled(part, largest["model"], scatter, without_smallest) for _, part in used.groupby("metric")]
    return pd.concat(parts)


def _pooled(rows: pd.DataFrame, largest: str, scatter: bool, without_smallest: bool) -> pd.DataFrame:
    """`forecasts` of one metric; rows: the largest model and the smaller ones."""
    parameters = rows.groupby("model")["parameters"].first().sort_values()
    wide = rows.pivot(index="task", columns="model", values=["accuracy", "n"]).astype(float)
    accuracy, n = (wide[name].reindex(columns=[*parameters.index]) for name in ("accuracy", "n"))
    enough = accuracy.drop(columns=largest, errors="ignore").notna().sum(axis=1) >= FEWEST
    judged = enough & accuracy[largest].notna() if largest in accuracy else ~accuracy.index.notna()
    tasks = accuracy.index[judged]
    if tasks.empty:
        return pd.DataFrame(columns=[*FORECAST, *LINE], index=tasks, dtype=float)
    x, given = np.log10(parameters.to_numpy()), [each.loc[tasks].to_numpy() for each in (accuracy, n)]
    found = _lines(x, given[0], given[1], scatter, without_smallest)
    return pd.DataFrame(found, index=tasks)[[*FORECAST, *LINE]]


def _lines(x: Array, accuracy: Array, n: Array, scatter: bool, without_smallest: bool) -> dict[str, Any]:
    """FORECAST of every task: x (models,), accuracy and n (tasks, models), the largest model last."""
    share = clipped(accuracy, n)
    y, v = logit(share), logit_variance(share, n)
    tau2, df = scatter_between(x[:-1], y[:, :-1], v[:, :-1]) if scatter else (0.0, np.inf)
    kept = ~np.isnan(y[:, :-1])
    if without_smallest:
        kept[np.arange(len(y)), kept.argmax(axis=1)] = False
    if scatter:
        line = weighted_lines(x[:-1], np.where(kept, y[:, :-1], NAN), v[:, :-1], tau2)
        eta, variance, fit_p = line.at(x[-1]), line.variance(x[-1]), line.fit_p
    else:
        each = [_binomial(x, share[i] * n[i], n[i], kept[i]) for i in range(len(y))]
        eta, variance, fit_p = np.transpose(each)
    against = Against(share[:, -1], eta, np.sqrt(variance + tau2 + expected_variance(eta, n[:, -1])), df)
    forecast = expit(eta)
    residual = accuracy[:, -1] - forecast
    own = {"forecast": forecast, "residual": residual, "fit_p": fit_p, "tau2": tau2, "df": float(df)}
    own |= {"eta": eta, "variance": variance}
    return {**own, **against.columns()}


def _binomial(x: Array, k: Array, n: Array, kept: Array) -> tuple[float, float, float]:
    """(eta, its variance, deviance p) of a task's binomial line at the last of x; kept: the models it goes through.

    Through two models the line is exact, and the weighted one is the same.
    """
    if kept.sum() == 2:
        share = (k / n)[None, :-1]
        exact = weighted_lines(x[:-1], np.where(kept, logit(share), NAN), logit_variance(share, n[:-1]), 0.0)
        return float(exact.at(x[-1])[0]), float(exact.variance(x[-1])[0]), NAN
    parameters = 10**x
    line = binomial_line(parameters[:-1][kept], k[:-1][kept], n[:-1][kept])
    at = line.get_prediction(design(parameters[-1:])).linpred
    fit_p = float(stats.chi2.sf(line.deviance, line.df_resid))
    return float(at.predicted[0]), float(at.se_mean[0]) ** 2, fit_p


def predictable(row: Any, alpha: float) -> str:
    """The first verdict that applies, in the order of statistics.md; row: one row of `forecasts`."""
    differs = row["p_differs"] < alpha
    rules = {
        metrics.LINE_REJECTED: row["fit_p"] < alpha,
        metrics.NO_ABOVE: differs and row["residual"] > 0,
        metrics.NO_BELOW: differs and row["residual"] <= 0,
        metrics.YES: row["p_within_ten"] < alpha,
    }
    return next((verdict for verdict, applies in rules.items() if applies), metrics.INCONCLUSIVE)


def p_emergent(p: float, p_content_free: float, jump: float) -> float:
    """The largest p that emergence needs. It is null where p or the p of a jump is; `p_content_free` may be missing."""
    return NAN if np.isnan(p) or np.isnan(jump) else float(np.nanmax([p, p_content_free, jump]))


def _with_verdicts(rows: pd.DataFrame, found: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """`forecasts` of some rows, both by task, with predictable, and p_emergent, null where the line is rejected."""
    verdict = [predictable(row, alpha) for row in found.to_dict("records")]
    guard = rows["p_content"].where(rows["source"] == metrics.OWN, rows["p_trivial"])
    p = [p_emergent(*each) for each in zip(rows["p"], guard, found["p_jump"], strict=True)]
    out = found.assign(predictable=verdict, p_emergent=p)
    return out.assign(p_emergent=out["p_emergent"].mask(out["predictable"] == metrics.LINE_REJECTED))


def judge(pool: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """JUDGED and WORDS of the cells of a pool's largest model, by their index; pool: cells that share POOL_KEY."""
    primary, beside = (forecasts(pool, scatter=scatter) for scatter in (True, False))
    largest = pool.loc[pool["parameters"].idxmax(), "model"]
    rows = pool[pool["model"] == largest].assign(row=pool.index[pool["model"] == largest])
    rows = rows.set_index("task").loc[primary.index]
    out = _with_verdicts(rows, primary, alpha)
    out = out.join(_with_verdicts(rows, beside, alpha)[[*BINOMIAL]].rename(columns=BINOMIAL))
    out["residual_floor"] = rows["accuracy"] - np.fmax(out["forecast"], rows["tested"])
    out["lr_p"] = [_lr_p(pool[pool["task"] == task]) for task in out.index]
    return out.set_axis(rows["row"])[[*JUDGED, *WORDS]]


def _lr_p(series: pd.DataFrame) -> float:
    ordered = series.sort_values("parameters")
    return likelihood_ratio(
        ordered["parameters"].tolist(), (ordered["accuracy"] * ordered["n"]).tolist(), ordered["n"].tolist()
    )


def judge_all(cells: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """`judge` for every zero-shot row of a base model, against the smaller ones of its family and series."""
    base = cells[(cells["shots"] == 0) & ~cells["tuned"] & cells["k"].notna() & cells["parameters"].notna()]
    found = []
    for _, pool in base.groupby([*POOL_KEY], sort=False):
        for model, parameters in pool.groupby("model")["parameters"].first().items():
            smaller = pool["parameters"] < parameters
            if pool.loc[smaller, "model"].nunique() >= FEWEST:
                found.append(judge(pool[smaller | (pool["model"] == model)], alpha))
    out = pd.concat(found) if found else pd.DataFrame()
    out = out.reindex(index=cells.index, columns=[*JUDGED, *WORDS])
    why = pd.Series(np.where(cells["shots"] > 0, metrics.NOT_ZERO_SHOT, metrics.TOO_FEW_SIZES), cells.index)
    words = {name: out[name].astype(object).where(out[name].notna(), why) for name in WORDS}
    return out.astype(dict.fromkeys(JUDGED, float)).assign(**words)


def scale(rows: pd.DataFrame) -> pd.DataFrame:
    """Figure 1: one row per model of a series, with the line of those that have one (`fitted`)."""
    keep = [
        *metrics.SERIES_KEY,
        "family",
        "model",
        "parameters",
        "accuracy",
        "ci_low",
        "ci_high",
        "chance",
    ]
    keep += ["chance_scored", "trivial", "forecast", "residual_low", "residual_high", "fingerprint"]
    out = rows[keep].copy()
    out["fitted"] = np.nan
    keys = [*metrics.SERIES_KEY, "family"]
    base = rows[~rows["tuned"]].sort_values("parameters")
    judged = base[base.groupby(keys)["forecast"].transform("count") > 0]
    for _, series in judged.groupby(keys, sort=False):
        out.loc[series.index, "fitted"] = fitted(series)
    out = out.sort_values([*metrics.SERIES_KEY, "family", "parameters"], ignore_index=True)
    return out.drop(columns=["suite", "condition"])


def fitted(series: pd.DataFrame) -> Array:
    """Accuracy on the line that the largest model was judged by, at each model's parameters; largest last."""
    x, accuracy, n = (series[name].to_numpy(dtype=float) for name in ("parameters", "accuracy", "n"))
    x, share = np.log10(x), clipped(accuracy, n)
    smaller, v = logit(share[None, :-1]), logit_variance(share, n)[None, :-1]
    return expit(weighted_lines(x[:-1], smaller, v, float(series["tau2"].iloc[-1])).at(x))


def above_by_rule(rows: pd.DataFrame, alpha: float) -> dict[str, pd.Series]:
    """Verdict "above the baseline" under each of metrics.RULES; rows: one Holm family. Null where there is no p."""
    unknown = rows["p"].isna()
    verdicts = {
        "raw": rows["diff"] > 0,
        "p05": rows["p"] < alpha,
        "holm": rows["p_holm"] < alpha,
        "bh": rows["p_bh"] < alpha,
        "plus5": rows["diff"] > MARGIN,
        "holm_trivial": pd.Series(adjust(rows[["p", "p_trivial"]].max(axis=1), "holm"), rows.index) < alpha,
    }
    return {rule: verdict.astype("boolean").mask(unknown) for rule, verdict in verdicts.items()}


def predictable_by_rule(rows: pd.DataFrame, rule: str, above: pd.Series) -> pd.Series:
    """ "yes", "no", "-" (not above: the paper judges no scale there) or "undecided" under a rule.

    A rejected line decides nothing.
    """
    if rule in ("raw", "plus5"):
        beyond = (rows["residual"] > MARGIN).map({True: "no", False: "yes"})
        verdict = beyond.mask(rows["residual"].isna() | (rows["predictable"] == metrics.LINE_REJECTED))
    else:
        verdict = rows["predictable"].map({metrics.YES: "yes", metrics.NO_ABOVE: "no", metrics.NO_BELOW: "no"})
    return verdict.fillna("undecided").mask(~above.fillna(True).astype(bool), "-").mask(above.isna(), "undecided")


def emergent_by_rule(rows: pd.DataFrame, rule: str, above: pd.Series) -> pd.Series:
    """Emergent: above by the rule, and above the forecast (by 5 points for the rules without a test).

    A task that has no verdict "above" has none here either. One that is above has none where the line is rejected.
    """
    beyond = rows["residual"] > MARGIN if rule in ("raw", "plus5") else rows["predictable"] == metrics.NO_ABOVE
    no_forecast = rows["residual"].isna() | (rows["predictable"] == metrics.LINE_REJECTED)
    return (above & beyond.astype("boolean").mask(no_forecast)).mask(above.isna())


def agreement_row(rule: str, verdict: str, ours: pd.Series, paper: pd.Series) -> dict[str, Any]:
    """Agreements with the paper over the tasks that the rule decides. The others count as undecided only."""
    ours, paper = ours.astype("string").fillna("undecided"), paper.astype("string")
    judged = ours != "undecided"
    table = pd.crosstab(ours[judged], paper[judged])
    labels = sorted({*table.index, *table.columns})
    square = table.reindex(index=labels, columns=labels, fill_value=0).to_numpy()
    return {
        "rule": rule,
        "verdict": verdict,
        "n": int(judged.sum()),
        "agree": int((ours == paper)[judged].sum()),
        "undecided": int((~judged).sum()),
        "kappa": kappa(square),
        "differ": ";".join(sorted(ours.index[judged & (ours != paper)])),
    }


def agreement(rows: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Per rule, agreements with the paper's three verdicts. rows: the Holm family of Table 2, with paper_* columns."""
    rows = rows.set_index("task")
    paper = rows["paper_predictable"].map({True: "yes", False: "no"}).fillna("-")
    out = []
    for rule, above in above_by_rule(rows, alpha).items():
        out += [
            agreement_row(rule, "above", above, rows["paper_above"].astype("boolean")),
            agreement_row(rule, "predictable", predictable_by_rule(rows, rule, above), paper),
            agreement_row(
                rule, "emergent", emergent_by_rule(rows, rule, above), rows["paper_emergent"].astype("boolean")
            ),
        ]
    return pd.DataFrame(out)
