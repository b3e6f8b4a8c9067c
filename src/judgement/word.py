"""From the results of a claim's analyses to its word, and to the choice on which it turns. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

from src.base.verdict import (
    BOTH,
    CONTRADICTED,
    DEPENDS,
    HOLDS,
    NO_NUMBER,
    NOT_COMPARABLE,
    OPPOSITE,
    SUPPORTED,
    UNDETERMINED,
)

Outcome = int | None


def word_of(rule: Outcome, others: Sequence[Outcome], *, number: bool = True) -> str:
    """The word of a claim from the result of its rule and those of its other analyses; None is no result."""
    if not number:
        return NO_NUMBER
    if rule is None:
        return NOT_COMPARABLE
    found = [each for each in (rule, *others) if each is not None]
    holds, opposite = (any(each in (side, BOTH) for each in found) for side in (HOLDS, OPPOSITE))
    if holds and opposite:
        return DEPENDS
    return {HOLDS: SUPPORTED, OPPOSITE: CONTRADICTED}.get(rule, UNDETERMINED)


@dataclass(frozen=True)
class Shares:
    """How many analyses give each result."""

    holds: int
    opposite: int
    neither: int
    none: int

    @property
    def known(self) -> int:
        """How many give a result."""
        return self.holds + self.opposite + self.neither

    def __str__(self) -> str:
        return f"holds in {self.holds}, opposite in {self.opposite} of {self.known}"


def shares(found: Sequence[Outcome]) -> Shares:
    """Counts of results. An analysis in which both sides hold is on neither side."""
    counts = Counter(found)
    return Shares(counts[HOLDS], counts[OPPOSITE], counts[0] + counts[BOTH], counts[None])


def turns_on(analyses: Sequence[tuple[Mapping[str, str], Outcome]]) -> tuple[str, str] | None:
    """(choice, what each of its levels gives) of the choice that separates the results best; None if none does.

    Best is the largest mutual information between the level taken and the result, over analyses that give one. Of
    equals it is the first by name.
    """
    known = [(taken, outcome) for taken, outcome in analyses if outcome is not None]
    choices = sorted({choice for taken, _ in known for choice in taken})
    scored = [(round(_information([(taken.get(c), o) for taken, o in known]), 9), c) for c in choices]
    best = max((score for score, _ in scored), default=0.0)
    if best <= 0:
        return None
    choice = next(c for score, c in scored if score == best)
    levels = list(dict.fromkeys(taken.get(choice) for taken, _ in known))
    parts = [f"{level}: {shares([o for taken, o in known if taken.get(choice) == level])}" for level in levels if level]
    return choice, "; ".join(parts)


def _information(pairs: Sequence[tuple[str | None, Outcome]]) -> float:
    """Mutual information (nats) of two columns."""
    n, both = len(pairs), Counter(pairs)
    left, right = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    return sum(c / n * log(c * n / (left[a] * right[b])) for (a, b), c in both.items())


def family_word(words: Sequence[str]) -> str:
    """The word of an inference from those of its rows: the one that its decided rows share.

    It depends where they differ. Without a decided row it is not comparable where more than half of its rows are, else
    undetermined. Rows without a number count for nothing.
    """
    counted = [word for word in words if word != NO_NUMBER]
    decided = {word for word in counted if word in (SUPPORTED, CONTRADICTED, DEPENDS)}
    if not counted:
        return NO_NUMBER
    if decided:
        return decided.pop() if len(decided) == 1 else DEPENDS
    return NOT_COMPARABLE if 2 * counted.count(NOT_COMPARABLE) > len(counted) else UNDETERMINED
