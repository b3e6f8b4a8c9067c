"""Token ids in, tokens and log-probabilities out: what src.engine.local does once weights are needed.

Everything is computed once: a prefix that all prompts share, the beginning that options share (a tree of tokens behind
the prompt, one forward pass), and the path of seeds that still agree (rows fork where they differ).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np
import torch
from transformers import AttentionInterface, DynamicCache, EncoderDecoderCache, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from src.config import UserError

Tensor = Any  # torch.Tensor, which mypy is told not to follow
Array = np.ndarray[Any, Any]
Ids = tuple[int, ...]

SHARE_FROM = 16  # a shared prefix of fewer tokens is not worth a block of its own
PREFILL_TOKENS = {"cpu": 384, "cuda": 16384}  # tokens of one forward pass over prompts
FLASH_FROM = 16  # queries a row, from which torch's flash kernel is faster on a CPU (docs/log.md)
VOCABULARY_ROWS = 256  # positions projected to the vocabulary at once


@dataclass(frozen=True)
class Job:
    """One prompt in token ids. `scored`: prompt + option for a decoder, the bare option for an encoder-decoder."""

    ids: Ids
    seeds: tuple[int, ...]
    budget: int  # tokens to generate at most
    scored: tuple[Ids, ...]


@dataclass
class Draw:
    """What one seed wrote; `margin` is its closest decision (see Sampler)."""

    tokens: Ids = ()
    finish: str = "length"
    margin: float = math.inf


@dataclass(frozen=True)
class Done:
    """Outcome of a Job: draws by seed, and (log-probability, tokens) of each scored sequence."""

    draws: dict[int, Draw]
    scores: list[tuple[float, int]]


class Paths(Protocol):
    """Rows of half-written sequences."""

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row named twice forks."""
        ...

    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row; logits of the next: (rows, vocabulary)."""
        ...


# ---- Choosing a token


def mixed(x: Array) -> Array:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): uint64 -> uint64, bijective, any shape."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return cast(Array, x ^ (x >> np.uint64(31)))


def uniforms(*key: Any) -> Array:
    """Numbers in (0, 1) that are a pure function of the key: non-negative integers, arrays broadcast together."""
    state: Any = np.uint64(0)
    with np.errstate(over="ignore"):
        for part in key:
            state = mixed((state ^ np.asarray(part, np.uint64)) + np.uint64(0x9E3779B97F4A7C15))
    return cast(Array, (np.asarray(state >> np.uint64(11), np.float64) + 0.5) * 2.0**-53)


def prompt_hash(ids: Sequence[int]) -> int:
    """First 8 bytes of the sha256 of the prompt's ids (as little-endian int64): the key of its draws."""
    return int.from_bytes(sha256(np.asarray(ids, "<i8").tobytes()).digest()[:8], "little")


@dataclass(frozen=True)
class Sampler:
    """Sampling by the Gumbel-max trick: arg max over the top k of logit + temperature * Gumbel noise.

    The noise is a hash of (prompt, seed, step, token), so a draw depends on nothing else. Temperature 0 is greedy.
    The margin of a decision is the gap between the two best of these sums, in logits.
    """

    temperature: float
    top_k: int  # 0: the whole vocabulary

    def candidates(self, logits: Tensor) -> tuple[Array, Array]:
        """(logits, token ids) of the top k, each (rows, k), ordered by token id so that ties go to the lowest."""
        k = min(self.top_k or logits.shape[-1], logits.shape[-1]) if self.temperature else min(8, logits.shape[-1])
        best = torch.topk(logits.float(), k, dim=-1)
        ids, order = best.indices.sort(dim=-1)
        return best.values.gather(-1, order).double().cpu().numpy(), ids.cpu().numpy()

    def choose(
        self, logits: Tensor, rows: Sequence[int], prompts: Sequence[int], seeds: Sequence[int], step: int
    ) -> tuple[list[int], list[float]]:
        """(token, margin) for each draw; draw i looks at row rows[i] of logits (rows, vocabulary)."""
        values, ids = (a[list(rows)] for a in self.candidates(logits))
        if self.temperature:
            prompt, seed = (np.asarray(x, np.uint64)[:, None] for x in (prompts, seeds))
            values = values - self.temperature * np.log(-np.log(uniforms(prompt, seed, step, ids)))
        picked = values.argmax(axis=1)
        two = np.sort(values, axis=1)[:, -2:]
        gaps = two[:, 1] - two[:, 0] if values.shape[1] > 1 else np.full(len(values), np.inf)
        return ids[np.arange(len(ids)), picked].tolist(), gaps.tolist()


@dataclass
class Path:
    """One row: a job's seeds that have drawn the same tokens so far."""

    job: int
    seeds: tuple[int, ...]
    tokens: Ids = ()


def decode(
    paths: Paths, logits: Tensor, jobs: Sequence[Job], sampler: Sampler, ends: frozenset[int]
) -> tuple[list[dict[int, Draw]], int]:
    """Draws by seed for each job, and the tokens computed. Row i of `paths` and `logits` belongs to job i.

    Greedy draws are one path whatever the seeds.
    """
    draws = [{seed: Draw() for seed in job.seeds} for job in jobs]
    hashes = [prompt_hash(job.ids) for job in jobs]
    kept = sorted((i for i, job in enumerate(jobs) if job.seeds), key=lambda i: -jobs[i].budget)  # the last end first
    if kept and kept != list(range(len(jobs))):
        paths.select(kept)
    live, logits, computed = [Path(i, jobs[i].seeds) for i in kept], logits[kept], 0
    while live:
        children = _children(live, logits, hashes, sampler, draws)
        going = [(row, path) for row, path in children if not _finished(path, jobs, ends, draws)]
        rows, size = [row for row, _ in going], len(live)
        live = [path for _, path in going]
        if live and rows != list(range(size)):
            paths.select(rows)
        if live:
            logits = paths.advance([path.tokens[-1] for path in live])
            computed += len(live)
    return draws, computed


def _children(
    live: Sequence[Path],
    logits: Tensor,
    hashes: Sequence[int],
    sampler: Sampler,
    draws: Sequence[dict[int, Draw]],
) -> list[tuple[int, Path]]:
    """(parent row, path) one token on; a path whose seeds differ becomes several."""
    step = len(live[0].tokens)
    wanted = [(row, seed) for row, path in enumerate(live) for seed in path.seeds]
    rows, seeds = [row for row, _ in wanted], [seed for _, seed in wanted]
    tokens, margins = sampler.choose(logits, rows, [hashes[live[row].job] for row in rows], seeds, step)
    grown: dict[tuple[int, int], list[int]] = {}
    for row, seed, token, margin in zip(rows, seeds, tokens, margins, strict=True):
        draw = draws[live[row].job][seed]
        draw.margin = min(draw.margin, margin)
        grown.setdefault((row, token), []).append(seed)
    return [
        (row, Path(live[row].job, tuple(group), (*live[row].tokens, token))) for (row, token), group in grown.items()
    ]


def _finished(path: Path, jobs: Sequence[Job], ends: frozenset[int], draws: Sequence[dict[int, Draw]]) -> bool:
    """Whether the path has ended; if so its draws are written down."""
    ended = path.tokens[-1] in ends
    if not ended and len(path.tokens) < jobs[path.job].budget:
        return False
    for seed in path.seeds:
        draw = draws[path.job][seed]
        draw.tokens, draw.finish = path.tokens, "eos" if ended else "length"
    return True


# ---- Options as a tree behind their prompt


@dataclass(frozen=True)
class Node:
    """A token of a scored option that another token follows."""

    token: int
    position: int  # in the sequence prompt + option
    shared: int  # how many of the prompt's tokens it follows
    ancestors: Ids  # nodes before it


@dataclass(frozen=True)
class Row:
    """One prompt in a batch: tokens after the shared prefix, then the nodes of its options.

    `targets`: for each option, (column whose state predicts it, token); a column counts from the suffix's first token.
    """

    suffix: Ids
    nodes: tuple[Node, ...]
    targets: tuple[tuple[tuple[int, int], ...], ...]
    start: int  # tokens before the suffix

    @property
    def size(self) -> int:
        """Tokens to compute."""
        return len(self.suffix) + len(self.nodes)


def _pass_tokens(model: Any) -> int:
    return PREFILL_TOKENS.get(model.device.type, max(PREFILL_TOKENS.values()))


def common(a: Ids, b: Ids) -> int:
    """Length of the longest common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def row(job: Job, start: int) -> Row:
    """The job as a row of a batch whose first `start` tokens are computed elsewhere.

    An option is the tokens of encode(prompt + option) after the longest common prefix with encode(prompt), so where the
    tokenizer merges across the boundary the option begins before the prompt's end.
    """
    number: dict[tuple[int, Ids], int] = {}
    nodes: list[Node] = []
    targets: list[tuple[tuple[int, int], ...]] = []
    for full in job.scored:
        shared = common(job.ids, full)
        path: list[int] = []
        option: list[tuple[int, int]] = []
        column = shared - 1 - start
        for i in range(shared, len(full)):
            option.append((column, full[i]))
            if i + 1 == len(full):
                break
            key = (shared, full[shared : i + 1])
            if key not in number:
                number[key] = len(nodes)
                nodes.append(Node(full[i], i, shared, tuple(path)))
            path.append(number[key])
            column = len(job.ids) - start + number[key]
        targets.append(tuple(option))
    return Row(job.ids[start:], tuple(nodes), tuple(targets), start)


def visible(rows: Sequence[Row], width: int, shift: int) -> Tensor:
    """Which own slots each query sees: bool (rows, width, shift + width).

    A row is left-padded to `width`: suffix, then nodes; `shift` slots before it are empty. Padding sees itself, so that
    no softmax is over nothing.
    """
    mask = torch.zeros(len(rows), width, shift + width, dtype=torch.bool)
    mask.diagonal(shift, 1, 2).fill_(True)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    for b, r in enumerate(rows):
        pad, end = width - r.size, width - len(r.nodes)
        mask[b, pad:end, shift + pad : shift + end] = causal[pad:end, pad:end]
        for n, node in enumerate(r.nodes, end):
            mask[b, n, shift + pad : shift + pad + node.shared - r.start] = True
            mask[b, n, [shift + end + a for a in node.ancestors]] = True
    return mask


# ---- Decoder-only models


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    prefix: Sequence[tuple[Tensor, Tensor]] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over a block all rows share and each row's own block, one softmax; the shared block is not copied.

    query (batch, heads, queries, dim); key, value (batch, kv heads, slots, dim): the row's own; attention_mask
    (batch, 1, queries, slots), additive; prefix: by layer, keys and values (kv heads, prefix, dim) every query sees.
    """
    if prefix is None:
        plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return plain(module, query, key, value, attention_mask, scaling=scaling)[0], None
    batch, heads, queries, dim = query.shape
    kv = key.shape[1]
    group = heads // kv
    keys, values = prefix[module.layer_idx]
    if query.device.type == "cpu" and queries >= FLASH_FROM:
        return _merged_attention(query, key, value, attention_mask, keys, values, scaling), None
    query = query.reshape(batch, kv, group * queries, dim) * (dim**-0.5 if scaling is None else scaling)
    flat = query.transpose(0, 1).reshape(kv, batch * group * queries, dim)
    seen = (flat @ keys.transpose(1, 2)).view(kv, batch, group * queries, -1).transpose(0, 1)
    own = (query @ key.transpose(2, 3)).view(batch, kv, group, queries, -1) + attention_mask[:, :, None]
    both = torch.cat([seen, own.view(batch, kv, group * queries, -1)], dim=-1)
    weights = torch.softmax(both, dim=-1, dtype=torch.float32).to(query.dtype)
    of_prefix, of_own = weights.split([keys.shape[1], key.shape[2]], dim=-1)
    far = of_prefix.transpose(0, 1).reshape(kv, batch * group * queries, -1) @ values
    out = far.view(kv, batch, group * queries, dim).transpose(0, 1) + of_own @ value
    return out.reshape(batch, heads, queries, dim).transpose(1, 2), None


def _merged_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, keys: Tensor, values: Tensor, scaling: float | None
) -> Tensor:
    """The same by torch's flash kernel, block by block: two softmaxes merged by their log-sum-exp (Dao et al. 2022)."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    batch, heads, queries, dim = query.shape
    kv = key.shape[1]
    group = heads // kv
    flat = query.view(batch, kv, group, queries, dim).transpose(0, 1).reshape(1, kv, batch * group * queries, dim)
    far, far_sum = flash(flat, keys[None], values[None], scale=scaling)
    far = far.view(kv, batch, group, queries, dim).transpose(0, 1).reshape(batch, heads, queries, dim)
    far_sum = far_sum.view(kv, batch, group, queries).transpose(0, 1).reshape(batch, heads, queries)
    key, value = (t.repeat_interleave(group, dim=1) for t in (key, value))
    near, near_sum = flash(query, key, value, attn_mask=mask, scale=scaling)
    share = torch.sigmoid(far_sum - near_sum.view(batch, heads, queries))[..., None]
    return torch.lerp(near, far, share).transpose(1, 2).contiguous()


SHARED = "shared_prefix"
AttentionInterface.register(SHARED, shared_prefix_attention)


class Block(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values (rows, kv heads, slots, dim), allocated at once and filled in place."""

    def __init__(self, keys: Tensor, values: Tensor, length: int = 0):
        super().__init__()
        self.keys, self.values, self.length = keys, values, length
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write behind what is there; all that is there."""
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Slots filled."""
        return self.length


@dataclass
class DecoderPaths:
    """Rows of a decoder-only model. `seen`: (rows, slots), slots that hold a token; `position`: of the next token."""

    decoder: Decoder
    blocks: list[Block]
    seen: Tensor
    position: Tensor

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows; the first few of them without a copy."""
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
        """Compute what all jobs begin with; one token less, so that each keeps a state to predict from."""
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
        limit = _pass_tokens(self.model)
        bounds, width = [0], 0
        for i, r in enumerate(rows):
            width = max(width, r.size)
            if i > bounds[-1] and width * (i + 1 - bounds[-1]) > limit:
                bounds.append(i)
                width = r.size
        return [*bounds, len(rows)]

    def paths(self, rows: Sequence[Row], blocks: list[Block], width: int) -> DecoderPaths:
        """The rows as they stand after their prompts; nobody sees what the nodes left in the blocks."""
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
        found = log_probabilities(lambda lo, hi: self.head(_states(hidden, places[lo:hi])), places, wanted)
        return [[(sum(next(found) for _ in option), len(option)) for option in r.targets] for r in rows]


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
    found = [0.0] * len(wanted)
    for lo in range(0, len(places), VOCABULARY_ROWS):
        part = torch.log_softmax(logits(lo, lo + VOCABULARY_ROWS).float(), dim=-1)
        here = [(n, i) for n, place in enumerate(places[lo : lo + VOCABULARY_ROWS]) for i in by_place[place]]
        values = part[[n for n, _ in here], [wanted[i][2] for _, i in here]].tolist()
        for (_, i), value in zip(here, values, strict=True):
            found[i] = value
    return iter(found)


# ---- Encoder-decoders


@dataclass
class EncoderDecoderPaths:
    """Rows of an encoder-decoder. encoded (rows, prompt, dim), mask (rows, prompt)."""

    model: Any
    encoded: Tensor
    mask: Tensor
    cache: Any

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows."""
        index = torch.tensor(rows, device=self.mask.device)
        self.encoded, self.mask = self.encoded[index], self.mask[index]
        for layer in (*self.cache.self_attention_cache.layers, *self.cache.cross_attention_cache.layers):
            layer.batch_select_indices(index)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (rows, queries, vocabulary) of tokens behind what each row has."""
        return self.model(
            encoder_outputs=(self.encoded,),
            attention_mask=self.mask,
            decoder_input_ids=ids,
            past_key_values=self.cache,
            use_cache=True,
        ).logits

    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row."""
        return self.forward(torch.tensor(tokens, device=self.mask.device)[:, None])[:, -1]

    def fresh(self, rows: Sequence[int]) -> EncoderDecoderPaths:
        """Empty rows that reuse the cross-attention keys and values of these."""
        index = torch.tensor(rows, device=self.mask.device)
        cross = DynamicCache()
        for i, layer in enumerate(self.cache.cross_attention_cache.layers):
            cross.update(layer.keys[index], layer.values[index], i)
        return EncoderDecoderPaths(
            self.model, self.encoded[index], self.mask[index], EncoderDecoderCache(DynamicCache(), cross)
        )


@dataclass
class EncoderDecoder:
    """An encoder-decoder: a prompt is encoded once for all its seeds and options. Relative positions count slots, so
    options are rows, not a tree; end-of-sequence is not scored."""

    model: Any
    sampler: Sampler
    ends: frozenset[int]
    tokens: int = 0

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Nothing is shared between prompts: an encoder reads them whole."""

    def cost(self, job: Job) -> int:
        """Tokens a job keeps in memory."""
        paths = len(job.seeds) if self.sampler.temperature else 1
        return (len(job.ids) + job.budget) * max(1, paths)

    def length(self, job: Job) -> int:
        """Tokens of the prompt."""
        return len(job.ids)

    def run(self, jobs: Sequence[Job]) -> list[Done]:
        """One batch."""
        encoded, mask = self.encode([job.ids for job in jobs])
        paths = EncoderDecoderPaths(self.model, encoded, mask, EncoderDecoderCache(DynamicCache(), DynamicCache()))
        logits = paths.advance([self.start] * len(jobs))
        scores = self.scores(paths, jobs)
        draws, computed = decode(paths, logits, jobs, self.sampler, self.ends)
        self.tokens += sum(len(job.ids) for job in jobs) + len(jobs) + computed
        return [Done(d, s) for d, s in zip(draws, scores, strict=True)]

    @property
    def start(self) -> int:
        """The token a decoder begins with."""
        return int(self.model.generation_config.decoder_start_token_id)

    def encode(self, prompts: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        """Encoder states (prompts, longest, dim) and their mask (prompts, longest), right-padded."""
        width, parts = max(map(len, prompts)), []
        ids, mask = _right_padded(prompts, self.model.device)
        step = max(1, _pass_tokens(self.model) // width)
        for lo in range(0, len(prompts), step):
            part = self.model.get_encoder()(input_ids=ids[lo : lo + step], attention_mask=mask[lo : lo + step])
            parts.append(part.last_hidden_state)
        return torch.cat(parts), mask

    def scores(self, paths: EncoderDecoderPaths, jobs: Sequence[Job]) -> list[list[tuple[float, int]]]:
        """(log-probability, tokens) of each job's options."""
        flat = [(b, option) for b, job in enumerate(jobs) for option in job.scored]
        sums: list[float] = []
        for lo in range(0, len(flat), len(jobs)):
            part = flat[lo : lo + len(jobs)]
            ids, mask = _right_padded([(self.start, *option) for _, option in part], self.model.device)
            logits = paths.fresh([b for b, _ in part]).forward(ids[:, :-1]).float()
            found = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
            sums += (found.double() * mask[:, 1:]).sum(dim=1).tolist()
        self.tokens += sum(len(option) for _, option in flat)
        rest = iter(sums)
        return [[(next(rest), len(option)) for option in job.scored] for job in jobs]


def _right_padded(rows: Sequence[Ids], device: Any) -> tuple[Tensor, Tensor]:
    """(ids, mask), each (rows, longest)."""
    width = max(map(len, rows))
    ids = torch.tensor([[*r, *[0] * (width - len(r))] for r in rows], device=device)
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=device)
    return ids, mask


# ---- Any other architecture


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


# ---- Which of them a model gets


Backend = Decoder | EncoderDecoder | Plain


def backend(model: Any, sampler: Sampler) -> Backend:
    """The fastest way that gives this model's own logits, found by trying on a few tokens. Warns if none does."""
    ends = _ends(model)
    if model.config.is_encoder_decoder:
        return EncoderDecoder(model, sampler, ends)
    plain, own = Plain(model, sampler, ends), model.config._attn_implementation
    trial = _trial(model)
    with torch.inference_mode():
        expected = [plain.score(job.ids, full)[0] for job in trial for full in job.scored]
        pack(model)
        for attention in _attentions(model, own):
            model.set_attn_implementation(attention)
            found = _trusted(model, attention == SHARED, sampler, ends, trial, expected)
            if found:
                return found
    warnings.warn(
        f"{type(model).__name__} cannot share a prefix: its prompts run in plain batches, same result, slower.",
        stacklevel=2,
    )
    return replace(plain, tokens=0)


def spread(model: Any) -> bool:
    """Whether its layers lie on several devices, the disk included."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def _attentions(model: Any, own: str) -> list[str]:
    """What to try, fastest first; nothing for a model on several devices: a prefix lies on one."""
    if spread(model):
        return []
    return [SHARED, own] if getattr(model, "_supports_attention_backend", False) else [own]


def _ends(model: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else () if ends is None else (ends,))


def _trial(model: Any) -> list[Job]:
    """Two prompts with a shared prefix, of different length, and options that branch; long enough for every kernel."""
    ids = tuple(i % model.config.vocab_size for i in range(3, 3 + SHARE_FROM + FLASH_FROM + 6))
    other = (*ids[: SHARE_FROM + 2], 4, *ids[SHARE_FROM + 3 : -3])
    return [
        Job(ids, (), 1, tuple((*ids, *t) for t in ((5, 7, 11), (5, 8), (9,)))),
        Job(other, (), 1, ((*other, 6, 5),)),
    ]


def _trusted(
    model: Any, shared: bool, sampler: Sampler, ends: frozenset[int], trial: Sequence[Job], expected: Sequence[float]
) -> Decoder | None:
    """A Decoder if it takes this model and agrees with a plain forward pass, else None."""
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return None  # a cache that forgets or has another shape
    try:
        decoder = Decoder(model, shared, sampler, ends)
        decoder.prepare(trial)
        found = [score for done in decoder.run(trial) for score, _ in done.scores]
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return None
    decoder.tokens = 0
    tolerance = 1e-3 if model.dtype == torch.float32 else 3e-2
    return decoder if np.allclose(found, expected, rtol=tolerance, atol=tolerance) else None


# ---- Batches


OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def batches(
    way: Backend, jobs: Sequence[Job], budget: int, among: Sequence[Job] = ()
) -> Iterator[list[tuple[int, Done]]]:
    """(index of the job, its outcome), batch by batch, longest first; each batch holds at most `budget` tokens.

    among: jobs whose common prefix is shared, `jobs` without it: an interrupted run goes on with the prefix, and
    so with the last bits, that it began with. Out of memory halves the budget. Raises UserError where one prompt alone
    does not fit.
    """
    if not jobs:
        return
    with torch.inference_mode():
        way.prepare(among or jobs)
    lengths, cost = [way.length(job) for job in jobs], [way.cost(job) for job in jobs]
    waiting = sorted(range(len(jobs)), key=lambda i: (-lengths[i], i))
    while waiting:
        costs = [cost[i] for i in waiting]
        count = _fitting(costs, budget)
        done = _attempt(way, [jobs[i] for i in waiting[:count]])
        if done is not None:
            yield list(zip(waiting[:count], done, strict=True))
            waiting = waiting[count:]
        elif count == 1:
            raise UserError(
                f"A prompt of {len(jobs[waiting[0]].ids)} tokens does not fit into memory beside the weights. "
                "Use a device with more memory, or a dtype of half the size (conf/model)."
            )
        else:
            budget = max(costs[:count]) * count // 2


def _attempt(way: Backend, jobs: Sequence[Job]) -> list[Done] | None:
    """The outcomes; None where memory ran out."""
    try:
        with torch.inference_mode():
            return way.run(jobs)
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
    if torch.cuda.is_available():  # only now: while the error lives, its frames hold the tensors
        torch.cuda.empty_cache()
    return None


def _fitting(costs: Sequence[int], budget: int) -> int:
    """How many of the first rows fit, padded to the longest; at least one."""
    widest = 0
    for i, cost in enumerate(costs):
        widest = max(widest, cost)
        if widest * (i + 1) > budget:
            return max(1, i)
    return len(costs)


class PackedLinear(torch.nn.Linear):  # type: ignore[misc]
    """A float32 linear layer whose weight lies in oneDNN's own order: half as fast again for few rows.

    `weight` keeps shape and dtype only (meta device).
    """

    def __init__(self, linear: Any):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.weight = torch.nn.Parameter(linear.weight.detach().to("meta"), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def pack(model: Any) -> None:
    """Pack the linear layers of a float32 decoder on a CPU, in place and one at a time.

    An embedding that the output layer is tied to stays as it was. Code from a model's own repository is left alone: it
    may read weights itself.
    """
    ours = type(model).__module__.startswith("transformers.") and not model.config.is_encoder_decoder
    if (
        not ours
        or spread(model)
        or model.device.type != "cpu"
        or model.dtype != torch.float32
        or not torch.backends.mkldnn.is_available()
    ):
        return
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear:
            model.set_submodule(name, PackedLinear(module))


def load(folder: str, dtype: str, trust_remote_code: bool, device_map: str | None = None) -> Any:
    """The model in evaluation mode, on the GPU if there is one; with a device_map ("auto") spread by accelerate."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    options = {"dtype": getattr(torch, dtype), "weights_only": True, "trust_remote_code": trust_remote_code}
    model = kind.from_pretrained(folder, **options, device_map=device_map)
    return model.eval() if device_map else model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
