from __future__ import annotations

import hashlib
import json
import random
import re
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from src.base import conf, grid
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Condition, Generation
from src.engine.attention import FLASH_FROM, SHARED, shared_prefix_attention
from src.engine.decoder import Decoder
from src.engine.job import Request, Result
from src.engine.local import LocalEngine
from src.engine.sampling import Sampler, prompt_hash, uniforms
from src.question import examples
from src.question.prompts import Prompt, ask
from tests import zoo
from tests.tiny import local_engine, tiny
from tests.zoo import forward_logprob, loaded

SMOLLM2 = ROOT / "data/raw/smollm2_135m_instruct/fp32"
SHARING = ("gpt2", "gptj", "falcon_7b", "falcon_40b", "llama", "gpt_neox")
ARCHITECTURES = (*SHARING, "falcon_alibi", "t5")
WORDS = re.findall(r"\w+", "mouse house stone cork water float answer larger is the of and not tree river blue")
SHOTS = 'Which is larger, a mouse or a house? The correct answer is "house".\n\nWhat floats? It is "a cork".\n\n' * 2
GREEDY, PROTOCOL = Generation(temperature=0), Generation(temperature=0.01, top_k=20)
SEEDS = (2266, 105, 86379)

Make = Callable[..., LocalEngine]


@pytest.fixture
def make(folder: Callable[[str], Path]) -> Make:
    def engine(arch: str, generation: Generation = GREEDY, **options: Any) -> LocalEngine:
        return local_engine(folder(arch), "revision", generation, **options)

    return engine


def prompts(prefix: str = "", count: int = 8) -> list[Prompt]:
    """Questions of 2 to 24 words with two or three options, some of them beginning alike."""
    made = []
    for i in range(count):
        text = " ".join(WORDS[(i * 7 + j * j) % 16] for j in range(2 + (i * 5) % 23)) + " The answer is"
        options = ("mouse", "house of cards", "house of stone")[: 2 + i % 2]
        made.append(Prompt(f"t/{i}", "g", prefix, text, options, tuple(f' "{o}".' for o in options), 0, "mouse"))
    return made


def run(
    engine: LocalEngine, asked: Sequence[Prompt], seeds: tuple[int, ...] = (0,), likelihood: bool = True
) -> dict[str, Result]:
    with warnings.catch_warnings():
        return {r.prompt_id: r for batch in engine.run([Request(p, seeds, likelihood) for p in asked]) for r in batch}


def texts(results: dict[str, Result], seed: int = 0) -> dict[str, str]:
    return {key: result.completions[seed].text for key, result in results.items()}


def reference(engine: LocalEngine) -> Any:
    """The same checkpoint as transformers runs it."""
    return loaded(engine.folder)


def generated(engine: LocalEngine, model: Any, prompt: Prompt) -> list[int]:
    """Greedy tokens by `generate`."""
    return list(zoo.generated(engine, model, prompt)[0])


# ---- The same as transformers


@pytest.mark.parametrize("prefix", ["", SHOTS], ids=["zero", "few"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_completions_equal_generate_and_likelihoods_a_forward_pass(make: Make, arch: str, prefix: str) -> None:
    engine = make(arch, token_budget=700)
    asked = prompts(prefix)
    results, model = run(engine, asked), reference(engine)
    for prompt in asked:
        found, tokens = results[prompt.id].completions[0], generated(engine, model, prompt)
        assert found.text == engine.tokenizer.decode(tokens, skip_special_tokens=True)
        assert found.n_tokens == len(tokens)
        scored = results[prompt.id].likelihood
        assert scored is not None
        expected = [forward_logprob(engine, model, prompt, full) for full in engine.scored(prompt)]
        assert scored.logprob == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arch", SHARING)
def test_a_shared_prefix_is_computed_once(make: Make, arch: str) -> None:
    engine, asked = make(arch), prompts(SHOTS)
    run(engine, asked, likelihood=False)
    lengths = [len(engine.ids(p)) for p in asked]
    decoded = sum(engine.budget(p) - 1 for p in asked)
    shared = len(engine.encode(SHOTS))
    assert engine.tokens <= sum(lengths) - (len(asked) - 1) * (shared - 2) + decoded


@pytest.mark.parametrize("arch", ["gpt2", "gptj", "t5", "falcon_alibi"])
@torch.no_grad()
def test_any_of_the_models_end_tokens_ends_a_completion(make: Make, arch: str, tmp_path: Path) -> None:
    folder = tiny(arch, tmp_path)
    engine, asked = local_engine(folder, "x", GREEDY), prompts(count=6)
    model = reference(engine)
    ends = [0, *(generated(engine, model, p)[: 3 + i][-1] for i, p in enumerate(asked[:3]))]
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": ends}))
    results, model = run(engine, asked), reference(engine)
    for prompt in asked:
        found, tokens = results[prompt.id].completions[0], generated(engine, model, prompt)
        assert found.n_tokens == len(tokens)
        assert found.finish == ("eos" if tokens[-1] in ends else "length")
    assert {r.completions[0].finish for r in results.values()} >= {"eos"}


@torch.no_grad()
def test_an_option_that_merges_with_the_prompts_end_is_scored_from_there(make: Make) -> None:
    engine = make("llama")
    prompt = Prompt("a", "g", "", "What is larger? It is the ", ("house",), ("house", "stone"), 0, "house")
    ids, full = engine.ids(prompt), engine.scored(prompt)[0]
    assert full[: len(ids)] != ids, "the tokenizer merges across the boundary"
    scored = run(engine, [prompt])["a"].likelihood
    assert scored is not None
    expected = [forward_logprob(engine, reference(engine), prompt, f) for f in engine.scored(prompt)]
    assert scored.logprob == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_a_prompt_longer_than_the_window_loses_its_beginning(make: Make) -> None:
    engine = make("gpt2")
    long = replace(prompts(count=1)[0], prefix="river stone " * 300)
    assert len(engine.ids(long)) + engine.budget(long) <= engine.config.max_position_embeddings
    found = run(engine, [long, *prompts(SHOTS, 3)[1:]])[long.id].completions[0]
    assert found.text == engine.tokenizer.decode(generated(engine, reference(engine), long))


def test_an_architecture_that_cannot_share_says_so_once(tmp_path: Path) -> None:
    engine = local_engine(zoo.made("openai_gpt", tmp_path), "x", GREEDY)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            list(engine.run([Request(p, (0,), False) for p in prompts(count=2)]))
    assert ["prompts run one by one, same result" in str(w.message) for w in said] == [True]


# ---- A result depends on its own prompt and seed only


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("arch", ["gpt2", "falcon_7b", "t5", "falcon_alibi"])
def test_batch_size_order_and_company_change_nothing(make: Make, arch: str, temperature: float) -> None:
    generation = Generation(temperature=temperature)
    asked = prompts(SHOTS)
    engine = make(arch, generation)
    whole = run(engine, asked)
    shuffled = random.Random(1).sample(asked, len(asked))
    small = make(arch, generation, token_budget=150)
    for other in (run(engine, shuffled), run(small, asked), run(engine, asked[3:5]), run(engine, asked[7:8])):
        for key, result in other.items():
            assert replace(result.completions[0], near_tie=None) == replace(whole[key].completions[0], near_tie=None)
            assert result.likelihood is not None
            assert whole[key].likelihood is not None
            assert result.likelihood.logprob == pytest.approx(whole[key].likelihood.logprob, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.01, 1.0])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_seed_alone_writes_what_it_writes_among_others(make: Make, arch: str, temperature: float) -> None:
    engine, asked, seeds = make(arch, Generation(temperature=temperature)), prompts(SHOTS, 6), (2266, 105, 86379, 0)
    together = run(engine, asked, seeds, likelihood=False)
    for seed in seeds:
        alone = run(engine, asked, (seed,), likelihood=False)
        assert texts(alone, seed) == texts(together, seed)
    if temperature == 1.0:
        assert len({texts(together, seed)["t/3"] for seed in seeds}) > 1


def test_seeds_that_agree_are_computed_once(make: Make) -> None:
    asked = prompts(count=4)
    one, many = make("gpt2", Generation(temperature=1e-9)), make("gpt2", Generation(temperature=1e-9))
    run(one, asked, (1,))
    run(many, asked, (1, 2, 3))
    assert many.tokens == one.tokens


def test_the_global_generators_are_left_alone(make: Make) -> None:
    engine = make("gpt2", Generation(temperature=1.0))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    run(engine, prompts(count=2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]  # type: ignore[index]


# ---- The sampler's distribution is plain sampling's


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 8), (0.7, 20), (2.0, 0)])
def test_draws_follow_the_softmax_over_the_top_k(temperature: float, top_k: int) -> None:
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(3)) * 1.5
    sampler, n = Sampler(temperature, top_k), 20_000
    tokens, _ = sampler.choose(logits, [0] * n, [7] * n, list(range(n)), [4] * n)
    kept = logits[0].topk(top_k or 30).indices
    expected = (logits[0, kept].double() / temperature).softmax(0).numpy() * n
    seen = np.bincount(tokens, minlength=30)
    assert seen.sum() == seen[kept].sum()
    assert stats.chisquare(seen[kept], expected * seen.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("axis", ["prompt", "seed", "step", "token"])
def test_noise_is_uniform_and_neighbours_are_independent(axis: str) -> None:
    key: dict[str, Any] = {"prompt": prompt_hash([1, 2]), "seed": 105, "step": 0, "token": 11}
    noise = uniforms(*{**key, axis: np.arange(40_000)}.values())
    assert stats.kstest(noise, "uniform").pvalue > 1e-3
    table = np.histogram2d(noise[:-1], noise[1:], bins=10)[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-3


def test_draws_do_not_move_between_versions_or_machines() -> None:
    """Golden: computed with Python integers from the definition of splitmix64."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    state = 0
    for part in (prompt_hash([5, 6, 7]), 2266, 3, 41):
        state = mix(((state ^ part) + 0x9E3779B97F4A7C15) % 2**64)
    assert uniforms(prompt_hash([5, 6, 7]), 2266, 3, 41) == ((state >> 11) + 0.5) * 2.0**-53
    assert prompt_hash([5, 6, 7]) == int.from_bytes(hashlib.sha256(struct.pack("<3q", 5, 6, 7)).digest()[:8], "little")


def test_a_near_tie_is_reported_in_logits() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0 - 5e-5, 1.0], [0.0, 3.0, 1.0, 1.0]])
    tokens, margins = Sampler(0, 20).choose(logits, [0, 1], [1, 1], [0, 0], [0, 0])
    assert tokens == [1, 1]
    assert margins == pytest.approx([5e-5, 2.0], rel=1e-2)
    assert Sampler(0, 20).choose(torch.tensor([[1.0, 2.0, 2.0]]), [0], [1], [0], [0]) == ([1], [0.0])


# ---- Keys


def test_keys_change_with_what_matters(make: Make) -> None:
    prompt = prompts(SHOTS)[0]
    sampled = Generation(temperature=0.01)
    engine = make("gpt2", sampled)
    others = [
        local_engine(engine.folder, "other", sampled),
        make("gpt2", sampled, dtype="bfloat16"),
        make("gpt2", replace(sampled, temperature=0.5)),
        make("gpt2", replace(sampled, top_k=5)),
        make("gpt2", replace(sampled, extra_tokens=1)),
        make("gpt2", replace(sampled, temperature=0)),
        make("gpt2", sampled, leading="<unk>"),
    ]
    keys = [e.completion_key(prompt, 1) for e in (engine, *others)]
    keys += [engine.completion_key(prompt, 2), engine.completion_key(replace(prompt, text=prompt.text + " "), 1)]
    keys += [engine.likelihood_key(prompt), engine.likelihood_key(replace(prompt, continuations=(" a", " b")))]
    keys += [e.likelihood_key(prompt) for e in others[:2]]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


def test_keys_do_not_change_with_anything_else(make: Make) -> None:
    prompt, sampled = prompts(SHOTS)[0], Generation(temperature=0.01)
    engine = make("gpt2", sampled)
    renamed = replace(prompt, id="x", group="y", prefix="", text=prompt.prefix + prompt.text, target=1)
    small = make("gpt2", sampled, token_budget=9)
    assert engine.completion_key(renamed, 1) == engine.completion_key(prompt, 1) == small.completion_key(prompt, 1)
    hot = make("gpt2", Generation(temperature=1.0, top_k=3, extra_tokens=2))
    assert hot.likelihood_key(renamed) == engine.likelihood_key(prompt)
    greedy, wide = make("gpt2"), make("gpt2", replace(GREEDY, top_k=3))
    assert greedy.completion_key(prompt, 1) == greedy.completion_key(prompt, 2) == wide.completion_key(prompt, 1)


def test_keys_need_no_weights(make: Make, tmp_path: Path) -> None:
    folder = tiny("gpt2", tmp_path)
    (folder / "model.safetensors").unlink()
    code = (
        "import sys; from pathlib import Path; from tests.tiny import local_engine\n"
        "from src.question.prompts import Prompt\n"
        "e = local_engine(Path(sys.argv[1]), 'revision')\n"
        "p = Prompt('a', 'g', '', 'the stone', ('a',), (' a',), 0, 'a')\n"
        "print(e.completion_key(p, 1), e.likelihood_key(p), e.tokens); assert 'src.engine.choice' not in sys.modules"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    prompt = Prompt("a", "g", "", "the stone", ("a",), (" a",), 0, "a")
    engine = make("gpt2", Generation())
    assert out.stdout.split() == [engine.completion_key(prompt, 1), engine.likelihood_key(prompt), "0"]


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config.json.*dvc repro"):
        local_engine(tmp_path / "none", "x", GREEDY)


# ---- Budgets and text


def test_the_token_budget_is_the_longest_options_and_eight(make: Make) -> None:
    prompt = Prompt("a", "g", "", "q", ("a", "the house of stone", "is"), (), None, "is")
    engine = make("gpt2")
    assert engine.budget(prompt) == len(engine.tokenizer("the house of stone").input_ids) + 8
    assert engine.budget(replace(prompt, options=())) == len(engine.tokenizer("is").input_ids) + 8


def test_the_published_budget_takes_the_option_longest_in_characters(make: Make) -> None:
    prompt = Prompt("a", "g", "", "q", ("the house house house", "zqxzqxzqx"), (), None, "")
    fixed, published = make("gpt2"), make("gpt2", batch_budget=True)
    tokens = {o: len(fixed.tokenizer(o).input_ids) for o in prompt.options}
    assert tokens["zqxzqxzqx"] > tokens["the house house house"]
    assert fixed.budget(prompt) - published.budget(prompt) == tokens["zqxzqxzqx"] - tokens["the house house house"]


def test_what_the_decoder_puts_before_a_completion_is_removed_as_a_prefix(make: Make) -> None:
    ids = make("gpt2").encode("unk>unknown")
    assert make("gpt2", leading="unk>").text((), ids) == "unknown"
    assert make("gpt2", leading="unk>", strip_letters=True).text((), ids) == "own"


def test_the_published_cut_also_removes_the_prompt_where_it_is_repeated(make: Make) -> None:
    engine = make("gpt2", prompt_by_text=True)
    prompt = engine.encode("the stone")
    assert engine.text(prompt, engine.encode(" is the stone.")) == " is ."
    assert make("gpt2").text(prompt, engine.encode(" is the stone.")) == " is the stone."


# ---- Batches


def test_what_is_not_asked_for_is_not_computed(make: Make) -> None:
    engine, (prompt,) = make("gpt2"), prompts(count=1)
    (result,) = run(engine, [prompt], seeds=()).values()
    assert result.completions == {}
    assert result.likelihood is not None
    (result,) = run(engine, [prompt], likelihood=False).values()
    assert result.likelihood is None
    assert list(engine.run([])) == []


class SmallDevice(Decoder):
    """A device that holds three rows."""

    def run(self, jobs: Sequence[Any]) -> Any:
        if len(jobs) > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")
        return super().run(jobs)


def test_out_of_memory_makes_smaller_batches_and_loses_nothing(make: Make) -> None:
    engine, asked = make("gpt2"), prompts(SHOTS)
    expected = texts(run(engine, asked))
    engine.choice.way.__class__ = SmallDevice
    batches = list(engine.run([Request(p, (0,), True) for p in asked]))
    assert max(map(len, batches)) <= 3
    assert {r.prompt_id: r.completions[0].text for b in batches for r in b} == expected


def test_an_interrupt_is_not_swallowed(make: Make) -> None:
    engine = make("gpt2", token_budget=100)
    batches = engine.run([Request(p, (0,), False) for p in prompts()])
    assert next(batches)
    with pytest.raises(KeyboardInterrupt):
        batches.throw(KeyboardInterrupt)  # type: ignore[attr-defined]


# ---- A real model


FEW = ("misconceptions", "codenames", "figure_of_speech_detection", "social_iqa", "strange_stories")
"""The pilot's tasks with the shortest and the longest exemplars, no options, ten options, and a middle length."""


def real_prompts(engine: LocalEngine) -> dict[str, list[Prompt]]:
    """The shortest and the longest zero-shot prompt of the first eight of each of the pilot's 20 tasks.

    And pairs of few-shot prompts, so that a prefix is shared, of the tasks in FEW.
    """

    def asked(name: str, shots: str, count: int) -> list[Prompt]:
        exemplars, tests, _ = examples.load(name)
        condition = conf.load("condition", f"closed_{shots}", Condition)
        found = ask(tests, exemplars, conf.load_task(name), condition, count)
        found = [replace(prompt, id=f"{shots}/{prompt.id}") for prompt in found]
        return sorted(found, key=lambda prompt: (len(engine.ids(prompt)), prompt.id))

    zero = [asked(name, "zero", 8) for name in grid.params()["tasks"][:20]]
    shortest = sorted((prompts[0] for prompts in zero), key=lambda prompt: (len(engine.ids(prompt)), prompt.id))
    rest = [*shortest[SHORT:], *(prompts[-1] for prompts in zero), *(p for name in FEW for p in asked(name, "few", 2))]
    return {"short": shortest[:SHORT], "the_rest": rest}


SHORT = 10


@pytest.mark.skipif(not SMOLLM2.exists(), reason=f"{SMOLLM2.relative_to(ROOT)} is missing: dvc repro makes it")
@pytest.mark.parametrize("part", ["short", pytest.param("the_rest", marks=pytest.mark.slow)])
@torch.no_grad()
def test_a_real_model_writes_what_generate_writes(part: str) -> None:
    """Greedy completions are equal but for near-ties, which are listed; log-likelihoods those of a forward pass.

    One option of each prompt is compared, another one from prompt to prompt: a forward pass takes seconds.
    """
    engine = local_engine(SMOLLM2, "x", GREEDY)
    asked, model = real_prompts(engine)[part], reference(engine)
    results = {}
    for prefix in {prompt.prefix for prompt in asked}:
        results |= run(engine, [prompt for prompt in asked if prompt.prefix == prefix])
    differing = []
    for place, prompt in enumerate(asked):
        found = results[prompt.id].completions[0]
        if found.text != engine.tokenizer.decode(generated(engine, model, prompt), skip_special_tokens=True):
            differing.append((prompt.id, found.near_tie))
        scored = results[prompt.id].likelihood
        options = engine.scored(prompt)
        if options:
            expected = forward_logprob(engine, model, prompt, options[place % len(options)])
            assert scored is not None
            assert scored.logprob[place % len(options)] == pytest.approx(expected, rel=1e-4)
    print(f"{len(asked)} prompts, {len(differing)} near-ties: {differing}")
    assert all(near_tie is not None for _, near_tie in differing), differing


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2.exists(), reason=f"{SMOLLM2.relative_to(ROOT)} is missing: dvc repro makes it")
@pytest.mark.parametrize("few", [False, True], ids=["zero", "few"])
def test_a_real_cell_does_not_depend_on_batches_or_order(few: bool) -> None:
    """Real prompts at 1, 3 and 8 a batch and in another order: what differs is a near-tie, and listed as one."""
    task = conf.load_task("social_iqa")
    shots, tests, _ = examples.load(task.name)
    condition = conf.load("condition", f"closed_{'few' if few else 'zero'}", Condition)
    asked = ask(tests, shots, task, condition, 8)
    engine, found = local_engine(SMOLLM2, "x", PROTOCOL), {}
    for name, rows, order in (("1", 1, asked), ("3", 3, asked), ("8", 8, asked), ("shuffled", 8, asked[::-1])):
        parts = [run(engine, order[lo : lo + rows], SEEDS) for lo in range(0, len(order), rows)]
        found[name] = {key: result for part in parts for key, result in part.items()}
    differing = [
        (name, prompt.id, seed)
        for name, results in found.items()
        for prompt in asked
        for seed in SEEDS
        if results[prompt.id].completions[seed].text != found["8"][prompt.id].completions[seed].text
        and all(r[prompt.id].completions[seed].near_tie is None for r in found.values())
    ]
    assert differing == []
    for results in found.values():
        for prompt in asked:
            scored, expected = results[prompt.id].likelihood, found["8"][prompt.id].likelihood
            assert scored is not None
            assert expected is not None
            assert scored.logprob == pytest.approx(expected.logprob, rel=1e-4)


def test_a_kernel_that_is_wrong_for_long_suffixes_is_not_used(make: Make) -> None:
    """Whether a model may share a prefix is tried on the kernel its prompts will meet."""
    from transformers import AttentionInterface

    def wrong(module: Any, query: torch.Tensor, *rest: Any, **more: Any) -> tuple[torch.Tensor, None]:
        out, none = shared_prefix_attention(module, query, *rest, **more)
        return (out if query.shape[2] < FLASH_FROM else 2 * out), none

    def way() -> str:
        engine = make("llama")
        run(engine, prompts(SHOTS, 3))
        assert engine.proof
        return engine.proof.way

    assert way() == "shared block"
    AttentionInterface.register(SHARED, wrong)
    try:
        assert way() == "copied prefix"
    finally:
        AttentionInterface.register(SHARED, shared_prefix_attention)
