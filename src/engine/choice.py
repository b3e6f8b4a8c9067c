"""Which way of running a model is used: the fastest that is proven on prompts as long as those it is to answer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from src.base.errors import UserError, first_line
from src.engine.attention import SHARED
from src.engine.decoder import Decoder
from src.engine.encoder_decoder import EncoderDecoder
from src.engine.job import Job, Proof
from src.engine.loading import out_of_memory, pack, spread
from src.engine.plain import OneByOne, Plain
from src.engine.proof import HOT, Expected, UnfitError, difference, expected, marks, proven, total, trial
from src.engine.sampling import Sampler
from src.engine.state import RowReader
from src.engine.steps import Steps
from src.engine.tree import shared_prefix

LONG = 2048  # tokens of a prompt that is long for any architecture

Backend = Decoder | EncoderDecoder | Steps | Plain | OneByOne
Build = Callable[[Any, Sampler, frozenset[int]], Backend]


@dataclass(frozen=True)
class Way:
    """A way of running a model: its name, the attention it needs (None: the model's own), and how it is made."""

    name: str
    attention: str | None
    build: Build
    slow: bool = False


SHARED_BLOCK = Way("shared block", SHARED, lambda model, sampler, ends: Decoder(model, True, sampler, ends))
COPIED_PREFIX = Way("copied prefix", None, lambda model, sampler, ends: Decoder(model, False, sampler, ends))
STATE = Way("state", None, Steps)
STATE_BY_ROW = Way("state", None, lambda model, sampler, ends: Steps(model, sampler, ends, kind=RowReader))
PLAIN = Way("plain", None, Plain, slow=True)
ONE_BY_ONE = Way("one by one", None, OneByOne, slow=True)
ENCODED_ONCE = Way("encoded once", None, EncoderDecoder)


def ways(model: Any) -> list[Way]:
    """The ways that may be tried, fastest first."""
    if model.config.is_encoder_decoder:
        return [ENCODED_ONCE, ONE_BY_ONE]
    by_block = [SHARED_BLOCK] if getattr(model, "_supports_attention_backend", False) else []
    by_prefix = [] if spread(model) else [*by_block, COPIED_PREFIX]  # a prefix lies on one device
    return [*by_prefix, STATE, PLAIN, STATE_BY_ROW, ONE_BY_ONE]


def ends_of(model: Any) -> frozenset[int]:
    """The tokens that end a completion."""
    ends = model.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else () if ends is None else (ends,))


@dataclass
class Choice:
    """A model and the way it is run.

    load: gives the model, in evaluation mode, on its device. window: tokens it takes at most, None for any number.
    """

    load: Callable[[], Any]
    sampler: Sampler
    window: int | None = None
    model: Any = None
    own: str = ""  # the model's own attention
    left: list[Way] = field(default_factory=list)  # the way in use and those that are slower
    way: Backend | None = None
    proof: Proof | None = None
    lengths: dict[bool, tuple[int, int]] = field(default_factory=dict)  # proven, with and without a shared prefix
    spent: int = 0  # tokens computed by ways that are not in use any more
    refused: UserError | None = None
    reasons: list[str] = field(default_factory=list)  # why each faster way is not used

    @property
    def tokens(self) -> int:
        """Tokens computed so far, less those of proofs."""
        return self.spent + (self.way.tokens if self.way else 0)

    def ready(self, jobs: Sequence[Job]) -> Backend:
        """The fastest way that is proven for jobs of these lengths.

        Raises UserError where none is, and NotFinite where logits are no numbers.
        """
        if self.refused:
            raise self.refused
        first = self.model is None
        if first:
            self.model = self.load()
            self.left, self.own = ways(self.model), self.model.config._attn_implementation
        pair = self.model.config.is_encoder_decoder
        sharing = not pair and bool(shared_prefix(jobs))
        least, most = (choose(total(job, pair) for job in jobs) for choose in (min, max))
        known = self.lengths.get(sharing)
        if self.way is None or known is None or least < known[0] or most > known[1]:
            with torch.inference_mode():
                try:
                    proven = self._prove(trial(jobs, self.window, pair), first)
                except UserError as error:
                    self.refused = error  # of every later cell as well
                    raise
                except BaseException:
                    if first:  # nothing is known of these weights yet, so the next cell begins with new ones
                        self.model = None
                    raise
            before = self.lengths.get(sharing, (least, most))  # none where a faster way had to be left
            self.lengths[sharing] = min(before[0], least, proven.least), max(before[1], most, proven.longest)
        assert self.way is not None
        return self.way

    def _settle(self) -> None:
        """Raises UnfitError where what a model is first asked decides how it answers from then on."""
        one, fresh = OneByOne(self.model, Sampler(0.0, 1), ends_of(self.model)), marks(self.model)
        short = _marks_behind(one, 1)
        if all(short.get(name) == value for name, value in fresh.items()):
            return
        other = replace(one, model=self.load())
        long = min(self.window or LONG, LONG)
        behind_long = _marks_behind(other, long)
        for found, right in ((_marks_behind(one, long), behind_long), (_marks_behind(other, 1), short)):
            if changed := sorted(name for name in fresh if found.get(name) != right.get(name)):
                raise UnfitError(f"what it is asked first changes it for good ({changed[0]})")
        one.forget()

    def _unfit(self, reason: object) -> UserError:
        return UserError(f"{type(self.model).__name__} cannot be asked: {reason}. Take another checkpoint")

    def _prove(self, jobs: Sequence[Job], first: bool) -> Expected:
        self._attend(None)
        try:
            if first:
                self._settle()
            against = expected(self.model, ends_of(self.model), jobs, self.sampler.top_k)
        except UnfitError as error:
            raise self._unfit(error) from None
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            raise self._unfit(f"it cannot run in {self.model.dtype} ({first_line(error)})") from None
        if first and pack(self.model) and not self._as_loaded(against):
            self.model = self.load()
        while self.left:
            try:
                self._try(self.left[0], against)
            except Exception as error:  # an architecture can refuse a way by any exception
                if out_of_memory(error):
                    raise
                self.reasons.append(f"{self.left[0].name}: {first_line(error)}")
                self.spent, self.way, self.lengths = self.tokens, None, {}
                del self.left[0]
                continue
            if self.left[0].slow and self.reasons:
                self._say_slow()
            return against
        raise UserError(
            f"{type(self.model).__name__} cannot be run so that its results can be trusted: the same prompts give "
            f"other results each time ({'; '.join(self.reasons)}). Take another dtype, or another checkpoint"
        )

    def _as_loaded(self, against: Expected) -> bool:
        """Whether the packed model says what the weights said as loaded."""
        alone = OneByOne(self.model, Sampler(HOT, self.sampler.top_k), ends_of(self.model))
        try:
            difference(alone.run(against.forks.jobs[:1])[0], against.forks.right[0], self.model.dtype)
        except Exception as error:  # code that reads a weight which is packed can raise anything
            if out_of_memory(error):
                raise
            return False
        return True

    def _try(self, way: Way, against: Expected) -> None:
        """Prove a way and put it to use. Raises what `proven` raises."""
        self._attend(way.attention)
        made = self.way or way.build(self.model, self.sampler, ends_of(self.model))
        self.proof = proven(way.name, made, against)
        self.way = made

    def _attend(self, attention: str | None) -> None:
        wanted = attention or self.own
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)

    def _say_slow(self) -> None:
        how = "its prompts run in plain batches" if self.left[0] is PLAIN else "its prompts run one by one"
        warnings.warn(f"{type(self.model).__name__} cannot share a prefix: {how}, same result, slower.", stacklevel=2)


def _marks_behind(alone: OneByOne, tokens: int) -> dict[str, Any]:
    alone.forget(tokens)
    return marks(alone.model)
