"""Figure 2, Figure 5 and RQ2: do two models solve the same tasks?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa

from src.base.metrics import EXACT as EXACT_MATCH
from src.judgement.family import CORRECTIONS, Family, alike, frame_of
from src.judgement.scores import (
    CHANCE,
    CLOSED,
    CONTENT_FREE,
    IN,
    NO_CHANCE,
    OUT,
    PROMPTS,
    Scores,
    failed,
    on_the_floor,
)
from src.statistics.items import NAN, Array
from src.statistics.overlap import claimed, overlap_power, square_of
from src.statistics.tests import OUTSIDE_95, adjust

BARS = (CHANCE, CONTENT_FREE)
BARE = "bare comparison"
DRAWS = 2000
NEEDED = ("model", "metric", "n", "k", "accuracy", "chance_scored", "chance", "trivial", "p", "p_below", "gates")
ONE_VERDICT = "one side has the same verdict on every task"
ODDS = 10.0
"""The odds ratio at which the power of an overlap is told."""
BASELINES = ("chance as scored", "one over the options", "the paper's Table 4")


def _excused(row: Any, gates: str) -> str | None:
    """Why a cell has no verdict: no chance level, a gate, or a wrong format where exact match decides."""
    if np.isnan(row.p):
        return NO_CHANCE
    if gates == IN:
        return None
    return failed(row) or (on_the_floor(row) if row.metric == EXACT_MATCH else None)


def sides(scores: Scores, figure: Mapping[str, Any], prompt: str) -> list[pd.DataFrame]:
    """Both sides of Figure 2 on its tasks."""
    both = [scores.side(*claimed(figure[name]), prompt) for name in ("left", "right")]
    tasks = both[0].index.intersection(both[1].index).difference([figure["excluded"]])
    return [each.loc[tasks, list(NEEDED)] for each in both]


def tested(scores: Scores, rows: pd.DataFrame, prompt: str, bar: str, k: Mapping[str, int] | None = None) -> Array:
    """(tasks, 2): P(k or more) at the bar, P(k or fewer) at five points over it; k: other numbers right by task."""
    found = []
    for task, n, own in zip(rows.index, rows["n"], rows["k"], strict=True):
        at = [scores.tails(task, prompt, int(n), each) for each in (bar, CHANCE)]
        tails, right = at[0] or at[1], int((k or {}).get(task, own))
        found.append((NAN, NAN) if tails is None else (tails.above[right], tails.short[right]))
    return np.array(found, dtype=float)


def tasks_agree(scores: Scores) -> Iterator[Family]:
    """Figure 2, task by task: both sides above the bar or both shown not to be."""
    figure = scores.tables["claims"]["figure2"]
    for prompt in PROMPTS:
        both = sides(scores, figure, prompt)
        left, right = ({row.Index: row for row in rows.itertuples()} for rows in both)
        for bar, (words, method), gates in itertools.product(BARS, CORRECTIONS.items(), (OUT, IN)):
            p, p_2 = (tested(scores, rows, prompt, bar) for rows in both)

            def row(i: int, task: str, own: Array, k: int, of: Any = (left, right, p_2, gates)) -> dict[str, Any]:
                a, b = of[0][task], of[1][task]
                return {
                    "value": k / a.n - b.accuracy, "n": a.n, "effect": own[0], "small": own[1],
                    "effect_2": of[2][i, 0], "small_2": of[2][i, 1], "up": task not in figure["disagree"],
                    "reason": _excused(a, of[3]) or _excused(b, of[3]),
                }  # fmt: skip

            def moved(task: str, steps: int, row: Any = row, of: Any = (both[0], prompt, bar)) -> dict[str, Any] | None:
                one = of[0].loc[[task]]
                k = int(one["k"].iloc[0]) + steps
                if not 0 <= k <= one["n"].iloc[0]:
                    return None
                return row(of[0].index.get_loc(task), task, tested(scores, one, *of[1:], {task: k})[0], k)

            rows = {task: row(i, task, p[i], int(left[task].k)) for i, task in enumerate(left)}
            yield Family(
                taken={"prompt": prompt, "bar": bar, "correction": words, "gates": gates}, rows=frame_of(rows),
                correction=method, judged=alike, rule=(prompt, bar, words, gates) == (CLOSED, CHANCE, "Holm", OUT),
                moved=moved if prompt == CLOSED else None,
                shown=tuple(t for t in left if gates == OUT or failed(left[t]) or failed(right[t])),
                facts=lambda task, of=(left, right): {
                    f"{name}_{column}": getattr(rows[task], column)
                    for name, rows in zip(("left", "right"), of, strict=True)
                    for column in ("accuracy", "n", "k", "chance_scored", "p", "model")
                },
            )  # fmt: skip


def verdicts(
    scores: Scores, each: Sequence[pd.DataFrame], prompt: str, bar: str, judged: str, gates: str
) -> pd.DataFrame:
    """(tasks, sides) of bools: above the bar; tasks on which a side has no verdict are left out."""
    gone = {row.Index for rows in each for row in rows.itertuples() if _excused(row, gates)}
    keep = [task for task in each[0].index if task not in gone]
    each = [rows.loc[keep] for rows in each]
    if judged == BARE:
        columns = ["chance_scored", *(["trivial"] if bar == CONTENT_FREE else [])]
        level = [rows[columns].max(axis=1) for rows in each]
        found = [rows["accuracy"] > at for rows, at in zip(each, level, strict=True)]
        return pd.DataFrame(dict(enumerate(found)), index=keep).astype(bool)
    p = np.array([tested(scores, rows, prompt, bar)[:, 0] if keep else [] for rows in each])
    above = adjust(p.ravel(), CORRECTIONS[judged]).reshape(p.shape) < scores.alpha
    return pd.DataFrame(above.T, index=keep)


def _choices() -> Iterator[tuple[str, str, str, str]]:
    yield from itertools.product(PROMPTS, BARS, (*CORRECTIONS, BARE), (OUT, IN))


def _taken(choices: tuple[str, str, str, str]) -> dict[str, Any]:
    prompt, bar, judged, gates = choices
    return {
        "taken": {"prompt": prompt, "bar": bar, "above by": judged, "gates": gates},
        "rule": _is_rule(choices), "shown": ("",),
    }  # fmt: skip


def _is_rule(choices: tuple[str, ...]) -> bool:
    return choices == (CLOSED, CHANCE, "Holm", OUT)


def beyond_margins(scores: Scores) -> Iterator[Family]:
    """RQ2: more common tasks than the margins give (hypergeometric), or fewer."""
    figure = scores.tables["claims"]["figure2"]
    for choices in _choices():
        prompt, bar, judged, gates = choices
        above = verdicts(scores, sides(scores, figure, prompt), prompt, bar, judged, gates)

        def of_square(square: Array) -> dict[str, Any]:
            n, left, right, both = int(square.sum()), *map(int, (square[1].sum(), square[:, 1].sum(), square[1, 1]))
            if min(left, right, n - left, n - right) == 0:
                return {"n": n, "reason": ONE_VERDICT}
            up, down = stats.hypergeom.sf(both - 1, n, left, right), stats.hypergeom.cdf(both, n, left, right)
            kappa = cohens_kappa(square)
            return {"value": kappa.kappa, "low": max(kappa.kappa_low, -1.0), "high": min(kappa.kappa_upp, 1.0), "n": n,
                    "effect": min(up, down), "sign": 1.0 if up <= down else -1.0}  # fmt: skip

        def square_without(left_out: str | None = None, above: Any = above) -> Array:
            kept = above.drop(index=left_out) if left_out else above
            return square_of(kept[0].astype("boolean"), kept[1].astype("boolean"))

        def moved(_: str, steps: int, square: Any = square_without(), of: Any = of_square) -> dict[str, Any] | None:
            change = steps * np.array([[1, -1], [-1, 1]])
            return of(square + change) if (square + change >= 0).all() else None

        def facts(_: str, square: Any = square_without()) -> dict[str, Any]:
            n, left, right = int(square.sum()), int(square[1].sum()), int(square[:, 1].sum())
            return {"both": int(square[1, 1]), "left": left, "right": right, "agree": int(np.trace(square)),
                    "expected": left * right / n}  # fmt: skip

        def power(_: str, tests: int, square: Any = square_without()) -> dict[str, Any]:
            n, left, right = int(square.sum()), int(square[1].sum()), int(square[:, 1].sum())
            at = np.geomspace(1, 1e4, 401)
            powers = np.array([overlap_power(n, left, right, scores.alpha, odds) for odds in at])
            s = square + 0.5
            observed = float(s[0, 0] * s[1, 1] / (s[0, 1] * s[1, 0]))
            return {"detectable": float(at[powers >= 0.8][0]) if (powers >= 0.8).any() else NAN, "matters": ODDS,
                    "power_observed": overlap_power(n, left, right, scores.alpha, max(observed, 1.0)),
                    "power_matters": overlap_power(n, left, right, scores.alpha, ODDS)}  # fmt: skip

        def null(draws: Any, above: pd.DataFrame = above) -> dict[str, Array]:
            right = draws.permuted(above[1]) if len(above) else np.empty((0, 0))
            return {"": kappas(np.broadcast_to(above[0].to_numpy(), right.shape), right)}

        yield Family(
            rows=frame_of({"": of_square(square_without())}), moved=moved if _is_rule(choices) else None, facts=facts, power=power, null=null,
            tasks=tuple(above.index), **_taken(choices),
        )  # fmt: skip


def beyond_zero_shot(scores: Scores) -> Iterator[Family]:
    """RQ2, specific: kappa with the partner few-shot less kappa with it zero-shot, by a bootstrap of tasks."""
    figure = scores.tables["claims"]["figure2"]
    partner = claimed(figure["right"])[0]
    for choices in _choices():
        prompt, bar, judged, gates = choices
        tuned, few = sides(scores, figure, prompt)
        zero = scores.side(partner, False, prompt)
        tasks = tuned.index.intersection(zero.index)
        pairs = [
            verdicts(scores, [tuned.loc[tasks], other.loc[tasks]], prompt, bar, judged, gates) for other in (few, zero)
        ]
        both = pd.concat(pairs, axis=1, keys=["few", "zero"]).dropna().astype(bool)

        def of_tasks(values: Array) -> dict[str, Any]:
            n = len(values)
            if n < 3:
                return {"n": n, "reason": "fewer than three tasks"}
            draws = np.random.default_rng(scores.setting.seed).integers(0, n, (DRAWS, n))
            gains = kappas(values[draws][:, :, 0], values[draws][:, :, 1]) - kappas(
                values[draws][:, :, 2], values[draws][:, :, 3])  # fmt: skip
            gains = gains[~np.isnan(gains)]
            value = float(
                kappas(values[None, :, 0], values[None, :, 1])[0] - kappas(values[None, :, 2], values[None, :, 3])[0]
            )
            if np.isnan(value) or not len(gains):
                return {"n": n, "reason": ONE_VERDICT}
            low, high = np.quantile(gains, [OUTSIDE_95 / 2, 1 - OUTSIDE_95 / 2])
            tail = min((gains <= 0).sum(), (gains >= 0).sum())
            return {"value": value, "low": low, "high": high, "n": n, "sign": np.sign(value) or 1.0,
                    "effect": min(1.0, 2 * (1 + tail) / (1 + len(gains)))}  # fmt: skip

        def without(task: str, both: Any = both, of: Any = of_tasks) -> pd.DataFrame:
            return frame_of({"": of(both.drop(index=task, errors="ignore").to_numpy())})

        yield Family(
            rows=frame_of({"": of_tasks(both.to_numpy())}), without=without, tasks=tuple(both.index), **_taken(choices)
        )


def kappas(a: Array, b: Array) -> Array:
    """Cohen's kappa of each row of two (draws, tasks) arrays of bools: 0 where one side is constant, NaN where both."""
    pa, pb, same = a.mean(axis=1), b.mean(axis=1), (a == b).mean(axis=1)
    chance = pa * pb + (1 - pa) * (1 - pb)
    left = 1 - chance
    return np.where(left > 1e-12, (same - chance) / np.where(left > 1e-12, left, 1), NAN)


def _recounts(scores: Scores, count: Any, paper: int) -> Iterator[Family]:
    """A count of bare comparisons with each stated baseline: it is the paper's, or it is not."""
    for baseline in BASELINES:
        found, n = count(baseline)
        equal = found == paper
        yield Family(
            taken={"baseline": baseline}, rule=baseline == BASELINES[0], shown=("",),
            rows=frame_of({"": {"value": found, "n": n, "effect": 0.0 if equal else 1.0, "small": 1.0 if equal else 0.0}}),
            facts=lambda _, found=found, n=n: {"count": found, "of": n, "paper": paper},
        )  # fmt: skip


def bare(scores: Scores, rows: pd.DataFrame, baseline: str) -> pd.Series:
    """Above a stated baseline by bare comparison, by task; null without a baseline."""
    printed = {row["task"]: row["baseline"] / 100 for row in scores.tables["table4"]}
    column = rows["chance" if baseline == BASELINES[1] else "chance_scored"]
    level = (
        column.index.map(printed).to_series(index=column.index).fillna(column) if baseline == BASELINES[2] else column
    )
    return (rows["accuracy"] > level).astype("boolean").mask(level.isna())


def figure2_count(scores: Scores) -> Iterator[Family]:
    """Figure 2: on how many tasks the two sides are alike by bare comparison."""
    figure = scores.tables["claims"]["figure2"]

    def count(baseline: str) -> tuple[int, int]:
        left, right = (bare(scores, rows, baseline) for rows in sides(scores, figure, CLOSED))
        return int((left == right).sum()), int((left.notna() & right.notna()).sum())

    yield from _recounts(scores, count, figure["tasks"] - len(figure["disagree"]))


def figure5_count(scores: Scores) -> Iterator[Family]:
    """Figure 5: on how many tasks three tuned models are alike by bare comparison."""
    figure = scores.tables["claims"]["figure5"]

    def count(baseline: str) -> tuple[int, int]:
        each = [bare(scores, scores.side(model, bool(figure["shots"])), baseline) for model in figure["models"]]
        together = pd.concat(each, axis=1).dropna()
        return int((together.nunique(axis=1) == 1).sum()), len(together)

    yield from _recounts(scores, count, figure["agree"])


def table2_count(scores: Scores) -> Iterator[Family]:
    """Table 2: how many tasks are above the baseline by bare comparison."""
    rows = scores.side(scores.largest, False)
    paper = [task for task, row in scores.tables["table2"].items() if row["above_baseline"]]

    def count(baseline: str) -> tuple[int, int]:
        above = bare(scores, rows.loc[rows.index.intersection(list(scores.tables["table2"]))], baseline)
        return int(above.sum()), int(above.notna().sum())

    yield from _recounts(scores, count, len(paper))
