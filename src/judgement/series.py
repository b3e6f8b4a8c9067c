"""Foreign scale series, judged as Table 2 and RQ1 are: by the same tests, choices, corrections and words.

The claim about each task is that its accuracy is what smaller models predict, and that it is emergent; about each
series, that some task of it is emergent. No paper makes these claims, so no word here is about a paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
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
    found = [(pool, _words(pool, setting.alpha)) for pool in pools(points, setting)]
    rows = [pool.rows.assign(**words).reset_index(drop=True) for pool, words in found]
    series = [_series(pool, setting.alpha) for pool, _ in found]
    return {"external_series": pd.concat(rows, ignore_index=True), "external_rq1": pd.DataFrame(series)}


def _cells(pool: Pool, alpha: float) -> dict[str, Cell]:
    """The cells of a series that can be judged, by task. Their metric is that of ours which grades alike."""
    rows = pool.judged
    return cells_of(rows.drop(columns="task").assign(metric=alike(rows)), pool.points, alpha, _bars)


def _bars(row: Any) -> Callable[[str, int | None], Tails | None]:
    @cache
    def tails(bar: str, _options: int | None) -> Tails | None:
        return tails_at(row.guess, row.trivial, int(row.n), bar)

    return tails


def _families(pool: Pool, claim: str, alpha: float, *, some: bool = False) -> list[Family]:
    row, choices, up = CLAIMS[claim]
    view = ("as imported", str(pool.rows["view"].iloc[0]))
    return list(families_of({view: _cells(pool, alpha)}, row, choices, lambda _: up, some=some))


def _words(pool: Pool, alpha: float) -> dict[str, Any]:
    """word_predictable, word_emergent and reason of a series' rows. A task that cannot be judged has no word."""
    out: dict[str, Any] = {f"word_{claim}": pd.Series(None, pool.rows.index, dtype=object) for claim in CLAIMS}
    reason = pool.rows["reason"].map(lambda why: f"cannot be checked: {why}", na_action="ignore").astype(object)
    if pool.judged.empty:
        return {**out, "reason": reason}
    for claim in CLAIMS:
        for task, result in _results(_families(pool, claim, alpha), alpha):
            out[f"word_{claim}"][task] = result["word"]
            if result["reason"]:
                reason[task] = UNKNOWN_CHANCE if result["reason"] == NO_CHANCE else result["reason"]
    return {**out, "reason": reason}


def _results(families: list[Family], alpha: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """(item, what `judged` says of it) of each item of the rule."""
    found = analyses(families, alpha)
    for item in next(family for family in families if family.rule).items:
        yield item, judged([row for row in found if row["item"] == item])


def _series(pool: Pool, alpha: float) -> dict[str, Any]:
    """The row of a series: how many of its tasks can be judged, and whether some task is emergent."""
    of_series = {name: pool.rows[name].iloc[0] for name in ("source", *SERIES)}
    words = dict(_results(_families(pool, "emergent", alpha, some=True), alpha)) if len(pool.judged) else {}
    return {
        **of_series, "tasks": len(pool.rows), "checked": len(pool.judged),
        "emergent_tasks": int(pool.rows["emergent"].astype("boolean").sum()),
        "word": words[""]["word"] if words else None,
        "reason": None if words else "cannot be checked: no task of it can be",
    }  # fmt: skip
