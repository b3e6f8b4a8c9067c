"""Per-example logs of other programs, put under the controls of this project: python -m src.external FOLDER.

FOLDER (or a file) holds samples of lm-evaluation-harness (--log_samples), logs of inspect (*.eval), runs of HELM,
samples of Every Eval Ever, or a csv or parquet. Their items are matched to those of the prepared tasks by text; what
is not matched is counted and left out. A task that is none of ours keeps its own items. What is imported lies in
data/external, without text, and enters no published number, own cell or claim.

Without FOLDER: the statistics of everything that was imported. docs/external.md has more.

Exit code: 0 done, 1 could not be done, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.base import grid
from src.base.cli import command, stage
from src.base.errors import UserError, suggest
from src.base.files import ROOT, whole
from src.base.frames import as_declared, load_schemas, read_frame, write_csv
from src.foreign import formats
from src.foreign.imported import MATCHED, Imported, Index, imported, index_of
from src.foreign.record import Fields
from src.question import examples

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path("data/external")
DTYPES = {"str": "string", "int": "Int64", "float": "float64", "bool": "boolean"}
"""What a column is stored as, by what it is declared as."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def known_tasks(folder: Path) -> Index:
    """The index of the prepared tasks; of none where nothing is prepared."""
    paths = sorted(folder.glob("*.jsonl"))
    return index_of({path.stem: examples.parsed(path.read_bytes(), path) for path in paths})


def names_of(words: Sequence[str]) -> dict[str, str]:
    """THEIRS=OURS of --task. Raises UserError where a word is none."""
    pairs = [word.rpartition("=") for word in words]
    if bad := [word for word, (left, equals, _) in zip(words, pairs, strict=True) if not (left and equals)]:
        raise UserError(f"--task {bad[0]}: write the task's name in the logs, =, and ours, e.g. --task mine=social")
    return {left: right for left, _, right in pairs}


def bring_in(path: Path, given: argparse.Namespace, root: Path) -> tuple[Path, Imported]:
    """Import a path: data/external/<name>.parquet, whole or not at all. Raises UserError where it cannot be."""
    import pandas as pd

    out = place_of(path, given, root / FOLDER, root)
    name = out.stem
    logs = formats.read(path, Fields(given.text, given.group, given.model))
    made = imported(logs.records, names_of(given.task), known_tasks(root / examples.TASKS), name)
    left_out = {task: sum(n for word, n in counts.items() if word != MATCHED) for task, counts in made.counts.items()}
    frame = pd.DataFrame(
        [{**row, "format": logs.format, "left_out": left_out.get(row["task"], 0)} for row in made.rows]
    )
    if frame.empty:
        tasks = ", ".join(made.ours.values())
        raise UserError(f"{path}: no item of {tasks} is in it, by its text. If a field holds the question, name it: "
                        f"--text FIELD; if it is none of ours: --task '{next(iter(made.ours))}='")  # fmt: skip
    frame = typed("external_scores", frame)
    check_new(frame, out, root)
    with whole(out) as part:
        frame.to_parquet(part, index=False)
    return out, made


def place_of(path: Path, given: argparse.Namespace, folder: Path, root: Path) -> Path:
    """The file of an import. Raises UserError where its name is none, or is taken and not to be replaced."""
    name = given.name or path.resolve().stem
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' is no name for a file. Name the import by letters, digits, . _ -: --name mine")
    out = folder / f"{name}.parquet"
    if out.exists() and not given.replace:
        raise UserError(
            f"{out.relative_to(root)} is there. Import it anew: --replace; or under another name: --name mine"
        )
    return out


def drop(name: str, folder: Path) -> None:
    """Remove an import. Raises UserError where there is none of the name."""
    names = [path.stem for path in sorted(folder.glob("*.parquet"))]
    if name not in names:
        raise suggest("import", name, names, f"{folder.relative_to(folder.parents[1])}/*.parquet")
    (folder / f"{name}.parquet").unlink()
    print(f"{name} is removed")


def typed(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """A frame as it is declared, whose columns have their type where they hold no value, too."""
    types = {field.name: DTYPES[field.dtype] for field in load_schemas(ROOT)[name].columns}
    return as_declared(name, frame.astype({key: each for key, each in types.items() if key in frame}))


def check_new(frame: pd.DataFrame, out: Path, root: Path) -> None:
    """Raises UserError where another import holds the same answers: they would count twice."""
    columns = ["model", "task", "prompt", "shots", "metric", "item", "repeat", "score"]
    for path in imports(root):
        if path != out and len(both := frame[columns].merge(read_frame(path.parent, path.name)[columns])) == len(frame):
            raise UserError(
                f"{path.relative_to(root)} holds all of these {len(both):,} answers. Remove one of the two imports"
            )


def imports(root: Path) -> list[Path]:
    """The files of everything that was imported."""
    return sorted((root / FOLDER).glob("*.parquet"))


def statistics(paths: Sequence[Path], alpha: float) -> dict[str, pd.DataFrame]:
    """The frames `external` and `external_pairs` of some imports."""
    import pandas as pd

    from src.statistics.external import external_cells, external_pairs
    from src.statistics.setting import SEED

    scores = pd.concat([as_declared("external_scores", read_frame(p.parent, p.name)) for p in paths], ignore_index=True)
    cells, pairs = external_cells(scores, alpha, SEED), external_pairs(scores, alpha, SEED)
    kept = cells.drop(columns=["guess", "m_tests", "duplicates", "one_pick"])
    return {"external": typed("external", kept), "external_pairs": typed("external_pairs", pairs)}


def shown_columns() -> dict[str, tuple[str, ...]]:
    """What is printed of the cells and the pairs; the files have all columns."""
    return {
        "external": ("name", "model", "task", "our_task", "shots", "metric", "n", "left_out", "accuracy", "ci_low",
                     "ci_high", "chance", "trivial", "p_holm", "p_content", "unparsed_share", "gates"),
        "external_pairs": ("side_a", "side_b", "metric", "task", "n", "mean_diff", "ci_low", "ci_high", "p", "p_holm",
                           "detectable"),
    }  # fmt: skip


def show(frames: Mapping[str, pd.DataFrame], chosen: Mapping[str, Sequence[str]]) -> None:
    """Print some columns of each frame that has rows."""
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from src.pages.comparison import columns_of
    from src.pages.tables import NUMERIC, shown

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    for name, frame in frames.items():
        if frame.empty:
            continue
        columns = [column for column in columns_of(name, frame) if column.name in chosen[name]]
        table = Table(box=None)
        for column in columns:
            table.add_column(column.header, justify="right" if column.format in NUMERIC else "left", overflow="fold")
        for line in shown(frame, columns).itertuples(index=False):
            table.add_row(*(Text(str(each)) for each in line))
        console.print(table)


def said_of(out: Path, made: Imported) -> list[str]:
    """What became of the items of each task, a sentence each."""
    said = [f"{out.relative_to(ROOT) if out.is_relative_to(ROOT) else out}: {len(made.rows):,} scores"]
    for task, counts in made.counts.items():
        others = ", ".join(f"{n:,} {word.replace('_', ' ')}" for word, n in sorted(counts.items()) if word != MATCHED)
        said.append(
            f"{task} is {made.ours[task]}: {counts.get(MATCHED, 0):,} items matched{f'; {others}' if others else ''}"
        )
    alone = sorted({row["task"] for row in made.rows} - set(made.ours))
    return [*said, *(f"{task} is none of ours: under its own name" for task in alone)]


def write(frames: dict[str, pd.DataFrame], csv: Path | None, html: Path | None) -> list[Path]:
    """The files that are asked for. Beside a csv of the cells lies one of the pairs."""
    written = []
    if csv:
        paths = {"external": csv, "external_pairs": csv.with_name(f"{csv.stem}.pairs{csv.suffix}")}
        for name, path in paths.items():
            write_csv(frames[name], path)
        written += list(paths.values())
    if html:
        from src.pages.comparison import page

        tables = [("Cells", "external", frames["external"]), ("Pairs", "external_pairs", frames["external_pairs"])]
        says = ["Logs of other programs. Metrics and prompts are theirs. No claim rests on these numbers."]
        with whole(html) as part:
            part.write_text(page("External results", says, tables), encoding="utf-8")
        written.append(html)
    return written


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command(
        "external", __doc__, "out/model_a --name a", "logs/one.eval --task mine=theirs --csv external.csv", "--drop a",
    )  # fmt: skip
    arguments.add_argument("path", nargs="?", type=Path, metavar="FOLDER", help="a folder or file of logs")
    arguments.add_argument("--name", help="name of the import (that of FOLDER)")
    arguments.add_argument("--replace", action="store_true", help="import it anew where the name is taken")
    arguments.add_argument("--drop", metavar="NAME", help="remove an import")
    arguments.add_argument(
        "--task", action="append", default=[], metavar="THEIRS=OURS", help="a task that is called otherwise"
    )
    arguments.add_argument("--model", help="the model's name, in place of the one in the logs")
    arguments.add_argument("--text", metavar="FIELD", help="the field of an item that holds its question")
    arguments.add_argument("--group", metavar="FIELD", help="the field that items of one cluster share")
    arguments.add_argument("--csv", type=Path, metavar="FILE", help="write the cells, and beside it the pairs")
    arguments.add_argument("--html", type=Path, metavar="FILE", help="write both as one page")
    return arguments


def execute(given: argparse.Namespace, root: Path = ROOT) -> None:
    """Import, remove or show. Raises UserError."""
    if given.drop:
        drop(given.drop, root / FOLDER)
        return
    if given.path:
        print(*said_of(*bring_in(given.path, given, root)), sep="\n")
    paths = imports(root)
    if not paths:
        raise UserError("nothing was imported yet. Name a folder of logs: python -m src.external FOLDER")
    frames = statistics(paths, float(grid.params(root / "params.yaml")["alpha"]))
    show(frames, shown_columns())
    for path in write(frames, given.csv, given.html):
        print(path)


def main() -> None:
    """`python -m src.external [FOLDER]`. A user's mistake is one line on stderr and exit code 1."""
    given = parser().parse_args()
    with stage("external"):
        execute(given)


if __name__ == "__main__":
    main()
