"""Hand grading (Table 4 of the paper): outputs to a sheet that any spreadsheet opens, and graded sheets back.

The sheet shows neither the automatic verdict nor the model. Sheets quote data sets: data/grading is kept out of git.
What `read` writes, data/reference/graded.csv, holds counts only, for the table table4_manual.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base import conf
from src.base.cli import command, stage
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.frames import printable, write_csv
from src.cell.file import Answers, Header, cell_files, condition_of, read_cell
from src.statistics.setting import SEED

if TYPE_CHECKING:
    import pandas as pd

OUTPUTS, SCORES = Path("data/outputs"), Path("data/scores.parquet")
GRADED = Path("data/reference/graded.csv")
SHEET = ("key", "task", "question", "options", "gold", "answer", "right")
COLUMNS = (
    "model", "weights", "condition", "task", "metric", "n", "k_metric", "k_manual", "chance", "difference",
    "difference_low", "difference_high", "disagreements", "graders", "kappa", "fingerprint",
)  # fmt: skip
YES, NO = ("1", "yes", "y", "true"), ("0", "no", "n", "false")


def draw(outputs: Path, condition: str, model: str | None, n: int) -> list[dict[str, str]]:
    """Rows of SHEET: `n` outputs of each task, all of the first seed. The order is fixed by a hash.

    Raises UserError where there are none.
    """
    rows = []
    for path in cell_files(outputs, model or "*", condition):
        head, answers = read_cell(path)
        chosen = sorted(answers, key=lambda a: hashlib.sha256(f"grade:{a.prompt.id}".encode()).digest())[:n]
        rows += [_sheet_row(head, answer) for answer in chosen]
    if not rows:
        known = sorted({condition_of(path) for path in cell_files(outputs)})
        raise UserError(f"{outputs} holds no cell of condition '{condition}'. It has: {', '.join(known) or 'none'}")
    return sorted(rows, key=lambda row: hashlib.sha256(f"shown:{row['key']}".encode()).digest())


def _sheet_row(head: Header, answer: Answers) -> dict[str, str]:
    seed = min(answer.completions)
    texts = {
        "task": head.task, "question": answer.prompt.text, "options": " | ".join(answer.prompt.options),
        "gold": answer.prompt.answer, "answer": printable(answer.completions[seed].text),
    }  # fmt: skip
    key = f"{head.fingerprint}:{answer.prompt.id}:{seed}"
    return {"key": key, **texts, "right": ""}


def grades(path: Path) -> dict[str, bool]:
    """Whether the grader calls an output right, by key. Blank rows are left out. A UserError names the line."""
    if not path.exists():
        raise UserError(f"{path} is missing. Draw a sheet first: python -m src.annotate draw {path}")
    csv.field_size_limit(sys.maxsize)  # an answer may be long
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    absent = {"key", "right"} - set(rows[0] if rows else ())
    if absent:
        raise UserError(f"{path} has no column {', '.join(sorted(absent))}. Keep the sheet's header as it was drawn.")
    grade_of: dict[str, bool] = {}
    for line, row in enumerate(rows, start=2):
        grade = (row["right"] or "").strip().lower()
        if grade and grade not in (*YES, *NO):
            raise UserError(f"{path}, line {line}, column 'right': {row['right']!r} is neither 1 nor 0 (nor blank)")
        if grade:
            grade_of[row["key"]] = grade in YES
    return grade_of


def summarise(sheets: Sequence[dict[str, bool]], scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of COLUMNS, one a task. They compare the grades of outputs that every sheet grades with the primary metric.

    scores: scores.parquet. The interval of the difference resamples examples, in groups where they share a context.
    Raises UserError where a graded output is in no cell of `scores`, or no output is graded by all.
    """
    import pandas as pd

    both = sorted(set.intersection(*(set(each) for each in sheets)))
    if not both:
        raise UserError("No output is graded in every sheet. Fill the column 'right' with 1 or 0.")
    keys = scores["fingerprint"] + ":" + scores["example_id"] + ":" + scores["seed"].astype(str)
    at = scores.assign(key=keys).drop_duplicates("key").set_index("key")
    lost = [key for key in both if key not in at.index]
    if lost:
        raise UserError(f"{len(lost)} graded outputs, {lost[0]} first, are in no cell of {SCORES}: of another run.")
    grade = pd.DataFrame({i: [each[key] for key in both] for i, each in enumerate(sheets)}, index=both).astype(float)
    cell = [at.loc[both, name] for name in ("fingerprint", "task")]
    return [_summary(part, at.loc[part.index]) for _, part in grade.groupby(cell, sort=True)]


def _summary(grade: pd.DataFrame, rows: pd.DataFrame) -> dict[str, Any]:
    import numpy as np
    import pandas as pd

    from src.statistics.overlap import square_of
    from src.statistics.own import group_bootstrap
    from src.statistics.tests import kappa

    first = rows.iloc[0]
    metric = conf.load_task(str(first["task"])).primary(str(first["prompt"]))
    manual, automatic = grade.mean(axis=1), rows[metric].astype(float)
    low, high = group_bootstrap(automatic - manual, rows["group"], SEED)
    two = [grade[i].astype("boolean") for i in list(grade)[:2]]
    options = rows["n_options"].astype(float)
    return {
        **{name: first[name] for name in ("model", "weights", "condition", "task", "fingerprint")},
        "metric": metric, "n": len(rows), "k_metric": round(automatic.sum()), "k_manual": round(manual.sum()),
        "chance": (1 / options).mean() if options.gt(0).all() else np.nan,
        "difference": (automatic - manual).mean(), "difference_low": low, "difference_high": high,
        "disagreements": int((automatic != manual).sum()) if grade.shape[1] == 1 else pd.NA,
        "graders": grade.shape[1],
        "kappa": kappa(square_of(*two)) if len(two) == 2 else pd.NA,
    }  # fmt: skip


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command(
        "annotate",
        __doc__,
        "draw data/grading/one.csv --condition closed_zero",
        "read data/grading/one.csv data/grading/other.csv",
    )
    ways = parser.add_subparsers(dest="way", required=True)
    one = ways.add_parser("draw", help="outputs -> a sheet to grade")
    one.add_argument("sheet", type=Path)
    one.add_argument("--condition", default="closed_zero")
    one.add_argument("--model", help="folder of data/outputs; all of them unless told")
    one.add_argument("--n", type=int, default=50, help="outputs a task (50)")
    other = ways.add_parser("read", help="graded sheets -> data/reference/graded.csv")
    other.add_argument("sheets", type=Path, nargs="+")
    return parser.parse_args(argv)


def main() -> None:
    """`python -m src.annotate draw|read`. A user's mistake is one line on stderr and exit code 1."""
    given = parse()
    import pandas as pd

    with stage("annotate"):
        if given.way == "draw":
            if given.sheet.exists():
                raise UserError(f"{given.sheet} exists and may hold grades. Name another file.")
            rows = draw(ROOT / OUTPUTS, given.condition, given.model, given.n)
            write_csv(pd.DataFrame(rows, columns=list(SHEET)), given.sheet)
            print(f"{given.sheet}: {len(rows)} outputs. Put 1 (right) or 0 (wrong) under 'right', then: annotate read")
            return
        if not (ROOT / SCORES).exists():
            raise UserError(f"{SCORES} is missing. Make it: dvc repro collect")
        summary = summarise([grades(path) for path in given.sheets], pd.read_parquet(ROOT / SCORES))
        write_csv(pd.DataFrame(summary, columns=list(COLUMNS)), ROOT / GRADED)
        print(f"{GRADED}: {sum(row['n'] for row in summary)} graded outputs of {len(summary)} tasks. Next: dvc repro")


if __name__ == "__main__":
    main()
