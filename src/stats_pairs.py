"""Between cells: overlaps of solved tasks, contrasts over tasks, the factorial, power, seeds, metrics.

Rules: docs/statistics.md. Every function takes the rows of cells.parquet (primary metric unless said otherwise).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from src import names
from src.config import UserError
from src.names import MARGIN
from src.stats_cell import NAN, Array, adjust, power_at, sign_flip
from src.stats_scale import kappa

KEPT = [
    *("model", "condition", "prompt", "shots", "source", "family", "tuned", "n", "accuracy", "ci_low", "ci_high"),
    *("chance", "chance_scored", "p", "above_raw", "fingerprint"),
]
SIDE = ("accuracy", "ci_low", "ci_high", "chance", "n", "p", "fingerprint")


# ---- overlaps ----------------------------------------------------------------------


Sides = Mapping[tuple[str, str, bool], pd.DataFrame]


def by_condition(cells: pd.DataFrame) -> Sides:
    """Published primary rows by (model, prompt, few-shot), each indexed by task."""
    rows = cells.loc[cells["primary"] & (cells["source"] == names.PUBLISHED), ["task", *KEPT]]
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


def verdicts(sides: Sequence[pd.DataFrame], alpha: float) -> tuple[list[pd.Series], list[pd.Series]]:
    """(raw, Holm) verdicts "above the baseline" of each side; Holm over all tasks of all sides together."""
    together = np.concatenate([each["p"].to_numpy(dtype=float) for each in sides])
    holm = np.split(adjust(together, "holm"), np.cumsum([len(each) for each in sides])[:-1])
    raw = [each["above_raw"].astype("boolean") for each in sides]
    return raw, [
        pd.Series(p < alpha, each.index).astype("boolean").mask(np.isnan(p))
        for p, each in zip(holm, sides, strict=True)
    ]


def square(left: pd.Series, right: pd.Series) -> Array:
    """2 x 2 counts of tasks, rows left (not, above), columns right; tasks without a verdict are left out."""
    known = left.notna() & right.notna()
    pairs = 2 * left[known].astype(int) + right[known].astype(int)
    return np.bincount(pairs, minlength=4).reshape(2, 2)


def overlap_statistics(table: Array) -> dict[str, float]:
    """Agreement of two sets of verdicts, against what the margins alone give. table: 2 x 2 counts.

    hypergeometric p: P(as many or more tasks above in both | margins), equal to Fisher's one-sided test.
    """
    n, both = int(table.sum()), int(table[1, 1])
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    return {
        "n": n,
        "both": both,
        "left_only": int(table[1, 0]),
        "right_only": int(table[0, 1]),
        "neither": int(table[0, 0]),
        "agree": int(np.trace(table)),
        "expected": float(rows @ columns / n) if n else NAN,
        "kappa": kappa(table),
        "hypergeometric_p": float(stats.hypergeom.sf(both - 1, n, rows[1], columns[1])),
        "mcnemar_p": float(mcnemar(table, exact=True).pvalue),
        "power": overlap_power(n, int(rows[1]), int(columns[1])),
    }


def overlap_power(n: int, left: int, right: int, odds: float = 10.0, alpha: float = 0.05) -> float:
    """Power of the hypergeometric test with these margins where the true odds ratio is `odds` (Fisher's noncentral)."""
    critical = stats.hypergeom.isf(alpha, n, left, right) + 1
    return float(stats.nchypergeom_fisher.sf(critical - 1, n, left, right, odds)) if n else NAN


def overlap_rows(left: pd.DataFrame, right: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """One row a task: left_* and right_* columns of both sides, verdicts under both rules, agreement.

    `agree` is null where a side has no verdict: such a task is neither agreement nor disagreement.
    """
    raw, holm = verdicts([left, right], alpha)
    out = pd.DataFrame({"task": left.index, "prompt": left["prompt"].to_numpy(), "source": names.PUBLISHED})
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
    raw, holm = verdicts([left, right], alpha)
    shared = {
        "figure": figure,
        **{f"left_{name}": left[name].iloc[0] for name in ("model", "condition")},
        **{f"right_{name}": right[name].iloc[0] for name in ("model", "condition")},
        "tasks": len(left),
    }
    return [
        {**shared, "rule": rule, **overlap_statistics(square(*pair))} for rule, pair in (("raw", raw), ("holm", holm))
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
    raw, holm = verdicts(chosen, alpha)
    keep = ["task", "model", "prompt", "shots", "source", *SIDE]
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


# ---- contrasts over tasks ----------------------------------------------------------------------


def contrast(x: Array, y: Array, bound: float = MARGIN) -> dict[str, float]:
    """Paired contrast x - y over tasks (accuracies): Wilcoxon (and Pratt), t, BF10, Hedges' g, TOST within +-bound."""
    import pingouin as pg

    assert len(x) == len(y), "paired contrasts need the same tasks"
    difference = x - y
    out = {"n_tasks": len(x), "mean_diff": float(difference.mean()), "median_diff": float(np.median(difference))}
    if len(x) < 3 or not difference.any():
        return out
    t = stats.ttest_rel(x, y)
    low, high = t.confidence_interval(0.95)
    ranks = pg.wilcoxon(x, y)
    return {
        **out,
        "ci_low": float(low),
        "ci_high": float(high),
        "w": float(ranks[names.PG_W].iloc[0]),
        "wilcoxon_p": float(ranks[names.PG_P].iloc[0]),
        "pratt_p": float(pg.wilcoxon(x, y, zero_method="pratt")[names.PG_P].iloc[0]),
        "t": float(t.statistic),
        "t_p": float(pg.ttest(x, y, paired=True)[names.PG_P].iloc[0]),
        "bf10": float(pg.bayesfactor_ttest(t.statistic, len(x), paired=True)),
        "hedges_g": float(pg.compute_effsize(x, y, paired=True, eftype="hedges")),
        "tost_p": float(pg.tost(x, y, bound=bound, paired=True)[names.PG_TOST_P].iloc[0]),
    }


def can_show_equivalence(x: pd.DataFrame, y: pd.DataFrame, bound: float = MARGIN) -> int:
    """Number of tasks whose own n is enough: 90 % half-width of the difference of two shares below `bound`."""
    spread = [rows["accuracy"] * (1 - rows["accuracy"]) / rows["n"] for rows in (x, y)]
    half = stats.norm.isf(0.05) * np.sqrt(spread[0].to_numpy() + spread[1].to_numpy())
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
    """F4 (tuned - base, each Table 1 pair) and F5 (few - zero, each model), closed and closed_adv; published cells."""
    pairs = pairs_of(table1)
    models = list(dict.fromkeys(name for row in table1 for name in _flat(row) if name))
    rows = []
    for prompt in ("closed", "closed_adv"):
        for base, tuned in pairs:
            for few in (False, True):
                rows.append(("tuned_minus_base", side(sides, tuned, few, prompt), side(sides, base, few, prompt)))
        rows += [("few_minus_zero", side(sides, m, True, prompt), side(sides, m, False, prompt)) for m in models]
    return with_holm([contrast_row(kind, x, y) for kind, x, y in rows if len(paired(x, y)[0])], alpha)


def _flat(row: Mapping[str, Any]) -> list[Any]:
    return [row["base"], *(row["tuned"] if isinstance(row["tuned"], list) else [row["tuned"]])]


def with_holm(rows: Sequence[Mapping[str, Any]], alpha: float) -> pd.DataFrame:
    """Adds Holm within each kind (families F4, F5) on the Wilcoxon p, and verdicts: differs, equivalent."""
    out = pd.DataFrame(rows)
    out["family"] = out["kind"].map({"tuned_minus_base": names.F4, "few_minus_zero": names.F5})
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
            four = [side(sides, model, few, prompt) for model in (base, tuned) for few in (True, False)]
            tasks = sorted(set.intersection(*(set(each.index) for each in four)))
            if tasks:
                accuracy = [each.loc[tasks, "accuracy"].to_numpy(dtype=float) for each in four]
                gains = accuracy[0] - accuracy[1], accuracy[2] - accuracy[3]
                named = {"pair": f"{base} against {tuned}, {prompt}", "base": base, "tuned": tuned, "prompt": prompt}
                rows.append({**named, **contrast(*gains)})
    out = pd.DataFrame(rows)
    return out.assign(t_p_holm=out.groupby("prompt")["t_p"].transform(lambda values: adjust(values, "holm")))


# ---- published gains and losses ----------------------------------------------------------------------

GAINS = {names.EXACT: ("exact_match_gain", "exact_match_loss"), names.BERT: ("bertscore_gain", "bertscore_loss")}


def gain_loss(published: pd.DataFrame, models: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Against which model the published gains and losses were counted: gain - loss = n (accuracy - its accuracy).

    One row a model and metric: the reference that fits the most cells, in how many it fits, in how many the runner-up,
    and what the two differ in. published: stats.read_published; models: conf/model by name.
    """
    key = ["task", "prompt", "shots"]
    rows = []
    for metric, (gain, loss) in GAINS.items():
        wide = published.pivot(index=key, columns="model", values=metric)
        for model, cells in published.dropna(subset=[gain, loss, metric]).groupby("model", sort=True):
            others = wide.reindex(pd.MultiIndex.from_frame(cells[key])).drop(columns=model)
            net, n = (cells[gain] - cells[loss]).to_numpy(), cells["n_examples"].to_numpy()
            expected = n[:, None] * (cells[metric].to_numpy()[:, None] - others.to_numpy())
            # accuracies are printed to six digits, counts are means of whole numbers over at most three runs
            fits = pd.Series((np.abs(expected - net[:, None]) < 0.02).sum(axis=0), others.columns).sort_values()
            reference, first, second = str(fits.index[-1]), int(fits.iloc[-1]), int(fits.iloc[-2])
            one, other = models.get(str(model), {}), models.get(reference, {})
            clear = first == len(cells) and second < first
            tuning = bool(one.get("tuned")) != bool(other.get("tuned"))
            rows.append(
                {
                    "model": model, "metric": metric, "cells": len(cells), "reference": reference if clear else None,
                    "fits": first, "runner_up": str(fits.index[-2]), "runner_up_fits": second,
                    "compares": ("tuning" if tuning else "size") if clear else None,
                    "gain": float(cells[gain].sum()), "loss": float(cells[loss].sum()),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


# ---- own runs: the same examples in two cells -----------------------------------------------------------------------


def example_means(cell: pd.DataFrame, metric: str) -> pd.DataFrame:
    """(examples: y, group), y the mean over seeds, by example id; examples without the metric are left out."""
    by = cell.dropna(subset=[metric]).groupby("example_id")
    return pd.DataFrame({"y": by[metric].mean(), "group": by["group"].first()})


def own_pair(x: pd.DataFrame, y: pd.DataFrame, where: str, seed: int) -> dict[str, Any]:
    """x - y on the same examples: exact McNemar, or sign-flips of group sums where examples share contexts or seeds.

    The interval is a percentile bootstrap of groups. Raises UserError where the two cells differ in their examples.
    """
    if not x.index.equals(y.index):
        raise UserError(f"{where}: the two cells have different examples. Run both anew with one limit")
    difference = x["y"] - y["y"]
    sums = difference.groupby(x["group"]).sum()
    whole = bool(x["y"].isin([0, 1]).all() and y["y"].isin([0, 1]).all())
    clustered = len(sums) < len(x) or not whole
    low, high = group_bootstrap(difference, x["group"], seed)
    return {
        "n": len(x),
        "groups": len(sums),
        "mean_diff": float(difference.mean()),
        "ci_low": low,
        "ci_high": high,
        "test": "sign_flip" if clustered else "mcnemar",
        "p": sign_flip(sums.to_numpy(dtype=float), seed) if clustered else mcnemar_p(x["y"], y["y"]),
    }


def mcnemar_p(x: pd.Series, y: pd.Series) -> float:
    """Exact McNemar of two 0/1 columns (statsmodels)."""
    return float(mcnemar(square(x.astype("boolean"), y.astype("boolean")), exact=True).pvalue)


def group_bootstrap(values: pd.Series, group: pd.Series, seed: int, draws: int = 2000) -> tuple[float, float]:
    """Percentile 95 % interval of the mean under resampling of whole groups."""
    by = values.groupby(group)
    sums, sizes = by.sum().to_numpy(dtype=float), by.size().to_numpy()
    index = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    means = sums[index].sum(axis=1) / sizes[index].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def own_contrasts(scores: pd.DataFrame, cells: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Few-shot minus zero-shot of every own model, prompt and task, primary metric; Holm over the tasks.

    `format_dependent`: the sign differs between the bounds that unparsed answers leave.
    """
    own = cells[(cells["source"] == names.OWN) & cells["primary"]]
    rows = []
    for (suite, model, prompt, task), pair in own.groupby(["suite", "model", "prompt", "task"]):
        if len(pair) != 2:
            continue
        zero, few = (row for _, row in pair.sort_values("shots").iterrows())
        both = scores[(scores["suite"] == suite) & (scores["model"] == model) & (scores["task"] == task)]
        x, y = (example_means(both[both["condition"] == row["condition"]], row["metric"]) for row in (few, zero))
        found = own_pair(x, y, f"{suite} / {model} / {prompt} / {task}", seed)
        bounds = few["low_bound"] - zero["high_bound"], few["high_bound"] - zero["low_bound"]
        shared = {"suite": suite, "model": model, "prompt": prompt, "task": task, "metric": few["metric"]}
        prints = {"few_fingerprint": few["fingerprint"], "zero_fingerprint": zero["fingerprint"]}
        rows.append({**shared, **found, "format_dependent": bool(bounds[0] < 0 < bounds[1]), **prints})
    if not rows:
        return pd.DataFrame(columns=["suite", "model", "prompt", "task", "metric", "n", "mean_diff", "p", "p_holm"])
    out = pd.DataFrame(rows)
    return out.assign(
        p_holm=out.groupby(["suite", "model", "prompt"])["p"].transform(lambda values: adjust(values, "holm"))
    )


# ---- factorial: size x tuned x shots ----------------------------------------------------------------------


def skill(accuracy: Any, chance: Any) -> Any:
    """(accuracy - chance) / (1 - chance): 0 at chance, 1 if all is right."""
    return (accuracy - chance) / (1 - chance)


def factorial_data(sides: Sides, pairs: Sequence[tuple[str, str]], prompt: str, family: str) -> pd.DataFrame:
    """Long frame task, size (name of the base), tuned, few, skill; complete tasks only, one tuned twin a base."""
    twin: dict[str, str] = {}
    for base, tuned in pairs:
        twin.setdefault(base, tuned)
    parts = []
    for base, tuned in twin.items():
        for model, flag in ((base, "base"), (tuned, "tuned")):
            for few in (False, True):
                rows = side(sides, model, few, prompt).reset_index()
                rows = rows[rows["family"] == family]
                value = skill(rows["accuracy"], rows["chance_scored"])
                parts.append(
                    pd.DataFrame(
                        {
                            "task": rows["task"],
                            "size": base,
                            "tuned": flag,
                            "shots": "few" if few else "zero",
                            "skill": value,
                        }
                    )
                )
    long = pd.concat(parts, ignore_index=True).dropna()
    squares = long.groupby(["size", "tuned", "shots"]).ngroups
    return long[long.groupby("task")["skill"].transform("size") == squares].reset_index(drop=True)


def factorial(long: pd.DataFrame, prompt: str) -> pd.DataFrame:
    """One row per model and effect: mixed model (primary), two-way rm-ANOVAs with GG, three-way AnovaRM uncorrected."""
    return pd.concat([mixed_model(long), two_way(long), three_way(long)], ignore_index=True).assign(
        prompt=prompt, n_tasks=long["task"].nunique()
    )


def factorials(sides: Sides, table1: Sequence[Mapping[str, Any]], family: str) -> pd.DataFrame:
    """`factorial` of one family, closed and closed_adv."""
    prompts = ("closed", "closed_adv")
    parts = [factorial(factorial_data(sides, pairs_of(table1), prompt, family), prompt) for prompt in prompts]
    return pd.concat(parts, ignore_index=True)


# relative variances below 1e-10 are none to MixedLM; above 4e-10 the gradient beside the bound passes its tolerance
AT_BOUND = 3e-10


def mixed_model(long: pd.DataFrame) -> pd.DataFrame:
    """Linear mixed model of skill, tasks as subjects: random intercept and slope of tuned; Wald z (statsmodels).

    The fit starts at the REML optimum. Its optimizers need not get there from elsewhere, and each processor stopped
    somewhere else. `converged`: the fit's own gradient vanishes there.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM, MixedLMParams

    model = MixedLM.from_formula(
        "skill ~ C(size) * C(tuned) * C(shots, Treatment('zero'))", long, groups="task", re_formula="~C(tuned)"
    )
    variances, axes = np.linalg.eigh(random_effects(long))
    covariance = (axes * np.maximum(variances, AT_BOUND)) @ axes.T
    start = MixedLMParams.from_components(fe_params=np.zeros(model.k_fe), cov_re=covariance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance at its bound is no fault, and what did not converge is reported
        fit = model.fit(start_params=start, method="bfgs")
    fixed = fit.fe_params.index
    interval = fit.conf_int().loc[fixed]
    return pd.DataFrame(
        {
            "analysis": "mixed_model",
            "effect": fixed,
            "estimate": fit.fe_params.to_numpy(),
            "ci_low": interval[0].to_numpy(dtype=float),
            "ci_high": interval[1].to_numpy(dtype=float),
            "p": fit.pvalues[fixed].to_numpy(dtype=float),
            "converged": bool(fit.converged),
        }
    )


def random_effects(long: pd.DataFrame) -> Array:
    """REML covariance of a task's (intercept, slope of tuned), shape (2, 2), in units of the residual variance.

    Exact where each task has every cell and the model a mean for each: the task's means over its base and its tuned
    cells have a Wishart matrix of squares. An eigenvalue below the residual's is at its bound and pooled with it
    (Amemiya 1985, The American Statistician 39, 112).
    """
    wide = long.pivot(index="task", columns=["tuned", "size", "shots"], values="skill").sort_index(axis=1)
    apart = (wide - wide.mean()).to_numpy(dtype=float)
    halves = np.stack(np.hsplit(apart, 2), axis=1)  # (tasks, base and tuned, cells)
    df, cells = len(wide) - 1, halves.shape[2]
    means = halves.mean(axis=2)
    squares, axes = np.linalg.eigh(cells * means.T @ means)
    rest, rest_df = float((apart**2).sum() - squares.sum()), 2 * df * (cells - 1)
    for each in squares:  # the smallest first
        if each / df < rest / rest_df:
            rest, rest_df = rest + each, rest_df + df
    between = np.maximum(squares / df / (rest / rest_df) - 1, 0) / cells
    to_slope = np.array([[1.0, 0.0], [-1.0, 1.0]]) @ axes  # tuned is the intercept and the slope together
    return (to_slope * between) @ to_slope.T


def two_way(long: pd.DataFrame) -> pd.DataFrame:
    """Greenhouse-Geisser corrected rm-ANOVA (pingouin) of each two factors, averaged over the third."""
    import pingouin as pg

    out = []
    for factors in combinations(("size", "tuned", "shots"), 2):
        mean = long.groupby(["task", *factors], as_index=False)["skill"].mean()
        rows = pg.rm_anova(mean, dv="skill", within=list(factors), subject="task", correction=True)
        corrected = rows[names.PG_GG].fillna(rows[names.PG_UNCORRECTED])
        out.append(
            pd.DataFrame(
                {
                    "analysis": f"rm_anova {' x '.join(factors)}",
                    "effect": rows[names.PG_SOURCE],
                    "f": rows["F"],
                    "p": corrected,
                }
            )
        )
    return pd.concat(out, ignore_index=True)


def three_way(long: pd.DataFrame) -> pd.DataFrame:
    """Three-way repeated-measures ANOVA (statsmodels AnovaRM), not corrected for sphericity."""
    from statsmodels.stats.anova import AnovaRM

    table = AnovaRM(long, "skill", "task", within=["size", "tuned", "shots"]).fit().anova_table
    return pd.DataFrame(
        {
            "analysis": "anova_rm uncorrected",
            "effect": table.index,
            "f": table["F Value"].to_numpy(),
            "p": table["Pr > F"].to_numpy(),
        }
    )


# ---- power, seeds, mirage, consistency ----------------------------------------------------------------------


def power(rows: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Per test of a Holm family: power at chance + 5 and + 10 points, at alpha and Bonferroni alpha."""
    tested = rows[rows["p"].notna() & rows["primary"]]
    out = tested[
        [
            "source",
            "model",
            "prompt",
            "shots",
            "task",
            "n",
            "tested",
            "m_tests",
            "min_detectable",
            "min_detectable_bonferroni",
        ]
    ].copy()
    for points in (5, 10):
        for name, bonferroni in (("", False), ("_bonferroni", True)):
            out[f"power_{points}{name}"] = [
                power_at(
                    row.n, row.tested, min(row.tested + points / 100, 1), alpha / row.m_tests if bonferroni else alpha
                )
                for row in tested.itertuples()
            ]
    return out.reset_index(drop=True)


def seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """Per model and prompt: seed noise beside sampling noise of accuracies (root mean squares over tasks)."""
    rows = cells[cells["primary"] & cells["seed_se"].notna() & (cells["seeds"] > 1)]
    binomial = np.sqrt(rows["accuracy"] * (1 - rows["accuracy"]) / rows["n"])
    squares = rows.assign(seed_se=rows["seed_se"] ** 2, sd_published=rows["sd_published"] ** 2, binomial_se=binomial**2)
    keys = ["source", "model", "prompt", "shots"]
    out = squares.assign(shots=np.where(squares["shots"] > 0, "few", "zero")).groupby(keys)
    mean = out[["seed_se", "sd_published", "binomial_se"]].mean() ** 0.5
    mean["cells"], mean["ratio"] = out.size(), mean["seed_se"] / mean["binomial_se"]
    return mean.reset_index()


def mirage(cells: pd.DataFrame, largest: str) -> pd.DataFrame:
    """Residuals of the largest base model from a line in log10 parameters, for every metric, closed, zero-shot.

    Least squares on the raw scale, the same for all metrics, so that they can be ranked beside each other; edit
    distance is sign-flipped: more is better everywhere.
    """
    rows = cells[(cells["source"] == names.PUBLISHED) & (cells["condition"] == "closed_zero") & ~cells["tuned"]]
    family = rows.loc[rows["model"] == largest, "family"].iloc[0]
    out = []
    for (task, metric), part in rows[rows["family"] == family].groupby(["task", "metric"]):
        part = part.sort_values("parameters")
        if len(part) >= 4 and part["model"].iloc[-1] == largest:
            sign = -1 if metric == "edit_distance" else 1
            x, y = np.log10(part["parameters"].to_numpy()), sign * part["accuracy"].to_numpy()
            line = stats.linregress(x[:-1], y[:-1])
            out.append({"task": task, "metric": metric, "residual": y[-1] - (line.intercept + line.slope * x[-1])})
    return pd.DataFrame(out)


def rank_correlations(long: pd.DataFrame, value: str, over: str) -> pd.DataFrame:
    """Spearman's rho over tasks between every two values of `metric`; over: label of the table."""
    wide = long.pivot(index="task", columns="metric", values=value)
    out = []
    for a, b in combinations(sorted(wide.columns), 2):
        both = wide[[a, b]].dropna()
        if len(both) >= 4:
            rho, p = stats.spearmanr(both[a], both[b])
            out.append({"over": over, "metric_a": a, "metric_b": b, "n_tasks": len(both), "rho": rho, "p": p})
    return pd.DataFrame(out)


def metric_consistency(cells: pd.DataFrame) -> pd.DataFrame:
    """Per published model and condition: rank correlation over tasks of exact match and BERTScore accuracy."""
    rows = cells[
        (cells["source"] == names.PUBLISHED) & cells["family"].notna() & cells["metric"].isin([names.EXACT, names.BERT])
    ]
    parts = []
    for (model, condition), part in rows.groupby(["model", "condition"], sort=True):
        found = rank_correlations(part, "accuracy", condition)
        parts.append(found.assign(model=model))
    return pd.concat(parts, ignore_index=True)


# ---- all tables of this file ----------------------------------------------------------------------


def tables(
    cells: pd.DataFrame, table2: pd.DataFrame, paper: Mapping[str, Any], alpha: float, seed: int
) -> dict[str, pd.DataFrame]:
    """Every table between cells, by file name. table2: the rows of emergence with all columns of cells."""
    claims, table1, sides = paper["claims"], paper["table1"], by_condition(cells)
    left, right = figure2(sides, claims["figure2"])
    five, five_summary = figure5(sides, claims["figure5"], alpha)
    largest = table2.loc[table2["family_tests"] == names.F1, "model"].iloc[0]
    lost = mirage(cells, largest)
    family = cells.loc[cells["model"] == largest, "family"].iloc[0]
    return {
        "overlap": overlap_rows(left, right, alpha),
        "overlap_figure5": five,
        "overlap_summary": pd.concat([placebo(sides, claims["figure2"], alpha), five_summary], ignore_index=True),
        "contrasts": contrasts(sides, table1, alpha),
        "difference_in_differences": difference_in_differences(sides, table1),
        "factorial": factorials(sides, table1, family),
        "power": power(table2[table2["family_tests"] == names.F1], alpha),
        "seeds": seeds(cells),
        "mirage": lost,
        "mirage_correlations": rank_correlations(lost, "residual", "residuals of the largest model"),
        "metric_consistency": metric_consistency(cells),
    }
