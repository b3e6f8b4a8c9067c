"""What the statistics know beside the scores: conf, the prepared items, the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from src.statistics.items import NAN, Items, gold_skew_p, trivial, trivial_cv

SEED = 20240811
"""Of every simulation and resampling; any other gives the same verdicts, not the same last digit."""


@dataclass(frozen=True)
class Setting:
    """What is known beside the scores. tasks, models: fields of conf by name; items: test items of prepared tasks."""

    tasks: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Mapping[str, Any]]
    items: Mapping[str, Items]
    tables: Mapping[str, Any]
    alpha: float = 0.05
    seed: int = SEED


def primary_metric(tasks: Mapping[str, Mapping[str, Any]], task: str, prompt: str) -> str | None:
    """A task's primary metric in one prompt format. None for a task that conf does not know."""
    return tasks[task]["metric"].get(prompt) if task in tasks else None


def options_shown(task: Mapping[str, Any], prompt: str) -> bool:
    """Whether a test item lists its options: never in the open format, elsewhere as the task's wording says."""
    return prompt != "open" and bool(task.get("wording", {}).get(prompt, {}).get("show_options", True))


NO_POLICY = {"trivial": NAN, "trivial_cv": NAN, "gold_skew_p": NAN}


@cache
def policy_columns(these: Items, seed: int) -> dict[str, float]:
    """trivial, trivial_cv, gold_skew_p of a set of items, computed once a set."""
    return {
        "trivial": trivial(these),
        "trivial_cv": trivial_cv(these, seed),
        "gold_skew_p": gold_skew_p(these, seed),
    }
