"""One hierarchical model of the published counts, and what it says of RQ1 to RQ4.

A cell is a task, a model, a prompt format, and zero or few exemplars. Its k = accuracy x n of n right (unrounded) are
seen as the empirical logit log((k + 1/2) / (n - k + 1/2)), which is normal with the known variance
1 / (k + 1/2) + 1 / (n - k + 1/2) around the cell's logit (Gart and Zweifel 1967, Biometrika 54, 181). That stands for
the binomial likelihood: a published cell has 29 examples or more, and one at 0 weighs almost nothing.

The logit of chance is an offset. So the modelled value is the log odds ratio against a guesser: 0 at chance, and
negative below it. (A model of (accuracy - chance) / (1 - chance) has no place for a cell below chance.)

Fixed: format, log10 parameters, tuned, few, and their products (`FIXED`), and how many of 50 examples are memorisable;
prior normal, mean 0, sd 2. Random (`RANDOM`): each task's intercept and slopes, each model's, task x model, and the
cell: the overdispersion, since binomial noise alone is far too small. Each has one variance, flat on the log scale,
which maximises the marginal likelihood. The two levels of a factor are -1/2 and 1/2. So no two conditions of a task
are correlated by the coding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit

from src.base import metrics
from src.statistics.contrasts import pairs_of
from src.statistics.effects import Posterior, Terms, fit
from src.statistics.items import NAN, Array
from src.statistics.tests import OUTSIDE_95

FIXED = (
    (),
    ("format",), ("size",), ("tuned",), ("few",),
    ("format", "tuned"), ("format", "few"), ("tuned", "few"), ("format", "tuned", "few"),
    ("size", "tuned"), ("size", "few"), ("size", "tuned", "few"),
    ("memorisable",), ("memorisable", "size"), ("memorisable", "tuned"), ("memorisable", "few"),
)  # fmt: skip
RANDOM = (
    ("task", ()), ("task", ("tuned",)), ("task", ("few",)), ("task", ("tuned", "few")), ("task", ("size",)),
    ("task", ("format",)), ("model", ()), ("model", ("few",)), ("model", ("format",)), ("model", ("format", "few")),
    ("task_model", ()), ("cell", ()),
)  # fmt: skip
TERMS = Terms(FIXED, RANDOM, 2.0)

PROMPTS = {"closed": -0.5, "closed_adv": 0.5}
"""The formats of the model, as they are coded."""
PLAIN = "closed"
"""The format of Table 2, in which RQ1 to RQ3 are asked."""

ON_FLOOR = 0.05
"""A cell is on the floor where a guesser gets as few or fewer right with a probability below this."""
TOO_MANY = 0.5
"""Where this share of the tasks of one model and condition has left, the others leave too."""

PER = 10
"""Memorisable examples (of 50) that the slope of RQ3 is for."""
DRAWS = 4000
"""Draws of the posterior behind a correlation."""
FEWEST = 3
"""Tasks, and sizes, below which nothing is compared over them."""

COLUMNS = (
    *("question", "estimate_of", "item", "scale", "estimate", "low", "high", "prob_positive"),
    *("points", "points_low", "points_high", "gates_act", "cells", "note"),
)


@dataclass(frozen=True)
class Fitted:
    """The model and the cells behind it."""

    cells: pd.DataFrame  # those that the model has seen, coded
    asked: pd.DataFrame  # all that could be seen, coded
    posterior: Posterior

    def df(self, label: str) -> int:
        """Degrees of freedom of what varies between the levels of a label."""
        return max(int(self.cells[label].nunique()) - 2, 1)

    @property
    def mean_logit(self) -> float:
        """The logit of the mean accuracy: where a difference is also given in points."""
        return float(logit(self.cells["accuracy"].mean()))


def pooled(cells: pd.DataFrame, table1: Sequence[Mapping[str, Any]], seed: int) -> pd.DataFrame:
    """One row an estimate: first without the cells that fail an acting gate, then with them and the same variances.

    Cells on the floor are in neither. An estimate that the cells cannot give is a row without a number, and `note`
    says why.
    """
    asked = coded(cells)
    variances, parts = None, []
    for gates_act in (True, False):
        seen = asked[comparable(asked, gates_act)]
        if min(seen["task"].nunique(), seen["model"].nunique()) < FEWEST:
            fitted = None
        else:
            posterior = fit(seen, seen["y"].to_numpy(), seen["noise"].to_numpy(), TERMS, variances)
            variances = posterior.variances
            fitted = Fitted(seen, asked, posterior)
        parts.append(pd.DataFrame(estimates(fitted, table1, seed)).assign(gates_act=gates_act, cells=len(seen)))
    out = pd.concat(parts, ignore_index=True).reindex(columns=list(COLUMNS)).astype({"note": object})
    numbers = ["estimate", "low", "high", "prob_positive", "points", "points_low", "points_high"]
    out[numbers] = out[numbers].astype(float).map(lambda value: float(f"{value:.4g}"))
    return out


def coded(cells: pd.DataFrame) -> pd.DataFrame:
    """The published cells that can be modelled, in one order: labels, factors, offset, empirical logit, its variance.

    A cell has the task's primary metric, a format of `PROMPTS`, a chance level and a known number of parameters.
    """
    rows = cells[(cells["source"] == metrics.PUBLISHED) & cells["primary"] & cells["prompt"].isin(list(PROMPTS))]
    rows = rows[rows["chance_scored"].between(0, 1, inclusive="neither") & rows["parameters"].notna()]
    rows = rows.sort_values(["task", "model", "prompt", "shots"], ignore_index=True)
    k, n = rows["accuracy"].to_numpy(dtype=float) * rows["n"].to_numpy(), rows["n"].to_numpy(dtype=float)
    guess, log10 = logit(rows["chance_scored"].to_numpy(dtype=float)), np.log10(rows["parameters"].to_numpy())
    memorisable = rows["memorisable"].astype(float)
    return pd.DataFrame(
        {
            **{name: rows[name].to_numpy() for name in ("task", "model", "prompt", "metric", "gates", "accuracy")},
            "task_model": [f"{task}/{model}" for task, model in zip(rows["task"], rows["model"], strict=True)],
            "cell": [f"cell {i}" for i in range(len(rows))],
            "format": rows["prompt"].map(PROMPTS).to_numpy(),
            "size": log10 - (np.mean([*set(log10)]) if len(rows) else 0.0),
            "tuned": rows["tuned"].astype(float).to_numpy() - 0.5,
            "few": (rows["shots"] > 0).astype(float).to_numpy() - 0.5,
            "memorisable": ((memorisable - memorisable.mean()).fillna(0.0) / PER).to_numpy(),
            "memorisable_known": memorisable.to_numpy(),
            "offset": guess,
            "y": np.log((k + 0.5) / (n - k + 0.5)) - guess,
            "noise": 1 / (k + 0.5) + 1 / (n - k + 0.5),
            "p_fewer": stats.binom.cdf(np.round(k), n, expit(guess)),
        }
    )


def comparable(rows: pd.DataFrame, gates_act: bool) -> pd.Series:
    """Which coded cells stay: not on the floor, no acting gate, and most tasks of the model and condition stay too."""
    failed = rows["gates"].map(metrics.acting)
    leaves = (rows["p_fewer"] < ON_FLOOR) | (failed & gates_act)
    share = leaves.groupby([rows["model"], rows["prompt"], rows["few"]]).transform("mean")
    return ~leaves & (share < TOO_MANY)


def estimates(fitted: Fitted | None, table1: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows of all four questions. Without a fit, one row without a number for each."""
    if fitted is None:
        return [null(f"RQ{i}", "no model of these cells", note="too few tasks or models") for i in range(1, 5)]
    return [*rq1(fitted), *rq2(fitted, seed), *rq3(fitted), *rq4(fitted, pairs_of(table1))]


def null(
    question: str, estimate_of: str, item: str = "", note: str | None = None, scale: str = "logit"
) -> dict[str, Any]:
    """A row without a number."""
    return {"question": question, "estimate_of": estimate_of, "item": item, "scale": scale, "note": note}


def points_at(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Points of the design: whatever a row does not name is at the mean, and an unnamed label takes no effect."""
    labels = dict.fromkeys(("task", "model", "task_model", "cell"), "")
    numbers = dict.fromkeys(("format", "size", "tuned", "few", "memorisable"), 0.0)
    return pd.DataFrame([{**labels, **numbers, **row} for row in rows])


def interval(mean: float, sd: float, points: Callable[[float], float], df: float = np.inf) -> dict[str, Any]:
    """A posterior in numbers: 95 % credible interval, probability of a positive value, and all of it in points.

    It is Student's t with `df` degrees of freedom, normal by default. What rests on a variance between few models or
    few tasks takes their number less two (containment: Pinheiro and Bates 2000, section 2.4.2), since that variance is
    itself an estimate.
    """
    half = float(stats.t.isf(OUTSIDE_95 / 2, df)) * sd
    three = {"": mean, "_low": mean - half, "_high": mean + half}
    return {
        "estimate": mean,
        "low": three["_low"],
        "high": three["_high"],
        "prob_positive": float(stats.t.cdf(mean / sd, df)) if sd > 0 else NAN,
        **{f"points{end}": points(value) for end, value in three.items()},
    }


def contrast(fitted: Fitted, rows: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> tuple[float, float]:
    """Mean and sd of a weighted sum of the values at some points."""
    mean, covariance = fitted.posterior.at(points_at(rows))
    w = np.asarray(weights)
    return float(w @ mean), float(np.sqrt(max(w @ covariance @ w, 0.0)))


def at_mean(fitted: Fitted) -> Callable[[float], float]:
    """A difference of logits in points of accuracy at the mean accuracy: p (1 - p) times it."""
    p = float(expit(fitted.mean_logit))
    return lambda value: p * (1 - p) * value


def largest_base(fitted: Fitted) -> pd.DataFrame:
    """The zero-shot cells of the largest base model in the plain format; none where no base model was asked."""
    rows = fitted.asked
    base = rows[(rows["tuned"] < 0) & (rows["few"] < 0) & (rows["prompt"] == PLAIN)]
    return base[base["model"] == base.sort_values(["size", "model"])["model"].iloc[-1]] if len(base) else base


def rq1(fitted: Fitted) -> list[dict[str, Any]]:
    """Per task: skill of the largest base model, and how far it lies above the line in size of the base models.

    The skill is that of the cell itself. Above the line are the effects of the model, of task x model and of the cell,
    each shrunk by how much models and cells scatter elsewhere.
    """
    names = "skill of the largest base model, zero-shot", "how far it lies above the line in size"
    largest, base = largest_base(fitted), fitted.cells[fitted.cells["tuned"] < 0]
    seen = largest[largest["cell"].isin(fitted.cells["cell"])]
    if base["model"].nunique() < FEWEST + 1:
        return [null("RQ1", name, note="fewer than four base models") for name in names]
    if not len(seen):
        return [null("RQ1", name, note="no cell of the largest base model can be compared") for name in names]
    out, lines = [], []
    for row in largest.to_dict("records"):
        if row["cell"] not in set(seen["cell"]):
            out += [null("RQ1", name, row["task"], "the cell is on the floor or fails a gate") for name in names]
            continue
        line = {**row, "model": "", "task_model": "", "cell": ""}
        lines += [row, line]
        low, (mean, sd) = row["offset"], contrast(fitted, [row], [1])
        skill = interval(mean, sd, lambda value, low=low: float(expit(low + value) - expit(low)))  # type: ignore[misc]
        top = low + mean
        above = interval(
            *contrast(fitted, [row, line], [1, -1]),
            lambda value, top=top: float(expit(top) - expit(top - value)),  # type: ignore[misc]
            fitted.df("model"),
        )
        out += [{**null("RQ1", name, row["task"]), **found} for name, found in zip(names, (skill, above), strict=True)]
    mean_above = interval(
        *contrast(fitted, lines, [1 / len(seen), -1 / len(seen)] * len(seen)), at_mean(fitted), fitted.df("model")
    )
    return [*out, {**null("RQ1", f"{names[1]}, mean over tasks"), **mean_above}]


def rq2(fitted: Fitted, seed: int) -> list[dict[str, Any]]:
    """Correlation over tasks of tuned zero-shot skill with base few-shot skill, and with base zero-shot skill.

    Plain format, mean size, a model at the line. Median and quantiles of `DRAWS` draws of the posterior. To Fisher's z
    of a draw comes the normal error with variance 1 / (tasks - 3), since the tasks stand for others. The difference of
    the two is that of these tasks.
    """
    names = (
        "correlation over tasks: tuned zero-shot with base few-shot",
        "correlation over tasks: tuned zero-shot with base zero-shot",
        "the first correlation less the second",
    )
    rows = fitted.cells
    tasks = rows.drop_duplicates("task")
    combinations = ((0.5, -0.5), (-0.5, 0.5), (-0.5, -0.5))
    missing = [each for each in combinations if not ((rows["tuned"] == each[0]) & (rows["few"] == each[1])).any()]
    if missing or len(tasks) <= FEWEST or PLAIN not in set(rows["prompt"]):
        note = "needs tuned zero-shot, base few-shot and base zero-shot cells of four tasks"
        return [null("RQ2", name, note=note, scale="correlation") for name in names]
    points = [
        {"task": row.task, "memorisable": row.memorisable, "format": PROMPTS[PLAIN], "tuned": tuned, "few": few}
        for tuned, few in combinations
        for row in tasks.itertuples()
    ]
    mean, covariance = fitted.posterior.at(points_at(points))
    root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(mean)))
    rng = np.random.default_rng(seed)
    draws = mean + rng.standard_normal((DRAWS, len(mean))) @ root.T
    tuned_zero, base_few, base_zero = np.split(draws, 3, axis=1)
    few, zero = correlation(tuned_zero, base_few), correlation(tuned_zero, base_zero)
    other_tasks = rng.standard_normal(DRAWS) / np.sqrt(len(tasks) - 3)
    sampled = (np.tanh(np.arctanh(each) + other_tasks) for each in (few, zero))
    return [
        {**null("RQ2", name, scale="correlation"), **of_draws(values)}
        for name, values in zip(names, (*sampled, few - zero), strict=True)
    ]


def correlation(x: Array, y: Array) -> Array:
    """Pearson's correlation of each row of x with the same row of y."""
    x, y = (each - each.mean(axis=1, keepdims=True) for each in (x, y))
    return np.asarray((x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1)))


def of_draws(values: Array) -> dict[str, float]:
    """Median, 95 % credible interval and probability of a positive value."""
    low, middle, high = np.quantile(values, [OUTSIDE_95 / 2, 0.5, 1 - OUTSIDE_95 / 2])
    found = {"estimate": middle, "low": low, "high": high, "prob_positive": (values > 0).mean()}
    return {name: float(value) for name, value in found.items()}


def rq3(fitted: Fitted) -> list[dict[str, Any]]:
    """What ten memorisable examples of 50 add to a task's skill: the largest base model, zero-shot, plain format.

    A coefficient of the model, so its interval knows that tasks differ for other reasons too.
    """
    name = "slope of skill in ten memorisable examples of 50, largest base model, zero-shot"
    largest = largest_base(fitted)
    known = largest[largest["cell"].isin(fitted.cells["cell"])]["memorisable_known"].dropna()
    if len(known) < FEWEST or known.nunique() < 2:
        return [null("RQ3", name, note="needs three tasks of the largest base model, memorisable to different degrees")]
    place = {"format": PROMPTS[PLAIN], "size": largest["size"].iloc[0], "tuned": -0.5, "few": -0.5}
    found = contrast(fitted, [{**place, "memorisable": 1.0}, {**place, "memorisable": 0.0}], [1, -1])
    return [{**null("RQ3", name), **interval(*found, at_mean(fitted), fitted.df("task"))}]


FEW_LESS_ZERO = (1.0, -1.0, -1.0, 1.0)
"""Weights of base few, base zero, tuned few, tuned zero."""


def rq4(fitted: Fitted, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """What exemplars add to base models less what they add to tuned ones: overall, per format, and per pair and format.

    Overall: at the mean size, the mean of the formats. A pair: at its models' sizes and with their own effects.
    """
    name = "what exemplars add to base models less what they add to tuned ones"
    rows, df = fitted.cells, fitted.df("model")
    asked = set(zip(rows["model"], rows["prompt"], rows["few"], strict=True))
    cells = set(zip(rows["tuned"], rows["few"], rows["prompt"], strict=True))
    four = [{"tuned": tuned, "few": few} for tuned in (-0.5, 0.5) for few in (0.5, -0.5)]
    formats = [each for each in PROMPTS if all((row["tuned"], row["few"], each) in cells for row in four)]
    if not formats:
        return [null("RQ4", name, note="needs base and tuned models, zero-shot and few-shot, in one format")]
    out = []
    for item, these in (("", formats), *((each, [each]) for each in formats)):
        found = contrast(
            fitted,
            [{**row, "format": PROMPTS[prompt]} for prompt in these for row in four],
            [weight / len(these) for _ in these for weight in FEW_LESS_ZERO],
        )
        out.append({**null("RQ4", name, item), **interval(*found, at_mean(fitted), df)})
    sizes = fitted.asked.groupby("model")["size"].first()
    for (base, tuned), prompt in product(pairs, PROMPTS):
        if base not in sizes.index or tuned not in sizes.index:
            continue
        item, models = f"{base} against {tuned}, {prompt}", (base, base, tuned, tuned)
        if not {(model, prompt, row["few"]) for model, row in zip(models, four, strict=True)} <= asked:
            out.append(null("RQ4", name, item, "one of the four conditions has no cell that can be compared"))
            continue
        points: list[dict[str, Any]] = [
            {**row, "format": PROMPTS[prompt], "model": model, "size": sizes[model]}
            for model, row in zip(models, four, strict=True)
        ]
        out.append(
            {**null("RQ4", name, item), **interval(*contrast(fitted, points, FEW_LESS_ZERO), at_mean(fitted), df)}
        )
    return out
