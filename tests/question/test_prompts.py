"""Prompts by the published rules; rendering is pure."""

import copy
import hashlib
import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src import prepare
from src.base import conf
from src.question import prompts
from src.question.examples import Example
from tests import members

CONDITIONS = members.conditions()
TASKS = [conf.load_task(n) for n in ("phrase_relatedness", "english_proverbs", "rhyming", "common_morpheme")]
for _task in TASKS:
    _task.exemplar_options = {}
PUBLISHED = json.loads(conf.EXEMPLARS.read_text())


def an_example(i=0, text="Which is warm ?", options=("ice.", "fire."), target=1):
    return Example(f"t/{i}", "g", text, tuple(options), target, options[target], None)


def a_task(**changes):
    task = conf.load_task("analytic_entailment")
    for key, value in changes.items():
        setattr(task, key, value)
    return task


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ("closed_zero", 'Which is warm ? The possible answers are "ice", "fire", but the correct answer is'),
        ("closed_adv_zero", 'QUESTION: Which is warm ?\nOPTIONS: (a) "ice.", (b) "fire."\nANSWER:'),
        ("open_zero", "Which is warm ? The correct answer is"),
    ],
)
def test_templates_of_the_protocol(condition, text):
    assert prompts.render(an_example(), [], a_task(), CONDITIONS[condition]).text == text


@pytest.mark.parametrize(
    ("condition", "said"), [("closed_few", ' "fire".'), ("closed_adv_few", " (b)"), ("open_few", ' "fire".')]
)
def test_an_exemplar_states_its_answer_in_the_form_that_likelihood_scores(condition, said):
    rendered = prompts.render(an_example(1), [an_example()], a_task(), CONDITIONS[condition])
    assert rendered.prefix.endswith(said + "\n\n")
    assert rendered.continuations[1] == said


def test_cleaning_follows_the_protocol():
    assert prompts.clean("a , b . c  ", a_task()) == "a, b. c"
    assert prompts.clean("Bob has the ", a_task(final_question_mark=True)) == "Bob has the?"


def test_a_condition_without_exemplars_has_no_prefix():
    assert prompts.render(an_example(1), [an_example()], a_task(), CONDITIONS["closed_zero"]).prefix == ""


def test_a_task_that_hides_its_options_is_asked_openly_and_scored_against_its_answer():
    task = conf.load_task("codenames")
    rendered = prompts.render(an_example(), [], task, CONDITIONS["closed_zero"])
    assert rendered.text.endswith("The correct answer is")
    assert (rendered.options, rendered.continuations, rendered.target) == ((), (), None)


@given(st.permutations(list(range(4))), st.sampled_from(sorted(CONDITIONS)))
def test_rendering_is_pure_and_order_free(order, condition):
    before = copy.deepcopy([asdict(t) for t in TASKS])
    shots = [an_example(i) for i in range(5)]
    alone = [prompts.render(an_example(9), shots, task, CONDITIONS[condition]) for task in TASKS]
    shuffled = {i: prompts.render(an_example(9), shots, TASKS[i], CONDITIONS[condition]) for i in order}
    assert [shuffled[i] for i in range(4)] == alone
    assert [asdict(t) for t in TASKS] == before


@pytest.mark.parametrize("prompt", ["closed", "closed_adv", "open"])
def test_published_rhyming_prefixes_are_rebuilt_to_the_byte(prompt):
    """The sha256 is that of the authors' own prefix; the items are published beside it."""
    items = PUBLISHED["rhyming"]["items"]
    shots = [
        Example(f"r/{i}", "", r["input"], tuple(r["options"]), r["options"].index(r["answer"]), r["answer"], i)
        for i, r in enumerate(items)
    ]
    text = prompts.prefix(shots, conf.load_task("rhyming"), CONDITIONS[f"{prompt}_few"])
    assert hashlib.sha256(text.encode()).hexdigest() == PUBLISHED["rhyming"]["prefixes"][prompt]["sha256"]


BIGBENCH = members.of_source("bigbench")


@pytest.mark.parametrize("name", BIGBENCH)
def test_published_prefixes_are_rebuilt_to_the_byte(name):
    if not (prepare.RAW / "bigbench").exists():
        pytest.skip("the BIG-bench files are not fetched: dvc repro fetch@bigbench")
    task = conf.load_task(name)
    found = prepare.examples(task, (prepare.RAW / "bigbench" / task.file).read_text())
    shots = [e for e in found if e.exemplar is not None]
    for prompt, published in PUBLISHED[name]["prefixes"].items():
        text = prompts.prefix(shots, task, CONDITIONS[f"{prompt}_few"])
        assert hashlib.sha256(text.encode()).hexdigest() == published["sha256"], prompt
