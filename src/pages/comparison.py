"""The page of a comparison of two sets of results: one html file, by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from src.base.files import ROOT
from src.base.frames import Field, load_schemas
from src.pages.tables import NUMERIC, PRINTED, Column, environment, shown

if TYPE_CHECKING:
    import pandas as pd


def columns_of(frame: str, rows: pd.DataFrame) -> list[Column]:
    """The columns of a declared frame as a table shows them; of the rows, those that hold anything."""
    fields = load_schemas(ROOT)[frame].columns
    declared = [Column(f.name, **{key: value for key in PRINTED if (value := asdict(f)[key])}) for f in _headed(fields)]
    beside = [Column(str(name), str(name)) for name in rows.columns if name not in {f.name for f in fields}]
    return [column for column in (*declared, *beside) if rows[column.name].notna().any()]


def _headed(fields: Sequence[Field]) -> list[Field]:
    return [replace(field, header=field.header or field.name.replace("_", " ")) for field in fields]


def page(title: str, says: Sequence[str], tables: Sequence[tuple[str, str, pd.DataFrame]]) -> str:
    """The page. says: sentences above the tables. tables: (heading, name of the frame, its rows)."""
    parts = []
    for heading, frame, rows in tables:
        columns = columns_of(frame, rows) if len(rows) else []
        lines = [list(zip(columns, line, strict=True)) for line in shown(rows, columns).itertuples(index=False)]
        parts.append({"heading": heading, "columns": columns, "rows": lines})
    text = (
        environment().get_template("comparison.html.j2").render(title=title, says=says, tables=parts, numeric=NUMERIC)
    )
    return "\n".join(line.rstrip(" ") for line in text.split("\n")).rstrip("\n") + "\n"
