"""The page: sections, tables with a source behind each number, figures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base.errors import UserError
from src.base.frames import read_frame, read_yaml
from src.base.metrics import GATES, OWN, RULES
from src.pages.findings import gaps, suite_facts
from src.pages.tables import HASH_DIGITS, NUMERIC, Column, Table, environment, is_missing, joined, records, shown

if TYPE_CHECKING:
    import pandas as pd

    from src.pages import figures

HASHES = {"fingerprint ": "fingerprint", "data ": "data_sha256"}  # label on the page: column
CELL = ("source", "model", "prompt", "shots", "task", "fingerprint")


@dataclass(frozen=True)
class Cell:
    """One cell of a table on the page."""

    text: str
    kind: str  # its CSS class: num, or the format of its column
    value: float | None = None  # what a number sorts by
    title: str = ""  # where a number comes from
    anchor: str = ""  # the row of the list of cells that a click leads to
    linked: bool = False  # True: the text itself is the link


def page_table(rows: pd.DataFrame, table: Table, known: set[str]) -> str:
    """The <table> of a page: sort values, meanings, and each number's source. `known`: where a click can lead."""
    rows = rows.query(table.page_where, engine="python").reset_index(drop=True) if table.page_where else rows
    columns = [column for column in table.columns if column.page]
    texts = shown(rows, columns).itertuples(index=False)
    cells = [
        [_cell(text, column, row, known) for text, column in zip(line, columns, strict=True)]
        for line, row in zip(texts, records(rows), strict=True)
    ]
    return environment().get_template("table.html.j2").render(table=table, columns=columns, rows=cells, numeric=NUMERIC)


def _cell(text: str, column: Column, row: Mapping[str, Any], known: set[str]) -> Cell:
    value, prefix = row[column.name], _prefix(column.name, row)
    fingerprint = row.get(f"{prefix}fingerprint")
    anchor = f"#cell-{fingerprint}" if fingerprint in known else ""
    if column.format not in NUMERIC:
        return Cell(text, column.format, anchor=anchor, linked=bool(anchor) and column.name == f"{prefix}fingerprint")
    if is_missing(value):
        return Cell(text, "num")
    return Cell(text, "num", float(value), provenance(row, prefix), anchor)


def _prefix(column: str, row: Mapping[str, Any]) -> str:
    """ "left_" of "left_accuracy", where the row has a fingerprint for each side."""
    prefix = f"{column.partition('_')[0]}_"
    return prefix if f"{prefix}fingerprint" in row else ""


def provenance(row: Mapping[str, Any], prefix: str = "") -> str:
    """Where a row's numbers come from, in one line: source, fingerprint, data hash."""
    found = {"": row.get("source"), **{k: row.get(f"{prefix}{v}") for k, v in HASHES.items()}}
    return " · ".join(f"{label}{str(each)[:HASH_DIGITS]}" for label, each in found.items() if not is_missing(each))


@dataclass(frozen=True)
class Drawn:
    """A figure as the page needs it."""

    figure: figures.Figure
    alt: str
    uri: str  # the svg as a data URI


def load_figures(root: Path) -> list[figures.Figure]:
    """Every conf/figure/<name>.yaml, by name. Raises UserError on an unknown key or kind."""
    from src.pages import figures

    found = []
    for path in sorted((root / "conf/figure").glob("[!_]*.yaml")):
        try:
            figure = figures.Figure(name=path.stem, **read_yaml(path))
        except TypeError as error:
            raise UserError(f"{path}: {str(error).replace('Figure.__init__()', 'a figure')}") from None
        if figure.kind not in figures.KINDS:
            raise UserError(f"{path}: unknown kind {figure.kind!r}. Known: {', '.join(figures.KINDS)}.")
        found.append(figure)
    return found


def draw(root: Path, figure: figures.Figure, folder: Path) -> Drawn | None:
    """Draw one figure into <folder>/<name>.{svg,png}; None where it is optional and has no rows."""
    from src.pages import figures

    if figure.optional and not (root / figure.frame).exists():
        return None
    rows = read_frame(root, figure.frame)
    rows = joined(root, rows, figure.join) if figure.join else rows
    rows = rows.query(figure.where, engine="python") if figure.where else rows
    if rows.empty and figure.optional:
        return None
    if rows.empty:
        raise UserError(f"conf/figure/{figure.name}.yaml: no row of {figure.frame} meets {figure.where!r}.")
    plot, alt = figures.draw(figure, rows.reset_index(drop=True))
    figures.save(plot, figure.name, folder)
    svg = (folder / f"{figure.name}.svg").read_bytes()
    return Drawn(figure, alt, f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}")


def sources(cells: pd.DataFrame, used: set[str]) -> list[dict[str, Any]]:
    """One entry per cell whose numbers a table shows: what a click on a number leads to."""
    kept = cells[cells["fingerprint"].isin(used)].drop_duplicates("fingerprint").sort_values(list(CELL))
    return records(kept[[*CELL, "data_sha256", "completions_sha256", "suite", "weights"]])


def shown_cells(tables: Sequence[Table], rows: Mapping[str, pd.DataFrame], cells: pd.DataFrame) -> set[str]:
    """Fingerprints that a table of the page shows and the statistics know: where a click can lead."""
    public = [rows[table.name] for table in tables if not table.quotes_data]
    named = [table[column] for table in public for column in _fingerprints(table)]
    return {each for column in named for each in column.dropna()} & set(cells["fingerprint"])


def page_of(
    root: Path,
    tables: Mapping[str, Table],
    rows: Mapping[str, pd.DataFrame],
    html_of: Mapping[str, str],
    drawn: Mapping[str, Drawn],
    cells: pd.DataFrame,
    numbers: Mapping[str, Any],
) -> str:
    """The page from all that was made. tables: those that quote no data set; html_of: each one's <table>."""
    from src.pages.figures import VERDICTS

    page = read_yaml(root / "conf/table/_page.yaml")
    placed = {item for section in page["sections"] for item in section["items"]}
    return (
        environment()
        .get_template("index.html.j2")
        .render(
            page=page,
            tables=tables,
            html=html_of,
            rows={name: len(rows[name]) for name in tables},
            drawn=drawn,
            unplaced=sorted(set(tables) - placed),
            numbers=numbers,
            suite=suite_facts(root, cells[cells["source"] == OWN]),
            gaps=gaps(root),
            sources=sources(cells, shown_cells(list(tables.values()), rows, cells)),
            gates=GATES,
            rules=RULES,
            verdicts=VERDICTS,
            glossary=sorted({(c.header, c.meaning) for table in tables.values() for c in table.columns if c.meaning}),
        )
    )


def _fingerprints(rows: pd.DataFrame) -> list[str]:
    return [str(name) for name in rows.columns if str(name).endswith("fingerprint")]


def with_hashes(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The rows with the data hash of each cell they name, where they do not have it."""
    hashes = cells.drop_duplicates("fingerprint").set_index("fingerprint")["data_sha256"]
    added = {name.replace("fingerprint", "data_sha256"): rows[name].map(hashes) for name in _fingerprints(rows)}
    return rows.assign(**{name: values for name, values in added.items() if name not in rows})
