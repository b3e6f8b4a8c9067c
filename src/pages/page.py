"""The page: sections, tables with a source behind each number, figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base.errors import UserError
from src.base.frames import read_frame, read_yaml
from src.base.metrics import GATES, OWN
from src.pages import statements, switches
from src.pages.findings import gaps, suite_facts
from src.pages.inline import inlined
from src.pages.palette import Figure
from src.pages.tables import HASH_DIGITS, NUMERIC, Column, Table, environment, is_missing, joined, records, shown

if TYPE_CHECKING:
    import pandas as pd


HASHES = {"fingerprint ": "fingerprint", "data ": "data_sha256"}  # label on the page: column
PAGE = "conf/table/_page.yaml"
FILTERS: dict[str, Callable[..., Any]] = {
    "slug": statements.slug,
    "sentence": statements.sentence,
    "percent": statements.percent,
    "capital": statements.capital,
    "tally": statements.tally,
    "said_of_many": statements.said_of_many,
    "forests": statements.forests,
    "lines_of": statements.lines_of,
}
"""What the templates of the page call beside the formats of tables."""

CELL = ("source", "model", "prompt", "shots", "task", "fingerprint")


@dataclass(frozen=True)
class Source:
    """Where numbers come from."""

    title: str
    anchor: str  # the row of the list of cells that a click leads to; empty where there is none


@dataclass(frozen=True)
class Cell:
    """One cell of a table on the page."""

    text: str
    kind: str  # its CSS class: num, or the format of its column
    value: float | None = None  # what a number sorts by
    source: Source | None = None  # where it is another than the row's
    linked: str = ""  # where the text itself leads


def page_table(rows: pd.DataFrame, table: Table, known: set[str]) -> str:
    """The <table> of a page: sort values, meanings, and each number's source. `known`: where a click can lead."""
    rows = page_rows(rows, table)
    columns = [column for column in table.columns if column.page]
    texts = shown(rows, columns).itertuples(index=False)
    lines = [
        (_source(row, "", known), [_cell(text, column, row, known) for text, column in zip(line, columns, strict=True)])
        for line, row in zip(texts, records(rows), strict=True)
    ]
    return environment().get_template("table.html.j2").render(table=table, columns=columns, rows=lines, numeric=NUMERIC)


def page_rows(rows: pd.DataFrame, table: Table) -> pd.DataFrame:
    """The rows that the page shows of a table."""
    return rows.query(table.page_where, engine="python").reset_index(drop=True) if table.page_where else rows


def _source(row: Mapping[str, Any], prefix: str, known: set[str]) -> Source:
    fingerprint = row.get(f"{prefix}fingerprint")
    return Source(provenance(row, prefix), f"#cell-{fingerprint}" if fingerprint in known else "")


def _cell(text: str, column: Column, row: Mapping[str, Any], known: set[str]) -> Cell:
    value, prefix = row[column.name], _prefix(column.name, row)
    if column.format not in NUMERIC:
        named = column.name == f"{prefix}fingerprint"
        return Cell(text, column.format, linked=_source(row, prefix, known).anchor if named else "")
    if is_missing(value):
        return Cell(text, "num")
    return Cell(text, "num", float(value), _source(row, prefix, known) if prefix else None)


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

    figure: Figure
    alt: str
    svg: str  # the svg element, in the colours of the page


def load_figures(root: Path) -> list[Figure]:
    """Every conf/figure/<name>.yaml, by name. Raises UserError on an unknown key or kind."""
    from src.pages import figures

    found = []
    for path in sorted((root / "conf/figure").glob("[!_]*.yaml")):
        try:
            figure = Figure(name=path.stem, **read_yaml(path))
        except TypeError as error:
            raise UserError(f"{path}: {str(error).replace('Figure.__init__()', 'a figure')}") from None
        if figure.kind not in figures.KINDS:
            raise UserError(f"{path}: unknown kind {figure.kind!r}. Known: {', '.join(figures.KINDS)}.")
        found.append(figure)
    return found


def draw(root: Path, figure: Figure, folder: Path) -> Drawn | None:
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
    svg = (folder / f"{figure.name}.svg").read_text(encoding="utf-8")
    return Drawn(figure, alt, inlined(svg, figure.name, alt))


def sources(cells: pd.DataFrame, used: set[str]) -> list[dict[str, Any]]:
    """One entry per cell whose numbers a table shows: what a click on a number leads to."""
    kept = cells[cells["fingerprint"].isin(used)].drop_duplicates("fingerprint").sort_values(list(CELL))
    return records(kept[[*CELL, "data_sha256", "completions_sha256", "suite", "weights"]])


def shown_cells(rows: Iterable[pd.DataFrame], cells: pd.DataFrame) -> set[str]:
    """Fingerprints that a table or the audit names and the statistics know: where a click can lead."""
    named = [frame[column] for frame in rows for column in _fingerprints(frame)]
    return {each for column in named for each in column.dropna()} & set(cells["fingerprint"])


@dataclass(frozen=True)
class Section:
    """A section of the page, as conf/table/_page.yaml has it."""

    id: str
    title: str
    short: str = ""  # its name among links; the title where empty
    question: str = ""  # the claims of this question of the audit stand here
    claim: str = ""  # what was claimed
    place: str = ""  # where
    finding: str = ""  # a macro of findings.html.j2
    figures: tuple[str, ...] = ()  # conf/figure, drawn on the page
    tables: tuple[str, ...] = ()  # conf/table, folded up on the page
    files: tuple[str, ...] = ()  # figures and tables that the page only links


def load_sections(root: Path) -> list[Section]:
    """The sections of conf/table/_page.yaml. Raises UserError on an unknown key."""
    try:
        return [Section(**section) for section in read_yaml(root / PAGE)["sections"]]
    except TypeError as error:
        raise UserError(f"{root / PAGE}: {str(error).replace('Section.__init__()', 'a section')}") from None


@dataclass(frozen=True)
class Made:
    """All that the page is made from. Tables that quote a data set are not among them."""

    tables: Mapping[str, Table]
    rows: Mapping[str, pd.DataFrame]  # by table
    drawn: Mapping[str, Drawn]
    cells: pd.DataFrame
    numbers: Mapping[str, Any]  # findings.summaries


def page_of(root: Path, made: Made) -> str:
    """The page."""
    page, sections = read_yaml(root / PAGE), load_sections(root)
    audit = statements.load(root, page["claims"], [section.question for section in sections if section.question])
    on_page = {name for section in sections for name in section.tables}
    linked = {name for section in sections for name in section.files}
    unplaced = sorted(set(made.tables) - on_page - linked)
    html_rows = {name: with_hashes(made.rows[name], made.cells) for name in made.tables if name not in linked}
    frames = [page_rows(rows, made.tables[name]) for name, rows in html_rows.items()]
    known = shown_cells([*frames, *(made.rows[name] for name in ("audit",) if name in made.rows)], made.cells)
    return (
        environment(FILTERS)
        .get_template("index.html.j2")
        .render(
            page=page,
            sections=sections,
            questions={section.question: section for section in sections if section.question},
            audit=audit,
            known=known,
            choice=lambda name: page["choices"].get(name, f"the choice of {name.replace('_', ' ')}"),
            switches=switches.switches(root, audit),
            by_choice=switches.results_by_choice(root, audit),
            tables=made.tables,
            html={name: page_table(rows, made.tables[name], known) for name, rows in html_rows.items()},
            rows={name: len(made.rows[name]) for name in made.tables},
            shown_rows={name: len(rows) for name, rows in zip(html_rows, frames, strict=True)},
            drawn=made.drawn,
            unplaced=unplaced,
            numbers=made.numbers,
            suite=suite_facts(root, made.cells[made.cells["source"] == OWN]),
            gaps=gaps(root),
            sources=sources(made.cells, known),
            gates=GATES,
            glossary=sorted({(c.header, c.meaning) for t in made.tables.values() for c in t.columns if c.meaning}),
        )
    )


def _fingerprints(rows: pd.DataFrame) -> list[str]:
    return [str(name) for name in rows.columns if str(name).endswith("fingerprint")]


def with_hashes(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The rows with the data hash of each cell they name, where they do not have it."""
    hashes = cells.drop_duplicates("fingerprint").set_index("fingerprint")["data_sha256"]
    added = {name.replace("fingerprint", "data_sha256"): rows[name].map(hashes) for name in _fingerprints(rows)}
    return rows.assign(**{name: values for name, values in added.items() if name not in rows})
