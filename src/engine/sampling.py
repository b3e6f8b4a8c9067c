"""Choosing the next tokens: a draw depends on prompt, seed, step and token alone. Paths fork where seeds differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, cast

import numpy as np
import torch

from src.engine.job import Draw, Ids, Job

Tensor = Any  # torch.Tensor, which mypy is told not to follow
Array = np.ndarray[Any, Any]


class Paths(Protocol):
    """Rows of half-written sequences."""

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
        self, logits: Tensor, rows: Sequence[int], prompts: Sequence[int], seeds: Sequence[int], step: int
    ) -> tuple[list[int], list[float]]:
        """(token, margin) for each draw. Draw i uses row rows[i] of logits (rows, vocabulary)."""
        values, ids = (a[list(rows)] for a in self.candidates(logits))
        if self.temperature:
            prompt, seed = (np.asarray(x, np.uint64)[:, None] for x in (prompts, seeds))
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


def decode(
    paths: Paths, logits: Tensor, jobs: Sequence[Job], sampler: Sampler, ends: frozenset[int]
) -> tuple[list[dict[int, Draw]], int]:
    """Draws by seed for each job, and the tokens computed. Row i of `paths` and `logits` belongs to job i.

    Greedy draws are one path whatever the seeds.
    """
    draws = [{seed: Draw() for seed in job.seeds} for job in jobs]
    hashes = [prompt_hash(job.ids) for job in jobs]
    order = sorted((i for i, job in enumerate(jobs) if job.seeds), key=lambda i: -jobs[i].budget)  # the last end first
    if order and order != list(range(len(jobs))):
        paths.select(order)
    live, logits, computed = [Path(i, jobs[i].seeds) for i in order], logits[order], 0
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
    """(parent row, path) one token later. A path becomes several where its seeds draw different tokens."""
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
    """Whether the path has ended. If it has, its draws are recorded."""
    ended = path.tokens[-1] in ends
    if not ended and len(path.tokens) < jobs[path.job].budget:
        return False
    for seed in path.seeds:
        draw = draws[path.job][seed]
        draw.tokens, draw.finish = path.tokens, "eos" if ended else "length"
    return True
