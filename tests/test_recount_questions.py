"""Every analysis of RQ2's overlap and of RQ3's correlation, done a second time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

from tests.recounted import (
    ALPHA,
    CLOSED,
    EXACT,
    LETTERED,
    agree,
    cells,
    choices,
    corrected,
    largest,
    numbers_differ,
    on_floor,
    table,
    table2,
)

PROMPTS = {"options in the text": CLOSED, "lettered options": LETTERED}
BARE = "bare comparison"


def floored(frame: pd.DataFrame) -> pd.Series:
    """Whether a cell is exact match on the floor. Such a cell is never kept."""
    return frame.apply(on_floor, axis=1) & (frame["metric"] == EXACT)


def both_models(prompt: str, gates: str) -> pd.DataFrame:
    """The cells of Figure 2's two models in a prompt, by side and task; a task stays with both sides or leaves."""
    figure = table("overlap_figure2").iloc[0]
    frame = cells()[cells()["task"].isin(table("overlap_figure2")["task"])]
    asked = frame[(frame["prompt"] == prompt) & frame["primary"]]
    left = asked[(asked["model"] == figure["left_model"]) & (asked["shots"] == 0)]
    right = asked[(asked["model"] == figure["right_model"]) & (asked["shots"] > 0)]
    both = pd.concat([left.assign(side="left"), right.assign(side="right")])
    bad = both["chance_scored"].isna() | floored(both) | (both["acts"] & (gates == "left out"))
    known = both.groupby("task")["side"].transform("nunique") == 2
    return both[known & ~both["task"].isin(both.loc[bad, "task"])].set_index(["side", "task"])


def solved(frame: pd.DataFrame, bar: str, by: str) -> pd.Series:
    """Whether each cell is over its bar; the best constant answer is the bar where one is known."""
    level = frame["chance_scored"] if bar == "chance" else frame["trivial"].fillna(frame["chance_scored"])
    if by == BARE:
        return frame["accuracy"].round(6) > level.round(6)
    p = frame["p"].copy()
    if bar != "chance":
        barred = frame[frame["trivial"].notna()]
        p.update(barred.apply(lambda row: stats.binom.sf(row.k - 1, row.n, row.trivial), axis=1))
    return corrected(p, by) < ALPHA


def test_every_analysis_of_the_overlap_is_done_again() -> None:
    """Kappa and the hypergeometric p of the side on which kappa lies."""

    def differences() -> Iterable[str]:
        for row in table("analyses").query("claim == 'rq2_overlap'").itertuples():
            taken = choices(row.analysis)
            frame = both_models(PROMPTS[taken["prompt"]], taken["gates"])
            above = solved(frame, taken["bar"], taken["above by"])
            left, right = above["left"], above["right"].reindex(above["left"].index)
            if len(left) != row.n:
                yield f"{row.analysis}: {len(left)} tasks recounted, the table has {row.n}"
            if left.nunique() < 2 or right.nunique() < 2:
                if not np.isnan(row.outcome):
                    yield f"{row.analysis}: one side has one verdict on all tasks, the table has {row.outcome}"
                continue
            ends = stats.hypergeom(len(left), int(left.sum()), int(right.sum()))
            most, least = min(left.sum(), right.sum()), max(0, left.sum() + right.sum() - len(left))
            if min(ends.pmf(most), ends.pmf(least)) >= ALPHA:
                if not np.isnan(row.outcome):
                    yield f"{row.analysis}: no overlap could show anything, the table has {row.outcome}"
                continue
            expected = left.mean() * right.mean() + (1 - left.mean()) * (1 - right.mean())
            kappa = ((left == right).mean() - expected) / (1 - expected)
            margins = ends
            both = int((left & right).sum())
            p, printed = (margins.sf(both - 1), row.p_for) if kappa > 0 else (margins.cdf(both), row.p_against)
            yield from numbers_differ(f"{row.analysis}, kappa", kappa, row.value)
            yield from numbers_differ(f"{row.analysis}, p", p, printed)

    agree(differences())


def test_every_correlation_of_rq3_is_done_again() -> None:
    """The coefficient and the number of tasks; its p is that of a permutation test."""
    told = table2()
    skills = {
        "over chance": lambda rows: (rows["accuracy"] - rows["chance_scored"]) / (1 - rows["chance_scored"]),
        "accuracy": lambda rows: rows["accuracy"],
        "over content-free answers": lambda rows: (
            (rows["accuracy"].round(6) - rows["bar"].round(6)) / (1 - rows["bar"].round(6))
        ),
    }
    tasks = {
        "gated cells kept": lambda rows: rows,
        "without gated cells": lambda rows: rows[~rows["acts"]],
        "number of options known": lambda rows: rows[~rows["acts"] & ~rows["chance_assumed"]],
        "functional tasks": lambda rows: rows[~rows["acts"] & (rows["competence"] == "functional")],
    }

    def differences() -> Iterable[str]:
        for row in table("analyses").query("claim == 'rq3_memorisable'").itertuples():
            taken = choices(row.analysis)
            frame = cells()
            asked = (frame["model"] == largest()["model"].iloc[0]) & (frame["shots"] == 0) & frame["primary"]
            frame = frame[asked & (frame["prompt"] == PROMPTS[taken["prompt"]])].set_index("task", drop=False)
            frame = frame.join(told[["memorisable", "competence", "chance_assumed"]])
            frame = frame[frame["chance_scored"].notna() & ~floored(frame)].assign(
                bar=frame["trivial"].fillna(frame["chance_scored"])
            )
            skill = skills[taken["skill"]](tasks[taken["tasks"]](frame))
            rho = stats.spearmanr(skill.round(9), told["memorisable"].reindex(skill.index)).statistic
            if len(skill) != row.n:
                yield f"{row.analysis}: {len(skill)} tasks recounted, the table has {row.n}"
            yield from numbers_differ(f"{row.analysis}, rho", rho, row.value)

    agree(differences())
