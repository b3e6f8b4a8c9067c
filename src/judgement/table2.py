"""Table 2 and RQ1: is a task above the baseline, predicted by smaller models, emergent; and is any."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import logit

from src.base.metrics import EXACT as EXACT_MATCH
from src.base.metrics import MARGIN
from src.judgement.family import CORRECTIONS, Family, frame_of
from src.judgement.scores import (
    CHANCE,
    CONTENT_FREE,
    EXACT,
    IN,
    OUT,
    Scores,
    Tails,
    excused,
    failed,
)
from src.statistics.forecast import FAR, Against, clipped, expected_variance
from src.statistics.items import NAN, Array
from src.statistics.scale import forecasts
from src.statistics.table2 import paper_verdicts

SHOWN = "as the exemplars show"
OPTIONS: Mapping[str, int | None] = {SHOWN: None, "three": 3, "five": 5}
SCATTER = {"estimated over all tasks": True, "none (binomial)": False}
SIZES = {"all smaller models": False, "without the smallest": True}
MARGINS = {"ten points": "p_within_ten", "five points": "p_within_five"}
NO_FORECAST = "fewer than three smaller models have a score"
REJECTED = "the smaller models do not lie on a line"

Choices = Mapping[str, str]
Line = tuple[bool, bool]
"""Whether a line has scatter, and whether it leaves out the smallest model."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of the largest base model of a series, and what it is tested against."""

    alpha: float
    row: Any
    lines: Mapping[Line, Mapping[str, float] | None]
    bars: Callable[[str, int | None], Tails | None]  # (bar, number of options in place of the known ones)

    @property
    def k(self) -> int:
        """Examples right, rounded."""
        return int(self.row.k)

    def above(self, k: int, bar: str, options: int | None) -> tuple[float, float]:
        """(P(k or more) at a bar, P(k or fewer) at five points over it); the bar is chance where there is no other."""
        tails = self.bars(bar, options) or self.bars(CHANCE, options)
        return (NAN, NAN) if tails is None else (float(tails.above[k]), float(tails.short[k]))

    def against(self, k: int, choices: Choices) -> Mapping[str, float] | None:
        """The columns of `Against` with k right; None without a forecast, or where its line is rejected."""
        return self._against(k, SCATTER[choices["scatter"]], SIZES[choices["sizes"]])

    @cache  # noqa: B019 - a cell lives as long as the command
    def _against(self, k: int, scatter: bool, without_smallest: bool) -> Mapping[str, float] | None:
        line = self.lines[scatter, without_smallest]
        if line is None or line["fit_p"] < self.alpha:
            return None
        n = float(self.row.n)
        share = clipped(np.array([k / n]), np.array([n]))
        s = np.sqrt(line["variance"] + line["tau2"] + expected_variance(line["eta"], n))
        found = Against(share, np.array([line["eta"]]), s, line["df"]).columns()
        return {name: float(values[0]) for name, values in found.items()}

    def line(self, choices: Choices) -> Mapping[str, float] | None:
        """Its forecast under some choices; None without one."""
        scatter, sizes = (choices.get(name, next(iter(of))) for name, of in (("scatter", SCATTER), ("sizes", SIZES)))
        return self.lines[SCATTER[scatter], SIZES[sizes]]

    def silence(self, choices: Choices) -> str | None:
        """Why there is no forecast to judge by; None where there is one."""
        line = self.line(choices)
        return NO_FORECAST if line is None else REJECTED if line["fit_p"] < self.alpha else None

    def facts(self, choices: Choices) -> dict[str, Any]:
        """What the sentences of a claim name."""
        names = ("k", "n", "accuracy", "chance_scored", "trivial", "ci_low", "ci_high", "fingerprint")
        line = self.line(choices)
        return {name: getattr(self.row, name) for name in names} | {"forecast": line["forecast"] if line else NAN}

    def reason(self, gates: str) -> str | None:
        """Why the cell is not compared: an acting gate, or a wrong format where exact match decides."""
        return excused(self.row, gates)


Row = Callable[[Cell, int, Choices], dict[str, Any]]
"""(cell, examples right, choices) -> ROW of a claim."""


@dataclass(frozen=True, eq=False)
class View:
    """A claim on the cells of one prompt format and metric, under one way to take the choices."""

    cells: Mapping[str, Cell]
    choices: Choices
    row: Row

    def now(self, task: str) -> dict[str, Any]:
        """ROW of a task as it is."""
        return self.row(self.cells[task], self.cells[task].k, self.choices)

    def moved(self, task: str, steps: int) -> dict[str, Any] | None:
        """ROW of a task with more or fewer right; None where there are not so many examples."""
        cell = self.cells[task]
        return self.row(cell, cell.k + steps, self.choices) if 0 <= cell.k + steps <= cell.row.n else None

    def facts(self, task: str) -> dict[str, Any]:
        """What the sentences of a claim name."""
        return self.cells[task].facts(self.choices)

    def power(self, task: str, tests: int) -> dict[str, Any]:
        """POWER of a task."""
        return power(self.row, self.cells[task], self.choices, tests)


@dataclass(frozen=True, eq=False)
class Table2:
    """The cells of Table 2 in each view, and the claims on them."""

    scores: Scores

    @cached_property
    def said(self) -> dict[str, dict[str, bool | None]]:
        """The paper's three verdicts by task."""
        return paper_verdicts(self.scores.tables)

    @cached_property
    def cells(self) -> dict[tuple[str, str], dict[str, Cell]]:
        """By view and task."""
        return {view: self._view(view) for view in self.scores.views}

    def _view(self, view: tuple[str, str]) -> dict[str, Cell]:
        rows = self.scores.rows(*view)
        rows = rows[(rows["shots"] == 0) & ~rows["tuned"]]
        of_largest = self.scores.side(self.scores.largest, False, *view)
        of_largest = of_largest[of_largest.index.isin(self.said["paper_above"])]
        return cells_of(of_largest, rows, self.scores.alpha, lambda row: self._bars(row, view[0]))

    def _bars(self, row: Any, prompt: str) -> Callable[[str, int | None], Tails | None]:
        return lambda bar, options: self.scores.tails(row.Index, prompt, int(row.n), bar, options)

    def families(
        self, row: Row, choices: Mapping[str, tuple[str, ...]], said: str, *, some: bool = False
    ) -> Iterator[Family]:
        """The families of a claim: every way to take the choices. The first level of each choice is the rule's."""

        def up(task: str) -> bool:
            return said == ANY or bool(self.said[said].get(task))

        yield from families_of(self.cells, row, choices, up, some=some, further=self._differs)

    def _differs(self, cell: Cell, taken: Choices) -> bool:
        """Whether metric and options say anything of this cell that the rule's do not."""
        task = self.scores.setting.tasks[cell.row.Index]
        primary = task.primary("closed") == EXACT_MATCH
        assumed = bool(task.chance_assumed)
        return not ((taken["metric"] == EXACT and primary) or (taken.get("options", SHOWN) != SHOWN and not assumed))


def cells_of(
    of_largest: pd.DataFrame, rows: pd.DataFrame, alpha: float, bars: Callable[[Any], Callable[..., Tails | None]]
) -> dict[str, Cell]:
    """The cells of a series' largest model, by task, each with its four lines.

    of_largest: its rows, indexed by task. rows: those of `forecasts`. bars: (row) -> Cell.bars.
    """
    found = {
        key: forecasts(rows, scatter=key[0], without_smallest=key[1]).to_dict("index")
        for key in itertools.product((True, False), (False, True))
    }
    return {
        row.Index: Cell(alpha, row, {key: lines.get(row.Index) for key, lines in found.items()}, bars(row))
        for row in of_largest.itertuples()
    }


def families_of(
    cells: Mapping[tuple[str, str], Mapping[str, Cell]], row: Row, choices: Mapping[str, tuple[str, ...]],
    up: Callable[[str], bool], *, some: bool = False, further: Callable[[Cell, Choices], bool] = lambda *_: True,
) -> Iterator[Family]:  # fmt: skip
    """Every way to take the choices in every view (prompt, metric) of some cells. The first is the rule.

    up: whether a task's claim is that there is an effect upwards. further: whether a way says anything of a cell that
    the rule does not, apart from bar and gates.
    """
    every = {**choices, "correction": tuple(CORRECTIONS), "gates": (OUT, IN)}
    for i, (view, levels) in enumerate(itertools.product(cells, itertools.product(*every.values()))):
        taken = {"prompt": view[0], "metric": view[1], **dict(zip(every, levels, strict=True))}
        these = View(cells[view], taken, row)
        found = {task: _of(cell, taken, up(task), these.now(task)) for task, cell in these.cells.items()}
        differs = [
            t for t, c in these.cells.items() if _differs(c, taken, choices.get("bar", ())) and further(c, taken)
        ]
        yield Family(
            taken=taken, rows=frame_of(found), correction=CORRECTIONS[taken["correction"]], some=some, rule=i == 0,
            moved=these.moved if view == next(iter(cells)) else None, facts=these.facts, power=these.power,
            shown=None if some else tuple(differs),
        )  # fmt: skip


def _of(cell: Cell, taken: Choices, up: bool, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with n, with what is claimed, and with why the cell is not compared."""
    return {"n": cell.row.n, "up": up, **row, "reason": cell.reason(taken["gates"]) or row.get("reason")}


def _differs(cell: Cell, taken: Choices, bars: tuple[str, ...]) -> bool:
    """Whether bar and gates say anything of this cell that the rule's do not; bars: the rule's first."""
    content_free = not np.isnan(cell.row.trivial) and cell.row.trivial > cell.row.tested
    return not ((taken.get("bar") in bars[1:] and not content_free) or (taken["gates"] == IN and not failed(cell.row)))


ANY = "any"
BARS = (CHANCE, CONTENT_FREE)
ABOVE = {"bar": BARS, "options": tuple(OPTIONS)}
LINE = {"scatter": tuple(SCATTER), "sizes": tuple(SIZES)}
BOTH_BARS = (CONTENT_FREE, CHANCE)
"""Levels of the bar of emergence: chance and content-free answers, or chance alone."""


def above_row(cell: Cell, k: int, choices: Choices) -> dict[str, Any]:
    """A task above the baseline."""
    effect, small = cell.above(k, choices["bar"], OPTIONS[choices["options"]])
    low, high = cell.row.ci_low, cell.row.ci_high
    return {"value": k / cell.row.n, "low": low, "high": high, "effect": effect, "small": small}


def line_row(cell: Cell, k: int, choices: Choices) -> dict[str, Any]:
    """A task beside its forecast: different from it, or within the margin."""
    found = cell.against(k, choices)
    if found is None:
        return {"reason": cell.silence(choices)}
    line = cell.line(choices)
    assert line is not None
    residual = k / cell.row.n - line["forecast"]
    return {
        "value": residual, "low": found["residual_low"], "high": found["residual_high"], "sign": np.sign(residual),
        "effect": found["p_differs"], "small": found[MARGINS[choices["margin"]]],
    }  # fmt: skip


def emergent_row(cell: Cell, k: int, choices: Choices) -> dict[str, Any]:
    """An emergent task: above chance, the content-free bar and the forecast; else near chance or the forecast."""
    up, short = cell.above(k, CHANCE, None)
    bar, short_of_bar = cell.above(k, choices["bar"], None)
    found, accuracy = cell.against(k, choices), k / cell.row.n
    if found is None:
        return {"reason": cell.silence(choices)}
    line = cell.line(choices)
    assert line is not None
    over = accuracy - max(line["forecast"], cell.row.tested)
    near = [short, found["p_short_five"], *([short_of_bar] if choices["bar"] == CONTENT_FREE else [])]
    small = min(1.0, len(near) * min(near))
    return {"value": over, "effect": float(np.max([up, bar, found["p_jump"]])), "small": small}


GRID = np.linspace(0.0005, 0.9995, 1000)
"""The accuracies at which a power is worked out."""


def tail_power(tails: Tails, n: int, alpha: float, chance: float) -> tuple[Array, float]:
    """(power of the tail above at each accuracy of GRID, power of the tail short of five points at chance)."""
    found = stats.binom.sf(int((tails.above >= alpha).sum()) - 1, n, GRID)  # more right, smaller tail
    return found, float(stats.binom.cdf(int((tails.short < alpha).sum()) - 1, n, chance))


def power(row: Row, cell: Cell, choices: Choices, tests: int) -> dict[str, Any]:
    """POWER of a claim's tests at alpha / tests, on the scale of its value: accuracy, or accuracy over a forecast.

    Where a forecast is in the test, its uncertainty is in the power. A test of several needs each of them.
    """
    n, alpha, grid = int(cell.row.n), cell.alpha / tests, GRID
    bars = [choices["bar"], CHANCE] if "bar" in choices else []
    options = OPTIONS[choices.get("options", SHOWN)]
    each = [tail_power(found, n, alpha, cell.row.tested) for bar in bars if (found := cell.bars(bar, options))]
    powers, none = [power for power, _ in each], [nothing for _, nothing in each]
    offset, zero = 0.0, float(cell.row.tested)
    line = cell.line(choices)
    if row is not above_row and line:
        f, s = line["forecast"], np.sqrt(line["variance"] + line["tau2"] + expected_variance(line["eta"], n))
        sides = 2 if row is line_row else 1
        critical = stats.t.isf(alpha / sides, line["df"])
        powers.append(stats.nct.sf(critical, line["df"], (logit(grid) - line["eta"]) / s))
        offset, zero = -(f if row is line_row else max(f, zero)), 0.0
    if not powers:
        return {}
    found = np.min(powers, axis=0)
    matters = zero + (FAR if row is line_row else MARGIN)
    enough = grid[found >= 0.8]
    return {
        "detectable": float(enough[0]) + offset if len(enough) else NAN, "matters": matters,
        "power_observed": float(np.interp(cell.k / n, grid, found)),
        "power_matters": float(np.interp(matters - offset, grid, found)),
        "power_none": none[-1] if row is above_row else NAN,
    }  # fmt: skip


def above(scores: Scores) -> Iterator[Family]:
    """Table 2, above the baseline: one item a task."""
    yield from Table2(scores).families(above_row, ABOVE, "paper_above")


def predictable(scores: Scores) -> Iterator[Family]:
    """Table 2, predictable: within ten points of the forecast, or above it where the paper says that it is not.

    Only tasks on which the paper gives a verdict.
    """
    table = Table2(scores)
    said = {task: each for task, each in table.said["paper_predictable"].items() if each is not None}
    for family in table.families(line_row, {**LINE, "margin": tuple(MARGINS)}, "paper_predictable"):
        rows = family.rows.assign(up=[not said.get(task, True) for task in family.rows.index])
        yield replace(family, rows=rows, shown=tuple(task for task in family.shown or () if task in said))


def emergent(scores: Scores) -> Iterator[Family]:
    """Table 2, emergent: one item a task."""
    yield from Table2(scores).families(emergent_row, {"bar": BOTH_BARS, **LINE}, "paper_emergent")


def any_emergent(scores: Scores) -> Iterator[Family]:
    """RQ1: some task is emergent."""
    yield from Table2(scores).families(emergent_row, {"bar": BOTH_BARS, **LINE}, ANY, some=True)
