"""Control conditions against plain cells, on scores whose answers are known by construction."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from src.base.schema import Task
from src.question.examples import Example
from src.statistics import controls
from src.statistics.items import items_of

TASKS = {"t": Task(metric={"closed_adv": "exact_match"})}


def row(
    example: int, condition: str, picked: int | None, target: int, control: str | None = None, shift: int | None = None
) -> dict[str, Any]:
    """One score of a cell with three options."""
    right = float(picked == target)
    return {
        "suite": "s", "model": "m", "weights": "w", "task": "t", "prompt": "closed_adv", "shots": 0,
        "condition": condition, "control": control, "variant": None if shift is None else f"shift{shift}",
        "example_id": f"t/{example}", "group": f"t/{example}", "seed": 1, "n_options": 3, "target": target,
        "picked": picked, "exact_match": right, "likelihood": right, "likelihood_plain": right,
        "likelihood_picked": picked, "likelihood_prior": None, "fingerprint": f"{condition}-print",
    }  # fmt: skip


def shifted(policy: Any, golds: list[int]) -> pd.DataFrame:
    """A plain cell and its shifts; policy: (gold's place under this shift, shift) -> picked place."""
    plain = [row(i, "c", policy(gold, 0), gold) for i, gold in enumerate(golds)]
    moved = [
        row(i, "c_shifts", policy((gold - k) % 3, k), (gold - k) % 3, "shifts", k)
        for i, gold in enumerate(golds)
        for k in range(3)
    ]
    return pd.DataFrame(plain + moved).convert_dtypes()


def one(table: pd.DataFrame, metric: str = "exact_match", control: str = "shifts") -> pd.Series:
    return table[(table["metric"] == metric) & (table["control"] == control)].iloc[0]


def test_a_policy_of_positions_scores_exactly_chance_over_all_shifts_and_is_never_consistent() -> None:
    """It always names the first option; the gold one stands first in all plain examples."""
    table = controls.controls(shifted(lambda gold, k: 0, [0, 0, 0, 0]), TASKS, {}, 1)
    found = one(table)
    assert (found["plain_accuracy"], found["mean_diff"]) == (1, pytest.approx(2 / 3))
    assert found["control_accuracy"] == pytest.approx(1 / 3)
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["consistent"] == 0


def test_a_model_that_knows_is_consistent_and_loses_nothing() -> None:
    found = one(controls.controls(shifted(lambda gold, k: gold, [0, 1, 2, 0]), TASKS, {}, 1))
    assert (found["control_accuracy"], found["mean_diff"], found["consistent"]) == (1, 0, 1)


def test_an_answer_that_cannot_be_parsed_under_one_shift_is_not_consistent() -> None:
    found = one(controls.controls(shifted(lambda gold, k: None if k == 2 else gold, [0, 1]), TASKS, {}, 1))
    assert found["consistent"] == 0


def test_each_shift_has_a_row_with_how_often_the_first_is_named() -> None:
    table = controls.option_shifts(shifted(lambda gold, k: 0, [0, 0, 1, 2]))
    assert list(table["shift"]) == [0, 1, 2]
    assert list(table["accuracy"]) == [0.5, 0.25, 0.25]
    assert list(table["k"]) == [2, 1, 1]
    assert set(table["first_share"]) == {1.0}
    assert list(table["mean_over_shifts"]) == [pytest.approx(1 / 3)] * 3


def test_swapped_inputs_are_compared_on_the_examples_both_have_with_mcnemar() -> None:
    """Plain right 5 of 5; under another input 1 of 5: four discordant pairs, 2 * 2^-4; one left out is not paired."""
    plain = [row(i, "c", 0, 0) for i in range(6)]
    swapped = [row(i, "c_swapped", 0 if i == 0 else 1, 0, "input_swapped") for i in range(5)]
    found = one(
        controls.controls(pd.DataFrame(plain + swapped).convert_dtypes(), TASKS, {}, 1), control="input_swapped"
    )
    assert (found["n"], found["plain_accuracy"], found["control_accuracy"]) == (5, 1, pytest.approx(0.2))
    assert (found["test"], found["p"]) == ("mcnemar", 0.125)
    assert (found["plain_fingerprint"], found["fingerprint"]) == ("c-print", "c_swapped-print")


def test_over_all_tasks_whole_tasks_are_resampled_and_flipped() -> None:
    parts = []
    for number, task in enumerate("abcde"):
        plain = [row(i, "c", 0, 0) | {"task": task, "example_id": f"{task}/{i}"} for i in range(4)]
        swapped = [
            row(i, "c_swapped", int(i > number % 2), 0, "input_swapped") | {"task": task, "example_id": f"{task}/{i}"}
            for i in range(4)
        ]
        parts += plain + swapped
    tasks = {task: Task(metric={"closed_adv": "exact_match"}) for task in "abcde"}
    table = controls.controls(pd.DataFrame(parts).convert_dtypes(), tasks, {}, 1)
    whole = one(table[table["task"] == controls.ALL_TASKS], control="input_swapped")
    assert (whole["n"], whole["groups"], whole["test"]) == (20, 5, "sign_flip")
    assert whole["p"] == pytest.approx(2 / 2**5)  # all five task sums have one sign
    assert pd.isna(whole["p_holm"])
    assert pd.isna(whole["fingerprint"])


def test_balanced_accuracy_of_a_constant_label_is_one_over_the_labels() -> None:
    """Ten items, eight of them yes: always yes scores .8, balanced .5."""
    golds = [0] * 8 + [1] * 2
    items = items_of(
        [Example(f"t/{i}", str(i), str(i), ("yes", "no"), g, answer="", exemplar=None) for i, g in enumerate(golds)]
    )
    cell = pd.DataFrame([row(i, "c", 0, g) for i, g in enumerate(golds)])
    assert controls.balanced(cell, "exact_match", items) == {"balanced_accuracy": 0.5, "balanced_chance": 0.5}


def test_prior_corrected_choice_is_set_against_the_plain_one_where_a_twin_was_run() -> None:
    plain = [row(i, "c", 1, 0) | {"likelihood_prior": 1.0} for i in range(4)]
    free = [row(i, "c_content_free", 1, 0, "content_free") for i in range(4)]
    table = controls.controls(pd.DataFrame(plain + free).convert_dtypes(), TASKS, {}, 1)
    found = one(table, "likelihood", controls.PRIOR_CORRECTED)
    assert (found["plain_accuracy"], found["control_accuracy"], found["mean_diff"]) == (0, 1, -1)


def test_a_row_over_all_tasks_holds_the_tasks_that_have_its_metric_and_says_how_many() -> None:
    metric = {"a": "exact_match", "b": "exact_match", "c": "exact_match", "d": "likelihood", "e": "likelihood"}
    parts = [
        row(i, condition, int(i > 1), 0, control) | {"task": task, "example_id": f"{task}/{i}"}
        for task in metric
        for i in range(4)
        for condition, control in (("c", None), ("c_swapped", "input_swapped"))
    ]
    tasks = {task: Task(metric={"closed_adv": name}) for task, name in metric.items()}
    table = controls.controls(pd.DataFrame(parts).convert_dtypes(), tasks, {}, 1)
    alone, whole = table[table["task"] != controls.ALL_TASKS], table[table["task"] == controls.ALL_TASKS]
    assert (alone["n_tasks"] == 1).all()
    assert whole.set_index("metric")["n_tasks"].to_dict() == {"exact_match": 3, "likelihood": 5}
    assert whole.set_index("metric")["n"].to_dict() == {"exact_match": 12, "likelihood": 20}
