"""Foreign scale series, judged as Table 2 and RQ1 are: by the same tests, choices, corrections and words.

The claim about each task is that its accuracy is what smaller models predict, and that it is emergent; about each
series, that some task of it is emergent. No paper makes these claims, so no word here is about a paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import pandas as pd

from src.judgement.family import Family
from src.judgement.rows import analyses, judged
from src.judgement.scores import NO_CHANCE, Tails, tails_at
from src.judgement.table2 import BOTH_BARS, LINE, MARGINS, Cell, cells_of, emergent_row, families_of, line_row
from src.statistics.series import SERIES, Pool, alike, pools
from src.statistics.setting import Setting

CLAIMS: Mapping[str, tuple[Callable[..., dict[str, Any]], Mapping[str, tuple[str, ...]], bool]] = {
    "predictable": (line_row, {**LINE, "margin": tuple(MARGINS)}, False),
    "emergent": (emergent_row, {"bar": BOTH_BARS, **LINE}, True),
}
"""By claim: its row, its choices, and whether it is that there is an effect upwards."""
UNKNOWN_CHANCE = "no chance level is known: say it in a column chance (0 where an answer cannot be guessed)"


def frames(points: pd.DataFrame, setting: Setting) -> dict[str, pd.DataFrame]:
    """The frames `external_series` and `external_rq1`. points: the frame `external_points`."""
    found = [Judged(pool, setting.alpha) for pool in pools(points, setting)]
    rows = pd.concat([each.tasks() for each in found], ignore_index=True)
    return {"external_series": rows, "external_rq1": pd.DataFrame([each.series() for each in found])}


@dataclass(frozen=True, eq=False)
class Judged:
    """One series and its verdicts."""

    pool: Pool
    alpha: float

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """The cells that can be judged, by task. Their metric is that of ours which grades alike."""
        rows = self.pool.judged
        return cells_of(rows.drop(columns="task").assign(metric=alike(rows)), self.pool.points, self.alpha, _bars)

    @cached_property
    def families(self) -> dict[str, list[Family]]:
        """By claim, every way to take its choices."""
        view = ("as imported", str(self.pool.rows["view"].iloc[0]))
        return {
            claim: list(families_of({view: self.cells}, row, choices, (lambda _: True) if up else (lambda _: False)))
            for claim, (row, choices, up) in CLAIMS.items()
        }

    def results(self, claim: str, *, some: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
        """(task, what `judged` says of it) of each task; with `some`, of the claim that there is such a task."""
        families = self.families[claim]
        families = [replace(each, some=True, shown=None) for each in families] if some else families
        by_item: dict[str, list[dict[str, Any]]] = {}
        for each in analyses(families, self.alpha):
            by_item.setdefault(each["item"], []).append(each)
        for item, rows in by_item.items():
            yield item, judged(rows)

    def tasks(self) -> pd.DataFrame:
        """The rows of the series with its words. A task that cannot be judged has none, and a reason."""
        rows = self.pool.rows
        reason = rows["reason"].map(lambda why: f"cannot be checked: {why}", na_action="ignore").astype(object)
        words = {claim: pd.Series(None, rows.index, dtype=object) for claim in CLAIMS}
        for claim in CLAIMS if self.cells else ():
            for task, result in self.results(claim):
                words[claim][task] = result["word"]
                if result["reason"]:
                    reason[task] = UNKNOWN_CHANCE if result["reason"] == NO_CHANCE else result["reason"]
        named = {f"word_{claim}": each for claim, each in words.items()}
        return rows.assign(**named, reason=reason).reset_index(drop=True)

    def series(self) -> dict[str, Any]:
        """The row of the series: how many of its tasks can be judged, and whether some task is emergent."""
        rows = self.pool.rows
        word = dict(self.results("emergent", some=True))[""]["word"] if self.cells else None
        return {
            **{name: rows[name].iloc[0] for name in ("source", *SERIES)},
            "tasks": len(rows), "checked": len(self.cells), "word": word,
            "emergent_tasks": int(rows["emergent"].astype("boolean").sum()),
            "reason": None if word else "cannot be checked: no task of it can be",
        }  # fmt: skip


def _bars(row: Any) -> Callable[[str, int | None], Tails | None]:
    @cache
    def tails(bar: str, _options: int | None) -> Tails | None:
        return tails_at(row.guess, row.trivial, int(row.n), bar)

    return tails
