"""The verdicts that a claim can get, and how many claims got each."""

from __future__ import annotations

from collections.abc import Sequence

FOLLOWS, NOISE, CONTRADICTED, UNCHECKED = "follows", "within noise", "contradicted", "cannot be checked"
VERDICTS = (FOLLOWS, NOISE, CONTRADICTED, UNCHECKED)


def verdict_counts(verdicts: Sequence[str]) -> dict[str, int]:
    """How many claims got each verdict."""
    return {verdict: sum(v == verdict for v in verdicts) for verdict in VERDICTS}
