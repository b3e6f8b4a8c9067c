"""Scale series that others measured, judged by the rule of the published scores: python -m src.series SCORES.

SCORES is a folder or file of BIG-bench's score files (scores_*.json), or a csv with a row a model, task, shots and
metric: model, family, parameters (or non_embedding_parameters, or flops), task, metric, score, and where known shots,
n, seeds, chance, tuned. Each family is a series: is the largest model's score what the smaller ones predict, is it
emergent? What cannot be judged is said with the reason, e.g. that n is not known.

It is stored in data/external/series, beside nothing of the paper's or of this project. Without SCORES: everything that
was imported. docs/external.md has more.

Exit code: 0 done, 1 could not be done, 2 wrong usage.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base import conf, grid
from src.base.cli import command, stage
from src.base.errors import UserError
from src.base.files import ROOT, whole
from src.base.frames import as_declared, read_frame, write_csv
from src.base.schema import Model, Task
from src.external import FOLDER, drop, names_of, place_of, show, typed
from src.foreign import series, series_table
from src.foreign.point import GRADED, Said
from src.question import examples

if TYPE_CHECKING:
    import pandas as pd

    from src.statistics.setting import Setting

PLACE = FOLDER / "series"
SAYS = (
    "Scores that others measured, by the rule of the published scores. Each family and number of shots is a series.",
    "No paper claims what stands here, and no claim rests on it. Tuned models are in no series.",
    "With exemplars a jump can be learning from them: RQ1 is about zero-shot.",
)


def bring_in(path: Path, given: argparse.Namespace, root: Path) -> tuple[Path, list[str]]:
    """Import a path: (data/external/series/<name>.parquet, whole or not at all; what became of it, a sentence each).

    Raises UserError where it cannot be imported.
    """
    import pandas as pd

    out = place_of(path, given, root / PLACE, root)
    found = series.read(path, Said(given.axis, given.family, given.percent, tuple(given.accuracy)))
    points = series.with_n(found.points, given.n) if given.n else list(found.points)
    ours = series.ours(sorted({point.task for point in points}), names_of(given.task), known()[0])
    frame = pd.DataFrame([
        {
            **asdict(point), "name": out.stem, "format": found.format, "our_task": ours.get(point.task),
            "graded": GRADED.get(point.metric), "counted": point.accuracy,
        }
        for point in points
    ]).drop(columns="accuracy")  # fmt: skip
    frame = typed("external_points", known_tuned(frame))
    with whole(out) as part:
        frame.to_parquet(part, index=False)
    return out, [*said_of(frame, out), *_unread(found)]


def known_tuned(frame: pd.DataFrame) -> pd.DataFrame:
    """The points, with what conf/model says of models of its own names."""
    models = known()[1]
    tuned = frame["model"].map(lambda model: models[model].tuned if model in models else None)
    return frame.assign(tuned=tuned.astype("boolean").fillna(frame["tuned"]))


def said_of(frame: pd.DataFrame, out: Path) -> list[str]:
    """What was imported, a sentence each."""
    said = [
        f"{out.name}: {len(frame):,} scores of {frame['model'].nunique():,} models on {frame['task'].nunique():,} tasks"
    ]
    tuned = sorted(frame.loc[frame["tuned"], "model"].unique())
    said += [f"instruction-tuned, in no series: {', '.join(tuned)}"] if tuned else []
    if unknown := int(frame["n"].isna().sum()):
        said.append(f"{unknown:,} scores have no n, and no verdict. Say it: --n FILE, a csv with columns task and n")
    mine = frame.dropna(subset=["our_task"]).drop_duplicates("task")
    return [*said, *(f"{row.task} is {row.our_task}" for row in mine.itertuples() if row.task != row.our_task)]


def _unread(found: series.Series) -> list[str]:
    if found.format != "table":
        return []
    names = {file.name: series_table.unread(file) for file in found.files}
    return [f"{file}: nothing is read from {', '.join(each)}" for file, each in names.items() if each]


def imports(root: Path) -> list[Path]:
    """The files of everything that was imported."""
    return sorted((root / PLACE).glob("*.parquet"))


@cache
def known() -> tuple[dict[str, Task], dict[str, Model]]:
    """conf/task and conf/model, by name."""
    return conf.members("task", Task), conf.members("model", Model)


def setting(root: Path) -> Setting:
    """conf/ and the prepared items, without the paper's tables."""
    from src import stats
    from src.statistics.setting import Setting

    items = {path.stem: stats.read_items(path) for path in sorted((root / examples.TASKS).glob("*.jsonl"))}
    alpha = float(grid.params(root / "params.yaml")["alpha"])
    return Setting(*known(), items, {}, alpha)


def judged(paths: Sequence[Path], root: Path) -> dict[str, pd.DataFrame]:
    """The frames `external_series` and `external_rq1` of some imports."""
    import pandas as pd

    from src.judgement.series import frames

    points = pd.concat([as_declared("external_points", read_frame(p.parent, p.name)) for p in paths], ignore_index=True)
    made = frames(points, setting(root))
    return {name: declared(name, frame) for name, frame in made.items()}


def declared(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The declared columns of a frame, and no others."""
    from src.base.frames import load_schemas

    return typed(name, frame[[field.name for field in load_schemas(ROOT)[name].columns]])


def shown_columns() -> dict[str, tuple[str, ...]]:
    """What is printed; the files have all columns."""
    return {
        "external_series": ("family", "shots", "task", "metric", "graded", "model", "n", "accuracy", "chance",
                            "chance_from", "forecast", "residual_low", "residual_high", "predictable", "emergent",
                            "word_predictable", "word_emergent"),
        "external_rq1": ("name", "family", "axis", "shots", "view", "tasks", "checked", "emergent_tasks", "word"),
    }  # fmt: skip


def printed(frames: dict[str, pd.DataFrame]) -> None:
    """Print what was judged, and below it why the rest was not, a line a task."""
    tasks = frames["external_series"]
    chosen = shown_columns()
    if tasks["name"].nunique() > 1:
        chosen["external_series"] = ("name", *chosen["external_series"])
    show({**frames, "external_series": tasks[tasks["predictable"].notna()]}, chosen)
    without = tasks.dropna(subset="reason").astype(object)
    print(*(f"{row.name}: {_about(row)}: {row.reason}" for row in without.itertuples()), *SAYS, sep="\n")


def _about(row: Any) -> str:
    """The family, shots, task and metric of a row, in words."""
    shots = [f"{row.shots}-shot"] if isinstance(row.shots, int) else []
    return ", ".join([row.family, *shots, f"{row.task} ({row.metric})"])


def write(frames: dict[str, pd.DataFrame], csv: Path | None, html: Path | None) -> list[Path]:
    """The files that are asked for. Beside a csv of the tasks lies one of the series."""
    written = []
    if csv:
        paths = {"external_series": csv, "external_rq1": csv.with_name(f"{csv.stem}.rq1{csv.suffix}")}
        for name, path in paths.items():
            write_csv(frames[name], path)
        written += list(paths.values())
    if html:
        from src.pages.comparison import page

        tables = [
            ("RQ1", "external_rq1", frames["external_rq1"]),
            ("Tasks", "external_series", frames["external_series"]),
        ]
        with whole(html) as part:
            part.write_text(page("External scale series", SAYS, tables), encoding="utf-8")
        written.append(html)
    return written


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command(
        "series", __doc__, "BIG-bench/bigbench/benchmark_tasks --n sizes.csv",
        "scores.csv --family pythia --csv judged.csv", "--drop scores",
    )  # fmt: skip
    arguments.add_argument("path", nargs="?", type=Path, metavar="SCORES", help="a folder or file of scores")
    arguments.add_argument("--name", help="name of the import (that of SCORES)")
    arguments.add_argument("--replace", action="store_true", help="import it anew where the name is taken")
    arguments.add_argument("--drop", metavar="NAME", help="remove an import")
    arguments.add_argument("--n", type=Path, metavar="FILE", help="a csv with columns task and n, and family or shots")
    arguments.add_argument("--axis", metavar="NAME", help="the field or column that holds the sizes")
    arguments.add_argument("--family", metavar="NAME", help="the family that all models are of")
    arguments.add_argument("--percent", action="store_true", help="all scores are per cent")
    arguments.add_argument(
        "--accuracy", action="append", default=[], metavar="METRIC", help="a metric that is a share of right answers"
    )
    arguments.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="THEIRS=OURS",
        help="a task that is one of ours, or THEIRS= for none",
    )
    arguments.add_argument("--csv", type=Path, metavar="FILE", help="write the tasks, and beside it the series")
    arguments.add_argument("--html", type=Path, metavar="FILE", help="write both as one page")
    return arguments


def execute(given: argparse.Namespace, root: Path = ROOT) -> None:
    """Import, remove or show. Raises UserError."""
    if given.drop:
        drop(given.drop, root / PLACE)
        return
    if given.path:
        print(*bring_in(given.path, given, root)[1], sep="\n")
    paths = imports(root)
    if not paths:
        raise UserError("no series was imported yet. Name a folder or file of scores: python -m src.series SCORES")
    frames = judged(paths, root)
    printed(frames)
    for path in write(frames, given.csv, given.html):
        print(path)


def main() -> None:
    """`python -m src.series [SCORES]`. A user's mistake is one line on stderr and exit code 1."""
    given = parser().parse_args()
    with stage("series"):
        execute(given)


if __name__ == "__main__":
    main()
