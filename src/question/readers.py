"""One reader for each kind of source file. It turns the file's text into Rows. `faults` says what is wrong in one."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.base.files import from_json_lines


@dataclass(frozen=True)
class Row:
    """One entry of a source file, as every reader returns it."""

    input: str
    options: tuple[str, ...]
    target: int | None  # index of the gold option; None without options
    answer: str
    material: str = ""  # text that constructed options may draw on
    also: tuple[str, ...] = ()  # other answers that the file calls right
    graded: tuple[str, ...] = ()  # options whose score is neither 0 nor 1


class EntryError(ValueError):
    """An entry of a source file is not what its reader reads."""


def strict(text: str) -> Any:
    """JSON as plain data. Raises ValueError for what its own standard leaves open: a key twice, NaN, Infinity."""
    return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_number)


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{shown(twice[0])} is a key twice in one object")
    return dict(pairs)


def lines(text: str) -> list[Any]:
    """JSON lines of a file that people may have edited."""
    return from_json_lines(text.removeprefix("\ufeff").encode("utf-8", "surrogatepass"), strict, blank=True)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def each(entries: Any, row: Callable[[Mapping[str, Any]], Row]) -> list[Row]:
    """The Row of every entry. Raises EntryError, which names the first entry that has none."""
    if not isinstance(entries, list):
        raise EntryError("it holds no list of examples")
    rows = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise EntryError(f"example {i} is {shown(entry)}, and no object with keys")
        try:
            rows.append(row(entry))
        except KeyError as error:
            raise EntryError(f"example {i} lacks {error}") from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EntryError(f"example {i}: {error}") from None
    return rows


def read_bigbench(text: str) -> list[Row]:
    """A BIG-bench task.json. `target_scores` maps an option to its score. A task without options has `target`.

    The gold answer is the first option whose score is exactly 1 (protocol.md, Scores).
    """
    content = strict(text.removeprefix("\ufeff"))
    if not isinstance(content, Mapping):
        raise EntryError("it is no object with the key 'examples'")
    return each(content["examples"], _bigbench_row)


def _bigbench_row(entry: Mapping[str, Any]) -> Row:
    scores = entry.get("target_scores")
    if scores is None:
        answers = as_list(entry["target"])
        return Row(entry["input"], (), None, answers[0], entry["input"], also=tuple(answers[1:]))
    if not isinstance(scores, Mapping) or not all(
        isinstance(s, int | float) and math.isfinite(s) for s in scores.values()
    ):
        raise ValueError("target_scores is an object of options and their scores, which are numbers")
    right = [option for option, score in scores.items() if score == 1]
    if not right:
        raise ValueError("no option has the score 1, so none is right")
    graded = tuple(option for option, score in scores.items() if score not in (0, 1))
    options = tuple(scores)
    return Row(entry["input"], options, options.index(right[0]), right[0], also=tuple(right[1:]), graded=graded)


def as_list(gold: Any) -> list[Any]:
    """The gold answers of an entry that has one or a list of them. Raises ValueError for an empty list."""
    answers = gold if isinstance(gold, list) else [gold]
    if not answers:
        raise ValueError("its list of right answers is empty")
    return answers


def read_worked_answer(text: str) -> list[Row]:
    """JSON lines of `question` and a worked `answer` whose last line is `#### number`."""
    return each(lines(text), lambda entry: _worked_answer_row(entry["question"], entry["answer"]))


def _worked_answer_row(question: str, worked: str) -> Row:
    _, mark, answer = worked.rpartition("####")
    if not mark:
        raise ValueError("its answer does not end in '#### number'")
    return Row(question, (), None, answer.strip(), question + "\n" + worked)


def read_labelled_choices(text: str) -> list[Row]:
    """JSON lines of `question`, `choices` {label, text} and `answerKey`."""
    return each(lines(text), _labelled_row)


def _labelled_row(entry: Mapping[str, Any]) -> Row:
    texts, labels = entry["choices"]["text"], entry["choices"]["label"]
    if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
        raise ValueError("choices has as many labels as texts, each in a list")
    return _row(entry["question"], texts, labels, entry["answerKey"], "answerKey", "label")


def read_items(text: str) -> list[Row]:
    """JSON lines of `input`, `options` and `answer`."""
    return each(lines(text), _item_row)


def _item_row(entry: Mapping[str, Any]) -> Row:
    options = entry["options"]
    if not isinstance(options, list):
        raise ValueError("options is a list of texts")
    return _row(entry["input"], options, options, entry["answer"], "answer", "option")


def _row(question: Any, texts: list[Any], names: list[Any], gold: Any, key: str, kind: str) -> Row:
    """The Row of an entry whose gold answers are `names` of its options."""
    right = []
    for answer in as_list(gold):
        places = [i for i, name in enumerate(names) if type(name) is type(answer) and name == answer]
        if len(places) != 1:
            how_many = "none of its" if not places else f"{len(places)} of its"
            raise ValueError(
                f"{key} {shown(answer)} is {how_many} {kind}s; it is exactly one {kind}, as it is written there"
            )
        right += places
    return Row(
        question, tuple(texts), right[0], texts[right[0]], also=tuple(texts[i] for i in right[1:] if i != right[0])
    )


READERS: Mapping[str, Callable[[str], list[Row]]] = {
    "bigbench": read_bigbench,
    "worked_answer": read_worked_answer,
    "labelled_choices": read_labelled_choices,
    "items": read_items,
}
"""By the `reader` of conf/task/<name>.yaml."""


# What is wrong in a Row


AS_PUBLISHED = "or write as_published: true into the task's YAML, and the paper's rule counts"


def faults(row: Row, as_published: bool = False) -> Iterator[str]:
    """What keeps an entry from being asked and scored, a sentence each, without its full stop.

    as_published: the file is the paper's, so only what cannot be asked at all is a fault.
    """
    broken = list(_broken(row))
    yield from broken
    if not broken and not as_published:
        yield from _doubtful(row)


def _broken(row: Row) -> Iterator[str]:
    for name, text in _texts(row):
        if not isinstance(text, str):
            yield f"{name} is {shown(text)}, which is no text; write it in quotation marks"
        elif any("\ud800" <= char <= "\udfff" for char in text):
            yield f"{name} holds half a character (a lone surrogate), which no tokenizer takes"
    if row.options and (row.target is None or row.options[row.target] != row.answer):
        yield f"its answer {shown(row.answer)} is not the option that is marked as right"


def _doubtful(row: Row) -> Iterator[str]:
    for name, text in _texts(row):
        if not text.strip(" \t\n.") or not text.strip():
            yield f"{name} is empty"
        elif "\0" in text:
            yield f"{name} holds the character U+0000, at which some programs cut a text off"
    if len(row.options) == 1:
        yield "it has one option, so that nothing is asked"
    for option in row.options:
        if option.strip() and option != option.strip():
            yield (
                f"the option {shown(option)} begins or ends with a blank, which no answer repeats; take it away, "
                f"{AS_PUBLISHED}: only an answer with the blank picks it"
            )
    twins = [found for found in _alike(row.options) if len(found) > 1]
    if twins:
        yield (
            f"the options {listed(twins[0])} count as one, since case and a last full stop do not matter; keep one, "
            f"{AS_PUBLISHED}: where one is right, so is the other"
        )
    if row.also:
        yield (
            f"{listed((row.answer, *row.also))} are all right, and only one answer is scored as right: keep one, "
            f"{AS_PUBLISHED}: the first"
        )
    if row.graded:
        yield f"the score of {listed(row.graded)} is neither 1 nor 0: give it one of them, {AS_PUBLISHED}: it is wrong"


def _texts(row: Row) -> Iterable[tuple[str, Any]]:
    options = ((f"option {i}", option) for i, option in enumerate(row.options, start=1))
    return (("its input", row.input), *options, ("its answer", row.answer))


def _alike(options: Sequence[str]) -> Iterable[list[str]]:
    groups: dict[str, list[str]] = {}
    for option in options:
        groups.setdefault(unicodedata.normalize("NFC", option.removesuffix(".").lower()), []).append(option)
    return groups.values()


def listed(texts: Sequence[str], most: int = 3) -> str:
    """The first of some texts of a data set, and how many more."""
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return ", ".join([*map(shown, texts[:most]), *more])


def shown(value: Any, most: int = 40) -> str:
    """A value of a data set as a message shows it: as JSON in ASCII, and cut."""
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
