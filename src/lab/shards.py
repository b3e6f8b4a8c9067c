""""""

from __future__ import annotations

from collections.abc import Sequence

from src.base.errors import UserError
from src.base.schema import Cell, Run
from src.question import examples, prompts


def weight(run: Run, cell: Cell) -> int:
    """What a cell costs, in characters: its prefix once, then texts, options and completions. 0 where it cannot run."""
    try:
        shots, tests, _ = examples.load(cell.task.name, run.data)
        asked = prompts.ask(tests, shots, cell.task, cell.condition, run.limit)
    except UserError:  # the run that meets this cell says why
        return 0
    draws = len(run.seeds) if run.generation.temperature else 1
    return sum(_own(run, prompt, draws) for prompt in asked) + (len(asked[0].prefix) if asked else 0)


def _own(run: Run, prompt: prompts.Prompt, draws: int) -> int:
    options = sum(map(len, prompt.continuations)) if run.generation.likelihood else 0
    return len(prompt.text) + options + draws * max(map(len, prompt.options or (prompt.answer,)))


def balanced(weights: Sequence[int], shards: int) -> list[int]:
    """The shard of each item: the heaviest first, each to the shard with the least so far (Graham 1969, LPT).

    Items are spread by number where weights are equal, so no shard stays empty while another has two.
    """
    load = [(0, 0)] * shards  # weight, items
    found = [0] * len(weights)
    for item in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        found[item] = least = min(range(shards), key=lambda s: (load[s], s))
        load[least] = (load[least][0] + weights[item], load[least][1] + 1)
    return found


def own_cells(run: Run) -> tuple[Cell, ...]:
    """The cells of this run's shard, in the order of the grid; every cell where shards=1."""
    if run.shards == 1:
        return run.cells
    place = balanced([weight(run, cell) for cell in run.cells], run.shards)
    return tuple(cell for cell, shard in zip(run.cells, place, strict=True) if shard == run.shard)
