"""A cell as a release holds it: hashes in the place of texts, and its prompts rebuilt from the data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.base import grid
from src.base.errors import UserError
from src.base.files import from_json_lines, json_lines
from src.base.schema import Cell, Run
from src.base.values import digest
from src.cell.file import (
    Answers,
    Header,
    answers_of,
    answers_row,
    cell_files,
    digests,
    header_of,
    header_row,
    read_cell,
)
from src.cell.hashes import text_hash
from src.question import examples, prompts

CELLS = "data/cells"


def hashed_items(path: Path) -> bytes:
    """A prepared task with a hash in the place of every text: what the statistics need of it."""
    rows = from_json_lines(path.read_bytes())
    return json_lines([{**row, **{key: hashed(row[key]) for key in ("input", "options", "answer")}} for row in rows])


def hashed(text: str | Sequence[str]) -> str | list[str]:
    """A text's hash with its full stop kept, because the published scorer treats full stops by a rule of its own."""
    if not isinstance(text, str):
        return [str(hashed(each)) for each in text]
    return text_hash(text) + ("." if text.endswith(".") else "")


def without_prompts(path: Path) -> bytes:
    """A cell's file with each prompt's id and sha256 in its place."""
    head, answers = read_cell(path)
    return json_lines([header_row(head), *map(without_text, answers)])


def without_text(answers: Answers) -> dict[str, Any]:
    """One prompt's answers. Its id and sha256 stand in the place of the prompt."""
    return {"id": answers.prompt.id, "prompt_sha256": prompt_sha256(answers), **answers_row(answers)}


def prompt_sha256(answers: Answers) -> str:
    """sha256 of a prompt: prefix, text, options, continuations, gold answer."""
    return digest(asdict(answers.prompt))


@dataclass(frozen=True)
class Rebuilt:
    """A cell of a release with its prompts rebuilt from the data sets. `faults` says what does not fit."""

    run: Run
    cell: Cell
    head: Header
    answers: tuple[Answers, ...]
    faults: tuple[str, ...]

    @property
    def name(self) -> str:
        """model/task/condition."""
        return f"{self.head.model}/{self.cell.name}"


def rebuilt_cells(root: Path, words: Sequence[str]) -> list[Rebuilt]:
    """Every cell of an unpacked release. words: overrides, e.g. where the prepared tasks or the weights are.

    Raises UserError where a data set that it needs is not prepared.
    """
    given = grid.params(root / "params.yaml")
    settings = [f"{key}={_word(given[key])}" for key in ("tasks", "conditions", "seeds", "limit", "encoder")]
    paths = cell_files(root / CELLS)
    models = sorted({path.parent.name for path in paths})
    runs = {name: grid.composed_run([f"+model={name}", *settings, *words]) for name in models}
    return [rebuilt(path, runs[path.parent.name]) for path in paths]


def _word(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else "null" if value is None else str(value)


def rebuilt(path: Path, run: Run) -> Rebuilt:
    """One cell of a release. Raises UserError where it is none, or its data set is not prepared."""
    try:
        first, *rows = from_json_lines(path.read_bytes())
        head = header_of(first)
        cell = next(c for c in run.cells if (c.task.name, c.condition.name) == (head.task, head.condition))
        shots, tests, data_sha256 = examples.load(cell.task.name, run.data)
        earlier = grid.tasks_before(run, cell) if run.compat.template_leak else ()
        by_id = {p.id: p for p in prompts.ask(tests, shots, cell.task, cell.condition, run.limit, earlier)}
        answers = tuple(answers_of(by_id[row["id"]], row) for row in rows)
        published = [row["prompt_sha256"] for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(f"{path.name} is no cell of this release's grid ({type(error).__name__}: {error})") from error
    other = [a.prompt.id for a, sha256 in zip(answers, published, strict=True) if prompt_sha256(a) != sha256]
    faults = [] if data_sha256 == head.data_sha256 else [f"{cell.task.name}: prepared data differ from the release's"]
    faults += [f"{other[0]}: another prompt than was asked ({len(other)} of {len(answers)})"] if other else []
    faults += (
        ["completions are not those of completions_sha256"] if digests(answers)[1] != head.completions_sha256 else []
    )
    return Rebuilt(run, cell, head, answers, tuple(faults))
