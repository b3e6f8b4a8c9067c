"""The stage `python -m src.stats`: published cells and own scores -> data/stats/*.parquet, by docs/statistics.md.

Published and own rows go through the same functions; published rows are tested against the score a uniform guesser
gets under the published scorer, own rows against 1 / number of options.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from src.base import conf, grid, metrics
from src.base.cli import command, stage, suite_line
from src.base.errors import UserError
from src.base.files import ROOT, whole_folder
from src.base.frames import Schema, as_declared, differences, load_schemas, read_frame, read_yaml, write_csv
from src.base.schema import Model, Task
from src.question import examples
from src.statistics import controls, pooled, power, scale, steps
from src.statistics.difficulty import by_difficulty
from src.statistics.floor import floors, option_counts
from src.statistics.items import Items, items_of
from src.statistics.own import OWN_SCORES, own_rows
from src.statistics.published import gain_loss, published_rows, read_published
from src.statistics.rows import complete
from src.statistics.setting import Setting
from src.statistics.table2 import (
    chance_sensitivity,
    emergence,
    of_table2,
    table4_manual,
    with_and_without_scatter,
)
from src.statistics.transfer import transfer

PUBLISHED_SCORES = Path("data/published/scores.csv")
PUBLISHED_TABLES = Path("data/published/tables.yaml")
TASKS = Path("data/tasks")
OUT = Path("data/stats")
REFERENCE = Path("data/reference")
CONTROLS = ("controls", "option_shifts")
"""Frames of the committed run of suite controls, each a csv in REFERENCE and a frame in OUT."""


def build(
    published: pd.DataFrame, own: pd.DataFrame | None, setting: Setting, data_sha256: str
) -> dict[str, pd.DataFrame]:
    """Every output by file name. own: None where nothing was run yet."""
    rows = [published_rows(published, setting, data_sha256)]
    rows += [own_rows(own, setting)] if own is not None and len(own) else []
    cells = complete(pd.concat(rows, ignore_index=True), setting)
    rows2 = emergence(cells, setting)
    table2 = rows2[of_table2(rows2)]
    pairs = power.tables(cells, table2, setting.tables, setting.alpha, setting.seed)
    return {
        "cells": cells,
        "emergence": rows2[list(metrics.EMERGENCE_COLUMNS)],
        "scale": scale.scale(rows2),
        "forecasts": with_and_without_scatter(rows2, setting.alpha),
        "agreement": scale.agreement(table2, setting.alpha),
        "chance_sensitivity": chance_sensitivity(table2, setting.alpha),
        **pairs,
        **steps.tables(cells),
        **difficulty(own, setting),
        "transfer": transfer(cells, setting.tables["table1"], setting.tables["claims"]["figure2"], setting.seed),
        "pooled": pooled.pooled(cells, setting.tables["table1"], setting.seed),
    }


def difficulty(own: pd.DataFrame | None, setting: Setting) -> dict[str, pd.DataFrame]:
    """The frame difficulty; none where no suite has three sizes of one family."""
    found = by_difficulty(own, setting.models) if own is not None and len(own) else pd.DataFrame()
    return {"difficulty": found} if len(found) else {}


def control_tables(own: pd.DataFrame, setting: Setting) -> dict[str, pd.DataFrame]:
    """The frames of CONTROLS: own control conditions against their plain cells."""
    found = controls.controls(own, setting.tasks, setting.items, setting.seed)
    return dict(zip(CONTROLS, (found, controls.option_shifts(own)), strict=True))


def with_reference(own: pd.DataFrame | None, setting: Setting, folder: Path) -> dict[str, pd.DataFrame]:
    """The control tables of own scores, and below them the committed ones of suites that were not run here."""
    fresh = control_tables(own, setting) if own is not None and len(own) else {}
    out = {}
    for name in CONTROLS:
        kept = read_reference(folder / f"{name}.csv") if (folder / f"{name}.csv").exists() else None
        mine = fresh.get(name)
        suites = set() if mine is None else set(mine["suite"])
        parts = [mine, None if kept is None else kept[~kept["suite"].isin(suites)]]
        parts = [each for each in parts if each is not None and len(each)]
        if parts:
            out[name] = pd.concat(parts, ignore_index=True).convert_dtypes()
    return out


def read_reference(path: Path) -> pd.DataFrame:
    """A committed frame, data/reference/<frame>.csv, as conf/frame/<frame>.yaml declares it.

    Raises UserError that names the file, the line where it is known, and how to restore it.
    """
    restore = f"Restore it: git checkout {path}"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            width = len(next(lines, []))
            uneven = next((lines.line_num for line in lines if len(line) != width), None)
        table = pd.read_csv(path) if uneven is None else pd.DataFrame()
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {str(error).strip()}. {restore}") from None
    if uneven is not None:
        raise UserError(f"{path}, line {uneven}: not as many values as the header has. {restore}")
    schema = load_schemas(ROOT)[path.stem]
    for field in schema.columns:
        if field.dtype in ("int", "float") and field.name in table:
            values = table[field.name]
            (text,) = np.nonzero(values.notna() & pd.to_numeric(values, errors="coerce").isna())
            if len(text):
                line, value = int(text[0]) + 2, values.iloc[text[0]]
                raise UserError(f"{path}, line {line}, column '{field.name}': {value!r} is not a number. {restore}")
    odd = differences(schema, table)
    odd += [] if len(table) else ["it has no row"]
    if odd:
        raise UserError(f"{path} is damaged: {'; '.join(odd)}. {restore}")
    return table


def read_setting(root: Path) -> Setting:
    """conf/, the paper's tables and the prepared items."""
    items = {path.stem: read_items(path) for path in sorted((root / TASKS).glob("*.jsonl"))}
    tables = read_yaml(root / PUBLISHED_TABLES)
    alpha = float(grid.params(root / "params.yaml")["alpha"])
    return Setting(conf.members("task", Task), conf.members("model", Model), items, tables, alpha)


def read_scores(path: Path) -> pd.DataFrame:
    """The scores of some cells. Raises UserError where the file is missing or damaged."""
    if not path.exists():
        raise UserError(f"{path} is missing. Make it: python -m src.collect <folder of cells> {path}")
    return read_frame(path.parent, path.name)


def read_items(path: Path) -> Items:
    """The Items of a prepared task.

    `examples.load` would refuse a release, whose texts are hashes: the sha256 in summary.csv is that of the full file.
    """
    return items_of(examples.parsed(path.read_bytes(), path))


def write(tables: Mapping[str, pd.DataFrame], out: Path) -> None:
    """One parquet file a table, all of them or none."""
    with whole_folder(out) as part:
        for name, table in tables.items():
            table.to_parquet(part / f"{name}.parquet", index=False)


def run(root: Path) -> dict[str, pd.DataFrame]:
    """Read, compute, write data/stats. Raises UserError for input that cannot be right."""
    setting = read_setting(root)
    published = read_published(root / PUBLISHED_SCORES, setting.tasks)
    own = read_scores(root / OWN_SCORES) if (root / OWN_SCORES).exists() else None
    sha256 = hashlib.sha256((root / PUBLISHED_SCORES).read_bytes()).hexdigest()
    graded = root / REFERENCE / "graded.csv"
    tables = build(published, own, setting, sha256) | with_reference(own, setting, root / REFERENCE)
    by_hand = pd.read_csv(graded) if graded.exists() else None
    tables["gain_loss"] = gain_loss(published, setting.models)
    tables["table4_manual"] = table4_manual(setting.tables["table4"], by_hand, setting.tasks)
    tables = {name: as_declared(name, table) for name, table in tables.items()}
    write(tables, root / OUT)
    return tables


def reference(scores: Path, out: Path, root: Path) -> None:
    """Cell scores of a finished run as a csv that can be committed: no dataset text, no machine fact.

    Its columns are those of the frame that has the file's name (conf/frame/pair.yaml), else REFERENCE_COLUMNS.
    """
    schema, own = load_schemas(root).get(out.stem), read_scores(scores)
    declared = columns_of(schema) if schema else {}
    columns = declared if declared.keys() >= {*metrics.REFERENCE_COLUMNS} else metrics.REFERENCE_COLUMNS
    write_csv(cell_scores(own, read_setting(root), columns), out)


def cell_scores(own: pd.DataFrame, setting: Setting, columns: Iterable[str]) -> pd.DataFrame:
    """One row a cell and metric, with some columns of frame laptop or pair. own: scores.parquet."""
    cells, wanted = complete(own_rows(own, setting), setting), list(columns)
    cells["unparsed_share"] = cells["unparsed"] / cells["n"]
    if "floor" in wanted:
        cells = cells[cells["metric"].isin(metrics.ACCURACIES)]
        cells = cells.merge(floors(own), "left").merge(option_counts(own), "left")
    return cells[wanted]


def columns_of(schema: Schema) -> dict[str, None]:
    """The names of a frame's columns, in their order."""
    return dict.fromkeys(field.name for field in schema.columns)


def write_controls(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """The control tables of a finished run as csv files that can be committed. Rows of other suites stay."""
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        others = read_reference(path) if path.exists() else table.iloc[:0]
        others = others[~others["suite"].isin(set(table["suite"]))]
        write_csv(pd.concat([each for each in (others, table) if len(each)] or [table], ignore_index=True), path)


def main() -> None:
    """`python -m src.stats`: the stage; with --own, only the cells of one run. Exit code 1 on a user's mistake."""
    parser = command("stats", __doc__, "", "--own data/laptop/scores.parquet data/reference/laptop.csv")
    parser.add_argument("--own", nargs=2, type=Path, metavar=("SCORES", "CSV"), help="write these scores' cells as csv")
    parser.add_argument("--controls", nargs=2, type=Path, metavar=("SCORES", "FOLDER"), help="write their controls")
    given = parser.parse_args()
    with stage("stats"):
        if given.controls:
            scores, folder = given.controls
            write_controls(control_tables(read_scores(scores), read_setting(ROOT)), folder)
            print(*(folder / f"{name}.csv" for name in CONTROLS))
            return
        if given.own:
            scores, out = given.own
            reference(scores, out, ROOT)
            print(out)
            return
        print(suite_line(grid.params()), flush=True)
        tables = run(ROOT)
        print(f"{OUT}: {len(tables)} tables, {len(tables['cells'])} rows of cells")


if __name__ == "__main__":
    main()
