"""Render every conf/table, every conf/figure, metrics.json and the page from the frames of the stats stage.

`python -m src.report`. What comes out holds no clock time, run id, commit or machine fact: the same frames give the
same bytes. A table or a figure is one YAML; conf/table/_columns.yaml says what a column means and how it is printed.
"""

from __future__ import annotations

import base64
import html
import json
import multiprocessing
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import claims, config
from src.config import UserError
from src.frames import csv_text, read_frame, read_yaml, write_csv
from src.names import GATES, OWN, PUBLISHED, RULES

if TYPE_CHECKING:
    import great_tables
    import pandas as pd

    from src import figures

MISSING = "–"
STAGING = "reports/.partial"
OUTS = (
    "reports/tables",
    "reports/figures",
    "reports/plots",
    "reports/metrics.json",
    "reports/index.html",
    "data/tables",
)
HASHES = {"fingerprint ": "fingerprint", "data ": "data_sha256"}  # label on the page: column
CELL = ("source", "model", "prompt", "shots", "task", "fingerprint")
HASH_DIGITS = 12
TEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "–": "--", "−": "$-$", "₁": "$_1$", "₀": "$_0$", "√": r"$\surd$", "κ": r"$\kappa$",
}  # fmt: skip
TEX_CODES = {ord(char): tex for char, tex in TEX.items()}


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _p_value(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"


def _list(value: Any) -> str:
    return ", ".join(value.split(";") if isinstance(value, str) else map(str, value))


FORMATS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "prose": str,
    "name": str,
    "list": _list,
    "count": lambda value: f"{value:,.0f}",
    "share": lambda value: f"{value:.3f}",
    "number": lambda value: f"{value:.4g}",
    "factor": lambda value: f"{value:.3g}",
    "millions": lambda value: f"{value / 1e6:,.0f}",
    "signed": _signed,
    "p": _p_value,
    "verdict": lambda value: "yes" if value else "no",
    "hash": lambda value: str(value)[:HASH_DIGITS],
}
NUMERIC = {"count", "share", "number", "factor", "millions", "signed", "p"}


@dataclass(frozen=True)
class Column:
    """One column of a table: a column of its frame, and how a reader sees it."""

    name: str
    header: str
    format: str = "text"
    meaning: str = ""
    page: bool = True  # also on the page, not only in the files


@dataclass(frozen=True)
class Table:
    """conf/table/<name>.yaml."""

    name: str
    title: str
    caption: str
    frame: str  # a path (see `read_frame`)
    columns: tuple[Column, ...]
    where: str | None = None  # pandas query
    page_where: str | None = None  # the rows the page shows, where these are fewer than the files hold
    sort: tuple[str, ...] = ()  # "-column" is descending
    join: Mapping[str, Any] | None = None  # see `joined`
    derive: Mapping[str, str] | None = None  # further columns, as pandas expressions
    beside: str | None = None  # which published figure stands beside it
    quotes_data: bool = False  # True: a DVC output, never in git
    optional: bool = False  # True: no table where the frame does not exist


# ---------------------------------------------------------------------------------------------------- what is read


def load_tables(root: Path) -> list[Table]:
    """Every conf/table/<name>.yaml, by name. Raises UserError on an unknown key, column or format."""
    glossary = read_yaml(root / "conf/table/_columns.yaml")
    paths = sorted((root / "conf/table").glob("[!_]*.yaml"))
    return [_table(path, glossary) for path in paths]


def _table(path: Path, glossary: Mapping[str, Any]) -> Table:
    fields = dict(read_yaml(path))
    columns = tuple(_column(path, column, glossary) for column in fields.pop("columns", ()))
    try:
        return Table(name=path.stem, columns=columns, **{**fields, "sort": tuple(fields.get("sort", ()))})
    except TypeError as error:
        raise UserError(f"{path}: {str(error).replace('Table.__init__()', 'a table')}") from None


def _column(path: Path, column: str | Mapping[str, Any], glossary: Mapping[str, Any]) -> Column:
    override = {"name": column} if isinstance(column, str) else dict(column)
    name = override.pop("name")
    fields = {"header": name.replace("_", " "), **glossary.get(name, {}), **override}
    if fields.get("format", "text") not in FORMATS:
        raise UserError(f"{path}: column {name} has format {fields['format']!r}. Known: {', '.join(FORMATS)}.")
    return Column(name=name, **fields)


# ------------------------------------------------------------------------------------------------- what a table shows


def rows_of(root: Path, table: Table) -> pd.DataFrame:
    """The rows of a table with every column of its frame, filtered and sorted.

    Raises UserError if the frame, or a column the table names, does not exist.
    """
    frame = read_frame(root, table.frame)
    if table.join:
        frame = joined(root, frame, table.join)
    for name, expression in (table.derive or {}).items():
        frame = frame.assign(**{name: frame.eval(expression)})
    _demand(table, frame, [column.name for column in table.columns])
    if table.where:
        frame = frame.query(table.where, engine="python")
    by = [key.removeprefix("-") for key in table.sort]
    _demand(table, frame, by)
    if by:
        frame = frame.sort_values(by, ascending=[not key.startswith("-") for key in table.sort], kind="stable")
    return frame.reset_index(drop=True)


def joined(root: Path, frame: pd.DataFrame, join: Mapping[str, Any]) -> pd.DataFrame:
    """The frame with some columns of another; join: {frame, match: {column here: column there}, columns}."""
    other = read_frame(root, join["frame"])
    there = [*join["match"].values(), *join["columns"]]
    missing = sorted(set(there) - set(other.columns))
    if missing:
        raise UserError(f"{join['frame']} has no column {', '.join(missing)}. It has: {', '.join(other.columns)}.")
    other = other[there].rename(columns={right: left for left, right in join["match"].items()})
    return frame.merge(
        other.drop_duplicates(list(join["match"])), on=list(join["match"]), how="left", validate="many_to_one"
    )


def _demand(table: Table, frame: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise UserError(
            f"conf/table/{table.name}.yaml names column {', '.join(missing)}, which {table.frame} does not have. "
            f"It has: {', '.join(map(str, frame.columns))}."
        )


def is_missing(value: Any) -> bool:
    """True for None, NaN and NA; a list is never missing."""
    import pandas as pd

    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def shown(rows: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """The same rows as strings, as a reader sees them."""

    def text(column: Column, value: Any) -> str:
        return MISSING if is_missing(value) else FORMATS[column.format](value)

    import pandas as pd

    return pd.DataFrame({c.name: [text(c, value) for value in rows[c.name]] for c in columns}, dtype=object)


def to_csv(rows: pd.DataFrame, table: Table) -> str:
    """As `frames.csv_text` writes it, lists as words."""
    names = [column.name for column in table.columns]
    cells = rows[names].map(lambda value: ", ".join(map(str, value)) if isinstance(value, list) else value)
    return csv_text(cells)


def to_md(rows: pd.DataFrame, table: Table) -> str:
    """A pipe table under its title and caption."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(_md(cell) for cell in cells)} |"

    rule = f"|{'|'.join(' ---: ' if c.format in NUMERIC else ' --- ' for c in table.columns)}|"
    body = [line(list(row)) for row in shown(rows, table.columns).itertuples(index=False)]
    notes = [_md(note) for note in (table.caption, table.beside) if note]
    return "\n".join(
        [f"# {_md(table.title)}", "", *notes, "", line([c.header for c in table.columns]), rule, *body, ""]
    )


def _md(text: str) -> str:
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([|\\`*\[\]])", r"\\\1", escaped)


def great_table(rows: pd.DataFrame, table: Table, columns: Sequence[Column]) -> great_tables.GT:
    """The great_tables object of some columns; its id is fixed, so that its html is deterministic."""
    from great_tables import GT

    right = [column.name for column in columns if column.format in NUMERIC]
    built = GT(shown(rows, columns), id=f"table-{table.name}").cols_label({c.name: c.header for c in columns})
    return built.cols_align("right", right) if right else built


def to_html(rows: pd.DataFrame, table: Table) -> str:
    """A page of its own, for a browser or a word processor."""
    notes = " ".join(note for note in (table.caption, table.beside) if note)
    built = great_table(rows, table, table.columns).tab_header(title=table.title, subtitle=notes)
    return "\n".join(line.rstrip() for line in str(built.as_raw_html(make_page=True)).splitlines()) + "\n"


def to_tex(rows: pd.DataFrame, table: Table) -> str:
    """A LaTeX longtable (packages longtable, booktabs) with its title as caption."""
    frame = shown(rows, table.columns).set_axis([column.header for column in table.columns], axis=1).map(_tex)
    frame.columns = frame.columns.map(_tex)
    sides = "".join("r" if column.format in NUMERIC else "l" for column in table.columns)
    return str(
        frame.to_latex(index=False, escape=False, longtable=True, column_format=sides, caption=_tex(table.title))
    )


def _tex(text: str) -> str:
    return " ".join(text.split()).translate(TEX_CODES)


WRITERS: dict[str, Callable[[Any, Table], str]] = {"csv": to_csv, "md": to_md, "tex": to_tex, "html": to_html}


def write_table(rows: pd.DataFrame, table: Table, folder: Path) -> None:
    """<folder>/<name>.{csv,md,tex,html}."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, render in WRITERS.items():
        (folder / f"{table.name}.{suffix}").write_text(render(rows, table), encoding="utf-8")


# ------------------------------------------------------------------------------------------------ a table on the page


def page_table(rows: pd.DataFrame, table: Table, known: set[str]) -> str:
    """The <table> of great_tables with what its static html lacks: sort values, meanings, and each number's source."""
    rows = rows.query(table.page_where, engine="python").reset_index(drop=True) if table.page_where else rows
    columns = [column for column in table.columns if column.page]
    raw = great_table(rows, table, columns).as_raw_html()
    text = raw[raw.index("<table") : raw.index("</table>") + len("</table>")]
    heads = iter(columns)
    text = re.sub(r"<th ([^>]*)>(.*?)</th>", lambda match: _head(match, next(heads)), text)
    cells = iter([(column, row) for row in records(rows) for column in columns])
    text = re.sub(r"<td ([^>]*)>(.*?)</td>", lambda match: _cell(match, *next(cells), known), text, flags=re.DOTALL)
    label = f'class="sortable" id="{table.name}" aria-label="{html.escape(table.title)}"'
    return re.sub(r"<table [^>]*>", f"<table {label}>", text, count=1)


def _head(match: re.Match[str], column: Column) -> str:
    meaning = html.escape(column.meaning)
    side = "num" if column.format in NUMERIC else "txt"
    return f'<th scope="col" class="{side}" aria-sort="none"><button title="{meaning}">{match[2]}</button></th>'


def _cell(match: re.Match[str], column: Column, row: Mapping[str, Any], known: set[str]) -> str:
    value, prefix = row[column.name], _prefix(column.name, row)
    fingerprint = row.get(f"{prefix}fingerprint")
    anchor = f"#cell-{fingerprint}" if fingerprint in known else ""
    text = f'<a href="{anchor}">{match[2]}</a>' if anchor and column.name == f"{prefix}fingerprint" else match[2]
    if column.format not in NUMERIC or is_missing(value):
        return f'<td class="{"num" if column.format in NUMERIC else column.format}">{text}</td>'
    go = f' data-go="{anchor}"' if anchor else ""
    title = html.escape(provenance(row, prefix))
    return f'<td class="num" data-v="{float(value):.6g}" title="{title}"{go}>{text}</td>'


def _prefix(column: str, row: Mapping[str, Any]) -> str:
    """ "left_" of "left_accuracy", where the row has a fingerprint for each side."""
    prefix = f"{column.partition('_')[0]}_"
    return prefix if f"{prefix}fingerprint" in row else ""


def provenance(row: Mapping[str, Any], prefix: str = "") -> str:
    """Where a row's numbers come from, in one line: source, fingerprint, data hash."""
    found = {"": row.get("source"), **{k: row.get(f"{prefix}{v}") for k, v in HASHES.items()}}
    return " · ".join(f"{label}{str(each)[:HASH_DIGITS]}" for label, each in found.items() if not is_missing(each))


# ------------------------------------------------------------------------------------------- what the numbers say


def share_of(rows: pd.DataFrame, name: str) -> float | None:
    """Mean of a column, None where nothing is known."""
    known = rows[name].dropna()
    return None if known.empty else float(known.astype(float).mean())


def own_summary(cells: pd.DataFrame) -> dict[str, Any]:
    """Per own model: number of cells, unparsed share; per prompt and shots: accuracy, chance, tasks above chance."""
    own = cells[(cells["source"] == OWN) & cells["primary"].astype(bool)]
    return {str(model): _model_summary(rows) for model, rows in own.groupby("model", sort=True)}


def _model_summary(rows: pd.DataFrame) -> dict[str, Any]:
    few = rows["shots"].gt(0).map({True: "few", False: "zero"})
    groups = {f"{prompt}_{shots}": part for (prompt, shots), part in rows.groupby([rows["prompt"], few], sort=True)}
    return {
        "cells": int(rows["fingerprint"].nunique()),
        "unparsed_share": _rounded(_unparsed(rows)),
        "conditions": {name: _condition_summary(part) for name, part in groups.items()},
    }


def _condition_summary(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "tasks": len(rows),
        "accuracy": _rounded(share_of(rows, "accuracy")),
        "chance": _rounded(share_of(rows, "chance")),
        "above_raw": int(rows["above_raw"].fillna(False).astype(bool).sum()),
        "above_holm": int(rows["above"].fillna(False).astype(bool).sum()),
        "unparsed_share": _rounded(_unparsed(rows)),
    }


def _unparsed(rows: pd.DataFrame) -> float | None:
    known = rows.dropna(subset=["unparsed"])
    return None if known.empty else float(known["unparsed"].sum() / known["n"].sum())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def emergence_summary(rows: pd.DataFrame) -> dict[str, Any]:
    """What Table 2's row says beside the paper, over the published rows the paper gives a verdict on."""
    judged = rows[(rows["source"] == PUBLISHED) & rows["paper_above"].notna()]

    def names(column: str) -> list[str]:
        return sorted(judged.loc[judged[column].fillna(False).astype(bool), "task"])

    verdicts = ("above_raw", "above", "paper_above", "emergent", "emergent_paper_rule", "paper_emergent")
    return {
        "tasks": len(judged),
        "tests": int(judged["above"].notna().sum()),
        "models": sorted(set(judged["model"])),
        **{verdict: names(verdict) for verdict in verdicts},
        "predictable": {str(k): int(v) for k, v in judged["predictable"].value_counts(sort=False).sort_index().items()},
        "untested": sorted(judged.loc[judged["above"].isna(), "task"]),
    }


def overlap_summary(rows: pd.DataFrame, statistics: pd.DataFrame) -> dict[str, Any]:
    """Where the two sides of an overlap frame agree about being above chance; and the frame's statistics by rule.

    Its tasks are those on which both sides have a verdict.
    """
    known = rows.dropna(subset=["agree"])
    agree = known["agree"].astype(bool)
    figure = [row for row in records(statistics) if row["left_model"] == rows["left_model"].iloc[0]]
    return {
        "tasks": len(known),
        "untested": sorted(set(rows["task"]) - set(known["task"])),
        "agree": int(agree.sum()),
        "differ": sorted(known.loc[~agree, "task"]),
        **{side: rows[f"{side}_model"].iloc[0] for side in ("left", "right")},
        "rules": [row for row in figure if row["percentile"] is not None],
        "partner_zero": [row for row in figure if str(row["figure"]).endswith("partner_zero")],
    }


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dicts, missing values as None."""
    return [{str(k): None if is_missing(v) else v for k, v in row.items()} for row in rows.to_dict("records")]


def gaps(root: Path) -> list[dict[str, str]]:
    """Every cell that the ledgers of data/outputs/*/ledger.json do not call done."""
    entries = [
        entry for path in sorted(root.glob("data/outputs/*/ledger.json")) for entry in json.loads(path.read_text())
    ]
    return [entry for entry in entries if entry["status"] != "done"]


def suite_facts(root: Path, own: pd.DataFrame) -> dict[str, Any]:
    """params.yaml, and how much of each task it takes: {suite, limit, largest, tasks, models, weights, ...}."""
    params = config.params(root / "params.yaml")
    sizes = [read_yaml(config.CONF / f"task/{name}.yaml").get("n_published", 0) for name in params["tasks"]]
    return {
        **params,
        "largest": max(sizes, default=0),
        "weights": sorted({str(each) for each in own["weights"].dropna()}) if "weights" in own else [],
        "models_done": sorted(set(own["model"])),
    }


# -------------------------------------------------------------------------------------------------------- the page


@dataclass(frozen=True)
class Drawn:
    """A figure as the page needs it."""

    figure: figures.Figure
    alt: str
    uri: str  # the svg as a data URI


def load_figures(root: Path) -> list[figures.Figure]:
    """Every conf/figure/<name>.yaml, by name. Raises UserError on an unknown key or kind."""
    from src import figures

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
    from src import figures

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


def render_page(**context: Any) -> str:
    """reports/index.html. Autoescape is on: what comes from data shows as text, never as markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: lambda value, form=form: MISSING if is_missing(value) else form(value)
                            for name, form in FORMATS.items() if name not in ("list",)}  # fmt: skip
    return environment.get_template("index.html.j2").render(**context)


# ---------------------------------------------------------------------------------------------------------- build


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """A folder to write into; at the end, if nothing was raised, what it holds replaces the outs of the stage."""
    staging = root / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        for out in OUTS:
            _publish(staging / out, root / out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(made: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    if made.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        made.replace(target)


def build(root: Path) -> None:
    """Everything of OUTS under `root`, whole or not at all. Raises UserError where an input is missing or odd."""
    import pandas as pd

    # great_tables sets cell by cell; on arrow strings each of these copies a column
    storage = ("mode.string_storage", "python")
    with pd.option_context(*storage), ProcessPoolExecutor(initializer=_worker, initargs=storage) as pool:
        _build(root, pool)


def _worker(*option: str) -> None:
    """A process of the pool. It ends with the one that made it, also where that is killed: it would wait for ever."""
    import pandas as pd

    pd.set_option(*option)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _build(root: Path, pool: Executor) -> None:
    tables = [table for table in load_tables(root) if not (table.optional and not (root / table.frame).exists())]
    rows = {table.name: rows_of(root, table) for table in tables}
    cells = read_frame(root, "data/stats/cells.parquet")
    known = shown_cells(tables, rows, cells)
    with staged(root) as folder:
        figures_folder = folder / "reports/figures"
        drawn = {figure.name: pool.submit(draw, root, figure, figures_folder) for figure in load_figures(root)}
        pieces = {
            table.name: pool.submit(page_table, _with_hashes(rows[table.name], cells), table, known)
            for table in tables
            if not table.quotes_data
        }
        written = [
            pool.submit(write_table, rows[t.name], t, folder / ("data/tables" if t.quotes_data else "reports/tables"))
            for t in tables
        ]
        write_plots(root, cells, folder / "reports/plots")
        numbers = summaries(root, cells)
        (folder / "reports/metrics.json").write_text(json.dumps(metrics(numbers), indent=2, sort_keys=True) + "\n")
        drawings = {name: drawing for name, future in drawn.items() if (drawing := future.result())}
        html_of = {name: future.result() for name, future in pieces.items()}
        page = page_of(root, {t.name: t for t in tables if not t.quotes_data}, rows, html_of, drawings, cells, numbers)
        (folder / "reports/index.html").write_text(page, encoding="utf-8")
        for future in written:
            future.result()


def shown_cells(tables: Sequence[Table], rows: Mapping[str, pd.DataFrame], cells: pd.DataFrame) -> set[str]:
    """Fingerprints that a table of the page shows and the statistics know: where a click can lead."""
    public = [rows[table.name] for table in tables if not table.quotes_data]
    named = [table[column] for table in public for column in _fingerprints(table)]
    return {each for column in named for each in column.dropna()} & set(cells["fingerprint"])


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


def audit_summary(root: Path) -> dict[str, Any]:
    """How many claims got each verdict, the verdicts of the main ones, and in how many analyses each grid holds."""
    if not (root / "data/audit").exists():
        return {}
    rows, curves = (read_frame(root, f"data/audit/{name}.parquet") for name in ("audit", "specifications"))
    return {
        "claims": len(rows),
        "verdicts": claims.counts(list(rows["verdict"])),
        "main": records(rows[rows["item"] == ""][["statement", "verdict", "why"]]),
        "curves": [curve_summary(claim, each) for claim, each in curves.groupby("claim", sort=True)],
    }


def curve_summary(claim: Any, analyses: pd.DataFrame) -> dict[str, Any]:
    """In how many analyses a claim holds, and the conditions under which it never does while it does under others."""
    parts = {holds: {part for text in each for part in json.loads(text).items()}
             for holds, each in analyses.groupby("holds")["taken"]}  # fmt: skip
    never = sorted(parts.get(False, set()) - parts[True]) if True in parts else []
    return {
        "claim": claim,
        "statement": analyses["statement"].iloc[0],
        "holds": int(analyses["holds"].sum()),
        "analyses": len(analyses),
        "never": [f"{factor}: {way}".replace("_", " ") for factor, way in never],
    }


def question_summary(root: Path) -> dict[str, Any]:
    """The rows of table questions: question -> criterion -> row, with the audit's verdict where it has one."""
    table = next((each for each in load_tables(root) if each.name == "questions"), None)
    if table is None or not (root / table.frame).exists():
        return {}
    found: dict[str, Any] = {}
    for row in records(rows_of(root, table)):
        found.setdefault(row["question"], {})[row["criterion"]] = row
    return found


def answer(rows: Mapping[str, Mapping[str, Any]]) -> Any:
    """The audit's verdict on a question; where it has several, how many of each."""
    verdicts = [row["verdict"] for row in rows.values() if row["verdict"]]
    return verdicts[0] if len(verdicts) == 1 else claims.counts(verdicts)


def control_summary(root: Path) -> list[dict[str, Any]]:
    """Over all tasks: the conditions whose options were shifted or stood under another example's input."""
    if not (root / "data/stats/controls.parquet").exists():
        return []
    rows = read_frame(root, "data/stats/controls.parquet")
    primary = rows["metric"].eq("bertscore_accuracy").where(rows["prompt"] == "closed", rows["metric"] == "exact_match")
    told = rows["control"].isin(["input_swapped", "shifts"]) & primary.astype(bool) & (rows["task"] == "all tasks")
    return records(rows[told].sort_values(["control", "condition"]))


def summaries(root: Path, cells: pd.DataFrame) -> dict[str, Any]:
    """The numbers behind the sentences of the page and behind metrics.json."""
    return {
        "own": own_summary(cells),
        "emergence": emergence_summary(read_frame(root, "data/stats/emergence.parquet")),
        "overlap": overlap_summary(
            read_frame(root, "data/stats/overlap.parquet"), read_frame(root, "data/stats/overlap_summary.parquet")
        ),
        "agreement": records(read_frame(root, "data/stats/agreement.parquet")),
        "audit": audit_summary(root),
        "questions": question_summary(root),
        "controls": control_summary(root),
    }


def metrics(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """What `dvc metrics show` prints."""
    emergence = numbers["emergence"]
    counts = {key: len(value) for key, value in emergence.items() if isinstance(value, list) and key != "models"}
    overlap = {key: numbers["overlap"][key] for key in ("tasks", "agree")}
    sizes = {key: emergence[key] for key in ("tasks", "tests")}
    published = {"table2": {**sizes, **counts}, "figure2": overlap}
    audit = {"audit": numbers["audit"]["verdicts"]} if numbers["audit"] else {}
    answers = {question: answer(rows) for question, rows in numbers["questions"].items()}
    whole = ("cells", "unparsed_share")  # flat, for each key is a column of `dvc exp show`
    own = {model: {k: m[k] for k in whole} | m["conditions"] for model, m in numbers["own"].items()}
    return {"own": own, "published": {**published, **answers}, **audit}


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
    from src.figures import VERDICTS

    page = read_yaml(root / "conf/table/_page.yaml")
    placed = {item for section in page["sections"] for item in section["items"]}
    return render_page(
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


def _fingerprints(rows: pd.DataFrame) -> list[str]:
    return [str(name) for name in rows.columns if str(name).endswith("fingerprint")]


def _with_hashes(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The rows with the data hash of each cell they name, where they do not have it."""
    hashes = cells.drop_duplicates("fingerprint").set_index("fingerprint")["data_sha256"]
    added = {name.replace("fingerprint", "data_sha256"): rows[name].map(hashes) for name in _fingerprints(rows)}
    return rows.assign(**{name: values for name, values in added.items() if name not in rows})


def main() -> None:
    """`python -m src.report`: the stage. A user's mistake is one line on stderr and exit code 1."""
    config.command("report", __doc__, "", "&& xdg-open reports/index.html").parse_args()
    with config.stage("report"):
        print(config.suite_line(config.params()), flush=True)
        build(config.ROOT)
    print("reports/index.html")


if __name__ == "__main__":
    main()
