"""What a second count of the audit starts from: the tables of reports/ and the published scores alone.

Nothing of src/ is imported. The rules are those of docs/statistics.md, "How a verdict is reached", written down here a
second time. The tables print six digits, so numbers are compared to five.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

ROOT = Path(__file__).parent.parent
ALPHA, MARGIN, WIDE = 0.05, 0.05, 0.10
CLOSED, LETTERED, EXACT, BERTSCORE = "closed", "closed_adv", "exact_match", "bertscore_accuracy"
ACTING = {
    "forced_choice_zero", "equals_constant_policy", "exact_match_above_bertscore", "exemplars_in_test_set",
    "n_above_test_set",
}  # fmt: skip
NO_NUMBER = "no chance level"
CELL = ["model", "prompt", "shots", "task"]


@functools.cache
def table(name: str) -> pd.DataFrame:
    frame = pd.read_csv(ROOT / f"reports/tables/{name}.csv")
    return frame.assign(item=frame["item"].fillna("")) if "item" in frame else frame


@functools.cache
def cells() -> pd.DataFrame:
    """Every published cell with its gates as a set, and whether one of them acts."""
    frame = table("published_cells")
    gates = frame["gates"].fillna("").str.split(";").map(set)
    return frame.assign(gates=gates, acts=gates.map(lambda names: bool(names & ACTING)))


@functools.cache
def options_of() -> Mapping[str, int]:
    """The number of options of each task where all its examples have as many."""
    chance = cells().groupby("task")["chance"].first().dropna()
    equal = {task: round(1 / level) for task, level in chance.items() if abs(1 / level - round(1 / level)) < 1e-5}
    return equal


def largest() -> pd.DataFrame:
    """The rows of Table 2: the largest base model without exemplars, options in the text, by task."""
    model = table("power").query("source == 'published'")["model"].unique()
    assert len(model) == 1
    frame = cells()
    asked = (frame["model"] == model[0]) & (frame["prompt"] == CLOSED) & (frame["shots"] == 0) & frame["primary"]
    return frame[asked].set_index("task")


def holm(p: pd.Series) -> pd.Series:
    """Holm (1979) over the p that exist: the i-th smallest of m times m − i + 1, never falling, at most 1."""
    ordered = p.dropna().sort_values()
    steps = ordered * np.arange(len(ordered), 0, -1)
    return steps.cummax().clip(upper=1).reindex(p.index)


def benjamini_hochberg(p: pd.Series) -> pd.Series:
    """Benjamini and Hochberg (1995) over the p that exist: the i-th smallest of m times m / i, never falling."""
    ordered = p.dropna().sort_values(ascending=False)
    steps = ordered * len(ordered) / np.arange(len(ordered), 0, -1)
    return steps.cummin().clip(upper=1).reindex(p.index)


def corrected(p: pd.Series, correction: str) -> pd.Series:
    return {"Holm": holm, "Benjamini-Hochberg": benjamini_hochberg}[correction](p)


def choices(analysis: str) -> dict[str, str]:
    """The level that an analysis takes of each choice: "bar: chance; correction: Holm"."""
    return dict(part.split(": ", 1) for part in analysis.split("; "))  # type: ignore[misc]


def on_floor(row: Any) -> bool:
    """Whether the cell lies below chance with P(k or fewer right by guessing) < alpha."""
    if np.isnan(row.chance_scored) or not row.accuracy < row.chance_scored:
        return False
    equal = row.task in options_of() and abs(row.chance - row.chance_scored) < 1e-6
    below = stats.binom.cdf(row.k, row.n, 1 / options_of()[row.task]) if equal else row.p_below
    return bool(below < ALPHA)


def claim(name: str) -> pd.DataFrame:
    return table("audit").query("claim == @name").set_index("item")


def family_size(correction: str) -> int:
    """N of "Holm over N ...": how many tests the row's correction counts."""
    return int(re.fullmatch(r"Holm over (\d+) .*", correction).group(1))  # type: ignore[union-attr]


def agree(differences: Iterable[str]) -> None:
    found = list(differences)
    assert not found, f"{len(found)} rows differ:\n" + "\n".join(found)


def numbers_differ(where: str, recounted: float, printed: float, relative: float = 2e-5) -> Iterable[str]:
    both_missing = np.isnan(recounted) and np.isnan(printed)
    if not both_missing and not np.isclose(recounted, printed, rtol=relative, atol=2e-6):
        yield f"{where}: recounted {recounted:.6g}, the table has {printed:.6g}"


def in_family() -> pd.DataFrame:
    """Table 2's rows with a test: a chance level, no acting gate, and no exact match on the floor."""
    rows = largest().reset_index()
    floored = rows.apply(on_floor, axis=1) & (rows["metric"] == EXACT)
    return rows[rows["chance_scored"].notna() & ~rows["acts"] & ~floored].set_index("task")


def table2() -> pd.DataFrame:
    frame = table("table2_emergence").query("source == 'published'")
    return frame[frame["model"] == largest()["model"].iloc[0]].set_index("task")
