"""A server is believed only where it reads what was sent, and says what the weights on this disk say."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.base.errors import UserError
from src.base.schema import Generation, Model, Serving
from src.engine.beside import chosen
from src.engine.job import Request, Result
from src.engine.openai import OpenAIEngine
from src.engine.start import kept
from src.question.prompts import Prompt
from src.source import weights
from tests.completions import Served, serving
from tests.tiny import END, local_engine, tiny

GREEDY = Generation(temperature=0.0)
THINGS = ("mouse", "house", "cork", "stone", "answer")


def prompt_of(number: int) -> Prompt:
    text = f"Which is larger, a {THINGS[number % 5]}{' or a house' * (number // 5)}? The correct one is"
    return Prompt(f"t/{number}", f"g{number}", "", text, ("mouse", "house"), (' "mouse".', ' "house".'), 0, "mouse")


PROMPTS = [prompt_of(number) for number in range(10)]
Reads = Callable[[list[int]], list[int]]


class Bench:
    """A tiny model on this disk, and engines for servers that should have it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.own = local_engine(folder, generation=GREEDY)

    def engine(self, url: str, model: Model | None = None, **how: Any) -> OpenAIEngine:
        asked = {"retries": 0, "timeout_s": 600.0, "compare": 4, "proof_body": {"return_token_ids": True}, **how}
        serves = Serving(name="openai", kind="openai", base_url=url, model="m", **asked)
        keep = functools.partial(kept, self.folder.parent / "unusable")
        count = functools.partial(lambda text: len(self.own.encode(text, False)))
        own = functools.partial(local_engine, self.folder, generation=GREEDY)
        return OpenAIEngine(serves, model or Model(name="m"), GREEDY, count, keep, self.own.encode, own)

    def said(self, served: Served, prompts: list[Prompt] = PROMPTS, **how: Any) -> tuple[OpenAIEngine, list[Result]]:
        with serving(served) as url:
            engine = self.engine(url, **how)
            return engine, [r for batch in engine.run([Request(p, (1,), False) for p in prompts]) for r in batch]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tiny("llama", tmp_path_factory.mktemp("a model") / "weights"))


def test_a_server_with_the_model_is_proven_before_its_answers_count(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, results = bench.said(Served(bench.folder))
    assert len(results) == 10
    assert engine.proof
    assert (engine.proof.way, engine.proof.prompts) == ("server", 4)
    assert engine.proof.within <= 1e-4
    assert "4 greedy answers as the local engine's, log-likelihoods of" in capsys.readouterr().err


def test_a_server_without_log_probabilities_is_compared_by_text(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, results = bench.said(Served(bench.folder, scores=False))
    assert (len(results), engine.proof) == (10, None)
    assert "4 greedy answers as the local engine's, texts alone" in capsys.readouterr().err


@pytest.mark.parametrize("status", [400, 422, 501])
def test_a_server_that_refuses_log_probabilities_is_compared_by_text(
    bench: Bench, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, results = bench.said(Served(bench.folder, refuses_logprobs=status))
    assert (len(results), engine.proof) == (10, None)
    assert "4 greedy answers as the local engine's, texts alone" in capsys.readouterr().err


def test_weights_that_do_not_load_are_named_with_the_way_to_go_on_without_them(bench: Bench, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(bench.folder, tmp_path / "cut"))
    (cut / "model.safetensors").write_bytes((bench.folder / "model.safetensors").read_bytes()[:2000])
    with serving(Served(bench.folder)) as url:
        engine = bench.engine(url)
        engine.own = functools.partial(local_engine, cut, generation=GREEDY)
        with pytest.raises(UserError, match=r"compared with the weights on this disk, but: .* engine.compare=0"):
            list(engine.run([Request(PROMPTS[0], (1,), False)]))


def test_weights_that_are_here_in_part_are_none_to_compare_with(tmp_path: Path) -> None:
    """A link of the hub's cache may lead to nothing, and an index may name files that were not fetched yet."""
    assert weights.size(tmp_path) is None
    (tmp_path / "a.safetensors").write_bytes(b"123")
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "never.bin"}}')
    assert weights.size(tmp_path) == 3
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}')
    assert weights.size(tmp_path) is None
    (tmp_path / "b.safetensors").symlink_to(tmp_path / "blob")
    assert weights.size(tmp_path) is None
    (tmp_path / "blob").write_bytes(b"4")
    assert weights.size(tmp_path) == 4


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read: .* fetch it again"):
        weights.tokenizer(Model(name="m", path=str(tmp_path)))


def test_another_model_behind_the_server_is_refused_by_its_text_in_every_cell(bench: Bench, tmp_path: Path) -> None:
    served = Served(tiny("llama", tmp_path / "other", seed=1))
    with serving(served) as url:
        engine = bench.engine(url)
        for _ in "two cells":
            with pytest.raises(UserError, match=r"does not answer t/\d as the local engine does: .* another model"):
                list(engine.run([Request(prompt, (1,), False) for prompt in PROMPTS]))
    assert len(served.asked) == 4  # the comparison alone, once
    with serving(served) as url, pytest.raises(UserError) as refused:
        list(bench.engine(url, compare_nats=1e9).run([Request(PROMPTS[0], (1,), False)]))
    assert "engine.compare=0" in str(refused.value)
    assert "compare_nats" not in str(refused.value)  # it is no remedy for another text


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_precision_is_refused_where_the_texts_are_the_same(bench: Bench, dtype: str) -> None:
    """Both engines are asked for one token, which rounding does not change; its log-probability tells."""
    short = [prompt for prompt in PROMPTS if same_beginning(bench, prompt, dtype)][:4]
    assert len(short) == 4
    with pytest.raises(
        UserError, match=r"nats from the local engine .* a precision other than model.dtype.*A larger one takes"
    ):
        bench.said(Served(bench.folder, dtype=dtype), short, compare_nats=1e-4)
    engine, _ = bench.said(Served(bench.folder, dtype=dtype), short, compare_nats=1.0)  # the user takes it
    assert engine.proof
    assert engine.proof.within > 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_server_in_the_precision_that_the_model_names_is_believed(bench: Bench, dtype: str) -> None:
    """Kernels of half precision round apart by more than those of float32."""
    with serving(Served(bench.folder, dtype=dtype)) as url:
        engine = bench.engine(url, compare=10, model=Model(name="m", dtype=dtype))
        engine.own = functools.partial(local_engine, bench.folder, generation=GREEDY, dtype=dtype)
        assert len([r for batch in engine.run([Request(p, (1,), False) for p in PROMPTS]) for r in batch]) == 10
    assert engine.proof


def same_beginning(bench: Bench, prompt: Prompt, dtype: str) -> bool:
    rounded, _ = Served(bench.folder, dtype=dtype).choice(prompt.text, 0, {"max_tokens": bench.own.budget(prompt)})
    ((own,),) = bench.own.run([Request(prompt, (1,), False)])
    return bool(rounded["text"] == own.completions[1].text)


READ: dict[str, tuple[Reads, str]] = {
    "a token in front": (lambda ids: [0, *ids], "it read "),
    "a chat template": (lambda ids: [0, 9, 9, *ids, 0, 9], "it read "),
    "the beginning cut off": (lambda ids: ids[-8:], "it read "),
    "the end cut off": (lambda ids: ids[:8], "it read "),
    "the middle cut out": (lambda ids: ids[:4] + ids[-4:], "it read "),
    "another tokenizer": (lambda ids: ids[::-1], "it read other tokens"),
}


@pytest.mark.parametrize("what", READ)
@pytest.mark.parametrize("scored", [False, True])
def test_a_prompt_that_was_read_otherwise_is_no_answer(bench: Bench, what: str, scored: bool) -> None:
    reads, said = READ[what]
    with serving(Served(bench.folder, reads=reads)) as url:
        engine = bench.engine(url, compare=0)
        with pytest.raises(UserError, match=f"is no answer: {said}.*What to switch off.*What came back is kept in"):
            list(engine.run([Request(PROMPTS[0], () if scored else (1,), scored)]))


def test_a_special_token_within_the_text_is_read_as_the_models_own_tokenizer_reads_it(bench: Bench) -> None:
    text = f"Which is larger{END}, a mouse or a house?"
    own = bench.own.encode(text)
    assert 0 in own
    prompt = Prompt("t/x", "g", "", text, ("mouse",), (), 0, "mouse")
    apart = [3, 5, 7]  # any tokens that spell it letter by letter

    def reads(ids: list[int]) -> list[int]:
        return [part for i in ids for part in (apart if i == 0 else [i])]

    with pytest.raises(UserError, match="it read "):
        bench.said(Served(bench.folder, reads=reads), [prompt], compare=0)
    assert len(bench.said(Served(bench.folder), [prompt], compare=0)[1]) == 1


def test_what_a_user_takes_knowingly_is_not_refused(bench: Bench) -> None:
    reads = READ["a token in front"][0]
    assert len(bench.said(Served(bench.folder, reads=reads), compare=0, check_tokens=False)[1]) == 10


def test_llama_cpp_counts_the_first_text_of_a_list_and_is_believed(bench: Bench) -> None:
    def bend(asked: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        answer["usage"]["prompt_tokens"] = len(bench.own.encode(asked["prompt"][0]))
        return answer

    with serving(Served(bench.folder, bend=bend)) as url:
        ((result,),) = bench.engine(url, compare=0).run([Request(PROMPTS[0], (), True)])
    assert result.likelihood


def test_a_server_that_dies_of_a_seed_is_told_how_not_to(bench: Bench) -> None:
    served = Served(bench.folder, faults=("500",))
    with serving(served) as url:
        engine = bench.engine(url, compare=0, seed_advice="Start it otherwise")
        engine.generation = Generation(temperature=1.0)
        with pytest.raises(UserError, match=r"try again.*\. Start it otherwise"):
            list(engine.run([Request(PROMPTS[0], (1,), False)]))
    engine = bench.engine(url, compare=0, seed_advice="Start it otherwise")  # it is gone; without a seed it is no cause
    with pytest.raises(UserError, match=r"the same command goes on\.$"):
        list(engine.run([Request(PROMPTS[0], (1,), False)]))


def test_the_prompts_that_are_compared_are_the_shortest_the_longest_and_between() -> None:
    lengths = [len(prompt.text) for prompt in chosen(PROMPTS, 4)]
    assert len(lengths) == 4
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (min(len(p.text) for p in PROMPTS), max(len(p.text) for p in PROMPTS))
    assert chosen(PROMPTS[:3], 4) == sorted(PROMPTS[:3], key=lambda p: (len(p.text), p.id))
