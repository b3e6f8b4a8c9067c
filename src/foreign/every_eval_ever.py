"""Samples of Every Eval Ever: JSON lines by instance_level_eval.schema.json, versions 0.2 and 0.3."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.base.errors import UserError
from src.base.values import digest
from src.foreign.files import as_documented, first_row, number, rows_of
from src.foreign.record import Fields, Record

KNOWN = "the samples of Every Eval Ever, schema 0.2 and 0.3"
VERSION = re.compile(r"(instance_level_eval_)?0\.[23](\.\d+)*")
MARKS = {"schema_version", "evaluation_id", "sample_id", "evaluation"}


def find(folder: Path) -> list[Path]:
    """The files of such samples in a folder and in those below it."""
    return sorted(path for path in folder.rglob("*.jsonl") if is_one(path))


def is_one(path: Path) -> bool:
    """Whether the first line of a file is such a sample."""
    return path.suffix == ".jsonl" and set(first_row(path)) >= MARKS


def read(path: Path, fields: Fields) -> Iterator[Record]:
    """Every record of one file, one a line. Raises UserError for another version, or a sample that failed."""
    for line, row in enumerate(rows_of(path), start=1):
        if not VERSION.fullmatch(str(row.get("schema_version"))):
            raise UserError(f"{path}, line {line}: schema {row.get('schema_version')}. This reader knows {KNOWN}")
        if row.get("error"):
            raise UserError(f"{path}, line {line}: the sample ended in an error, so its score says nothing. Drop it")
        with as_documented(path, KNOWN):
            yield _record(path, line, row, fields)


def _record(path: Path, line: int, row: Mapping[str, Any], fields: Fields) -> Record:
    given, judged = row["input"], row["evaluation"]
    score = number(judged["score"])
    if score is None:
        raise UserError(f"{path}, line {line}: {judged['score']!r} is no score. Drop the line, or mend it")
    options, gold = tuple(given.get("choices") or ()), given["reference"]
    target = _index(gold if isinstance(gold, list) else [gold], options)
    said = [each["extracted_value"] for each in row["answer_attribution"] if each.get("is_terminal")]
    pick = _index(said, options)
    known = target is not None and bool(said) and float(pick == target) == score
    metadata = row.get("metadata") or {}
    if fields.text and fields.text not in metadata:
        raise UserError(f"{path}, line {line}: its metadata has no {fields.text}")
    content = digest([given["raw"], gold, list(options)])  # a sample_hash is not made of the options
    return Record(
        model=fields.model or str(row["model_id"]), task=str(row["evaluation_name"]), item=str(row["sample_id"]),
        metric=str(row.get("evaluation_result_id") or "score"), score=score, content=content,
        text=str(metadata[fields.text] if fields.text else given["raw"]), options=options, target=target,
        pick=pick if known else None, picked_known=known, repeat=repeat_of(metadata),
        group=str(metadata[fields.group]) if fields.group else "",
    )  # fmt: skip


def repeat_of(metadata: Mapping[str, Any]) -> str:
    """The seed or epoch, where an item was asked several times: the schema has no field for it."""
    return next((str(metadata[name]) for name in ("seed", "epoch") if metadata.get(name)), "")


def _index(words: Sequence[Any], options: Sequence[str]) -> int | None:
    """The index of the one option that is said; None where there is no one."""
    found = {options.index(word) for word in words if word in options}
    return found.pop() if len(found) == 1 else None
