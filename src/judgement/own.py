"""Cells of a base and a tuned model that were run here, judged by the tests and words that judge the paper.

The frame is data/reference/pair.csv. docs/statistics.md, "A base and a tuned model of our own", says what differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from src.base.errors import UserError
from src.base.metrics import EXACT as EXACT_MATCH
from src.base.metrics import LIKELIHOODS, MARGIN, OWN
from src.judgement import contrasts
from src.judgement.family import CORRECTIONS, Family, frame_of
from src.judgement.scores import (
    BLIND,
    CHANCE,
    CLOSED,
    CONTENT_FREE,
    EXACT,
    IN,
    LETTERED,
    OUT,
    PRIMARY,
    PROMPTS,
    Scores,
    View,
    excused,
    failed,
)
from src.judgement.table2 import GRID, tail_power
from src.statistics.controls import SHIFTS
from src.statistics.floor import guess_of
from src.statistics.items import NAN
from src.statistics.overlap import claimed, overlap_rows
from src.statistics.rows import plain

LIKELIHOOD = "log-likelihood of the options"
EVERY_ORDER = "exact match over every order of the options"
NET = "the task's own, over its answers under another input"
"""Levels of the choice of metric that own runs alone have."""
VIEWS: tuple[View, ...] = (
    (CLOSED, PRIMARY), (CLOSED, EXACT), (CLOSED, LIKELIHOOD), (LETTERED, PRIMARY), (LETTERED, LIKELIHOOD),
    (LETTERED, EVERY_ORDER),
)  # fmt: skip
REFERENCE = "data/reference/pair.csv"


@dataclass(frozen=True, eq=False)
class OwnScores(Scores):
    """What the claims of conf/claim/own are judged on. cells: frame `pair`, of one base and one tuned model."""

    bars: ClassVar[tuple[str, ...]] = (CHANCE, CONTENT_FREE, BLIND)

    @property
    def views(self) -> tuple[View, ...]:
        """The prompt formats and metrics that were run: a suite may lack a control."""
        return tuple(view for view in (*VIEWS, (CLOSED, NET), (LETTERED, NET)) if len(self.rows(*view)))

    @cached_property
    def judged(self) -> pd.DataFrame:
        """Its rows, with chance as published rows name it."""
        return self.cells.assign(chance_scored=self.cells["chance"], tested=self.cells["chance"])

    @cached_property
    def pair(self) -> tuple[str, str]:
        """(base model, tuned model). Raises UserError where there is not one of each."""
        base, tuned = (sorted({*self.cells.loc[self.cells["tuned"] == side, "model"]}) for side in (False, True))
        if len(base) != 1 or len(tuned) != 1:
            raise UserError(
                f"{REFERENCE} holds the base models {base} and the tuned models {tuned}; it is to hold one of each. "
                "Make it anew: make pair"
            )
        return base[0], tuned[0]

    @property
    def largest(self) -> str:
        """The base model."""
        return self.pair[0]

    @property
    def tables(self) -> Mapping[str, Any]:
        """What stands in the place of the paper's tables: the pair, and its two sides of Figure 2."""
        base, tuned = self.pair
        figure = {"left": f"{tuned} zero-shot", "right": f"{base} few-shot", "excluded": None, "disagree": ()}
        return {"table1": [{"base": base, "tuned": tuned}], "claims": {"figure2": figure}}

    def rows(self, prompt: str, metric: str) -> pd.DataFrame:
        """Every row in one prompt format by one choice of metric."""
        here = self.judged[self.judged["prompt"] == PROMPTS[prompt]]
        if metric == EVERY_ORDER:
            return here[(here["control"] == SHIFTS) & (here["metric"] == EXACT_MATCH)]
        here = here[plain(here)]
        if metric == LIKELIHOOD:
            return here[here["metric"] == LIKELIHOODS[0]]
        if metric == NET:
            here = here[here["primary"].astype(bool) & here["floor"].notna()]
            return here.assign(accuracy=here["floor_plain"] - here["floor"])
        return here[here["primary"].astype(bool) if metric == PRIMARY else here["metric"] == EXACT_MATCH]

    def at(self, row: Any, prompt: str, bar: str, k: int) -> tuple[float, float]:
        """As of published rows. Against its own answers under another input a cell brings its p, at its own k alone."""
        if bar == BLIND and not np.isnan(row.p_floor):
            return row.p_floor, row.p_floor_short
        return super().at(row, prompt, bar, k)

    @cache  # noqa: B019 - one Scores lives as long as the command
    def _baseline(self, task: str, prompt: str, n: int) -> dict[str, Any]:
        """guess (n,) and trivial of a cell. Every cell of a task with as many examples has the same examples."""
        rows = self.judged[(self.judged["task"] == task) & (self.judged["n"] == n)]
        known = rows.loc[(rows["prompt"] == prompt) & rows["chance"].notna(), ["option_counts", "trivial"]]
        if known.empty:
            return {"guess": None, "trivial": NAN}
        return {"guess": guess_of(known["option_counts"].iloc[0]), "trivial": known["trivial"].max()}


@dataclass(frozen=True, eq=False)
class Above:
    """The base model's zero-shot cells in one view, against one bar."""

    scores: OwnScores
    view: View
    bar: str

    @cached_property
    def cells(self) -> dict[str, Any]:
        """By task."""
        return {row.Index: row for row in self.scores.side(self.scores.largest, False, *self.view).itertuples()}

    def row(self, task: str, gates: str, steps: int = 0) -> dict[str, Any] | None:
        """ROW of a task with more or fewer right. None where there are not so many examples."""
        this = self.cells[task]
        if np.isnan(this.k):
            return None if steps else {"n": this.n, "reason": "no count of examples right"}
        k = int(this.k) + steps
        if not 0 <= k <= this.n:
            return None
        effect, small = self.scores.at(this, self.view[0], self.bar, k)
        value = k / this.n if steps else this.accuracy
        return {"value": value, "low": this.ci_low, "high": this.ci_high, "n": this.n, "effect": effect,
                "small": small, "reason": excused(this, gates)}  # fmt: skip

    def says(self, task: str, gates: str) -> bool:
        """Whether the bar, the metric and the gates say anything of a task that the rule's do not."""
        cell = self.cells[task]
        higher = {CONTENT_FREE: cell.trivial > cell.chance, BLIND: not np.isnan(cell.p_floor)}
        primary = self.scores.setting.tasks[task].primary("closed") == EXACT_MATCH
        same = self.view == (CLOSED, EXACT) and primary
        return bool(higher.get(self.bar, True) and not same and (gates == OUT or failed(cell)))

    def facts(self, task: str) -> dict[str, Any]:
        """What the sentences of a claim name."""
        names = ("model", "k", "n", "accuracy", "chance", "trivial", "floor", "floor_n", "floor_plain", "fingerprint")
        return {name: getattr(self.cells[task], name) for name in names}

    def power(self, task: str, tests: int) -> dict[str, Any]:
        """POWER of a task against chance at alpha / tests."""
        cell, alpha = self.cells[task], self.scores.alpha / tests
        tails = self.scores.tails(task, self.view[0], int(cell.n), CHANCE)
        if tails is None:
            return {}
        found, none = tail_power(tails, int(cell.n), alpha, cell.chance)
        enough, matters = GRID[found >= 0.8], cell.chance + MARGIN
        return {"detectable": float(enough[0]) if len(enough) else NAN, "matters": matters, "power_none": none,
                "power_observed": float(np.interp(cell.accuracy, GRID, found)),
                "power_matters": float(np.interp(matters, GRID, found))}  # fmt: skip


def above(scores: OwnScores, *, some: bool = False) -> Iterator[Family]:
    """Is the base model above the bar without exemplars: one item a task, or whether it is on some task."""
    views = [view for view in scores.views if view[1] != NET]  # which has its bar in it
    choices = itertools.product(views, scores.bars, CORRECTIONS, (OUT, IN))
    for i, (view, bar, words, gates) in enumerate(choices):
        these = Above(scores, view, bar)
        tasks = tuple(these.cells)
        said = tuple(task for task in tasks if these.says(task, gates))
        if not said:
            continue
        yield Family(
            taken={"prompt": view[0], "metric": view[1], "bar": bar, "correction": words, "gates": gates},
            rows=frame_of({task: these.row(task, gates) or {} for task in tasks}), correction=CORRECTIONS[words],
            rule=i == 0, some=some, shown=None if some else said, facts=these.facts, power=these.power,
            moved=partial(_moved, these, gates) if view == VIEWS[0] else None,
        )  # fmt: skip


def _moved(these: Above, gates: str, task: str, steps: int) -> dict[str, Any] | None:
    return these.row(task, gates, steps)


def any_above(scores: OwnScores) -> Iterator[Family]:
    """Is the base model above the bar on some task without exemplars."""
    yield from above(scores, some=True)


def overlap_frame(scores: OwnScores) -> pd.DataFrame:
    """Frame pair_overlap: both sides of Figure 2 in each prompt format, with the controls of each side."""
    figure, parts = scores.tables["claims"]["figure2"], []
    for prompt in PROMPTS:
        sides = [claimed(figure[name]) for name in ("left", "right")]
        cells = [scores.side(*each, prompt) for each in sides]
        tasks = cells[0].index.intersection(cells[1].index)
        both = [each.loc[tasks].assign(above_raw=lambda rows: rows["accuracy"] > rows["chance"]) for each in cells]
        part = overlap_rows(both[0], both[1], scores.alpha).assign(source=OWN)
        for name, of, rows in zip(("left", "right"), sides, both, strict=True):
            orders = scores.side(*of, prompt, EVERY_ORDER)["accuracy"]
            part[f"{name}_floor"] = rows["floor"].to_numpy()
            part[f"{name}_every_order"] = orders.reindex(tasks).to_numpy(dtype=float)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def exemplars_help(scores: OwnScores, which: str) -> Iterator[Family]:
    """Few minus zero of one model of the pair. which: base | tuned."""
    yield from contrasts.exemplars(scores, scores.pair[("base", "tuned").index(which)], up=True)
