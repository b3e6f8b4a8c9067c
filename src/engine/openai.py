"""An Engine on any server that speaks the OpenAI protocol's `/v1/completions`: conf/engine/openai.yaml.

The server does the sampling. At a temperature above 0 its draws differ from the local engine's, and a seed is only as
repeatable as the server makes it. Greedy answers are computed once for all seeds. Each answer is stored as soon as it
arrives. What is no answer is not given on as one: it is kept as it came, and an error or a line says where. The key is
read from the environment and stands in no record, log or message.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

from src.base.errors import UserError, first_line
from src.base.network import check_proxies
from src.base.schema import Generation, Model, Serving
from src.base.secrets import shown
from src.base.values import digest
from src.engine import beside
from src.engine.beside import Said
from src.engine.echo import Absent, TokenIds, Unproven, likelihood_of_options
from src.engine.job import Engine, Proof, Request, Result
from src.engine.reply import UNREADABLE, Refused, choices_of, completion_of, refuse_other_tokens, used_of
from src.question.prompts import Prompt

T = TypeVar("T")
CHARACTERS = 3  # assumed per token where no tokenizer is at hand. Few, so that no answer is cut short
NUMERICS = 2  # raised by hand when other log-likelihoods are read from an echo, because that voids the stored ones
FRESH = "{fresh}"  # in a value of engine.likelihood_body: another text in each call
DOUBTS = 3  # echoes in a row that prove nothing, before no more are asked for
BACKOFF_S = 0.5, 8.0  # the first and the longest wait between two tries, which doubles each time
NO_ECHO = (400, 422, 501)


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

    def pay(self, held: float, used: tuple[int, int] | None) -> None:
        """Turn a reservation into what the call really cost: (tokens read, written). None: it may have cost all."""
        tokens_in, tokens_out = used or (0, 0)
        cost = held if used is None else tokens_in * self.price_in + tokens_out * self.price_out
        with self.lock:
            self.tokens += tokens_in + tokens_out
            self.held -= held
            self.spent += cost


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


Keep = Callable[[str, bytes], str]  # (what was asked, the server's answer as it came) -> where it is kept


class OpenAIEngine:
    """An Engine on a server.

    count: the tokens of a text by the model's own tokenizer. None where that is not on this disk.
        The completion's budget then takes three characters for a token.
    keep: takes an answer that cannot be used, because it was paid for. None: such an answer is lost.
    ids: the token ids of a text by the model's own tokenizer, for a server that names or counts the tokens it read.
    own: makes the local engine, greedy, from the weights on this disk. None where there are none, or too large ones.
    """

    def __init__(
        self,
        how: Serving,
        model: Model,
        generation: Generation,
        count: Callable[[str], int] | None,
        keep: Keep | None = None,
        ids: TokenIds | None = None,
        own: Callable[[], Engine] | None = None,
    ):
        self.how, self.generation, self.leading, self.dtype = how, generation, model.leading, model.dtype
        self.model = how.model or model.api or model.hub or model.name
        self.address = str(how.base_url).rstrip("/")  # may hold a login, which is said nowhere
        self.base_url = shown(self.address)
        at = urlsplit(self.base_url)
        self.identity = f"{self.model}@{at.scheme}://{at.hostname}{f':{at.port}' if at.port else ''}{at.path}"
        self.count = count or (lambda text: math.ceil(len(text) / CHARACTERS))
        self.keep, self.ids, self.own = keep, ids, own
        self.doubts = Doubts()
        self.beside: beside.Beside | UserError | None = None  # None: not compared yet
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
        asked = {"scored": prompt.continuations, "numerics": NUMERICS, "likelihood_body": self.how.likelihood_body}
        return digest({**self._common(prompt), "kind": "likelihood", **asked})

    def _common(self, prompt: Prompt) -> dict[str, Any]:
        return {"identity": self.identity, "prompt": prompt.prefix + prompt.text, "extra_body": self.how.extra_body}

    def describe(self) -> dict[str, str | int | float]:
        """Identity of server and model; no key."""
        return {
            "engine": "openai",
            "identity": self.identity,
            "numerics": NUMERICS,
            "temperature": self.generation.temperature,
            "extra_tokens": self.generation.extra_tokens,
            "extra_body": digest(self.how.extra_body)[:12],
            "likelihood_body": digest(self.how.likelihood_body)[:12],
            "leading": self.leading,
        }

    @cached_property
    def client(self) -> Any:
        """The openai package's client, which repeats a call with backoff and jitter. Raises UserError without key."""
        from openai import OpenAI

        if self.how.key and not os.environ.get(self.how.key):
            raise UserError(f"The environment has no {self.how.key}. export {self.how.key}=..., or engine.key=null")
        check_proxies()
        return OpenAI(
            api_key=os.environ[self.how.key] if self.how.key else "none",
            base_url=self.address, timeout=self.how.timeout_s, max_retries=self.how.retries,
        )  # fmt: skip

    def run(self, requests: Sequence[Request], among: Sequence[Request] = ()) -> Iterator[list[Result]]:
        """A Result for each seed and for each prompt's likelihoods, as they arrive.

        After a failure or a stop, be it thrown in while a batch is stored, no call begins. Calls under way are waited
        for and given on, because they are paid for. Raises UserError where the server refuses, does not answer, or
        the budget is spent.
        """
        _ = self.client  # so that a missing key is reported before any thread starts
        self._compare([request.prompt for request in requests])
        waiting = iter([work for request in requests for work in self._calls(request)])
        failure: BaseException | None = None
        with ThreadPoolExecutor(self.how.concurrency) as pool:
            under_way: set[Future[Result]] = {pool.submit(work) for work in islice(waiting, self.how.concurrency)}
            while under_way:
                try:
                    done = wait(under_way, return_when=FIRST_COMPLETED).done
                    failure = failure or next((e for e in (each.exception() for each in done) if e), None)
                    if not failure:
                        under_way |= {pool.submit(work) for work in islice(waiting, len(done))}
                    if results := [each.result() for each in done if not each.exception()]:
                        yield results
                    under_way -= done  # last, so that a stop at any line loses nothing
                except GeneratorExit:
                    raise
                except BaseException as stop:
                    failure = failure or stop
        if failure:
            raise failure

    @property
    def proof(self) -> Proof | None:
        """What was compared with the local engine before the server was believed. None where nothing could be."""
        return self.beside.proof if isinstance(self.beside, beside.Beside) else None

    def _compare(self, prompts: Sequence[Prompt]) -> None:
        """Compare the server with the local engine, once in a run. Raises UserError where they differ."""
        if isinstance(self.beside, UserError):
            raise self.beside
        if self.beside or not self.own or not self.ids or not self.how.compare or not prompts:
            return
        some = beside.chosen(prompts, self.how.compare)
        server = f"{self.base_url}, model {self.model},"
        with beside.on_this_disk():
            own = self.own()
        try:
            nats = self.how.compare_nats or beside.NATS[self.dtype]
            self.beside = beside.compared(some, own, self._greedy, self.ids, nats, server)
        except beside.Differs as error:
            self.beside = error
            raise
        print(f"{self.base_url}: {self.beside}", file=sys.stderr)

    def _greedy(self, prompt: Prompt) -> Said:
        text, budget = prompt.prefix + prompt.text, self.budget(prompt)

        def read(reply: Any) -> Said:
            completion = completion_of(reply, text, budget, self.leading)
            return beside.said_of(completion, choices_of(reply)[0])

        asked = {"max_tokens": budget, "temperature": 0.0}
        try:
            return self._ask(read, [text], budget, prompt.id, **asked, logprobs=1)[0]
        except Unproven:  # it refuses log-probabilities, or this prompt
            return self._ask(read, [text], budget, prompt.id, **asked)[0]

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
        read = partial(completion_of, prompt=text, budget=budget, leading=self.leading)
        how = {"max_tokens": budget, "temperature": self.generation.temperature, **sampled}
        completion, _ = self._ask(read, [text], budget, prompt.id, **how)
        return Result(prompt.id, dict.fromkeys(seeds, completion), None)

    def _scored(self, prompt: Prompt) -> Result:
        """All options by echo, in one call or in one each. Some servers insist on generating a token: it is not read.

        The likelihood is None where the server gives none, or none that is proven. One line says why.
        """
        if self.doubts.enough:
            return Result(prompt.id, {}, None)
        text = prompt.prefix + prompt.text
        whole = [text + continuation for continuation in prompt.continuations]
        calls = [[each] for each in whole] if self.how.score_alone else [whole]
        choices: list[Any] = []
        replies: list[bytes] = []
        try:
            for texts in calls:
                asked = {"max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
                found, reply = self._ask(choices_of, texts, len(texts), prompt.id, **asked)
                replies.append(reply)
                choices += found
            likelihood = likelihood_of_options(choices, text, prompt.continuations, self.how.agree_nats, self.ids)
        except Unproven as doubt:
            self._doubted(prompt.id, doubt, replies)
            return Result(prompt.id, {}, None)
        except UserError:
            self._kept(prompt.id, replies)
            raise
        self.doubts.proven()
        return Result(prompt.id, {}, likelihood)

    def _doubted(self, name: str, doubt: Unproven, replies: Sequence[bytes]) -> None:
        """Keep what was paid for. Say each reason once."""
        kept = "" if isinstance(doubt, Absent) else self._kept(name, replies)
        if self.doubts.new(doubt):
            end = " No more is asked of it in this run." if self.doubts.enough else ""
            print(
                f"{self.base_url}: the log-likelihoods of {name} are unknown: {self._safe(doubt)}. Where one is "
                f"unknown, the accuracy by likelihood of the cell is missing.{kept}{end}",
                file=sys.stderr,
            )

    def _kept(self, asked: str, replies: Sequence[bytes]) -> str:
        """Keep these answers; a sentence that says where the last of them is, "" without any."""
        if self.keep is None:
            return ""
        places = [self.keep(f"{self.identity} {asked}", self._without_key(reply)) for reply in replies]
        return f" What came back is kept in {places[-1]}." if places else ""

    def _ask(self, read: Callable[[Any], T], texts: list[str], budget: int, name: str, **given: Any) -> tuple[T, bytes]:
        """What `read` makes of the server's answer, and the answer. One that it cannot read is kept and asked again.

        A list is sent only for more than one text, because not every server takes lists.
        """
        tokens_in = sum(math.ceil(len(text) / CHARACTERS) for text in texts)
        most = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)  # a token is at least one byte
        for again in range(self.how.retries + 1):
            held = self.purse.hold(most, budget)
            used: tuple[int, int] | None = (0, 0)
            try:
                self.pace.wait(tokens_in + budget)
                reply = self._post(texts[0] if len(texts) == 1 else texts, given)
                used = None  # from here on it is billed
                try:
                    body = json.loads(reply)
                    used = used_of(body)
                    if self.ids and self.how.check_tokens:
                        refuse_other_tokens(body, texts, self.ids)
                    return read(body), reply
                except (Refused, *UNREADABLE) as error:
                    said = f"{self._safe(error)}.{self._kept(name, [reply])}"
                    if again == self.how.retries or isinstance(error, Refused):
                        raise UserError(
                            f"{self.base_url} answered {name} with what is no answer: {said} No answer is stored for "
                            "it, so the same command asks it again"
                        ) from None
            finally:
                self.purse.pay(held, used)
            time.sleep(min(BACKOFF_S[0] * 2**again, BACKOFF_S[1]) * random.uniform(0.75, 1))
        raise AssertionError("the last try returns or raises")

    def _post(self, prompt: str | list[str], given: dict[str, Any]) -> bytes:
        """The server's answer as it came. Raises Unproven where it refuses log-probabilities."""
        import openai

        scores = {k: _fresh(v) for k, v in self.how.likelihood_body.items()} if "echo" in given else {}
        extra = {**self.how.extra_body, **self.how.proof_body, **scores}
        try:
            raw = self.client.completions.with_raw_response.create(
                model=self.model, prompt=prompt, extra_body=extra or None, **given
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(f"{self.base_url} refuses the key in {self.how.key}: {self._safe(error)}") from None
        except openai.APIConnectionError as error:
            raise UserError(
                f"{self.base_url} does not answer ({self._safe(error)}), after {self.how.retries} more tries. Every "
                f"answer so far is stored; the same command goes on.{self._advice(given)}"
            ) from None
        except openai.APIStatusError as error:
            if "logprobs" in given and error.status_code in NO_ECHO:
                what = "to echo" if "echo" in given else "log-probabilities"
                raise Unproven(f"the server refuses {what}: {self._safe(error)}") from None
            advice = self._advice(given) if error.status_code >= 500 else ""
            raise UserError(f"{self.base_url}, model {self.model}: {self._safe(error)}.{advice}") from None
        return bytes(raw.content)

    def _advice(self, given: dict[str, Any]) -> str:
        """What helps where a server died, if it was to sample with a seed; a sentence, or ""."""
        return f" {self.how.seed_advice}" if "seed" in given and self.how.seed_advice else ""

    def _safe(self, error: BaseException) -> str:
        """An error in one line, without the key."""
        line = shown(first_line(error))[:300].rstrip(".")
        printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        return self._without_key(printable.encode()).decode()

    def _without_key(self, text: bytes) -> bytes:
        key = os.environ.get(self.how.key or "", "").encode()
        return text.replace(key, b"<key>") if key else text


@dataclass
class Doubts:
    """What speaks against a server's log-likelihoods. Safe for many threads."""

    reasons: set[str] = field(default_factory=set)
    in_a_row: int = 0
    enough: bool = False  # no more echoes are asked for
    lock: threading.Lock = field(default_factory=threading.Lock)

    def new(self, doubt: Unproven) -> bool:
        """Count one. Whether it is to be said: its reason is new, or it is the last."""
        reason = re.sub(r"-?\d[\d.e+-]*", "#", str(doubt))
        with self.lock:
            was_enough = self.enough
            self.in_a_row += 1
            self.enough = self.enough or isinstance(doubt, Absent) or self.in_a_row >= DOUBTS
            known = reason in self.reasons
            self.reasons.add(reason)
            return not known or self.enough != was_enough

    def proven(self) -> None:
        """One echo was proven."""
        with self.lock:
            self.in_a_row = 0


def _fresh(value: Any) -> Any:
    return value.replace(FRESH, uuid.uuid4().hex) if isinstance(value, str) else value
