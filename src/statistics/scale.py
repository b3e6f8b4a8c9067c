"""Predictable? Emergent? A line through the smaller models of a series, and the largest model against it.

The rules are in docs/statistics.md. The line assumes no scatter from model to model, so `lr_p` is too small. One series
mixes training sets. A 95 % prediction interval from three points would cover everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from src.base import metrics
from src.base.metrics import MARGIN
from src.statistics.items import NAN, Array
from src.statistics.tests import OUTSIDE_90, adjust, kappa

FAR = 0.10
"""How near a forecast must be to count as predicted."""

JUDGED = (
    *("forecast", "residual", "residual_low", "residual_high", "residual_floor"),
    *("fit_p", "lr_p", "p_jump", "p_emergent"),
)


def line(parameters: Sequence[float], k: Sequence[float], n: Sequence[float]) -> Any:
    """Binomial GLM with logit link on log10 parameters; k clipped to [.25, n - .25] (statsmodels results)."""
    n_ = np.asarray(n, dtype=float)
    k_ = np.clip(np.asarray(k, dtype=float), 0.25, n_ - 0.25)
    return GLM(np.column_stack([k_, n_ - k_]), design(parameters), family=Binomial()).fit()


def design(parameters: Sequence[float]) -> Array:
    """(models, 2): intercept and log10 parameters, centred at 1e9 for a well-conditioned fit."""
    x = np.log10(np.asarray(parameters, dtype=float)) - 9
    return np.column_stack([np.ones_like(x), x])


def forecast(
    parameters: Sequence[float], k: Sequence[float], n: Sequence[int], accuracy: float, chance: float
) -> dict[str, float]:
    """The last model against the line through those before it.

    parameters, k, n: one value a model, the largest last; accuracy: its accuracy; chance: NaN where there is none.
    sd^2 = (f (1 - f) se_eta)^2 + acc (1 - acc) / n; the interval is 90 %. fit_p: deviance test of the line.
    lr_p: likelihood ratio of a dummy for the largest, which leaves the line through the others unchanged.
    """
    smaller = line(parameters[:-1], k[:-1], n[:-1])
    together = line(parameters, k, n)
    at = smaller.get_prediction(design(parameters[-1:]))
    f, eta_se = float(at.predicted_mean[0]), float(at.linpred.se_mean[0])
    half = stats.norm.isf(OUTSIDE_90 / 2) * np.sqrt((f * (1 - f) * eta_se) ** 2 + accuracy * (1 - accuracy) / n[-1])
    residual = accuracy - f
    return {
        "forecast": f,
        "residual": residual,
        "residual_low": residual - half,
        "residual_high": residual + half,
        "residual_floor": accuracy - float(np.nanmax([f, chance])),
        "fit_p": float(stats.chi2.sf(smaller.deviance, smaller.df_resid)),
        "lr_p": float(stats.chi2.sf(max(together.deviance - smaller.deviance, 0), 1)),
    }


def predictable(row: dict[str, float], alpha: float) -> str:
    """The first verdict that applies, in the order of statistics.md."""
    jump = row["lr_p"] < alpha
    rules = {
        metrics.LINE_REJECTED: row["fit_p"] < alpha,
        metrics.NO_ABOVE: jump and row["residual_floor"] > MARGIN,
        metrics.NO_BELOW: jump and row["residual"] < -MARGIN,
        metrics.YES: row["residual_low"] > -FAR and row["residual_high"] < FAR,
    }
    return next((verdict for verdict, applies in rules.items() if applies), metrics.INCONCLUSIVE)


def p_jump(residual: float, lr_p: float) -> float:
    """One-sided p that the largest lies above the line."""
    return lr_p / 2 if residual > 0 else 1 - lr_p / 2


def p_emergent(p: float, p_content_free: float, jump: float) -> float:
    """The largest p that emergence needs. It is null where p or the p of a jump is; `p_content_free` may be missing."""
    return NAN if np.isnan(p) or np.isnan(jump) else float(np.nanmax([p, p_content_free, jump]))


def judge(row: Any, smaller: pd.DataFrame, alpha: float) -> dict[str, Any]:
    """Forecast columns and `predictable` of one zero-shot cell; smaller: base models of its series, smallest first."""
    if len(smaller) < 3:
        return {}
    parameters, k, n = ([*smaller[name], getattr(row, name)] for name in ("parameters", "k", "n"))
    out = forecast(parameters, k, n, row.accuracy, row.tested)
    jump = p_jump(out["residual"], out["lr_p"])
    guard = row.p_content if row.source == metrics.OWN else row.p_trivial
    return {
        **out,
        "p_jump": jump,
        "p_emergent": p_emergent(row.p, guard, jump),
        "predictable": predictable(out, alpha),
    }


def judge_all(cells: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """`judge` for every zero-shot row of a base model, against the smaller ones of its family and series."""
    found: dict[Any, dict[str, Any]] = {}
    base = cells[(cells["shots"] == 0) & ~cells["tuned"] & cells["k"].notna() & cells["parameters"].notna()]
    for _, series in base.groupby([*metrics.SERIES_KEY, "family"], sort=False):
        ordered = series.sort_values("parameters")
        for row in ordered.iloc[3:].itertuples():
            found[row.Index] = judge(row, ordered[ordered["parameters"] < row.parameters], alpha)
    out = pd.DataFrame.from_dict(found, orient="index").reindex(index=cells.index, columns=[*JUDGED, "predictable"])
    why = np.where(cells["shots"] > 0, metrics.NOT_ZERO_SHOT, metrics.TOO_FEW_SIZES)
    verdict = [why[i] if pd.isna(each) else each for i, each in enumerate(out["predictable"])]
    return out.astype(dict.fromkeys(JUDGED, float)).assign(predictable=verdict)


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
        fit = line(*(series[name].tolist()[:-1] for name in ("parameters", "k", "n")))
        out.loc[series.index, "fitted"] = fit.predict(design(series["parameters"].tolist()))
    out = out.sort_values([*metrics.SERIES_KEY, "family", "parameters"], ignore_index=True)
    return out.drop(columns=["suite", "condition"])


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
    """ "yes", "no", "-" (not above: the paper judges no scale there) or "undecided" under a rule."""
    if rule in ("raw", "plus5"):
        verdict = (rows["residual"] > MARGIN).map({True: "no", False: "yes"})
    else:
        verdict = rows["predictable"].map({metrics.YES: "yes", metrics.NO_ABOVE: "no", metrics.NO_BELOW: "no"})
    return verdict.fillna("undecided").mask(~above.fillna(True).astype(bool), "-").mask(above.isna(), "undecided")


def emergent_by_rule(rows: pd.DataFrame, rule: str, above: pd.Series) -> pd.Series:
    """Emergent: above by the rule, and above the forecast (by 5 points for the rules without a test).

    A task that has no verdict "above" has none here either.
    """
    beyond = rows["residual"] > MARGIN if rule in ("raw", "plus5") else rows["predictable"] == metrics.NO_ABOVE
    return (above & beyond.astype("boolean").mask(rows["residual"].isna())).mask(above.isna())


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
