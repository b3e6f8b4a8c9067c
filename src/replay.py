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
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base import conf
from src.base.cli import command, stage
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.frames import write_csv
from src.base.schema import Compat, Task
from src.cell.authors import (
    JUDGEMENTS,
    KEY,
    METRICS,
    NOT_SCORED,
    PATTERN,
    RUN_COLUMNS,
    Place,
    compiled,
    completion_of,
    model_names,
    place_of,
    place_of_run,
    prompt_of,
    read_run,
    read_runs,
)
from src.cell.file import load_encoder, means_of
from src.engine.job import Completion
from src.scoring.bertscore import BertScorer
from src.scoring.match import Rules
from src.scoring.score import score_cell

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = ROOT / "data/published/scores.csv"
OUT = Path("data/replay/replay_agreement.csv")
ROUNDING = 1e-6  # the published means are printed to six digits
DECIDING = ("exact_match", "edit_distance")
"""The metrics that decide agreement: BERTScore depends on the encoder and the machine."""
COLUMNS = (
    *KEY, "seeds", "n", *(f"{metric}_{of}" for metric in METRICS for of in ("published", "rescored", "difference")),
    "items_differ", "status", "file",
)  # fmt: skip
Scores = dict[str, float]


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
    values = {metric: [float(row[column] or NOT_SCORED) for row in rows] for metric, column in RUN_COLUMNS.items()}
    scores = {metric: sum(v) / len(v) for metric, v in values.items() if NOT_SCORED not in v}
    return Reference(int(float(rows[0]["number_of_data"])), len(rows), scores)


# One file


@functools.cache
def strips_options(task: str) -> bool:
    """Whether the task is one whose options lose their full stop too (conf/task)."""
    return task in conf.known("task") and conf.load("task", task, Task).strip_full_stop_from_options


def rescore(path: Path, place: Place, compat: Compat, bert: BertScorer | None = None) -> Replayed:
    """One file scored by our rules. Raises UserError where it cannot be."""
    run = read_run(path)
    lettered = place.prompt.startswith("closed_adv")
    asked = [prompt_of(i, run, lettered) for i in range(len(run["input"]))]
    texts = {p.id: completion_of(p.text, run["prediction"][i], compat) for i, p in enumerate(asked)}
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
    for place, run in done.items():
        by_cell.setdefault(place.cell, []).append(run)
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
    compat = conf.load("compat", name, Compat)
    for change in changes:
        key, _, value = change.partition("=")
        if key == "name" or key not in asdict(compat) or value not in ("true", "false"):
            known = ", ".join(k for k in asdict(compat) if k != "name")
            raise UserError(f"--switch {change}: write <name>=true or <name>=false. Known: {known}")
        compat = conf.typed(Compat, asdict(compat) | {key: value == "true"}, change)
    return compat


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
    with stage("replay"):
        frame = replayed(given)
        write_csv(frame, given.out, digits=10)
        left = frame[frame["file"].notna()]
        counts = frame.loc[frame["file"].isna(), "status"].str.split(":").str[0].value_counts()
        print(f"{given.out}: {sum(counts)} cells", *(f"{n} {name}" for name, n in counts.items()), sep="\n  ")
        for row in left.itertuples():
            print(f"{row.file}: {row.status}", file=sys.stderr)
    sys.exit(int(left["status"].str.startswith("bad file").any()))


if __name__ == "__main__":
    main()
