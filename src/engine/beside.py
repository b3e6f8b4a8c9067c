"""Whether a server has the model that a run names: a few of its answers beside the local engine's, before any counts.

It takes the weights on this disk. What a server says of itself is not read, for it names a model as it was told to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from src.base.errors import UserError
from src.engine.echo import TokenIds
from src.engine.job import Completion, Engine, Likelihood, Proof, Request
from src.question.prompts import Prompt

WAY = "server"  # of a Proof
NATS = {"float32": 0.001, "float16": 0.01, "bfloat16": 0.1}  # of a token, by model.dtype: what kernels round apart
SHOWN = 60  # characters of a text in a message


class Differs(UserError):
    """The server is not the model on this disk."""


@dataclass(frozen=True)
class Said:
    """A server's greedy completion, its tokens and their log-probabilities; () and () where it gives none."""

    completion: Completion
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Beside:
    """What was compared: prompts with the same text, tokens with the same log-probability, and how far these are."""

    prompts: int
    tokens: int
    longest: int  # characters of the longest prompt
    furthest: float  # nats between two log-likelihoods of a completion

    def __str__(self) -> str:
        if not self.prompts:
            return "no answer could be compared with the local engine's: each is a near tie or empty"
        scored = f"log-likelihoods of {self.tokens} tokens within {self.furthest:.1g}" if self.tokens else "texts alone"
        return f"{self.prompts} greedy answers as the local engine's, {scored}"

    @property
    def proof(self) -> Proof | None:
        """For the records of the cells. None where no log-likelihoods could be compared."""
        if not self.tokens:
            return None
        within = next(10.0**-n for n in range(9, -9, -1) if self.furthest <= 10.0**-n)
        return Proof(WAY, self.prompts, self.longest, self.prompts, self.tokens, within)


def chosen(prompts: Sequence[Prompt], number: int) -> list[Prompt]:
    """So many of the prompts, the shortest and the longest among them."""
    ordered = sorted(prompts, key=lambda prompt: (len(prompt.prefix + prompt.text), prompt.id))
    if len(ordered) <= number:
        return ordered
    return [ordered[i * (len(ordered) - 1) // max(number - 1, 1)] for i in range(number)]


def compared(
    prompts: Sequence[Prompt], own: Engine, ask: Callable[[Prompt], Said], ids: TokenIds, nats: float, server: str
) -> Beside:
    """The server beside the local engine. Raises Differs where it says another text, or is more than `nats` away.

    own: greedy. ids: by the model's own tokenizer. nats: of a token, on average over those of a completion. server: for
    the message. A near tie may fall either way, so such a text is not compared.
    """
    texts = answers(own, [Request(prompt, (0,), False) for prompt in prompts])
    said = {prompt.id: ask(prompt) for prompt in prompts}
    same: list[Prompt] = []
    for prompt in prompts:
        one, other = texts[prompt.id][0], said[prompt.id].completion
        if one.near_tie is not None:
            continue
        if one.text != other.text:
            raise Differs(
                f"{server} does not answer {prompt.id} as the local engine does: {shown(other.text)} where the weights "
                f"on this disk say {shown(one.text)}. {OTHER}. {ANY}"
            )
        if one.text:
            same.append(prompt)
    parts = {prompt.id: scorable(prompt.prefix + prompt.text, said[prompt.id].tokens, ids) for prompt in same}
    scored = [replace(prompt, continuations=("".join(parts[prompt.id]),)) for prompt in same if parts[prompt.id]]
    scores = answers(own, [Request(prompt, (), True) for prompt in scored])
    furthest, tokens = 0.0, 0
    for prompt in scored:
        n = len(parts[prompt.id])
        away = abs(sum(said[prompt.id].logprobs[:n]) - scores[prompt.id][1].logprob[0])
        if away > nats * n:
            raise Differs(
                f"{server} is {away:.3g} nats from the local engine for {n} tokens that both write after {prompt.id} "
                f"(engine.compare_nats={nats:g} a token). {OTHER}. A larger one takes other rounding. {ANY}"
            )
        furthest, tokens = max(furthest, away), tokens + n
    return Beside(len(same), tokens, max((len(p.prefix + p.text) for p in same), default=0), furthest)


def scorable(text: str, tokens: Sequence[str], ids: TokenIds) -> Sequence[str]:
    """As many of the tokens as the tokenizer makes again of the text with them, so that an engine can score them."""
    before = list(ids(text))
    for n in range(len(tokens), 0, -1):
        whole = list(ids(text + "".join(tokens[:n])))
        if len(whole) == len(before) + n and whole[: len(before)] == before:
            return tokens[:n]
    return ()


OTHER = "It has another model, a precision other than model.dtype, or own settings (docs/api.md, What to switch off)"
ANY = "engine.compare=0 takes any server"


def shown(text: str) -> str:
    """The beginning of a text, in one line."""
    return ascii(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def answers(engine: Engine, requests: Sequence[Request]) -> dict[str, tuple[Any, Any]]:
    """(completion, likelihood) by prompt id, of the local engine."""
    done: dict[str, tuple[Completion | None, Likelihood | None]] = {}
    with on_this_disk():
        for batch in engine.run(requests) if requests else ():
            for result in batch:
                before = done.get(result.prompt_id, (None, None))
                done[result.prompt_id] = (result.completions.get(0) or before[0], result.likelihood or before[1])
    return done


@contextmanager
def on_this_disk() -> Iterator[None]:
    """An error of the local engine says why it was asked at all, and how to go on without it."""
    try:
        yield
    except UserError as error:
        said = str(error).rstrip(".")
        raise UserError(f"The server is compared with the weights on this disk, but: {said}. {ANY}") from error


def said_of(completion: Completion, choice: dict[str, Any]) -> Said:
    """The completion with its tokens and their log-probabilities, in OpenAI's form or llama.cpp's."""
    part = choice.get("logprobs")
    part = part if isinstance(part, dict) else {}
    named, values = part.get("tokens"), part.get("token_logprobs")
    if isinstance(content := part.get("content"), list) and all(isinstance(each, dict) for each in content):
        named, values = [each.get("token") for each in content], [each.get("logprob") for each in content]
    if not isinstance(named, list) or not isinstance(values, list) or len(named) != len(values):
        return Said(completion)
    if not all(isinstance(token, str) for token in named) or not all(type(value) in (int, float) for value in values):
        return Said(completion)
    return Said(completion, tuple(named), tuple(map(float, values)))
