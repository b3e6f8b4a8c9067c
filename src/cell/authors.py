"""A run of the authors as they released it: which run a file is, and the prompts and completions it holds."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.base import conf
from src.base.errors import UserError
from src.base.schema import Compat, Model
from src.question import prompts
from src.question.prompts import LETTERS, Prompt

PATTERN = r"(?:.*/)?(?P<model>[^/]+)/(?P<task>[^/]+)/(?P<prompt>[a-z_-]+)_(?P<shots>\d+)shot(?:_(?P<seed>[^/]+))?\.json"
LISTS = ("input", "target", "options", "prediction")
JUDGEMENTS = "exact_match_correctness"  # "T" or "F" an item, in files that the authors scored
SPECIAL = re.compile(r"^(?:\s*(?:<s>|</s>|<?pad>|<?unk>|<?\|endoftext\|>))+")  # "<" may be lost as a letter (defect 2)
END = re.compile(r"</s>|<\|endoftext\|>")
KEY = ("model", "task", "prompt", "shots")
METRICS = ("exact_match", "edit_distance", "bertscore_accuracy")
RUN_COLUMNS = dict(zip(METRICS, ("exact_match_accuracy", "edit_distance", "bert_score_accuracy"), strict=True))
NOT_SCORED = -100.0  # what a table of runs holds for a missing score


@dataclass(frozen=True)
class Place:
    """Which run a file is."""

    model: str
    task: str
    prompt: str
    shots: int
    seed: str  # "" where the run has none

    @property
    def cell(self) -> tuple[str, str, str, int]:
        """What the seeds of one cell share."""
        return self.model, self.task, self.prompt, self.shots


# Which run a file is


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern of paths. Raises UserError where it is no regular expression or names not what a run needs."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--pattern is no regular expression: {error}") from error
    absent = [name for name in KEY if name not in expression.groupindex]
    if absent:
        raise UserError(f"--pattern has no group {', '.join(absent)}. Write them as (?P<{absent[0]}>...)")
    return expression


def place_of(path: str, pattern: re.Pattern[str]) -> Place:
    """The run a path (relative, with /) names. Raises UserError where it does not match."""
    match = pattern.fullmatch(path)
    if match is None:
        raise UserError("the path does not match the pattern")
    groups = match.groupdict()
    if not str(groups["shots"]).isdigit():
        raise UserError(f"shots is {groups['shots']!r}, not a number")
    return Place(
        groups["model"],
        groups["task"],
        groups["prompt"].replace("-", "_"),
        int(groups["shots"]),
        groups.get("seed") or "",
    )


def read_runs(path: Path) -> dict[str, dict[str, str]]:
    """A table of runs by run id. Raises UserError where it cannot be read or lacks a column."""
    of_run = ("run_id", "filename", "model", "prompt_type", "number_of_shots", "number_of_data", "seed")
    needed = (*of_run, *RUN_COLUMNS.values())
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--runs {path} cannot be read: {error}") from error
    absent = [name for name in needed if not rows or name not in rows[0]]
    if absent:
        raise UserError(f"--runs {path} has no column {', '.join(absent)}")
    return {row["run_id"]: row for row in rows}


def place_of_run(row: Mapping[str, str], names: Mapping[str, str]) -> Place:
    """The run a row of the table of runs is. names: our name of a model, by hub id or name at an API."""
    model = names.get(row["model"]) or re.sub(r"\W+", "_", row["model"].lower()).strip("_")
    seed = row["seed"].removesuffix(".0")
    prompt = row["prompt_type"].replace("-", "_")
    return Place(model, row["filename"].split("/")[0], prompt, int(float(row["number_of_shots"])), seed)


def model_names() -> dict[str, str]:
    """Our name of each model of conf/model by what else it is called: hub id, with and without its owner; API name."""
    names: dict[str, str] = {}
    for model in (conf.load("model", name, Model) for name in conf.known("model")):
        known = (model.hub, model.hub and model.hub.split("/")[-1], model.api)
        names |= {name: model.name for name in known if name}
    return names


# One file


def read_run(path: Path) -> dict[str, list[Any]]:
    """The lists of one file, of one length. Raises UserError where it is not such a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"not JSON ({type(error).__name__})") from error
    absent = [name for name in LISTS if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if absent:
        raise UserError(f"no list {', '.join(absent)}")
    judged = [JUDGEMENTS] if isinstance(content.get(JUDGEMENTS), list) else []
    lengths = {name: len(content[name]) for name in (*LISTS, *judged)}
    if len(set(lengths.values())) > 1 or not content["input"]:
        raise UserError(f"lists of unequal length or without items: {lengths}")
    odd = [
        i for name in ("input", "target", "prediction") for i, x in enumerate(content[name]) if not isinstance(x, str)
    ]
    if odd:
        raise UserError(f"item {odd[0]}: input, target and prediction are texts")
    return {name: content[name] for name in (*LISTS, *judged)}


def options_of(value: Any) -> tuple[str, ...]:
    """An item's options: a list of texts, or one text with tabs between. Raises UserError for all else."""
    options = value.split("\t") if isinstance(value, str) else value
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise UserError("options are neither a list of texts nor one text with tabs between")
    return tuple(option for option in options if option)


def target_of(target: str, options: Sequence[str], lettered: bool) -> int:
    """Index of the option a target names by letter or by text. Raises UserError where it names none."""
    letter = re.fullmatch(r"\(([a-z])\)", target.strip())
    if lettered and letter and LETTERS.index(letter[1]) < len(options):
        return LETTERS.index(letter[1])
    wanted = _bare(target)
    named = next((i for i, option in enumerate(options) if _bare(option) == wanted), None)
    if named is None:
        raise UserError("its target is none of its options")
    return named


def _bare(text: str) -> str:
    return prompts.without_full_stop(
        prompts.without_full_stop(text.strip()).removeprefix('"').removesuffix('"')
    ).strip()


def completion_of(prompt: str, prediction: str, compat: Compat) -> str:
    """What the model wrote behind the prompt.

    As published, the prompt is cut off wherever it occurs (defect 8), and special tokens stay, to be stripped as
    letters later (defect 2). Fixed, the prompt is cut off only at the beginning, special tokens are removed whole,
    and the text ends at the first end-of-sequence.
    """
    whole = prediction if compat.strip_letters else SPECIAL.sub("", prediction)
    text = whole.replace(prompt, "") if compat.prompt_by_text and prompt else _behind(prompt, whole)
    return text if compat.strip_letters else END.split(SPECIAL.sub("", text))[0]


def _behind(prompt: str, text: str) -> str:
    before, _, after = text.partition(prompt or "\0")
    return text if before.strip() or before == text else after


def prompt_of(i: int, run: Mapping[str, Sequence[Any]], lettered: bool) -> Prompt:
    """Item i of a file as a Prompt. Raises UserError that names the item."""
    try:
        options = options_of(run["options"][i])
        if lettered and not options:
            raise UserError("a lettered answer needs options")
        target = target_of(run["target"][i], options, lettered) if options else None
    except UserError as error:
        raise UserError(f"item {i}: {error}") from None
    answer = options[target] if target is not None else _bare(run["target"][i])
    return Prompt(str(i), str(i), "", run["input"][i], options, (), target, prompts.without_full_stop(answer))
