"""Render every conf/table, every conf/figure, metrics.json and the page from the frames of the stats stage.

`python -m src.report`. What comes out holds no clock time, run id, commit or machine fact: the same frames give the
same bytes. A table or a figure is one YAML; conf/frame says what a column means and how it is printed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from src.base import grid
from src.base.cli import command, stage, suite_line
from src.base.files import ROOT, alone, emptied, put_in_place, remove
from src.base.frames import column_list, differences, load_schemas, read_frame, write_csv
from src.base.metrics import OWN, PUBLISHED
from src.pages.findings import metrics, summaries
from src.pages.page import Made, draw, load_figures, page_of
from src.pages.tables import load_tables, rows_of, write_table

if TYPE_CHECKING:
    import pandas as pd

STAGING = ".partial"  # beside the outs, because a file is renamed on one disk only
STATISTICS = "docs/statistics.md"
MARKERS = ("<!-- columns: python -m src.report --columns -->", "<!-- end of columns -->")
OUTS = (
    "reports/tables",
    "reports/figures",
    "reports/plots",
    "reports/metrics.json",
    "reports/index.html",
    "data/tables",
)


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """A folder to write into; at the end, if nothing was raised, what it holds replaces the outs of the stage.

    Two reports at once are made one after the other. An out may be a link, and reports and data may lie on two disks.
    """
    with alone(root / "reports"), ExitStack() as leftovers:
        staging = emptied(root / "reports" / STAGING)
        leftovers.callback(shutil.rmtree, staging, ignore_errors=True)
        yield staging
        moves = [(staging / out, (root / out).resolve()) for out in OUTS]
        for made, target in moves:  # first onto the disk of the target, so that no rename can fail for want of room
            beside = target.with_name(f"{STAGING}.{target.name}")
            leftovers.callback(remove, beside)
            remove(beside)
            if made.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(made, beside)
        for _, target in moves:
            beside = target.with_name(f"{STAGING}.{target.name}")
            if beside.exists():
                put_in_place(beside, target)
            else:
                remove(target)


def build(root: Path) -> None:
    """Everything of OUTS under `root`, whole or not at all. Raises UserError where an input is missing or odd."""
    tables = [table for table in load_tables(root) if not (table.optional and not (root / table.frame).exists())]
    rows = {table.name: rows_of(root, table) for table in tables}
    cells = read_frame(root, "data/stats/cells.parquet")
    public = {table.name: table for table in tables if not table.quotes_data}
    numbers = summaries(root, cells)
    with staged(root) as folder:
        for table in tables:
            write_table(rows[table.name], table, folder / ("data/tables" if table.quotes_data else "reports/tables"))
        drawings = {figure.name: draw(root, figure, folder / "reports/figures") for figure in load_figures(root)}
        drawn = {name: drawing for name, drawing in drawings.items() if drawing}
        write_plots(root, cells, folder / "reports/plots")
        (folder / "reports/metrics.json").write_text(
            json.dumps(metrics(numbers), indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
        page = page_of(root, Made(public, rows, drawn, cells, numbers))
        (folder / "reports/index.html").write_text(page, encoding="utf-8")


def write_plots(root: Path, cells: pd.DataFrame, folder: Path) -> None:
    """What `dvc plots show` and `dvc plots diff` draw (dvc.yaml, plots): own accuracies, residuals of Table 2."""
    own = cells[(cells["source"] == OWN) & cells["primary"].astype(bool)]
    own = own.assign(cell=own["task"] + " " + own["condition"], above_chance=own["accuracy"] - own["chance"])
    table2 = read_frame(root, "data/stats/emergence.parquet").dropna(subset=["residual"])
    largest = table2[(table2["source"] == PUBLISHED) & (table2["prompt"] == "closed") & (table2["shots"] == 0)]
    frames = {
        "own_cells": own.sort_values("cell")[["cell", "accuracy", "above_chance"]],
        "residuals": largest.sort_values("task")[["task", "residual", "diff"]],
    }
    for name, frame in frames.items():
        write_csv(frame, folder / f"{name}.csv")


def write_columns(root: Path) -> None:
    """Put the list of conf/frame between the markers of docs/statistics.md; print where a frame here is otherwise."""
    path = root / STATISTICS
    path.write_text(with_columns(path.read_text(encoding="utf-8"), root), encoding="utf-8")
    for name, schema in load_schemas(root).items():
        for file in schema.files:
            for each in differences(schema, read_frame(root, file)) if (root / file).exists() else ():
                print(f"{name}: {each} ({file})")


def with_columns(text: str, root: Path) -> str:
    """A text with `column_list` between MARKERS."""
    before, _, rest = text.partition(MARKERS[0])
    return f"{before}{MARKERS[0]}\n{column_list(root)}{MARKERS[1]}{rest.partition(MARKERS[1])[2]}"


def main() -> None:
    """`python -m src.report`: the stage. A user's mistake is one line on stderr and exit code 1."""
    parser = command("report", __doc__, "", "&& xdg-open reports/index.html")
    parser.add_argument("--columns", action="store_true", help=f"only list the columns of conf/frame in {STATISTICS}")
    given = parser.parse_args()
    with stage("report"):
        if given.columns:
            write_columns(ROOT)
            return
        print(suite_line(grid.params()), flush=True)
        build(ROOT)
        if not (ROOT / "data/audit/audit.parquet").exists():
            why = ROOT / "data/audit/NO_VERDICTS.txt"
            missing = "data/audit is missing: the page has no verdicts. Make it: python -m src.audit"
            print(why.read_text(encoding="utf-8").strip() if why.exists() else missing)
        print("reports/index.html")


if __name__ == "__main__":
    main()
