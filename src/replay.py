"""The authors' released outputs, scored anew: `python -m src.replay FOLDER` -> the agreement with the published scores.

A file is one run: a JSON object of parallel lists `input` (the whole prompt), `target` (`"answer"` or `(letter)`),
`options` (a list, or one text with tabs between) and `prediction`. Which run it is comes from its path,

    <model>/<task>/<prompt>_<shots>shot_<seed>.json        (or --pattern, a regular expression with these groups)

or, for files named by date and time as in the release, from the table of runs that comes with it (--runs).
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base import conf
from src.base.cli import command
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.frames import write_csv
from src.base.schema import Compat, Model, Task
from src.cell.file import load_encoder, means_of
from src.engine.job import Completion
from src.question import prompts
from src.question.prompts import LETTERS, Prompt
from src.scoring.bertscore import BertScorer
from src.scoring.match import Rules
from src.scoring.score import score_cell

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = ROOT / "data/published/scores.csv"
OUT = Path("data/replay/replay_agreement.csv")
PATTERN = r"(?:.*/)?(?P<model>[^/]+)/(?P<task>[^/]+)/(?P<prompt>[a-z_-]+)_(?P<shots>\d+)shot(?:_(?P<seed>[^/]+))?\.json"
LISTS = ("input", "target", "options", "prediction")
JUDGEMENTS = "exact_match_correctness"  # "T" or "F" an item, in files that the authors scored
SPECIAL = re.compile(r"^(?:\s*(?:<s>|</s>|<?pad>|<?unk>|<?\|endoftext\|>))+")  # "<" may be lost as a letter (defect 2)
END = re.compile(r"</s>|<\|endoftext\|>")
ROUNDING = 1e-6  # the published means are printed to six digits
KEY = ("model", "task", "prompt", "shots")
METRICS = ("exact_match", "edit_distance", "bertscore_accuracy")
DECIDING = ("exact_match", "edit_distance")
"""The metrics that decide agreement: BERTScore depends on the encoder and the machine."""
COLUMNS = (
    *KEY, "seeds", "n", *(f"{metric}_{of}" for metric in METRICS for of in ("published", "rescored", "difference")),
    "items_differ", "status", "file",
)  # fmt: skip
RUN_COLUMNS = dict(zip(METRICS, ("exact_match_accuracy", "edit_distance", "bert_score_accuracy"), strict=True))
NOT_SCORED = -100.0  # what a table of runs holds for a missing score
Scores = dict[str, float]


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


@dataclass(frozen=True)
class Reference:
    """The published scores of one cell, means over its runs."""

    n: int
    runs: int
    scores: Scores


@dataclass(frozen=True)
class Replayed:
    """One file, scored anew."""

    place: Place
    n: int
    scores: Scores
    items_differ: int | None  # items whose exact match is judged otherwise in the file; None where it judges none


# Which run a file is


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern of paths. Raises UserError where it is no regular expression or names not what a run needs."""
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--pattern is no regular expression: {error}") from error
    absent = [name for name in KEY if name not in found.groupindex]
    if absent:
        raise UserError(f"--pattern has no group {', '.join(absent)}. Write them as (?P<{absent[0]}>...)")
    return found


def place_of(path: str, pattern: re.Pattern[str]) -> Place:
    """The run a path (relative, with /) names. Raises UserError where it does not match."""
    match = pattern.fullmatch(path)
    if match is None:
        raise UserError("the path does not match the pattern")
    found = match.groupdict()
    if not str(found["shots"]).isdigit():
        raise UserError(f"shots is {found['shots']!r}, not a number")
    return Place(
        found["model"], found["task"], found["prompt"].replace("-", "_"), int(found["shots"]), found.get("seed") or ""
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
    found: dict[str, str] = {}
    for model in (conf.load("model", name, Model) for name in conf.known("model")):
        known = (model.hub, model.hub and model.hub.split("/")[-1], model.api)
        found |= {name: model.name for name in known if name}
    return found


# What was published


def published(path: Path = PUBLISHED) -> dict[tuple[Any, ...], Reference]:
    """data/published/scores.csv by (model, task, prompt, shots)."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        (r["model"], r["task"], r["prompt"], int(r["shots"])): Reference(
            int(r["n_examples"]), int(r["n_runs"]), {m: float(r[m]) for m in METRICS if r[m]}
        )
        for r in rows
    }


def published_runs(runs: Mapping[str, Mapping[str, str]], places: Mapping[str, Place]) -> dict[Any, Reference]:
    """The scores in a table of runs as means by (model, task, prompt, shots). places: by run id."""
    by_cell: dict[Any, dict[str, Mapping[str, str]]] = {}
    for name, place in places.items():
        by_cell.setdefault(place.cell, {}).setdefault(place.seed, runs[name])
    return {cell: _reference(list(rows.values())) for cell, rows in by_cell.items()}


def _reference(rows: Sequence[Mapping[str, str]]) -> Reference:
    found = {metric: [float(row[column] or NOT_SCORED) for row in rows] for metric, column in RUN_COLUMNS.items()}
    scores = {metric: sum(v) / len(v) for metric, v in found.items() if NOT_SCORED not in v}
    return Reference(int(float(rows[0]["number_of_data"])), len(rows), scores)


# One file


def read_run(path: Path) -> dict[str, list[Any]]:
    """The lists of one file, of one length. Raises UserError where it is not such a file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"not JSON ({type(error).__name__})") from error
    absent = [name for name in LISTS if not isinstance(found, dict) or not isinstance(found.get(name), list)]
    if absent:
        raise UserError(f"no list {', '.join(absent)}")
    judged = [JUDGEMENTS] if isinstance(found.get(JUDGEMENTS), list) else []
    lengths = {name: len(found[name]) for name in (*LISTS, *judged)}
    if len(set(lengths.values())) > 1 or not found["input"]:
        raise UserError(f"lists of unequal length or without items: {lengths}")
    odd = [i for name in ("input", "target", "prediction") for i, x in enumerate(found[name]) if not isinstance(x, str)]
    if odd:
        raise UserError(f"item {odd[0]}: input, target and prediction are texts")
    return {name: found[name] for name in (*LISTS, *judged)}


def options_of(value: Any) -> tuple[str, ...]:
    """An item's options: a list of texts, or one text with tabs between. Raises UserError for all else."""
    found = value.split("\t") if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(option, str) for option in found):
        raise UserError("options are neither a list of texts nor one text with tabs between")
    return tuple(option for option in found if option)


def target_of(target: str, options: Sequence[str], lettered: bool) -> int:
    """Index of the option a target names by letter or by text. Raises UserError where it names none."""
    letter = re.fullmatch(r"\(([a-z])\)", target.strip())
    if lettered and letter and LETTERS.index(letter[1]) < len(options):
        return LETTERS.index(letter[1])
    said = _bare(target)
    found = next((i for i, option in enumerate(options) if _bare(option) == said), None)
    if found is None:
        raise UserError("its target is none of its options")
    return found


def _bare(text: str) -> str:
    return prompts.without_full_stop(
        prompts.without_full_stop(text.strip()).removeprefix('"').removesuffix('"')
    ).strip()


def said(prompt: str, prediction: str, compat: Compat) -> str:
    """What was written behind the prompt.

    As published (defect 8) the prompt is cut off wherever it occurs, and (defect 2) special tokens are left to be
    stripped as letters; fixed, the prompt goes where it stands in front, special tokens go whole, and the first
    end-of-sequence ends the text.
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


@functools.cache
def strips_options(task: str) -> bool:
    """Whether the task is one whose options lose their full stop too (conf/task)."""
    return task in conf.known("task") and conf.load("task", task, Task).strip_full_stop_from_options


def rescore(path: Path, place: Place, compat: Compat, bert: BertScorer | None = None) -> Replayed:
    """One file scored by our rules. Raises UserError where it cannot be."""
    run = read_run(path)
    lettered = place.prompt.startswith("closed_adv")
    asked = [prompt_of(i, run, lettered) for i in range(len(run["input"]))]
    texts = {p.id: said(p.text, run["prediction"][i], compat) for i, p in enumerate(asked)}
    scores = score_cell(
        asked,
        {name: {0: Completion(text, 0, "eos")} for name, text in texts.items()},
        {},
        Rules(lettered, compat, strips_options(place.task)),
        bert,
    )
    means = {name: value for name, value in means_of(scores).items() if name in METRICS}
    judged = run.get(JUDGEMENTS)
    differ = sum((j == "T") != bool(s.exact_match) for j, s in zip(judged, scores, strict=True)) if judged else None
    return Replayed(place, len(asked), means, differ)


# All files


def replay(
    located: Mapping[str, Place | str], score: Callable[[str, Place], Replayed], reference: Mapping[Any, Reference]
) -> list[dict[str, Any]]:
    """Rows (COLUMNS): one a cell, then one a file that could not be scored or repeats a run.

    located: by path, the run each file is, or why that is not known.
    """
    done: dict[Place, Replayed] = {}
    left: list[dict[str, Any]] = []
    for path, place in located.items():
        if isinstance(place, str):
            left.append(_left(path, f"bad file: {place}"))
        elif place in done:
            left.append(_left(path, "repeats a run", place))
        else:
            try:
                done[place] = score(path, place)
            except UserError as error:
                left.append(_left(path, f"bad file: {error}", place))
    by_cell: dict[Any, list[Replayed]] = {}
    for place, found in done.items():
        by_cell.setdefault(place.cell, []).append(found)
    return [agreement(by_cell[cell], reference.get(cell)) for cell in sorted(by_cell)] + left


def _left(path: str, status: str, place: Place | None = None) -> dict[str, Any]:
    known = {name: value for name, value in asdict(place).items() if name in KEY} if place else {}
    return {**dict.fromkeys(COLUMNS), **known, "status": status, "file": path}


def agreement(runs: Sequence[Replayed], reference: Reference | None) -> dict[str, Any]:
    """One cell beside its published scores: means over the runs."""
    scores = {
        metric: sum(run.scores[metric] for run in runs) / len(runs)
        for metric in METRICS
        if all(metric in run.scores for run in runs)
    }
    judged = [run.items_differ for run in runs if run.items_differ is not None]
    row = {**dict.fromkeys(COLUMNS), **dict(zip(KEY, runs[0].place.cell, strict=True))}
    row |= {"seeds": ";".join(sorted(run.place.seed for run in runs)), "n": runs[0].n}
    row |= {"items_differ": sum(judged) if judged else None, "status": status(runs, scores, reference)}
    for metric in METRICS:
        was, now = reference.scores.get(metric) if reference else None, scores.get(metric)
        row |= {f"{metric}_published": was, f"{metric}_rescored": now}
        row[f"{metric}_difference"] = None if was is None or now is None else now - was
    return row


def status(runs: Sequence[Replayed], scores: Scores, reference: Reference | None) -> str:
    """agrees | differs, by exact match and edit distance to the digits published; or why the two cannot be compared."""
    if reference is None:
        return "no published score"
    sizes = {run.n for run in runs}
    if sizes != {reference.n}:
        return f"n differs: {', '.join(map(str, sorted(sizes)))}, published {reference.n}"
    if len(runs) != reference.runs:
        return f"incomplete: {len(runs)} of {reference.runs} runs"
    off = [m for m in DECIDING if m in reference.scores and abs(scores[m] - reference.scores[m]) > ROUNDING]
    return "differs" if off else "agrees"


# The command


def locate(folder: Path, find: Callable[[str], Place]) -> Iterator[tuple[str, Place | str]]:
    """The path below `folder` of each *.json there, with its run, or why that is not known."""
    for path in sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.json")):
        try:
            yield path, find(path)
        except UserError as error:
            yield path, str(error)


def by_table(runs: Mapping[str, Mapping[str, str]]) -> tuple[Callable[[str], Place], dict[Any, Reference]]:
    """How a path, <...>-<run id>.json, finds its run in a table of runs; and the scores of that table.

    Raises UserError for a table with a text where a number belongs.
    """
    names = model_names()
    try:
        places = {name: place_of_run(row, names) for name, row in runs.items()}
        reference = published_runs(runs, places)
    except ValueError as error:
        raise UserError(f"the table of runs: {error}") from error

    def find(path: str) -> Place:
        name = Path(path).stem.rsplit("-", 1)[-1]
        if name not in places:
            raise UserError(f"the table of runs has no run {name}")
        return places[name]

    return find, reference


def rules(name: str, changes: Sequence[str]) -> Compat:
    """A compat of conf/compat with some switches set otherwise ("strip_letters=false"). Raises UserError."""
    found = conf.load("compat", name, Compat)
    for change in changes:
        key, _, value = change.partition("=")
        if key == "name" or key not in asdict(found) or value not in ("true", "false"):
            known = ", ".join(k for k in asdict(found) if k != "name")
            raise UserError(f"--switch {change}: write <name>=true or <name>=false. Known: {known}")
        found = conf.typed(Compat, asdict(found) | {key: value == "true"}, change)
    return found


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = command("replay", __doc__, "released/", "released/ --runs runs.csv")
    parser.add_argument("folder", type=Path, help="folder of output files")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--pattern", default=PATTERN, help="of the path below FOLDER, groups " + ", ".join((*KEY, "seed"))
    )
    where.add_argument("--runs", type=Path, help="CSV with a row a run (run_id, filename, model, ...) and its scores")
    parser.add_argument("--compat", default="published", help="scoring rules, conf/compat (published)")
    parser.add_argument("--switch", action="append", default=[], help="one rule otherwise, e.g. strip_letters=false")
    parser.add_argument("--encoder", help="conf/bertscore; without it no BERTScore")
    parser.add_argument("--out", type=Path, default=OUT, help=f"table to write ({OUT})")
    return parser.parse_args(arguments)


def replayed(given: argparse.Namespace) -> pd.DataFrame:
    """The table the command line asks for. Raises UserError where nothing can be scored at all."""
    import pandas as pd

    if not given.folder.is_dir():
        raise UserError(f"{given.folder} is no folder")
    if given.runs:
        find, reference = by_table(read_runs(given.runs))
    else:
        find, reference = functools.partial(place_of, pattern=compiled(given.pattern)), published()
    located = dict(locate(given.folder, find))
    if not located:
        raise UserError(f"{given.folder} holds no *.json")
    compat = rules(given.compat, given.switch)
    bert = load_encoder(given.encoder) if given.encoder else None
    rows = replay(located, lambda path, place: rescore(given.folder / path, place, compat, bert), reference)
    return pd.DataFrame(rows, columns=list(COLUMNS)).convert_dtypes()


def main() -> None:
    """Write the table, print how many cells agree and each file left out. Exit code 1 where a file is bad."""
    given = parsed(sys.argv[1:])
    try:
        frame = replayed(given)
    except UserError as error:
        sys.exit(f"error: {error}")
    write_csv(frame, given.out, digits=10)
    left = frame[frame["file"].notna()]
    counts = frame.loc[frame["file"].isna(), "status"].str.split(":").str[0].value_counts()
    print(f"{given.out}: {sum(counts)} cells", *(f"{n} {name}" for name, n in counts.items()), sep="\n  ")
    for row in left.itertuples():
        print(f"{row.file}: {row.status}", file=sys.stderr)
    sys.exit(int(left["status"].str.startswith("bad file").any()))


if __name__ == "__main__":
    main()
