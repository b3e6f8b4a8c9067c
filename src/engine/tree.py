"""The options of a prompt as a tree of tokens behind it, computed in the prompt's own forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from src.engine.job import Ids, Job
from src.engine.sampling import Tensor

SHARE_FROM = 16  # a shared prefix of fewer tokens is not worth a block of its own


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


def common(a: Ids, b: Ids) -> int:
    """Length of the longest common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def shared_prefix(jobs: Sequence[Job]) -> Ids:
    """What all jobs begin with, less one token, so that each keeps a state to predict from; () where it is short."""
    every = [ids for job in jobs for ids in (job.ids, *job.scored)]
    length = max(0, common(min(every), max(every)) - 1)
    return jobs[0].ids[: length if length >= SHARE_FROM else 0]


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


def onward(r: Row) -> dict[Ids, int]:
    """The nodes that follow the whole prompt: the tokens from the prompt's end to a node -> its number."""
    end = r.start + len(r.suffix)
    return {
        tuple(r.nodes[a].token for a in (*node.ancestors, i)): i for i, node in enumerate(r.nodes) if node.shared == end
    }


def visible(rows: Sequence[Row], width: int, shift: int) -> Tensor:
    """Which slots of its own row each query sees, the shared prefix apart: bool (rows, width, shift + width).

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
