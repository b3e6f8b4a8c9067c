"""An Engine on any server that speaks the OpenAI protocol's `/v1/completions`: conf/engine/openai.yaml.

The server does the sampling. At a temperature above 0 its draws differ from the local engine's, and a seed is only as
repeatable as the server makes it. Greedy answers are computed once for all seeds. Each answer is stored as soon as it
arrives. The key is read from the environment and stands in no record, log or message.
"""

from __future__ import annotations

import math
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

from src.base.errors import UserError
from src.base.schema import Generation, Model, Serving
from src.base.values import digest
from src.engine.job import Completion, Likelihood, Request, Result
from src.question.prompts import Prompt

T = TypeVar("T")
CHARACTERS = 3  # assumed per token where no tokenizer is at hand. Few, so that no answer is cut short
SCORES_NONE = Likelihood((), ())  # of a server that gives no log-likelihoods
BACKOFF_S = 0.5, 8.0  # the first and the longest wait between two tries, which doubles each time


@dataclass
class Purse:
    """What was spent and what calls under way may still cost, in USD. Safe for many threads."""

    limit: float | None
    price_in: float  # USD a token
    price_out: float
    spent: float = 0.0
    held: float = 0.0
    tokens: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, tokens_in: int, tokens_out: int) -> float:
        """Reserve what a call may cost at most. Raises UserError where it would exceed the limit."""
        most = tokens_in * self.price_in + tokens_out * self.price_out
        with self.lock:
            if self.limit is not None and self.spent + self.held + most > self.limit:
                raise UserError(
                    f"engine.max_cost_usd={self.limit:g}: {self.spent:.4f} USD are spent, and the next call may exceed "
                    "it. Every answer so far is stored; with a larger one the same command goes on"
                )
            self.held += most
        return most

    def pay(self, held: float, tokens_in: int, tokens_out: int) -> None:
        """Turn a reservation into what the call really cost."""
        with self.lock:
            self.tokens += tokens_in + tokens_out
            self.held -= held
            self.spent += tokens_in * self.price_in + tokens_out * self.price_out


@dataclass
class Pace:
    """Spaces the starts of calls so that neither rate limit is exceeded. Safe for many threads."""

    calls: float | None  # a minute
    tokens: float | None  # a minute
    next_start: float = 0.0  # by time.monotonic()
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, tokens: int) -> None:
        """Sleep until a call of so many tokens may start."""
        with self.lock:
            start = max(time.monotonic(), self.next_start)
            self.next_start = start + max(60 / self.calls if self.calls else 0, 60 * tokens / (self.tokens or math.inf))
        time.sleep(max(0.0, start - time.monotonic()))


class OpenAIEngine:
    """An Engine on a server.

    count: the tokens of a text by the model's own tokenizer. None where that is not on this disk.
        The completion's budget then takes three characters for a token.
    """

    def __init__(self, how: Serving, model: Model, generation: Generation, count: Callable[[str], int] | None):
        self.how, self.generation, self.leading = how, generation, model.leading
        self.model = how.model or model.api or model.hub or model.name
        self.base_url = str(how.base_url).rstrip("/")
        at = urlsplit(self.base_url)
        self.identity = f"{self.model}@{at.scheme}://{at.hostname}{f':{at.port}' if at.port else ''}{at.path}"
        self.count = count or (lambda text: math.ceil(len(text) / CHARACTERS))
        self.scores = True  # until the server gives an answer without log-likelihoods
        prices = model.usd_per_million_in, model.usd_per_million_out
        if how.max_cost_usd is not None and None in prices:
            raise UserError(
                f"engine.max_cost_usd={how.max_cost_usd:g} needs prices: model.usd_per_million_in=... and "
                "model.usd_per_million_out=..., or in the model's YAML"
            )
        self.purse = Purse(how.max_cost_usd, (prices[0] or 0.0) / 1e6, (prices[1] or 0.0) / 1e6)
        self.pace = Pace(how.calls_per_minute, how.tokens_per_minute)

    @property
    def tokens(self) -> int:
        """Tokens billed so far, prompts and completions."""
        return self.purse.tokens

    @property
    def cost_usd(self) -> float:
        """USD spent so far, by the prices of the model's YAML; 0 without."""
        return self.purse.spent

    def budget(self, prompt: Prompt) -> int:
        """Tokens a completion may have: those of the longest option (without any: the answer) + extra_tokens."""
        return max(map(self.count, prompt.options or (prompt.answer,))) + self.generation.extra_tokens

    def completion_key(self, prompt: Prompt, seed: int) -> str:
        """Content address of one completion. Greedy ones do not depend on the seed."""
        sampled = self.generation.temperature > 0
        return digest(
            {
                **self._common(prompt),
                "kind": "completion",
                "budget": self.budget(prompt),
                "temperature": self.generation.temperature,
                "seed": seed if sampled else None,
                "text": self.leading,
            }
        )

    def likelihood_key(self, prompt: Prompt) -> str:
        """Content address of the log-likelihoods of a prompt's continuations."""
        return digest({**self._common(prompt), "kind": "likelihood", "scored": prompt.continuations})

    def _common(self, prompt: Prompt) -> dict[str, Any]:
        return {"identity": self.identity, "prompt": prompt.prefix + prompt.text, "extra_body": self.how.extra_body}

    def describe(self) -> dict[str, str | int | float]:
        """Identity of server and model; no key."""
        return {
            "engine": "openai",
            "identity": self.identity,
            "temperature": self.generation.temperature,
            "extra_tokens": self.generation.extra_tokens,
            "extra_body": digest(self.how.extra_body)[:12],
            "leading": self.leading,
        }

    @cached_property
    def client(self) -> Any:
        """The openai package's client, which repeats a call with backoff and jitter. Raises UserError without key."""
        from openai import OpenAI

        if self.how.key and not os.environ.get(self.how.key):
            raise UserError(f"The environment has no {self.how.key}. export {self.how.key}=..., or engine.key=null")
        return OpenAI(
            api_key=os.environ[self.how.key] if self.how.key else "none",
            base_url=self.base_url, timeout=self.how.timeout_s, max_retries=self.how.retries,
        )  # fmt: skip

    def run(self, requests: Sequence[Request], among: Sequence[Request] = ()) -> Iterator[list[Result]]:
        """A Result for each seed and for each prompt's likelihoods, as they arrive.

        After a failure or a stop no call begins. Calls under way are waited for, because they are paid for.
        Raises UserError where the server refuses, does not answer, or the budget is spent.
        """
        _ = self.client  # so that a missing key is reported before any thread starts
        waiting = iter([work for request in requests for work in self._calls(request)])
        failure: BaseException | None = None
        with ThreadPoolExecutor(self.how.concurrency) as pool:
            under_way: set[Future[Result]] = {pool.submit(work) for work in islice(waiting, self.how.concurrency)}
            while under_way:
                try:
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                except BaseException as stop:
                    failure = failure or stop
                    continue
                failure = failure or next((e for e in (each.exception() for each in done) if e), None)
                if not failure:
                    under_way |= {pool.submit(work) for work in islice(waiting, len(done))}
                if results := [each.result() for each in done if not each.exception()]:
                    yield results
        if failure:
            raise failure

    def _calls(self, request: Request) -> Iterator[Callable[[], Result]]:
        """What to ask the server for one request."""
        together = [request.seeds] if self.generation.temperature == 0 else [(seed,) for seed in request.seeds]
        for seeds in filter(None, together):
            yield partial(self._completed, request.prompt, seeds)
        if request.likelihood:
            yield partial(self._scored, request.prompt)

    def _completed(self, prompt: Prompt, seeds: tuple[int, ...]) -> Result:
        text, budget = prompt.prefix + prompt.text, self.budget(prompt)
        sampled = {"seed": seeds[0]} if self.generation.temperature else {}

        def read(reply: Any) -> Completion:
            choice = reply.choices[0]
            finish = "length" if choice.finish_reason == "length" else "eos"
            return Completion(choice.text.removeprefix(self.leading), reply.usage.completion_tokens, finish)

        completion = self._ask(
            read, [text], budget, max_tokens=budget, temperature=self.generation.temperature, **sampled
        )
        return Result(prompt.id, dict.fromkeys(seeds, completion), None)

    def _scored(self, prompt: Prompt) -> Result:
        """All options in one call, by echo. Some servers insist on generating one token, which is not read."""
        text = prompt.prefix + prompt.text
        whole = [text + continuation for continuation in prompt.continuations]

        def read(reply: Any) -> Likelihood:
            choices = sorted(reply.choices, key=lambda choice: choice.index)
            parts = [choice.logprobs for choice in choices]
            if not all(part and part.token_logprobs and part.text_offset for part in parts):
                return SCORES_NONE
            by_option = [echoed(part, len(text), len(each)) for part, each in zip(parts, whole, strict=True)]
            return Likelihood(tuple(map(math.fsum, by_option)), tuple(map(len, by_option)))

        likelihood = SCORES_NONE
        if self.scores:
            likelihood = self._ask(read, whole, len(whole), max_tokens=1, temperature=0.0, echo=True, logprobs=1)
        if likelihood == SCORES_NONE and self.scores:
            self.scores = False
            print(f"{self.base_url} gives no log-likelihoods of a prompt (echo, logprobs): null", file=sys.stderr)
        return Result(prompt.id, {}, likelihood)

    def _ask(self, read: Callable[[Any], T], texts: list[str], budget: int, **given: Any) -> T:
        """What `read` makes of the server's answer. An answer that it cannot read is asked for again.

        A list is sent only for more than one text, because not every server takes lists.
        """
        tokens_in = sum(math.ceil(len(text) / CHARACTERS) for text in texts)
        held = self.purse.hold(sum(len(text.encode()) for text in texts), budget)  # a token is at least one byte
        paid = [0, 0]
        try:
            for again in range(self.how.retries + 1):
                self.pace.wait(tokens_in + budget)
                try:
                    reply = self._post(texts[0] if len(texts) == 1 else texts, given)
                    paid = [a + b for a, b in zip(paid, used(reply), strict=True)]  # an unreadable answer is billed too
                    answer = read(reply)
                except UNREADABLE as error:
                    if again == self.how.retries:
                        raise UserError(
                            f"{self.base_url} answered what is no completion: {self._safe(error)}"
                        ) from None
                    time.sleep(min(BACKOFF_S[0] * 2**again, BACKOFF_S[1]) * random.uniform(0.75, 1))
                    continue
                return answer
        finally:
            self.purse.pay(held, *paid)
        raise AssertionError("the last try returns or raises")

    def _post(self, prompt: str | list[str], given: dict[str, Any]) -> Any:
        import openai

        try:
            return self.client.completions.create(
                model=self.model, prompt=prompt, extra_body=dict(self.how.extra_body) or None, **given
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(f"{self.base_url} refuses the key in {self.how.key}: {self._safe(error)}") from None
        except openai.APIConnectionError as error:
            raise UserError(
                f"{self.base_url} does not answer ({self._safe(error)}), after {self.how.retries} more tries. Every "
                "answer so far is stored; the same command goes on"
            ) from None
        except openai.APIStatusError as error:
            raise UserError(f"{self.base_url}, model {self.model}: {self._safe(error)}") from None

    def _safe(self, error: BaseException) -> str:
        """An error in one line, without the key."""
        key = os.environ.get(self.how.key or "", "")
        line = (str(error).splitlines() or [type(error).__name__])[0][:300]
        return line.replace(key, "<key>") if key else line


UNREADABLE = (ValueError, AttributeError, TypeError, LookupError)  # what is no JSON, or no completion in JSON


def used(reply: Any) -> tuple[int, int]:
    """(prompt tokens, completion tokens) that an answer is billed for; (0, 0) where it does not say."""
    usage = getattr(reply, "usage", None)
    return (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)


def echoed(part: Any, begin: int, end: int) -> list[float]:
    """Log-probabilities of the echoed tokens that reach beyond character `begin` and begin before `end`."""
    starts = list(part.text_offset)
    stops = [*starts[1:], math.inf]
    spans = zip(starts, stops, part.token_logprobs, strict=True)
    return [float(logprob) for start, stop, logprob in spans if stop > begin and start < end]
