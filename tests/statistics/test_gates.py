"""Each validity gate fires for the metric that it speaks about and for no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.base import metrics
from src.base.metrics import BERT, EXACT, LIKELIHOODS, MEANS
from src.base.schema import Model, Task
from src.question.examples import Example
from src.statistics.gates import PRINTED, equals_policy, gates
from src.statistics.items import NAN, Items, items_of
from src.statistics.setting import Setting

BY_BERT = {"closed": BERT, "closed_adv": EXACT, "open": BERT}
N = 120


def task(**fields: Any) -> Task:
    return Task(**{"name": "t", "n_source": N + 5, "n_published": N, "exemplars": [1, 2, 3, 4, 5], **fields})


def items(n: int = N) -> Items:
    """n items of three options; gold at the first, second and third position in turn: each policy gets n / 3."""
    return items_of(
        [
            Example(f"t/{i:03}", str(i), str(i), (f"{i}a", f"{i}b", f"{i}c"), i % 3, answer="", exemplar=None)
            for i in range(n)
        ]
    )


def setting(known: Task, these: Items | None = None) -> Setting:
    tables = {"table1": [{"base": "m", "tuned": None}], "table2": {"t": {}}}
    return Setting({"t": known}, {"m": Model()}, {} if these is None else {"t": these}, tables, alpha=0.05)


def cell(accuracy: dict[str, float], **fields: Any) -> pd.DataFrame:
    """The rows of one published cell, one a metric."""
    head = {
        "source": "published", "suite": "published", "model": "m", "condition": "closed_zero", "prompt": "closed",
        "shots": 0, "task": "t", "n": N, "tested": 1 / 3, "ci_low": 0.3, "ci_high": 0.4, "unparsed": NAN, "ties": NAN,
        "trivial": 1 / 3, "ceiling": 1.0,
    } | fields  # fmt: skip
    return pd.DataFrame([{**head, "metric": metric, "accuracy": value} for metric, value in accuracy.items()])


def raised(rows: pd.DataFrame, gate: str, known: Setting) -> set[str]:
    """The metrics whose row raises the gate."""
    return {m for m, each in zip(rows["metric"], gates(rows, known), strict=True) if gate in each.split(";")}


@pytest.mark.parametrize(
    ("gate", "accuracy"),
    [
        (metrics.GATE_EXACT_ABOVE, {EXACT: 0.41, BERT: 0.35}),
        (metrics.GATE_EXACT_ZERO, {EXACT: 0.0, BERT: 0.34}),
        (metrics.GATE_ZERO, {EXACT: 0.0, BERT: 0.0}),
    ],
)
def test_a_gate_about_bertscore_stands_at_rows_of_bertscore_accuracy_alone(gate, accuracy):
    everything = accuracy | dict.fromkeys(MEANS, 0.5)
    by_bert = setting(task(metric=BY_BERT))
    assert raised(cell(everything), gate, by_bert) == {BERT}


@pytest.mark.parametrize("gate", [metrics.GATE_EXACT_ABOVE, metrics.GATE_EXACT_ZERO])
def test_a_task_judged_by_exact_match_carries_no_gate_about_bertscore(gate):
    for accuracy in ({EXACT: 0.9, BERT: 0.35}, {EXACT: 0.0, BERT: 0.35}):
        assert raised(cell(accuracy), gate, setting(task())) == set()
        lettered = cell(accuracy, prompt="closed_adv", condition="closed_adv_zero")
        assert raised(lettered, gate, setting(task(metric=BY_BERT))) == set()


def test_exact_match_five_points_above_is_no_gate_and_more_is():
    known = setting(task(metric=BY_BERT))
    assert raised(cell({EXACT: 0.5, BERT: 0.5}), metrics.GATE_EXACT_ABOVE, known) == set()
    assert raised(cell({EXACT: 0.54, BERT: 0.5}), metrics.GATE_EXACT_ABOVE, known) == set()
    assert raised(cell({EXACT: 0.56, BERT: 0.5}), metrics.GATE_EXACT_ABOVE, known) == {BERT}


def test_a_forced_choice_is_never_right_only_with_a_hundred_examples():
    known, never = setting(task(metric=BY_BERT)), {EXACT: 0.0, BERT: 0.0, LIKELIHOODS[0]: 0.0}
    assert raised(cell(never), metrics.GATE_ZERO, known) == {BERT, LIKELIHOODS[0]}
    assert raised(cell(never, n=99), metrics.GATE_ZERO, known) == set()


def test_answers_that_name_no_option_are_a_gate_of_exact_match_and_ties_of_their_own_metric():
    rows = cell({EXACT: 0.3, BERT: 0.3}, unparsed=N / 2, ties=0.0)
    rows.loc[rows["metric"] == BERT, "ties"] = 0.5
    known = setting(task(metric=BY_BERT))
    assert raised(rows, metrics.GATE_UNPARSED, known) == {EXACT}
    assert raised(rows, metrics.GATE_TIES, known) == {BERT}


def test_a_constant_policy_is_met_to_the_last_example_by_the_metric_that_meets_it():
    n = 5 * N  # a guesser meets each position's 200 of 600 in 3 of 100 cases
    known = setting(task(metric=BY_BERT, n_source=n + 5, n_published=n), items(n))
    assert raised(cell({EXACT: 0.333333, BERT: 199 / n}, n=n), metrics.GATE_CONSTANT, known) == {EXACT}
    third_of_an_example = round((200 + 1 / 3) / n, 6)  # 200 in two seeds, 201 in one: rounds to 200
    assert raised(cell({EXACT: third_of_an_example}, n=n), metrics.GATE_CONSTANT, known) == set()


def test_a_count_that_guessing_meets_often_is_a_note_and_no_acting_gate():
    known = setting(task(metric=BY_BERT), items())  # 40 of 120: in 8 of 100 cases
    rows = cell({EXACT: 0.333333, BERT: 0.325})
    assert raised(rows, metrics.GATE_CONSTANT, known) == set()
    assert raised(rows, metrics.GATE_CONSTANT_MAYBE, known) == {EXACT}
    assert not metrics.acting(metrics.GATE_CONSTANT_MAYBE)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n * 3), st.just(n))))
def test_printing_six_digits_neither_hides_nor_invents_a_constant_policy(pair):
    thirds, n = pair  # the sum over three runs
    assert equals_policy(n, round(thirds / (3 * n), 6), {thirds // 3}) == (thirds % 3 == 0)


def test_the_print_tolerance_is_less_than_half_a_step_of_three_runs_at_any_published_n():
    assert PRINTED * 6612 < 1 / 6


def test_n_larger_than_the_test_set_is_a_gate_with_prepared_items_or_without():
    for these in (items(), None):
        known = setting(task(n_published=N + 1), these)
        assert raised(cell({EXACT: 0.5}, n=N + 1), metrics.GATE_N_ABOVE, known) == {EXACT}
        assert raised(cell({EXACT: 0.5}, n=N), metrics.GATE_N_ABOVE, known) == set()


def test_exemplars_of_another_file_make_the_test_set_no_smaller():
    elsewhere = setting(task(exemplar_file="train.jsonl", n_published=N + 5))
    assert raised(cell({EXACT: 0.5}, n=N + 5), metrics.GATE_N_ABOVE, elsewhere) == set()


def test_exemplars_left_in_the_test_set_keep_their_gate():
    assert raised(cell({EXACT: 0.5}, n=N + 5), metrics.GATE_EXEMPLARS, setting(task(), items())) == {EXACT}


def test_the_gates_that_act_are_known_gates_and_the_others_are_notes():
    assert set(metrics.ACTING) < set(metrics.GATES)
    for gate in metrics.GATES:
        assert metrics.acting(gate) == (gate in metrics.ACTING)
        assert metrics.acting(f"{metrics.GATE_DUPLICATES};{gate}") == (gate in metrics.ACTING)
    assert not metrics.acting("")


def test_a_row_of_a_task_that_conf_does_not_know_is_judged_by_no_item():
    unknown = replace(setting(task()), tasks={})
    assert gates(cell({EXACT: 0.9, BERT: 0.1}, n=10_000), unknown) == ["", ""]
