"""One reader for each kind of source file: its text becomes Rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """What every reader makes of one entry of a source file."""

    input: str
    options: tuple[str, ...]
    target: int | None
    answer: str
    material: str = ""  # text that constructed options may draw on


def read_bigbench(text: str) -> list[Row]:
    """A BIG-bench task.json: `target_scores` maps option to score; a task without options has `target`.

    The gold answer is the first option whose score is exactly 1 (protocol.md, Scores).
    """
    return [_bigbench_row(entry) for entry in json.loads(text)["examples"]]


def _bigbench_row(entry: Mapping[str, Any]) -> Row:
    scores: Mapping[str, float] = entry.get("target_scores") or {}
    if not scores:
        return Row(entry["input"], (), None, str(entry["target"]), entry["input"])
    options = tuple(scores)
    target = next(i for i, option in enumerate(options) if scores[option] == 1)
    return Row(entry["input"], options, target, options[target])


def read_worked_answer(text: str) -> list[Row]:
    """JSON lines of `question` and a worked `answer` whose last line is `#### number`."""
    rows = [json.loads(line) for line in text.split("\n") if line]
    return [
        Row(r["question"], (), None, r["answer"].rsplit("####", 1)[1].strip(), r["question"] + "\n" + r["answer"])
        for r in rows
    ]


def read_labelled_choices(text: str) -> list[Row]:
    """JSON lines of `question`, `choices` {label, text} and `answerKey`."""
    rows = [json.loads(line) for line in text.split("\n") if line]
    found = []
    for row in rows:
        options = tuple(row["choices"]["text"])
        target = row["choices"]["label"].index(row["answerKey"])
        found.append(Row(row["question"], options, target, options[target]))
    return found


def read_items(text: str) -> list[Row]:
    """JSON lines of `input`, `options` and `answer`."""
    rows = [json.loads(line) for line in text.split("\n") if line]
    return [Row(r["input"], tuple(r["options"]), r["options"].index(r["answer"]), r["answer"]) for r in rows]


READERS: Mapping[str, Callable[[str], list[Row]]] = {
    "bigbench": read_bigbench,
    "worked_answer": read_worked_answer,
    "labelled_choices": read_labelled_choices,
    "items": read_items,
}
