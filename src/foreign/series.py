"""Scale series that others measured: every point of a file or folder, checked, or nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from src.base.errors import UserError, suggest
from src.base.schema import Task
from src.foreign import bigbench_scores, series_table
from src.foreign.point import Point, Said

N_COLUMNS = ("family", "model", "task", "shots", "metric", "n")
"""The columns that a file of numbers of examples may have; task and n are needed."""


@dataclass(frozen=True)
class Format:
    """How files of one format are found and read."""

    words: str
    suffix: str
    find: Callable[[Path], list[Path]]
    read: Callable[[Path, Said], Iterator[Point]]


FORMATS: Mapping[str, Format] = {
    "bigbench": Format("score files of BIG-bench (scores_*.json)", ".json", bigbench_scores.find, bigbench_scores.read),
    "table": Format("a csv of scores (*.csv)", ".csv", series_table.find, series_table.read),
}


@dataclass(frozen=True)
class Series:
    """All points of one place, one for each family, model, task, shots and metric."""

    format: str  # a key of FORMATS
    files: tuple[Path, ...]
    points: tuple[Point, ...]


def read(path: Path, said: Said) -> Series:
    """Everything that a file or folder holds. Raises UserError where one number of it cannot be."""
    name, files = found(path)
    seen: dict[tuple[object, ...], tuple[Point, Path]] = {}
    for file in files:
        for point in FORMATS[name].read(file, said):
            seen[point.key] = (_once(point, file, *seen.get(point.key, (point, file))), file)
    points = [point for point, _ in seen.values()]
    if not points:
        raise UserError(f"{path} holds no share of right answers. If a metric is one, name it: --accuracy METRIC")
    if unknown := set(said.accuracies) - {point.metric for point in points}:
        raise suggest("metric", min(unknown), sorted({point.metric for point in points}), str(path))
    _one_size(points)
    return Series(name, tuple(files), tuple(shares(points, said.percent)))


def found(path: Path) -> tuple[str, list[Path]]:
    """(format, files) of a path. Raises UserError where it is of no format, or a folder holds two."""
    known = "; ".join(each.words for each in FORMATS.values())
    if not path.exists():
        raise UserError(f"{path} does not exist. Name a file or folder of scores: {known}")
    if path.is_file():
        of = {name: [path] for name, each in FORMATS.items() if path.suffix == each.suffix}
    else:
        of = {name: files for name, each in FORMATS.items() if (files := each.find(path))}
    if not of:
        raise UserError(f"{path} holds no scores of a series. Known: {known}")
    if len(of) > 1:
        held = " and ".join(f"{FORMATS[name].words}: {files[0].name}" for name, files in of.items())
        raise UserError(f"{path} holds {held}. Name one file, or a folder of one format")
    return next(iter(of.items()))


def _once(point: Point, file: Path, before: Point, place: Path) -> Point:
    """The point, with what is known of it twice. Raises UserError where the two differ."""
    same = ("score", "size", "chance", "seeds", "tuned")
    for name in same:
        mine, theirs = getattr(point, name), getattr(before, name)
        if mine != theirs and not (mine != mine and theirs != theirs):
            raise UserError(f"{point.words} has two rows, with {name} {theirs} ({place}) and {mine} ({file}). Drop one")
    if None not in (point.n, before.n) and point.n != before.n:
        raise UserError(f"{point.words} has two rows, with n {before.n} ({place}) and {point.n} ({file}). Drop one")
    return replace(point, n=before.n if point.n is None else point.n)


def _one_size(points: Sequence[Point]) -> None:
    """Raises UserError where a model has two sizes."""
    sizes: dict[tuple[str, str], float] = {}
    for point in points:
        size = sizes.setdefault((point.family, point.model), point.size)
        if size != point.size and (size == size or point.size == point.size):
            raise UserError(f"{point.model} has two sizes, {size:.6g} and {point.size:.6g} ({point.axis}). Mend one")


def shares(points: Sequence[Point], percent: bool) -> Iterator[Point]:
    """The points, with scores that are accuracies as shares from 0 to 1. Raises UserError where one cannot be."""
    accuracies = [point for point in points if point.accuracy]
    if percent and accuracies and max(point.score for point in accuracies) <= 1:
        raise UserError("--percent, and no score is over 1: are they shares already? Leave --percent out")
    top = 100 if percent else 1
    for point in points:
        if not point.accuracy:
            yield point
            continue
        if not 0 <= point.score <= top:
            hint = "" if percent or point.score < 0 else ". If all scores are per cent: --percent"
            raise UserError(f"{point.words}: the score {point.score:g} is outside 0 to {top}{hint}")
        yield replace(point, score=point.score / top, half_unit=point.half_unit / top)


def with_n(points: Sequence[Point], path: Path) -> list[Point]:
    """The points, with the numbers of examples that a csv gives to those that have none.

    A row holds for every point that has its values; an empty value is any. Raises UserError where a row holds for none,
    two rows differ for one, or a row differs from what the point says itself.
    """
    given = list(_given(path))
    out = []
    used: set[int] = set()
    for point in points:
        mine = [(line, n) for line, values, n in given if _is_of(point, values)]
        used |= {line for line, _ in mine}
        ns = {n for _, n in mine} | ({point.n} if point.n is not None else set())
        if len(ns) > 1:
            raise UserError(f"{path}: {point.words} has several n: {', '.join(map(str, sorted(ns)))}. Keep one")
        out.append(replace(point, n=next(iter(ns), None)))
    if idle := [(line, values) for line, values, _ in given if line not in used]:
        line, values = idle[0]
        raise suggest(f"task of {path}, line {line}:", values["task"], sorted({p.task for p in points}), "the scores")
    return out


def _given(path: Path) -> Iterator[tuple[int, dict[str, str], int]]:
    """(line, values, n) of each row. Raises UserError where the file is no such table."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file, strict=True)
            names = lines.fieldnames or []
            if not {"task", "n"} <= set(names) or not set(names) <= set(N_COLUMNS):
                raise UserError(
                    f"{path} has columns {', '.join(names)}. Needed are task and n; known: {', '.join(N_COLUMNS)}"
                )
            for row in lines:
                n = row.pop("n") or ""
                if not n.isdecimal() or int(n) < 1 or None in row or None in row.values():
                    raise UserError(f"{path}, line {lines.line_num}: {n!r} is no number of examples")
                yield lines.line_num, row, int(n)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Name a csv with columns task and n") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no csv in UTF-8: {error}. Save it again") from None


def _is_of(point: Point, values: Mapping[str, str]) -> bool:
    shots = "" if point.shots is None else str(point.shots)
    mine = {"family": point.family, "model": point.model, "task": point.task, "shots": shots, "metric": point.metric}
    return all(not value or mine[name] == value for name, value in values.items())


def ours(names: Sequence[str], said: Mapping[str, str], tasks: Mapping[str, Task]) -> dict[str, str]:
    """By foreign task, the task of ours that is the same: by what the user says, else by its file in BIG-bench.

    Ours of a subtask's file is task:subtask (or task/subtask) there: the whole task is another. Raises UserError for a
    name of ours that is none, and for one of theirs that is not there.
    """
    for theirs, name in said.items():
        if theirs not in names:
            raise suggest("task", theirs, sorted(names), "the scores")
        if name and name not in tasks:
            raise suggest("task", name, sorted(tasks), "conf/task/*.yaml")
    places = {tuple(Path(task.file).parent.parts) or (name,): name for name, task in tasks.items()}
    known = {name: said.get(name, places.get(tuple(re.split("[:/]", name)), "")) for name in names}
    return {theirs: mine for theirs, mine in known.items() if mine}
