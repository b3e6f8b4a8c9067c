"""The table of what the pilot can tell: the one in docs/log.md is the one that was computed, at equal cost."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import pilot_power
from src.base.files import ROOT


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(pilot_power.TABLE)


def test_the_log_shows_the_table_that_was_computed(table: pd.DataFrame) -> None:
    log = (ROOT / "docs/log.md").read_text(encoding="utf-8")
    assert "\n".join(pilot_power.lines(table)) in log


def test_no_design_but_the_last_costs_more_than_the_pilot(table: pd.DataFrame) -> None:
    assert table["cost"].iloc[0] == 1
    *others, larger = table.groupby(["tasks", "conditions", "generates", "examples"], sort=False)["cost"].first()
    assert max(others) <= 1 + 1e-9 < larger


def test_more_examples_find_smaller_differences_and_fewer_tasks_larger_means(table: pd.DataFrame) -> None:
    likelihood = table[(table["metric"] == pilot_power.SCORED) & table["generates"] & (table["conditions"] == 4)]
    by_tasks = likelihood[likelihood["cost"] <= 1].set_index("tasks")
    assert by_tasks.loc[[20, 10, 5, 4], "finds_above"].is_monotonic_decreasing
    assert by_tasks.loc[[20, 10, 5, 4], "finds_mean"].is_monotonic_increasing


def test_effects_that_are_no_larger_than_their_noise_are_drawn_to_their_mean() -> None:
    effect, noise = np.array([-0.02, 0.0, 0.02]), np.full(3, 0.01)
    assert pilot_power.shrunk(effect, noise) == pytest.approx([0, 0, 0])
    assert pilot_power.shrunk(effect, noise / 1e6) == pytest.approx(effect, abs=1e-6)
