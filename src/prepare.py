"""Turns pinned raw files into typed, validated Examples: `python -m src.prepare` prepares every task of params.yaml."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from src.base import conf, grid
from src.base.cli import command, stage, suite_line
from src.base.errors import UserError, suggest
from src.base.files import ROOT, json_lines, whole
from src.base.schema import Task
from src.question.examples import SUMMARY, TASKS, Example, chance, context, load, sampled
from src.question.options import CONSTRUCTIONS, constructed
from src.question.readers import READERS, EntryError, Row, faults
from src.source import pins

RAW = Path("data/raw")


def examples(task: Task, text: str, exemplar_text: str | None = None) -> list[Example]:
    """All examples of a task: its exemplars in prompt order, then its test items in file order.

    Raises UserError where there are not as many as conf/task says, and where one cannot be asked and scored.
    """
    refuse_odd(task)
    rows = rows_of(task, task.file, text, "")
    if len(rows) != task.n_source:
        raise UserError(
            f"{task.name}: {task.file} holds {len(rows)} examples, conf/task/{task.name}.yaml says {task.n_source}. "
            f"Fetch it again: dvc repro -f fetch@{task.source}. Where the file is your own, mend n_source"
        )
    if exemplar_text is None:
        refuse_odd_exemplars(task, len(rows))
        shots = [(f"{task.name}/{i}", rows[i]) for i in task.exemplars]
    else:
        others = rows_of(task, str(task.exemplar_file), exemplar_text, "exemplar_")
        offered = [(f"{task.name}/exemplar_{i}", row) for i, row in enumerate(others)]
        if (task.exemplars_drawn or 0) > len(offered):
            raise UserError(
                f"{task.name}: {task.exemplar_file} holds {len(offered)} examples, exemplars_drawn is "
                f"{task.exemplars_drawn}. Draw fewer in conf/task/{task.name}.yaml"
            )
        shots = offered if task.exemplars_drawn is None else _first_of_seeded_order(offered, task.exemplars_drawn)
    taken = {name for name, _ in shots}
    tests = [(f"{task.name}/{i}", row) for i, row in enumerate(rows) if f"{task.name}/{i}" not in taken]
    if len(tests) != task.n_published and not task.n_note:
        raise UserError(
            f"{task.name}: {len(tests)} test examples, the published n is {task.n_published}. "
            f"State the reason as n_note in conf/task/{task.name}.yaml or mend its exemplars."
        )
    refuse_leak(task, shots, tests)
    return [_example(task, name, row, i) for i, (name, row) in enumerate(shots)] + [
        _example(task, name, row, None) for name, row in tests
    ]


def _first_of_seeded_order(offered: Sequence[tuple[str, Row]], count: int) -> list[tuple[str, Row]]:
    """The first `count` of one seeded order, which is that of `question.examples.sampled`."""
    return sorted(offered, key=lambda pair: hashlib.sha256(f"order:{pair[0]}".encode()).digest())[:count]


def rows_of(task: Task, file: str, text: str, kind: str) -> list[Row]:
    """The Rows of a source file's text, with the options that the task constructs. kind: what ids put before a number.

    Raises UserError that names the example and what is wrong in it.
    """
    rows, odd = READERS[task.reader](text), []
    for i, row in enumerate(rows):
        odd += [f"example {i}: {fault}" for fault in faults(row, task.as_published)][:1]
    if odd:
        more = f" ({len(odd) - 1} more examples are refused.)" if len(odd) > 1 else ""
        raise UserError(f"{task.name}: {file}, {odd[0]}.{more} {_mend(task)}")
    return [_with_options(task, row, f"{task.name}/{kind}{i}") for i, row in enumerate(rows)]


def _mend(task: Task) -> str:
    """What to do about a source file whose content is wrong."""
    pin, stage = f"conf/source/{task.source}.yaml", f"fetch@{task.source}"
    return f"Fetch it again: dvc repro -f {stage}. Where the file is your own, mend it and its sha256 in {pin}"


def refuse_odd(task: Task) -> None:
    """Raises UserError where the task names a reader, a group or a construction of options that there is not."""
    where = f"conf/task/{task.name}.yaml"
    if task.reader not in READERS:
        raise suggest("reader", task.reader, list(READERS), "src/question/readers.py, READERS")
    try:
        groups = re.compile(task.group or "()").groups
    except re.error as error:
        raise UserError(f"{where}: group is no regular expression: {error}") from None
    if groups < 1:
        raise UserError(f"{where}: group captures nothing. Put what examples share into brackets: (...)")
    construct, count = task.options.get("construct"), task.options.get("count")
    if construct is None:
        return
    if construct not in CONSTRUCTIONS:
        raise suggest("construction of options", str(construct), list(CONSTRUCTIONS), "src/question/options.py")
    if not isinstance(count, int) or isinstance(count, bool) or count < 2:
        raise UserError(f"{where}: options.count={count}: count is a whole number of 2 or more")


def refuse_odd_exemplars(task: Task, rows: int) -> None:
    """Raises UserError where exemplars are no distinct indices into a file of so many rows."""
    known = range(rows)
    if len(set(task.exemplars)) != len(task.exemplars) or any(i not in known for i in task.exemplars):
        raise UserError(
            f"conf/task/{task.name}.yaml: exemplars={task.exemplars}: exemplars are distinct indices into {task.file}, "
            f"from 0 to {rows - 1}"
        )


def refuse_leak(task: Task, shots: Sequence[tuple[str, Row]], tests: Sequence[tuple[str, Row]]) -> None:
    """Raises UserError where a test item is an exemplar over again: the prompt would hold its answer."""

    def asked(row: Row) -> tuple[str, ...]:
        return (row.input, *(() if "construct" in task.options else sorted(row.options)))

    told = {asked(row): name for name, row in shots}
    leaks = [(name, told[asked(row)]) for name, row in tests if asked(row) in told]
    if leaks and not task.as_published:
        name, shot = leaks[0]
        raise UserError(
            f"{task.name}: the test item {name} asks what the exemplar {shot} answers ({len(leaks)} such items). "
            f"Take one of the two out, or choose other exemplars in conf/task/{task.name}.yaml"
        )


def _with_options(task: Task, row: Row, key: str) -> Row:
    if "construct" not in task.options:
        return row
    try:
        return constructed(row, key, task.options["construct"], task.options["count"])
    except (ValueError, LookupError) as error:
        raise EntryError(f"{key}: {task.options['construct']} makes no options of it: {error}") from None


def _example(task: Task, name: str, row: Row, exemplar: int | None) -> Example:
    return Example(name, context(task, name, row.input), row.input, row.options, row.target, row.answer, exemplar)


def prepare(task: Task, raw: Path = RAW) -> str:
    """The JSON lines of a task's examples. Raises UserError where the raw file is missing or not the expected one."""
    folder = raw / task.source
    path = folder / task.file
    if not path.is_file():
        why = folder / "UNAVAILABLE.txt"
        reason = why.read_text(encoding="utf-8").strip() if why.exists() else f"Make it: dvc repro fetch@{task.source}"
        raise UserError(f"{task.name}: {path} is {'no file' if path.exists() else 'missing'}. {reason}")
    exemplar_path = folder / task.exemplar_file if task.exemplar_file else None
    from_file = exemplar_path is not None and exemplar_path.is_file()  # else the task's own items stand in
    if exemplar_path and not from_file and not task.exemplars:
        raise UserError(f"{task.name}: {exemplar_path} is missing. Make it: dvc repro fetch@{task.source}")
    try:
        exemplar_text = exemplar_path.read_bytes().decode() if exemplar_path and from_file else None
        prepared = examples(task, path.read_bytes().decode(), exemplar_text)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        kind = "" if isinstance(error, EntryError) else f"{type(error).__name__}: "
        raise UserError(f"{task.name}: {path} cannot be read as {task.reader} ({kind}{error}). {_mend(task)}") from None
    return json_lines(map(asdict, prepared)).decode()


def refuse_changed(task: Task, root: Path = ROOT) -> None:
    """Raises UserError where the task's file is not the one that its source pins, so that it was changed since."""
    source = pins.load_source(task.source, root)
    for name in (task.file, task.exemplar_file):
        pin = (source.converted or source.files).get(name or "")
        if name and pin and (root / source.folder / name).is_file():
            pins.check(source, root / source.folder / name, pin)


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
    refuse_changed(task)
    path = TASKS / f"{task.name}.jsonl"
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")
    _, tests, sha256 = load(task.name)
    guess = chance(tests)
    groups = len({e.group for e in tests})
    return f"{task.name},{len(tests)},{task.n_published},{groups},{'' if guess is None else f'{guess:.6f}'},{sha256}"


if __name__ == "__main__":
    main()
