"""A claim and its families -> the rows of the audit: analyses, words, what each turns on, and what would flip it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from src.base.verdict import BOTH, HOLDS, OPPOSITE
from src.judgement.family import Family
from src.judgement.scores import NO_CHANCE
from src.judgement.word import Outcome, shares, turns_on, word_of

FARTHEST = 2**13
"""The most steps that a number is moved to find what flips a word."""
NUMBERS = ("value", "low", "high", "p_for", "p_against", "n")


def analyses(families: Sequence[Family], alpha: float) -> list[dict[str, Any]]:
    """One row for each family and item that it shows; `counted` is false where an earlier row has the same numbers."""
    out: list[dict[str, Any]] = []
    seen: set[tuple[Any, ...]] = set()
    for family in sorted(families, key=lambda each: not each.rule):
        found = family.result(alpha)
        for item in family.items:
            row = _analysis(family, item, found.loc[item], alpha)
            same = (item, family.correction, *(row[name] for name in NUMBERS), *family.raw(item))
            known = row["outcome"] is not None
            out.append(row | {"counted": not (known and same in seen)})
            seen |= {same} if known else set()
    return out


def _analysis(family: Family, item: str, found: pd.Series, alpha: float) -> dict[str, Any]:
    outcome = None if pd.isna(found["outcome"]) else int(found["outcome"])
    head = {
        "item": item, "taken": json.dumps(dict(family.taken)),
        "analysis": "; ".join(f"{choice}: {level}" for choice, level in family.taken.items()),
        "primary": family.rule, "outcome": outcome,
        **{name: _none(found[name]) for name in ("p_for", "p_against")},
    }  # fmt: skip
    if family.some:
        each = family.each(alpha)["outcome"]
        held = each.isin([HOLDS, BOTH]).sum()
        return head | {"value": float(held), "low": None, "high": None, "n": float(each.count()), "reason": None}
    own = family.rows.loc[item]
    return head | {name: _none(own[name]) for name in ("value", "low", "high", "n")} | {"reason": own["reason"]}


def _missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))


def _none(value: Any) -> float | None:
    return None if _missing(value) else float(value)


def judged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The word of one item from its analyses (as `analyses` gives them), the shares, and what it turns on."""
    counted = [row for row in rows if row["counted"]]
    rule = next(row for row in counted if row["primary"])
    found = [row["outcome"] for row in counted]
    many = shares(found)
    turn = turns_on([(json.loads(row["taken"]), row["outcome"]) for row in counted])
    return {
        "word": word_of(
            rule["outcome"], [row["outcome"] for row in counted if row is not rule],
            number=rule["reason"] != NO_CHANCE,
        ),
        "holds_in": many.holds, "opposite_in": many.opposite, "neither_in": many.neither, "no_result_in": many.none,
        "analyses": many.known, "turns_on": turn[0] if turn else None, "turns_share": turn[1] if turn else None,
        "rule_gives": rule["outcome"], "reason": rule["reason"],
    }  # fmt: skip


class Words:
    """The words of one item as its number moves, or as a task is left out."""

    def __init__(self, families: Sequence[Family], item: str, alpha: float) -> None:
        self.item, self.alpha = item, alpha
        self.families = [family for family in families if item in family.items]
        self.now = [self._result(family) for family in self.families]
        self.rule = next(i for i, family in enumerate(self.families) if family.rule)
        self.word = self._word(self.now)

    def _result(self, family: Family) -> Outcome:
        found = family.result(self.alpha)["outcome"][self.item]
        return None if pd.isna(found) else int(found)

    def _word(self, found: Sequence[Outcome]) -> str:
        return word_of(found[self.rule], [each for i, each in enumerate(found) if i != self.rule])

    def at(self, steps: int) -> str | None:
        """The word with the number moved by some steps; None where it cannot be moved so far."""
        found = []
        for family, now in zip(self.families, self.now, strict=True):
            row = family.moved(self.item, steps) if family.moved and steps else {}
            if row is None:
                return None
            found.append(family.outcome(self.item, self.alpha, row) if row else now)
        return self._word(found)

    def without(self, task: str) -> str:
        """The word with a task left out of every analysis."""
        return self._word([
            self._result(replace(family, rows=family.without(task))) if family.without else now
            for family, now in zip(self.families, self.now, strict=True)
        ])  # fmt: skip

    def rule_without(self, task: str) -> Outcome:
        """The result of the rule with a task left out."""
        family = self.families[self.rule]
        return self._result(replace(family, rows=family.without(task))) if family.without else self.now[self.rule]


def flips(words: Words) -> list[int]:
    """Steps downwards and upwards at which the word changes; none on a side where none was found.

    A number is moved by 1, 2, 4, ... steps until the word is another, and the step before which it is the same is found
    by halving. So the word at the flip differs, and one step short of it does not.
    """
    return [sign * found for sign in (-1, 1) if (found := _flip(words, sign))]


def _flip(words: Words, sign: int) -> int | None:
    near, far, end = 0, 1, FARTHEST
    while near < end:
        far = min(far, end)
        word = words.at(sign * far)
        if word is None:  # the number cannot be moved so far
            end, far = far - 1, max(near + 1, (near + far) // 2)
        elif word == words.word:
            near, far = far, 2 * far
        else:
            return _nearest(words, sign, near, far)
    return None


REACH = 100
"""How many numbers between the ends are tried to see what a test can show."""


def cannot(words: Words, low: int, high: int) -> tuple[bool, bool]:
    """(whether no number could make the rule's claim hold, whether none could make its opposite hold).

    low, high: the steps to the smallest and to the largest number. All others of the family stay as they are.
    """
    rule = words.families[words.rule]
    assert rule.moved is not None
    tried = {round(low + i * (high - low) / REACH) for i in range(REACH + 1)} | set(range(-20, 21))
    found: set[int | None] = set()
    for steps in sorted(tried, key=abs, reverse=True):  # what lies far away shows most
        row = rule.moved(words.item, steps) if low <= steps <= high else None
        found |= {rule.outcome(words.item, words.alpha, row)} if row else set()
        if found & {HOLDS, BOTH} and found & {OPPOSITE, BOTH}:
            break
    return not found & {HOLDS, BOTH}, not found & {OPPOSITE, BOTH}


def _nearest(words: Words, sign: int, near: int, far: int) -> int:
    """The first step of (near, far] with another word, found by halving."""
    while far - near > 1:
        middle = (near + far) // 2
        near, far = (middle, far) if words.at(sign * middle) == words.word else (near, middle)
    return far


def flipping_tasks(words: Words) -> Iterator[str]:
    """The tasks each of which, left out, changes the result of the rule and with it the word."""
    rule = words.families[words.rule]
    for task in rule.tasks:
        if words.rule_without(task) != words.now[words.rule] and words.without(task) != words.word:
            yield task


SIDES = {HOLDS: "the claim holds", OPPOSITE: "its opposite holds", BOTH: "both hold", 0: "neither holds"}
"""Words for what an analysis gives."""
