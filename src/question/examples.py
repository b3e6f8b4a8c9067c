"""The typed examples of a prepared task: how data/tasks is read, and which examples a limit keeps."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import UserError
from src.base.files import from_json_lines
from src.base.schema import Task

TASKS = Path("data/tasks")  # <task>.jsonl, as `python -m src.prepare` writes them
SUMMARY = "summary.csv"  # beside them: counts, chance and sha256 of each
AGAIN = "Make it anew: dvc repro -f prepare"


@dataclass(frozen=True)
class Example:
    """One question of a task. Its `options` keep the order of the file."""

    id: str  # "<task>/<index in the source file>"
    group: str  # examples that share a context share this
    input: str  # as in the file, untouched
    options: tuple[str, ...]
    target: int | None  # index of the first option whose score is exactly 1; None without options
    answer: str  # gold answer
    exemplar: int | None  # position among the few-shot exemplars; None for a test item


def context(task: Task, name: str, text: str) -> str:
    """The group of an example: the hash of the context that it shares, or its own id where the task has no groups."""
    match = re.search(task.group, text, re.DOTALL) if task.group else None
    return hashlib.sha256(match.group(1).encode()).hexdigest()[:12] if match else name


def chance(tests: Iterable[Example]) -> float | None:
    """The accuracy of a uniform guesser: the mean of 1 / number of options. None where an example has no options."""
    sizes = [len(example.options) for example in tests]
    return sum(1 / size for size in sizes) / len(sizes) if sizes and all(sizes) else None


def sampled(tests: Sequence[Example], limit: int | None) -> list[Example]:
    """The first `limit` examples of the task's one seeded order. A smaller sample is thus part of a larger one."""
    order = sorted(tests, key=lambda e: hashlib.sha256(f"order:{e.id}".encode()).digest())
    return order[:limit]


def load(name: str, folder: Path = TASKS) -> tuple[list[Example], list[Example], str]:
    """(exemplars in prompt order, test items, sha256 of the prepared file) of a task.

    Raises UserError where the task is not prepared, or its file is not the one that was prepared.
    """
    path = folder / f"{name}.jsonl"
    if not path.exists():
        raise UserError(f"{path} is missing: the task {name} is not prepared. Make it: dvc repro prepare")
    raw = path.read_bytes()
    sha256 = hashlib.sha256(raw).hexdigest()
    if prepared_hashes(folder).get(name) not in (None, "", sha256):
        raise UserError(f"{path} was edited: its sha256 is not that of {folder / SUMMARY}. {AGAIN}")
    examples = parsed(raw, path)
    tests = [example for example in examples if example.exemplar is None]
    if not tests:
        raise UserError(f"{path} holds no test item. {AGAIN}")
    exemplars = [example for example in examples if example.exemplar is not None]
    return sorted(exemplars, key=lambda example: example.exemplar or 0), tests, sha256


def parsed(raw: bytes, path: Path) -> list[Example]:
    """The examples in the bytes of a prepared file, in its order. Raises UserError where they are not whole."""
    try:
        return [Example(**{**row, "options": tuple(row["options"])}) for row in from_json_lines(raw)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not whole ({error}). {AGAIN}") from None


def prepared_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each prepared file, by task, out of the summary beside them. {} where there is no summary."""
    path = folder / SUMMARY
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["task"]: row["sha256"] for row in csv.DictReader(file)}
