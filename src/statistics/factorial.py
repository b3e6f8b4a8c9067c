"""Size, tuning and exemplars together: a mixed model, and analyses of variance."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from src.statistics.contrasts import pairs_of
from src.statistics.items import Array
from src.statistics.overlap import Sides, side
from src.statistics.tests import PG_GG, PG_SOURCE, PG_UNCORRECTED

# relative variances below 1e-10 are none to MixedLM; above 4e-10 the gradient beside the bound passes its tolerance
AT_BOUND = 3e-10


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
    if not (df > 0 and np.isfinite(apart).all() and rest > 0):
        raise ValueError("REML in closed form needs two tasks or more, a value in every cell of each, and residuals")
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
        corrected = rows[PG_GG].fillna(rows[PG_UNCORRECTED])
        out.append(
            pd.DataFrame(
                {
                    "analysis": f"rm_anova {' x '.join(factors)}",
                    "effect": rows[PG_SOURCE],
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
