"""Decoder-only models: a shared prefix, options as a tree, seeds that fork."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache

from src.engine.attention import Block, Sight, additive, seeing
from src.engine.head import body, logits_of, rows_at_once
from src.engine.job import Done, Ids, Job
from src.engine.loading import pass_tokens
from src.engine.sampling import Ahead, Sampler, Tensor, Walk, decode, finite
from src.engine.tree import Row, onward, row, shared_prefix, visible


@dataclass
class DecoderPaths:
    """Rows of a decoder-only model behind their prompts.

    seen (rows, slots): slots that hold a token of the row's sequence. where (rows, slots): the position of that token.
    position (rows,): of the next token. nodes_at (rows,): the slot of the first node of the row's options.
    """

    decoder: Decoder
    blocks: list[Block]
    seen: Tensor
    where: Tensor
    position: Tensor
    nodes_at: Tensor

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows. Where they are the first ones, nothing is copied."""
        index: Any = torch.tensor(rows, device=self.seen.device)
        if list(rows) == list(range(len(rows))):
            index = slice(len(rows))
        self.seen, self.where, self.position = self.seen[index], self.where[index], self.position[index]
        self.nodes_at = self.nodes_at[index]
        for block in self.blocks:
            block.keys, block.values = block.keys[index], block.values[index]

    def walked(self, nodes: Sequence[Ids]) -> None:
        """Each row has gone along these nodes of its options, whose keys and values its block already holds."""
        for b, numbers in enumerate(nodes):
            if numbers:
                slots = self.nodes_at[b] + torch.tensor(numbers, device=self.seen.device)
                self.seen[b, slots] = True
                self.position[b] += len(numbers)

    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row."""
        end = self.blocks[0].length + 1
        self.seen[:, end - 1] = True
        self.where[:, end - 1] = self.position
        ids = torch.tensor(tokens, device=self.seen.device)[:, None]
        hidden = self.decoder.hidden(
            ids, self.position[:, None], self.seen[:, None, :end], self.where[:, :end], self.blocks
        )
        self.position = self.position + 1
        return self.decoder.logits(hidden[:, -1])


@dataclass
class Decoder:
    """A decoder-only model. `shared`: it attends to the shared prefix without copying it into every row."""

    model: Any
    shared: bool
    sampler: Sampler
    ends: frozenset[int]
    tokens: int = 0
    together: bool = False
    prefix: Ids = ()
    prefix_kv: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # by layer, (kv heads, prefix, dim)

    def __post_init__(self) -> None:
        self.base, cache = body(self.model), DynamicCache()
        self.base(torch.zeros(1, 1, dtype=torch.long, device=self.model.device), past_key_values=cache, use_cache=True)
        self.like = [(layer.keys, layer.values) for layer in cache.layers]

    def logits(self, states: Tensor) -> Tensor:
        """Logits (n, vocabulary) of last hidden states (n, dim)."""
        return logits_of(self.model, states)

    @property
    def copied(self) -> int:
        """Tokens of the prefix that each row's own block holds."""
        return 0 if self.shared else len(self.prefix)

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Compute what all jobs begin with."""
        prefix = shared_prefix(jobs)
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

    def hidden(self, ids: Tensor, position: Tensor, seen: Tensor, where: Tensor, blocks: list[Block]) -> Tensor:
        """Last hidden states (rows, queries, width).

        seen: bool (rows, queries, own slots). position (rows, queries) and where (rows, own slots): positions.
        """
        like = self.like[0][0]
        seen, position, where = (t.to(like.device) for t in (seen, position, where))
        mask = additive(seen, like)[:, None]
        prefix = self.prefix_kv if self.shared else ()
        with seeing(Sight(prefix, seen, position, where, mask)):
            out = self.base(
                input_ids=ids.to(like.device),
                attention_mask=mask,
                position_ids=position,
                past_key_values=Cache(layers=blocks),
                use_cache=True,
            )
        return out.last_hidden_state

    def prefill(self, rows: Sequence[Row], blocks: list[Block], width: int, shift: int) -> Tensor:
        """Hidden states (rows, width, dim) of suffixes and the nodes behind them, left-padded to `width`."""
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for b, r in enumerate(rows):
            ids[b, width - r.size :] = torch.tensor([*r.suffix, *(n.token for n in r.nodes)])
        where = self.places(rows, shift + width)
        seen = visible(rows, width, shift)
        if self.copied:
            seen = torch.cat([seen.new_ones(len(rows), width, self.copied), seen], dim=-1)
        for block in blocks:
            block.length += shift
        self.tokens += sum(r.size for r in rows)
        return self.hidden(ids, where[:, self.copied + shift :], seen, where, blocks)

    def places(self, rows: Sequence[Row], slots: int) -> Tensor:
        """Positions (rows, copied + slots) of what each row's slots hold, its tokens in the last ones."""
        where = torch.zeros(len(rows), self.copied + slots, dtype=torch.long)
        where[:, : self.copied] = torch.arange(self.copied)
        for b, r in enumerate(rows):
            begin = self.copied + slots - r.size
            where[b, begin:] = torch.tensor([*range(r.start, r.start + len(r.suffix)), *(n.position for n in r.nodes)])
        return where

    def run(self, jobs: Sequence[Job]) -> list[Done]:
        """One batch: prompts and options in passes of PREFILL_TOKENS, then all completions together."""
        rows = [row(job, len(self.prefix)) for job in jobs]
        width = max(r.size for r in rows)
        blocks = self.allocate(len(rows), width + max(job.budget for job in jobs))
        logits: list[Tensor] = []
        scores: list[list[tuple[float, int]]] = []
        ahead: list[Ahead] = []
        for lo, hi in pairwise(self.passes(rows)):
            part, own = rows[lo:hi], max(r.size for r in rows[lo:hi])
            views = [Block(b.keys[lo:hi], b.values[lo:hi], self.copied) for b in blocks]
            hidden = self.prefill(part, views, own, width - own)
            logits.append(self.logits(_states(hidden, [(b, own - len(r.nodes) - 1) for b, r in enumerate(part)])))
            scores += self.scores(part, hidden)
            ahead += [Ahead(onward(r), hidden[b, own - len(r.nodes) :]) for b, r in enumerate(part)]
        walk = Walk(ahead, self.logits)
        draws, computed = decode(
            self.paths(rows, blocks, width), torch.cat(logits), jobs, self.sampler, self.ends, walk
        )
        self.tokens += computed
        return [Done(d, s) for d, s in zip(draws, scores, strict=True)]

    def passes(self, rows: Sequence[Row]) -> list[int]:
        """Bounds of consecutive rows that make one forward pass each."""
        limit = math.inf if self.together else pass_tokens(self.model)
        bounds, width = [0], 0
        for i, r in enumerate(rows):
            width = max(width, r.size)
            if i > bounds[-1] and width * (i + 1 - bounds[-1]) > limit:
                bounds.append(i)
                width = r.size
        return [*bounds, len(rows)]

    def paths(self, rows: Sequence[Row], blocks: list[Block], width: int) -> DecoderPaths:
        """The rows after their prompts. The mask hides what the options' nodes left in the blocks."""
        device, free = self.model.device, blocks[0].keys.shape[2] - self.copied - width
        pads = torch.tensor([width - r.size for r in rows], device=device)
        ends = torch.tensor([width - len(r.nodes) for r in rows], device=device)
        slots = torch.arange(width + free, device=device)
        seen = (slots >= pads[:, None]) & (slots < ends[:, None])
        seen = torch.cat([seen.new_ones(len(rows), self.copied), seen], dim=1)
        where = torch.nn.functional.pad(self.places(rows, width), (0, free)).to(device)
        for block in blocks:
            block.length = self.copied + width
        position = torch.tensor([r.start + len(r.suffix) for r in rows], device=device)
        return DecoderPaths(self, blocks, seen, where, position, self.copied + ends)

    def scores(self, rows: Sequence[Row], hidden: Tensor) -> list[list[tuple[float, int]]]:
        """(log-probability, tokens) of each row's options, from states (rows, width, dim)."""
        wanted = [
            (b, hidden.shape[1] - r.size + column, token)
            for b, r in enumerate(rows)
            for option in r.targets
            for column, token in option
        ]
        places = list(dict.fromkeys((b, column) for b, column, _ in wanted))
        step = rows_at_once(self.model)
        values = log_probabilities(
            lambda lo: self.logits(_states(hidden, places[lo : lo + step])), step, places, wanted
        )
        return [[(finite(sum(next(values) for _ in option)), len(option)) for option in r.targets] for r in rows]


def _states(hidden: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
    index = torch.tensor(places, device=hidden.device)
    return hidden[index[:, 0], index[:, 1]]


def log_probabilities(
    logits: Any, step: int, places: Sequence[tuple[int, int]], wanted: Sequence[tuple[int, int, int]]
) -> Iterator[float]:
    """Natural log-probability of each wanted (row, column, token); logits(lo) projects places[lo : lo + step]."""
    by_place: dict[tuple[int, int], list[int]] = {}
    for i, (b, column, _) in enumerate(wanted):
        by_place.setdefault((b, column), []).append(i)
    logprobs = [0.0] * len(wanted)
    for lo in range(0, len(places), step):
        part = torch.log_softmax(logits(lo).float(), dim=-1)
        here = [(n, i) for n, place in enumerate(places[lo : lo + step]) for i in by_place[place]]
        values = part[[n for n, _ in here], [wanted[i][2] for _, i in here]].tolist()
        for (_, i), value in zip(here, values, strict=True):
            logprobs[i] = value
    return iter(logprobs)
