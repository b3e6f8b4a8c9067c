"""What a check found about one cell, table or step. Its status is one of four."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

IDENTICAL, UNPUBLISHED = "identical", "not published"
NEAR_TIES, DIFFERS = "differs only at near-ties", "differs"
EXIT = {IDENTICAL: 0, NEAR_TIES: 3, DIFFERS: 4}
RANK = (IDENTICAL, UNPUBLISHED, NEAR_TIES, DIFFERS)


@dataclass(frozen=True)
class Finding:
    """What was found about one cell, table or step."""

    name: str
    status: str
    notes: tuple[str, ...] = ()


def worst(findings: Sequence[Finding]) -> str:
    """The verdict over all findings. A cell that was never published does not count."""
    verdict = max((f.status for f in findings), key=RANK.index, default=IDENTICAL)
    return IDENTICAL if verdict == UNPUBLISHED else verdict
