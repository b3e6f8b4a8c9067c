"""Finished cells with their scores and items, as the writers of every format take them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from src.base import conf
from src.base.errors import UserError
from src.base.frames import read_frame
from src.base.metrics import ACCURACIES, LIKELIHOODS, MEANS
from src.base.schema import Condition
from src.cell.file import Answers, Header, cell_files, read_cell
from src.export.settings import Subject, subject_of
from src.export.texts import Rule, rule_of
from src.question import controls, examples, prompts
from src.question.examples import Example
from src.source.pins import Source

SCORES = "data/scores.parquet"
AGAIN = "Make it: dvc repro collect"
METRICS = (*ACCURACIES, *MEANS)
CELL = ("suite", "model", "task", "condition", "fingerprint", "completions_sha256")
"""What a row of scores.parquet says of its cell, by which it is known to be of it."""


@dataclass(frozen=True)
class Item:
    """One prompt, what was answered to it, and what each answer scored."""

    example: Example  # as it was asked
    answers: Answers
    scores: Mapping[int, Mapping[str, Any]]  # by seed: a row of scores.parquet, None where a value is missing

    @property
    def options(self) -> tuple[str, ...]:
        """The options that an answer could pick, as the task has them; () where there were none."""
        return self.example.options if self.answers.prompt.options else ()

    @property
    def target(self) -> int | None:
        """Index of the gold option; None without options."""
        return self.answers.prompt.target

    @property
    def gold(self) -> str:
        """The gold answer, as the task has it."""
        return self.options[self.target] if self.options and self.target is not None else self.example.answer

    def said(self, index: int | None) -> str | None:
        """The answer that was picked, by its index; None where none was."""
        return None if index is None else (self.options or (self.gold,))[index]


@dataclass(frozen=True)
class Part:
    """All items of a cell that were asked in one variant. Every format has it as a task of its own."""

    name: str  # <task>__<condition>, with __<variant> behind it where a control has several
    head: Header
    subject: Subject
    condition: Condition
    rule: Rule
    source: Source
    items: tuple[Item, ...]
    n_task: int  # test items of the task

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the completions, ascending."""
        return tuple(sorted(self.items[0].scores))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that judge its items, in the order of METRICS."""
        first = next(iter(self.items[0].scores.values()))
        return tuple(name for name in METRICS if first[name] is not None)

    def values(self, metric: str) -> list[list[float]]:
        """The scores of each item by a metric: one a seed, or one alone where the seed plays no part."""
        once = metric in LIKELIHOODS
        return [[row[metric] for _, row in sorted(each.scores.items())][: 1 if once else None] for each in self.items]

    def mean(self, metric: str) -> float:
        """The mean over items of the mean over seeds, as tables of this project have it."""
        return fmean(map(fmean, self.values(metric)))


@dataclass(frozen=True)
class Exported:
    """What is exported: its parts, and which code made it when."""

    parts: tuple[Part, ...]
    version: str
    commit: str
    when: datetime  # of the commit, or SOURCE_DATE_EPOCH; never the clock

    @property
    def runs(self) -> dict[tuple[str, str], tuple[Part, ...]]:
        """The parts of each (suite, model)."""
        found: dict[tuple[str, str], list[Part]] = defaultdict(list)
        for each in self.parts:
            found[each.head.suite, each.head.model].append(each)
        return {key: tuple(many) for key, many in sorted(found.items())}


def at(seconds: int) -> datetime:
    """A time in seconds since 1970-01-01, in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def parts_of(root: Path, words: Sequence[str] = ()) -> tuple[Part, ...]:
    """The parts of every cell under data/outputs, by suite, model and name. words: overrides of its run.

    Raises UserError where there is no cell, or scores, prepared data and cells are not of each other.
    """
    paths = cell_files(root / "data/outputs")
    if not paths:
        raise UserError("data/outputs holds no finished cell: nothing to export yet. Make it: dvc repro")
    rows = scores_of(root)
    found: dict[tuple[object, ...], Path] = {}
    parts: list[Part] = []
    for path in paths:
        head, answers = read_cell(path)
        key = tuple(head.chosen(CELL).values())
        if key in found:
            raise UserError(f"{found[key]} and {path} are one cell, which would count twice. Remove one of the two")
        found[key] = path
        if key not in rows:
            raise UserError(f"{SCORES} has no scores of {path.relative_to(root)}. {AGAIN}")
        parts += parts_of_cell(path, head, answers, rows[key], root, words)
    return tuple(sorted(parts, key=lambda part: (part.head.suite, part.head.model, part.name)))


def scores_of(root: Path) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The rows of scores.parquet by CELL. A missing value is None. Raises UserError for one that is not finite."""
    frame = read_frame(root, SCORES)
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        if odd := [name for name in METRICS if row[name] is not None and not math.isfinite(row[name])]:
            raise UserError(f"{SCORES}: {row['example_id']} has {row[odd[0]]} by {odd[0]}, which is no score. {AGAIN}")
        rows[tuple(row[name] for name in CELL)].append(row)
    return dict(rows)


def parts_of_cell(
    path: Path,
    head: Header,
    answers: Sequence[Answers],
    rows: Sequence[Mapping[str, Any]],
    root: Path,
    words: Sequence[str],
) -> list[Part]:
    """The parts of one cell, a variant each. Raises UserError as `parts_of` does."""
    condition = conf.load("condition", head.condition, Condition)
    by_id, n_task, data_sha256 = asked(head.task, condition, root)
    if data_sha256 != head.data_sha256:
        raise UserError(f"{path.name}: data/tasks/{head.task}.jsonl is not what this cell asked. {examples.AGAIN}")
    rule, source = rule_of(head.task)
    scores: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        scores[controls.VARIANT.join(filter(None, (row["example_id"], row["variant"])))][row["seed"]] = row
    if {a.prompt.id: set(a.completions) for a in answers} != {name: set(each) for name, each in scores.items()}:
        raise UserError(f"{SCORES} does not judge the completions of {path.name} once each. {AGAIN}")
    subject = subject_of(head, tuple(answers[0].completions), words)
    by_variant: dict[str | None, list[Item]] = defaultdict(list)
    for a in answers:
        by_variant[prompts.example_id(a.prompt.id)[1]].append(Item(by_id[a.prompt.id], a, scores[a.prompt.id]))
    made = [
        Part("__".join(filter(None, (path.stem, variant))), head, subject, condition, rule, source,
             tuple(items), n_task)
        for variant, items in by_variant.items()
    ]  # fmt: skip
    for each in made:
        check_whole(each)
    return made


def asked(task: str, condition: Condition, root: Path) -> tuple[dict[str, Example], int, str]:
    """(the examples that a condition asks of a task, by a prompt's id; its test items; sha256 of its prepared file)."""
    shots, tests, sha256 = examples.load(task, root / examples.TASKS)
    if condition.exemplar_seed is not None:
        shots = controls.resampled(tests, len(shots), condition.exemplar_seed)
    candidates = controls.without(tests, shots)
    every = controls.checked(condition)(examples.sampled(candidates, None), candidates)
    return {each.id: each for each in every}, len(tests), sha256


def check_whole(part: Part) -> None:
    """Raises UserError where a metric judges some items and not others: its mean would be of these alone."""
    for name in METRICS:
        judged = {row[name] is not None for item in part.items for row in item.scores.values()}
        if len(judged) > 1:
            raise UserError(f"{SCORES}: {name} judges only some items of {part.name}. {AGAIN}")
    if len({tuple(sorted(item.scores)) for item in part.items}) > 1:
        raise UserError(f"{part.name}: its items were not asked with the same seeds. Run the cell again, it resumes")
