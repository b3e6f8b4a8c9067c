"""The words that a claim can get, in the order in which they are listed, and how many claims got each."""

from __future__ import annotations

from collections.abc import Sequence

SUPPORTED, CONTRADICTED, DEPENDS = "supported", "contradicted", "depends"
UNDETERMINED, NOT_COMPARABLE, NO_NUMBER = "undetermined", "not comparable", "no number"
WORDS = (SUPPORTED, CONTRADICTED, DEPENDS, UNDETERMINED, NOT_COMPARABLE, NO_NUMBER)

HOLDS, OPPOSITE, NEITHER, BOTH = 1, -1, 0, 2
"""What one analysis of a claim gives. BOTH: there is an effect, and it is too small to matter."""


def word_counts(words: Sequence[str]) -> dict[str, int]:
    """How many of `words` are each of WORDS."""
    return {word: sum(each == word for each in words) for word in WORDS}
