"""A plain table, csv or parquet: a row an item, under any of the names that ALIASES lists."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.base.errors import UserError
from src.foreign.record import Fields, Record, text_key

ALIASES: Mapping[str, tuple[str, ...]] = {
    "model": ("model", "model_name", "model_id"),
    "task": ("task", "dataset", "benchmark"),
    "item": ("item", "item_id", "id", "example_id", "doc_id", "sample_id", "question_id"),
    "score": ("score", "correct", "is_correct"),
    "text": ("input", "text", "question", "input_sha256", "text_sha256"),
    "pick": ("pick", "picked", "option", "answer_index"),
    "target": ("target", "gold", "label"),
    "n_options": ("n_options",),
    "metric": ("metric",),
    "prompt": ("prompt", "condition", "setting"),
    "shots": ("shots", "num_fewshot"),
    "group": ("group", "cluster"),
    "repeat": ("seed", "epoch", "repeat", "run"),
}
"""By what a column means: the names that it may have, in any case."""
HASH = re.compile("[0-9a-f]{64}")
NAN = float("nan")
WORDS = {"true": 1.0, "false": 0.0, "correct": 1.0, "incorrect": 0.0, "yes": 1.0, "no": 0.0}


def find(folder: Path) -> list[Path]:
    """The tables right in a folder that have an item and a score. Raises UserError where one is damaged."""
    return sorted(path for path in folder.iterdir() if is_one(path) and _suffices(_header(path)))


def is_one(path: Path) -> bool:
    """Whether a file is a table."""
    return path.suffix in (".csv", ".parquet")


def _suffices(columns: Mapping[str, str]) -> bool:
    return ("item" in columns or "text" in columns) and ("score" in columns or "pick" in columns)


def _header(path: Path) -> dict[str, str]:
    """The table's columns, by what they mean."""
    import pandas as pd
    from pyarrow import parquet

    with _whole(path):
        names = list(pd.read_csv(path, nrows=0).columns) if path.suffix == ".csv" else parquet.read_schema(path).names
    return columns_of(names)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turns what a damaged table raises into a UserError."""
    from pyarrow import ArrowException

    try:
        yield
    except (ValueError, OSError, csv.Error, ArrowException) as error:
        raise UserError(f"{path} is no whole table: {str(error).partition(chr(10))[0]}. Copy it again") from None


def columns_of(names: Sequence[str], known: Mapping[str, tuple[str, ...]] = ALIASES) -> dict[str, str]:
    """What each column means -> its name. Raises UserError where two columns mean the same.

    known: by what a column means, the names that it may have.
    """
    found: dict[str, str] = {}
    for meaning, aliases in known.items():
        mine = [name for name in names if str(name).strip().lower() in aliases]
        if len(mine) > 1:
            raise UserError(f"columns {' and '.join(mine)} both stand for the {meaning}. Rename or drop one")
        found |= {meaning: mine[0]} if mine else {}
    return found


def read(path: Path, fields: Fields) -> Iterator[Record]:
    """Every record of a table, one a row. Raises UserError that names the line."""
    frame = _frame(path)
    columns = columns_of(list(frame.columns))
    if fields.text:
        columns["text"] = _column(path, frame, fields.text)
    if fields.group:
        columns["group"] = _column(path, frame, fields.group)
    if not _suffices(columns):
        known = "; ".join(f"{meaning}: {', '.join(names)}" for meaning, names in ALIASES.items())
        raise UserError(f"{path} needs a column item (or text) and a column score (or pick). Known names: {known}")
    chosen = frame[list(columns.values())].set_axis(list(columns), axis=1)
    for line, row in enumerate(chosen.to_dict("records"), start=2):
        yield _record(path, line, row, fields)


def _frame(path: Path) -> Any:
    import pandas as pd

    with _whole(path):
        if path.suffix != ".csv":
            return pd.read_parquet(path)
        check_even(path)
        return pd.read_csv(path, dtype=object)


def check_even(path: Path) -> None:
    """Raises UserError where a line of a csv has not as many values as its header: pandas would fill it up."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        width = len(next(lines, []))
        for line in lines:
            if line and len(line) != width:
                raise UserError(f"{path}, line {lines.line_num}: {len(line)} values, and the header has {width}. "
                                f"Was the file cut short? Copy it again")  # fmt: skip


def _column(path: Path, frame: Any, name: str) -> str:
    if name not in frame.columns:
        raise UserError(f"{path} has no column {name}. It has: {', '.join(map(str, frame.columns))}")
    return name


def _record(path: Path, line: int, row: Mapping[str, Any], fields: Fields) -> Record:
    known = {key: value for key, value in row.items() if not _missing(value)}
    target, said = _natural(path, line, "target", known.get("target")), str(known.get("pick", "")).strip()
    pick = _natural(path, line, "pick", said) if said.replace(".", "", 1).isdigit() else None
    n_options = _natural(path, line, "n_options", known.get("n_options")) or 0
    shots = _natural(path, line, "shots", known.get("shots"))
    if "score" in row:
        score = _score(path, line, known.get("score"))
    else:
        score = NAN if target is None else float(pick == target)
    item, text = str(known.get("item", "")), str(known.get("text", ""))
    text = f"sha256:{text}" if HASH.fullmatch(text) else text
    if not item and not text:
        raise UserError(f"{path}, line {line}: it has no item. Give it an id, or drop the row")
    return Record(
        model=fields.model or str(known.get("model", path.stem)), task=str(known.get("task", path.stem)),
        item=item or text_key(text)[-16:], metric=str(known.get("metric", "score")), score=score, text=text,
        options=tuple("" for _ in range(n_options)), target=target, pick=pick, picked_known="pick" in row,
        pick_text="" if pick is not None else said,
        prompt=str(known.get("prompt", "")), shots=shots, repeat=str(known.get("repeat", "")),
        group=str(known.get("group", "")),
    )  # fmt: skip


def _missing(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _score(path: Path, line: int, value: Any) -> float:
    """A score as a number. A missing one is an error: an unparsed answer is 0, and an item not asked has no row."""
    try:
        number = WORDS.get(str(value).strip().lower())
        number = float(value) if number is None else number
        if number == number and abs(number) != float("inf"):
            return number
    except (TypeError, ValueError):
        pass
    raise UserError(f"{path}, line {line}: {value!r} is no score. Write a number (an answer that names nothing is 0)")


def _natural(path: Path, line: int, name: str, value: Any) -> int | None:
    """A whole number, 0 or more, or None where it is missing."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or number % 1:
        raise UserError(f"{path}, line {line}: the {name} {value!r} is no whole number of 0 or more")
    return int(number)
