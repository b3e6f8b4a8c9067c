"""A pinned raw file -> typed, validated Examples. `python -m src.data` prepares every task of params.yaml."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from src.config import Task, UserError, command, known, load_task, params, stage, suite_line, whole

RAW = Path("data/raw")
TASKS = Path("data/tasks")
SUMMARY = "summary.csv"


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


def nearby_numbers(answer: str, material: str, count: int, rng: random.Random) -> list[str]:
    """Wrong numbers within 10 of the answer, as the published exemplars show them."""
    value = int(answer)
    near = [str(value + step) for step in range(-10, 11) if step]
    return rng.sample(near, count)


def numbers_in_text(answer: str, material: str, count: int, rng: random.Random) -> list[str]:
    """Wrong numbers that occur in the question or its worked solution; nearby ones where there are too few."""
    gold = answer.replace(",", "")
    seen = dict.fromkeys(n.replace(",", "") for n in re.findall(r"\d[\d,]*", material))
    known = [n for n in seen if n and n.lstrip("0") not in ("", gold)]
    drawn = rng.sample(known, min(count, len(known)))
    filler = (str(int(gold) + step) for step in range(1, 2 * count + 2))
    return [*drawn, *(n for n in filler if n not in drawn)][:count]


def words_in_list(answer: str, material: str, count: int, rng: random.Random) -> list[str]:
    """Wrong sets of as many words of the list, in alphabetical order, the first sharing a word with the answer."""
    gold = answer.split(", ")
    board = [w.strip() for w in re.split(r"following list: ", material)[1].split(".")[0].split(",")]
    others = [w for w in board if w not in gold]
    wrong: list[str] = []
    while len(wrong) < count:
        kept = [rng.choice(gold)] if len(gold) > 1 and not wrong else []
        words = ", ".join(sorted(kept + rng.sample(others, len(gold) - len(kept))))
        wrong += [words] if words not in wrong else []
    return wrong


CONSTRUCTIONS: Mapping[str, Callable[[str, str, int, random.Random], list[str]]] = {
    "nearby_numbers": nearby_numbers,
    "numbers_in_text": numbers_in_text,
    "words_in_list": words_in_list,
}


def constructed(row: Row, key: str, construct: str, count: int) -> Row:
    """The row with `count` options: its answer among wrong ones, in an order seeded by `key` alone.

    The authors' own wrong options for test items are not public; these follow what their exemplars show.
    """
    rng = random.Random(hashlib.sha256(key.encode()).digest())
    options = [row.answer, *CONSTRUCTIONS[construct](row.answer, row.material, count - 1, rng)]
    rng.shuffle(options)
    return Row(row.input, tuple(options), options.index(row.answer), row.answer)


def context(task: Task, name: str, text: str) -> str:
    """What an example shares with its siblings, hashed; its own id where the task has no groups."""
    match = re.search(task.group, text, re.DOTALL) if task.group else None
    return hashlib.sha256(match.group(1).encode()).hexdigest()[:12] if match else name


def examples(task: Task, text: str, exemplar_text: str | None = None) -> list[Example]:
    """All examples of a task: first its exemplars in prompt order, then the test items in file order.

    Raises UserError where the counts are not what conf/task says.
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
        shots = offered if task.exemplars_drawn is None else _drawn(offered, task.exemplars_drawn)
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


def _drawn(offered: Sequence[tuple[str, Row]], count: int) -> list[tuple[str, Row]]:
    """The first `count` of one seeded order, the order of `sampled`."""
    return sorted(offered, key=lambda pair: hashlib.sha256(f"order:{pair[0]}".encode()).digest())[:count]


def _with_options(task: Task, row: Row, key: str) -> Row:
    return (
        constructed(row, key, task.options["construct"], task.options["count"]) if "construct" in task.options else row
    )


def _example(task: Task, name: str, row: Row, exemplar: int | None) -> Example:
    return Example(name, context(task, name, row.input), row.input, row.options, row.target, row.answer, exemplar)


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
    sha256, again = hashlib.sha256(raw).hexdigest(), "Make it anew: dvc repro -f prepare"
    if prepared_hashes(folder).get(name) not in (None, "", sha256):
        raise UserError(f"{path} was edited: its sha256 is not that of {folder / SUMMARY}. {again}")
    try:
        rows = [json.loads(line) for line in raw.decode().split("\n") if line]
        found = [Example(**{**row, "options": tuple(row["options"])}) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not whole ({error}). {again}") from None
    if all(e.exemplar is not None for e in found):
        raise UserError(f"{path} holds no test item. {again}")
    shots = sorted((e for e in found if e.exemplar is not None), key=lambda e: e.exemplar or 0)
    return shots, [e for e in found if e.exemplar is None], sha256


def prepared_hashes(folder: Path) -> dict[str, str]:
    """sha256 by task, as the summary beside the prepared tasks says; {} where there is none."""
    path = folder / SUMMARY
    return {row["task"]: row["sha256"] for row in csv.DictReader(path.open())} if path.exists() else {}


def prepare(task: Task, raw: Path = RAW) -> str:
    """The JSON lines of a task's examples. Raises UserError where the raw file is missing or its counts are wrong."""
    folder = raw / task.source
    path = folder / task.file
    if not path.exists():
        why = folder / "UNAVAILABLE.txt"
        reason = why.read_text().strip() if why.exists() else f"Make it: dvc repro fetch@{task.source}"
        raise UserError(f"{task.name}: {path} is missing. {reason}")
    exemplar_path = folder / task.exemplar_file if task.exemplar_file else None
    from_file = exemplar_path and (exemplar_path.exists() or not task.exemplars)  # else the task's own items stand in
    exemplar_text = exemplar_path.read_text(encoding="utf-8") if exemplar_path and from_file else None
    try:
        found = examples(task, path.read_text(encoding="utf-8"), exemplar_text)
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(
            f"{task.name}: {path} cannot be read as {task.reader} ({type(error).__name__}: {error}). "
            f"Fetch it again: dvc repro -f fetch@{task.source}"
        ) from None
    return "".join(json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in found)


def main() -> None:
    """`python -m src.data`, a DVC stage: the tasks of params.yaml -> data/tasks, with their counts and chance."""
    command("data", __doc__, "", "&& head data/tasks/summary.csv").parse_args()
    with stage("prepare"):
        given = params()
        print(suite_line(given), flush=True)
        tasks = to_prepare(given)
        gaps = prepare_all(tasks, given["incomplete"] == "fail")
    done = f"{len(tasks) - len(gaps)} of {len(tasks)} tasks prepared"
    print(done, *gaps, sep="\n  ")


def prepare_all(tasks: Sequence[str], complete: bool) -> list[str]:
    """Write every task's file, then what describes them all; the reasons of those that cannot be prepared.

    Raises UserError with these reasons where `complete` asks for every task.
    """
    (TASKS / SUMMARY).unlink(missing_ok=True)  # it goes first and comes last: where it stands, all is whole
    summary, gaps = ["task,n,n_published,groups,chance,sha256"], []
    for name in tasks:
        try:
            summary.append(_prepared(load_task(name)))
        except UserError as error:
            gaps.append(str(error))
            summary.append(f"{name},,,,,")
    if gaps and complete:
        raise UserError("\n".join(gaps))
    with whole(TASKS / SUMMARY) as part:
        part.write_text("\n".join(summary) + "\n")
    write_shown([task for task in tasks if (TASKS / f"{task}.jsonl").exists()])
    return gaps


def to_prepare(given: Mapping[str, Any]) -> list[str]:
    """The tasks asked for and every other whose source is fetched: published scores need their chance, asked or not."""
    fetched = [name for name in known("task") if load_task(name).source in given["sources"]]
    return sorted({*given["tasks"], *fetched})


def write_shown(tasks: Sequence[str]) -> None:
    """shown.parquet: one test item of each task, the first of its seeded order, for the table that describes tasks."""
    import pandas as pd

    rows = [{"task": name, **asdict(sampled(load(name)[1], 1)[0])} for name in tasks]
    frame = pd.DataFrame(rows, columns=["task", *(f.name for f in fields(Example))])
    with whole(TASKS / "shown.parquet") as part:
        frame.assign(options=[" | ".join(options) for options in frame["options"]]).to_parquet(part)


def _prepared(task: Task) -> str:
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
