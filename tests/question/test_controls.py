"""The control conditions keep their promises, and the template leak is a switch."""

import copy
import json
from collections import Counter
from dataclasses import asdict, replace

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from src import collect, run
from src.base import conf, grid
from src.base.errors import UserError
from src.base.schema import Compat, Wording
from src.cell.file import Answers, means_of
from src.engine.job import Completion, Likelihood
from src.question import examples, prompts
from src.question.controls import derangement, resampled
from src.question.examples import Example
from src.scoring.match import Rules
from src.scoring.score import score_cell
from tests import members
from tests.tiny import tiny

CONDITIONS = members.conditions()
PLAIN = [name for name, condition in CONDITIONS.items() if condition.control is None]
BASES = ("closed_zero", "closed_few", "closed_adv_zero", "closed_adv_few")
NAME = "social_iqa"
TASK = conf.load_task(NAME)
FLOATS = ("cork", "iron", "lead")
SHOTS = [Example(f"{NAME}/s{i}", f"s{i}", f"What floats, case {i}?", FLOATS, 0, "cork", i) for i in range(5)]


def an_item(i, m=3, group=None, target=None):
    options = tuple(f"thing {i}.{j}" for j in range(m))
    target = i % m if target is None else target
    return Example(f"{NAME}/{i}", group or f"g{i}", f"Which of item {i}?", options, target, options[target], None)


@st.composite
def items(draw, least=1):
    """Test items with 2 to 5 options, some of them sharing a context."""
    sizes = draw(st.lists(st.tuples(st.integers(2, 5), st.integers(0, 30)), min_size=least, max_size=30))
    return [an_item(i, m, group=f"g{context}") for i, (m, context) in enumerate(sizes)]


def ask(tests, name, task=TASK, **more):
    return prompts.ask(tests, SHOTS, task, CONDITIONS[name], **more)


def test_the_six_plain_conditions_are_no_controls_and_ask_each_example_once():
    assert {f"{p}_{s}" for p in ("closed", "closed_adv", "open") for s in ("zero", "few")} == set(PLAIN)
    tests = [an_item(i) for i in range(9)]
    for name in PLAIN:
        one_by_one = [prompts.render(e, SHOTS, TASK, CONDITIONS[name]) for e in examples.sampled(tests, 4)]
        assert ask(tests, name, limit=4) == one_by_one


@pytest.mark.parametrize("name", sorted(CONDITIONS))
def test_a_condition_is_its_base_but_for_what_it_controls(name):
    """A comparison with the plain condition is about the control alone."""
    condition = CONDITIONS[name]
    base = CONDITIONS[f"{condition.prompt}_{'few' if condition.few_shot else 'zero'}"]
    differs = {key for key, value in asdict(condition).items() if value != getattr(base, key)}
    allowed = {"resampled": {"exemplar_seed"}, "wording": {"template"}}.get(condition.control, set())
    assert differs == (allowed | {"name", "control"} if condition.control else set())


@pytest.mark.parametrize("base", BASES)
@given(tests=items())
def test_over_the_shifts_every_option_stands_in_every_place_once(base, tests):
    asked = ask(tests, f"{base}_shifts")
    for example in tests:
        variants = [p for p in asked if prompts.example_id(p.id)[0] == example.id]
        m = len(example.options)
        assert [prompts.example_id(p.id)[1] for p in variants] == [f"shift{k}" for k in range(m)]
        places = Counter((option, place) for p in variants for place, option in enumerate(p.options))
        assert set(places.values()) == {1}
        assert len(places) == m * m
        assert {p.options[p.target] for p in variants} == {example.answer}
        assert sorted(p.target for p in variants) == list(range(m))


def test_the_first_shift_is_the_plain_prompt_and_exemplars_stay_as_published():
    tests = [an_item(i) for i in range(6)]
    plain, asked = ask(tests, "closed_adv_few", limit=3), ask(tests, "closed_adv_few_shifts", limit=3)
    assert len(asked) == 9
    assert [replace(p, id=prompts.example_id(p.id)[0]) for p in asked[::3]] == plain
    assert {p.prefix for p in asked} == {plain[0].prefix}


@given(tests=items(), limit=st.integers(1, 30))
def test_swapped_inputs_have_no_fixed_point_and_keep_options_and_count(tests, limit):
    alone = {m for m, n in Counter(len(e.options) for e in tests).items() if n == 1}
    plain = {p.id: p for p in ask(tests, "closed_zero", limit=limit)}
    asked = {p.id: p for p in ask(tests, "closed_zero_input_swapped", limit=limit)}
    assert set(asked) == {i for i, p in plain.items() if len(p.options) not in alone}
    for name, prompt in asked.items():
        assert (prompt.options, prompt.target) == (plain[name].options, plain[name].target)
        assert prompt.text != plain[name].text
    partner = derangement(tests)
    assert len({e.id for e in partner.values()}) == len(partner)  # one to one
    sizes = {e.id: len(e.options) for e in tests}
    assert all(sizes[name] == len(other.options) for name, other in partner.items())


@given(tests=items(least=2), order=st.randoms())
def test_a_partner_does_not_depend_on_the_order_of_the_file(tests, order):
    shuffled = tests[:]
    order.shuffle(shuffled)
    assert derangement(shuffled) == derangement(tests)


def test_swapped_inputs_come_from_another_context():
    tests = [an_item(i, group=f"g{i // 3}") for i in range(30)]
    contexts = {e.id: e.group for e in tests}
    assert all(contexts[name] != other.group for name, other in derangement(tests).items())


@given(seed=st.integers(0, 1000), n=st.integers(6, 40), limit=st.integers(1, 40), order=st.randoms())
def test_resampled_exemplars_are_never_tested_and_depend_on_the_seed_alone(seed, n, limit, order):
    tests = [an_item(i) for i in range(n)]
    condition = replace(CONDITIONS["closed_few_resampled_1"], exemplar_seed=seed)
    shots = resampled(tests, len(SHOTS), seed)
    asked = prompts.ask(tests, SHOTS, TASK, condition, limit=limit)
    assert not {p.id for p in asked} & {e.id for e in shots}
    assert len(asked) == min(limit, n - len(SHOTS))
    shuffled = tests[:]
    order.shuffle(shuffled)
    assert prompts.ask(shuffled, SHOTS, TASK, condition, limit=limit) == asked
    assert asked[0].prefix == prompts.prefix(shots, TASK, condition)
    assert not any(s.input in asked[0].prefix for s in SHOTS)


def test_another_seed_draws_other_exemplars_and_seed_zero_is_a_seed():
    tests = [an_item(i) for i in range(200)]
    drawn = {tuple(e.id for e in resampled(tests, 5, seed)) for seed in range(4)}
    assert len(drawn) == 4
    zero = prompts.ask(tests, SHOTS, TASK, replace(CONDITIONS["closed_few_resampled_1"], exemplar_seed=0))
    assert zero != ask(tests, "closed_few")


def test_drawn_exemplars_show_their_own_options_not_those_of_the_published_ones():
    task = conf.load_task("modified_arithmetic")
    assert task.exemplar_options["closed"]
    tests = [an_item(i) for i in range(20)]
    shots = resampled(tests, 5, 1)
    asked = prompts.ask(tests, SHOTS, task, CONDITIONS["closed_few_resampled_1"])
    assert all(option in asked[0].prefix for shot in shots for option in shot.options)


@pytest.mark.parametrize(
    ("base", "begins"),
    [("closed_zero", " The possible answers are"), ("closed_adv_zero", "QUESTION: \nOPTIONS: (a)")],
)
def test_content_free_is_the_template_with_an_empty_input(base, begins):
    tests = [an_item(i) for i in range(5)]
    for plain, free in zip(ask(tests, base), ask(tests, f"{base}_content_free"), strict=True):
        assert free.text.startswith(begins)
        assert (free.id, free.options, free.continuations) == (plain.id, plain.options, plain.continuations)
    tracked = conf.load_task("tracking_shuffled_objects")
    assert ask(tests, "closed_zero_content_free", tracked)[0].text.startswith(" The possible")


def test_wordings_differ_from_the_published_one_and_from_each_other():
    tests = [an_item(0)]
    names = ["closed_few", *(f"closed_few_{w}" for w in ("info_removed", "info_added", "paraphrased"))]
    asked = [ask(tests, name)[0] for name in names]
    assert len({p.text for p in asked}) == len({p.prefix for p in asked}) == 4
    assert len({(p.options, p.continuations, p.target) for p in asked}) == 1
    assert all(option in p.text for p in asked for option in p.options)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"control": "shift"}, "Did you mean shifts"),
        ({"exemplar_seed": 4}, "go together"),
        ({"control": "resampled"}, "go together"),
        ({"control": "resampled", "exemplar_seed": 1, "few_shot": False}, "few_shot: true"),
    ],
)
def test_a_condition_that_cannot_be_is_said(changes, said):
    with pytest.raises(UserError, match=said):
        prompts.ask([an_item(0)], SHOTS, TASK, replace(CONDITIONS["closed_few"], **changes))


# ---- defect 1 ----------------------------------------------------------------------


def a_task(**wording):
    return replace(TASK, wording=wording)


ADDS = a_task(closed_adv=Wording(after_input=" ?"), closed=Wording(after_input=" ?"))
HIDES = a_task(closed=Wording(show_options=False))
BARE = a_task()


@pytest.mark.parametrize(
    ("base", "earlier", "seen"),
    [
        ("closed_adv_few", [ADDS, BARE], "item 0? ?\nOPTIONS"),
        ("closed_adv_few", [BARE], "item 0?\nOPTIONS"),
        ("closed_adv_few", [HIDES], "item 0?\nOPTIONS"),
        ("closed_few", [HIDES, ADDS], "item 0? The correct answer is"),
        ("closed_few", [ADDS], "item 0? The possible answers are"),
        ("open_few", [HIDES, ADDS], "item 0? The correct answer is"),
    ],
)
def test_an_edited_template_stays_for_the_tasks_after_it(base, earlier, seen):
    fixed, leaky = ask([an_item(0)], base, BARE)[0], ask([an_item(0)], base, BARE, earlier=earlier)[0]
    assert seen in leaky.text
    assert leaky.prefix == fixed.prefix  # published prefixes are fixed text
    assert leaky.options == fixed.options  # what the file has is scored all the same


def test_the_last_edit_holds_a_task_keeps_its_own_and_an_edit_may_be_declared_not_to_leak():
    other = a_task(closed_adv=Wording(after_input="."))
    kept = a_task(closed_adv=Wording(after_input=".", leaks=False))
    assert prompts.leaked(BARE, "closed_adv", [ADDS, other]).wording["closed_adv"].after_input == "."
    assert prompts.leaked(other, "closed_adv", [ADDS]) == other
    assert prompts.leaked(BARE, "closed_adv", [ADDS, kept]).wording["closed_adv"].after_input == " ?"


@given(st.lists(st.sampled_from([ADDS, HIDES, BARE]), max_size=4), st.sampled_from(["closed", "closed_adv", "open"]))
def test_leaking_edits_nothing_in_place(earlier, prompt):
    before = copy.deepcopy([asdict(t) for t in (*earlier, BARE)])
    prompts.leaked(BARE, prompt, earlier)
    assert [asdict(t) for t in (*earlier, BARE)] == before


def test_the_order_of_a_runs_tasks_decides_what_leaks_and_only_under_the_switch():
    def inherited(*overrides):
        grid.register()
        with initialize_config_dir(str(conf.CONF), version_base="1.3"):
            made = grid.compose_run(compose("config", overrides=["+model=gpt2", *overrides]))
        return [t.name for t in grid.tasks_before(made, next(c for c in made.cells if c.task.name == NAME))]

    assert inherited(f"tasks=[codenames,{NAME}]") == ["codenames"]
    assert inherited(f"tasks=[{NAME},codenames]") == []


# ---- scores ----------------------------------------------------------------------


def answers(prompt, *logprob):
    n = len(prompt.options)
    said = {1: Completion(" no", 2, "eos")}
    return Answers(prompt, said, Likelihood(tuple(logprob), (3,) * n))


def test_prior_corrected_likelihood_takes_off_what_the_empty_input_gives():
    tests = [an_item(0, target=1), an_item(1, target=1), an_item(2, target=1)]
    plain, free = ask(tests, "closed_zero"), ask(tests, "closed_zero_content_free")
    scored = [answers(p, -1.0, -2.0, -9.0) for p in plain]
    prior = [answers(free[0], -1.0, -5.0, -9.0), answers(free[1], -1.0, -2.0, -3.0), answers(free[2], -0.5, -2.0, -9.0)]
    shares = collect.prior_corrected(scored, prior)
    # gains: (0, 3, 0) picks the gold; (0, 0, -6) is a tie of two; (-.5, 0, 0) is a tie of the other two
    assert shares == {plain[0].id: 1.0, plain[1].id: 0.5, plain[2].id: 0.5}


def test_a_twin_that_lacks_an_example_or_shows_other_options_corrects_nothing():
    tests = [an_item(0), an_item(1)]
    plain, free = ask(tests, "closed_zero"), ask(tests, "closed_zero_content_free")
    scored, prior = [answers(p, -1.0, -2.0, -3.0) for p in plain], [answers(p, -1.0, -1.0, -1.0) for p in free]
    assert collect.prior_corrected(scored, prior[:1]) == {}
    changed = [replace(prior[0], prompt=replace(free[0], continuations=("x", "y", "z"))), prior[1]]
    assert set(collect.prior_corrected(scored, changed)) == {plain[1].id}


def test_a_mean_is_over_examples_not_over_variants():
    tests = [an_item(0, m=2), an_item(1, m=5)]
    asked = ask(tests, "closed_adv_zero_shifts")
    right = {p.id: " (a)" if p.id.startswith(f"{NAME}/0~") and p.target == 0 else " (z)" for p in asked}
    said = {name: {1: Completion(text, 3, "eos")} for name, text in right.items()}
    scores = score_cell(asked, said, {}, Rules(True, Compat(name="fixed")))
    assert means_of(scores)["exact_match"] == pytest.approx((1 / 2 + 0 / 5) / 2)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    """A tiny random model under a plain condition and its controls, collected."""
    place = tmp_path_factory.mktemp("controls")
    tiny("llama", place / "weights")
    (place / "tasks").mkdir()
    rows = [*SHOTS, *(an_item(i) for i in range(20))]
    (place / "tasks" / f"{NAME}.jsonl").write_text("".join(json.dumps(asdict(e)) + "\n" for e in rows))
    controls = ("content_free", "shifts", "input_swapped")
    names = [
        "closed_adv_few",
        "closed_adv_zero",
        *(f"closed_adv_few_{c}" for c in controls),
        "closed_adv_few_resampled_1",
    ]
    overrides = [
        "+model=llama_7b", f"model.path='{place / 'weights'}'", "model.dtype=float32", "limit=4", "seeds=[7,8]",
        f"data='{place / 'tasks'}'", f"store='{place / 'store'}'", f"tasks=[{NAME}]",
        f"conditions=[{','.join(names)}]", f"out='{place / 'out/tiny'}'",
        f"tracking.uri='sqlite:///{place / 'runs.db'}'",
    ]  # fmt: skip
    grid.register()
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        assert run.execute(compose("config", overrides=overrides)) == 0
    return collect.collect(place / "out")


@pytest.mark.slow
def test_collect_names_control_and_variant_beside_the_bare_example(frame):
    plain = frame[frame.condition == "closed_adv_few"]
    assert plain[["control", "variant"]].isna().all(axis=None)
    asked = set(plain.example_id)
    shifted = frame[frame.control == "shifts"]
    assert set(shifted.example_id) == asked
    assert sorted(shifted.variant.unique()) == ["shift0", "shift1", "shift2"]
    assert not frame.duplicated(["fingerprint", "example_id", "variant", "seed"]).any()
    assert frame.groupby("condition").example_id.nunique().eq(4).all()
    assert frame.groupby("condition").fingerprint.nunique().eq(1).all()
    assert frame.fingerprint.nunique() == 6


@pytest.mark.slow
def test_only_the_plain_cell_that_has_a_twin_gets_a_prior(frame):
    has = frame.likelihood_prior.notna().groupby(frame.condition).agg(["all", "any"])
    assert has.loc["closed_adv_few", "all"]
    assert not has.drop(index="closed_adv_few")["any"].any()
    assert frame.likelihood_prior.dropna().between(0, 1).all()


@pytest.mark.slow
def test_the_first_shift_scores_as_the_plain_prompt(frame):
    columns = ["exact_match", "likelihood", "edit_distance"]
    plain = frame[frame.condition == "closed_adv_few"].set_index(["example_id", "seed"])[columns]
    first = frame[frame.variant.fillna("") == "shift0"].set_index(["example_id", "seed"])[columns]
    assert first.sort_index().equals(plain.sort_index())
