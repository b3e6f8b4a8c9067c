"""What the local engine shows of a model before it uses it, and what it does where it cannot."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from src.base.errors import UserError
from src.base.schema import Generation
from src.engine.choice import Choice
from src.engine.job import Job, Proof, Request, Result
from src.engine.local import LocalEngine
from src.engine.sampling import Sampler
from src.question.prompts import Prompt
from tests import zoo
from tests.engine.test_local import GREEDY, PROTOCOL, SEEDS, SHOTS, prompts
from tests.tiny import local_engine, tiny


def asked(engine: LocalEngine, cell: Sequence[Prompt], seeds: tuple[int, ...] = (0,), likelihood: bool = True) -> Any:
    """Results by prompt id."""
    found = list(engine.run([Request(prompt, seeds, likelihood) for prompt in cell]))
    return {result.prompt_id: result for batch in found for result in batch}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("llama", tmp_path_factory.mktemp("llama"))


# ---- What is proven


def test_a_proof_says_what_was_compared(llama: Path) -> None:
    engine, cell = local_engine(llama, "x", GREEDY), prompts(SHOTS)
    assert engine.proof is None
    asked(engine, cell)
    proof, longest = engine.proof, max(len(engine.ids(p)) + engine.budget(p) for p in cell)
    assert proof
    assert proof.way == "shared block"
    assert proof.prompts >= 2
    assert proof.longest >= longest
    assert proof.options >= 2
    assert proof.written > 0
    assert 0 < proof.within <= 1e-3
    assert str(proof).startswith(f"shared block: {proof.prompts} prompts of up to {proof.longest} tokens")


def test_longer_prompts_are_proven_anew_and_shorter_ones_are_not(llama: Path) -> None:
    engine = local_engine(llama, "x", GREEDY)
    longest = []
    for cell in (prompts(SHOTS, 3), prompts(4 * SHOTS, 3), prompts(SHOTS, 2)):
        asked(engine, cell)
        assert engine.proof
        longest.append(engine.proof.longest)
        assert longest[-1] >= max(len(engine.ids(p)) + engine.budget(p) for p in cell)
    assert longest[0] < longest[1] == longest[2]


def test_a_proof_does_not_count_as_work(llama: Path) -> None:
    """The tokens of a run are those of its answers, so that its speed is that of answering."""
    engine = local_engine(llama, "x", GREEDY)
    cell = prompts(count=1)
    asked(engine, cell, likelihood=False)
    assert engine.tokens <= len(engine.ids(cell[0])) + engine.budget(cell[0])


@pytest.mark.parametrize("name", ["llama_longrope", "llama_dynamic"])
def test_short_prompts_behind_long_ones_and_both_in_one_cell_are_right(name: str, tmp_path: Path) -> None:
    """What is proven of long prompts alone says nothing of short ones, nor of a batch that has both."""
    engine = local_engine(zoo.made(name, tmp_path), "x", GREEDY)
    by_length = sorted((p for cell in zoo.cells() for p in cell), key=lambda p: -len(p.prefix + p.text))
    found = zoo.compared(engine, asked=[by_length[:3], by_length[-3:], [*by_length[:2], *by_length[-2:]]])
    assert (found.differing, found.steady) == ((), True)
    assert found.largest < 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_hides_no_window(dtype: str, tmp_path: Path) -> None:
    """Rounding moves a log-likelihood by less than a window does that a way does not see."""
    engine = local_engine(zoo.made("gemma3_text", tmp_path), "x", GREEDY, dtype=dtype)
    cell = prompts(4 * SHOTS, 4)
    found = asked(engine, cell)
    assert engine.proof
    assert engine.proof.way == "shared block"
    with torch.no_grad():
        model = zoo.loaded(engine.folder)
        for prompt in cell:
            right = [zoo.forward_logprob(engine, model, prompt, full) for full in engine.scored(prompt)]
            assert found[prompt.id].likelihood.logprob == pytest.approx(right, rel=1e-2, abs=0.1)


def test_an_option_that_nothing_predicts_is_refused(llama: Path) -> None:
    engine = local_engine(llama, "x", GREEDY)
    whole = next(word for word in ("mouse", "house") if len(engine.encode(word)) == 1)
    prompt = Prompt("a/0", "g", "", whole[0], ("x", "y"), (whole[1:], " y"), 0, "x")
    with pytest.raises(UserError, match=r"a/0: an option .* merges with the whole prompt"):
        asked(engine, [prompt])


def test_a_way_that_is_wrong_beyond_a_length_is_left_there(tmp_path: Path) -> None:
    """The rotary frequencies of this one change behind 64 tokens, for the whole prompt and not for its end alone."""
    engine = local_engine(zoo.made("llama_longrope", tmp_path), "x", GREEDY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ways = []
        for cell in (prompts(count=3), prompts(4 * SHOTS, 3)):
            asked(engine, cell)
            assert engine.proof
            ways.append(engine.proof.way)
    assert ways[1] == "one by one"


# ---- What is refused


def jobs() -> list[Job]:
    ids = tuple(range(5, 45))
    return [Job(ids, (0,), 4, ((*ids, 7, 8), (*ids, 9))), Job((*ids[:30], 3, 4), (0,), 4, ())]


def test_a_model_that_answers_at_random_is_refused(llama: Path) -> None:
    from transformers import AutoModelForCausalLM

    def restless() -> Any:
        return AutoModelForCausalLM.from_pretrained(llama, attention_dropout=0.5).train()

    with pytest.raises(UserError, match=r"LlamaForCausalLM cannot be (asked|run so that its results can be trusted)"):
        Choice(restless, Sampler(0.0, 20)).ready(jobs())


@pytest.mark.parametrize("likelihood", [False, True])
def test_logits_that_are_no_numbers_are_no_answer(llama: Path, likelihood: bool) -> None:
    """float16 ends at 65504. Here one word of one prompt leads there, so that loading cannot tell."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    engine = local_engine(llama, "x", GREEDY)
    token = engine.encode(" river", False)[-1]
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = 6e4
        model.model.layers[0].mlp.down_proj.weight.mul_(2000)
    folder = llama.parent / f"overflow{likelihood}"
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((llama / name).read_text())
    half = local_engine(folder, "x", GREEDY, dtype="float16")
    calm = [replace(p, text=p.text.replace("river", "tree")) for p in prompts(count=3)]
    wild = replace(calm[0], id="wild", text="river river river " + calm[0].text)
    with pytest.raises(UserError, match=r"NaN or infinit.*float16.*(model\.dtype=bfloat16|model\.dtype)"):
        asked(half, [*calm, wild], likelihood=likelihood)


# ---- Answers stored by an older engine


def test_what_an_older_engine_may_have_answered_wrongly_is_asked_again(llama: Path, tmp_path: Path) -> None:
    def number(engine: LocalEngine) -> object:
        return engine.describe()["numerics"]

    sound = [local_engine(llama, "x", GREEDY), local_engine(tiny("gpt2", tmp_path / "gpt2"), "x", GREEDY)]
    mended = [
        local_engine(zoo.made("gpt_neo", tmp_path / "gpt_neo"), "x", GREEDY),
        local_engine(zoo.made("mamba", tmp_path / "mamba"), "x", GREEDY),
        local_engine(zoo.made("llama_dynamic", tmp_path / "dynamic"), "x", GREEDY),
        local_engine(llama, "x", GREEDY, dtype="float16"),
        local_engine(llama, "x", GREEDY, path=str(llama)),
    ]
    assert {number(engine) for engine in sound} == {1}
    assert {number(engine) for engine in mended} == {2}
    (prompt,) = prompts(count=1)
    assert sound[0].completion_key(prompt, 0) != mended[-1].completion_key(prompt, 0)
    assert sound[0].likelihood_key(prompt) != mended[-1].likelihood_key(prompt)


def test_a_rotary_embedding_that_grows_reads_beyond_the_window_it_names(tmp_path: Path) -> None:
    folder = zoo.made("llama_dynamic", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    engine = local_engine(folder, "x", GREEDY)
    named = config["max_position_embeddings"]
    (prompt,) = prompts("river stone " * named, 1)
    assert named < len(engine.ids(prompt)) <= config["rope_parameters"]["factor"] * named


# ---- Decoding along the options


def test_a_draw_along_an_option_is_the_same_and_needs_no_pass_of_its_own(llama: Path) -> None:
    """An option is here what the model writes anyway, so that its draws follow it to the end."""
    apart = local_engine(llama, "x", replace(PROTOCOL, extra_tokens=4))
    cell = prompts(SHOTS)
    alone = asked(apart, cell, SEEDS, likelihood=False)
    said = [replace(p, continuations=(alone[p.id].completions[SEEDS[0]].text, *p.continuations)) for p in cell]
    along = local_engine(llama, "x", replace(PROTOCOL, extra_tokens=4))
    both = asked(along, said, SEEDS)
    for prompt in cell:
        for seed in SEEDS:
            one, other = (found[prompt.id].completions[seed] for found in (alone, both))
            assert (one.text, one.n_tokens, one.finish) == (other.text, other.n_tokens, other.finish)
    only = local_engine(llama, "x", replace(PROTOCOL, extra_tokens=4))
    asked(only, said, ())
    written = along.tokens - only.tokens
    steps = sum(alone[p.id].completions[SEEDS[0]].n_tokens - 1 for p in cell)
    assert written < steps


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_options_beside_it_change_no_draw(llama: Path, temperature: float) -> None:
    generation = Generation(temperature=temperature)
    with_options, without = (
        asked(local_engine(llama, "x", generation), prompts(SHOTS), SEEDS, likelihood=likelihood)
        for likelihood in (True, False)
    )

    def drawn(found: dict[str, Result]) -> dict[str, Any]:
        return {key: [(c.text, c.n_tokens) for c in each.completions.values()] for key, each in found.items()}

    assert drawn(with_options) == drawn(without)


def test_a_proof_is_rounded_so_that_machines_agree() -> None:
    proof = Proof("state", 2, 40, 3, 12, 1e-5)
    assert str(proof).endswith("log-likelihoods within 1e-05")
