"""What the statistics know beside the scores: conf, the prepared items, the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from src.base.schema import Model, Task
from src.statistics.items import NAN, Items, gold_skew_p, trivial, trivial_cv

SEED = 20240811
"""Seed of every simulation and every resampling. Another seed gives the same verdicts, but not the same last digit."""


@dataclass(frozen=True)
class Setting:
    """What is known beside the scores."""

    tasks: Mapping[str, Task]  # conf/task, by name
    models: Mapping[str, Model]  # conf/model, by name
    items: Mapping[str, Items]  # test items of the prepared tasks, by task
    tables: Mapping[str, Any]  # data/published/tables.yaml
    alpha: float  # params.yaml
    seed: int = SEED


def primary_metric(tasks: Mapping[str, Task], task: str, prompt: str) -> str | None:
    """A task's primary metric in one prompt format. None for a task that conf does not know."""
    return tasks[task].primary(prompt) if task in tasks else None


def options_shown(task: Task, prompt: str) -> bool:
    """Whether a test item lists its options. The open format never does. Elsewhere the task's wording says so."""
    wording = task.wording.get(prompt)
    return prompt != "open" and (wording is None or wording.show_options)


NO_POLICY = {"trivial": NAN, "trivial_cv": NAN, "gold_skew_p": NAN}


@cache
def policy_columns(items: Items, seed: int) -> dict[str, float]:
    """trivial, trivial_cv and gold_skew_p of a set of items. Each set is computed once."""
    return {
        "trivial": trivial(items),
        "trivial_cv": trivial_cv(items, seed),
        "gold_skew_p": gold_skew_p(items, seed),
    }
