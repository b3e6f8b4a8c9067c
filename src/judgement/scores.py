"""The cells that claims are judged on: which of them count, and their tails at every number right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy import stats

from src.base import metrics
from src.base.metrics import MARGIN
from src.statistics.items import NAN, Array
from src.statistics.published import published_baseline
from src.statistics.rows import table2_model
from src.statistics.setting import Setting

PRIMARY, EXACT = "the task's own", "exact match"
"""Levels of the choice of metric."""
CLOSED, LETTERED = "options in the text", "lettered options"
PROMPTS = {CLOSED: "closed", LETTERED: "closed_adv"}
OUT, IN = "left out", "kept"
"""What is done with cells that fail a gate."""
CHANCE, CONTENT_FREE, BLIND = "chance", "content-free answers", "its own answers under another input"
"""Levels of the choice of bar. Own runs alone know the last."""
NO_CHANCE = "no chance level: the options are not known"
"""Why a cell has no test. Such a statement has no number."""
View = tuple[str, str]
"""(prompt format, metric)"""
FLOOR = 0.05
"""A cell is on the floor where its tail below chance is under this, uncorrected."""


@dataclass(frozen=True, eq=False)
class Tails:
    """Tails of one cell at every number right k, arrays (n + 1,).

    above: P(k or more) at the bar. short: P(k or fewer) at five points over it.
    """

    above: Array
    short: Array


@dataclass(frozen=True, eq=False)
class Scores:
    """What the paper's claims are judged on: the published cells of data/stats/cells.parquet."""

    cells: pd.DataFrame
    setting: Setting
    bars: ClassVar[tuple[str, ...]] = (CHANCE, CONTENT_FREE)
    """What a cell has to beat, the rule's first."""

    @property
    def alpha(self) -> float:
        """The level of every test."""
        return self.setting.alpha

    @property
    def tables(self) -> Mapping[str, Any]:
        """The paper's tables."""
        return self.setting.tables

    @property
    def views(self) -> tuple[View, ...]:
        """The prompt formats and metrics in which cells can be judged, the rule's first."""
        return (CLOSED, PRIMARY), (CLOSED, EXACT), (LETTERED, PRIMARY)

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The cells that claims are judged on."""
        return self.cells[self.cells["source"] == metrics.PUBLISHED]

    @cached_property
    def largest(self) -> str:
        """The model of Table 2."""
        found = table2_model(self.cells)
        assert found is not None, "the published cells hold a base model"
        return found

    def rows(self, prompt: str, metric: str) -> pd.DataFrame:
        """Every row in one prompt format by one choice of metric."""
        here = self.judged[self.judged["prompt"] == PROMPTS[prompt]]
        chosen = here["primary"] if metric == PRIMARY else here["metric"] == metrics.EXACT
        return here[chosen.astype(bool)]

    @cache  # noqa: B019 - one Scores lives as long as the command
    def side(self, model: str, few: bool, prompt: str = CLOSED, metric: str = PRIMARY) -> pd.DataFrame:
        """One model's rows in one condition, indexed by task, sorted."""
        rows = self.rows(prompt, metric)
        rows = rows[(rows["model"] == model) & ((rows["shots"] > 0) == few)]
        return rows.set_index("task").sort_index()

    @cache  # noqa: B019
    def tails(self, task: str, prompt: str, n: int, bar: str, options: int | None = None) -> Tails | None:
        """Tails of a cell of `n` examples; options: another number of options than assumed. None without a bar."""
        base = self._baseline(task, PROMPTS[prompt], n)
        guess = base["guess"] if options is None else np.full(n, 1 / options)
        return tails_at(guess, base["trivial"], n, bar)

    def at(self, row: Any, prompt: str, bar: str, k: int) -> tuple[float, float]:
        """(P(k or more) at the bar, P(k or fewer) at five points over chance or it) of a row indexed by task.

        The bar is chance where a task has no other.
        """
        both = [self.tails(row.Index, prompt, int(row.n), each) for each in (bar, CHANCE)]
        tails = both[0] or both[1]
        return (NAN, NAN) if tails is None else (float(tails.above[k]), float(tails.short[k]))

    def tested(self, rows: pd.DataFrame, prompt: str, bar: str) -> Array:
        """(tasks, 2): `at` of each row's own k. rows: indexed by task."""
        found = [self.at(row, prompt, bar, int(row.k)) for row in rows.itertuples()]
        return np.array(found, dtype=float).reshape(-1, 2)

    @cache  # noqa: B019
    def _baseline(self, task: str, prompt: str, n: int) -> dict[str, Any]:
        metric = self.setting.tasks[task].primary(prompt)
        return published_baseline(self.setting, task, prompt, metric, n)


def tails_at(guess: Array | None, trivial: float, n: int, bar: str) -> Tails | None:
    """Tails of a cell of `n` examples at a bar. None without one.

    guess: its items' chance (n,), None where it is not known. trivial: the best content-free answer, or NaN.
    """
    if bar == CONTENT_FREE:
        guess = None if np.isnan(trivial) else np.full(n, max(trivial, NAN if guess is None else guess.mean()))
    return None if guess is None else Tails(at_least(guess), at_most(np.minimum(guess + MARGIN, 1.0)))


def at_most(guess: Array) -> Array:
    """P(X <= k) for k = 0..n, X the number right by guessing."""
    n = len(guess)
    k = np.arange(n + 1)
    return stats.binom.cdf(k, n, guess[0]) if np.ptp(guess) == 0 else stats.poisson_binom.cdf(k, guess)


def at_least(guess: Array) -> Array:
    """P(X >= k) for k = 0..n, read off the mirrored distribution, where small values keep their digits."""
    return at_most(1 - guess)[::-1]


def failed(row: Any) -> str | None:
    """The acting gates that a row fails, in words; None where it fails none."""
    names = [name for name in str(row.gates).split(";") if name in metrics.ACTING]
    return "; ".join(metrics.GATES[name] for name in names) or None


def on_the_floor(row: Any) -> str | None:
    """Words for a cell whose exact match is below chance; None for another. A forced choice always picks an option."""
    low = row.metric == metrics.EXACT and row.p_below < FLOOR
    return "below chance: the answers are in another format" if low else None


def excused(row: Any, gates: str) -> str | None:
    """Why a cell has no verdict: no chance level, a gate, or a wrong format where exact match decides."""
    if np.isnan(row.p):
        return NO_CHANCE
    return (failed(row) if gates == OUT else None) or on_the_floor(row)


def faults(row: Any) -> tuple[str, ...]:
    """The acting gates that a row fails and the floor that it sits on, each in a few words."""
    gates = tuple(name.replace("_", " ") for name in str(row.gates).split(";") if name in metrics.ACTING)
    return (*gates, "below chance") if on_the_floor(row) else gates
