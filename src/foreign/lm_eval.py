"""Samples of lm-evaluation-harness (`--log_samples`): samples_<task>_<time>.jsonl, beside them results_<time>.json."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.base.errors import UserError
from src.base.values import digest
from src.foreign.files import as_documented, document, number, rows_of
from src.foreign.record import HASHED, Fields, Record

KNOWN = "the samples of lm-evaluation-harness 0.4 (--log_samples)"
NAME = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")
QUESTIONS = ("input", "question", "query", "problem", "inputs")
"""Fields of an item that hold the whole question where they are there. Another one is named by the user."""
CHOICES = ("choices", "options")
"""Fields of an item that hold its options where they are there, as a list or as {text: a list}."""
NO_FILTER = "none"
LENGTHS: Mapping[str, Callable[[str], int]] = {
    "acc": lambda text: 1,
    "acc_norm": len,
    "acc_bytes": lambda text: len(text.encode()),
}
"""By metric: what the log-likelihood of an option is divided by before the largest is picked."""


def find(folder: Path) -> list[Path]:
    """The files of samples in a folder and in those below it."""
    return sorted(path for path in folder.rglob("samples_*.jsonl"))


def is_one(path: Path) -> bool:
    """Whether a file is named as the harness names samples."""
    return path.name.startswith("samples_") and path.suffix == ".jsonl"


def read(path: Path, fields: Fields) -> Iterator[Record]:
    """Every record of one file of samples: one an item, metric and filter."""
    task, time = _named(path)
    results = path.parent / f"results_{time}.json"
    run = document(results) if results.exists() else {}
    rows = rows_of(path)
    _check_whole(path, task, rows, run)
    with as_documented(path, KNOWN):
        shared = {"model": _model(path, run, fields), "task": task, **_setting(task, run)}
        records = [record for row in rows for record in _records(path, row, fields, shared)]
    _check_metrics(path, records)
    yield from records


def _named(path: Path) -> tuple[str, str]:
    """(task, time of the run) that the name of a file says."""
    match = NAME.fullmatch(path.name)
    return (match["task"], match["time"]) if match else (path.stem.removeprefix("samples_"), "")


def _check_whole(path: Path, task: str, rows: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> None:
    """Raises UserError where the file has fewer items than its run counted, or is of another layout."""
    if lacking := [key for key in ("doc_id", "doc", "filtered_resps") if key not in rows[0]]:
        raise UserError(f"{path}: its samples have no {lacking[0]}. This reader knows {KNOWN}")
    asked = (run.get("n-samples") or {}).get(task, {}).get("effective")
    there = len({row.get("doc_id") for row in rows})
    if asked is not None and there != asked:
        raise UserError(f"{path} holds {there} items, and its run answered {asked}: it is cut short. Copy it again")


def _model(path: Path, run: Mapping[str, Any], fields: Fields) -> str:
    """The model's name: what the user says, the run, the folder. Of a path on some machine its last part stays."""
    name = str(run.get("model_name") or path.parent.name)
    return fields.model or (Path(name).name if name.startswith(("/", "~", ".")) else name)


def _setting(task: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """prompt and shots. A prompt has no name in the harness: the template's hash stands for it."""
    config = (run.get("configs") or {}).get(task)
    shots = (run.get("n-shot") or {}).get(task)
    parts = ("doc_to_text", "doc_to_choice", "description", "target_delimiter", "fewshot_delimiter")
    told = [str((config or {}).get(part)) for part in parts] + [str(run.get("chat_template_sha"))]
    return {"prompt": f"template {digest(told)[:8]}" if config else "", "shots": None if shots is None else int(shots)}


def _check_metrics(path: Path, records: Sequence[Record]) -> None:
    """Raises UserError where a metric judges some items and not others: their mean would be of these alone."""
    counts = Counter(record.metric for record in records)
    most = max(counts.values(), default=0)
    if short := [name for name, n in counts.items() if n < most]:
        raise UserError(
            f"{path}: {short[0]} judges {counts[short[0]]} items, and another metric {most}. Evaluate it again"
        )


def _records(path: Path, row: Mapping[str, Any], fields: Fields, shared: Mapping[str, Any]) -> Iterator[Record]:
    """The records of one line, a metric each. A metric whose value is no number (that of a corpus) has none.

    Raises UserError where a value is infinite or not a number in the sense of floats.
    """
    doc = row["doc"] if isinstance(row["doc"], dict) else {"input": str(row["doc"])}
    kind = str(row.get("filter", NO_FILTER))
    names = row.get("metrics") or [name for name in row if name.startswith(("acc", "exact_match"))]
    said, sums = _continuations(row)
    options = _options(doc, said)
    target = _index(row.get("target"), said or options)
    for name in names:
        score = number(row.get(name))
        if score is None and isinstance(row.get(name), float):
            raise UserError(
                f"{path}: item {row['doc_id']} has {row[name]} by {name}, which is no score. Evaluate it again"
            )
        if score is None:
            continue
        pick = _pick(name, said, sums) if said else _written(row, options)
        explained = pick is not None and target is not None and float(pick == target) == score
        yield Record(
            **shared, item=str(row["doc_id"]), name=str(doc.get("id", "")), score=score,
            metric=name if kind == NO_FILTER else f"{name},{kind}",
            text=_text(doc, fields), content=str(row.get("doc_hash") or digest(doc)), options=options, target=target,
            pick=pick if explained else None, picked_known=explained, group=_group(doc, fields),
        )  # fmt: skip


def _text(doc: Mapping[str, Any], fields: Fields) -> str:
    """The question of an item."""
    names = (fields.text,) if fields.text else QUESTIONS
    return next((doc[name] for name in names if isinstance(doc.get(name), str)), "")


def _group(doc: Mapping[str, Any], fields: Fields) -> str:
    """The cluster of an item. Raises KeyError where it lacks the field that the user names."""
    return str(doc[fields.group]) if fields.group else ""


def _options(doc: Mapping[str, Any], said: Sequence[str]) -> tuple[str, ...]:
    """The options of an item: those of the doc where each continuation is one's letter or holds its text, in order.

    Where the model wrote its answer there is no continuation to ask. Hashes hold no text: their order is believed.
    """
    for name in CHOICES:
        given = doc.get(name)
        texts = given.get("text") if isinstance(given, dict) else given
        if (
            isinstance(texts, list)
            and len(texts) == (len(said) or len(texts))
            and all(isinstance(t, str) for t in texts)
        ):
            if not said or all(HASHED.fullmatch(each) for each in (*texts, *said)):
                return tuple(texts)
            whole = zip(said, texts, string.ascii_uppercase, strict=False)
            if all(text and (text in words or words.strip("(). ").upper() == letter) for words, text, letter in whole):
                return tuple(texts)
    return tuple(said)


def _written(row: Mapping[str, Any], options: Sequence[str]) -> int | None:
    """The option that the filtered answer is, word for word; None where it is none."""
    answer = row["filtered_resps"][0] if len(row["filtered_resps"]) == 1 else None
    return options.index(answer) if isinstance(answer, str) and answer in options else None


def _continuations(row: Mapping[str, Any]) -> tuple[tuple[str, ...], list[float]]:
    """The continuations that were scored and their log-likelihoods; none where the model wrote its answer."""
    asked = row.get("arguments")
    if not isinstance(asked, dict) or len(asked) < 2:
        return (), []
    shown = [asked[f"gen_args_{i}"] for i in range(len(asked))]
    if len({each["arg_0"] for each in shown}) > 1 or not all(isinstance(each.get("arg_1"), str) for each in shown):
        return (), []
    return tuple(each["arg_1"].strip() for each in shown), [float(each[0]) for each in row["filtered_resps"]]


def _index(target: Any, options: Sequence[str]) -> int | None:
    """The index of the gold option: the harness writes it as a number, or as the option's text."""
    if not options:
        return None
    if isinstance(target, str) and target in options:
        return options.index(target)
    at = int(target) if str(target).lstrip("-").isdigit() else -1
    return at if 0 <= at < len(options) else None


def _pick(metric: str, options: Sequence[str], sums: Sequence[float]) -> int | None:
    """The likeliest option as the metric finds it; the first of equals, as the harness takes it."""
    if metric not in LENGTHS or len(sums) != len(options) or not options:
        return None
    scaled = [each / max(LENGTHS[metric](option), 1) for each, option in zip(sums, options, strict=True)]
    return scaled.index(max(scaled))
