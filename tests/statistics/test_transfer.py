"""Rank correlation of tuned zero-shot with base few-shot: what is left out, what is controlled, what is tested."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from src.base import metrics
from src.statistics import transfer
from src.statistics.tests import rank_correlation
from src.statistics.transfer import CHANCE, FEW, TUNED, ZERO

TABLE1 = [{"base": "base", "tuned": "tuned"}]
FIGURE2 = {"left": "tuned zero-shot", "right": "elsewhere few-shot"}
N = 12
RISING = np.linspace(0.3, 0.9, N)


def side(model: str, few: bool, accuracy: Any, chance: Any = 0.25, **changes: Any) -> pd.DataFrame:
    """One published model on twelve tasks in the closed format."""
    fixed = {"source": metrics.PUBLISHED, "primary": True, "prompt": "closed", "shots": 5 if few else 0, "model": model,
             "family": "f", "tuned": model.startswith("tuned"), "gates": ""} | changes  # fmt: skip
    tasks = [f"t{i:02}" for i in range(len(accuracy))]
    return pd.DataFrame({"task": tasks, "accuracy": accuracy, "chance_scored": chance}).assign(**fixed)


def three(tuned: Any, few: Any, zero: Any, **changes: Any) -> pd.DataFrame:
    """The three cells of a twin."""
    parts = [side("tuned", False, tuned, **changes), side("base", True, few), side("base", False, zero)]
    return pd.concat(parts, ignore_index=True)


def noise(seed: int, n: int = N) -> Any:
    return np.random.default_rng(seed).uniform(0.3, 0.9, n)


def test_the_same_order_is_one_and_the_base_model_zero_shot_stands_beside_it() -> None:
    [row] = transfer.transfer(three(RISING, RISING**2, RISING[::-1]), TABLE1, FIGURE2, 1).to_dict("records")
    assert (row["kind"], row["n_tasks"], row["left_out"]) == ("twin", N, 0)
    assert row["rho"] == pytest.approx(1)
    assert row["rho_zero"] == pytest.approx(-1)
    assert row["few_adds"] == pytest.approx(2)
    assert 0 < row["p"] < 0.001
    assert np.isnan(row["ci_low"])  # a correlation of 1 has no interval
    assert np.isnan(row["rho_given_chance"])  # chance is the same everywhere


def test_a_correlation_that_the_zero_shot_base_explains_vanishes_given_it() -> None:
    n = 200
    shared = np.random.default_rng(3).normal(size=n)
    tuned, few, zero = (shared + 0.01 * np.random.default_rng(seed).normal(size=n) for seed in (4, 5, 6))
    tasks = pd.DataFrame({TUNED: tuned, FEW: few, ZERO: zero, CHANCE: 0.5})
    assert transfer.rho(tasks[TUNED], tasks[FEW]) > 0.99
    explained = pd.DataFrame({TUNED: shared + np.random.default_rng(7).normal(size=n), ZERO: shared})
    explained[FEW] = shared + np.random.default_rng(8).normal(size=n)
    assert rank_correlation(explained[TUNED], explained[FEW], 1)[3] < 0.001
    assert abs(transfer.partial_rho(explained, ZERO)) < 0.15
    assert transfer.permutation_p(explained, ZERO, 1) > 0.05


def test_skill_is_over_chance() -> None:
    """Both models answer at chance: their accuracies order tasks by the number of options, their skills do not."""
    chance = np.repeat([0.1, 0.25, 0.5], 4)
    cells = pd.concat([
        side("tuned", False, chance + 0.001 * noise(1), chance), side("base", True, chance - 0.001 * noise(2), chance),
        side("base", False, chance, chance),
    ])  # fmt: skip
    accuracy = stats.spearmanr(chance + 0.001 * noise(1), chance - 0.001 * noise(2)).statistic
    [row] = transfer.transfer(cells, TABLE1, FIGURE2, 1).to_dict("records")
    assert accuracy > 0.8
    assert row["rho"] < 0
    assert np.isnan(row["rho_zero"])  # it has no skill anywhere: nothing to rank


def test_gated_cells_are_left_out_counted_and_shown_beside() -> None:
    cells = three(RISING, RISING, noise(1))
    spoiled = (cells["model"] == "tuned") & cells["task"].isin(["t00", "t01"])
    cells.loc[spoiled, "accuracy"] = 0.95
    cells.loc[spoiled, "gates"] = "duplicates;equals_constant_policy"
    only_zero = (cells["model"] == "base") & (cells["shots"] == 0) & (cells["task"] == "t05")
    cells.loc[only_zero, "gates"] = "forced_choice_zero"
    [row] = transfer.transfer(cells, TABLE1, FIGURE2, 1).to_dict("records")
    assert (row["n_tasks"], row["left_out"], row["n_controlled"]) == (N - 2, 2, N - 3)
    assert row["rho"] == pytest.approx(1)
    assert row["rho_with_gated"] < 0.5


def test_a_gate_that_is_a_note_takes_no_cell_out() -> None:
    [row] = transfer.transfer(three(RISING, RISING, noise(1), gates="duplicates"), TABLE1, FIGURE2, 1).to_dict(
        "records"
    )
    assert row["left_out"] == 0


def test_tasks_without_chance_are_in_no_correlation() -> None:
    cells = three(RISING, RISING, noise(1))
    cells.loc[cells["task"] == "t03", "chance_scored"] = np.nan
    [row] = transfer.transfer(cells, TABLE1, FIGURE2, 1).to_dict("records")
    assert (row["n_tasks"], row["left_out"]) == (N - 1, 0)


def test_too_few_tasks_have_no_row() -> None:
    few = transfer.FEWEST - 1
    assert len(transfer.transfer(three(RISING[:few], RISING[:few], RISING[:few]), TABLE1, FIGURE2, 1)) == 0


def test_named_pairs_alone_are_tested_and_stand_among_the_unrelated() -> None:
    cells = pd.concat([
        three(RISING, RISING, noise(1)),
        side("other", True, noise(2), family="g"), side("other", False, noise(3), family="g"),
        side("big", True, noise(4)), side("big", False, noise(5)),
        side("elsewhere", True, RISING, family="g"), side("elsewhere", False, noise(6), family="g"),
    ])  # fmt: skip
    rows = transfer.transfer(cells, TABLE1, FIGURE2, 1).set_index("base")
    assert rows["kind"].to_dict() == {
        "base": "twin", "elsewhere": "figure2", "big": "same_family", "other": "other_family"
    }  # fmt: skip
    assert set(rows.index[rows["p"].notna()]) == {"base", "elsewhere"}
    assert rows["percentile"].dropna().to_dict() == {"base": 100, "elsewhere": 100}  # neither is its own context
    assert rows.loc["base", "p_holm"] == pytest.approx(2 * rows.loc["base", "p"])


def test_holm_is_over_the_pairs_of_one_prompt() -> None:
    rows = pd.DataFrame({"prompt": ["closed", "closed", "closed_adv"], "tuned": list("abc"), "base": list("abc"),
                         "kind": "twin", "rho": 0.5, "p": [0.01, 0.04, 0.04], "p_given_zero": [0.03, np.nan, 0.5],
                         "p_given_chance": 0.9})  # fmt: skip
    found = transfer.with_context(rows)
    assert found["p_holm"].tolist() == pytest.approx([0.02, 0.04, 0.04])
    assert found["p_given_zero_holm"].tolist() == pytest.approx([0.03, np.nan, 0.5], nan_ok=True)
    assert found["percentile"].isna().all()  # there are no unrelated pairs


def test_values_that_differ_in_the_last_bit_are_ties() -> None:
    cells = three([0.3 if i % 2 else 0.1 + 0.2 for i in range(N)], RISING, RISING)
    assert len(set(transfer.skills(cells)["tuned", "closed", False]["skill"])) == 1


def test_p_of_a_partial_correlation_is_never_zero_and_that_of_noise_is_uniform() -> None:
    same = pd.DataFrame({TUNED: RISING, FEW: RISING, ZERO: noise(1)})
    assert transfer.permutation_p(same, ZERO, 1) == pytest.approx(2e-4)
    found = [
        transfer.permutation_p(pd.DataFrame({TUNED: noise(i), FEW: noise(100 + i), ZERO: noise(200 + i)}), ZERO, 1)
        for i in range(40)
    ]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_the_partial_correlation_is_the_correlation_of_what_the_ranks_have_left() -> None:
    tasks = pd.DataFrame({name: noise(i) for i, name in enumerate((TUNED, FEW, ZERO))})
    x, y, z = (stats.rankdata(tasks[name]) for name in (TUNED, FEW, ZERO))
    rest = [each - np.polyval(np.polyfit(z, each, 1), z) for each in (x, y)]
    assert transfer.partial_rho(tasks, ZERO) == pytest.approx(np.corrcoef(*rest)[0, 1])


def test_a_control_that_orders_the_tasks_as_the_side_does_leaves_nothing_to_say() -> None:
    tasks = pd.DataFrame({TUNED: noise(1), FEW: noise(2), ZERO: noise(2) * 2})
    assert np.isnan(transfer.partial_rho(tasks, ZERO))
    assert np.isnan(transfer.permutation_p(tasks, ZERO, 1))
    assert transfer.partial_rho(tasks.assign(**{FEW: tasks[TUNED]}), ZERO) == pytest.approx(1)


def test_swapping_the_sides_changes_no_correlation() -> None:
    a, b = noise(1), noise(2)
    one, other = (pd.DataFrame({TUNED: x, FEW: y, ZERO: noise(3)}) for x, y in ((a, b), (b, a)))
    assert transfer.rho(one[TUNED], one[FEW]) == transfer.rho(other[TUNED], other[FEW])
    assert transfer.partial_rho(one, ZERO) == pytest.approx(transfer.partial_rho(other, ZERO))
    assert transfer.permutation_p(one, ZERO, 1) == pytest.approx(transfer.permutation_p(other, ZERO, 1), abs=0.03)
    down = one.assign(**{FEW: -one[FEW]})
    assert transfer.permutation_p(down, ZERO, 1) == pytest.approx(transfer.permutation_p(one, ZERO, 1), abs=0.03)
