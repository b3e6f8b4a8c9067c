"""What shows that a way of running a model is right: it says what a plain forward pass says, on prompts of a cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from src.engine.job import Done, Ids, Job, Proof
from src.engine.plain import OneByOne
from src.engine.sampling import Sampler
from src.engine.tree import SHARE_FROM, common

STRETCH = 1.5  # a proof holds for later prompts up to so many times as long
WRITTEN = 8  # tokens written by a greedy trial at most, and half as many by one with seeds
FORKS = (0, 1)  # seeds that part soon at HOT
PROBE = 32  # tokens of the prompt with which forks are tried, and whether the model reads from left to right
HOT = 1.0
TOLERANCE = {torch.float32: 2e-4}  # of a log-likelihood, beside its size + 1
TIE = {torch.float32: 1e-3}  # a decision closer than this, in logits, may fall either way
COARSE, COARSE_TIE = 3e-2, 0.25  # of dtypes with 8 or 11 bits


class DisagreesError(Exception):
    """A way says something else than a plain forward pass."""


class UnfitError(Exception):
    """A model is none whose answers a plain forward pass can prove."""


def total(job: Job, encoder_decoder: bool) -> int:
    """Tokens of a job's longest sequence: its prompt with an option or a completion behind it."""
    behind = [len(full) - (0 if encoder_decoder else len(job.ids)) for full in job.scored]
    return len(job.ids) + max([job.budget, *behind])


def shared(jobs: Sequence[Job]) -> int:
    """Tokens that all jobs begin with."""
    every = [ids for job in jobs for ids in (job.ids, *job.scored)]
    return max(0, common(min(every), max(every)) - 1)


def trial(jobs: Sequence[Job], window: int | None, encoder_decoder: bool) -> list[Job]:
    """The shortest and the longest of a cell's prompts, the longest made longer by tokens of its own."""
    by_length = sorted(jobs, key=lambda job: (total(job, encoder_decoder), job.ids))
    first = shared(jobs) if not encoder_decoder and shared(jobs) >= SHARE_FROM else 1
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
class Expected:
    """What a plain forward pass says of a trial: greedily, and of the shortest prompt with seeds that part."""

    jobs: Sequence[Job]
    forks: Sequence[Job]
    greedy: Sequence[Done]
    drawn: Sequence[Done]


def expected(model: Any, ends: frozenset[int], jobs: Sequence[Job], top_k: int) -> Expected:
    """The trial, one prompt and one option at a time.

    Raises NotFinite where logits are no numbers, and UnfitError where the model is no language model, or one whose
    answers depend on what it was asked before.
    """
    alone = OneByOne(model, Sampler(0.0, top_k), ends)
    hot = replace(alone, sampler=Sampler(HOT, top_k))
    forks = [Job(jobs[0].ids[:PROBE], FORKS, min(jobs[0].budget, WRITTEN // 2), ())]
    alone.forget()
    before = marks(model)
    reads_left_to_right(alone, forks[0])
    found = Expected(jobs, forks, alone.run(jobs), hot.run(forks))
    alone.forget()
    if changed := sorted(name for name, value in marks(model).items() if before.get(name, value) != value):
        raise UnfitError(f"it changes while it answers ({changed[0]}), so an answer depends on those before it")
    return found


def marks(model: Any) -> dict[str, Any]:
    """What a module keeps beside its weights: its plain attributes and the sums of its buffers, by name."""
    plain = {
        f"{at}.{name}": value for at, module in model.named_modules() for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None)
    }  # fmt: skip
    return plain | {name: float(buffer.double().sum()) for name, buffer in model.named_buffers() if buffer.numel()}


def reads_left_to_right(alone: OneByOne, job: Job) -> None:
    """Raises UnfitError where a prediction depends on what follows it, or is not what `generate` writes."""
    model, (first, *_) = alone.model, alone.written(replace(job, budget=1), 0).tokens
    pair, size = model.config.is_encoder_decoder, int(model.config.get_text_config(decoder=True).vocab_size)
    behind = (first, *job.ids[:2])
    other = tuple((token + 1) % size for token in behind)  # of equal length, on which rotary frequencies may depend
    begin = () if pair else job.ids
    one, two = (alone.forward(job.ids, (*begin, *more), len(more) + 1)[0].float() for more in (behind, other))
    tolerance = TOLERANCE.get(model.dtype, COARSE)
    if not torch.allclose(one, two, rtol=tolerance, atol=tolerance):
        raise UnfitError("what follows a token changes what was predicted of it, so it is no causal language model")
    if not float(one.max() - one[first]) <= TIE.get(model.dtype, COARSE_TIE):
        raise UnfitError("`generate` writes another token than a forward pass predicts")


def proven(name: str, way: Any, against: Expected, encoder_decoder: bool) -> Proof:
    """The proof that a way agrees. Raises DisagreesError, or what the way raises where the model is none for it.

    Leaves the way as it was, less its shared prefix.
    """
    own, tokens, dtype = way.sampler, way.tokens, way.model.dtype
    try:
        way.sampler = replace(own, temperature=0.0)
        way.prepare(against.jobs)
        greedy = way.run(against.jobs)
        way.sampler = replace(own, temperature=HOT)
        way.prepare(against.forks)
        drawn = way.run([*against.forks, *against.forks])
    finally:
        way.sampler, way.tokens = own, tokens
    largest = 0.0
    for found, right in zip([*greedy, *drawn], [*against.greedy, *against.drawn, *against.drawn], strict=True):
        largest = max(largest, difference(found, right, dtype))
    return Proof(
        name,
        len(against.jobs),
        max(total(job, encoder_decoder) for job in against.jobs),
        sum(len(done.scores) for done in greedy),
        sum(len(draw.tokens) for done in [*greedy, *drawn] for draw in done.draws.values()),
        10.0 ** math.ceil(math.log10(max(largest, 1e-9))),
    )


def difference(found: Done, right: Done, dtype: torch.dtype) -> float:
    """The largest difference of two log-likelihoods. Raises DisagreesError where it, or a text, is another one's."""
    tolerance, tie = TOLERANCE.get(dtype, COARSE), TIE.get(dtype, COARSE_TIE)
    largest = 0.0
    for (value, tokens), (wanted, count) in zip(found.scores, right.scores, strict=True):
        off = abs(value - wanted)
        if tokens != count or not off <= tolerance * (1 + abs(wanted)):
            raise DisagreesError(f"a log-likelihood is {value:.4f} and not {wanted:.4f}")
        largest = max(largest, off)
    for seed, draw in right.draws.items():
        if found.draws[seed].tokens != draw.tokens and draw.margin > tie:
            raise DisagreesError("it writes another text")
    return largest
