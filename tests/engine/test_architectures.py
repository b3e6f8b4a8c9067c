"""The local engine on each architecture of tests/zoo.py: what transformers alone says of it, or a refusal.

The table of architectures in docs/models.md is made from this file: `python -m tests.engine.test_architectures`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Generation
from src.engine.local import LocalEngine
from tests import zoo
from tests.tiny import local_engine

PAGE = ROOT / "docs/models.md"
BEGIN, END = "<!-- architectures -->", "<!-- /architectures -->"
CAUSAL = [*zoo.DECODERS, *zoo.ENCODER_DECODERS]
FAST = (  # one of each way an architecture departs from the plain one
    "gpt_neo", "llama_dynamic", "llama_longrope", "llama4_text", "mistral", "gemma2", "gpt_oss", "deepseek_v3",
    "falcon_alibi", "mamba", "jamba", "rwkv", "bart", "t5gemma", "bigbird_pegasus_sparse",
)  # fmt: skip
LARGEST = 1e-3  # nats between two orders of the same float32 sums over 500 tokens; a real fault shifts far more
HEAD = f"""{BEGIN}
## Architectures

Each row is a tiny random checkpoint that transformers made (tests/zoo.py): 2 to 4 layers, and windows that its prompts
of 20 to 520 tokens cross. The engine answered them, with and without shared exemplars, and transformers alone answered
them one at a time. Every greedy text is that of `model.generate`, but for ties below {zoo.NEAR_TIE:g} in logits.

- **way**: how the engine ran it after all its prompts. It refuses the ones that are marked so.
- **largest difference**: what no log-likelihood differs by from that of a plain forward pass, in nats. It is a power of
  ten that leaves room for another machine's sums.

| way | what prompts share | for |
|---|---|---|
| shared block | the prefix, which no row copies | decoders with transformers' attention interface, windows included |
| copied prefix | the prefix, which each row copies | other decoders that take a mask and positions |
| state | the prefix, and whatever else begins alike | state-space and hybrid models; positions by slot (ALiBi) |
| plain | nothing, in padded batches | decoders whose memory cannot be read on token by token |
| one by one | nothing | what all others are proven against; rotary factors that depend on the length |
| encoded once | a prompt's encoding, among its seeds and options | encoder-decoders |

A model is refused that reads what follows a token, that changes while it answers, or whose `generate` writes another
token than its forward pass predicts.

`python -m tests.engine.test_architectures` writes this section.
"""


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads only cost time on matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def engine_on(name: str) -> Iterator[LocalEngine]:
    """An engine on a new checkpoint of the zoo."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        yield local_engine(zoo.made(name, Path(folder) / name), "revision", Generation(temperature=0))


@cache
def compared(name: str) -> zoo.Comparison | None:
    """The engine beside transformers. None where it refuses."""
    with engine_on(name) as engine:
        try:
            return zoo.compared(engine)
        except UserError:
            return None


EACH = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CAUSAL]


@pytest.mark.parametrize("name", EACH)
def test_an_engine_says_what_transformers_says_or_refuses(name: str) -> None:
    found = compared(name)
    if found:
        assert found.differing == (), f"{found.way}: other texts than model.generate"
        assert found.largest <= LARGEST, f"{found.way}: other log-likelihoods than a forward pass"
        assert found.steady, f"{found.way}: another result when asked again"


@pytest.mark.parametrize("name", zoo.NOT_CAUSAL)
def test_a_model_whose_tokens_see_the_next_ones_is_refused(name: str) -> None:
    with engine_on(name) as engine, pytest.raises(UserError):
        zoo.answered(engine)


SETTINGS = {
    "do_sample": True, "temperature": 0.3, "top_k": 3, "repetition_penalty": 1.9, "no_repeat_ngram_size": 2,
    "min_new_tokens": 30, "max_length": 12, "suppress_tokens": [7, 8, 9], "forced_eos_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "mistral", "falcon_alibi", "bart"])
def test_a_checkpoints_own_settings_of_generation_change_nothing(name: str) -> None:
    """Its end tokens count. How it samples or what it forbids is the run's to say."""
    with engine_on(name) as engine:
        path = engine.folder / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **SETTINGS}))
        found = zoo.compared(engine)
    assert (found.differing, found.steady) == ((), True)


@pytest.mark.parametrize("name", ["mpt", "bart", "led", "encoder_decoder"])
def test_a_prompt_beyond_the_window_loses_its_beginning_or_is_refused(name: str) -> None:
    """Each of these names its window in another way."""
    with engine_on(name) as engine:
        try:
            found = zoo.compared(engine, asked=zoo.beyond())
        except UserError:
            return
    assert (found.differing, found.steady) == ((), True)
    assert found.largest <= LARGEST


def test_a_fault_of_an_engine_is_found() -> None:
    """Another token, another log-likelihood: each shows, and a tie does not count as another text."""
    with engine_on("llama") as engine:
        right = zoo.expected(engine)
        name, answer = next(iter(right.items()))
        other = replace(answer, tokens=(*answer.tokens[:2], answer.tokens[2] ^ 1, *answer.tokens[3:]))
        tie = replace(other, margins=(1.0, 1.0, 1e-4, *answer.margins[3:]))
        shifted = replace(answer, logprobs=(answer.logprobs[0] + 0.5, *answer.logprobs[1:]))
        unknown = replace(answer, logprobs=(math.nan, *answer.logprobs[1:]))
        found = [zoo.compared(engine, right | {name: each}) for each in (answer, other, tie, shifted, unknown)]
    assert [(each.differing, each.near_ties) for each in found[:3]] == [((), ()), ((name,), ()), ((), (name,))]
    assert found[0].largest < LARGEST
    assert found[3].largest == pytest.approx(0.5, abs=LARGEST)
    assert found[4].largest == math.inf


# ---- the section of docs/models.md


def bound(largest: float) -> float:
    """A power of ten that another machine does not exceed either: three times the value, rounded up; at least 1e-5."""
    return max(1e-5, 10.0 ** math.ceil(math.log10(max(3 * largest, 1e-9))))


def row(name: str) -> str:
    found = None if name in zoo.NOT_CAUSAL else compared(name)
    way, largest = (found.way, f"{bound(found.largest):.0e}") if found else ("refused", "")
    return f"| {name} | {way} | {largest} |"


def section() -> str:
    """The table, between its marks."""
    return "\n".join([HEAD, "| architecture | way | largest difference |", "|---|---|---|", *map(row, zoo.ZOO), END])


def section_of(page: str) -> str:
    """The table as it stands in a page, between its marks."""
    return page[page.index(BEGIN) : page.index(END) + len(END)]


def rows_of(page: str) -> dict[str, tuple[str, str]]:
    """By architecture, the way and the largest difference that a page says."""
    table = section_of(page).partition("| architecture |")[2]
    lines = [line.strip("| ").split(" | ") for line in ("|" + table).splitlines() if line.startswith("| ")]
    return {line[0]: (line[1], line[2] if len(line) > 2 else "") for line in lines[1:]}


def test_the_page_has_a_row_for_each_architecture() -> None:
    assert list(rows_of(PAGE.read_text())) == list(zoo.ZOO)
    assert section_of(PAGE.read_text()).startswith(HEAD)


@pytest.mark.parametrize("name", EACH)
def test_the_page_says_what_was_found(name: str) -> None:
    (way, largest), found = rows_of(PAGE.read_text())[name], compared(name)
    assert way == (found.way if found else "refused")
    assert not found or found.largest <= float(largest)


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().replace(section_of(PAGE.read_text()), section()))
