"""What exemplars add: to one model, and to a base model against its instruction-tuned twin (RQ4)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from src.base.metrics import MARGIN
from src.judgement.family import CORRECTIONS, Family, frame_of
from src.judgement.joint import Null
from src.judgement.scores import IN, OUT, PRIMARY, PROMPTS, Scores, faults, on_the_floor
from src.statistics.contrasts import pairs_of
from src.statistics.items import NAN, Array
from src.statistics.tests import OUTSIDE_95

STEP = 0.001
FEWEST = 3


def t_test(d: Array) -> tuple[float, float, float]:
    """(two-sided p of a mean of 0, p of two one-sided tests within five points, sign of the effect): paired t."""
    mean, error = d.mean(), d.std(ddof=1) / np.sqrt(len(d))
    sign = float(np.sign(np.round(mean, 12)) or 1.0)
    if not error:
        return (1.0 if mean == 0 else 0.0), (0.0 if abs(mean) < MARGIN else 1.0), sign
    effect = 2 * stats.t.sf(abs(mean) / error, len(d) - 1)
    return float(effect), float(stats.t.sf((MARGIN - abs(mean)) / error, len(d) - 1)), sign


def wilcoxon(d: Array) -> tuple[float, float, float]:
    """The same by signed ranks, of differences rounded to nine decimals; exact, ties included.

    The sign is that of the ranks: the mean can lie on the other side.
    """
    down, up = signed_rank(d)
    within = max(signed_rank(d - MARGIN)[0], signed_rank(d + MARGIN)[1])
    return min(1.0, 2 * min(down, up)), within, 1.0 if up <= down else -1.0


def signed_rank(d: Array) -> tuple[float, float]:
    """(p that the differences lie below 0, p that they lie above) of Wilcoxon's signed-rank test.

    Exact under random signs of the ranks at hand, so ties need no correction; zeros are left out. scipy counts these
    signs by drawing them all, which takes a hundred times as long.
    """
    d = np.round(d[np.round(d, 9) != 0], 9)
    if not len(d):
        return 1.0, 1.0
    doubled = np.rint(2 * stats.rankdata(np.abs(d))).astype(int)  # ranks of ties are halves
    weights = np.ones(1)
    for rank in doubled:
        weights = (np.pad(weights, (0, rank)) + np.pad(weights, (rank, 0))) / 2
    positive = int(doubled[d > 0].sum())
    return float(weights[: positive + 1].sum()), float(weights[positive:].sum())


TESTS: Mapping[str, Callable[[Array], tuple[float, float, float]]] = {"paired t": t_test, "Wilcoxon": wilcoxon}


@dataclass(frozen=True, eq=False)
class Differences:
    """Paired differences over tasks. left_out: task -> why it left, by gate or floor. floored: those on the floor."""

    values: pd.Series
    left_out: Mapping[str, tuple[str, ...]]
    floored: frozenset[str]

    def gone(self, gates: str) -> list[str]:
        """The tasks that do not count. One on the floor never does."""
        return [task for task in self.left_out if gates == OUT or task in self.floored]

    def kept(self, gates: str) -> pd.Series:
        """The differences of the tasks that count."""
        return self.values.drop(index=self.gone(gates))

    @cache  # noqa: B019 - the differences live as long as the command
    def row(self, test: str, gates: str, shift: float = 0.0) -> dict[str, Any]:
        """ROW of the mean difference; shift: added to each difference."""
        d, all_tasks = self.kept(gates).to_numpy(dtype=float) + shift, len(self.values)
        gone = self.gone(gates)
        if 2 * len(gone) >= all_tasks:
            many = Counter(why for task in gone for why in self.left_out[task])
            listed = ", ".join(f"{why} {n}" for why, n in many.most_common())
            of = f"{len(gone)} of {all_tasks} tasks have a cell that does not count"
            return {"n": len(d), "reason": f"{of} ({listed})"}
        if len(d) < FEWEST:
            return {"n": len(d), "reason": f"fewer than {FEWEST} tasks"}
        effect, small, sign = TESTS[test](d)
        middle = d.mean() if test == "paired t" else float(np.median(d))
        half = stats.t.isf(OUTSIDE_95 / 2, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d)) if test == "paired t" else NAN
        return {"value": middle, "low": middle - half, "high": middle + half, "n": len(d), "effect": effect,
                "small": small, "sign": sign}  # fmt: skip

    def power(self, tests: int, alpha: float) -> dict[str, float]:
        """The mean difference found with 80 % power, and the power at two others: paired t at alpha / tests."""
        d = self.kept(OUT).to_numpy(dtype=float)
        at = np.linspace(0, 1, 1001)
        n, sd = len(d), float(d.std(ddof=1))
        if n < FEWEST or not sd:
            return {}
        critical = stats.t.isf(alpha / tests / 2, n - 1)
        power = np.asarray(stats.nct.sf(critical, n - 1, at / sd * np.sqrt(n)))
        found = at[power >= 0.8]
        # two one-sided tests hold where |t| is below what five points less the critical value leave
        room = MARGIN / (sd / np.sqrt(n)) - stats.t.isf(alpha / tests, n - 1)
        return {"detectable": float(found[0]) if len(found) else NAN, "matters": MARGIN,
                "power_none": float(max(0.0, 1 - 2 * stats.t.sf(room, n - 1))) if room > 0 else 0.0,
                "power_observed": float(np.interp(abs(d.mean()), at, power)),
                "power_matters": float(np.interp(MARGIN, at, power))}  # fmt: skip


def differences(cells: Sequence[pd.DataFrame], signs: Sequence[int]) -> Differences | None:
    """The signed sum of cells over the tasks that all have; None without such. A task leaves by gate or floor."""
    tasks = sorted(set.intersection(*(set(each.index) for each in cells)))
    if not tasks:
        return None
    each = [rows.loc[tasks] for rows in cells]
    values = sum(sign * rows["accuracy"] for sign, rows in zip(signs, each, strict=True))
    left_out: dict[str, tuple[str, ...]] = {}
    floored: set[str] = set()
    for rows in each:
        for row in rows.itertuples():
            why = faults(row)
            if why:
                floored |= {row.Index} if on_the_floor(row) else set()
                left_out[row.Index] = tuple(dict.fromkeys((*left_out.get(row.Index, ()), *why)))
    return Differences(pd.Series(values, index=tasks, dtype=float), left_out, frozenset(floored))


@dataclass(frozen=True, eq=False)
class Contrasts:
    """The differences of each item, by one test, with the gates as they are used."""

    found: Mapping[str, Differences]
    test: str
    gates: str

    def row(self, item: str) -> dict[str, Any]:
        """ROW of an item."""
        return self.found[item].row(self.test, self.gates)

    def moved(self, item: str, steps: int) -> dict[str, Any]:
        """ROW of an item whose mean difference is moved by some steps."""
        return self.found[item].row(self.test, self.gates, shift=round(steps * STEP, 9))

    def null(self, draws: Null) -> dict[str, Array]:
        """By item its mean under random signs, where a task is left."""
        kept = {item: each.kept(self.gates) for item, each in self.found.items()}
        return {item: draws.signed(each) for item, each in kept.items() if len(each)}

    def facts(self, item: str) -> dict[str, int]:
        """How many tasks left, of how many."""
        return {"left_out": len(self.found[item].left_out), "all_tasks": len(self.found[item].values)}

    def power(self, alpha: float, item: str, tests: int) -> dict[str, float]:
        """POWER of an item."""
        return self.found[item].power(tests, alpha)


def families(
    found: Mapping[str, Differences], up: bool, shown: tuple[str, ...], taken: Mapping[str, str], alpha: float, *,
    rule: bool,
) -> Iterator[Family]:  # fmt: skip
    """The families of one prompt format and metric: by test, correction and gates. up: the claim is an effect."""
    tasks = tuple(sorted({task for each in found.values() for task in each.values.index}))
    for test, (words, method), gates in itertools.product(TESTS, CORRECTIONS.items(), (OUT, IN)):
        these = Contrasts(found, test, gates)
        yield Family(
            taken={**taken, "test": test, "correction": words, "gates": gates}, tasks=tasks, correction=method,
            rows=frame_of({item: {**these.row(item), "up": up} for item in found}),
            rule=rule and (test, words, gates) == ("paired t", "Holm", OUT), moved=these.moved if rule else None,
            shown=tuple(item for item in shown if gates == OUT or found[item].gone(OUT) != found[item].gone(IN)),
            power=partial(these.power, alpha), facts=these.facts,
            null=these.null if (test, words) == ("paired t", "Holm") else None,
        )  # fmt: skip


def difference_in_differences(scores: Scores) -> Iterator[Family]:
    """RQ4: few minus zero of a base model, less that of its tuned twin: an item a pair and prompt format."""
    for prompt, metric in scores.views:
        found = {}
        for base, tuned in pairs_of(scores.tables["table1"]):
            cells = [scores.side(model, few, prompt, metric) for model in (base, tuned) for few in (True, False)]
            of_pair = differences(cells, (1, -1, -1, 1))
            if of_pair:
                found[f"{base} against {tuned}, {PROMPTS[prompt]}"] = of_pair
        taken = {"metric": metric}
        yield from families(found, True, tuple(found), taken, scores.alpha, rule=metric == PRIMARY)


@cache
def few_minus_zero(scores: Scores, prompt: str, metric: str) -> Mapping[str, Differences]:
    """By model of Table 1, few minus zero over its tasks."""
    models = {each for row in scores.tables["table1"] for side in (row["base"], row["tuned"])
              for each in (side if isinstance(side, list) else [side]) if each}  # fmt: skip
    sides = {m: [scores.side(m, few, prompt, metric) for few in (True, False)] for m in sorted(models)}
    found = {m: differences(cells, (1, -1)) for m, cells in sides.items()}
    return {m: each for m, each in found.items() if each}


def exemplars(scores: Scores, model: str, *, up: bool) -> Iterator[Family]:
    """Few minus zero of one model, corrected over the models of the prompt format. up: the claim is a gain."""
    for prompt, metric in scores.views:
        each = few_minus_zero(scores, prompt, metric)
        found = {"" if m == model else m: d for m, d in each.items()}  # the claim is about one: it has no name
        taken, rule = {"prompt": prompt, "metric": metric}, (prompt, metric) == scores.views[0]
        yield from families(found, up, ("",), taken, scores.alpha, rule=rule)
