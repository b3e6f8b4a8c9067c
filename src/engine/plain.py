"""Any model that `generate` takes, in plain batches. Results are the same as the other ways', and slower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from src.engine.job import Done, Draw, Ids, Job
from src.engine.sampling import Sampler, Tensor, prompt_hash
from src.engine.tree import common


class _Chosen(LogitsProcessor):  # type: ignore[misc]
    """Leaves each row only the token its seed draws."""

    def __init__(self, sampler: Sampler, draws: Sequence[tuple[int, int, Draw]], length: int):
        self.sampler, self.draws, self.length = sampler, draws, length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.length
        prompts, seeds = [p for p, _, _ in self.draws], [s for _, s, _ in self.draws]
        tokens, margins = self.sampler.choose(scores, range(len(scores)), prompts, seeds, step)
        for (_, _, draw), margin in zip(self.draws, margins, strict=True):
            if draw.finish != "eos":
                draw.margin = min(draw.margin, margin)
        only = torch.full_like(scores, -math.inf)
        only[range(len(scores)), tokens] = 0.0
        return only


@dataclass
class Plain:
    """Any model that `generate` takes: prompts in plain batches, nothing shared. The same result, slower."""

    model: Any
    sampler: Sampler
    ends: frozenset[int]
    tokens: int = 0

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Nothing is shared."""

    def cost(self, job: Job) -> int:
        """Tokens a job keeps in memory."""
        return (len(job.ids) + job.budget) * max(1, len(job.seeds))

    def length(self, job: Job) -> int:
        """Tokens of the prompt."""
        return len(job.ids)

    def run(self, jobs: Sequence[Job]) -> list[Done]:
        """One batch."""
        draws: list[dict[int, Draw]] = [{} for _ in jobs]
        wanted = [(b, seed) for b, job in enumerate(jobs) for seed in job.seeds]
        for (b, seed), draw in zip(wanted, self.generate(jobs, wanted) if wanted else (), strict=True):
            draws[b][seed] = draw
        return [Done(d, [self.score(job.ids, full) for full in job.scored]) for d, job in zip(draws, jobs, strict=True)]

    def generate(self, jobs: Sequence[Job], wanted: Sequence[tuple[int, int]]) -> list[Draw]:
        """The draw of each (job, seed)."""
        width = max(len(jobs[b].ids) for b, _ in wanted)
        ids = torch.tensor([[0] * (width - len(jobs[b].ids)) + list(jobs[b].ids) for b, _ in wanted])
        mask = torch.tensor([[0] * (width - len(jobs[b].ids)) + [1] * len(jobs[b].ids) for b, _ in wanted])
        draws = [(prompt_hash(jobs[b].ids), seed, Draw()) for b, seed in wanted]
        out = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            do_sample=False,
            max_new_tokens=max(jobs[b].budget for b, _ in wanted),
            pad_token_id=0 if not self.ends else min(self.ends),
            logits_processor=LogitsProcessorList([_Chosen(self.sampler, draws, width)]),
        )[:, width:].tolist()
        for (b, _), (_, _, draw), new in zip(wanted, draws, out, strict=True):
            new = new[: jobs[b].budget]
            end = next((i for i, token in enumerate(new) if token in self.ends), None)
            draw.tokens = tuple(new if end is None else new[: end + 1])
            draw.finish = "length" if end is None else "eos"
            self.tokens += len(jobs[b].ids) + len(draw.tokens)
        return [draw for _, _, draw in draws]

    def score(self, prompt: Ids, full: Ids) -> tuple[float, int]:
        """(log-probability, tokens) of one option."""
        shared = common(prompt, full)
        logits = self.model(torch.tensor([full], device=self.model.device)).logits[0, shared - 1 : -1].float()
        target = torch.tensor(full[shared:], device=self.model.device)[:, None]
        self.tokens += len(full)
        return float(torch.log_softmax(logits, dim=-1).gather(1, target).double().sum()), len(target)
