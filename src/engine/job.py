"""What an engine takes and gives: in text (Request, Result), and inside a local engine in token ids (Job, Done).

An engine turns Requests into Results and knows nothing of files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from src.question.prompts import Prompt

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """What a model wrote after one prompt with one seed."""

    text: str  # without the prompt and without end-of-sequence
    n_tokens: int | None  # tokens generated, end-of-sequence included; None where a server does not say
    finish: str  # "eos" | "length"
    near_tie: float | None = None  # smallest margin (in scaled logits + noise) of a decision, where below 1e-4


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of each of a prompt's `continuations`, in their order."""

    logprob: tuple[float, ...]  # sum over tokens of natural-log probability
    n_tokens: tuple[int, ...]  # tokens scored


@dataclass(frozen=True)
class Request:
    """What is still to be computed for one prompt."""

    prompt: Prompt
    seeds: tuple[int, ...]  # seeds whose completion is asked for; may be empty
    likelihood: bool  # whether the continuations are to be scored


@dataclass(frozen=True)
class Result:
    """What was computed for one Request, or for a part of it.

    Without completions and without likelihood it says that the likelihood cannot be had.
    """

    prompt_id: str
    completions: dict[int, Completion]  # by seed
    likelihood: Likelihood | None


@dataclass(frozen=True)
class Proof:
    """What was compared with a plain, unbatched forward pass on the weights as loaded, before an engine used a way.

    within: the largest difference of two log-likelihoods in nats, rounded up to a power of ten (1e-9 at least), so that
    it is the same on every machine.
    """

    way: str  # shared block | copied prefix | state | plain | one by one | encoded once
    prompts: int  # each counted in every batch that it was in
    longest: int  # tokens of the longest prompt with what follows it
    options: int
    written: int  # tokens
    within: float

    def __str__(self) -> str:
        return (
            f"{self.way}: {self.prompts} prompts of up to {self.longest} tokens, {self.options} options and "
            f"{self.written} written tokens as by a plain forward pass, log-likelihoods within {self.within:.0e}"
        )


class Engine(Protocol):
    """The keys need no weights. `run` loads the weights at its first call and keeps them."""

    def completion_key(self, prompt: Prompt, seed: int) -> str:
        """Content address (sha256 hex) of one completion: everything its text depends on."""
        ...

    def likelihood_key(self, prompt: Prompt) -> str:
        """Content address (sha256 hex) of one prompt's option log-likelihoods."""
        ...

    def run(self, requests: Sequence[Request], among: Sequence[Request] = ()) -> Iterator[list[Result]]:
        """Results batch by batch, in any order, so that each batch can be stored before the next.

        among: everything the cell asks, stored or not. An engine may use it to decide what prompts share. It computes
        `requests` alone.
        """
        ...

    def describe(self) -> dict[str, str | int | float]:
        """Identity of the model and the engine, for the fingerprint. Facts of the machine stay out."""
        ...


@dataclass(frozen=True)
class Job:
    """One prompt in token ids. `scored`: prompt + option for a decoder, the bare option for an encoder-decoder."""

    ids: Ids
    seeds: tuple[int, ...]
    budget: int  # tokens to generate at most
    scored: tuple[Ids, ...]


@dataclass
class Draw:
    """What one seed wrote; `margin` is its closest decision (see Sampler), `margins` each where they are wanted."""

    tokens: Ids = ()
    finish: str = "length"
    margin: float = math.inf
    margins: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Done:
    """Outcome of a Job: draws by seed, and (log-probability, tokens) of each scored sequence."""

    draws: dict[int, Draw]
    scores: list[tuple[float, int]]
