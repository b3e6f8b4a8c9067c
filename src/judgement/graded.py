"""Table 4: does BERTScore accuracy say what grading by hand says?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scipy import stats

from src.judgement.family import CORRECTIONS, Family, frame_of
from src.judgement.scores import Scores
from src.statistics.items import NAN
from src.statistics.pairing import WITHIN, extremes
from src.statistics.table2 import table4_manual


def by_hand(scores: Scores) -> Iterator[Family]:
    """Table 4: within ten points under every pairing of the outputs, or different under every one: an item a task."""
    table = table4_manual(scores.tables["table4"], None, scores.setting.tasks).set_index("task")

    def row(task: str, k: int | None = None) -> dict[str, Any]:
        n, manual = int(table.loc[task, "n"]), int(table.loc[task, "k_manual"])
        right = int(table.loc[task, "k_metric"]) if k is None else k
        least, most = extremes(right, manual, n)
        ends = [each.interval() for each in (least, most)]
        return {
            "value": (right - manual) / n, "low": min(low for low, _ in ends), "high": max(high for _, high in ends),
            "n": n, "up": False, "small": max(each.tost_p() for each in (least, most)),
            "effect": max(each.mcnemar_p() for each in (least, most)),
        }  # fmt: skip

    def moved(task: str, steps: int) -> dict[str, Any] | None:
        k = int(table.loc[task, "k_metric"]) + steps
        return row(task, k) if 0 <= k <= table.loc[task, "n"] else None

    def power(task: str, tests: int) -> dict[str, Any]:
        """Of the equivalence test at no difference, in the pairing with the most disagreements (normal)."""
        n = int(table.loc[task, "n"])
        most = extremes(int(table.loc[task, "k_manual"]), int(table.loc[task, "k_manual"]), n)[1]
        error = ((most.b + most.c) / n**2) ** 0.5
        z = stats.norm.isf(scores.alpha / tests)
        found = (z + stats.norm.isf(0.2)) * error
        return {"detectable": found, "matters": WITHIN, "power_observed": NAN,
                "power_none": float(max(0.0, 1 - 2 * stats.norm.sf(WITHIN / error - z))) if error else NAN}  # fmt: skip

    for words, method in CORRECTIONS.items():
        yield Family(
            taken={"correction": words}, rows=frame_of({task: row(task) for task in table.index}), correction=method,
            rule=words == "Holm", moved=moved, power=power,
            facts=lambda task: {name: table.loc[task, name] for name in (
                "k_metric", "k_manual", "disagreements_least", "disagreements_most", "p_least", "p_most",
                "metric_accuracy", "manual_accuracy")},
        )  # fmt: skip
