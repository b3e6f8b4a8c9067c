"""Turns pinned raw files into typed, validated Examples: `python -m src.prepare` prepares every task of params.yaml."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from src.base import conf, grid
from src.base.cli import command, stage, suite_line
from src.base.errors import UserError
from src.base.files import whole
from src.base.schema import Task
from src.question.examples import SUMMARY, TASKS, Example, chance, context, load, sampled
from src.question.options import constructed
from src.question.readers import READERS, Row

RAW = Path("data/raw")


def examples(task: Task, text: str, exemplar_text: str | None = None) -> list[Example]:
    """All examples of a task: its exemplars in prompt order, then its test items in file order.

    Raises UserError where there are not as many as conf/task says.
    """
    rows = [_with_options(task, row, f"{task.name}/{i}") for i, row in enumerate(READERS[task.reader](text))]
    if len(rows) != task.n_source:
        raise UserError(
            f"{task.name}: {task.file} holds {len(rows)} examples, conf/task/{task.name}.yaml says {task.n_source}. "
            f"Fetch it again: dvc repro -f fetch@{task.source}"
        )
    if exemplar_text is None:
        shots = [(f"{task.name}/{i}", rows[i]) for i in task.exemplars]
    else:
        offered = [(f"{task.name}/exemplar_{i}", row) for i, row in enumerate(READERS[task.reader](exemplar_text))]
        shots = offered if task.exemplars_drawn is None else _first_of_seeded_order(offered, task.exemplars_drawn)
    taken = {name for name, _ in shots}
    tests = [(f"{task.name}/{i}", row) for i, row in enumerate(rows) if f"{task.name}/{i}" not in taken]
    if len(tests) != task.n_published and not task.n_note:
        raise UserError(
            f"{task.name}: {len(tests)} test examples, the published n is {task.n_published}. "
            f"State the reason as n_note in conf/task/{task.name}.yaml or mend its exemplars."
        )
    return [_example(task, name, row, i) for i, (name, row) in enumerate(shots)] + [
        _example(task, name, row, None) for name, row in tests
    ]


def _first_of_seeded_order(offered: Sequence[tuple[str, Row]], count: int) -> list[tuple[str, Row]]:
    """The first `count` of one seeded order, which is that of `question.examples.sampled`."""
    return sorted(offered, key=lambda pair: hashlib.sha256(f"order:{pair[0]}".encode()).digest())[:count]


def _with_options(task: Task, row: Row, key: str) -> Row:
    if "construct" not in task.options:
        return row
    return constructed(row, key, task.options["construct"], task.options["count"])


def _example(task: Task, name: str, row: Row, exemplar: int | None) -> Example:
    return Example(name, context(task, name, row.input), row.input, row.options, row.target, row.answer, exemplar)


def prepare(task: Task, raw: Path = RAW) -> str:
    """The JSON lines of a task's examples. Raises UserError where the raw file is missing or not the expected one."""
    folder = raw / task.source
    path = folder / task.file
    if not path.exists():
        why = folder / "UNAVAILABLE.txt"
        reason = why.read_text(encoding="utf-8").strip() if why.exists() else f"Make it: dvc repro fetch@{task.source}"
        raise UserError(f"{task.name}: {path} is missing. {reason}")
    exemplar_path = folder / task.exemplar_file if task.exemplar_file else None
    from_file = exemplar_path and (exemplar_path.exists() or not task.exemplars)  # else the task's own items stand in
    exemplar_text = exemplar_path.read_text(encoding="utf-8") if exemplar_path and from_file else None
    try:
        prepared = examples(task, path.read_text(encoding="utf-8"), exemplar_text)
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(
            f"{task.name}: {path} cannot be read as {task.reader} ({type(error).__name__}: {error}). "
            f"Fetch it again: dvc repro -f fetch@{task.source}"
        ) from None
    return "".join(json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in prepared)


def main() -> None:
    """The stage `python -m src.prepare`: the tasks of params.yaml -> data/tasks, with their counts and chance."""
    command("prepare", __doc__, "", "&& head data/tasks/summary.csv").parse_args()
    with stage("prepare", here=True):
        params = grid.params()
        print(suite_line(params), flush=True)
        tasks = to_prepare(params)
        gaps = prepare_all(tasks, params["incomplete"] == "fail")
        done = f"{len(tasks) - len(gaps)} of {len(tasks)} tasks prepared"
        print(done, *gaps, sep="\n  ")


def prepare_all(tasks: Sequence[str], complete: bool) -> list[str]:
    """Writes the file of every task, then the files that describe them all. Returns why tasks could not be prepared.

    Raises UserError with these reasons where `complete` asks for every task.
    """
    (TASKS / SUMMARY).unlink(missing_ok=True)  # removed first and written last: where it exists, all files are whole
    summary, gaps = ["task,n,n_published,groups,chance,sha256"], []
    for name in tasks:
        try:
            summary.append(_prepared(conf.load_task(name)))
        except UserError as error:
            gaps.append(str(error))
            summary.append(f"{name},,,,,")
    if gaps and complete:
        raise UserError("\n".join(gaps))
    with whole(TASKS / SUMMARY) as part:
        part.write_text("\n".join(summary) + "\n", encoding="utf-8")
    write_shown([task for task in tasks if (TASKS / f"{task}.jsonl").exists()])
    return gaps


def to_prepare(params: Mapping[str, Any]) -> list[str]:
    """The tasks of params.yaml and every other task of its sources, because published scores need their chance, too."""
    of_sources = [name for name, task in conf.members("task", Task).items() if task.source in params["sources"]]
    return sorted({*params["tasks"], *of_sources})


def write_shown(tasks: Sequence[str]) -> None:
    """Writes shown.parquet for the table that describes tasks: the first test item of each in its seeded order."""
    import pandas as pd

    rows = [{"task": name, **asdict(sampled(load(name)[1], 1)[0])} for name in tasks]
    frame = pd.DataFrame(rows, columns=["task", *(f.name for f in fields(Example))])
    with whole(TASKS / "shown.parquet") as part:
        frame.assign(options=[" | ".join(options) for options in frame["options"]]).to_parquet(part)


def _prepared(task: Task) -> str:
    """Writes the file of a task. Returns its row of the summary."""
    text = prepare(task)
    path = TASKS / f"{task.name}.jsonl"
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")
    _, tests, sha256 = load(task.name)
    guess = chance(tests)
    groups = len({e.group for e in tests})
    return f"{task.name},{len(tests)},{task.n_published},{groups},{'' if guess is None else f'{guess:.6f}'},{sha256}"


if __name__ == "__main__":
    main()
