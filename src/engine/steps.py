"""Decoders whose memory cannot be masked (state-space, hybrid, positions by slot): all rows in step, nothing padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from src.engine.job import Done, Draw, Ids, Job
from src.engine.sampling import Sampler, Tensor, finite, prompt_hash
from src.engine.state import Memory, Reader
from src.engine.tree import common, shared_prefix


@dataclass
class _Scored:
    """An option that is read along: the tokens of prompt and option, and where the option begins."""

    ids: Ids
    begin: int
    logprob: float = 0.0


@dataclass
class _Written:
    """A job's seeds that have drawn the same tokens so far, behind a prompt that is read first."""

    job: int
    ids: Ids  # prompt and what was drawn
    seeds: tuple[int, ...]


Reading = _Scored | _Written


@dataclass
class Steps:
    """A decoder that reads one token of every row at a time.

    A row is a sequence of tokens that one or several prompts, options or draws have in common. It forks where they
    part, by a copy of the model's memory. All rows have the same length, so there is no padding, no mask and no
    position that could be taken for another.
    """

    model: Any
    sampler: Sampler
    ends: frozenset[int]
    tokens: int = 0
    together: bool = False
    prefix: Ids = ()
    memory: Any = None  # behind the prefix, one row
    logits: Any = None  # behind the prefix, (1, vocabulary)
    kind: Callable[[Any], Memory] = Reader

    def __post_init__(self) -> None:
        self.reader = self.kind(self.model)

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Read what all jobs begin with in one forward pass."""
        prefix = shared_prefix(jobs)
        if prefix and prefix != self.prefix:
            self.logits, self.memory = self.reader.read([prefix], None, self.reader.ones(1, len(prefix)))
            self.tokens += len(prefix)
        self.prefix = prefix

    def cost(self, job: Job) -> int:
        """Tokens a job keeps in memory."""
        return (len(job.ids) + job.budget) * max(1, len(job.seeds) + len(job.scored))

    def length(self, job: Job) -> int:
        """Tokens to read before the completion."""
        return len(job.ids) - len(self.prefix)

    def run(self, jobs: Sequence[Job]) -> list[Done]:
        """One batch."""
        draws: list[dict[int, Draw]] = [{seed: Draw() for seed in job.seeds} for job in jobs]
        scored = [[_Scored(full, common(job.ids, full)) for full in job.scored] for job in jobs]
        written = [_Written(j, job.ids, job.seeds) for j, job in enumerate(jobs) if job.seeds]
        hashes = [prompt_hash(job.ids) for job in jobs]
        readings: list[Reading] = [*(each for options in scored for each in options), *written]
        rows, logits, memory, read = [readings], self.logits, self.memory, len(self.prefix)
        if not self.prefix:  # the first token is read without a memory before it
            rows, logits, memory = self._begun(readings)
            read = 1
        while rows:
            children = self._onward(rows, logits, read, jobs, hashes, draws)
            if not children:
                break
            parents, tokens, rows = [c[0] for c in children], [c[1] for c in children], [c[2] for c in children]
            read += 1
            forked, mask = self.reader.select(memory, parents), self.reader.ones(len(rows), read)
            logits, memory = self.reader.read([[token] for token in tokens], forked, mask)
            self.tokens += len(rows)
        return [
            Done(d, [(o.logprob, len(o.ids) - o.begin) for o in options])
            for d, options in zip(draws, scored, strict=True)
        ]

    def _begun(self, readings: Sequence[Reading]) -> tuple[list[list[Reading]], Tensor, Any]:
        """(rows, logits, memory) after the first token of each reading."""
        by_token: dict[int, list[Reading]] = {}
        for each in readings:
            by_token.setdefault(each.ids[0], []).append(each)
        logits, memory = self.reader.read([[token] for token in by_token], None, self.reader.ones(len(by_token), 1))
        self.tokens += len(by_token)
        return list(by_token.values()), logits, memory

    def _onward(
        self,
        rows: Sequence[Sequence[Reading]],
        logits: Tensor,
        read: int,
        jobs: Sequence[Job],
        hashes: Sequence[int],
        draws: Sequence[dict[int, Draw]],
    ) -> list[tuple[int, int, list[Reading]]]:
        """(row, next token, what goes on with it). Options are scored and draws are made on the way."""
        self._score(rows, logits, read)
        grown: dict[tuple[int, int], list[Reading]] = {}
        for b, row in enumerate(rows):
            for each in row:
                if read < len(each.ids) - isinstance(each, _Scored):  # an option's last token needs not be read
                    grown.setdefault((b, each.ids[read]), []).append(each)
        drawing = [(b, each) for b, row in enumerate(rows) for each in row if _draws(each, read)]
        for b, token, each in self._drawn(drawing, logits, jobs, hashes, draws):
            grown.setdefault((b, token), []).append(each)
        return [(b, token, group) for (b, token), group in grown.items()]

    def _score(self, rows: Sequence[Sequence[Reading]], logits: Tensor, read: int) -> None:
        wanted = [
            (b, each) for b, row in enumerate(rows) for each in row
            if isinstance(each, _Scored) and each.begin <= read < len(each.ids)
        ]  # fmt: skip
        if not wanted:
            return
        index = torch.tensor([b for b, _ in wanted], device=logits.device)
        target = torch.tensor([each.ids[read] for _, each in wanted], device=logits.device)
        logprobs = torch.log_softmax(logits[index].float(), dim=-1).gather(1, target[:, None])[:, 0].tolist()
        for (_, each), logprob in zip(wanted, logprobs, strict=True):
            each.logprob += finite(logprob)

    def _drawn(
        self,
        drawing: Sequence[tuple[int, Reading]],
        logits: Tensor,
        jobs: Sequence[Job],
        hashes: Sequence[int],
        draws: Sequence[dict[int, Draw]],
    ) -> list[tuple[int, int, _Written]]:
        """(row, token, what goes on with it) of the draws at the end of their prompts."""
        wanted = [(b, each, seed) for b, each in drawing if isinstance(each, _Written) for seed in each.seeds]
        if not wanted:
            return []
        steps = [len(each.ids) - len(jobs[each.job].ids) for _, each, _ in wanted]
        tokens, margins = self.sampler.choose(
            logits, [b for b, _, _ in wanted], [hashes[each.job] for _, each, _ in wanted],
            [seed for _, _, seed in wanted], steps,
        )  # fmt: skip
        grown: dict[tuple[int, int, Ids], list[int]] = {}
        for (b, each, seed), token, margin in zip(wanted, tokens, margins, strict=True):
            job, draw = jobs[each.job], draws[each.job][seed]
            draw.margin, draw.tokens = min(draw.margin, margin), (*draw.tokens, token)
            if token in self.ends:
                draw.finish = "eos"
            elif len(draw.tokens) < job.budget:
                grown.setdefault((b, each.job, (*each.ids, token)), []).append(seed)
        return [(b, ids[-1], _Written(job, ids, tuple(seeds))) for (b, job, ids), seeds in grown.items()]


def _draws(each: Reading, read: int) -> bool:
    return isinstance(each, _Written) and len(each.ids) == read
