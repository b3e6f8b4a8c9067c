"""A decoder in plain batches, and any model one prompt at a time. Nothing is shared: the same results, slower."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from src.engine.encoder_decoder import start_of
from src.engine.job import Done, Draw, Ids, Job
from src.engine.loading import pass_tokens
from src.engine.sampling import Sampler, Tensor, decode, finite, prompt_hash
from src.engine.state import Reader, takes
from src.engine.tree import common


@dataclass
class PlainPaths:
    """Rows of a decoder behind left-padded prompts. mask (rows, tokens): 1 where a row has a token, else 0."""

    plain: Plain
    memory: Any
    mask: Tensor

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows. A row that ended leaves."""
        self.memory = self.plain.reader.select(self.memory, rows)
        self.mask = self.mask[torch.tensor(rows, device=self.mask.device)]

    def walked(self, nodes: Sequence[Ids]) -> None:
        """Never called: options are no tree here."""

    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        logits, self.memory = self.plain.reader.read([[token] for token in tokens], self.memory, self.mask)
        return logits


@dataclass
class Plain:
    """A decoder whose prompts share nothing. They are left-padded. A prompt's options are one right-padded batch."""

    model: Any
    sampler: Sampler
    ends: frozenset[int]
    tokens: int = 0
    together: bool = False
    reader: Reader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = Reader(self.model, masks=True)

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Nothing is shared."""

    def cost(self, job: Job) -> int:
        """Tokens a job keeps in memory."""
        return (len(job.ids) + job.budget) * max(1, len(job.seeds), len(job.scored))

    def length(self, job: Job) -> int:
        """Tokens of the prompt."""
        return len(job.ids)

    def run(self, jobs: Sequence[Job]) -> list[Done]:
        """One batch, in passes of PREFILL_TOKENS."""
        draws: list[dict[int, Draw]] = []
        for part in self.passes(jobs):
            draws += self.written(part) if any(job.seeds for job in part) else [{} for _ in part]
        return [Done(d, self.scores(job)) for d, job in zip(draws, jobs, strict=True)]

    def passes(self, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
        """Consecutive jobs that make one forward pass each."""
        limit, begin, width = math.inf if self.together else pass_tokens(self.model), 0, 0
        for i, job in enumerate(jobs):
            width = max(width, len(job.ids))
            if i > begin and width * (i + 1 - begin) > limit:
                yield jobs[begin:i]
                begin, width = i, len(job.ids)
        yield jobs[begin:]

    def written(self, jobs: Sequence[Job]) -> list[dict[int, Draw]]:
        """Draws by seed of each job."""
        width = max(len(job.ids) for job in jobs)
        ids = [(0,) * (width - len(job.ids)) + job.ids for job in jobs]
        mask = torch.tensor([[0] * (width - len(job.ids)) + [1] * len(job.ids) for job in jobs])
        mask = mask.to(self.model.device)
        logits, memory = self.reader.read(ids, None, mask)
        draws, computed = decode(PlainPaths(self, memory, mask), logits, jobs, self.sampler, self.ends)
        self.tokens += sum(len(job.ids) for job in jobs) + computed
        return draws

    def scores(self, job: Job) -> list[tuple[float, int]]:
        """(log-probability, tokens) of each option of a prompt, in one batch."""
        if not job.scored:
            return []
        width, begins = max(map(len, job.scored)), [common(job.ids, full) for full in job.scored]
        ids = torch.tensor([list(full) + [0] * (width - len(full)) for full in job.scored], device=self.model.device)
        mask = torch.tensor([[1] * len(full) + [0] * (width - len(full)) for full in job.scored])
        first = min(begins) - 1
        keep = {"logits_to_keep": width - first} if self.reader.last else {}
        given = self.reader.given(mask.to(ids.device), width)
        logits = self.model(input_ids=ids, use_cache=False, **given, **keep).logits
        logits = logits[:, first - width :]
        self.tokens += sum(map(len, job.scored))
        return [
            (summed(row[begin - 1 - first : len(full) - 1 - first], full[begin:]), len(full) - begin)
            for row, begin, full in zip(logits, begins, job.scored, strict=True)
        ]


def summed(logits: Tensor, target: Ids) -> float:
    """Log-probability of the tokens `target` by logits (tokens, vocabulary)."""
    wanted = torch.tensor(target, device=logits.device)[:, None]
    return finite(float(torch.log_softmax(logits.float(), dim=-1).gather(1, wanted).double().sum()))


class _Chosen(LogitsProcessor):  # type: ignore[misc]
    """Leaves a row only the token its seed draws."""

    def __init__(self, sampler: Sampler, draw: Draw, prompt: int, seed: int, length: int):
        self.sampler, self.draw, self.prompt, self.seed, self.length = sampler, draw, prompt, seed, length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.length
        (token,), (margin,) = self.sampler.choose(scores, [0], [self.prompt], [self.seed], [step])
        self.draw.margin = min(self.draw.margin, margin)
        self.draw.margins.append(margin)
        only = torch.full_like(scores, -math.inf)
        only[0, token] = 0.0
        return only


@dataclass
class OneByOne:
    """Any model, one prompt and one option at a time: `generate`, and a plain forward pass over prompt and option.

    What every other way is proven against (proof.py).
    """

    model: Any
    sampler: Sampler
    ends: frozenset[int]
    tokens: int = 0
    together: bool = False

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Nothing is shared."""

    def cost(self, job: Job) -> int:
        """Tokens a job keeps in memory."""
        return len(job.ids) + job.budget

    def length(self, job: Job) -> int:
        """Tokens of the prompt."""
        return len(job.ids)

    def run(self, jobs: Sequence[Job]) -> list[Done]:
        """One prompt after the other."""
        greedy = self.sampler.temperature == 0
        done = []
        for job in jobs:
            seeds = job.seeds[:1] if greedy else job.seeds
            draws = {seed: self.written(job, seed) for seed in seeds}
            draws |= {seed: draws[seeds[0]] for seed in job.seeds if seed not in draws}
            done.append(Done(draws, [self.score(job.ids, full) for full in job.scored]))
        return done

    def forget(self, tokens: int = 1) -> None:
        """Read a token, so that what a longer prompt left in the model (rotary frequencies that grow) is gone."""
        ids = torch.zeros(1, tokens, dtype=torch.long, device=self.model.device)
        more = {"decoder_input_ids": ids[:, :1]} if self.model.config.is_encoder_decoder else {}
        self.model(input_ids=ids, **more)

    def written(self, job: Job, seed: int) -> Draw:
        """What one seed writes."""
        self.forget()
        ids, draw = torch.tensor([job.ids], device=self.model.device), Draw()
        # generate's input has one token more where a decoder begins with one of its own
        length = 1 if self.model.config.is_encoder_decoder else len(job.ids)
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=self.settings(job.budget),
            logits_processor=LogitsProcessorList([_Chosen(self.sampler, draw, prompt_hash(job.ids), seed, length)]),
        )[0, length:].tolist()
        end = next((i for i, token in enumerate(out) if token in self.ends), None)
        draw.tokens = tuple(out if end is None else out[: end + 1])
        draw.finish = "length" if end is None else "eos"
        self.tokens += len(job.ids) + len(draw.tokens)
        return draw

    def settings(self, budget: int) -> GenerationConfig:
        """Greedy over what the processor leaves, with the model's own special tokens and nothing else of its own."""
        own = self.model.generation_config
        return GenerationConfig(
            do_sample=False, max_new_tokens=budget, eos_token_id=sorted(self.ends) or None,
            pad_token_id=min(self.ends, default=0), bos_token_id=own.bos_token_id,
            decoder_start_token_id=start_of(self.model) if self.model.config.is_encoder_decoder else None,
        )  # fmt: skip

    def score(self, prompt: Ids, full: Ids) -> tuple[float, int]:
        """(log-probability, tokens) of one option: behind the prompt, of an encoder-decoder alone."""
        self.forget()
        if self.model.config.is_encoder_decoder:
            logits, begin = self.forward(prompt, full, len(full) + 1), 0
        else:
            begin = common(prompt, full)
            logits = self.forward(prompt, full, len(full) - begin + 1)
        self.tokens += len(full)
        return summed(logits[:-1], full[begin:]), len(full) - begin

    def forward(self, prompt: Ids, full: Ids, last: int) -> Tensor:
        """Logits (last, vocabulary) at the end of one forward pass over `full`.

        An encoder-decoder reads `prompt`, and decodes a start and `full`.
        """
        device, keep = self.model.device, {}
        if self.model.config.is_encoder_decoder:
            answer = torch.tensor([[start_of(self.model), *full]], device=device)
            given = {"input_ids": torch.tensor([prompt], device=device), "decoder_input_ids": answer}
        else:
            given = {"input_ids": torch.tensor([full], device=device)}
            keep = {"logits_to_keep": last} if takes(self.model, "logits_to_keep") else {}
        return self.model(**given, **keep, use_cache=False).logits[0, -last:]
