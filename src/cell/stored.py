"""Records of an example store computed again: how many are wrong, and which.

A record has no prompt. The cells of a grid have, and with an engine's keys they name their records.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.cell.file import likelihood_of
from src.cell.finding import DIFFERS, NEAR_TIES, Finding
from src.cell.regenerated import Sample, same_completion, same_scores
from src.cell.store import Record, Store
from src.engine.job import Completion, Engine, Likelihood, Request

SCORES = None  # in the place of a seed: the record holds the log-likelihoods of the prompt


@dataclass(frozen=True)
class Asked:
    """What a cell asks of an engine."""

    name: str  # model/task/condition
    engine: Engine
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Place:
    """Where a grid asks for a record: cell and request by position, and the seed or SCORES."""

    cell: int
    request: int
    seed: int | None


@dataclass(frozen=True)
class Checked:
    """A sample of a store's records computed again."""

    sample: Sample
    others: int  # records that the grid does not name
    wrong: Mapping[str, str]  # key -> model/task/condition, of those that differ outside near-ties

    def finding(self, *more: str) -> Finding:
        """What the sample shows about the store. more: further notes."""
        found = self.sample.finding("store", "records computed again")
        others = f"{self.others:,} records of other runs were not looked at"
        return Finding(found.name, found.status, (*found.notes, *([others] if self.others else []), *more))


def opened(folder: Path) -> tuple[Store, list[str]]:
    """(the store of a folder, a note for each damaged line). Raises UserError where it cannot be read."""
    with warnings.catch_warnings(record=True) as damaged:
        warnings.simplefilter("always")
        store = Store(folder)
    return store, [str(each.message) for each in damaged]


def named(store: Store, asked: list[Asked]) -> dict[str, Place]:
    """The keys of the records that these cells ask for and the store holds. A key has the first place that names it."""
    places: dict[str, Place] = {}
    for n, cell in enumerate(asked):
        for i, request in enumerate(cell.requests):
            keys = {seed: cell.engine.completion_key(request.prompt, seed) for seed in request.seeds}
            for seed, key in keys.items():
                places.setdefault(key, Place(n, i, seed))
            if request.likelihood:
                places.setdefault(cell.engine.likelihood_key(request.prompt), Place(n, i, SCORES))
    return {key: place for key, place in places.items() if store.get(key) is not None}


def checked(store: Store, asked: list[Asked], m: int, seed: int) -> Checked | None:
    """m of the records that these cells name, drawn by `seed`, computed again. None where they name none.

    `asked` is taken apart, so that one model at a time is in memory.
    """
    places = named(store, asked)
    if not places:
        return None
    drawn = random.Random(seed).sample(list(places), min(m, len(places)))
    near, notes, wrong = 0, [], {}
    for n in range(len(asked)):
        cell = asked.pop(0)
        chosen = {key: places[key] for key in drawn if places[key].cell == n}
        for key, place, fresh in computed(cell, chosen):
            status, note = beside(store.get(key) or {}, fresh)
            near += status == NEAR_TIES
            if status == DIFFERS:
                wrong[key] = cell.name
            if note:
                what = "" if place.seed is SCORES else f", seed {place.seed}"
                notes.append(f"{cell.name}, {cell.requests[place.request].prompt.id}{what}: {note}")
    return Checked(Sample(len(drawn), len(places), len(wrong), near, tuple(notes)), len(store) - len(places), wrong)


def computed(cell: Asked, chosen: Mapping[str, Place]) -> Iterator[tuple[str, Place, Completion | Likelihood]]:
    """(key, place, what the engine gives now) for each chosen record of a cell. The store is not read."""
    seeds: dict[int, list[int | None]] = {}
    for place in chosen.values():
        seeds.setdefault(place.request, []).append(place.seed)
    requests = [
        Request(cell.requests[i].prompt, tuple(s for s in some if s is not SCORES), SCORES in some)
        for i, some in sorted(seeds.items())
    ]
    fresh: dict[tuple[str, int | None], Completion | Likelihood] = {}
    for batch in cell.engine.run(requests, cell.requests) if requests else ():
        for result in batch:
            fresh |= {(result.prompt_id, seed): each for seed, each in result.completions.items()}
            if result.likelihood:
                fresh[result.prompt_id, SCORES] = result.likelihood
    for key, place in chosen.items():
        yield key, place, fresh[cell.requests[place.request].prompt.id, place.seed]


def beside(record: Record, fresh: Completion | Likelihood) -> tuple[str, str]:
    """(status, note) of a record beside what the engine gives now."""
    try:
        if isinstance(fresh, Completion):
            return same_completion(Completion(**record), fresh)
        return same_scores(likelihood_of(record), fresh)
    except (TypeError, LookupError, ValueError, ArithmeticError):
        return DIFFERS, "a record that no run can read"
