"""One claim under one set of choices: the raw p values of its items, and what they give after correction.

The rules are in docs/statistics.md, "How a verdict is reached".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from src.base.verdict import BOTH, HOLDS, NEITHER, OPPOSITE
from src.statistics.items import NAN, Array
from src.statistics.tests import adjust

HOLM, BH, NONE = "holm", "fdr_bh", "none"
CORRECTIONS = {"Holm": HOLM, "Benjamini-Hochberg": BH}
ROW = ("value", "low", "high", "n", "up", "effect", "sign", "small", "effect_2", "small_2", "reason", "partial")
"""What a family knows of an item.

up: the claim is that there is an effect upwards; else that there is none. effect: p of an effect; sign: its direction.
small: p that the effect is too small to matter. effect_2, small_2: those of a second side, of claims on two sides.
reason: why there is no result; such an item is in no correction. partial: why one side cannot be tested: there is a
result only where the other is shown.
"""

WORDS = ("reason", "partial")
POWER = ("detectable", "power_observed", "power_matters", "matters")
"""What the test under the strictest step of Holm finds with 80 % power, and its power at two effects."""

Moved = Callable[[str, int], Mapping[str, Any] | None]
"""(item, steps) -> the ROW of the item whose number is moved by that many steps; None where it cannot be moved so far."""


def claimed(rows: pd.DataFrame) -> tuple[Array, Array]:
    """(p for the claim, p for its opposite) of claims on one effect. Shapes (items,).

    An effect upwards is opposed by one downwards and by one that is too small to matter. No effect is opposed by any.
    """
    up = rows["up"].to_numpy(dtype=bool)
    effect, small, sign = (rows[name].to_numpy(dtype=float) for name in ("effect", "small", "sign"))
    unknown = np.isnan(effect)
    upwards, downwards = (np.where(unknown, NAN, np.where(sign * side > 0, effect, 1.0)) for side in (1, -1))
    against = np.fmin(small, downwards)
    return np.where(up, upwards, small), np.where(up, against, effect)


def alike(rows: pd.DataFrame) -> tuple[Array, Array]:
    """(p for, p against) of the claim that two sides agree: both above the bar, or both shown not to be.

    Where the claim is that they do not (`up` is false), the two change places.
    """
    effect, small, effect_2, small_2 = (
        rows[name].to_numpy(dtype=float) for name in ("effect", "small", "effect_2", "small_2")
    )
    same = np.minimum(np.maximum(effect, effect_2), np.maximum(small, small_2))
    other = np.minimum(np.maximum(effect, small_2), np.maximum(small, effect_2))
    up = rows["up"].to_numpy(dtype=bool)
    return np.where(up, same, other), np.where(up, other, same)


@dataclass(frozen=True)
class Family:
    """The items of a claim under one set of choices.

    taken: choice -> level. rows: ROW, indexed by item. shown: the items that this analysis adds a row for; others
    only take part in the correction. rule: whether it is the claim's rule.
    """

    taken: Mapping[str, str]
    rows: pd.DataFrame
    correction: str = NONE
    rule: bool = False
    shown: tuple[str, ...] | None = None
    judged: Callable[[pd.DataFrame], tuple[Array, Array]] = claimed
    moved: Moved | None = None
    without: Callable[[str], pd.DataFrame] | None = None  # the rows with one task left out
    tasks: tuple[str, ...] = ()  # those that can be left out
    power: Callable[[str, int], Mapping[str, Any]] | None = None  # (item, tests of the family) -> POWER
    facts: Callable[[str], Mapping[str, Any]] | None = None  # what the templates of conf/claim name
    some: bool = False  # the claim is that one item or more is so: one row for all, without a name

    @property
    def tests(self) -> int:
        """How many items are tested."""
        return int((self.rows["reason"].isna() & self.rows[["effect", "small"]].notna().any(axis=1)).sum())

    def with_row(self, item: str, row: Mapping[str, Any]) -> Family:
        """The family with some values of one item replaced."""
        rows = self.rows.copy()
        for name, value in row.items():
            rows.loc[item, name] = value
        return replace(self, rows=rows)

    def result(self, alpha: float) -> pd.DataFrame:
        """Columns p_for, p_against and outcome, null where there is a reason, indexed by item."""
        rows = corrected(self.rows, self.correction)
        p_for, p_against = self.judged(rows)
        outcome = outcomes(p_for, p_against, alpha)
        shown = (np.fmin(p_for, p_against) < alpha) | rows["partial"].isna().to_numpy()
        outcome[~shown] = pd.NA
        found = pd.DataFrame({"p_for": p_for, "p_against": p_against, "outcome": outcome}, index=rows.index)
        return any_of(found[rows["reason"].isna()], alpha) if self.some else found


def any_of(found: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """One row: the claim holds where it does for one item, its opposite where it does for every item."""
    p_for, p_against = (np.array([found[name].agg(how)]) for name, how in (("p_for", "min"), ("p_against", "max")))
    return pd.DataFrame({"p_for": p_for, "p_against": p_against, "outcome": outcomes(p_for, p_against, alpha)}, [""])


def corrected(rows: pd.DataFrame, method: str) -> pd.DataFrame:
    """The rows with their p values corrected: effects over all items and sides, and so what is too small to matter."""
    out = rows.copy()
    for pair in (["effect", "effect_2"], ["small", "small_2"]):
        values = out[pair].astype(float).mask(out["reason"].notna())
        out[pair] = values if method == NONE else adjust(values.to_numpy().ravel(), method).reshape(values.shape)
    return out


def outcomes(p_for: Array, p_against: Array, alpha: float) -> Any:
    """HOLDS, OPPOSITE, NEITHER or BOTH of each item; null where neither side has a p. One missing p is no evidence."""
    holds, opposite = p_for < alpha, p_against < alpha
    found = np.select([holds & opposite, holds, opposite], [BOTH, HOLDS, OPPOSITE], NEITHER)
    return pd.arrays.IntegerArray(found.astype("int64"), np.isnan(p_for) & np.isnan(p_against))


def frame_of(rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """ROW as columns, indexed by item; what a row does not name is missing, `up` is true and `sign` upwards."""
    out = pd.DataFrame.from_dict(dict(rows), orient="index").reindex(columns=list(ROW))
    numbers = [name for name in ROW if name not in ("up", *WORDS)]
    out[numbers] = out[numbers].astype(float)
    out["sign"] = out["sign"].fillna(1.0)
    out["up"] = out["up"].map(lambda each: True if each is None or each is pd.NA or each != each else bool(each))
    for name in WORDS:
        out[name] = out[name].astype(object).where(out[name].notna(), None)
    return out
