"""The analyses of a claim by the choices that they make."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from src.base.verdict import BOTH, HOLDS, NEITHER, OPPOSITE

if TYPE_CHECKING:
    import pandas as pd

COUNTED = {"holds": HOLDS, "neither": NEITHER, "opposite": OPPOSITE, "both": BOTH}


def levels_of(taken: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """By choice, every level that some analysis takes, in the order in which they come."""
    found: dict[str, dict[str, None]] = {}
    for each in taken:
        for choice, level in each.items():
            found.setdefault(choice, {})[str(level)] = None
    return {choice: list(levels) for choice, levels in found.items()}


def by_choice(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """For each level of each choice: choice, level, how many analyses give each of COUNTED, and none.

    A choice with one level is left out. So is an analysis that does not count, for it is no other than an earlier one.
    """
    rows = rows[rows["counted"].astype(bool)] if "counted" in rows else rows
    taken = [json.loads(each) for each in rows["taken"]]
    lines = []
    for choice, levels in levels_of(taken).items():
        for level in levels if len(levels) > 1 else ():
            part = rows["outcome"][[str(each.get(choice)) == level for each in taken]]
            counts = {name: int((part == value).sum()) for name, value in COUNTED.items()}
            words = {"choice": choice.replace("_", " "), "level": level.replace("_", " ")}
            lines.append({**words, **counts, "none": int(part.isna().sum())})
    return lines
