"""Does a tuned model zero-shot solve the tasks that a base model solves few-shot? Rank correlations, with controls.

Bigoulaeva, Tayyar Madabushi and Gurevych (2025, arXiv 2501.08716) read the correlation of instruction-tuned models with
their base models few-shot as one limit for both. Three things give such a correlation by themselves: a task that is
easy for any model, a base model that is no worse without exemplars, and a skill that depends on the number of options.
Each has a control here: pairs of unrelated families, the base model zero-shot on the same tasks, and chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from src.base import metrics
from src.statistics.contrasts import pairs_of
from src.statistics.factorial import skill
from src.statistics.items import NAN, Array
from src.statistics.overlap import claimed
from src.statistics.tests import DECIMALS, OUTSIDE_95, adjust, rank_correlation, ranks

PROMPTS = ("closed", "closed_adv")
FEWEST = 8
"""Tasks under which there is no correlation: of fewer, only one near 1 could be told from none."""
DRAWS = 9999
TWIN, CLAIMED, FAMILY, UNRELATED = "twin", "figure2", "same_family", "other_family"
TESTED = (TWIN, CLAIMED)
TUNED, FEW, ZERO, CHANCE = "tuned", "few", "zero", "chance"
TESTS = ("p", "p_given_zero", "p_given_chance")

Cells = Mapping[tuple[str, str, bool], pd.DataFrame]
"""(tasks: skill, chance, gated, family, tuned) by model, prompt, few-shot."""


def transfer(
    cells: pd.DataFrame, table1: Sequence[Mapping[str, Any]], figure2: Mapping[str, Any], seed: int
) -> pd.DataFrame:
    """One row per prompt and pair of a tuned model zero-shot and a base model few-shot, published cells.

    kind: twin for the pairs of Table 1, figure2 for the pair of that figure, else whether the families are the same.
    The first two alone are tested, with Holm over those of a prompt for each of TESTS; the others are context.
    `percentile` is a tested pair's place among the untested pairs of unrelated families (ties count half). No row where
    the three cells have fewer than FEWEST tasks, gated ones among them.
    """
    by = skills(cells)
    named_pairs = {(claimed(figure2["left"])[0], claimed(figure2["right"])[0]): CLAIMED}
    named_pairs |= {(tuned, base): TWIN for base, tuned in pairs_of(table1)}
    models = {model: rows.iloc[0] for (model, _, _), rows in by.items()}
    known = [model for model, row in models.items() if isinstance(row["family"], str)]
    tuned, base = ([model for model in known if bool(models[model]["tuned"]) is flag] for flag in (True, False))
    rows = []
    for prompt, left, right in product(PROMPTS, tuned, base):
        related = FAMILY if models[left]["family"] == models[right]["family"] else UNRELATED
        kind = named_pairs.get((left, right), related)
        three = (left, prompt, False), (right, prompt, True), (right, prompt, False)
        if all(each in by for each in three):
            tasks = together(*(by[each] for each in three))
            if len(tasks) >= FEWEST:
                named = {"prompt": prompt, "tuned": left, "base": right, "kind": kind}
                rows.append({**named, **correlated(tasks), **(tested(tasks, seed) if kind in TESTED else {})})
    out = pd.DataFrame(rows)
    return with_context(out) if len(out) else out


def skills(cells: pd.DataFrame) -> Cells:
    """Published primary rows by model, prompt and few-shot, by task. A task without a chance level has no skill."""
    rows = cells[cells["primary"] & (cells["source"] == metrics.PUBLISHED) & cells["prompt"].isin(PROMPTS)]
    chance = rows["chance_scored"].astype(float)
    rows = rows.assign(
        skill=np.round(skill(rows["accuracy"].astype(float), chance), DECIMALS),
        chance=np.round(chance, DECIMALS),
        gated=[metrics.acting(names) for names in rows["gates"]],
    )
    rows = rows.dropna(subset=["skill"]).set_index("task").sort_index()
    groups = rows.groupby([rows["model"], rows["prompt"], rows["shots"] > 0])
    columns = ["skill", "chance", "gated", "family", "tuned"]
    return {(str(model), str(prompt), bool(few)): part[columns] for (model, prompt, few), part in groups}


def together(tuned: pd.DataFrame, few: pd.DataFrame, zero: pd.DataFrame) -> pd.DataFrame:
    """(tasks that all three cells have: the three skills, chance, gated, gated_zero).

    gated: a cell of the pair fails an acting gate; gated_zero: one of the three does.
    """
    named = {TUNED: tuned, FEW: few, ZERO: zero}
    tasks = pd.DataFrame({name: side["skill"] for name, side in named.items()}).dropna()
    gates = pd.DataFrame({name: side["gated"] for name, side in named.items()}).loc[tasks.index].astype(bool)
    chance = tuned.loc[tasks.index, "chance"]
    return tasks.assign(chance=chance, gated=gates[[TUNED, FEW]].any(axis=1), gated_zero=gates.any(axis=1))


def correlated(tasks: pd.DataFrame) -> dict[str, Any]:
    """rho of the pair, of the same pair with gated cells, and of tuned with the base model zero-shot.

    `rho_few` and `rho_zero` are of the same tasks, those on which none of the three cells is gated.
    """
    pair, three = tasks[~tasks["gated"]], tasks[~tasks["gated_zero"]]
    return {
        "n_tasks": len(pair),
        "left_out": int(tasks["gated"].sum()),
        "rho": rho(pair[TUNED], pair[FEW]),
        "rho_with_gated": rho(tasks[TUNED], tasks[FEW]),
        "n_controlled": len(three),
        "rho_few": rho(three[TUNED], three[FEW]),
        "rho_zero": rho(three[TUNED], three[ZERO]),
    }


def tested(tasks: pd.DataFrame, seed: int) -> dict[str, float]:
    """The tests of a pair: interval and p of rho, partial rho given the base model zero-shot and given chance.

    `few_adds` is rho_few - rho_zero, with the 95 % percentile bootstrap over tasks.
    """
    pair, three = tasks[~tasks["gated"]], tasks[~tasks["gated_zero"]]
    known = len(pair) >= FEWEST
    _, low, high, p = rank_correlation(pair[TUNED], pair[FEW], seed) if known else (NAN, NAN, NAN, NAN)
    out = {"ci_low": low, "ci_high": high, "p": p}
    for name, rows in ((ZERO, three), (CHANCE, pair)):
        out |= {f"rho_given_{name}": partial_rho(rows, name), f"p_given_{name}": permutation_p(rows, name, seed)}
    return out | few_adds(three, seed)


def rho(x: Any, y: Any) -> float:
    """Spearman's rho; null for fewer than FEWEST tasks, or where one side is constant."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return NAN
    return float(stats.spearmanr(x, y).statistic)


def partial_rho(tasks: pd.DataFrame, given: str) -> float:
    """Partial Spearman correlation of tuned and few, given one column (pingouin).

    Null where `rho` is, where the column is constant, and where it orders the tasks as one of the two does. Two sides
    of one order keep their rho, 1 or -1, whatever is given.
    """
    import pingouin as pg

    pair, *controls = (rho(tasks[a], tasks[b]) for a, b in ((TUNED, FEW), (TUNED, given), (FEW, given)))
    if np.isnan([pair, *controls]).any() or max(map(abs, controls)) > 1 - 1e-9:
        return NAN
    if abs(pair) > 1 - 1e-9:
        return pair
    return float(pg.partial_corr(tasks, x=TUNED, y=FEW, covar=given, method="spearman")["r"].iloc[0])


def permutation_p(tasks: pd.DataFrame, given: str, seed: int) -> float:
    """Two-sided p of the partial Spearman correlation of tuned and few given a column, from DRAWS seeded permutations.

    What is permuted is what the column leaves of the ranks of `few`: Freedman and Lane (1983), the scheme that Anderson
    and Legendre (1999, J. Stat. Comput. Simul. 62, 271) find closest to its level. (draws as far or farther + 1) /
    (draws + 1), so that p is never 0 (scipy). Null where the correlation is.
    """
    if np.isnan(partial_rho(tasks, given)):
        return NAN
    by = {name: ranks(tasks[name].to_numpy(dtype=float)) for name in (TUNED, FEW, given)}
    basis, _ = np.linalg.qr(np.column_stack([np.ones(len(tasks)), by[given]]))
    left, right = (residual(by[name], basis) for name in (TUNED, FEW))

    def statistic(shuffled: Array, axis: int) -> Array:
        rest = residual(shuffled, basis)
        return np.round(rest @ left / np.sqrt((rest**2).sum(axis=axis) * (left @ left)), 9)

    found = stats.permutation_test(
        (right,),
        statistic,
        permutation_type="pairings",
        n_resamples=DRAWS,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def residual(values: Array, basis: Array) -> Array:
    """What an orthonormal basis (tasks, columns) leaves of values (..., tasks)."""
    rest: Array = values - (values @ basis) @ basis.T
    return rest


def few_adds(tasks: pd.DataFrame, seed: int) -> dict[str, float]:
    """rho with the base model few-shot minus rho with it zero-shot, and its 95 % interval (scipy, percentile)."""
    if np.isnan(rho(tasks[TUNED], tasks[FEW])) or np.isnan(rho(tasks[TUNED], tasks[ZERO])):
        return {}

    def gain(tuned: Array, few: Array, zero: Array, axis: int) -> Array:
        scores = [stats.zscore(stats.rankdata(each, axis=axis), axis=axis) for each in (tuned, few, zero)]
        gained: Array = (scores[0] * (scores[1] - scores[2])).mean(axis=axis)
        return gained

    tuned, few, zero = (tasks[name].to_numpy(dtype=float) for name in (TUNED, FEW, ZERO))
    found = stats.bootstrap(
        (tuned, few, zero),
        gain,
        paired=True,
        vectorized=True,
        n_resamples=2000,
        confidence_level=1 - OUTSIDE_95,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return {"few_adds": float(gain(tuned, few, zero, axis=0)), "few_adds_low": float(low), "few_adds_high": float(high)}


def with_context(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds Holm over the tested pairs of a prompt, and `percentile` among the prompt's pairs of unrelated families."""
    rows = rows.assign(percentile=NAN)
    for name in TESTS:
        corrected = rows.groupby("prompt")[name].transform(lambda values: adjust(values, "holm"))
        rows = rows.assign(**{f"{name}_holm": corrected})
    for _, part in rows.groupby("prompt"):
        context = part.loc[part["kind"] == UNRELATED, "rho"].dropna()
        for at in part.index[part["kind"].isin(TESTED) & part["rho"].notna() & (len(context) > 0)]:
            rows.loc[at, "percentile"] = stats.percentileofscore(context, rows.loc[at, "rho"], kind="mean")
    order = rows["kind"].map([*TESTED, FAMILY, UNRELATED].index)
    return rows.assign(order=order).sort_values(["prompt", "order", "tuned", "base"]).drop(columns="order")
