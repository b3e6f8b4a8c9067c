"""Typed examples of a prepared task: read from data/tasks, sampled in one seeded order."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import UserError
from src.base.schema import Task

TASKS = Path("data/tasks")
SUMMARY = "summary.csv"
AGAIN = "Make it anew: dvc repro -f prepare"


@dataclass(frozen=True)
class Example:
    """One question. `options` keep the order of the file."""

    id: str  # "<task>/<index in the source file>"
    group: str  # examples that share a context share this
    input: str  # as in the file, untouched
    options: tuple[str, ...]
    target: int | None  # index of the first option whose score is exactly 1; None without options
    answer: str  # gold answer
    exemplar: int | None  # position among the few-shot exemplars; None for a test item


def context(task: Task, name: str, text: str) -> str:
    """What an example shares with its siblings, hashed; its own id where the task has no groups."""
    match = re.search(task.group, text, re.DOTALL) if task.group else None
    return hashlib.sha256(match.group(1).encode()).hexdigest()[:12] if match else name


def chance(tests: Iterable[Example]) -> float | None:
    """Accuracy of a uniform guesser, a fraction: mean of 1 / number of options, exact; None without options."""
    sizes = [len(example.options) for example in tests]
    return sum(1 / m for m in sizes) / len(sizes) if sizes and all(sizes) else None


def sampled(tests: Sequence[Example], limit: int | None) -> list[Example]:
    """The first `limit` examples of one seeded order per task, so that a smaller sample is part of a larger one."""
    order = sorted(tests, key=lambda e: hashlib.sha256(f"order:{e.id}".encode()).digest())
    return order[:limit]


def load(name: str, folder: Path = TASKS) -> tuple[list[Example], list[Example], str]:
    """(exemplars, test items, sha256 of the prepared file) of a task. Raises UserError where it is not prepared."""
    path = folder / f"{name}.jsonl"
    if not path.exists():
        raise UserError(f"{path} is missing: the task {name} is not prepared. Make it: dvc repro prepare")
    raw = path.read_bytes()
    sha256 = hashlib.sha256(raw).hexdigest()
    if prepared_hashes(folder).get(name) not in (None, "", sha256):
        raise UserError(f"{path} was edited: its sha256 is not that of {folder / SUMMARY}. {AGAIN}")
    found = parsed(raw, path)
    if all(e.exemplar is not None for e in found):
        raise UserError(f"{path} holds no test item. {AGAIN}")
    shots = sorted((e for e in found if e.exemplar is not None), key=lambda e: e.exemplar or 0)
    return shots, [e for e in found if e.exemplar is None], sha256


def parsed(raw: bytes, path: Path) -> list[Example]:
    """The examples in the bytes of a prepared file, in its order. Raises UserError where they are not whole."""
    try:
        rows = [json.loads(line) for line in raw.decode().split("\n") if line]
        return [Example(**{**row, "options": tuple(row["options"])}) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not whole ({error}). {AGAIN}") from None


def prepared_hashes(folder: Path) -> dict[str, str]:
    """sha256 by task, as the summary beside the prepared tasks says; {} where there is none."""
    path = folder / SUMMARY
    return {row["task"]: row["sha256"] for row in csv.DictReader(path.open())} if path.exists() else {}
