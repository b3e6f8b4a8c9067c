"""The published scores as claims see them, with made-up items whose gold leans to one position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from src import stats
from src.base.files import ROOT
from src.judgement.scores import Scores
from src.statistics.published import published_rows, read_published
from src.statistics.rows import complete
from tests.test_stats import OPTIONS, invented

ALPHA = 0.05


NO_POOLED = pd.DataFrame({"estimate_of": [], "item": [], "gates_act": [], "estimate": []})
"""Estimates of the hierarchical model: none."""


def published_scores() -> Scores:
    """The published cells; the items are made up."""
    found = stats.read_setting(ROOT)
    items = {task: invented(task, found.tasks[task].n_published, m) for task, m in OPTIONS.items()}
    setting = replace(found, items=items, alpha=ALPHA)
    published = read_published(ROOT / stats.PUBLISHED_SCORES, setting.tasks)
    return Scores(complete(published_rows(published, setting, "0" * 64), setting), setting)


@pytest.fixture(scope="session")
def scores() -> Scores:
    return published_scores()


Change = Callable[..., Scores]


@pytest.fixture
def changed(scores: Scores) -> Change:
    """The scores with the primary cell of a model, condition and task changed; without values, without the cell."""

    def change(model: str, task: str, *, few: bool, prompt: str = "closed", **values: Any) -> Scores:
        cells = scores.cells
        here = cells["primary"].astype(bool) & (cells["model"] == model) & (cells["task"] == task)
        here &= (cells["prompt"] == prompt) & ((cells["shots"] > 0) == few)
        assert here.sum() == 1
        return replace(scores, cells=with_values(cells, here, values) if values else cells[~here])

    return change


def with_values(cells: pd.DataFrame, here: pd.Series, values: Mapping[str, Any]) -> pd.DataFrame:
    """A copy with some columns of some rows set."""
    out = cells.copy()
    for name, value in values.items():
        out.loc[here, name] = value
    return out
