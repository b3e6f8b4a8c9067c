"""One reader for each kind of source file. It turns the text of the file into Rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One entry of a source file, as every reader returns it."""

    input: str
    options: tuple[str, ...]
    target: int | None  # index of the gold option; None without options
    answer: str
    material: str = ""  # text that constructed options may draw on


def json_lines(text: str) -> list[Any]:
    """The values of JSON lines. Only "\\n" ends a line: str.splitlines would also split inside a JSON string."""
    return [json.loads(line) for line in text.split("\n") if line]


def read_bigbench(text: str) -> list[Row]:
    """A BIG-bench task.json. `target_scores` maps an option to its score. A task without options has `target`.

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
    return [_worked_answer_row(entry["question"], entry["answer"]) for entry in json_lines(text)]


def _worked_answer_row(question: str, worked: str) -> Row:
    return Row(question, (), None, worked.rsplit("####", 1)[1].strip(), question + "\n" + worked)


def read_labelled_choices(text: str) -> list[Row]:
    """JSON lines of `question`, `choices` {label, text} and `answerKey`."""
    return [_labelled_row(entry) for entry in json_lines(text)]


def _labelled_row(entry: Mapping[str, Any]) -> Row:
    options = tuple(entry["choices"]["text"])
    target = entry["choices"]["label"].index(entry["answerKey"])
    return Row(entry["question"], options, target, options[target])


def read_items(text: str) -> list[Row]:
    """JSON lines of `input`, `options` and `answer`."""
    return [
        Row(entry["input"], tuple(entry["options"]), entry["options"].index(entry["answer"]), entry["answer"])
        for entry in json_lines(text)
    ]


READERS: Mapping[str, Callable[[str], list[Row]]] = {
    "bigbench": read_bigbench,
    "worked_answer": read_worked_answer,
    "labelled_choices": read_labelled_choices,
    "items": read_items,
}
"""By the `reader` of conf/task/<name>.yaml."""
