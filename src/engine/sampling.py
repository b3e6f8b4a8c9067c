"""Choosing the next tokens: a draw depends on prompt, seed, step and token alone. Paths fork where seeds differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Protocol, cast

import numpy as np
import torch

from src.engine.job import Draw, Ids, Job

Tensor = Any  # torch.Tensor, which mypy is told not to follow
Array = np.ndarray[Any, Any]


class Paths(Protocol):
    """Rows of half-written sequences."""

    def walked(self, nodes: Sequence[Ids]) -> None:
        """Each row has gone along these nodes of its options. Called only with a Walk."""
        ...

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order. A row that is named twice forks."""
        ...

    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row. Gives the logits of the next token: (rows, vocabulary)."""
        ...


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


class NotFinite(Exception):
    """Logits of a model are NaN or infinite."""


def finite(logprob: float) -> float:
    """The log-probability. Raises NotFinite where it is NaN or infinite."""
    if not math.isfinite(logprob):
        raise NotFinite
    return logprob


@dataclass(frozen=True)
class Sampler:
    """Sampling by the Gumbel-max trick: arg max over the top k of logit + temperature * Gumbel noise.

    The noise is a hash of (prompt, seed, step, token), so a draw depends on nothing else. Temperature 0 is greedy.
    The margin of a decision is the gap between the two best of these sums, in logits.
    """

    temperature: float
    top_k: int  # 0: the whole vocabulary

    def candidates(self, logits: Tensor) -> tuple[Array, Array]:
        """(logits, token ids) of the top k, each (rows, k). Ordered by token id, so that the lowest wins a tie."""
        k = min(self.top_k or logits.shape[-1], logits.shape[-1]) if self.temperature else min(8, logits.shape[-1])
        best = torch.topk(logits.float(), k, dim=-1)
        ids, order = best.indices.sort(dim=-1)
        return best.values.gather(-1, order).double().cpu().numpy(), ids.cpu().numpy()

    def choose(
        self, logits: Tensor, rows: Sequence[int], prompts: Sequence[int], seeds: Sequence[int], steps: Sequence[int]
    ) -> tuple[list[int], list[float]]:
        """(token, margin) for each draw. Draw i uses row rows[i] of logits (rows, vocabulary).

        steps: how many tokens each draw has already. Raises NotFinite where logits are no numbers.
        """
        values, ids = self.candidates(logits)
        if not np.isfinite(values.max(axis=1)).all():  # torch.topk takes NaN for the largest
            raise NotFinite
        values, ids = values[list(rows)], ids[list(rows)]
        if self.temperature:
            prompt, seed, step = (np.asarray(x, np.uint64)[:, None] for x in (prompts, seeds, steps))
            values = values - self.temperature * np.log(-np.log(uniforms(prompt, seed, step, ids)))
        best = values.argmax(axis=1)
        two = np.sort(values, axis=1)[:, -2:]
        gaps = two[:, 1] - two[:, 0] if values.shape[1] > 1 else np.full(len(values), np.inf)
        return ids[np.arange(len(ids)), best].tolist(), gaps.tolist()


@dataclass
class Path:
    """One row: a job's seeds that have drawn the same tokens so far."""

    job: int
    seeds: tuple[int, ...]
    tokens: Ids = ()
    nodes: Ids = ()  # of the job's options, along which it went since its row was last computed


@dataclass(frozen=True)
class Ahead:
    """What is known behind a prompt before anything is drawn: the states of its options' tokens.

    nodes: the tokens from the prompt's end to a node -> the node's number, a row of `states` (nodes, dim).
    """

    nodes: Mapping[Ids, int]
    states: Tensor


@dataclass(frozen=True)
class Walk:
    """Decoding along options. A draw that follows one needs no forward pass until it leaves it."""

    ahead: Sequence[Ahead]  # by job
    project: Callable[[Tensor], Tensor]  # states (n, dim) to logits (n, vocabulary)

    def knows(self, path: Path) -> bool:
        """Whether the logits behind the path's last token are known."""
        return path.tokens in self.ahead[path.job].nodes

    def along(self, path: Path) -> Path:
        """The path, with the node of its last token noted."""
        return replace(path, nodes=(*path.nodes, self.ahead[path.job].nodes[path.tokens]))

    def logits(self, paths: Sequence[Path]) -> Tensor:
        """Logits (paths, vocabulary) behind the last token of each, which is one of a node."""
        return self.project(torch.stack([self.ahead[path.job].states[path.nodes[-1]] for path in paths]))


def decode(
    paths: Paths,
    logits: Tensor,
    jobs: Sequence[Job],
    sampler: Sampler,
    ends: frozenset[int],
    walk: Walk | None = None,
) -> tuple[list[dict[int, Draw]], int]:
    """Draws by seed for each job, and the tokens computed. Row i of `paths` and `logits` belongs to job i.

    Greedy draws are one path whatever the seeds. With a `walk`, `paths` are a decoder's (decoder.DecoderPaths).
    """
    draws = [{seed: Draw() for seed in job.seeds} for job in jobs]
    hashes = [prompt_hash(job.ids) for job in jobs]
    order = sorted((i for i, job in enumerate(jobs) if job.seeds), key=lambda i: -jobs[i].budget)  # the last end first
    if order and order != list(range(len(jobs))):
        paths.select(order)
    live, logits, computed = [Path(i, jobs[i].seeds) for i in order], logits[order], 0
    while live:
        going: list[tuple[int, Path]] = []  # paths whose last token is to be computed, by the row they are now in
        front = list(enumerate(live))
        while front:
            children = _children(front, logits, hashes, sampler, draws)
            front = []
            for row, path in children:
                if _finished(path, jobs, ends, draws):
                    continue
                if walk and walk.knows(path):
                    front.append((row, walk.along(path)))
                else:
                    going.append((row, path))
            if walk and front:
                logits = walk.logits([path for _, path in front])
        going.sort(key=lambda each: each[0])  # rows that stay in place are not copied
        rows, size = [row for row, _ in going], len(live)
        live = [path for _, path in going]
        if live and rows != list(range(size)):
            paths.select(rows)
        if walk and any(path.nodes for path in live):
            paths.walked([path.nodes for path in live])
            live = [replace(path, nodes=()) for path in live]
        if live:
            logits = paths.advance([path.tokens[-1] for path in live])
            computed += len(live)
    return draws, computed


def _children(
    live: Sequence[tuple[int, Path]],
    logits: Tensor,
    hashes: Sequence[int],
    sampler: Sampler,
    draws: Sequence[dict[int, Draw]],
) -> list[tuple[int, Path]]:
    """(row, path) one token later. A path becomes several where its seeds draw different tokens.

    live: (row, path); logits (paths, vocabulary), in their order.
    """
    wanted = [(i, path, seed) for i, (_, path) in enumerate(live) for seed in path.seeds]
    tokens, margins = sampler.choose(
        logits,
        [i for i, _, _ in wanted],
        [hashes[path.job] for _, path, _ in wanted],
        [seed for _, _, seed in wanted],
        [len(path.tokens) for _, path, _ in wanted],
    )
    grown: dict[tuple[int, int], list[int]] = {}
    for (i, path, seed), token, margin in zip(wanted, tokens, margins, strict=True):
        draw = draws[path.job][seed]
        draw.margin = min(draw.margin, margin)
        grown.setdefault((i, token), []).append(seed)
    return [
        (live[i][0], replace(live[i][1], seeds=tuple(group), tokens=(*live[i][1].tokens, token)))
        for (i, token), group in grown.items()
    ]


def _finished(path: Path, jobs: Sequence[Job], ends: frozenset[int], draws: Sequence[dict[int, Draw]]) -> bool:
    """Whether the path has ended. If it has, its draws are recorded."""
    ended = path.tokens[-1] in ends
    if not ended and len(path.tokens) < jobs[path.job].budget:
        return False
    for seed in path.seeds:
        draw = draws[path.job][seed]
        draw.tokens, draw.finish = path.tokens, "eos" if ended else "length"
    return True
