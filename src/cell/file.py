"""A finished cell: its header, its answers, its scores, and the one reader and writer of its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from src.base import conf
from src.base.errors import UserError
from src.base.files import ROOT, from_json_lines, json_lines, whole
from src.base.metrics import ACCURACIES, MEANS, PROBABILITIES
from src.base.schema import Cell, Compat, Encoder, Run
from src.base.values import digest
from src.engine.job import Completion, Likelihood, Proof
from src.question.prompts import Prompt, example_id
from src.scoring.bertscore import BertScorer
from src.scoring.chance import chance
from src.scoring.match import Rules
from src.scoring.score import Score, score_cell
from src.source import weights

LoadEncoder = Callable[[str], BertScorer]  # by its name in conf/bertscore


@dataclass(frozen=True)
class Answers:
    """What a model answered to one prompt."""

    prompt: Prompt
    completions: Mapping[int, Completion]  # by seed
    likelihood: Likelihood | None


@dataclass(frozen=True)
class Recorded:
    """What neither scores nor header of a cell say. The run that computed the cell writes it."""

    params: Mapping[str, str]  # the resolved configuration
    metrics: Mapping[str, float] = field(default_factory=dict)  # of speed: wall_s, tokens, tokens_per_s
    tags: Mapping[str, str] = field(default_factory=dict)  # of the engine, the machine, the checkout


@dataclass(frozen=True, kw_only=True)
class Header:
    """What identifies a finished cell. It names no time and no machine. The file has the fields in this order."""

    fingerprint: str
    suite: str
    model: str
    weights: str
    task: str
    condition: str
    prompt: str  # format: closed | closed_adv | open
    control: str | None = None  # None in a plain condition
    lettered: bool
    shots: int  # exemplars in the prefix
    compat: Compat
    encoder: str
    prompts_sha256: str
    completions_sha256: str
    data_sha256: str
    proof: Proof | None = None  # of the way it was computed; only in the cells kept for MLflow
    recorded: Recorded | None = None  # only in the cells kept for MLflow; not written where it is None

    @property
    def plain(self) -> bool:
        """Whether its condition is no control condition."""
        return self.control is None

    @property
    def rules(self) -> Rules:
        """How its answers are scored."""
        return Rules(self.lettered, self.compat)

    def chosen(self, names: Sequence[str]) -> dict[str, Any]:
        """The fields of these names, in their order."""
        return {name: getattr(self, name) for name in names}


def header(
    run: Run,
    cell: Cell,
    engine: Mapping[str, Any],
    answers: Sequence[Answers],
    shots: int,
    data_sha256: str,
    proof: Proof | None = None,
) -> Header:
    """The header of a cell that this run answered. `shots` is the number of exemplars in the prefix."""
    prompts_sha256, completions_sha256 = digests(answers)
    return Header(
        fingerprint=fingerprint(run, cell, engine, prompts_sha256, data_sha256),
        suite=run.suite,
        model=run.model.name,
        weights=run.model.weights,
        task=cell.task.name,
        condition=cell.condition.name,
        prompt=cell.condition.prompt,
        control=cell.condition.control,
        lettered=cell.condition.lettered,
        shots=shots,
        compat=run.compat,
        encoder=run.encoder,
        prompts_sha256=prompts_sha256,
        completions_sha256=completions_sha256,
        data_sha256=data_sha256,
        proof=proof,
    )


def digests(answers: Sequence[Answers]) -> tuple[str, str]:
    """sha256 of the prompts and of the completions."""
    texts = [[a.prompt.id, {s: c.text for s, c in a.completions.items()}] for a in answers]
    return digest([asdict(a.prompt) for a in answers]), digest(texts)


def path_of(folder: Path, task: str, condition: str) -> Path:
    """The file of a cell in the folder of its model."""
    return folder / f"{task}__{condition}.jsonl"


def kept_path(folder: Path, fingerprint: str) -> Path:
    """The file of a cell in a folder of any cells."""
    return folder / f"{fingerprint}.jsonl"


def files_in(folder: Path) -> list[Path]:
    """The cells' files right in a folder."""
    return sorted(folder.glob("*.jsonl"))


def cell_files(outputs: Path, model: str = "*", condition: str = "*") -> list[Path]:
    """The cells' files in the folders of `outputs`, one folder a model. `model` and `condition` narrow them."""
    name = "*.jsonl" if condition == "*" else path_of(Path(), "*", condition).name
    return sorted(outputs.glob(f"{model}/{name}"))


def condition_of(path: Path) -> str:
    """The condition that a cell's file is named by."""
    return path.stem.partition("__")[2]


def write_cell(path: Path, head: Header, answers: Sequence[Answers]) -> None:
    """Write a cell under another name and rename it, so that a file that exists is whole."""
    first = {**header_row(head), "prefix": answers[0].prompt.prefix}
    rows = ({"prompt": _without_prefix(a.prompt), **answers_row(a)} for a in answers)
    with whole(path) as part:
        part.write_bytes(json_lines((first, *rows)))


def read_cell(path: Path) -> tuple[Header, list[Answers]]:
    """(header, answers) of a cell's file. Raises UserError where it is not what was written."""
    with _refused(path):
        first, *rest = from_json_lines(path.read_bytes())
        prefix = first["prefix"]
        answers = [answers_of(_prompt(row["prompt"], prefix), row) for row in rest]
        head = header_of(first)
    for what, sha256 in zip(("prompts", "completions"), digests(answers), strict=True):
        if sha256 != getattr(head, f"{what}_sha256"):
            raise UserError(f"{path} was edited: its {what} differ from its header. {_remedy(path)}")
    return head, answers


def read_header(path: Path) -> Header:
    """The header alone, by the first line. Raises UserError where the file does not begin like a cell."""
    with _refused(path), path.open("rb") as file:
        return header_of(json.loads(file.readline().removesuffix(b"\n")))


def glance(path: Path) -> tuple[Header, frozenset[int], int]:
    """(header, seeds of the first answer, number of answers). The other answers are counted without being parsed.

    Raises UserError as `read_header` does.
    """
    with _refused(path), path.open("rb") as file:
        head, first = (
            header_of(json.loads(file.readline().removesuffix(b"\n"))),
            json.loads(file.readline().removesuffix(b"\n")),
        )
        return head, frozenset(map(int, first["completions"])), 1 + sum(1 for _ in file)


def is_cell(path: Path) -> bool:
    """Whether a file begins with a fingerprint, as cells do. A segment of the store and a prepared task do not."""
    with path.open("rb") as file:
        try:
            first = json.loads(file.readline().removesuffix(b"\n"))
        except ValueError:
            return False
    return isinstance(first, dict) and "fingerprint" in first


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turns what a damaged file raises while it is read into a UserError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a whole cell ({error}). {_remedy(path)}") from error


def _remedy(path: Path) -> str:
    return f"Make it anew: dvc repro -f infer@{path.parent.name}"


def header_row(head: Header) -> dict[str, Any]:
    """The header as the file has it, less the prefix of its prompts."""
    row = asdict(head)
    return {key: value for key, value in row.items() if value is not None or key not in ("proof", "recorded")}


def header_of(row: Mapping[str, Any]) -> Header:
    """The header that a file's first line holds. Raises ValueError, KeyError or TypeError where it is none."""
    known = {each.name for each in fields(Header)}
    if unknown := [key for key in row if key not in {*known, "prefix"}]:
        raise ValueError(f"its header has the unknown key '{unknown[0]}'")
    given = {key: row[key] for key in known if key in row}
    proof, recorded = row.get("proof"), row.get("recorded")
    built = {"proof": Proof(**proof) if proof else None, "recorded": Recorded(**recorded) if recorded else None}
    return Header(**{**given, "compat": Compat(**row["compat"]), **built})


def answers_row(answers: Answers) -> dict[str, Any]:
    """What was answered, as a file has it, without the prompt."""
    likelihood = answers.likelihood and asdict(answers.likelihood)
    return {"completions": {s: asdict(c) for s, c in answers.completions.items()}, "likelihood": likelihood}


def answers_of(prompt: Prompt, row: Mapping[str, Any]) -> Answers:
    """A prompt with what a file's row says was answered to it."""
    likelihood = likelihood_of(row["likelihood"]) if row["likelihood"] else None
    return Answers(prompt, {int(s): Completion(**c) for s, c in row["completions"].items()}, likelihood)


def likelihood_of(row: Mapping[str, Any]) -> Likelihood:
    """Log-likelihoods as files and stores have them."""
    return Likelihood(tuple(row["logprob"]), tuple(row["n_tokens"]))


def _without_prefix(prompt: Prompt) -> dict[str, Any]:
    return {key: value for key, value in asdict(prompt).items() if key != "prefix"}


def _prompt(row: Mapping[str, Any], prefix: str) -> Prompt:
    lists = {name: tuple(row[name]) for name in ("options", "continuations")}
    return Prompt(**{**row, **lists}, prefix=prefix)


@dataclass(frozen=True)
class Summary:
    """What a finished cell comes to."""

    means: Mapping[str, float]  # of `means`
    n: int  # examples
    accuracy: float | None  # of the task's primary metric, a fraction
    chance: float | None  # exact; None where an example has no options

    @property
    def above_chance(self) -> float | None:
        """Accuracy minus chance; None where either is missing."""
        return None if self.accuracy is None or self.chance is None else self.accuracy - self.chance

    @property
    def unparsed(self) -> float | None:
        """The share 0-1 of completions that pick nothing."""
        return self.means.get("unparsed")


@dataclass(frozen=True)
class Scored:
    """A finished cell with its scores."""

    header: Header
    answers: Sequence[Answers]
    scores: Sequence[Score]  # one per example and seed
    summary: Summary


def scored(head: Header, answers: Sequence[Answers], encoder: LoadEncoder | None, primary: str) -> Scored:
    """A cell, scored and summarised. primary: the metric of the task's accuracy."""
    scores = score(head, answers, encoder)
    return Scored(head, answers, scores, summary(answers, scores, primary))


def score(head: Header, answers: Sequence[Answers], encoder: LoadEncoder | None) -> list[Score]:
    """The cell's scores, one per example and seed, by the rules its header names.

    encoder: loads the header's encoder. Lettered answers have no BERTScore and need none. None: no BERTScore.
    Where one log-likelihood is unknown, no example is scored by likelihood: an accuracy of the others is another one.
    """
    return score_cell(
        [a.prompt for a in answers],
        {a.prompt.id: a.completions for a in answers},
        {a.prompt.id: a.likelihood for a in answers if a.likelihood} if likelihoods_known(answers) else {},
        head.rules,
        bert=None if encoder is None or head.lettered else encoder(head.encoder),
    )


def likelihoods_known(answers: Sequence[Answers]) -> bool:
    """Whether every prompt that has options has their log-likelihoods."""
    return all(a.likelihood for a in answers if a.prompt.continuations)


def summary(answers: Sequence[Answers], scores: Sequence[Score], primary: str) -> Summary:
    """What these scores come to. primary: the metric of the task's accuracy."""
    by_metric, prompts = means_of(scores), [a.prompt for a in answers]
    n = len({example_id(prompt.id)[0] for prompt in prompts})
    return Summary(by_metric, n, by_metric.get(primary), chance(prompts))


def means_of(scores: Sequence[Score]) -> dict[str, float]:
    """Mean of each metric over examples, each the mean over its seeds and variants; absent where missing.

    Fractions 0-1; edit distance: characters; log-likelihoods: nats; Brier: 0-2.
    """
    values = {name: _by_example(scores, name) for name in (*ACCURACIES, *MEANS, *PROBABILITIES, "unparsed")}
    return {name: fmean(map(fmean, each)) for name, each in values.items() if each}


def _by_example(scores: Sequence[Score], name: str) -> list[list[float]]:
    values: dict[str, list[float]] = {}
    for each in scores:
        if (value := getattr(each, name)) is not None:
            values.setdefault(example_id(each.example_id)[0], []).append(value)
    return list(values.values())


def load_encoder(name: str) -> BertScorer:
    """The encoder conf/bertscore names. Raises UserError where its weights cannot be had."""
    encoder = conf.load("bertscore", name, Encoder)
    folder, _ = weights.located(encoder, ROOT)
    return BertScorer(folder, encoder.num_layers)


def fingerprint(run: Run, cell: Cell, engine: Mapping[str, Any], prompts_sha256: str, data_sha256: str) -> str:
    """12 hex digits over all that decides a cell's scores: model, prompts, data, decoding, seeds, scoring rules."""
    parts = {
        "cell": cell.name,  # two conditions can ask the same prompts
        "engine": dict(engine),
        "prompts": prompts_sha256,
        "data": data_sha256,
        "generation": asdict(run.generation),
        "compat": {k: v for k, v in asdict(run.compat).items() if k != "name"},
        "seeds": run.seeds if run.generation.temperature else (),
        "encoder": run.encoder,
    }
    return digest(parts)[:12]
