"""Figure 2, Figure 5 and RQ2: do two models solve the same tasks?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa

from src.judgement.family import CORRECTIONS, Family, alike, frame_of
from src.judgement.scores import (
    BLIND,
    CHANCE,
    CLOSED,
    CONTENT_FREE,
    IN,
    OUT,
    PROMPTS,
    Scores,
    excused,
    failed,
)
from src.statistics.items import NAN, Array
from src.statistics.overlap import claimed, overlap_power, square_of
from src.statistics.tests import OUTSIDE_95, adjust

LEVELS = {CONTENT_FREE: ("trivial",), BLIND: ("floor",)}
"""By bar, the column that an accuracy has to exceed beside chance."""
BARE = "bare comparison"
PRINTED = 6
"""Digits of the released scores. A bar is rounded to them before it is compared, so that what is equal ties."""
DRAWS = 2000
NEEDED = ("model", "metric", "n", "k", "accuracy", "chance_scored", "chance", "trivial", "p", "p_below", "gates")
OF_OWN = ("floor", "p_floor", "p_floor_short")
"""What own cells know beside."""
ONE_VERDICT = "one side has the same verdict on every task"
ODDS = 10.0
"""The odds ratio at which the power of an overlap is told."""
BASELINES = ("chance as scored", "one over the options", "the paper's Table 4")


def sides(scores: Scores, figure: Mapping[str, Any], prompt: str) -> list[pd.DataFrame]:
    """Both sides of Figure 2 on its tasks."""
    both = [scores.side(*claimed(figure[name]), prompt) for name in ("left", "right")]
    tasks = both[0].index.intersection(both[1].index).difference([figure["excluded"]])
    return [each.loc[tasks, [name for name in (*NEEDED, *OF_OWN) if name in each]] for each in both]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Both sides of Figure 2 in one prompt format, tested at one bar, with the gates as they are used."""

    scores: Scores
    both: Sequence[pd.DataFrame]
    prompt: str
    bar: str
    gates: str
    disagree: Sequence[str]  # tasks on which the paper says that the sides do not agree

    @cached_property
    def p(self) -> list[pd.DataFrame]:
        """(tasks, 2) of each side, see `tested`."""
        return [pd.DataFrame(self.scores.tested(rows, self.prompt, self.bar), rows.index) for rows in self.both]

    def row(self, task: str, k: int | None = None) -> dict[str, Any]:
        """ROW of a task; k: another number right of the left side."""
        a, b = (rows.loc[task] for rows in self.both)
        (effect, small), (effect_2, small_2) = (p.loc[task] for p in self.p)
        if k is not None:
            one = self.both[0].loc[[task]].assign(k=k)
            effect, small = self.scores.tested(one, self.prompt, self.bar)[0]
        return {
            "value": (a.k if k is None else k) / a.n - b.accuracy, "n": a.n, "up": task not in self.disagree,
            "effect": effect, "small": small, "effect_2": effect_2, "small_2": small_2,
            "reason": excused(a, self.gates) or excused(b, self.gates),
        }  # fmt: skip

    def moved(self, task: str, steps: int) -> dict[str, Any] | None:
        """ROW of a task with more or fewer right on the left; None where there are not so many examples."""
        left = self.both[0].loc[task]
        k = int(left.k) + steps
        return self.row(task, k) if 0 <= k <= left.n else None

    def gated(self, task: str) -> bool:
        """Whether a side fails an acting gate."""
        return any(failed(rows.loc[task]) for rows in self.both)

    def facts(self, task: str) -> dict[str, Any]:
        """What the sentences of a claim name: the two cells."""
        return {
            f"{name}_{column}": rows.loc[task, column]
            for name, rows in zip(("left", "right"), self.both, strict=True)
            for column in ("accuracy", "n", "k", "chance_scored", "p", "model")
        }


def tasks_agree(scores: Scores) -> Iterator[Family]:
    """Figure 2, task by task: both sides above the bar or both shown not to be."""
    figure = scores.tables["claims"]["figure2"]
    for prompt, bar, words, gates in itertools.product(PROMPTS, scores.bars, CORRECTIONS, (OUT, IN)):
        these = Pairs(scores, sides(scores, figure, prompt), prompt, bar, gates, figure["disagree"])
        tasks = tuple(these.both[0].index)
        yield Family(
            taken={"prompt": prompt, "bar": bar, "correction": words, "gates": gates},
            rows=frame_of({task: these.row(task) for task in tasks}), correction=CORRECTIONS[words], judged=alike,
            rule=_is_rule((prompt, bar, words, gates)), moved=these.moved if prompt == CLOSED else None,
            shown=tuple(task for task in tasks if gates == OUT or these.gated(task)), facts=these.facts,
        )  # fmt: skip


def verdicts(
    scores: Scores, each: Sequence[pd.DataFrame], prompt: str, bar: str, judged: str, gates: str
) -> pd.DataFrame:
    """(tasks, sides) of bools: above the bar; tasks on which a side has no verdict are left out."""
    gone = {row.Index for rows in each for row in rows.itertuples() if excused(row, gates)}
    keep = [task for task in each[0].index if task not in gone]
    each = [rows.loc[keep] for rows in each]
    if judged == BARE:
        columns = ["chance_scored", *LEVELS.get(bar, ())]
        level = [rows[columns].max(axis=1) for rows in each]
        found = [rows["accuracy"].round(PRINTED) > at.round(PRINTED) for rows, at in zip(each, level, strict=True)]
        return pd.DataFrame(dict(enumerate(found)), index=keep).astype(bool)
    p = np.array([scores.tested(rows, prompt, bar)[:, 0] if keep else [] for rows in each])
    above = adjust(p.ravel(), CORRECTIONS[judged]).reshape(p.shape) < scores.alpha
    return pd.DataFrame(above.T, index=keep)


def _choices(scores: Scores) -> Iterator[tuple[str, str, str, str]]:
    yield from itertools.product(PROMPTS, scores.bars, (*CORRECTIONS, BARE), (OUT, IN))


def _taken(choices: tuple[str, str, str, str]) -> dict[str, Any]:
    prompt, bar, judged, gates = choices
    return {
        "taken": {"prompt": prompt, "bar": bar, "above by": judged, "gates": gates},
        "rule": _is_rule(choices), "shown": ("",),
    }  # fmt: skip


def _is_rule(choices: tuple[str, ...]) -> bool:
    return choices == (CLOSED, CHANCE, "Holm", OUT)


@dataclass(frozen=True, eq=False)
class Overlap:
    """Which tasks two models solve. above: (tasks, 2) of bools."""

    above: pd.DataFrame
    alpha: float

    @cached_property
    def square(self) -> Array:
        """(2, 2) counts: left by right, not solved first."""
        left, right = (self.above[side].astype("boolean") for side in (0, 1))
        return square_of(left, right)

    @property
    def margins(self) -> tuple[int, int, int]:
        """(tasks, those that the left solves, those that the right solves)."""
        return int(self.square.sum()), int(self.square[1].sum()), int(self.square[:, 1].sum())

    def row(self) -> dict[str, Any]:
        """ROW of the claim that they solve the same tasks."""
        return of_square(self.square, self.alpha)

    def moved(self, _: str, steps: int) -> dict[str, Any] | None:
        """ROW with more or fewer solved by both, the margins as they are; None where the margins do not allow it."""
        square = self.square + steps * np.array([[1, -1], [-1, 1]])
        return of_square(square, self.alpha) if (square >= 0).all() else None

    def facts(self, _: str) -> dict[str, Any]:
        """What the sentences of a claim name."""
        _tasks, left, right = self.margins
        return {"both": int(self.square[1, 1]), "left": left, "right": right, "agree": int(np.trace(self.square))}

    def power(self, _: str, tests: int) -> dict[str, Any]:
        """POWER by odds ratio, at alpha / tests."""
        n, left, right = self.margins
        at, alpha = np.geomspace(1, 1e4, 401), self.alpha / tests
        enough = [odds for odds in at if overlap_power(n, left, right, alpha, odds) >= 0.8]
        (neither, one), (other, both) = self.square + 0.5
        observed = max(neither * both / (one * other), 1.0)
        return {"detectable": float(enough[0]) if enough else NAN, "matters": ODDS,
                "power_observed": overlap_power(n, left, right, alpha, observed),
                "power_matters": overlap_power(n, left, right, alpha, ODDS)}  # fmt: skip


def of_square(square: Array, alpha: float) -> dict[str, Any]:
    """ROW of a (2, 2) square of counts: kappa, and the smaller tail of the hypergeometric distribution."""
    n, left, right, both = int(square.sum()), *map(int, (square[1].sum(), square[:, 1].sum(), square[1, 1]))
    if min(left, right, n - left, n - right) == 0:
        return {"n": n, "reason": ONE_VERDICT}
    most, least = min(left, right), max(0, left + right - n)
    if stats.hypergeom.pmf(most, n, left, right) >= alpha and stats.hypergeom.pmf(least, n, left, right) >= alpha:
        return {"n": n, "reason": "with so few tasks no overlap could show anything"}
    up, down = stats.hypergeom.sf(both - 1, n, left, right), stats.hypergeom.cdf(both, n, left, right)
    kappa = cohens_kappa(square)
    return {"value": kappa.kappa, "low": max(kappa.kappa_low, -1.0), "high": min(kappa.kappa_upp, 1.0), "n": n,
            "effect": min(up, down), "sign": 1.0 if up <= down else -1.0}  # fmt: skip


def beyond_margins(scores: Scores) -> Iterator[Family]:
    """RQ2: more common tasks than the margins give (hypergeometric), or fewer."""
    figure = scores.tables["claims"]["figure2"]
    for choices in _choices(scores):
        prompt, *how = choices
        these = Overlap(verdicts(scores, sides(scores, figure, prompt), prompt, *how), scores.alpha)
        yield Family(
            rows=frame_of({"": these.row()}), moved=these.moved if _is_rule(choices) else None, facts=these.facts,
            power=these.power, **_taken(choices),
        )  # fmt: skip


def beyond_zero_shot(scores: Scores) -> Iterator[Family]:
    """RQ2, specific: kappa with the partner few-shot less kappa with it zero-shot, by a bootstrap of tasks."""
    figure = scores.tables["claims"]["figure2"]
    partner = claimed(figure["right"])[0]
    for choices in _choices(scores):
        prompt, *how = choices
        tuned, few = sides(scores, figure, prompt)
        zero = scores.side(partner, False, prompt)
        tasks = tuned.index.intersection(zero.index)
        pairs = [verdicts(scores, [tuned.loc[tasks], other.loc[tasks]], prompt, *how) for other in (few, zero)]
        both = pd.concat(pairs, axis=1, keys=["few", "zero"]).dropna().astype(bool)
        yield Family(
            rows=gain_without(both, scores.setting.seed), without=partial(gain_without, both, scores.setting.seed),
            tasks=tuple(both.index), **_taken(choices),
        )  # fmt: skip


def gain_without(both: pd.DataFrame, seed: int, task: str | None = None) -> pd.DataFrame:
    """The one row of the gain in kappa, with a task left out."""
    left = both if task is None else both.drop(index=task, errors="ignore")
    return frame_of({"": gain(left.to_numpy(), seed)})


def gain(above: Array, seed: int) -> dict[str, Any]:
    """ROW of the gain in kappa of two columns over the next two, by a bootstrap of tasks. above: (tasks, 4)."""
    n = len(above)
    if n < 3:
        return {"n": n, "reason": "fewer than three tasks"}
    if (above[:, :2] == above[:, 2:]).all():
        return {"n": n, "reason": "the base model has the same verdicts with exemplars and without"}
    if above.all(axis=0).any() or not above.any(axis=0).all():
        return {"n": n, "reason": ONE_VERDICT}
    draws = above[np.random.default_rng(seed).integers(0, n, (DRAWS, n))]
    value, gains = float(_gains(above[None])[0]), _gains(draws)
    gains = gains[~np.isnan(gains)]
    if np.isnan(value) or not len(gains):
        return {"n": n, "reason": ONE_VERDICT}
    low, high = np.quantile(gains, [OUTSIDE_95 / 2, 1 - OUTSIDE_95 / 2])
    tail = min((gains <= 0).sum(), (gains >= 0).sum())
    return {"value": value, "low": low, "high": high, "n": n, "sign": np.sign(value) or 1.0,
            "effect": min(1.0, 2 * (1 + tail) / (1 + len(gains)))}  # fmt: skip


def _gains(above: Array) -> Array:
    """(draws,): kappa of the first two sides less that of the last two. above: (draws, tasks, 4)."""
    return kappas(above[..., 0], above[..., 1]) - kappas(above[..., 2], above[..., 3])


def kappas(a: Array, b: Array) -> Array:
    """Cohen's kappa of each row of two (draws, tasks) arrays of bools: 0 where one side is constant, NaN where both."""
    pa, pb, same = a.mean(axis=1), b.mean(axis=1), (a == b).mean(axis=1)
    chance = pa * pb + (1 - pa) * (1 - pb)
    left = 1 - chance
    return np.where(left > 1e-12, (same - chance) / np.where(left > 1e-12, left, 1), NAN)


def _recounts(count: Callable[[str], tuple[int, int]], paper: int, tasks: int) -> Iterator[Family]:
    """A count of bare comparisons with each stated baseline: it is the paper's, or it is not.

    tasks: how many the paper counts over. Where those without a baseline could decide, there is no result.
    """
    for baseline in BASELINES:
        found, n = count(baseline)
        unlike, open_ = float(found != paper), found < paper <= found + tasks - n
        facts = {"count": found, "of": n, "paper": paper}
        reason = f"{tasks - n} tasks without a baseline could make the difference" if open_ else None
        yield Family(
            taken={"baseline": baseline}, rule=baseline == BASELINES[0], shown=("",), facts=partial(_same, facts),
            rows=frame_of({"": {"value": found, "n": n, "effect": unlike, "small": 1 - unlike, "reason": reason}}),
        )  # fmt: skip


def _same(facts: Mapping[str, Any], _: str) -> Mapping[str, Any]:
    return facts


def bare(scores: Scores, rows: pd.DataFrame, baseline: str) -> pd.Series:
    """Above a stated baseline by bare comparison, by task; null without a baseline."""
    printed = {row["task"]: row["baseline"] / 100 for row in scores.tables["table4"]}
    column = rows["chance" if baseline == BASELINES[1] else "chance_scored"]
    level = (
        column.index.map(printed).to_series(index=column.index).fillna(column) if baseline == BASELINES[2] else column
    )
    return (rows["accuracy"].round(PRINTED) > level.round(PRINTED)).astype("boolean").mask(level.isna())


def figure2_count(scores: Scores) -> Iterator[Family]:
    """Figure 2: on how many tasks the two sides are alike by bare comparison."""
    figure = scores.tables["claims"]["figure2"]

    def count(baseline: str) -> tuple[int, int]:
        left, right = (bare(scores, rows, baseline) for rows in sides(scores, figure, CLOSED))
        return int((left == right).sum()), int((left.notna() & right.notna()).sum())

    yield from _recounts(count, figure["tasks"] - len(figure["disagree"]), figure["tasks"])


def figure5_count(scores: Scores) -> Iterator[Family]:
    """Figure 5: on how many tasks three tuned models are alike by bare comparison."""
    figure = scores.tables["claims"]["figure5"]

    def count(baseline: str) -> tuple[int, int]:
        each = [bare(scores, scores.side(model, bool(figure["shots"])), baseline) for model in figure["models"]]
        together = pd.concat(each, axis=1).dropna()
        return int((together.nunique(axis=1) == 1).sum()), len(together)

    yield from _recounts(count, figure["agree"], figure["tasks"])


def table2_count(scores: Scores) -> Iterator[Family]:
    """Table 2: how many tasks are above the baseline by bare comparison."""
    rows = scores.side(scores.largest, False)
    paper = [task for task, row in scores.tables["table2"].items() if row["above_baseline"]]

    def count(baseline: str) -> tuple[int, int]:
        above = bare(scores, rows.loc[rows.index.intersection(list(scores.tables["table2"]))], baseline)
        return int(above.sum()), int(above.notna().sum())

    yield from _recounts(count, len(paper), len(scores.tables["table2"]))
