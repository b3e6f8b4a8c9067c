"""A scale series as a csv: a row a model, task, shots and metric. ALIASES lists the columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from src.base.errors import UserError
from src.foreign.plain_table import check_even, columns_of
from src.foreign.point import GRADED, NAN, Point, Said, half_unit, says_tuned

AXES: Mapping[str, tuple[str, ...]] = {
    "parameters": ("parameters", "params"),
    "non_embedding_parameters": ("non_embedding_parameters", "non_embedding_params"),
    "flops": ("flops", "training_flops"),
}
"""What a size can count, by the names that its column may have."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    "model": ("model", "model_name"),
    "task": ("task",),
    "metric": ("metric",),
    "score": ("score", "accuracy"),
}
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "family": ("family", "model_family"),
    "shots": ("shots", "num_fewshot"),
    "n": ("n", "examples"),
    "seeds": ("seeds",),
    "chance": ("chance",),
    "tuned": ("tuned",),
}
ALIASES = {**NEEDED, **AXES, **OPTIONAL}
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
SUFFIX = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
SIZED = re.compile(r"(\d+(?:\.\d+)?)\s*([kmbt])", re.IGNORECASE)
SMALLEST = 1000
"""No model has fewer parameters, so a smaller number is in millions or billions."""


def find(folder: Path) -> list[Path]:
    """The csv files right in a folder."""
    return sorted(folder.glob("*.csv"))


def unread(path: Path) -> list[str]:
    """The columns that nothing is read from."""
    names = _lines(path)[0]
    return [name for name in names if name not in columns_of(names, ALIASES).values()]


def read(path: Path, said: Said) -> Iterator[Point]:
    """Every row. Raises UserError that names the line and the column."""
    names, rows = _lines(path)
    columns = columns_of(names, ALIASES)
    axis = _axis(path, columns, said)
    _needs(path, names, columns, said)
    for line, values in rows:
        cell = Cells(path, line, {meaning: values[names.index(name)].strip() for meaning, name in columns.items()})
        family, model = said.family or cell.text("family"), cell.text("model")
        metric, chance = cell.text("metric"), cell.number("chance")
        if chance == chance and not 0 <= chance < 1:
            raise cell.wrong("chance", "lies outside 0 to 1")
        yield Point(
            family=family, model=model, size=cell.size(axis), axis=axis, tuned=cell.tuned(family, model),
            task=cell.text("task"), metric=metric, preferred=None, shots=cell.whole("shots", 0),
            score=cell.needed("score"), half_unit=half_unit(cell.values["score"]), n=cell.whole("n", 1),
            seeds=cell.whole("seeds", 1) or 1, chance=chance, chance_from="csv" if chance == chance else "",
            accuracy=metric in GRADED or metric in said.accuracies,
        )  # fmt: skip


def _lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """(header, (line, values) of each row). Raises UserError where the file is no csv, or cut short."""
    try:
        check_even(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            names = [name.strip() for name in next(lines, [])]
            rows = [(lines.line_num, values) for values in lines if values]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no csv in UTF-8: {error}. Save it again") from None
    if len(names) == 1 and ";" in names[0]:
        raise UserError(
            f"{path}: its columns are separated by semicolons. Save it with commas, and with decimal points"
        )
    if not rows:
        raise UserError(f"{path} has no row. Copy it again")
    return names, rows


def _axis(path: Path, columns: Mapping[str, str], said: Said) -> str:
    """The one column of sizes. Raises UserError where there is none, or several and no word which."""
    there = [axis for axis in AXES if axis in columns]
    if said.axis:
        if said.axis not in there:
            raise UserError(f"--axis {said.axis}: {path} has {', '.join(there) or 'no column of sizes'}")
        return said.axis
    if len(there) > 1:
        raise UserError(f"{path} has {len(there)} columns of sizes ({', '.join(there)}), and a series has one axis. "
                        f"Say which: --axis {there[0]}")  # fmt: skip
    if not there:
        raise UserError(f"{path} has no column of sizes. Name it one of: {', '.join(AXES)}")
    return there[0]


def _needs(path: Path, names: list[str], columns: Mapping[str, str], said: Said) -> None:
    absent = [meaning for meaning in NEEDED if meaning not in columns]
    if absent:
        raise UserError(f"{path} has no column {', '.join(absent)}. It has: {', '.join(names)}. Needed are "
                        f"{', '.join(NEEDED)} and one of {', '.join(AXES)}")  # fmt: skip
    if "family" not in columns and not said.family:
        raise UserError(f"{path} has no column family, and the models of one family make a series. Add it; or, if all "
                        f"its models are one family: --family NAME")  # fmt: skip


class Cells:
    """The cells of one row, by what they mean."""

    def __init__(self, path: Path, line: int, values: Mapping[str, str]) -> None:
        self.path, self.line, self.values = path, line, values

    def wrong(self, name: str, why: str) -> UserError:
        """The error for a cell."""
        return UserError(f"{self.path}, line {self.line}: the {name} {self.values[name]!r} {why}")

    def text(self, name: str) -> str:
        """A text that may not be missing."""
        if not self.values[name]:
            raise UserError(f"{self.path}, line {self.line}: it has no {name}. Fill it in, or drop the row")
        return self.values[name]

    def number(self, name: str) -> float:
        """A finite number; NaN where it is missing."""
        text = self.values.get(name, "")
        if not text:
            return NAN
        if "%" in text:
            raise self.wrong(
                name, "has a per cent sign. Write a share, e.g. 0.585; or drop the signs and say --percent"
            )
        if "," in text:
            raise self.wrong(name, "has a comma. Write a decimal point and no thousands")
        try:
            value = float(text)
        except ValueError:
            raise self.wrong(name, "is no number") from None
        if value - value != 0:
            raise self.wrong(name, "is no finite number. Leave out what was not measured")
        return value

    def needed(self, name: str) -> float:
        """A finite number that may not be missing."""
        self.text(name)
        return self.number(name)

    def whole(self, name: str, least: int) -> int | None:
        """A whole number, or None where it is missing."""
        value = self.number(name)
        if value != value:
            return None
        if value % 1 or value < least:
            raise self.wrong(name, f"is no whole number of {least} or more")
        return int(value)

    def size(self, axis: str) -> float:
        """The size along an axis. A number of parameters may end in K, M, B or T."""
        text = self.text(axis)
        if axis != "flops" and (sized := SIZED.fullmatch(text)):
            value = float(sized[1]) * SUFFIX[sized[2].lower()]
        else:
            value = self.number(axis)
        if value < SMALLEST:
            hint = "" if value <= 0 or axis == "flops" else f". Is it {text}M or {text}B? Write it so"
            raise self.wrong(axis, f"is no size of a model{hint}")
        return value

    def tuned(self, family: str, model: str) -> bool:
        """Whether the model is instruction-tuned: what the column says, else what the names say."""
        word = self.values.get("tuned", "").lower()
        if word and word not in WORDS:
            raise self.wrong("tuned", "is neither true nor false")
        return WORDS[word] if word else says_tuned(family, model)
