"""What shows that a way of running a model is right: it says what a plain forward pass says, on prompts of a cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from src.engine.job import Done, Draw, Ids, Job, Proof
from src.engine.plain import OneByOne
from src.engine.sampling import Sampler
from src.engine.tree import common, shared_prefix

STRETCH = 1.5  # a proof holds for later prompts up to so many times as long
WRITTEN, DRAWN = 6, 4  # tokens that a greedy trial writes at most, and one with seeds
FORKS = (0, 1)  # seeds that part soon at HOT
PROBE = 32  # tokens of the prompt with which forks are tried, and whether the model reads from left to right
HOT = 1.0
TOLERANCE = {torch.float32: 2e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # of a log-likelihood, beside its size + 1
TIE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}  # logits; closer decisions may fall either way
APART = {torch.float32: 0.02, torch.float16: 0.2, torch.bfloat16: 1.0}  # logits; scans and steps round unlike


class DisagreesError(Exception):
    """A way says something else than a plain forward pass."""


class UnfitError(Exception):
    """A model is none whose answers a plain forward pass can prove."""


def total(job: Job, encoder_decoder: bool) -> int:
    """Tokens of a job's longest sequence: its prompt with an option or a completion behind it."""
    behind = [len(full) - (0 if encoder_decoder else len(job.ids)) for full in job.scored]
    return len(job.ids) + max([job.budget, *behind])


def trial(jobs: Sequence[Job], window: int | None, encoder_decoder: bool) -> list[Job]:
    """The shortest and the longest of a cell's prompts, the longest made longer by tokens of its own."""
    by_length = sorted(jobs, key=lambda job: (total(job, encoder_decoder), job.ids))
    first = 1 if encoder_decoder else len(shared_prefix(jobs)) or 1
    short, long = (_asked(job, encoder_decoder) for job in (by_length[0], by_length[-1]))
    long = replace(long, scored=long.scored[-1:])
    length = total(by_length[-1], encoder_decoder)
    return [short, _stretched(long, first, min(window or math.inf, length * STRETCH) - length, encoder_decoder)]


def _asked(job: Job, encoder_decoder: bool) -> Job:
    """A job with two of its options, those that differ soonest, or with one made up where it has none."""
    options = sorted(job.scored, key=len)[-2:] if len(job.scored) < 3 else [job.scored[0], job.scored[-1]]
    if not options:
        options = [job.ids[:3] if encoder_decoder else (*job.ids, *job.ids[:3])]
    return Job(job.ids, (0,), min(job.budget, WRITTEN), tuple(options))


def _stretched(job: Job, first: int, by: float, encoder_decoder: bool) -> Job:
    """The job with `by` more tokens behind its first ones, which are its own over and over."""
    own = job.ids[first:] or job.ids
    count = max(0, int(by))
    more: Ids = (own * (count // len(own) + 1))[:count]

    def longer(ids: Ids) -> Ids:
        return (*ids[:first], *more, *ids[first:])

    scored = job.scored if encoder_decoder else tuple(map(longer, job.scored))
    return replace(job, ids=longer(job.ids), scored=scored)


@dataclass(frozen=True)
class Group:
    """Prompts that are answered in one batch, at one temperature, and what a plain forward pass says of each."""

    temperature: float
    jobs: Sequence[Job]
    right: Sequence[Done]


@dataclass(frozen=True)
class Expected:
    """What a way has to say.

    groups: the trial in one batch, the longest prompt beside one of a few tokens, and those few tokens with seeds that
    part. A length at which a model changes its ways therefore lies between two prompts of one batch.
    """

    groups: Sequence[Group]
    least: int  # tokens of the shortest sequence
    longest: int

    @property
    def forks(self) -> Group:
        """The draws that part."""
        return self.groups[-1]


def expected(model: Any, ends: frozenset[int], jobs: Sequence[Job], top_k: int) -> Expected:
    """The trial, one prompt and one option at a time.

    Raises NotFinite where logits are no numbers, and UnfitError where the model is no language model, or one whose
    answers depend on what it was asked before.
    """
    pair = model.config.is_encoder_decoder
    alone = OneByOne(model, Sampler(0.0, top_k), ends)
    hot = replace(alone, sampler=Sampler(HOT, top_k))
    (short, long), few = jobs, _few(jobs[0], pair)
    forks = [
        replace(few, ids=few.ids[:n], seeds=FORKS, budget=min(few.budget, DRAWN), scored=()) for n in (PROBE, PROBE - 5)
    ]
    alone.forget()
    before = marks(model)
    of_few = Done({0: reads_left_to_right(alone, few)}, [alone.score(few.ids, full) for full in few.scored])
    of_short, of_long = alone.run([short, long])
    drawn = hot.run(forks)
    alone.forget()
    if changed := sorted(name for name, value in marks(model).items() if before.get(name, value) != value):
        raise UnfitError(f"it changes while it answers ({changed[0]}), so an answer depends on those before it")
    return Expected(
        (
            Group(0.0, (short, long), (of_short, of_long)),
            Group(0.0, (few, long), (of_few, of_long)),
            Group(HOT, forks, drawn),
        ),
        min(total(few, pair), total(short, pair)),
        total(long, pair),
    )


def _few(job: Job, encoder_decoder: bool) -> Job:
    """The first tokens of a prompt, with the options behind them."""
    ids = job.ids[:PROBE]
    if encoder_decoder:
        return replace(job, ids=ids)
    return replace(job, ids=ids, scored=tuple((*ids, *full[common(job.ids, full) :]) for full in job.scored))


def marks(model: Any) -> dict[str, Any]:
    """What a module keeps beside its weights: its plain attributes and the sums of its buffers, by name."""
    plain = {
        f"{at}.{name}": value for at, module in model.named_modules() for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None)
    }  # fmt: skip
    return plain | {name: float(buffer.double().sum()) for name, buffer in model.named_buffers() if buffer.numel()}


def reads_left_to_right(alone: OneByOne, job: Job) -> Draw:
    """What the model writes. Raises UnfitError where it is not what a forward pass predicts, or what follows counts."""
    model, written = alone.model, alone.written(job, 0)
    pair, size = model.config.is_encoder_decoder, int(model.config.get_text_config(decoder=True).vocab_size)
    behind = (*written.tokens, *job.ids[:2])
    other = tuple((token + 1) % size for token in behind)  # of equal length, on which rotary frequencies may depend
    begin = () if pair else job.ids
    one, two = (alone.forward(job.ids, (*begin, *more), len(more) + 1).float() for more in (behind, other))
    tolerance = TOLERANCE[model.dtype]
    if not torch.allclose(one[0], two[0], rtol=tolerance, atol=tolerance):
        raise UnfitError("what follows a token changes what was predicted of it, so it is no causal language model")
    for at, (token, margin) in enumerate(zip(written.tokens, written.margins, strict=True)):
        gap = float(one[at].max() - one[at][token])
        if margin <= TIE[model.dtype]:
            break
        if not gap <= APART[model.dtype]:
            raise UnfitError("`generate` writes another token than a forward pass predicts")
    return written


def proven(name: str, way: Any, against: Expected) -> Proof:
    """The proof that a way agrees. Raises DisagreesError, or what the way raises where the model is none for it.

    Leaves the way as it was, less its shared prefix.
    """
    own, tokens, largest = way.sampler, way.tokens, 0.0
    try:
        way.together = True  # so that prompts of unlike lengths meet in one pass
        for group in against.groups:
            way.sampler = replace(own, temperature=group.temperature)
            way.prepare(group.jobs)
            for found, right in zip(way.run(group.jobs), group.right, strict=True):
                largest = max(largest, difference(found, right, way.model.dtype))
    finally:
        way.sampler, way.tokens, way.together = own, tokens, False
    every = [done for group in against.groups for done in group.right]
    return Proof(
        name,
        len(every),
        against.longest,
        sum(len(done.scores) for done in every),
        sum(len(draw.tokens) for done in every for draw in done.draws.values()),
        10.0 ** math.ceil(math.log10(max(largest, 1e-9))),
    )


def difference(found: Done, right: Done, dtype: torch.dtype) -> float:
    """The largest difference of two log-likelihoods. Raises DisagreesError where it, or a text, is another one's."""
    tolerance, tie = TOLERANCE[dtype], TIE[dtype]
    largest = 0.0
    for (value, tokens), (wanted, count) in zip(found.scores, right.scores, strict=True):
        off = abs(value - wanted)
        if tokens != count or not off <= tolerance * (1 + abs(wanted)):
            raise DisagreesError(f"a log-likelihood is {value:.4f} and not {wanted:.4f}")
        largest = max(largest, off)
    for seed, draw in right.draws.items():
        until = common(found.draws[seed].tokens, draw.tokens)
        if found.draws[seed].tokens != draw.tokens and min(draw.margins[: until + 1]) > tie:
            raise DisagreesError("it writes another text")
    return largest
