"""Raw files become validated Examples; a file that is not what conf/ says is named."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src import prepare
from src.base import conf
from src.base.errors import UserError
from src.question import examples, options, readers

ENTRIES = [{"input": f"question {i}", "target_scores": {"yes": 1, "maybe": 0.5, "no": 0}} for i in range(4)]


def a_task(**changes):
    task = conf.load_task("analytic_entailment")
    given = {"n_source": 4, "n_published": 3, "exemplars": [2], "as_published": True, **changes}
    for key, value in given.items():
        setattr(task, key, value)
    return task


def raw(entries=ENTRIES):
    return json.dumps({"examples": entries})


def test_exemplars_come_first_in_prompt_order_and_are_no_test_items():
    found = prepare.examples(a_task(exemplars=[3, 0], n_published=2), raw())
    assert [(e.id, e.exemplar) for e in found] == [
        ("analytic_entailment/3", 0),
        ("analytic_entailment/0", 1),
        ("analytic_entailment/1", None),
        ("analytic_entailment/2", None),
    ]


def test_gold_is_the_first_option_whose_score_is_exactly_one():
    entries = [{"input": "x", "target_scores": {"a": 0.5, "b": 1, "c": 1.0}}]
    assert readers.read_bigbench(raw(entries))[0].target == 1


def test_a_file_with_the_wrong_count_is_named():
    with pytest.raises(UserError, match=r"holds 3 examples, conf/task/analytic_entailment\.yaml says 4"):
        prepare.examples(a_task(), raw(ENTRIES[:3]))


def test_an_n_that_is_not_the_published_one_needs_its_reason():
    with pytest.raises(UserError, match="published n is 2"):
        prepare.examples(a_task(n_published=2), raw())
    assert len(prepare.examples(a_task(n_published=2, n_note="one was lost"), raw())) == 4


def test_chance_is_exact_and_missing_without_options():
    four = prepare.examples(a_task(), raw([*ENTRIES[:3], {"input": "z", "target_scores": {"a": 1, "b": 0}}]))
    assert examples.chance([e for e in four if e.exemplar is None]) == pytest.approx(
        (1 / 3 + 1 / 3 + 1 / 2) / 3, abs=1e-15
    )
    assert examples.chance([]) is None


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_smaller_sample_is_part_of_a_larger_one(a, b):
    tests = [examples.Example(f"t/{i}", "", "", (), None, "", None) for i in range(40)]
    small, large = sorted((a, b))
    assert examples.sampled(tests, small) == examples.sampled(tests, large)[:small]
    assert examples.sampled(list(reversed(tests)), small) == examples.sampled(tests, small)


def test_a_regular_expression_groups_examples_that_share_a_context():
    task = a_task(group="^(.*)Q:")
    assert examples.context(task, "t/0", "a long story\nQ: who?") == examples.context(
        task, "t/0", "a long story\nQ: why?"
    )
    assert examples.context(task, "t/0", "a long story\nQ: who?") != examples.context(task, "t/0", "another\nQ: who?")


MATERIAL = {
    "nearby_numbers": ("680", ""),
    "numbers_in_text": ("1,728", "6 halls, 32 rooms, 1,728 in all, 5 more"),
    "words_in_list": ("glacier, sugar", "2 words from the following list: book, glacier, drum, sugar, vet, ant."),
}


@pytest.mark.parametrize("construct", sorted(options.CONSTRUCTIONS))
@given(seed=st.integers(0, 999))
def test_constructed_options_hold_the_answer_once_and_depend_on_the_key_alone(construct, seed):
    answer, material = MATERIAL[construct]
    row = readers.Row("q", (), None, answer, material)
    random.seed(seed)
    state = random.getstate()
    made = options.constructed(row, f"t/{seed}", construct, 3)
    assert made == options.constructed(row, f"t/{seed}", construct, 3)
    assert random.getstate() == state
    assert len(set(made.options)) == 3
    assert made.options[made.target] == answer


def test_a_missing_raw_file_says_which_stage_makes_it(tmp_path):
    with pytest.raises(UserError, match="dvc repro fetch@bigbench"):
        prepare.prepare(a_task(), tmp_path)


def test_a_task_that_is_not_prepared_says_how_to(tmp_path):
    with pytest.raises(UserError, match="dvc repro prepare"):
        examples.load("analytic_entailment", tmp_path)


def test_exemplars_are_drawn_from_their_own_file_where_it_is_given(tmp_path):
    """Five of it, seeded; all of the task's items are then test items. Without it the named items stand in."""
    rows = [
        {"question": f"q{i}", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"} for i in range(20)
    ]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "source").mkdir()
    (tmp_path / "source/dev.jsonl").write_text("\n".join(lines[:6]) + "\n")
    changes = {
        "reader": "labelled_choices", "source": "source", "file": "dev.jsonl", "exemplar_file": "train.jsonl",
        "exemplars_drawn": 5, "exemplars": [4, 1], "n_source": 6, "n_published": 6, "n_note": "x",
    }  # fmt: skip
    without = [json.loads(line) for line in prepare.prepare(a_task(**changes), tmp_path).splitlines()]
    assert [e["id"] for e in without if e["exemplar"] is not None] == ["analytic_entailment/4", "analytic_entailment/1"]
    (tmp_path / "source/train.jsonl").write_text("\n".join(lines) + "\n")
    found = [json.loads(line) for line in prepare.prepare(a_task(**changes), tmp_path).splitlines()]
    shots = [e["id"] for e in found if e["exemplar"] is not None]
    assert len(set(shots)) == 5
    assert all(name.startswith("analytic_entailment/exemplar_") for name in shots)
    assert len(found) == 11
    assert shots == [json.loads(line)["id"] for line in prepare.prepare(a_task(**changes), tmp_path).splitlines()[:5]]
