"""Score files of BIG-bench: scores_<family>_<model>.json, and full-log_*.json, which hold the examples too.

As bigbench 1.0.0 writes them (bigbench/api/results.py, ResultsFileData). Only what is a share of right answers is read.
A score file does not say how many examples stand behind a score; a full log does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.base.errors import UserError
from src.base.metrics import BY_LIKELIHOOD, BY_TEXT
from src.foreign.files import as_documented, document
from src.foreign.point import GRADED, NAN, Point, Said, half_unit, says_tuned

WHAT = "BIG-bench's score files (bigbench 1.0.0)"
NAMES = ("scores_*.json", "full-log_*.json")
AXES = ("flop_matched_non_embedding_params", "non_embedding_params", "total_params")
"""Fields of a model's size. The first is what BIG-bench's own plots take; of a dense model it equals the second."""
CHANCE = "multiple_choice_grade"
"""The one metric whose low_score is the score of a uniform guesser."""
FUNCTIONS = {"cond_log_prob": BY_LIKELIHOOD, "generate_text": BY_TEXT}


def find(folder: Path) -> list[Path]:
    """The score files anywhere in a folder."""
    return sorted(path for name in NAMES for path in folder.rglob(name))


def read(path: Path, said: Said) -> Iterator[Point]:
    """Every accuracy of a file. Raises UserError where the file is cut short or of another layout."""
    found = document(path)
    axis = said.axis or AXES[0]
    if axis not in AXES:
        raise UserError(f"--axis {axis}: a score file of BIG-bench has {', '.join(AXES)}")
    with as_documented(path, WHAT):
        model, task, scores = found["model"], str(found["task"]["task_name"]), found["scores"]
        if not isinstance(scores, list):
            raise ValueError("its scores are no list")
        size = _size(path, axis, model[axis])
        family = said.family or _name(path, "model_family", model["model_family"])
        name = _name(path, "model_name", model["model_name"])
        examples = _examples(task, found.get("queries") or [])
        parts = Counter(_shots(path, each) for each in scores if not _whole(task, each))
        for each in scores:
            shots = _shots(path, each)
            if _whole(task, each) and parts[shots]:
                continue  # a mean over subtasks is no share of examples, and each subtask is read
            for metric, score in each["score_dict"].items():
                if metric not in GRADED and metric not in said.accuracies:
                    continue
                about = _about(task, each.get("subtask_description", ""))
                asked = (about, shots, GRADED.get(metric))
                preferred = each["preferred_score"] == metric
                low = _number(path, f"low_score of {about}", each["low_score"]) if preferred else NAN
                knows = preferred and metric == CHANCE and 0 < low < 1
                yield Point(
                    family=family, model=name, size=size, axis=axis, tuned=says_tuned(family, name), task=about,
                    metric=metric, preferred=preferred, shots=shots, score=_number(path, f"{metric} of {about}", score),
                    half_unit=half_unit(repr(score)), n=examples.get(asked),
                    chance=low if knows else NAN, chance_from="low_score" if knows else "",
                )  # fmt: skip


def _name(path: Path, field: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{path}: its {field} is {value!r}, no name. Copy the file again")
    return value.strip()


def _whole(task: str, score: Mapping[str, Any]) -> bool:
    """Whether a score is of the whole task."""
    return score.get("subtask_description", "") in ("", task)


def _about(task: str, subtask: str) -> str:
    """The task's name, or task:subtask."""
    return task if subtask in ("", task) else f"{task}:{subtask.removeprefix(f'{task}:')}"


def _shots(path: Path, score: Mapping[str, Any]) -> int | None:
    """Exemplars; None for -1, which stands for a task without any sense of them."""
    shots = score["number_of_shots"]
    if not isinstance(shots, int) or isinstance(shots, bool) or shots < -1:
        raise UserError(f"{path}: number_of_shots is {shots!r}, no whole number. Copy the file again")
    return None if shots == -1 else shots


def _number(path: Path, what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise UserError(f"{path}: {what} is {value!r}, no number. Take the entry out, or copy the file again")
    return float(value)


def _size(path: Path, axis: str, value: Any) -> float:
    """A model's size. 0 and null stand for one that is not known."""
    if value is None or value == 0:
        return NAN
    size = _number(path, axis, value)
    if size < 0:
        raise UserError(f"{path}: {axis} is {value!r}. A model has no negative size: mend the file")
    return size


def _examples(task: str, queries: list[Any]) -> dict[tuple[str, int | None, str | None], int]:
    """By subtask, shots and grading: how many examples were asked."""
    found: Counter[tuple[str, int | None, str | None]] = Counter()
    for query in queries:
        key = (_about(task, query.get("task", "")), query.get("shots", 0), FUNCTIONS[query["function"]])
        if query["function"] != "cond_log_prob" or "target_values" in query["samples"][0]:
            found[key] += len(query["samples"])
    return dict(found)
