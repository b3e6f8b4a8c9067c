"""Which of our items a record is of, and the rows that stand for foreign answers (frame `external_scores`)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from src.base.errors import UserError, suggest
from src.foreign.align import options_of
from src.foreign.record import Record, exact_key, text_key
from src.question.examples import Example

MATCHED, NOT_OURS, UNCLEAR, OTHER_GOLD = "matched", "not_ours", "unclear", "other_gold"
"""What became of an item: it is one of ours; it is none; it could be several; it is one, with another right answer."""


@dataclass(frozen=True)
class Index:
    """The test items of our tasks, by what they can be known by."""

    by_text: Mapping[str, Mapping[str, tuple[Example, ...]]]  # task -> key of a text -> examples
    by_id: Mapping[str, Mapping[str, Example]]  # task -> id -> example


def index_of(tasks: Mapping[str, Iterable[Example]]) -> Index:
    """The index of prepared tasks. Exemplars are no test items."""
    by_text: dict[str, dict[str, tuple[Example, ...]]] = {}
    by_id: dict[str, dict[str, Example]] = {}
    for task, every in tasks.items():
        found: dict[str, list[Example]] = defaultdict(list)
        tests = [each for each in every if each.exemplar is None]
        for each in tests:
            for key in {text_key(each.input), exact_key(each.input)}:
                found[key].append(each)
        by_text[task] = {key: tuple(many) for key, many in found.items()}
        by_id[task] = {each.id: each for each in tests}
    return Index(by_text, by_id)


@dataclass(frozen=True)
class Imported:
    """What an import gives: rows of `external_scores`, and what became of each task's items."""

    rows: tuple[dict[str, Any], ...]
    counts: Mapping[str, Mapping[str, int]]  # foreign task -> a count for each of the words above
    ours: Mapping[str, str]  # foreign task -> our task; a task that is none of ours is not in it


def imported(records: Sequence[Record], names: Mapping[str, str], index: Index, name: str) -> Imported:
    """The rows of an import. names: a foreign task -> ours, where the user says so; "" says that it is none of ours.

    Of a task that is ours, the items that are matched are taken and the others counted. A task none of whose items is
    ours keeps all of its items, under its own name. Raises UserError where a task could be two of ours.
    """
    there = sorted({each.task for each in records})
    for task, ours in names.items():
        if task not in there:
            raise suggest("task of the import:", task, there, "the import")
        if ours and ours not in index.by_text:
            raise suggest("task", ours, sorted(index.by_text), "data/tasks/*.jsonl")
    rows: list[dict[str, Any]] = []
    counts, of = {}, {}
    for task in there:
        mine = [each for each in records if each.task == task]
        ours = names[task] if task in names else our_task(task, mine, index)
        example = {each.item: match(each, ours, index) for each in mine} if ours else {}
        if ours:
            of[task] = ours
            counts[task] = Counter(word for word, _ in example.values())
            check_once(task, example)
        for each in mine:
            word, found = example.get(each.item, (MATCHED, None))
            if word == MATCHED:
                known = unhashed(each, found) if found else each
                rows.append({"name": name, "our_task": ours or None, **row_of(known, found)})
    return Imported(tuple(rows), counts, of)


def our_task(task: str, records: Sequence[Record], index: Index) -> str:
    """The one of our tasks that has items of this one; "" where none has. Raises UserError where several have."""
    if task in index.by_text:
        return task
    found = {ours for ours in index.by_text for each in records if match(each, ours, index)[0] in (MATCHED, OTHER_GOLD)}
    if len(found) > 1:
        several = sorted(found)
        raise UserError(f"items of {task} are items of {', '.join(several)}. Which task is it? Name it: "
                        f"--task '{task}={several[0]}'; or none: --task '{task}='")  # fmt: skip
    return found.pop() if found else ""


def match(record: Record, task: str, index: Index) -> tuple[str, Example | None]:
    """(what became of a record, our example): by its text and the options it has; without text by our id."""
    if not record.text:
        example = index.by_id[task].get(record.item)
        return (MATCHED, example) if example else (NOT_OURS, None)
    same = index.by_text[task].get(text_key(record.text), ())
    options = options_of(record.options)
    fitting = [
        each for each in same
        if not options or not each.options or options_of(unhashed(record, each).options) == options_of(each.options)
    ]  # fmt: skip
    if len(fitting) != 1:
        by_id = [each for each in fitting if each.id in (record.item, record.name)]
        if len(by_id) != 1:
            return (UNCLEAR if fitting else NOT_OURS), None
        fitting = by_id
    (example,) = fitting
    if options and record.target is not None and example.target is not None:
        gold = text_key(example.options[example.target])
        if text_key(unhashed(record, example).options[record.target]) != gold:
            return OTHER_GOLD, None
    return MATCHED, example


def unhashed(record: Record, example: Example) -> Record:
    """The record with the texts of our example in the place of their hashes."""
    ours = {exact_key(text): text for text in (example.input, *example.options)}
    options = tuple(ours.get(option, option) for option in record.options)
    return replace(record, text=ours.get(record.text, record.text), options=options)


def check_once(task: str, found: Mapping[str, tuple[str, Example | None]]) -> None:
    """Raises UserError where two items of a task are one of ours."""
    counts = Counter(example.id for _, example in found.values() if example)
    if twice := [name for name, n in counts.items() if n > 1]:
        both = [item for item, (_, example) in found.items() if example and example.id == twice[0]]
        raise UserError(f"items {' and '.join(both[:2])} of {task} are both {twice[0]}. Drop one of them")


def row_of(record: Record, example: Example | None) -> dict[str, Any]:
    """The row of one record: no text, hashes of it."""
    options = tuple(map(text_key, record.options)) if any(record.options) else ()
    n_options = len(record.options)
    target, pick, score = record.target, record.pick, record.score
    if (
        example and not n_options and record.picked_known
    ):  # picks alone: they are of our options, in the order of our file
        options, target = tuple(map(text_key, example.options)), example.target
        n_options = len(options)
        if record.pick_text:
            pick = options.index(text_key(record.pick_text)) if text_key(record.pick_text) in options else None
    if score != score:
        if target is None:
            raise UserError(f"item {record.item} of {record.task} has a pick, and neither score nor target, and is "
                            f"none of ours. Add one of these")  # fmt: skip
        score = float(pick == target)
    if pick is not None and n_options and pick >= n_options:
        raise UserError(
            f"item {record.item} of {record.task} has {n_options} options, and the pick {pick}. Count from 0"
        )
    return {
        "model": record.model, "task": record.task, "prompt": record.prompt, "shots": record.shots,
        "metric": record.metric, "item": record.item, "example_id": example.id if example else None,
        "group": (example.group if example else record.group) or record.item, "repeat": record.repeat,
        "n_options": n_options, "target": target, "picked": pick, "picked_known": record.picked_known, "score": score,
        "options": ";".join(key[:16] for key in options), "text": text_key(record.text),
    }  # fmt: skip


COLUMNS = {"name", "our_task", "example_id", "picked_known", "score"}
"""By these a frame is known to be an import."""


def records_of(rows: Iterable[Mapping[str, Any]]) -> list[Record]:
    """The records of an import again. A task and an item of ours have our names; a text has its hash alone."""
    return [
        Record(
            model=row["model"], task=row["our_task"] or row["task"], item=row["example_id"] or row["item"],
            metric=row["metric"], score=row["score"], text=f"key:{row['text']}" if row["text"] else "",
            options=tuple(f"key:{each}" for each in row["options"].split(";") if each), target=row["target"],
            pick=row["picked"], picked_known=row["picked_known"], prompt=row["prompt"], shots=row["shots"],
            repeat=row["repeat"], group=row["group"],
        )
        for row in rows
    ]  # fmt: skip
