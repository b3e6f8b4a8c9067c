"""The shards of one model: each run works out by itself which cells are its own."""

from __future__ import annotations

from collections.abc import Sequence

from src.base.errors import UserError
from src.base.schema import Cell, Run
from src.question import examples, prompts


def weight(run: Run, cell: Cell) -> int:
    """Characters that a cell costs: one prefix, and every text, option and completion.

    A cell that cannot run costs 0.
    """
    try:
        shots, tests, _ = examples.load(cell.task.name, run.data)
        cell_prompts = prompts.ask(tests, shots, cell.task, cell.condition, run.limit)
    except UserError:  # the run of this cell reports the reason
        return 0
    draws = len(run.seeds) if run.generation.temperature else 1
    return sum(_prompt_weight(run, prompt, draws) for prompt in cell_prompts) + (
        len(cell_prompts[0].prefix) if cell_prompts else 0
    )


def _prompt_weight(run: Run, prompt: prompts.Prompt, draws: int) -> int:
    options = sum(map(len, prompt.continuations)) if run.generation.likelihood else 0
    return len(prompt.text) + options + draws * max(map(len, prompt.options or (prompt.answer,)))


def balanced(weights: Sequence[int], shards: int) -> list[int]:
    """The shard of each item. The heaviest item goes first, to the shard that is lightest so far (Graham 1969, LPT).

    Between shards of equal weight the one with fewer items is taken, so no shard stays empty while another has two.
    """
    load = [(0, 0)] * shards  # weight, items
    shard_of = [0] * len(weights)
    for item in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        shard_of[item] = least = min(range(shards), key=lambda s: (load[s], s))
        load[least] = (load[least][0] + weights[item], load[least][1] + 1)
    return shard_of


def own_cells(run: Run) -> tuple[Cell, ...]:
    """The cells of this run's shard, in the order of the grid. With shards=1 these are all cells."""
    if run.shards == 1:
        return run.cells
    shard_of = balanced([weight(run, cell) for cell in run.cells], run.shards)
    return tuple(cell for cell, shard in zip(run.cells, shard_of, strict=True) if shard == run.shard)
