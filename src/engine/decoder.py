"""Decoder-only models: a shared prefix, options as a tree, seeds that fork."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache

from src.engine.attention import Block
from src.engine.job import Done, Ids, Job
from src.engine.loading import pass_tokens
from src.engine.sampling import Sampler, Tensor, decode
from src.engine.tree import Row, common, row, visible

SHARE_FROM = 16  # a shared prefix of fewer tokens is not worth a block of its own
VOCABULARY_ROWS = 256  # positions projected to the vocabulary at once


@dataclass
class DecoderPaths:
    """Rows of a decoder-only model. `seen`: (rows, slots), slots that hold a token; `position`: of the next token."""

    decoder: Decoder
    blocks: list[Block]
    seen: Tensor
    position: Tensor

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows. Where they are the first ones, nothing is copied."""
        index: Any = torch.tensor(rows, device=self.seen.device)
        if list(rows) == list(range(len(rows))):
            index = slice(len(rows))
        self.seen, self.position = self.seen[index], self.position[index]
        for block in self.blocks:
            block.keys, block.values = block.keys[index], block.values[index]

    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row."""
        end = self.blocks[0].length + 1
        self.seen[:, end - 1] = True
        ids = torch.tensor(tokens, device=self.seen.device)[:, None]
        hidden = self.decoder.hidden(ids, self.position[:, None], self.seen[:, None, :end], self.blocks)
        self.position = self.position + 1
        return self.decoder.head(hidden[:, -1])


@dataclass
class Decoder:
    """A decoder-only model. `shared`: it attends to the shared prefix without copying it into every row."""

    model: Any
    shared: bool
    sampler: Sampler
    ends: frozenset[int]
    tokens: int = 0
    prefix: Ids = ()
    prefix_kv: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # by layer, (kv heads, prefix, dim)

    def __post_init__(self) -> None:
        self.base, self.head = self.model.base_model, self.model.get_output_embeddings()
        cache = DynamicCache()
        self.base(torch.zeros(1, 1, dtype=torch.long, device=self.model.device), past_key_values=cache, use_cache=True)
        self.like = [(layer.keys, layer.values) for layer in cache.layers]

    @property
    def copied(self) -> int:
        """Tokens of the prefix that each row's own block holds."""
        return 0 if self.shared else len(self.prefix)

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Compute what all jobs begin with, less one token, so that each job keeps a state to predict from."""
        every = [ids for job in jobs for ids in (job.ids, *job.scored)]
        length = max(0, common(min(every), max(every)) - 1)
        prefix = jobs[0].ids[: length if length >= SHARE_FROM else 0]
        if prefix == self.prefix:
            return
        self.prefix, self.prefix_kv = (), []
        if prefix:
            blocks = self.allocate(1, len(prefix))
            self.prefill([Row(prefix, (), (), 0)], blocks, len(prefix), 0)
            self.prefix, self.prefix_kv = prefix, [(block.keys[0], block.values[0]) for block in blocks]

    def cost(self, job: Job) -> int:
        """Slots of cache a job needs."""
        paths = len(job.seeds) if self.sampler.temperature else 1
        return (self.copied + self.length(job) + job.budget) * max(1, paths)

    def length(self, job: Job) -> int:
        """Tokens to compute before the completion: the suffix and the options' nodes."""
        return row(job, len(self.prefix)).size

    def allocate(self, rows: int, slots: int) -> list[Block]:
        """Empty blocks that begin with the copied prefix."""
        blocks = []
        for layer, pair in enumerate(self.like):
            keys, values = (t.new_zeros(rows, t.shape[1], self.copied + slots, t.shape[3]) for t in pair)
            if self.copied:
                keys[:, :, : self.copied], values[:, :, : self.copied] = self.prefix_kv[layer]
            blocks.append(Block(keys, values, self.copied))
        return blocks

    def hidden(self, ids: Tensor, position: Tensor, seen: Tensor, blocks: list[Block]) -> Tensor:
        """Last hidden states (rows, queries, width). seen: bool (rows, queries, own slots)."""
        like = self.like[0][0]
        mask = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(
            ~seen.to(like.device), torch.finfo(like.dtype).min
        )
        extra = {"prefix": self.prefix_kv} if self.shared and self.prefix_kv else {}
        out = self.base(
            input_ids=ids.to(like.device),
            attention_mask=mask[:, None],
            position_ids=position.to(like.device),
            past_key_values=Cache(layers=blocks),
            use_cache=True,
            **extra,
        )
        return out.last_hidden_state

    def prefill(self, rows: Sequence[Row], blocks: list[Block], width: int, shift: int) -> Tensor:
        """Hidden states (rows, width, dim) of suffixes and the nodes behind them, left-padded to `width`."""
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        position = torch.zeros_like(ids)
        for b, r in enumerate(rows):
            ids[b, width - r.size :] = torch.tensor([*r.suffix, *(n.token for n in r.nodes)])
            position[b, width - r.size :] = torch.tensor(
                [*range(r.start, r.start + len(r.suffix)), *(n.position for n in r.nodes)]
            )
        seen = visible(rows, width, shift)
        if self.copied:
            seen = torch.cat([seen.new_ones(len(rows), width, self.copied), seen], dim=-1)
        for block in blocks:
            block.length += shift
        self.tokens += sum(r.size for r in rows)
        return self.hidden(ids, position, seen, blocks)

    def run(self, jobs: Sequence[Job]) -> list[Done]:
        """One batch: prompts and options in passes of PREFILL_TOKENS, then all completions together."""
        rows = [row(job, len(self.prefix)) for job in jobs]
        width = max(r.size for r in rows)
        blocks = self.allocate(len(rows), width + max(job.budget for job in jobs))
        logits: list[Tensor] = []
        scores: list[list[tuple[float, int]]] = []
        for lo, hi in pairwise(self.passes(rows)):
            part, own = rows[lo:hi], max(r.size for r in rows[lo:hi])
            views = [Block(b.keys[lo:hi], b.values[lo:hi], self.copied) for b in blocks]
            hidden = self.prefill(part, views, own, width - own)
            logits.append(self.head(_states(hidden, [(b, own - len(r.nodes) - 1) for b, r in enumerate(part)])))
            scores += self.scores(part, hidden)
        draws, computed = decode(self.paths(rows, blocks, width), torch.cat(logits), jobs, self.sampler, self.ends)
        self.tokens += computed
        return [Done(d, s) for d, s in zip(draws, scores, strict=True)]

    def passes(self, rows: Sequence[Row]) -> list[int]:
        """Bounds of consecutive rows that make one forward pass each."""
        limit = pass_tokens(self.model)
        bounds, width = [0], 0
        for i, r in enumerate(rows):
            width = max(width, r.size)
            if i > bounds[-1] and width * (i + 1 - bounds[-1]) > limit:
                bounds.append(i)
                width = r.size
        return [*bounds, len(rows)]

    def paths(self, rows: Sequence[Row], blocks: list[Block], width: int) -> DecoderPaths:
        """The rows after their prompts. The mask hides what the options' nodes left in the blocks."""
        device = self.model.device
        pads = torch.tensor([width - r.size for r in rows], device=device)
        ends = torch.tensor([width - len(r.nodes) for r in rows], device=device)
        slots = torch.arange(blocks[0].keys.shape[2] - self.copied, device=device)
        seen = (slots >= pads[:, None]) & (slots < ends[:, None])
        seen = torch.cat([seen.new_ones(len(rows), self.copied), seen], dim=1)
        for block in blocks:
            block.length = self.copied + width
        return DecoderPaths(self, blocks, seen, torch.tensor([r.start + len(r.suffix) for r in rows], device=device))

    def scores(self, rows: Sequence[Row], hidden: Tensor) -> list[list[tuple[float, int]]]:
        """(log-probability, tokens) of each row's options, from states (rows, width, dim)."""
        wanted = [
            (b, hidden.shape[1] - r.size + column, token)
            for b, r in enumerate(rows)
            for option in r.targets
            for column, token in option
        ]
        places = list(dict.fromkeys((b, column) for b, column, _ in wanted))
        values = log_probabilities(lambda lo, hi: self.head(_states(hidden, places[lo:hi])), places, wanted)
        return [[(sum(next(values) for _ in option), len(option)) for option in r.targets] for r in rows]


def _states(hidden: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
    index = torch.tensor(places, device=hidden.device)
    return hidden[index[:, 0], index[:, 1]]


def log_probabilities(
    logits: Any, places: Sequence[tuple[int, int]], wanted: Sequence[tuple[int, int, int]]
) -> Iterator[float]:
    """Natural log-probability of each wanted (row, column, token); logits(lo, hi) projects places[lo:hi]."""
    by_place: dict[tuple[int, int], list[int]] = {}
    for i, (b, column, _) in enumerate(wanted):
        by_place.setdefault((b, column), []).append(i)
    logprobs = [0.0] * len(wanted)
    for lo in range(0, len(places), VOCABULARY_ROWS):
        part = torch.log_softmax(logits(lo, lo + VOCABULARY_ROWS).float(), dim=-1)
        here = [(n, i) for n, place in enumerate(places[lo : lo + VOCABULARY_ROWS]) for i in by_place[place]]
        values = part[[n for n, _ in here], [wanted[i][2] for _, i in here]].tolist()
        for (_, i), value in zip(here, values, strict=True):
            logprobs[i] = value
    return iter(logprobs)
