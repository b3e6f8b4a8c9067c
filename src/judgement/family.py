"""One claim under one set of choices: the raw p values of its items, and what they give after correction.

The rules are in docs/statistics.md, "How a verdict is reached".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd

from src.base.verdict import BOTH, HOLDS, NEITHER, OPPOSITE
from src.statistics.items import NAN, Array
from src.statistics.tests import adjust

HOLM, BH, NONE = "holm", "fdr_bh", "none"
CORRECTIONS = {"Holm": HOLM, "Benjamini-Hochberg": BH}
ROW = ("value", "low", "high", "n", "up", "effect", "sign", "small", "effect_2", "small_2", "reason")
"""What a family knows of an item.

up: the claim is that there is an effect upwards; else that there is none. effect: p of an effect; sign: its direction.
small: p that the effect is too small to matter. effect_2, small_2: those of a second side, of claims on two sides.
reason: why there is no result; such an item is in no correction.
"""
WORDS = ("reason",)
POWER = ("detectable", "power_observed", "power_matters", "matters", "power_none")
"""What the test under the strictest step of Holm finds with 80 % power, and its power at two effects."""

Arrays = Mapping[str, Array]
"""The columns of ROW that results come from, each of shape (items,). `excluded` are bools."""


def claimed(rows: Arrays) -> tuple[Array, Array]:
    """(p for the claim, p for its opposite) of claims on one effect. Shapes (items,).

    An effect upwards is opposed by one downwards and by one that is too small to matter. No effect is opposed by any.
    """
    effect, small, sign = rows["effect"], rows["small"], rows["sign"]
    upwards, downwards = (np.where(np.isnan(effect) | (sign * side > 0), effect, 1.0) for side in (1, -1))
    up = rows["up"].astype(bool)
    return np.where(up, upwards, small), np.where(up, np.fmin(small, downwards), effect)


def alike(rows: Arrays) -> tuple[Array, Array]:
    """(p for, p against) of the claim that two sides agree: both above the bar, or both shown not to be.

    One of two ways suffices on either side, so the smaller p is doubled.

    Where the claim is that they do not (`up` is false), the two change places.
    """
    effect, small, effect_2, small_2 = (rows[name] for name in ("effect", "small", "effect_2", "small_2"))
    same = np.minimum(1.0, 2 * np.minimum(np.maximum(effect, effect_2), np.maximum(small, small_2)))
    other = np.minimum(1.0, 2 * np.minimum(np.maximum(effect, small_2), np.maximum(small, effect_2)))
    up = rows["up"].astype(bool)
    return np.where(up, same, other), np.where(up, other, same)


@dataclass(frozen=True, eq=False)
class Family:
    """The items of a claim under one set of choices."""

    taken: Mapping[str, str]  # choice -> level
    rows: pd.DataFrame  # ROW, indexed by item
    correction: str = NONE
    rule: bool = False  # whether these are the choices of the claim's rule
    shown: tuple[str, ...] | None = (
        None  # the items that this adds an analysis of; others only take part in corrections
    )
    judged: Callable[[Arrays], tuple[Array, Array]] = claimed
    moved: Callable[[str, int], Mapping[str, Any] | None] | None = None  # (item, steps) -> its row; None: not so far
    without: Callable[[str], pd.DataFrame] | None = None  # the rows with one task left out
    tasks: tuple[str, ...] = ()  # those that can be left out, or permuted
    null: Callable[[Any], Mapping[str, Array]] | None = (
        None  # joint.Null -> by item its value (draws,) without an effect
    )
    power: Callable[[str, int], Mapping[str, Any]] | None = None  # (item, tests of the family) -> POWER
    facts: Callable[[str], Mapping[str, Any]] | None = None  # what the templates of conf/claim name
    some: bool = False  # the claim is that one item or more is so: one row for all, without a name

    @cached_property
    def items(self) -> tuple[str, ...]:
        """The items that this adds an analysis of."""
        return ("",) if self.some else tuple(self.rows.index) if self.shown is None else self.shown

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The rows as arrays."""
        numbers = ("up", "effect", "sign", "small", "effect_2", "small_2")
        return {
            **{name: self.rows[name].to_numpy(dtype=float) for name in numbers},
            "excluded": self.rows["reason"].notna().to_numpy(dtype=bool),
        }

    @property
    def tests(self) -> int:
        """How many tests a correction goes over: the items, or where a claim has two sides, both of each."""
        return int(tested(self.arrays).sum())

    def raw(self, item: str) -> tuple[Any, ...]:
        """The p values of an item before correction; nothing where the claim is about some item."""
        if self.some:
            return ()
        at = self.rows.index.get_loc(item)
        values = (self.arrays[name][at] for name in ("effect", "small", "effect_2", "small_2"))
        return tuple(None if np.isnan(value) else float(value) for value in values)

    def each(self, alpha: float) -> pd.DataFrame:
        """Columns p_for, p_against and outcome, null where there is no result, indexed by item."""
        return pd.DataFrame(_results(self.arrays, self.correction, self.judged, alpha), index=self.rows.index)

    @cache  # noqa: B019 - a family lives as long as the command
    def result(self, alpha: float) -> pd.DataFrame:
        """`each`; of a claim that some item is so, one row: its opposite holds where it does for every item.

        All must hold for the opposite, so the largest p is not corrected.
        """
        found = self.each(alpha)
        if not self.some:
            return found
        known = found[~self.arrays["excluded"]]
        alone = _results(self.arrays, NONE, self.judged, alpha)["p_against"][~self.arrays["excluded"]]
        p = {"p_for": np.array([known["p_for"].min()]), "p_against": np.array([np.nanmax(alone, initial=0.0)])}
        return pd.DataFrame({**p, "outcome": outcomes(p["p_for"], p["p_against"], alpha)}, index=[""])

    def outcome(self, item: str, alpha: float, row: Mapping[str, Any] | None = None) -> int | None:
        """The result for one item; row: values that take the place of its own."""
        i, arrays = self.rows.index.get_loc(item), dict(self.arrays)
        for name, value in (row or {}).items():
            key = {"reason": "excluded"}.get(name, name)
            if key in arrays:
                arrays[key] = arrays[key].copy()
                arrays[key][i] = value is not None if name in WORDS else value
        found = _results(arrays, self.correction, self.judged, alpha)["outcome"][i]
        return None if found is pd.NA else int(found)


def _results(
    rows: Arrays, method: str, judged: Callable[[Arrays], tuple[Array, Array]], alpha: float
) -> dict[str, Any]:
    p_for, p_against = judged(corrected(rows, method))
    outcome = outcomes(p_for, p_against, alpha)
    return {"p_for": p_for, "p_against": p_against, "outcome": outcome}


def tested(rows: Arrays) -> Array:
    """(2, items): which sides of which items have a p, of an effect or of one too small to matter."""
    sides = np.array([np.fmin(rows["effect"], rows["small"]), np.fmin(rows["effect_2"], rows["small_2"])])
    return ~np.isnan(sides) & ~rows["excluded"]


def corrected(rows: Arrays, method: str) -> dict[str, Array]:
    """The rows with their p values corrected: effects over all items and sides, and so what is too small to matter.

    Both go over the same tests: one that has the other p alone counts here with p = 1.
    """
    out, here = dict(rows), tested(rows)
    for pair in (("effect", "effect_2"), ("small", "small_2")):
        values = np.where(rows["excluded"], NAN, np.array([rows[name] for name in pair]))
        missing = np.isnan(values)
        if method != NONE:
            values = adjust(np.where(here & missing, 1.0, values).ravel(), method).reshape(values.shape)
        out |= dict(zip(pair, np.where(missing, NAN, values), strict=True))
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
    out["up"] = [each != each or bool(each) for each in out["up"]]
    for name in WORDS:
        out[name] = out[name].astype(object).where(out[name].notna(), None)
    return out
