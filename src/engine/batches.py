"""Jobs in batches that fit in memory, the longest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from src.base.errors import UserError
from src.engine.choice import Backend
from src.engine.job import Done, Job
from src.engine.loading import out_of_memory


def batches(
    way: Backend, jobs: Sequence[Job], budget: int, among: Sequence[Job] = ()
) -> Iterator[list[tuple[int, Done]]]:
    """(index of the job, its outcome), batch by batch, longest first. A batch holds at most `budget` tokens.

    among: the jobs that decide the shared prefix; `jobs` where it is empty. That way an interrupted run keeps the
    prefix that it began with, and with it the last bits of its numbers. Running out of memory halves the budget.
    Raises UserError where one prompt alone does not fit.
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
    """The outcomes, or None where memory ran out."""
    try:
        with torch.inference_mode():
            return way.run(jobs)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    if torch.cuda.is_available():  # only here, because the error's frames hold the tensors while it lives
        torch.cuda.empty_cache()
    return None


def _fitting(costs: Sequence[int], budget: int) -> int:
    """How many of the first rows fit, each padded to the longest. At least one."""
    widest = 0
    for i, cost in enumerate(costs):
        widest = max(widest, cost)
        if widest * (i + 1) > budget:
            return max(1, i)
    return len(costs)
