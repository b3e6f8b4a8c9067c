"""Whether a server has the model that a run names: a few of its answers beside the local engine's, before any counts.

It takes the weights on this disk. What a server says of itself is not read, for it names a model as it was told to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from src.base.errors import UserError
from src.engine.job import Completion, Engine, Likelihood, Proof, Request
from src.question.prompts import Prompt

WAY = "server"  # of a Proof
SHOWN = 60  # characters of a text in a message


class Differs(UserError):
    """The server is not the model on this disk."""


@dataclass(frozen=True)
class Said:
    """A server's greedy completion, and the log-probability of each of its tokens; () where it gives none."""

    completion: Completion
    logprobs: tuple[float, ...]


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


def compared(prompts: Sequence[Prompt], own: Engine, ask: Callable[[Prompt], Said], nats: float, server: str) -> Beside:
    """The server beside the local engine. Raises Differs where it says another text, or is more than `nats` away.

    own: greedy. nats: of a token, on average over those of a completion. server: for the message.
    A near tie may fall either way, so such a text is not compared.
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
                f"on this disk say {shown(one.text)}. {OTHER}"
            )
        if one.text:
            same.append(replace(prompt, continuations=(one.text,)))
    scores = answers(own, [Request(prompt, (), True) for prompt in same])
    furthest, tokens = 0.0, 0
    for prompt in same:
        likelihood, values = scores[prompt.id][1], said[prompt.id].logprobs
        n = likelihood.n_tokens[0]
        written = texts[prompt.id][0].n_tokens or 0
        if len(values) < n or written - (texts[prompt.id][0].finish == "eos") != n:
            continue  # the text alone is split into other tokens
        away = abs(sum(values[:n]) - likelihood.logprob[0])
        if away > nats * n:
            raise Differs(
                f"{server} is {away:.3g} nats from the local engine for {n} tokens that both write after {prompt.id} "
                f"(engine.compare_nats={nats:g} a token). {OTHER}"
            )
        furthest, tokens = max(furthest, away), tokens + n
    return Beside(len(same), tokens, max((len(p.prefix + p.text) for p in same), default=0), furthest)


OTHER = (
    "It has another model, another precision, or settings of its own (docs/api.md, What to switch off). A larger "
    "engine.compare_nats takes another precision, engine.compare=0 takes any server"
)


def shown(text: str) -> str:
    """The beginning of a text, in one line."""
    return ascii(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def answers(engine: Engine, requests: Sequence[Request]) -> dict[str, tuple[Any, Any]]:
    """(completion, likelihood) by prompt id."""
    done: dict[str, tuple[Completion | None, Likelihood | None]] = {}
    for batch in engine.run(requests) if requests else ():
        for result in batch:
            before = done.get(result.prompt_id, (None, None))
            done[result.prompt_id] = (result.completions.get(0) or before[0], result.likelihood or before[1])
    return done


def logprobs_of(choice: dict[str, Any]) -> tuple[float, ...]:
    """The log-probability of each token of a completion: OpenAI's form, or llama.cpp's. () where there is none."""
    part = choice.get("logprobs")
    values = part.get("token_logprobs") if isinstance(part, dict) else None
    if values is None and isinstance(part, dict) and isinstance(part.get("content"), list):
        values = [each.get("logprob") if isinstance(each, dict) else None for each in part["content"]]
    sound = isinstance(values, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return tuple(map(float, values)) if sound and values else ()
