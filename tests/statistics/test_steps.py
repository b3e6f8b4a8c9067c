"""Own steps from log-likelihood to accuracy: which cells have a row, and where a correlation is lost."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from src.base import metrics
from src.statistics import steps

TASKS = list("abcdef")
FALLING = [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]


def cells(values: dict[str, list[float]], **changes: Any) -> pd.DataFrame:
    """Own cells of six tasks: by metric, the value of each task."""
    fixed = {"source": metrics.OWN, "suite": "s", "model": "m", "condition": "closed_zero", "prompt": "closed",
             "shots": 0, "control": None, "n": 10, "chance": 0.5, "fingerprint": "f"} | changes  # fmt: skip
    return pd.DataFrame([
        {**fixed, "task": task, "metric": metric, "accuracy": each}
        for metric, row in values.items() for task, each in zip(TASKS, row, strict=False)
    ])  # fmt: skip


def rho(found: pd.DataFrame, a: str, b: str) -> float:
    rows = found[(found["metric_a"] == min(a, b)) & (found["metric_b"] == max(a, b))]
    return float(rows["rho"].iloc[0])


def test_a_brier_score_that_says_the_same_correlates_upwards() -> None:
    found = steps.step_correlations(
        seed=1,
        cells=cells(
            {"likelihood": [0.9, 0.8, 0.6, 0.7, 0.5, 0.4], "gold_logprob": FALLING, "brier": [-x for x in FALLING]}
        ),
    )
    assert rho(found, "gold_logprob", "brier") == pytest.approx(1)  # less Brier is better
    # one swap of neighbours among six: 1 - 6 * 2 / (6 * 35)
    assert rho(found, "gold_logprob", "likelihood") == pytest.approx(1 - 12 / 210)
    assert set(found["over"]) == {"s / m / closed_zero"}


def test_the_two_normalisations_are_not_mixed() -> None:
    found = steps.step_correlations(
        seed=1,
        cells=cells(dict.fromkeys(("likelihood", "likelihood_plain", "gold_logprob", "gold_logprob_plain"), FALLING)),
    )
    pairs = set(zip(found["scored_by"], found["metric_a"], found["metric_b"], strict=True))
    assert pairs == {
        ("log p per character", "gold_logprob", "likelihood"),
        ("sum of log p", "gold_logprob_plain", "likelihood_plain"),
    }


def test_only_plain_own_cells_with_scored_options_count() -> None:
    scored = {"likelihood": FALLING, "gold_logprob": FALLING}
    assert steps.tables(cells({"exact_match": FALLING})) == {}
    assert steps.tables(cells(scored, control="shifts")) == {}
    assert steps.tables(cells(scored, source=metrics.PUBLISHED)) == {}
    five = cells({**scored, "exact_match": [*FALLING]})
    five = five[(five["task"] != "f") | (five["metric"] == "exact_match")]  # the options of f are not scored
    made = steps.tables(five)
    assert list(made["own_steps"]["task"]) == TASKS[:5]
    assert set(made["step_correlations"]["n_tasks"]) == {5}


def test_a_step_that_a_cell_lacks_is_null() -> None:
    row = steps.steps(cells({"likelihood": FALLING})).iloc[0]
    assert (row["n"], row["likelihood"]) == (10, -1)
    assert row[["exact_match", *metrics.PROBABILITIES]].isna().all()


def test_every_probability_is_a_step_or_stands_beside_them() -> None:
    in_steps = {name for each in metrics.STEPS.values() for name in each}
    assert set(metrics.PROBABILITIES) - in_steps == {"wrong_probability_plain"}
