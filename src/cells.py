"""A finished cell: its answers, the file they are kept in, and what they score.

The file is JSON lines: a header that identifies the cell, then one line per example.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from src import fetch, scoring
from src.config import ROOT, Cell, Compat, Encoder, Run, UserError, digest, fingerprint, load, whole
from src.engine import Completion, Likelihood
from src.names import ACCURACIES, MEANS
from src.prompts import Prompt, example_id


@dataclass(frozen=True)
class Answers:
    """What a model answered to one prompt."""

    prompt: Prompt
    completions: Mapping[int, Completion]  # by seed
    likelihood: Likelihood | None


def header(
    run: Run, cell: Cell, engine: Mapping[str, Any], answers: Sequence[Answers], shots: int, data_sha256: str
) -> dict[str, Any]:
    """What identifies a finished cell: no time, no machine. `shots` is the number of exemplars in the prefix."""
    asked, said = digests(answers)
    return {
        "fingerprint": fingerprint(run, cell, engine, asked, data_sha256),
        "suite": run.suite,
        "model": run.model.name,
        "weights": run.model.weights,
        "task": cell.task.name,
        "condition": cell.condition.name,
        "prompt": cell.condition.prompt,
        "control": cell.condition.control,
        "lettered": cell.condition.lettered,
        "shots": shots,
        "compat": asdict(run.compat),
        "encoder": run.encoder,
        "prompts_sha256": asked,
        "completions_sha256": said,
        "data_sha256": data_sha256,
    }


def digests(answers: Sequence[Answers]) -> tuple[str, str]:
    """sha256 of what was asked and of what was said."""
    said = [[a.prompt.id, {s: c.text for s, c in a.completions.items()}] for a in answers]
    return digest([asdict(a.prompt) for a in answers]), digest(said)


def write(path: Path, head: Mapping[str, Any], answers: Sequence[Answers]) -> None:
    """Write a cell beside its final name and rename, so that a file that exists is whole."""
    prefix = answers[0].prompt.prefix
    lines = [{**head, "prefix": prefix}] + [{**asdict(a), "prompt": _without_prefix(a.prompt)} for a in answers]
    with whole(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _without_prefix(prompt: Prompt) -> dict[str, Any]:
    return {key: value for key, value in asdict(prompt).items() if key != "prefix"}


def read(path: Path) -> tuple[dict[str, Any], list[Answers]]:
    """(header, answers) of a cell's file. Raises UserError where it is not what was written."""
    again = f"Make it anew: dvc repro -f infer@{path.parent.name}"
    try:
        first, *rest = (json.loads(line) for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
        prefix = first.pop("prefix")
        answers = [_answers(row, prefix) for row in rest]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a whole cell ({error}). {again}") from error
    for what, found in zip(("prompts", "completions"), digests(answers), strict=True):
        if found != first[f"{what}_sha256"]:
            raise UserError(f"{path} was edited: its {what} differ from its header. {again}")
    return first, answers


def _answers(row: Mapping[str, Any], prefix: str) -> Answers:
    prompt = row["prompt"]
    found = Prompt(
        **{**prompt, "options": tuple(prompt["options"]), "continuations": tuple(prompt["continuations"])},
        prefix=prefix,
    )
    scored = row["likelihood"]
    likelihood = Likelihood(tuple(scored["logprob"]), tuple(scored["n_tokens"])) if scored else None
    return Answers(found, {int(s): Completion(**c) for s, c in row["completions"].items()}, likelihood)


def score(head: Mapping[str, Any], answers: Sequence[Answers], bert: scoring.BertScorer | None) -> list[scoring.Score]:
    """The cell's scores, one per example and seed, by the rules its header names."""
    return scoring.score_cell(
        [a.prompt for a in answers],
        {a.prompt.id: a.completions for a in answers},
        {a.prompt.id: a.likelihood for a in answers if a.likelihood},
        lettered=head["lettered"],
        compat=Compat(**head["compat"]),
        bert=bert,
    )


def summary(scores: Sequence[scoring.Score]) -> dict[str, float]:
    """Mean of each metric over examples, each the mean over its seeds and variants; absent where missing.

    Fractions 0-1; edit distance: characters.
    """
    found = {name: _by_example(scores, name) for name in (*ACCURACIES, *MEANS, "unparsed")}
    return {name: fmean(map(fmean, values)) for name, values in found.items() if values}


def _by_example(scores: Sequence[scoring.Score], name: str) -> list[list[float]]:
    values: dict[str, list[float]] = {}
    for score in scores:
        if (value := getattr(score, name)) is not None:
            values.setdefault(example_id(score.example_id)[0], []).append(value)
    return list(values.values())


def load_encoder(name: str) -> scoring.BertScorer:
    """The encoder conf/bertscore names. Raises UserError where its weights cannot be had."""
    encoder = load("bertscore", name, Encoder)
    folder, _ = fetch.weights(encoder, ROOT)
    return scoring.BertScorer(folder, encoder.num_layers)
