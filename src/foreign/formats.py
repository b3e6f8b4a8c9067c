"""The formats that are known, and the one way into all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import UserError
from src.foreign import every_eval_ever, helm, inspect_log, lm_eval, plain_table
from src.foreign.record import Fields, Record


@dataclass(frozen=True)
class Format:
    """How files of one format are found and read."""

    words: str  # what a reader calls it
    find: Callable[[Path], list[Path]]  # its files in a folder
    is_one: Callable[[Path], bool]  # whether a file is of it
    read: Callable[[Path, Fields], Iterator[Record]]


FORMATS: Mapping[str, Format] = {
    "lm_eval": Format("samples of lm-evaluation-harness (samples_*.jsonl)", lm_eval.find, lm_eval.is_one, lm_eval.read),
    "inspect": Format("logs of inspect (*.eval)", inspect_log.find, inspect_log.is_one, inspect_log.read),
    "helm": Format(
        "runs of HELM (per_instance_stats.json with scenario_state.json)", helm.find, helm.is_one, helm.read
    ),
    "every_eval_ever": Format(
        "samples of Every Eval Ever (*.jsonl)", every_eval_ever.find, every_eval_ever.is_one, every_eval_ever.read
    ),
    "table": Format(
        "tables with an item and a score (*.csv, *.parquet)", plain_table.find, plain_table.is_one, plain_table.read
    ),
}
"""To add a format, write a file with these three functions and name it here."""

WORDS = "; ".join(each.words for each in FORMATS.values())


@dataclass(frozen=True)
class Logs:
    """All records of one place."""

    format: str  # a key of FORMATS
    files: tuple[Path, ...]
    records: tuple[Record, ...]


def read(path: Path, fields: Fields = Fields()) -> Logs:  # noqa: B008 - it is frozen
    """Everything that a file or folder holds, or nothing. Raises UserError where one file of it is not right."""
    name, files = found(path)
    by_file = {file: tuple(FORMATS[name].read(file, fields)) for file in files}
    check_once(by_file)
    if empty := [file for file, records in by_file.items() if not records]:
        raise UserError(f"{empty[0]} holds no score that is a number. Name another file, or mend it")
    return Logs(name, tuple(files), tuple(record for records in by_file.values() for record in records))


def found(path: Path) -> tuple[str, list[Path]]:
    """(format, files) of a path. Raises UserError where it is of no format, or a folder holds two."""
    if not path.exists():
        raise UserError(f"{path} does not exist. Name a file or folder of results: {WORDS}")
    if path.is_file():
        of = {name: [path] for name, each in FORMATS.items() if each.is_one(path)}
    else:
        of = {name: files for name, each in FORMATS.items() if (files := each.find(path))}
    if not of:
        known = ", ".join(sorted(each.name for each in path.iterdir())[:5]) if path.is_dir() else ""
        raise UserError(f"{path} holds no results of examples{f' (it has {known})' if known else ''}. Known: {WORDS}")
    if len(of) > 1:
        held = "; ".join(f"{FORMATS[name].words}: {files[0].name}" for name, files in of.items())
        raise UserError(f"{path} holds results of {len(of)} formats ({held}). Name one file, or a folder of one format")
    return next(iter(of.items()))


def check_once(by_file: Mapping[Path, tuple[Record, ...]]) -> None:
    """Raises UserError where an item is judged twice by one metric, within a file or by two files."""
    seen: dict[tuple[object, ...], Path] = {}
    for file, records in by_file.items():
        for r in records:
            key = (r.model, r.task, r.setting, r.metric, r.item, r.repeat)
            if key in seen:
                what = f"item {r.item} of {r.task} ({r.model}, {r.metric})"
                if seen[key] == file:
                    raise UserError(f"{file} holds {what} twice. Drop one, or give each its epoch or seed")
                raise UserError(f"{what} is in two files: {seen[key]} and {file}. Name one of them")
            seen[key] = file
